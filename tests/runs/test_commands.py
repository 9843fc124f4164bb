"""Commands that are handed out work when they are pasted, wherever the data came from."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import keras_transfer as kt
from keras_transfer import cli
from keras_transfer.base import files
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.export import parity
from keras_transfer.learn import second_phase
from keras_transfer.runs import summary

HOW: dict[str, Any] = {"effort": "quick", "unfreeze": "none", "views": 1, "levels": 0.0}


def network(kind: str = "image") -> Any:
    """A small one with random weights, on whose features digits and words can be told apart."""
    import keras

    keras.utils.set_random_seed(0)
    if kind == "text":
        words = keras.Input((16,), dtype="int32")
        x = keras.layers.Conv1D(8, 3, padding="same")(keras.layers.Embedding(30522, 8)(words))
        return keras.Model(words, x, name="words")
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(pixels)
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
    return keras.Model(pixels, x, name="mine")


@pytest.fixture
def here(digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with sixty pictures of three digits, from which commands are given."""
    for folder in sorted(digits_folder.iterdir())[:3]:
        (tmp_path / "my digits" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:20]:
            shutil.copy(file, tmp_path / "my digits" / folder.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures() -> list[Path]:
    return sorted(Path("my digits").glob("*/*.png"))


def names() -> list[str]:
    return [path.parent.name for path in pictures()]


def folder(texts: Path) -> tuple[Any, dict[str, Any]]:
    named = {"backbone": "MobileNetV3Small", "weights": "none", "image_size": 32}
    return "my digits", HOW | named | {"fold": "2/3", "per_class": 8}


def with_splits(texts: Path) -> tuple[Any, dict[str, Any]]:
    rows = [(file.relative_to("my digits").as_posix(), file.parent.name) for file in pictures()]
    parts = ["train", "train", "val", "test"] * 15
    files.write_csv("mine.csv", ("path", "label", "split"), [
        (*row, split) for row, split in zip(rows, parts, strict=True)
    ])  # fmt: skip
    return "my digits", HOW | {"splits": "mine.csv"}


def of_a_recipe(texts: Path) -> tuple[Any, dict[str, Any]]:
    return "my digits", {"recipe": kt.Recipe(**HOW, split=(0.5, 0.25, 0.25))}


def frame(texts: Path) -> tuple[Any, dict[str, Any]]:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"file": map(str, pictures()), "what": names()})
    table["person"] = [f"p{number // 2}" for number in range(len(table))]
    return table, HOW | {"columns": "path=file,label=what", "group": "person", "fold": "1/3"}


def pairs(texts: Path) -> tuple[Any, dict[str, Any]]:
    return (pictures(), names()), HOW


def loaded(texts: Path) -> tuple[Any, dict[str, Any]]:
    numbers = np.unique(names(), return_inverse=True)[1]
    classes = ["zero", "one", "two"]  # not in the order of their names
    return kt.load_dataset((pictures(), numbers), class_names=classes, image_size=32), HOW


def of_texts(texts: Path) -> tuple[Any, dict[str, Any]]:
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    said = [f' {row["text"]}\r\n"{number}", ' for number, row in enumerate(rows)]
    return (said, [row["label"] for row in rows]), HOW | {"backbone": network("text")}


def arrays(texts: Path) -> tuple[Any, dict[str, Any]]:
    images = np.stack([np.asarray(Image.open(path)) for path in pictures()])
    return (images, names()), HOW | {"split": (0.5, 0.25, 0.25)}


CASES = (
    folder, with_splits, of_a_recipe, frame, pairs, loaded, of_texts, arrays,
)  # fmt: skip


def carry_out(command: str, data: Any) -> None:
    """A command of the shell, or for data that it cannot name of Python."""
    if not command.startswith("keras-transfer "):
        eval(command, {"keras_transfer": kt, "data": data})
        return
    program, *words = shlex.split(command)
    assert program == "keras-transfer"
    assert cli.main([*words, "--quiet"]) == 0


