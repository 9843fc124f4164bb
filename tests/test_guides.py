"""The Python of every page runs as it stands, one block of a page after the other, as one script.

What is found is run: a new block, or a new page, needs an entry here only where its reader has more
than ``photos`` by then, or where it takes long.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import keras_transfer as kt
from keras_transfer import cli
from keras_transfer.export import parity

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^[ >]*```(\w*).*\n((?:.*\n)*?)[ >]*```$", re.M)
# What opens a page for a person and waits.
WAITS = "demo"
ABSENT = {
    "mlflow": "is no dependency; the page says how it is used",
    "wandb": "is no dependency; the page says how it is used",
    "keras_hub": "is no dependency; it brings other networks",
    "pandas": "is no dependency; the page says so",
    "tokenizers": "comes with the extra of texts",
}
"""Packages without which a block is left out; any other one that is missing is an error."""


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the code of each block of a page."""
    return FENCE.findall((ROOT / page).read_text())


PYTHON = {
    page: codes
    for page in ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
    if (codes := [code for language, code in blocks(page) if language in ("python", "py")])
}


def photos(here: Path, request: pytest.FixtureRequest) -> None:
    """Scanned digits in class folders."""
    (here / "photos").symlink_to(request.getfixturevalue("digits_folder"))


def picture(here: Path, request: pytest.FixtureRequest, *names: str) -> None:
    """One of them as a photo."""
    source = sorted(request.getfixturevalue("digits_folder").glob("digit-3/*"))[0]
    for name in names:
        Image.open(source).convert("RGB").save(here / name, quality=95)


def trained(here: Path, request: pytest.FixtureRequest) -> None:
    """A finished run on them."""
    photos(here, request)
    (here / "runs").mkdir()
    (here / "runs" / "photos").symlink_to(request.getfixturevalue("digits_run"))


def few(here: Path, request: pytest.FixtureRequest) -> None:
    """Twelve of each class, and what it says is written there."""
    for folder in request.getfixturevalue("digits_folder").iterdir():
        for path in sorted(folder.iterdir())[:12]:
            target = here / "photos" / folder.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def readme(here: Path, request: pytest.FixtureRequest) -> None:
    few(here, request)
    picture(here, request, "cat.jpg", "dog.jpg")


def by_person(here: Path, request: pytest.FixtureRequest) -> None:
    """Photographs whose names begin with who is on them."""
    few(here, request)
    for number, path in enumerate(sorted(here.glob("photos/*/*.png"))):
        Image.open(path).save(path.with_name(f"{('anna', 'ben', 'cleo')[number % 3]}_{number}.jpg"))
        path.unlink()


def several(here: Path, request: pytest.FixtureRequest) -> None:
    """The table of the page, with two digits beside each other for its classes, or none."""
    shown, pixels = np.random.default_rng(0), {}
    for name, digit in (("ball", 0), ("dog", 1)):
        folder = request.getfixturevalue("digits_folder") / f"digit-{digit}"
        pixels[name] = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    with open(here / "photos.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for number in range(36):
            label = [name for name in pixels if shown.random() < 0.6]
            halves = [
                pixels[name][number] if name in label else np.zeros((8, 8), np.uint8)
                for name in pixels
            ]
            Image.fromarray(np.hstack(halves)).save(here / f"{number}.png")
            table.writerow([f"{number}.png", "|".join(label) or "|"])
    shutil.copy(here / "0.png", here / "new.jpg")


def compared(here: Path, request: pytest.FixtureRequest) -> None:
    """Two runs, asked as the page says."""
    photos(here, request)
    small(kt.train)("photos", output="runs/photos")
    kt.train("photos", output="runs/photos-2", effort="quick", image_size=32)
    (here / "new-photos").symlink_to(here / "photos")
    carry_out(blocks("docs/changed_data.md"), only="predict")


def cracked(here: Path, request: pytest.FixtureRequest) -> None:
    """A run on unequal classes."""
    for folder in request.getfixturevalue("digits_folder").iterdir():
        name, count = ("crack", 12) if folder.name == "digit-3" else ("whole", 8)
        (here / "photos" / name).mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir())[:count]:
            shutil.copyfile(path, here / "photos" / name / f"{folder.name}-{path.name}")
    small(kt.train)("photos", output="runs/photos")


