"""A run is one thing, whether it was trained just now, without a folder, or opened from one."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.base import files
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.export import parity
from keras_transfer.runs.finished import Finished
from keras_transfer.runs.result import TransferResult


@pytest.fixture
def unwritten(digits_result: TransferResult) -> TransferResult:
    """The same without a folder, as ``train`` gives it without ``output``."""
    return dataclasses.replace(digits_result, path=None)


def plain(name: str, value: Any) -> Any:
    """A value of a result as what its folder can hold of it."""
    if name == "model":
        return [array.tolist() for array in value.get_weights()]
    if name == "dataset":
        return value.paths, value.labels.tolist(), value.splits.tolist(), value.examples.tolist()
    if name == "predictions":
        return [{**row, "probability": round(row["probability"], 6)} for row in value]
    if name == "history":
        kept = kt.Run.history.func.__globals__["_EPOCH"].__struct_fields__
        return [{key: row[key] for key in kept if key in row} for row in value]
    if name == "metrics":
        value = {key: held for key, held in value.items() if key not in ("files", files.SEAL)}
    if name == "evaluation":
        value = value.to_json()
    if name in ("candidates", "phases"):
        assert all(dataclasses.is_dataclass(one) for one in value)
        value = [dataclasses.asdict(one) for one in value]
    return files.plain(dataclasses.asdict(value) if name in ("recipe", "threshold") else value)


def test_the_same_questions_have_the_same_answers(
    digits_result: TransferResult, digits_run: Path
) -> None:
    opened = kt.open_run(digits_run)
    names = [*Finished.__annotations__, "class_names", "modality", "size"]
    assert len(names) == 21
    for name in names:
        found = plain(name, getattr(opened, name)), plain(name, getattr(digits_result, name))
        if isinstance(found[0], np.ndarray):
            np.testing.assert_array_equal(*found, err_msg=name)
        elif name == "recipe":  # settings of this machine stay here
            assert found[0].keys() == found[1].keys()
            assert {k: v for k, v in found[0].items() if found[1][k] != v} == {}
        else:
            assert found[0] == found[1], name


def test_each_says_in_one_line_what_it_is(
    digits_result: TransferResult, unwritten: TransferResult, digits_run: Path
) -> None:
    accuracy = f"test accuracy {digits_result.evaluation.accuracy:.3f}"
    for one in (digits_result, unwritten, kt.open_run(digits_run)):
        said = repr(one)
        assert "\n" not in said
        assert len(said) < 300
        assert "EfficientNetLite0" in said
        assert accuracy in said
        assert (str(digits_run) in said) == (one is not unwritten)
    for one in (digits_result.recipe, digits_result.evaluation, digits_result.dataset):
        assert "\n" not in repr(one)
        assert len(repr(one)) < 300
    assert "effort='quick'" in repr(digits_result.recipe)
    assert "ema" not in repr(digits_result.recipe)  # its default


@pytest.mark.slow
def test_one_without_a_folder_is_exported_and_has_a_page(
    unwritten: TransferResult, digits_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(parity, "TIMING_SECONDS", 0.05)
    monkeypatch.setattr(parity, "most_threads", lambda: 1)
    done = unwritten.export("keras", tmp_path / "export")
    assert done.passed
    image = next(digits_folder.glob("*/*.png"))
    ours, shipped = unwritten.predict(image), kt.predict(done.path, image)
    assert ours[0]["classes"][0]["label"] == shipped[0]["classes"][0]["label"]
    page = unwritten.report()
    assert "Most confident mistakes" in page.read_text()
    assert unwritten.report() == page  # written once
    folder = page.parent
    del unwritten, page
    assert folder.exists()


def test_a_folder_that_holds_another_run_by_now_is_not_taken_for_it(
    digits_result: TransferResult, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits_result.path, folder)
    moved = dataclasses.replace(digits_result, path=folder)
    assert moved.report().parent == folder
    config = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", config | {"created": "later"})
    assert moved.report().parent != folder


def test_a_threshold_that_nothing_reaches_is_read_back_as_it_was(
    digits_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(digits_run, tmp_path / "run")
    metrics = files.read_json(folder / "metrics.json")
    none = metrics["threshold"] | {"threshold": math.inf, "precision": math.nan, "answered": 0}
    files.write_json(folder / "metrics.json", files.sealed(metrics | {"threshold": none}))
    found = kt.open_run(folder).threshold
    assert found.threshold == math.inf
    assert math.isnan(found.precision)


@pytest.mark.parametrize("call", [kt.update, kt.label], ids=["update", "label"])
def test_what_is_made_of_a_run_wants_its_folder(
    digits_result: TransferResult, unwritten: TransferResult, tmp_path: Path, call: Any
) -> None:
    with pytest.raises(UsageError, match="has no folder") as caught:
        call(unwritten, tmp_path / "more")
    assert "output=" in caught.value.remedy
    folder = shutil.copytree(digits_result.path, tmp_path / "run")
    moved = dataclasses.replace(digits_result, path=folder)
    files.write_json(folder / "config.json", dict(moved.config) | {"created": "later"})
    with pytest.raises(UsageError, match=r"is not in .*run any more"):
        call(moved, tmp_path / "more")
    with pytest.raises(DataError, match=r"no such file|neither a folder"):  # its own folder is read
        call(digits_result, tmp_path / "more", output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_it_got_wrong_and_where_it_looked(
    digits_result: TransferResult, digits_folder: Path, tmp_path: Path
) -> None:
    data = digits_result.dataset  # some labels are made wrong: on some machines no answer is
    labels, some = data.labels.copy(), data.indices("test")[::5]
    labels[some] = (labels[some] + 1) % len(data.class_names)
    result = dataclasses.replace(digits_result, dataset=dataclasses.replace(data, labels=labels))
    rows = [row for row in result.predictions if row["label"] != row["predicted"]]
    shown = result.plot_mistakes()
    assert len(rows) >= len(some) - 1
    surest = max(rows, key=lambda row: row["probability"])
    assert len(shown.pieces) == min(12, len(rows))
    assert shown.pieces[0][0].startswith(f"{surest['label']}: {surest['predicted']}, ")
    looks = digits_result.plot_saliency()
    assert [said.split(":")[0] for said, _ in looks.pieces] == list(digits_result.class_names)
    image = str(next(digits_folder.glob("*/*.png")))
    one = digits_result.plot_saliency(image)
    assert one.pieces[0][0].startswith(f"{image}: digit-")
    assert one.pieces[0][1].count("<img") == 2  # the picture, and where the model looked
    one.save(tmp_path / "one.html")
    text = (tmp_path / "one.html").read_text()
    assert text.count("data:image/webp") == 2
    assert "http" not in text
    assert "1 examples" in repr(one)
    assert len(digits_result.plot_mistakes(0).pieces) == 0


def test_figures(digits_result: TransferResult, digits_run: Path) -> None:
    for one in (digits_result, kt.open_run(digits_run)):
        history = one.plot_history().axes[1].lines
        assert len(history[0].get_xdata()) == 2  # training loss of two epochs
        assert one.plot_confusion().axes
        assert one.plot_reliability().axes
        assert one.evaluation.accuracy == copy.copy(one).metrics["test"]["accuracy"]
