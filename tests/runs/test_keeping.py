"""Whatever happens while a run is written: no run is lost, and nothing that is somebody else's."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keras_transfer import cli, preparation, training
from keras_transfer.base.errors import UsageError
from keras_transfer.learn import second_phase
from keras_transfer.runs import folder as runs

NEXT = {"keras_transfer": "0", "seed": 1}
HOLD = """
import sys
from keras_transfer.runs import folder
with folder.begin(sys.argv[1], {"keras_transfer": "0"}, overwrite=True):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def copy(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


def contents(folder):
    """The digests of a folder's files by their names."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def words(data, output, *more):
    return [
        "train", str(data), "--output", str(output), "--unfreeze", "none", "--effort", "quick",
        "--image-size", "32", "--per-class", "6", "--quiet", *more,
    ]  # fmt: skip


BY_GRADIENT = ("--head-epochs", "3", "--head-lr", "0.001")


@pytest.mark.parametrize("head", [(), pytest.param(BY_GRADIENT, marks=pytest.mark.slow)])
def test_what_is_told_of_a_head_is_kept_when_a_run_goes_on(
    digits_folder, tmp_path, monkeypatch, head
):
    def interrupt(*anything, **more):
        raise KeyboardInterrupt

    command = words(digits_folder, tmp_path / "run", *head)
    with monkeypatch.context() as patched:
        patched.setattr(second_phase, "choose", interrupt)
        assert cli.main(command) == 130
    assert cli.main([*command, "--resume"]) == 0
    assert cli.main([*command, "--output", str(tmp_path / "whole")]) == 0
    resumed, whole = (runs.open_run(tmp_path / name) for name in ("run", "whole"))
    assert [row["epoch"] for row in resumed.history] == ([1, 2, 3] if head else [])
    ours, theirs = resumed.metrics["phases"][0], whole.metrics["phases"][0]
    assert (ours["epochs"], ours["details"]) == (theirs["epochs"], theirs["details"])
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        for name in ("phase", "train_loss", "validation_loss", "validation_accuracy"):
            assert ours[name] == theirs[name]
    assert (resumed.test_probabilities == whole.test_probabilities).all()


@pytest.mark.slow
def test_an_interrupted_overwrite_keeps_the_old_run_and_goes_on(
    digits_folder, copy, monkeypatch, capsys
):
    before = contents(copy)
    command = words(digits_folder, copy, "--seed", "8")

    def interrupt(*anything):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "standardise", interrupt)
        assert cli.main([*command, "--overwrite"]) == 130
    *_, said = capsys.readouterr().err.splitlines()
    assert said.split() == ["keras-transfer", *command, "--resume"]
    assert before.items() <= contents(copy).items()
    assert runs.open_run(copy).config["seed"] == 6
    assert cli.main(command) == 2  # neither --resume nor --overwrite
    assert cli.main([*command, "--resume"]) == 0
    assert runs.open_run(copy).config["seed"] == 8
    assert {path.name for path in copy.iterdir()} == {Path(name).parts[0] for name in before}
    assert f"--splits {copy}/splits.csv" in (copy / "report.html").read_text()


@pytest.fixture
def half_moved(copy):
    """A new run that is whole, killed before the first of its files took an old one's place."""
    for path in [path for path in copy.rglob("*") if path.is_file()]:
        target = copy / runs.NEW / path.relative_to(copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return copy


def test_a_run_killed_in_its_last_moment_predicts(half_moved, digits_folder, capsys):
    image = next(digits_folder.glob("digit-0/*.png"))
    assert cli.main(["predict", str(half_moved), str(image)]) == 0
    assert "digit-0" in capsys.readouterr().out


def test_a_run_killed_in_its_last_moment_gives_its_weights(half_moved, digits_folder, tmp_path):
    assert cli.main([*words(digits_folder, tmp_path / "next"), "--weights", str(half_moved)]) == 0
    assert runs.open_run(half_moved).config["seed"] == 6


def test_an_interrupt_before_anything_was_written_says_so(digits_folder, copy, monkeypatch, capsys):
    before = contents(copy)

    def interrupt(*anything):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "load", interrupt)
    assert cli.main([*words(digits_folder, copy), "--overwrite"]) == 130
    assert "Nothing was written" in capsys.readouterr().err
    assert contents(copy) == before


def test_only_what_is_ours_by_name_is_replaced(digits_folder, copy):
    (copy / "tensorboard" / "head").mkdir(parents=True)
    (copy / "tensorboard" / "head" / "events.out.tfevents.1.host").write_text("an old one")
    theirs = [
        "my notes.txt", "plots/mine.svg", "plots/examples/cat.html", "state/mine.npz",
        "tensorboard/other/events.out.tfevents.2.host", "tensorboard/head/notes.txt",
    ]  # fmt: skip
    for name in theirs:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("keep me")
    assert cli.main([*words(digits_folder, copy, "--seed", "8"), "--overwrite"]) == 0
    assert [(copy / name).read_text() for name in theirs] == ["keep me"] * len(theirs)
    assert runs.open_run(copy).config["seed"] == 8
    assert not (copy / "tensorboard" / "head" / "events.out.tfevents.1.host").exists()
    assert sorted(path.name for path in (copy / "state").iterdir()) == ["mine.npz"]


def test_all_that_a_run_leaves_is_known_to_be_ours(digits_run):
    ours = set(runs._ours(digits_run, runs._RUN))
    assert [path for path in digits_run.rglob("*") if path not in ours] == []


@pytest.mark.parametrize(
    "name", ["state", "plots", "plots/examples", "tensorboard", "model.keras", "state/new"]
)
def test_a_run_is_not_written_through_a_link(digits_folder, copy, tmp_path, capsys, name):
    elsewhere, link = tmp_path / "elsewhere", copy / name
    link.parent.mkdir(exist_ok=True)
    elsewhere.mkdir()
    (elsewhere / "head.npz").write_text("keep me")
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(elsewhere)
    assert cli.main([*words(digits_folder, copy), "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert f"{link} is a link" in said
    assert "Remove the link" in said
    assert [path.name for path in elsewhere.iterdir()] == ["head.npz"]


@pytest.mark.parametrize("there", [True, False])
def test_one_process_at_a_time_and_a_dead_one_holds_nothing(
    digits_folder, copy, tmp_path, capsys, there
):
    output = copy if there else tmp_path / "new"
    command = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        for flag in ("--overwrite", "--resume"):
            assert cli.main([*words(digits_folder, output), flag]) == 2
            said = capsys.readouterr().err
            assert f"Another process is writing a run to {output}" in said
            assert "Wait until it has ended" in said
        with pytest.raises(UsageError, match="Another process"), runs.begin(output, NEXT):
            pass
        other.send_signal(signal.SIGKILL)
    assert (output / runs.LOCK).exists()
    (output / runs.NEW / runs.CONFIG).unlink()  # killed even earlier
    with runs.begin(output, NEXT, overwrite=there):
        assert (output / runs.LOCK).exists()
    assert [path.name for path in (output / "state").iterdir()] == ["new"]


def test_a_finished_run_without_its_page_says_how_to_get_it(digits_folder, copy, capsys):
    (copy / "report.html").unlink()
    assert cli.main([*words(digits_folder, copy), "--resume"]) == 2
    assert f"keras-transfer report {copy}" in capsys.readouterr().err
    assert cli.main(["report", str(copy)]) == 0
    assert "Parts of this page are missing" not in (copy / "report.html").read_text()
    assert cli.main([*words(digits_folder, copy), "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err


def test_what_a_killed_writer_had_begun_is_removed_by_the_next_run(copy):
    mark = "0123456789ab"
    strays = [f".model-{mark}.keras", f"plots/.history-{mark}.svg", f"state/.head-{mark}.npz"]
    strays += [f"state/new/.config-{mark}.json"]
    theirs = [".model-mine.keras", f".other-{mark}.keras"]
    for name in (*strays, *theirs):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    with runs.begin(copy, NEXT, overwrite=True):
        pass
    left = contents(copy)
    assert not left.keys() & {*strays}
    assert left.keys() >= {*theirs}


def test_a_run_is_not_written_into_its_own_data(digits_folder, tmp_path, capsys):
    data = shutil.copytree(digits_folder, tmp_path / "data")
    (tmp_path / "link").symlink_to(data)
    for output in (data / "run", data / "digit-0" / "run", tmp_path / "link" / "run"):
        assert cli.main(words(data, output)) == 2
        said = capsys.readouterr().err
        assert str(output) in said
        assert f"data folder {data}" in said
        assert cli.main(["search", str(data), "--output", str(output)]) == 2
        assert "data folder" in capsys.readouterr().err
    assert len(list(data.iterdir())) == 5
    runs.check_output(tmp_path / "data-run", resume=False, overwrite=False, data=data)


KILLED = """
import os, shutil, sys
from keras_transfer import cli, training
from keras_transfer.runs import report

old, made, *command = sys.argv[1:]
names = ("replace", "rename", "unlink", "rmdir")
real = {name: getattr(os, name) for name in names}


def die_at(last, within):
    done = 0

    def counting(name):
        def act(path, *more, **also):
            nonlocal done
            changes = os.path.lexists(path) and not (name == "rmdir" and os.listdir(path))
            if changes and str(path).startswith(within):
                done += 1
                if done == last:
                    os._exit(9)
            return real[name](path, *more, **also)
        return act

    for name in names:
        setattr(os, name, counting(name))


number, status = 0, 9
while status == 9:  # until a run is not killed any more
    number += 1
    output = os.path.join(made, str(number))
    shutil.copytree(old, output)
    child = os.fork()
    if not child:
        die_at(number, output)
        os._exit(cli.main([*command, "--output", output]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(status)
"""


@pytest.mark.slow
def test_killed_at_any_change_of_the_folder_one_whole_run_is_there(digits_folder, tmp_path):
    """Before every renaming and removal in the run folder, of an --overwrite with --tensorboard."""
    old, made, cache = tmp_path / "old", tmp_path / "made", tmp_path / "cache"
    command = words(digits_folder, old, "--cache", str(cache), "--tensorboard")
    assert cli.main(command) == 0
    command = words(digits_folder, old, "--cache", str(cache), "--tensorboard", "--seed", "1")
    subprocess.run(
        [sys.executable, "-c", KILLED, str(old), str(made), *command, "--overwrite"],
        check=True, env=os.environ | {"KERAS_TRANSFER_CACHE": str(cache)},
    )  # fmt: skip
    *killed, last = sorted(made.iterdir(), key=lambda path: int(path.name))
    before, whole = contents(old), contents(last)
    same = [runs.SPLITS, runs.PREDICTIONS, runs.PROBABILITIES, runs.VALIDATION_LOGITS]
    assert before[runs.PREDICTIONS] != whole[runs.PREDICTIONS]
    kept = 0
    for folder in killed:
        runs.check_output(folder, resume=False, overwrite=True)  # the command may be given again
        run, found = runs.open_run(folder), contents(folder)
        if run.config["seed"] == 0:
            kept += 1
            assert before.items() <= found.items(), folder.name
            continue
        assert {name: found[name] for name in same} == {name: whole[name] for name in same}
        ours = (runs.MODEL, runs.CONFIG, runs.METRICS, runs.PREDICTIONS, runs.PAGE)
        assert not [name for name in ours if found.get(name) == before[name]], folder.name
        assert len(list((folder / "tensorboard" / "head").iterdir())) == 1
    print(f"{len(killed)} points, of which {kept} left the old run")
    assert 0 < kept < len(killed)
