"""Names of classes, runs and data that are markup: every page and card shows them as they are."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from hostile.table import say
from keras_transfer.base import files, templates
from keras_transfer.export import card
from keras_transfer.export.images import ImageSignature
from keras_transfer.modalities import image
from keras_transfer.runs import folder as runs
from keras_transfer.runs import report
from tuning import results, study_page

NAMES = {
    "a script": "<script>alert(1)</script>", "an image": "<img src=x onerror=alert(1)>",
    "a comment left open": "<!-- ", "a link": "[x](javascript:alert(1))",
    "a picture": "![x](http://evil/x.png)", "a reference": "[x][y]", "an address": "<a@b.c>",
    "a column": "a|b", "code": "`rm -rf ~`", "a fence": "```", "emphasis": "*all* __of__ _it_",
    "struck out": "~~x~~", "an entity": "&lt;b&gt; &copy;", "a backslash": "a\\*b\\",
    "a heading": "# big", "a closed heading": "x #", "a list": "- x", "a numbered list": "12. x",
    "another list": "1) x", "a plus": "+ x", "a rule": "---", "stars": "***", "a quote": "> x",
    "an underline": "===", "a template": "{{ 7 * 7 }}{% raw %}", "mathematics": "$x^$",
    "a turn of direction": "abc\u202egnp.exe", "an isolate": "\u2067abc\u2066",
    "a snake": "snake_case_x", "quotes": "\"'", "an attribute": '" onmouseover="alert(1)',
    "spaces": "two  spaces",
}  # fmt: skip
OF_FOLDERS = {kind: name for kind, name in NAMES.items() if "/" not in name}
TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def seen(name: str) -> str:
    """A name as it is to be shown."""
    return TURNS.sub("\ufffd", name)


def parse(text: str) -> Any:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)


def tags(text: str) -> list[str]:
    return [token.type + token.tag for token in parse(text)]


def spoken(tokens: Any) -> list[str]:
    """The text of each inline part, which holds nothing else than text and code."""
    found = []
    for token in tokens:
        if token.type == "inline":
            kinds = {child.type for child in token.children}
            assert kinds <= {"text", "text_special", "softbreak", "code_inline"}, token.children
            found.append("".join(child.content for child in token.children))
    return found


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("- {}", id="in a list"),
        pytest.param("# {}", id="in a heading"),
        pytest.param("{}", id="alone"),
        pytest.param("| {} | b |\n|---|---|\n| {} | c |", id="in a table"),
    ],
)
def test_a_name_in_markdown(name: str, place: str) -> None:
    text = place.replace("{}", templates.markdown(name))
    assert tags(text) == tags(place.replace("{}", "x"))
    assert spoken(parse(text))[0] == " ".join(name.split())


def written(run: runs.Run, folder: Path, name: str, classes: list[str]) -> dict[str, str]:
    """What an export of a run with such names says of itself."""
    own = {"class_names": classes, "data": f"/x/{name}", "author": name, "weights": name}
    named = dataclasses.replace(run, config={**run.config, **own, "weights_licence": name})
    fed = ImageSignature(image.spec(64))
    info = dataclasses.replace(card.describe(named, fed), name=name)
    judged = {"accuracy": 0.9, "accuracy_interval": [0.8, 1.0], "nll": 0.3}
    facts = {"images": 7, "artefacts": {}, "reference": judged, "mediapipe": {"agreement": 1.0}}
    nothing: Any = SimpleNamespace(probabilities=np.ones((1, 5)), labels=np.zeros(1, int))
    card.write(folder, named, info, facts, nothing)
    return {file: (folder / file).read_text("utf-8") for file in ("README.md", "model_card.md")}


@pytest.mark.parametrize("name", OF_FOLDERS.values(), ids=OF_FOLDERS)
def test_a_name_on_a_card(name: str, digits_run: Path, tmp_path: Path) -> None:
    run = runs.open_run(digits_run)
    classes = [*(f"{name}{i}" for i in range(4)), name]
    plain = written(run, tmp_path, "plain", list("abcde"))
    texts = written(run, tmp_path, name, classes)
    for file, text in texts.items():
        assert tags(text) == tags(plain[file]), file
        assert seen(" ".join(name.split())) in " ".join(spoken(parse(text)))
        assert not TURNS.search(text)
    listed = re.search(r"classes:\n\n(.*?)\n\n", texts["model_card.md"], re.DOTALL)
    assert listed is not None
    assert spoken(parse(listed[1])) == [seen(" ".join(one.split())) for one in classes]


class Elements(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, what scripts it runs, its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: set[str] = set()
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.attributes |= {name for name, _ in attrs}
        self.words += [str(value) for _, value in attrs]
        self.scripts += ["?"] if tag == "script" else []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def assert_shown(page: str, names: list[str], scripts: int = 0) -> None:
    """Each name is in a page, and none is markup there."""
    found = Elements(page)
    assert not [name for name in found.attributes if name.startswith("on")]
    assert len(found.scripts) == scripts
    assert "<img src=x" not in page
    assert not TURNS.search(page)
    for name in names:
        assert any(seen(name) in word for word in found.words), name


def test_names_on_the_page_of_an_inspection(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for name in OF_FOLDERS.values():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            levels = noise.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(levels).save(tmp_path / "data" / name / f"{i}{name}.png")
    assert say("inspect", tmp_path / "data", "--page", tmp_path / "page.html").code == 0
    assert_shown((tmp_path / "page.html").read_text("utf-8"), list(OF_FOLDERS.values()))


KINDS = ("a script", "an image", "an attribute", "a turn of direction", "mathematics")
WORST = [NAMES[kind] for kind in KINDS]


def renamed(value: Any) -> Any:
    """A value with the worst names where it has those of the classes of digits."""
    if isinstance(value, dict):
        return {renamed(key): renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    return WORST[int(value[-1])] if re.fullmatch("digit-[0-4]", str(value)) else value


def test_names_on_the_page_of_a_run(digits_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(digits_run, tmp_path / "<b>run")
    gone = {"data": "/x/<i>data", "data_path": "/x/<i>data"}
    config, metrics = (
        renamed(json.loads((run / name).read_text("utf-8"))) | gone
        for name in (runs.CONFIG, runs.METRICS)
    )
    del metrics["files"]  # as of a version without digests
    files.write_json(run / runs.CONFIG, config)
    files.write_json(run / runs.METRICS, files.sealed(metrics))
    with open(run / runs.PREDICTIONS, newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    files.write_csv(run / runs.PREDICTIONS, header, map(renamed, rows))
    report.write_report(runs.open_run(run))
    assert_shown((run / runs.PAGE).read_text("utf-8"), [*WORST, "<i>data", "<b>run"], 1)


def test_names_on_the_page_of_a_study(tmp_path: Path) -> None:
    about = {
        "keras_transfer": "1", "data": WORST[0], "data_digest": "0", "own_splits": False,
        "setup": {"weights": WORST[1]}, "tuner": "random", "objective": "nll",
        "space": {"space": [], "values": {}},
    }  # fmt: skip
    files.write_json(tmp_path / results.STUDY, about)
    np.save(tmp_path / results.LABELS, np.arange(5))
    for number, name in enumerate(WORST):
        values = {"weights": name, "fine_tune_lr": 1e-3 * (number + 1)}
        ended = {"nll": 0.1 * number + 0.1} if number else {"reason": f"{name} failed"}
        status = results.COMPLETED if number else results.FAILED
        record = results.Record(
            number, status, values, values, accuracy=0.9, macro_f1=0.9, worker=name,
            finished=f"2026-01-01T00:00:0{number}+00:00", **ended,
        )  # fmt: skip
        results.write_record(tmp_path, record)
        np.save(results.trial_folder(tmp_path, number) / results.LOGITS, np.eye(5, dtype="f4"))
    files.write_text(tmp_path / results.BEST, f"weights = {json.dumps(WORST[2])}\n")
    study_page.write_page(tmp_path)
    assert_shown((tmp_path / study_page.PAGE).read_text("utf-8"), WORST, 1)
