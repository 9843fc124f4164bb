import argparse
import html
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recorder import Recorder
from sklearn.datasets import load_digits

from keras_transfer import cli
from keras_transfer.base.errors import UsageError
from tuning import __main__ as tuning_cli

# What a shell starts in the background is deaf to interrupts, and so are its children.
HEEDING = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from keras_transfer.cli import main; sys.exit(main())"
)


@pytest.fixture
def run_cli(capsys):
    def call(*arguments):
        try:
            main = tuning_cli.main if arguments[0] == "space" else cli.main
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's own refusals
            code = stop.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def picture(path, value=0, size=(40, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(path)


def test_help_and_version_import_nothing_heavy():
    script = (
        "import sys\nfrom keras_transfer import cli\n"
        "try:\n    cli.main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'keras', 'tensorflow', 'numpy', 'sklearn', 'matplotlib', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_wrong_with_a_run_or_its_place_is_said_before_keras_is_loaded(tmp_path):
    (tmp_path / "taken").write_text("A file.")
    script = (
        "import sys\nfrom keras_transfer import cli\nplace, absent = sys.argv[1:]\n"
        "commands = ['train', 'builtin:digits', '--output', place], ['evaluate', absent], "
        "['export', absent], ['report', absent], ['update', absent, 'builtin:digits'], "
        "['label', absent, place], ['compare', absent, absent], ['curve', absent]\n"
        "print([cli.main(command) for command in commands], 'keras' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "taken", tmp_path / "absent"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == f"{[2] * 8} False"


def test_a_time_budget_counts_the_import_of_keras(run_cli, monkeypatch, tmp_path):
    from keras_transfer import training

    now, handed = [100.0], {}
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cli, "load_keras", lambda: now.__setitem__(0, 105.0))

    def train(data, **given):
        handed.update(given)
        raise UsageError("Enough was seen.", remedy="None is needed.")

    monkeypatch.setattr(training, "train", train)
    options = "--time-budget", "60", "--output", tmp_path / "run"
    assert run_cli("train", "builtin:digits", *options)[0] == 2
    assert (handed["began"], handed["time_budget"], time.monotonic()) == (100.0, 60.0, 105.0)


def test_importing_the_package_imports_nothing_heavy():
    script = "import sys, keras_transfer; print({'keras', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_what_importing_keras_makes_is_never_looked_through_for_garbage():
    script = (
        "import gc\nfrom keras_transfer import cli\n"
        "passes = gc.get_stats()[2]['collections']\ncli.load_keras()\n"
        "print(gc.get_stats()[2]['collections'] - passes, gc.isenabled(), len(gc.get_objects()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    passes, enabled, watched = done.stdout.split()
    assert (passes, enabled) == ("0", "True")
    assert int(watched) < 1000


def test_evaluate_repeats_the_run_s_own_figures(run_cli, digits_run):
    code, out, _ = run_cli("evaluate", digits_run, "--json")
    assert code == 0
    recorded = json.loads((digits_run / "metrics.json").read_text())["test"]
    found = json.loads(out)
    assert found["accuracy"] == recorded["accuracy"]
    assert found["nll"] == pytest.approx(recorded["nll"], abs=1e-4)
    code, out, _ = run_cli("evaluate", digits_run)
    assert code == 0
    assert "95 % interval" in out


def test_evaluate_on_other_data_reports_the_drop(run_cli, digits_run, digits_folder):
    code, out, _ = run_cli("evaluate", digits_run, digits_folder)
    assert code == 0
    assert "digit-3" in out


def test_predict_names_the_class_of_any_format(run_cli, digits_run, digits_folder, tmp_path):
    rows = [
        row
        for row in (digits_run / "predictions.csv").read_text().splitlines()[1:]
        if row.split(",")[1] == row.split(",")[2]
    ]
    path, label = rows[0].split(",")[:2]
    image = Image.open(digits_folder / path)
    names = []
    for suffix, options in ((".png", {}), (".webp", {"lossless": True}), (".jpg", {"quality": 98})):
        names.append(tmp_path / f"image{suffix}")
        image.save(names[-1], **options)
    code, out, _ = run_cli("predict", digits_run, *names, "--json")
    assert code == 0
    assert [row["classes"][0]["label"] for row in json.loads(out)] == [label] * 3
    code, out, _ = run_cli("predict", digits_run, names[0], tmp_path / "none.png")
    assert code == 2
    assert label in out
    assert "none.png: cannot be read" in out


def test_backbones_lists_and_prices(run_cli):
    code, out, _ = run_cli("backbones", "--json")
    assert code == 0
    assert len(json.loads(out)) >= 41
    code, out, _ = run_cli("backbones", "EfficientNetLite0", "--image-size", 64, "--json")
    assert code == 0
    blocks = json.loads(out)["blocks"]
    assert len(blocks) >= 18
    assert run_cli("backbones")[0] == 0


def test_cache_is_listed_pruned_and_cleared(run_cli, tmp_path):
    code, out, _ = run_cli("cache", "list", "--cache", tmp_path)
    assert code == 0
    assert "empty" in out
    code, out, _ = run_cli("cache", "clear", "--json", "--cache", tmp_path)
    assert json.loads(out) == {"freed": 0}


# What bad input gets ---------------------------------------------------------------------------


@pytest.fixture
def two_classes(tmp_path):
    folder = tmp_path / "data"
    for number in range(8):
        picture(folder / "a" / f"{number}.png", number)
        picture(folder / "b" / f"{number}.png", 100 + number)
    return folder


def refused(run_cli, *arguments, code=2):
    found, out, err = run_cli(*arguments)
    assert found == code, err
    assert out == ""
    return err


def test_no_such_folder(run_cli, tmp_path):
    err = refused(run_cli, "train", tmp_path / "nowhere", "--output", tmp_path / "run")
    assert "nowhere" in err
    assert not (tmp_path / "run").exists()


def test_a_folder_without_images(run_cli, tmp_path):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "a" / "notes.txt").write_text("no image")
    err = refused(run_cli, "train", tmp_path / "empty", "--output", tmp_path / "run")
    assert "empty" in err
    assert not (tmp_path / "run").exists()


def test_a_single_class(run_cli, tmp_path):
    for number in range(5):
        picture(tmp_path / "one" / "cats" / f"{number}.png", number)
    err = refused(run_cli, "train", tmp_path / "one", "--output", tmp_path / "run")
    assert "cats" in err or "one class" in err


def test_a_class_with_one_image(run_cli, two_classes, tmp_path):
    picture(two_classes / "lonely" / "x.png", 77)
    err = refused(run_cli, "train", two_classes, "--output", tmp_path / "run")
    assert "lonely" in err


def test_an_unknown_backbone_names_near_ones(run_cli, two_classes, tmp_path):
    err = refused(
        run_cli, "train", two_classes, "--backbone", "ResNet5", "--output", tmp_path / "run"
    )
    assert "ResNet50" in err


def test_an_image_size_below_the_minimum(run_cli, two_classes, tmp_path):
    err = refused(run_cli, "train", two_classes, "--image-size", 8, "--output", tmp_path / "run")
    assert "32" in err


def test_weights_that_do_not_exist_or_do_not_fit(run_cli, two_classes, digits_run, tmp_path):
    missing = ("--weights", tmp_path / "none.h5")
    err = refused(run_cli, "train", two_classes, *missing, "--output", tmp_path / "run")
    assert "none.h5" in err
    other = ("--backbone", "MobileNetV2", "--weights", digits_run, "--image-size", 64)
    err = refused(run_cli, "train", two_classes, *other, "--output", tmp_path / "run")
    assert str(digits_run) in err or "EfficientNetLite0" in err


def test_an_output_that_holds_a_run_or_somebody_s_files(run_cli, two_classes, digits_run):
    before = (digits_run / "metrics.json").read_bytes()
    err = refused(run_cli, "train", two_classes, "--output", digits_run)
    assert "--overwrite" in err
    assert (digits_run / "metrics.json").read_bytes() == before
    err = refused(run_cli, "train", two_classes, "--output", two_classes, "--overwrite")
    assert "left alone" in err
    assert len(list(two_classes.glob("*/*.png"))) == 16


@pytest.mark.parametrize(
    "arguments",
    [
        ["--split", "0.5,0.5,0.5"],
        ["--split", "a,b,c"],
        ["--fold", "4/3"],
        ["--fold", "2/9"],
        ["--time-budget", "soon"],
        ["--batch-size", "0"],
        ["--fine-tune-lr", "-1"],
        ["--effort", "most"],
        ["--unfreeze", "block99"],
        ["--config", "nowhere.toml"],
    ],
)
def test_wrong_options(run_cli, two_classes, tmp_path, arguments):
    err = refused(
        run_cli, "train", two_classes, "--image-size", 32, "--output", tmp_path / "run", *arguments
    )
    assert arguments[1].split(".")[0] in err or arguments[0].strip("-") in err
    assert not (tmp_path / "run").exists()


def test_a_config_with_an_unknown_setting(run_cli, two_classes, tmp_path):
    (tmp_path / "best.toml").write_text('bakcbone = "ResNet50"\n')
    err = refused(
        run_cli, "train", two_classes, "--config", tmp_path / "best.toml",
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert "bakcbone" in err
    assert "backbone" in err


def test_an_unreadable_image_costs_itself_and_is_counted(run_cli, digits_folder, tmp_path):
    import shutil

    data = shutil.copytree(digits_folder, tmp_path / "data")
    (data / "digit-1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    code, out, _ = run_cli(
        "train", data, "--image-size", 32, "--unfreeze", "none", "--output", tmp_path / "run",
        "--quiet",
    )  # fmt: skip
    assert code == 0
    assert "left out" in out
    assert (data / "digit-1" / "broken.png").exists()


def test_inspect_ends_with_2_where_nothing_can_be_trained(run_cli, two_classes, tmp_path):
    page, clean = tmp_path / "page.html", tmp_path / "clean"
    code, out, err = run_cli("inspect", two_classes, "--page", page, "--fix", clean)
    assert (code, err.splitlines()) == (0, ["Starting", "Reading the data"])
    assert str(page) in out
    assert str(clean / "manifest.csv") in out.replace("\n", "")
    (two_classes / "a" / "broken.png").write_bytes(b"broken")
    assert run_cli("inspect", two_classes)[0] == 0
    assert run_cli("inspect", two_classes, "--strict")[0] == 2
    for number in range(8):
        (two_classes / "a" / f"{number}.png").unlink()
    code, out, err = run_cli("inspect", two_classes, "--json")
    assert code == 2
    assert "single class 'b'" in err
    assert json.loads(out)["trainable"] is False


def test_a_fold_and_few_images_of_each_class(run_cli, digits_folder, tmp_path):
    run = tmp_path / "run"
    code, _, err = run_cli(
        "train", digits_folder, "--fold", "2/4", "--per-class", 3, "--image-size", 32,
        "--unfreeze", "none", "--output", run, "--quiet",
    )  # fmt: skip
    assert code == 0, err
    config = json.loads((run / "config.json").read_text())
    assert (config["fold"], config["per_class"]) == ([2, 4], 3)
    rows = [line.split(",") for line in (run / "splits.csv").read_text().splitlines()[1:]]
    trained = [label for _, label, split in rows if split == "train"]
    assert {trained.count(label) for label in trained} == {3}
    assert run_cli("evaluate", run)[0] == 0


def test_what_is_no_run(run_cli, tmp_path):
    for command in ("evaluate", "export", "report"):
        assert "not a run" in refused(run_cli, command, tmp_path)
    assert "neither a run" in refused(run_cli, "predict", tmp_path, tmp_path / "x.png")


def test_an_error_over_an_interruption_is_an_interruption(capsys):
    def interrupted(options):
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("Can't close the ZIP file")

    parser = argparse.ArgumentParser()
    parser.set_defaults(command=interrupted)
    assert cli.run("keras-transfer", parser, [], lambda options, given: "Go on.") == 130
    assert capsys.readouterr().err == "\nkeras-transfer: interrupted.\n  Go on.\n"


def test_an_interruption_of_the_parsing_is_one(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupted)
    assert cli.main(["train", "builtin:digits"]) == 130
    assert capsys.readouterr().err == "\nkeras-transfer: interrupted.\n"


def test_interrupting_says_how_to_go_on_and_leaves_no_half_files(digits_folder, tmp_path):
    output = tmp_path / "run"
    command = [
        sys.executable, "-c", HEEDING, "train", str(digits_folder), "--image-size", "32",
        "--fine-tune-epochs", "2000", "--output", str(output),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("Training the top blocks"):
            break
    assert process.poll() is None, "".join(said)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "--resume" in err
    assert not list(Path(output).rglob(".*"))
    assert not (output / "metrics.json").exists()


# For scripts -------------------------------------------------------------------------------------


ELSEWHERE = {
    "train": "test_train_answers_in_json_and_errors_do_too",
    "chief": "it answers as search does, once other processes have run its trials",
    "worker": "it answers with a count, once a chief has no more trials",
}
"""Verbs that the test below leaves out: another test, or why there is none."""
BRIEF = {"compare", "predict", "evaluate", "report", "backbones", "cache", "demo", "completion"}
"""Those of seconds, for which no bar has to move."""


@pytest.fixture
def more_digits(tmp_path):
    """Four more of each of the classes of ``digits_folder``."""
    digits = load_digits()
    for digit in range(5):
        (folder := tmp_path / "more" / f"digit-{digit}").mkdir(parents=True)
        for row in np.flatnonzero(digits.target == digit)[36:40]:
            levels = (digits.images[row] / 16 * 255).astype(np.uint8)
            Image.fromarray(levels).save(folder / f"{row}.png")
    return tmp_path / "more"


def test_every_verb_answers_in_json_and_tells_how_far_it_is(
    run_cli, digits_run, digits_folder, more_digits, tmp_path, monkeypatch
):
    """Nothing else stands beside the JSON; whatever takes longer expects its stages."""
    from keras_transfer.export import parity
    from keras_transfer.export.demo import Demo

    image = next(digits_folder.glob("*/*.png"))
    exported, other = tmp_path / "export", shutil.copytree(digits_run, tmp_path / "other")
    study, cache = tmp_path / "study", tmp_path / "cache"
    (tmp_path / "space.toml").write_text("[fine_tune_lr]\nchoices = [1e-3]\ndefault = 1e-3\n")
    less = "--image-size", 32, "--effort", "quick", "--views", 1, "--fine-tune-epochs", 1
    searched = "--trials", 1, "--tuner", "random", "--space", tmp_path / "space.toml", *less
    keys = {
        ("inspect", digits_folder): {"name", "classes", "problem"},
        ("evaluate", digits_run): {"accuracy", "nll"},
        ("compare", digits_run, other): {"pairs"},
        ("curve", other): {"sizes", "accuracy"},
        ("update", other, more_digits, "--output", tmp_path / "new"): {"added"},
        ("label", digits_run, more_digits, "--count", 3, "--output", tmp_path / "sheet"): {"rows"},
        ("predict", digits_run, image): {"image", "classes"},
        ("export", digits_run, "--formats", "keras", "--output", exported): {"path", "artefacts"},
        ("verify", exported): {"passed", "exit_code"},
        ("demo", exported): {"url"},
        ("report", digits_run): {"report"},
        ("cache", "list", "--cache", cache): set(),
        ("backbones",): {"name", "licence"},
        ("backbones", "MobileNetV3Small", "--image-size", 32): {"name", "blocks"},
        ("completion", "bash"): {"script"},
        ("search", digits_folder, "--output", study, *searched): {"trials", "best", "verdict"},
        ("study", study): {"trials", "best", "verdict"},
        ("space",): {"space", "values"},
    }
    every = {name for name, *_ in (*cli._COMMANDS, *tuning_cli._COMMANDS)} - {"show"}
    assert {verb for verb, *_ in keys} | {*ELSEWHERE} == every | {"study"}
    monkeypatch.setattr(Demo, "serve_forever", lambda self: None)
    monkeypatch.setattr(parity, "TIMING_SECONDS", 0.05)
    monkeypatch.setattr(parity, "most_threads", lambda: 1)
    for words, wanted in keys.items():
        told = Recorder()
        monkeypatch.setattr(cli, "progress_for", lambda level, told=told: told)
        code, out, err = run_cli(*words, "--json")
        assert (code, err) == (0, ""), (words, err)
        found = json.loads(out)
        for one in found if isinstance(found, list) else [found]:
            assert wanted <= one.keys(), words
        assert told.expected or words[0] in {"space", "study", *BRIEF}, words
        assert all(0 < sum(seconds.values()) < 1000 for seconds, _ in told.expected), words


def test_train_answers_in_json_and_errors_do_too(run_cli, two_classes, tmp_path):
    options = "--image-size", "32", "--effort", "quick", "--output", tmp_path / "my run", "--json"
    code, out, err = run_cli("train", two_classes, *options)
    assert (code, err) == (0, "")  # whoever reads JSON is told of nothing else
    found = json.loads(out)
    assert found["decision"] == "open"
    assert found["verdict"].startswith("Do not ship it yet: ")
    assert (
        found["test"]["images"]
        == json.loads((tmp_path / "my run/metrics.json").read_text())["test"]["images"]
    )
    code, out, err = run_cli("train", two_classes, *options)
    assert code == 2
    told = json.loads(out)["error"]
    assert "already holds a run" in told["message"]
    assert told["message"] in err
    assert told["exit_code"] == 2
    assert "--overwrite" in told["remedy"]
    assert json.loads(run_cli("train", "--jsn", "--json")[1])["error"]["exit_code"] == 2
    assert json.loads(run_cli("inspect", tmp_path / "none", "--json")[1])["error"]["remedy"]


def test_the_terminal_says_what_eight_images_cannot_say(run_cli, two_classes, tmp_path):
    options = "--image-size", "32", "--effort", "quick", "--output", tmp_path / "my run"
    code, out, err = run_cli("train", two_classes, *options)
    assert code == 0
    said = " ".join(out.split())
    assert said.startswith("Do not ship it yet: ")
    assert re.search(r"right on the test \d+ to \d+ % of \d", said)
    for nonsense in ("NLL", "ECE", "F1", "accuracy 1.000", "export"):
        assert nonsense not in said
    assert "Next: Label more images" in said
    assert "penalty" not in err
    assert "Solving the head" in err
    code, out, err = run_cli("train", two_classes, *options, "--overwrite", "-v")
    assert "NLL, ECE" in out
    assert "Head: penalty" in err
    assert "Plan: " in err
    code, out, err = run_cli("train", two_classes, *options, "--overwrite", "--log-level", "error")
    assert (code, err) == (0, "")


def test_a_start_that_failed_leaves_its_folder_free(run_cli, two_classes, tmp_path, monkeypatch):
    from keras_transfer import training

    def fails(*_, **__):
        raise UsageError("That depth does not fit.", remedy="Choose another.")

    run = tmp_path / "run"
    options = "--image-size", "32", "--effort", "quick", "--output", run
    with monkeypatch.context() as patch:
        patch.setattr(training.planner, "make_plan", fails)
        refused(run_cli, "train", two_classes, *options)
        refused(run_cli, "train", two_classes, *options)  # for the same reason, and no other
    assert not any(path.is_file() for path in run.rglob("*"))
    assert run_cli("train", two_classes, *options)[0] == 0


def test_a_run_whose_work_is_stored_is_kept_where_it_fails_later(
    run_cli, two_classes, tmp_path, monkeypatch
):
    from keras_transfer.learn import second_phase

    def fails(*_, **__):
        raise UsageError("The memory is too small.", remedy="Take a smaller batch.")

    run = tmp_path / "run"
    options = "--image-size", "32", "--effort", "quick", "--output", run
    with monkeypatch.context() as patch:
        patch.setattr(second_phase, "fine_tune", fails)
        refused(run_cli, "train", two_classes, *options)
    assert (run / "state" / "head.npz").exists()
    assert "--resume" in refused(run_cli, "train", two_classes, *options)
    assert run_cli("train", two_classes, *options, "--resume")[0] == 0


def test_missing_packages_are_said_before_the_work(run_cli, two_classes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(cli, "load_keras", lambda: None)
    options = "--output", tmp_path / "run", "--tensorboard"
    assert "pip install tensorboard" in refused(run_cli, "train", two_classes, *options)
    assert not (tmp_path / "run").exists()


def test_the_repeating_command_works_when_pasted(run_cli, two_classes, tmp_path, monkeypatch):
    two_classes.rename(tmp_path / "my data")
    monkeypatch.chdir(tmp_path)
    options = "--image-size", "32", "--effort", "quick", "--split", "0.5,0.25,0.25"
    assert run_cli("train", "my data", *options, "--output", "runs/my run")[0] == 0
    page = Path("runs/my run/report.html").read_text()
    command = html.unescape(re.findall(r"<pre[^>]*>(keras-transfer train .*?)</pre>", page)[0])
    program, *words = shlex.split(command)
    assert program == "keras-transfer"
    assert run_cli(*words, "--quiet")[0] == 0
    both = [Path(f"runs/my run{again}/predictions.csv").read_text() for again in ("", "-again")]
    assert both[0] == both[1]


def test_every_setting_is_read_back_as_it_is_spelt():
    from keras_transfer.recipe import kind_of

    words = {
        "time_budget": "10m", "cache_limit": "20G", "unfreeze": "25%", "clip_length": "2",
        "fine_tune_lr": "1e-4", "precision": "float32", "levels": "0.5",
    }  # fmt: skip
    for name, word in words.items():
        take = kind_of(name).take
        assert take(str(take(word))) == take(word), name


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p keras-transfer | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_verbs_options_and_names(run_cli, tmp_path):
    pytest.importorskip("shtab")
    script = tmp_path / "completion.bash"
    script.write_text(run_cli("completion", "bash")[1])

    def completed(*words):
        command = ["bash", "-c", COMPLETE, "bash", str(script), "keras-transfer", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert {"train", "search", "study", "completion"} <= completed("")
    assert completed("train", "--eff") == {"--effort"}
    assert completed("train", "--effort", "") == {"quick", "default", "high"}
    assert "EfficientNetLite0" in completed("train", "--backbone", "EfficientNetL")
    assert completed("search", "--tuner", "") == {"bayesian", "hyperband", "random"}
    assert "ResNet50" in completed("backbones", "ResN")
    for shell in ("zsh", "fish"):
        found = run_cli("completion", shell)[1]
        assert "EfficientNetLite0" in found
        assert "hyperband" in found
