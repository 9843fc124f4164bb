"""What ``predict`` takes: of models every form, of examples whatever somebody holds."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_transfer import cli
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.datasets.items import named_items
from keras_transfer.export import ExportResult, card, export_run
from keras_transfer.export.prediction import predict
from keras_transfer.modalities import modality
from keras_transfer.runs import folder as runs
from keras_transfer.runs.result import TransferResult


@pytest.fixture(scope="module")
def sample(digits_folder: Path) -> Path:
    return sorted(digits_folder.glob("*/*.png"))[7]


@pytest.fixture(scope="module")
def said(digits_run: Path, sample: Path) -> list[dict[str, object]]:
    """The classes of the sample, by the run's own file."""
    found: list[dict[str, object]] = predict(digits_run, [sample])[0]["classes"]
    return found


def close(row: dict, said: list[dict], within: float = 1e-4) -> bool:
    """Whether a row names the same class first, and nearly with the same probability."""
    assert "error" not in row, row
    found, wanted = row["classes"][0], said[0]
    near = abs(found["probability"] - wanted["probability"]) < within
    return bool(near and found["label"] == wanted["label"])


def test_one_name_is_one_item(digits_run: Path, sample: Path, said: list) -> None:
    for one in (str(sample), sample, sample.read_bytes()):
        rows = predict(digits_run, one)
        assert len(rows) == 1
        assert rows[0]["classes"] == said


def test_a_folder_is_its_files(digits_run: Path, sample: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for place in (tmp_path / "b.png", tmp_path / "deep" / "a.PNG", tmp_path / ".hidden.png"):
        shutil.copyfile(sample, place)
    (tmp_path / "notes.txt").write_text("no image")
    rows = predict(digits_run, tmp_path)
    assert [row["image"] for row in rows] == [
        str(tmp_path / "b.png"), str(tmp_path / "deep" / "a.PNG")
    ]  # fmt: skip


def test_arrays_and_pictures(digits_run: Path, sample: Path, said: list) -> None:
    picture = Image.open(sample).convert("RGB")
    pixels = np.asarray(picture)
    assert len(predict(digits_run, pixels)) == 1
    rows = predict(digits_run, np.stack([pixels, pixels]))
    assert [row["image"] for row in rows] == ["image 0", "image 1"]
    for row in (*rows, *predict(digits_run, [pixels, picture]), *predict(digits_run, picture)):
        assert row["classes"] == said
    with pytest.raises(DataError, match="levels from 0 to 1"):
        predict(digits_run, pixels / 255.0)


@pytest.mark.slow
def test_a_picture_is_taken_as_its_file_would_be(digits_run: Path, tmp_path: Path) -> None:
    """Palette, transparency, one bit, and the turn that EXIF asks for."""
    levels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    whole = Image.fromarray(levels)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "palette.png": (whole.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE), {}),
        "alpha.png": (whole, {}),
        "bit.png": (whole.convert("1"), {}),
        "turned.png": (whole.convert("RGB"), {"exif": exif}),
    }
    for name, (picture, options) in pictures.items():
        picture.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as opened:
            held, read = predict(digits_run, opened), predict(digits_run, tmp_path / name)
        # A file is turned when it has been resized: the last level of a pixel may differ.
        assert close(held[0], read[0]["classes"], 1e-3 if name == "turned.png" else 1e-9), name


@pytest.mark.slow
def test_models_in_memory(
    digits_run: Path, digits_result: TransferResult, sample: Path, said: list
) -> None:
    run = runs.open_run(digits_run)
    for held in (run, digits_result, dataclasses.replace(digits_result, path=None)):
        row = predict(held, sample)[0]
        assert close(row, said)
        assert row.get("unsure") == predict(digits_run, sample)[0].get("unsure")
        assert ("unsure" in row) == (card.threshold(run) > 0)
    classes = predict(run.model, sample)[0]["classes"]
    assert [row["label"] for row in classes] == [row["label"][-1] for row in said]  # digit-3
    with pytest.raises(UsageError, match="None is no model"):
        predict(None, sample)