def reviews(here: Path, request: pytest.FixtureRequest) -> None:
    """A table of texts and a finished run on it."""
    rows = request.getfixturevalue("texts_table").read_text().splitlines()
    with open(here / "reviews.csv", "w", newline="") as file:
        table = csv.DictWriter(file, ["text", "label", "page"])
        table.writeheader()
        table.writerows(map(json.loads, rows))
    kt.train("reviews.csv", output="runs/reviews", effort="quick", max_length=24, group="page")


def served(here: Path, request: pytest.FixtureRequest) -> None:
    """Exports of pictures and texts."""
    trained(here, request)
    reviews(here, request)
    picture(here, request, "photo.jpg")
    for name in ("photos", "reviews"):
        kt.export_run(f"runs/{name}", "saved_model", f"saved_models/{name}")


NEEDS: dict[str, Callable[[Path, pytest.FixtureRequest], None]] = {
    "README.md": readme, "docs/changed_data.md": compared, "docs/data.md": by_person,
    "docs/first_hour.md": lambda here, request: None, "docs/imbalance.md": cracked,
    "docs/python.md": few,
    "docs/serving.md": served, "docs/several_labels.md": several, "docs/texts.md": reviews,
    "docs/trackers.md": trained,
}  # fmt: skip
"""What the reader of a page has in the current folder by then; ``photos`` where nothing is said."""
SMALLER = {"README.md", "docs/python.md", "docs/several_labels.md"}
"""Where ``train`` has less to do than its reader asks for."""
SLOW = {"docs/changed_data.md", "docs/python.md", "docs/serving.md", "docs/trackers.md"}


def after_readme(held: dict[str, Any], said: str) -> None:
    assert said.count("digit-") >= 2
    assert "saved_model" in said
    assert Path("saved_models/photos/model.tflite").exists()


def after_changed_data(held: dict[str, Any], said: str) -> None:
    differ = [
        a["predicted"] != b["predicted"] for a, b in zip(held["old"], held["new"], strict=True)
    ]
    assert len(differ) == 180
    assert said.count(" -> ") == sum(differ) > 0


def after_data(held: dict[str, Any], said: str) -> None:
    data = kt.load_dataset("photos.csv", group="person")
    assert len(data.labels) == 60
    splits = {
        (Path(path).stem[0], split) for path, split in zip(data.paths, data.splits, strict=True)
    }
    assert len(splits) == 3  # each person in one split


def after_imbalance(held: dict[str, Any], said: str) -> None:
    found = [int(line.split("on: ")[1].split()[0]) for line in said.splitlines()]
    assert len(found) == 4
    assert found == sorted(found)  # the lower the threshold, the more
    assert int(held["truly"].sum()) >= 1


def after_python(held: dict[str, Any], said: str) -> None:
    assert held["done"].passed
    assert "predicted" in Path("answers.csv").read_text()
    assert held["again"].config["backbone"] == "own-mine"
    assert held["page"].exists()
    assert len(held["by_path"]) == len(held["in_memory"]) == len(held["split"]) == 60
    assert "time_budget must be a duration" in said
    first = held["examples"][:1]
    varied, model = held["varied"], held["model"]
    drawn = [np.asarray(varied(first, training=True)) for _ in range(2)]
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-4  # the picture was changed, each time otherwise
    np.testing.assert_array_equal(varied(first, training=False), model(first, training=False))


def after_serving(held: dict[str, Any], said: str) -> None:
    photo, *texts = (line.rsplit(None, 1)[0] for line in said.splitlines())
    assert photo == kt.predict("runs/photos", "photo.jpg")[0]["classes"][0]["label"]
    rows = kt.predict("runs/reviews", ["Funny and tender.", "Far too long."])
    assert texts == [row["classes"][0]["label"] for row in rows]


def after_several(held: dict[str, Any], said: str) -> None:
    assert held["matrix"].sum() == sum(map(len, held["labels"]))
    assert list(held["names"]) == ["ball", "dog"]
    assert list(held["again"].class_names) == ["0", "1"]
    assert said.startswith("[")


def after_texts(held: dict[str, Any], said: str) -> None:
    table = held["table"].join(held["answers"][["predicted"]], how="inner")
    assert len(table) == len(held["answers"]) > 0
    assert list(table["label"]) == list(held["answers"].loc[table.index, "label"])