def interrupt(*anything: Any) -> None:
    raise KeyboardInterrupt


def killed(data: Any, how: dict[str, Any], output: str) -> str:
    """Begins a run, which is then killed, and returns what its folder says."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(second_phase, "keep_head", interrupt)
        with pytest.raises(KeyboardInterrupt):
            kt.train(data, output=output, **how)
    with pytest.raises(UsageError, match="has not finished") as caught:
        kt.open_run(output)
    return re.fullmatch("Continue it with `(.*)`.", caught.value.remedy, re.DOTALL)[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_goes_on_with_a_run_and_what_repeats_it_can_be_pasted(
    here: Path, texts_table: Path, case: Any
) -> None:
    data, how = case(texts_table)
    how = {"backbone": network()} | how
    command = killed(data, how, "runs/my run")
    assert "..." not in command
    carry_out(command, data)
    run = kt.open_run("runs/my run")
    assert "state" not in os.listdir(run.path)
    whole = kt.train(data, **how)
    assert [*map(tuple, run.test_probabilities)] == [*map(tuple, whole.test_probabilities)]
    assert [row["path"] for row in run.predictions] == [row["path"] for row in whole.predictions]
    text = Path("runs/my run/report.html").read_text()
    carry_out(html.unescape(re.findall(r'"repeat">.*?<pre[^>]*>(.*?)</pre>', text, re.S)[0]), data)
    again = kt.open_run("runs/my run-again")
    for ours, theirs in zip(again.predictions, run.predictions, strict=True):
        assert {**ours, "probability": 0} == {**theirs, "probability": 0}
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=5e-3)


def several(texts: Path) -> tuple[Any, dict[str, Any]]:
    classes = [[name, "even"] if name != "digit-1" else [name] for name in names()]
    return (pictures(), [[], *classes[1:]]), HOW


def sounds(texts: Path) -> tuple[Any, dict[str, Any]]:
    pandas = pytest.importorskip("pandas")
    soundfile = pytest.importorskip("soundfile")
    random, rows = np.random.default_rng(0), []
    for number in range(6):
        soundfile.write(f"{number}.wav", random.normal(0, 0.1, 6 * 16_000), 16_000)
        rows += [(f"{number}.wav", "ab"[at % 2], at, at + 1) for at in range(6)]
    how = HOW | {"backbone": "SpeechEmbedding", "clip_length": 1.0}
    return pandas.DataFrame(rows, columns=["path", "label", "start", "end"]), how


FROM_PYTHON = (
    frame,
    pairs,
    loaded,
    several,
    of_texts,
    pytest.param(sounds, marks=pytest.mark.slow),
)


@pytest.mark.parametrize("case", FROM_PYTHON)
def test_a_run_of_files_or_texts_from_python_has_its_data_in_another_process(
    here: Path, texts_table: Path, case: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, how = case(texts_table)
    result = kt.train(data, output="runs/it", **{"backbone": network()} | how)
    assert result.config["data"] == "runs/it/data.csv"
    with open("runs/it/data.csv", encoding="utf-8", newline="") as table:
        held = list(csv.DictReader(table))
    assert {row["name_in_run"] for row in held} == set(result.dataset.paths)
    assert all(os.path.isabs(row.get("path") or row.get("file") or "/") for row in held)
    shutil.move("runs/it", tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found, kept = kt.open_run("../moved").dataset, result.dataset
    for name in ("paths", "digests", "class_names"):
        assert getattr(found, name) == getattr(kept, name), name
    for name in ("labels", "splits", "examples"):
        assert getattr(found, name).tolist() == getattr(kept, name).tolist(), name
    for words in (["evaluate", "../moved", "../moved/data.csv"], ["report", "../moved"]):
        assert cli.main([*words, "--quiet"]) == 0
    with open(tmp_path / "moved" / "data.csv", "a") as table:
        table.write("\n")
    with pytest.raises(UsageError, match=r"data\.csv: it was changed"):
        kt.open_run("../moved").dataset


def test_a_run_on_its_own_table_does_not_lose_it(here: Path) -> None:
    how = HOW | {"backbone": network(), "output": "runs/it"}
    first = kt.train((pictures(), names()), **how)
    again = kt.train("runs/it/data.csv", **how, overwrite=True)
    assert again.dataset.paths == first.dataset.paths
    assert kt.open_run("runs/it").dataset.digests == first.dataset.digests
    kt.train("my digits", **how, overwrite=True)
    assert not Path("runs/it/data.csv").exists()


def test_what_lay_in_memory_alone_is_said_wherever_it_is_missed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, how = arrays(here)
    result = kt.train(data, output="runs/it", **{"backbone": network()} | how)
    said = "runs/it was trained on arrays in memory, and no file has them."
    for command in (["export", "runs/it"], ["curve", "runs/it"], ["update", "runs/it", "my digits"],
                    ["evaluate", "runs/it", "my digits"]):  # fmt: skip
        assert cli.main(command) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert "result.export(...)" in printed
    assert cli.main(["label", "runs/it", "my digits", "--count", "3"]) == 0
    monkeypatch.setattr(parity, "TIMING_SECONDS", 0.05)
    assert result.export("keras", "exported").passed
    with pytest.raises(DataError, match="arrays given are in memory") as caught:
        kt.update(kt.train("my digits", output="runs/named", **HOW | {"backbone": network()}), data)
    assert "to files" in caught.value.remedy
    assert not Path("runs/named-updated").exists()
    row = {"name": "a", "support": 90, "recall": 1.0, "recall_interval": (0.9, 1)}
    few = {"test": {"per_class": [row], "images": 90, "accuracy": 1.0,
                    "intervals": {"accuracy": (0.97, 1.0)}}}  # fmt: skip
    monkeypatch.setattr(summary, "verdict", lambda *anything: ("", "good"))
    (export, *_) = summary.advice(few, "image", "runs/it", in_memory=True)
    assert export[1].startswith('result.export("saved_model,tflite")')


@pytest.mark.parametrize("form", ["frame", "pair"])
def test_updates_take_what_training_takes(here: Path, form: str) -> None:
    how, files_of, labels = HOW | {"backbone": network()}, pictures(), names()
    later = [i for i in range(len(files_of)) if i % 20 >= 14]
    first = [i for i in range(len(files_of)) if i % 20 < 14]

    def given(rows: list[int]) -> Any:
        chosen = [files_of[i] for i in rows], [labels[i] for i in rows]
        if form == "pair":
            return chosen
        columns = dict(zip(("path", "label"), (list(map(str, chosen[0])), chosen[1]), strict=True))
        return pytest.importorskip("pandas").DataFrame(columns)

    result = kt.train(given(first), output="runs/it", **how)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(second_phase, "keep_head", interrupt)
        with pytest.raises(KeyboardInterrupt):
            kt.update(result, given(later[:9]))
    with pytest.raises(UsageError, match="has not finished") as caught:
        kt.open_run("runs/it-updated")
    carry_out(re.findall("`(.*)`", caught.value.remedy)[0], None)
    found = kt.update(result, given(later[:9]), output="runs/whole")
    assert (found.added, found.left_out) == (9, 0)
    assert found.run.config["data"] == "runs/it/data.csv + runs/whole/data.csv"
    resumed = kt.open_run("runs/it-updated")
    assert resumed.test_probabilities.tolist() == found.run.test_probabilities.tolist()
    assert resumed.dataset.paths == found.run.dataset.paths
    assert cli.main(["update", "runs/whole", "my digits", "--output", "runs/third", "--quiet"]) == 0
    third = kt.open_run("runs/third")
    assert set(third.dataset.digests) == {*found.run.dataset.digests, *third.dataset.digests}
    assert third.metrics["update"]["added"] == len(later) - 9
