"""Whole journeys, as a user makes them."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_transfer import cli
from keras_transfer.frozen import engine, features
from keras_transfer.runs import folder as runs

# Times, and digests of what holds some.
TIMES = re.compile(
    r"seconds|images_per_second|engine|notes|created|^sha256$|^model\.keras$|^history\.csv$"
)


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not TIMES.search(k)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_one_seed_gives_one_result(digits_folder, tmp_path):
    """From the very beginning each time: a cache of its own, so nothing is handed over."""
    found = []
    for attempt in ("first", "second"):
        code = cli.main(
            ["train", str(digits_folder), "--image-size", "48", "--seed", "5", "--quiet",
             "--output", str(tmp_path / attempt), "--cache", str(tmp_path / f"cache-{attempt}"),
             "--effort", "quick"]
        )  # fmt: skip
        assert code == 0
        found.append(json.loads((tmp_path / attempt / "metrics.json").read_text()))
    assert without_times(found[0]) == without_times(found[1])
    predictions = [(tmp_path / a / "predictions.csv").read_bytes() for a in ("first", "second")]
    assert predictions[0] == predictions[1]


@pytest.mark.slow
def test_runs_of_other_seeds_are_compared_on_one_split_that_has_a_seed_of_its_own(
    digits_folder, tmp_path, capsys
):
    for seed in ("1", "2"):
        words = [
            "train", str(digits_folder), "--image-size", "32", "--seed", seed, "--split-seed", "6",
            "--unfreeze", "1", "--fine-tune-epochs", "1", "--views", "1", "--quiet",
            "--output", str(tmp_path / seed),
        ]  # fmt: skip
        assert cli.main(words) == 0
    one, two = (runs.open_run(tmp_path / seed) for seed in ("1", "2"))
    assert one.file("splits.csv").read_bytes() == two.file("splits.csv").read_bytes()
    assert (one.config["seed"], two.config["seed"]) == (1, 2)
    assert one.config["split_seed"] == two.config["split_seed"] == 6
    assert one.history[-1]["train_loss"] != two.history[-1]["train_loss"]  # trained otherwise
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "1"), str(tmp_path / "2"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == len(one.predictions)


BUSY = "import numpy\nones = numpy.ones((800, 800))\nwhile True:\n    ones @ ones\n"


@contextlib.contextmanager
def busy():
    """Two other processes that compute without a pause."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.slow
def test_one_seed_gives_one_result_whatever_is_stored_and_whoever_computes_beside(
    digits_folder, tmp_path, monkeypatch
):
    """Cold, beside others, and on what a run in float32 and a deeper search have stored."""
    # As many and as various images do: on OpenVINO and, where the processor has it, in bfloat16.
    monkeypatch.setattr(engine, "_WORTH_CONVERTING", 1e6)
    monkeypatch.setattr(features, "_AGREEMENT", 0.5)

    def command(verb, name, cache, *more):
        words = [
            verb, str(digits_folder), "--image-size", "32", "--quiet", "--unfreeze", "1",
            "--fine-tune-epochs", "1", "--views", "2", "--cache", str(tmp_path / cache),
            "--output", str(tmp_path / name), *more,
        ]  # fmt: skip
        assert cli.main(words) == 0

    def result(name):
        metrics = without_times(json.loads((tmp_path / name / "metrics.json").read_text()))
        del metrics["cache"]  # of which the last run finds much
        return metrics, (tmp_path / name / "predictions.csv").read_bytes()

    command("train", "cold", "cache")
    with busy():
        command("train", "beside", "another")
    command("train", "exact", "full", "--engine", "openvino")
    command("search", "study", "full", "--trials", "1", "--unfreeze", "3", "--split", "0.5,0.2,0.3")
    command("train", "stored", "full")
    expected = result("cold")
    for name in ("beside", "stored"):
        assert result(name) == expected, name


def test_the_model_loads_where_this_package_was_never_imported(digits_run, tmp_path):
    run = runs.open_run(digits_run)
    data = run.dataset
    pixels = data.examples[data.indices("test")][:8]
    np.save(tmp_path / "pixels.npy", pixels)
    script = (
        "import sys\n"
        "sys.modules['keras_transfer'] = None\n"
        "import keras, numpy as np\n"
        f"model = keras.models.load_model({str(digits_run / 'model.keras')!r})\n"
        f"print(repr(model(np.load({str(tmp_path / 'pixels.npy')!r})).numpy().tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(found, run.test_probabilities[:8], atol=1e-4)


def test_from_a_run_to_artefacts_that_are_proven(digits_run, digits_folder, tmp_path, capsys):
    export = tmp_path / "export"
    assert cli.main(["export", str(digits_run), "--output", str(export), "--quiet"]) == 0
    parity = json.loads((export / "parity.json").read_text())
    for name in ("saved_model", "tflite"):
        assert parity["artefacts"][name]["agreement"] >= 0.995
    assert cli.main(["verify", str(export)]) == 0
    capsys.readouterr()
    image = str(next((digits_folder / "digit-2").glob("*.png")))
    answers = []
    for model in (digits_run, export, next(export.glob("*.tflite"))):
        assert cli.main(["predict", str(model), image, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)[0]["classes"])
    for other in answers[1:]:
        assert other[0]["label"] == answers[0][0]["label"]
        assert other[0]["probability"] == pytest.approx(answers[0][0]["probability"], abs=1e-3)


def test_settings_of_a_run_repeat_it(digits_run, digits_folder, tmp_path):
    output = tmp_path / "again"
    code = cli.main(
        ["train", str(digits_folder), "--config", str(digits_run / "config.json"), "--quiet",
         "--output", str(output)]
    )  # fmt: skip
    assert code == 0
    before, after = (runs.open_run(path) for path in (digits_run, output))
    assert [r["path"] for r in before.predictions] == [r["path"] for r in after.predictions]
    assert after.metrics["test"]["accuracy"] == before.metrics["test"]["accuracy"]


@pytest.mark.slow
def test_the_main_job_reaches_its_accuracy(tmp_path):
    code = cli.main(["train", "builtin:digits", "--quiet", "--output", str(tmp_path / "digits")])
    assert code == 0
    metrics = json.loads((tmp_path / "digits" / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] >= 0.96
    assert metrics["kept"] != "head"


@pytest.mark.slow
def test_real_images_beat_their_own_head(emoji_noto: Path, tmp_path):
    output = tmp_path / "noto"
    code = cli.main(
        ["train", str(emoji_noto), "--image-size", "128", "--quiet", "--output", str(output)]
    )
    assert code == 0
    metrics = json.loads((output / "metrics.json").read_text())
    head = next(c for c in metrics["candidates"] if c["name"] == "head")
    assert metrics["validation"]["nll"] < head["nll"]
    assert metrics["test"]["accuracy"] > 0.75
