"""Sounds through the same rooms: recordings to a run, its page and its predictions."""

import csv
import json
import re
import wave
from pathlib import Path

import numpy as np
import pytest
from hostile.table import assert_refused, say

import keras_transfer as kt
from keras_transfer.runs import folder as runs

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

SETTINGS = ("--unfreeze", "top", "--fine-tune-epochs", "1", "--views", "1")


@pytest.fixture(scope="module")
def spoken_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the built-in digits with the real weights, its top trained for an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "spoken"
    said = say("train", "builtin:spoken", "--output", folder, *SETTINGS)
    assert said.code == 0, said
    return folder


def wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Writes int16 samples by the standard library."""
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 2, rate, len(samples), "NONE", ""))
        stream.writeframes(samples.astype("<i2").tobytes())
    return path


def test_recordings_become_a_run(spoken_run: Path) -> None:
    made = runs.open_run(spoken_run)
    config = made.config
    assert (config["modality"], config["backbone"]) == ("audio", "SpeechEmbedding")
    assert (config["clip_length"], config["image_size"], config["max_length"]) == (1.25, None, None)
    # One speaker was never heard before.
    assert made.metrics["test"]["accuracy"] > 0.7
    assert [phase["name"] for phase in made.metrics["phases"]] == ["head", "fine_tune"]


def test_no_speaker_is_on_two_sides(spoken_run: Path) -> None:
    with open(spoken_run / "splits.csv", newline="") as stream:
        rows = [
            (Path(row["path"]).stem.split("_")[0], row["split"]) for row in csv.DictReader(stream)
        ]
    assert len({speaker for speaker, _ in rows}) == 6
    assert len(set(rows)) == 6
    assert {split for _, split in rows} == {"train", "val", "test"}


def test_the_model_takes_samples_and_its_spectrogram_is_as_it_was(spoken_run: Path) -> None:
    model = runs.open_run(spoken_run).model
    assert (model.input_shape, model.input.dtype) == ((None, 20_000), "float32")
    fresh = kt.build("SpeechEmbedding", image_size=1.25).model
    for name in ("preprocessing_fourier", "preprocessing_mel", "block1_conv0"):
        theirs = fresh.get_layer(name).get_weights()
        for mine, other in zip(model.get_layer(name).get_weights(), theirs, strict=True):
            np.testing.assert_array_equal(mine, other)
    trained = model.get_layer("top_conv").get_weights()[0]
    assert not np.array_equal(trained, fresh.get_layer("top_conv").get_weights()[0])


def test_it_is_evaluated_as_it_was(spoken_run: Path) -> None:
    said = say("evaluate", spoken_run, "--json")
    assert said.code == 0, said
    accuracy = json.loads(said.out)["accuracy"]
    assert accuracy == runs.open_run(spoken_run).metrics["test"]["accuracy"]


def test_what_was_stored_is_not_computed_again(spoken_run: Path, tmp_path: Path) -> None:
    said = say("train", "builtin:spoken", "--output", tmp_path / "again", *SETTINGS)
    assert said.code == 0, said
    before, again = runs.open_run(spoken_run).metrics, runs.open_run(tmp_path / "again").metrics
    assert again["cache"]["misses"] == 0
    assert again["test"] == before["test"]


def test_its_page_plays_what_it_shows(spoken_run: Path) -> None:
    page = (spoken_run / "report.html").read_text()
    prose = re.sub(r"<style>.*?</style>|<script>.*?</script>|<pre.*?</pre>|<!--.*?-->", "", page,
                   flags=re.DOTALL)  # fmt: skip
    shown = re.sub(r"<[^>]*>", " ", prose)
    assert "test clips" in shown
    assert not re.search(r"\b(images?|pixels?|pictures?)\b", shown.split("Mistakes and doubts")[0])
    made = [*(spoken_run / "plots" / "examples").iterdir()]
    assert made
    assert all("<audio" in path.read_text() for path in made)


def test_a_recording_is_classified(spoken_run: Path, tmp_path: Path) -> None:
    """And with silence behind it, which changes nothing."""
    made = runs.open_run(spoken_run)
    data = made.dataset
    row = int(data.indices("train")[0])
    samples = np.rint(2**15 * data.examples[row]).clip(-(2**15), 2**15 - 1)
    heard = samples[: int(np.flatnonzero(samples)[-1]) + 1]
    files = [
        wav(tmp_path / "short.wav", heard, 16_000),
        wav(tmp_path / "long.wav", np.pad(heard, (0, 30_000)), 16_000),
    ]
    said = say("predict", spoken_run, *files, "--json")
    assert said.code == 0, said
    rows = json.loads(said.out)
    assert rows[0]["classes"] == rows[1]["classes"]
    assert rows[0]["classes"][0]["label"] == data.class_names[data.labels[row]]
    (from_memory,) = kt.predict(spoken_run, [heard.astype(np.int16)])
    assert from_memory["classes"][0]["label"] == rows[0]["classes"][0]["label"]


def test_what_is_no_matter_of_sounds_is_refused_by_name(tmp_path: Path) -> None:
    words = ("train", "builtin:spoken", "--output", tmp_path / "run", "--quiet")
    assert_refused(say(*words, "--max-length", "64"), "max_length was given", "clips")
    said = say(*words, "--backbone", "MobileNetV2", "--weights", "none")
    assert_refused(said, "MobileNetV2 takes images")
    assert_refused(
        say(*words, "--clip-length", "0.3"), "--clip-length: must be a number between 0.8 and 30"
    )
    (tmp_path / "sounds" / "a").mkdir(parents=True)
    wav(tmp_path / "sounds" / "a" / "x.wav", np.zeros(0), 16_000)
    assert_refused(
        say("train", tmp_path / "sounds", "--output", tmp_path / "run"), "no clip that can be used"
    )
    assert not (tmp_path / "run").exists()