def after_trackers(held: dict[str, Any], said: str) -> None:
    assert {path.name for path in Path().iterdir()} - {"runs", "photos"}


AFTER: dict[str, Callable[[dict[str, Any], str], None]] = {
    "README.md": after_readme, "docs/changed_data.md": after_changed_data,
    "docs/data.md": after_data, "docs/imbalance.md": after_imbalance,
    "docs/python.md": after_python, "docs/serving.md": after_serving,
    "docs/several_labels.md": after_several, "docs/texts.md": after_texts,
    "docs/trackers.md": after_trackers,
}  # fmt: skip
"""What must have come of it: what the code left, and what it printed."""


def small(train: Callable[..., Any]) -> Callable[..., Any]:
    """A ``train`` that has little to do, whatever else is asked of it."""
    less = {
        "image_size": 32, "views": 1, "unfreeze": "none", "weights": "none",
        "backbone": "MobileNetV3Small",
    }  # fmt: skip

    @functools.wraps(train)
    def smaller(*arguments: Any, **settings: Any) -> Any:
        return train(*arguments, **less | settings)

    return smaller


def missing(code: str) -> str | None:
    """The package of ``ABSENT`` that code needs and that is not there."""
    named = re.findall(r"^\s*(?:import|from) (\w+)", code, re.M)
    return next((n for n in named if n in ABSENT and importlib.util.find_spec(n) is None), None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, where the reader is, and little time spent on timing."""
    monkeypatch.setattr(parity, "TIMING_SECONDS", 0.05)
    monkeypatch.setattr(parity, "most_threads", lambda: 1)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] if p in SLOW else []) for p in PYTHON]
)
def test_python_of_a_page(
    page: str, place: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """As one script: later blocks use what earlier ones have made."""
    needed = [missing(code) for code in PYTHON[page]]
    if not all(needed):
        NEEDS.get(page, photos)(place, request)
    if page in SMALLER:
        monkeypatch.setattr(kt, "train", small(kt.train), raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    capsys.readouterr()
    held: dict[str, Any] = {"__name__": "__main__"}
    for code, package in zip(PYTHON[page], needed, strict=True):
        if package is None:
            with warnings.catch_warnings(action="ignore"):
                exec(compile(code, page, "exec"), held)
    left_out = [f"{package} {ABSENT[package]}" for package in needed if package]
    if page in AFTER and not all(needed):
        AFTER[page](held, capsys.readouterr().out)
    if left_out:
        pytest.skip(f"{len(left_out)} of {len(needed)} blocks: {'; '.join(left_out)}")


def test_what_is_quick_of_the_page_on_python(
    place: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture
) -> None:
    few(place, request)
    page = (ROOT / "docs/python.md").read_text()
    held: dict[str, Any] = {"kt": kt, "np": np, "Path": Path, "Image": Image}
    for heading in ("Data that is in memory", "Errors"):
        exec(FENCE.findall(page.split(f"\n## {heading}\n")[1])[0][1], held)
    assert len(held["by_path"]) == len(held["in_memory"]) == len(held["split"]) == 60
    assert "time_budget must be a duration" in capsys.readouterr().out


def test_the_tables_of_pages_name_pages_that_have_python() -> None:
    assert {*NEEDS, *AFTER, *SMALLER, *SLOW} <= PYTHON.keys()


def carry_out(given: list[tuple[str, str]], *left_out: str, only: str = "") -> None:
    """Carries out the commands of blocks, but those left out, or only those of one name."""
    for line in "".join(code for _, code in given).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["keras-transfer"] and words[1] not in left_out and only in ("", words[1]):
            assert cli.main(words[1:]) == 0, line


@pytest.mark.slow
def test_the_first_hour(place: Path, capsys: pytest.CaptureFixture) -> None:
    """Every block in turn, the demo left out, and what the page says about the files."""
    for language, code in blocks("docs/first_hour.md"):
        if language == "python":
            exec(code, {})
        else:
            carry_out([(language, code)], WAITS)
    said = capsys.readouterr().out
    assert "right on the test" in said
    assert "Report: " in said
    assert Path("runs/photos/report.html").exists()
    assert {"README.md", "model.tflite", "saved_model"} <= {
        path.name for path in Path("saved_models/photos").iterdir()
    }