def test_what_one_holds(digits_run: Path, sample: Path, said: list) -> None:
    pixels = np.asarray(Image.open(sample).convert("RGB"))
    run = runs.open_run(digits_run)
    for one in (keras.ops.convert_to_tensor(pixels), [str(sample)]):
        assert [row["classes"] for row in predict(run, one)] == [said]
    assert len(predict(run, np.zeros((2, 64, 64, 3), np.uint8))) == 2
    for wrong in (5, None):
        with pytest.raises(DataError, match=f"{wrong} is a {type(wrong).__name__}, and no image"):
            predict(run, wrong)


def test_sounds_that_one_holds() -> None:
    """A batch is told from one sound of several channels by what the model takes."""
    form = modality("audio")
    spec = form.spec(1.0)
    batch = np.zeros((3, *spec.shape), np.float32)
    for items, count in ((batch, 3), (batch[0], 1), (batch[:2].T, 1), ((batch[0], 8000), 1)):
        assert len(list(named_items(form, spec, items))) == count


def test_a_table_of_answers(digits_run: Path, sample: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(card, "threshold", lambda run: 0.97)
    (bad := tmp_path / "bad.png").write_bytes(b"no image")
    rows = predict(digits_run, [sample, bad], csv=tmp_path / "python.csv")
    words = [str(sample), str(bad), "--csv", str(tmp_path / "shell.csv")]
    assert cli.main(["predict", str(digits_run), *words]) == 2
    text = (tmp_path / "python.csv").read_text()
    assert (tmp_path / "shell.csv").read_text() == text
    table = list(csv.DictReader(text.splitlines()))
    first = rows[0]["classes"][0]
    assert table[0] == {
        "image": str(sample), "predicted": first["label"], "probability": str(first["probability"]),
        "unsure": str(rows[0]["unsure"]).lower(), "error": "",
    }  # fmt: skip
    assert table[1]["error"] == rows[1]["error"]
    assert not table[1]["predicted"]


def test_unsure_is_what_the_threshold_says(
    digits_run: Path, exported: ExportResult, digits_folder: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(card, "threshold", lambda run: 0.97)
    rows = predict(digits_run, sorted(digits_folder.glob("*/*.png"))[::4])
    first = [row["classes"][0]["probability"] for row in rows]
    assert [row["unsure"] for row in rows] == [value < 0.97 for value in first]
    assert {True, False} == {row["unsure"] for row in rows}
    doubtful = next(row["image"] for row in rows if row["unsure"])
    capsys.readouterr()
    assert cli.main(["predict", str(digits_run), doubtful]) == 0
    assert "unsure" in capsys.readouterr().out
    row = predict(exported.path, doubtful)[0]
    shipped = json.loads((exported.path / "parity.json").read_text())["threshold"]
    assert ("unsure" in row) == bool(shipped)


@pytest.mark.parametrize("name", ["saved_model", "keras", "tflite", "tflite-int8", "onnx"])
def test_an_export_of_any_format(
    run: runs.Run, quick: None, exported: ExportResult, name: str, sample: Path, said: list,
    tmp_path: Path,
) -> None:  # fmt: skip
    if name == "onnx":
        if not importlib.util.find_spec("tf2onnx"):
            pytest.skip("tf2onnx is not installed")
        folder = export_run(run, name, tmp_path / "onnx").path
        file = "model.onnx"
    else:
        file = exported.parity["artefacts"][name]["file"]
        folder = tmp_path / "one"
        shutil.copytree(exported.path, folder, ignore=shutil.ignore_patterns("*model*"))
        copy = shutil.copytree if name == "saved_model" else shutil.copyfile
        copy(exported.path / file, folder / file)
    if name == "saved_model":
        assert close(predict(folder / file, sample)[0], said, 1e-3)
    row = predict(folder, sample)[0]
    assert close(row, said, 0.1 if name == "tflite-int8" else 1e-3)
    target = folder / file if name != "saved_model" else folder / file / "1" / "saved_model.pb"
    target.write_bytes(target.read_bytes() + b"x")
    with pytest.raises(UsageError, match="changed since it was exported"):
        predict(folder, sample)
