"""A modality is a folder: a toy one, of short texts, goes through data, pages and predictions."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import io
import json
import re
import shutil
from typing import ClassVar

import keras
import numpy as np
import pytest
from hostile.table import assert_refused, say
from promises import check_modality
from runs import saved

from keras_transfer.base import files
from keras_transfer.base.errors import DataError, ExampleError, UsageError
from keras_transfer.datasets import inspect, load_dataset, natural_sizes
from keras_transfer.modalities import MODALITIES, Examined, InputSpec
from keras_transfer.runs import report
from keras_transfer.runs.report import write_report


class Texts:
    """Words as the bytes of their letters; a view leaves out one word."""

    NAME = NOUN = "text"
    VERSION = 1
    SUFFIXES: ClassVar = {".txt": "TEXT", ".md": ""}
    SUFFIX = ".txt"
    SIZE = "image_size"
    FINGERPRINT = (32,)
    EXTENT = "letters"
    EXTENT_EDGES = (0, 10, 100)
    SIZE = "max_length"

    @staticmethod
    def spec(size):
        if size < 1:
            raise UsageError("no length", remedy="Give one.")
        return InputSpec("text", (size,), "int32", "letters, 0 where there are none")

    LITERAL = True
    excerpt = None

    def preview(self, spec, /):
        return self.spec(40)

    @classmethod
    def spec_of(cls, shape, dtype):
        fits = len(shape) == 1 and None not in shape and dtype == "int32"
        return cls.spec(int(shape[0])) if fits else None

    def decode(self, data, spec=None):
        try:
            letters = [ord(letter) for letter in data.decode()]
        except UnicodeDecodeError:
            raise ExampleError("no UTF-8") from None
        if not letters:
            raise ExampleError("empty file", kind="empty")
        example = np.zeros(spec.shape if spec else len(letters), np.int32)
        example[: len(letters)] = letters[: len(example)]
        return example

    def examine(self, data, spec=None):
        whole = self.decode(data)
        known = np.frombuffer(hashlib.sha256(data.lower()).digest(), np.uint8)
        return Examined(spec and self.decode(data, spec), known, "TEXT", len(whole))

    def losses(self, extents, unknown, spec, some):
        return []

    def peek(self, data):
        return len(self.decode(data))

    def view(self, examples, digests, number, *, seed=0, strength=1.0, flip=True):
        drawn = examples.copy()
        for row, digest in zip(drawn, digests, strict=True) if number else ():
            key = hashlib.sha256(f"{digest} {number} {seed}".encode()).digest()
            row[int.from_bytes(key[:4], "big") % np.count_nonzero(row)] = ord(" ")
        return drawn

    def mirroring_is_safe(self, examples, labels, train, validation):
        return False, ""

    def near_copies(self, fingerprints):
        first: dict[bytes, int] = {}
        pairs = []
        for i, row in enumerate(fingerprints):
            j = first.setdefault(row.tobytes(), i)
            pairs += [(j, i)] if i != j else []
        return np.array(pairs, np.int64).reshape(-1, 2)

    def from_memory(self, values):
        return values

    def encode(self, value):
        return "".join(chr(letter) for letter in value if letter).encode()

    def show(self, example, caption="", saliency=None):
        weights = np.zeros(len(example)) if saliency is None else np.resize(saliency, len(example))
        said = [
            f'<b style="opacity:{weight:.3f}">{html.escape(chr(letter))}</b>'
            for letter, weight in zip(example, weights, strict=True)
            if letter
        ]
        plain = html.escape(self.encode(example).decode())
        shown = plain if saliency is None else "".join(said)
        return f'<p title="{html.escape(caption)}">{shown}</p>'


@pytest.fixture(autouse=True)
def texts(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(MODALITIES, "text", Texts())
    return MODALITIES["text"]


@pytest.fixture
def folder(tmp_path):
    for i in range(24):
        path = tmp_path / "set" / ("long", "short")[i % 2] / f"{i:02d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        words = [f"{number:02d}-word" for number in range(i, i + (3 if i % 2 else 9))]
        path.write_text(" ".join(words))
    return tmp_path / "set"


def test_the_toy_keeps_the_promises(texts):
    items = [f"{letter}-word and another".encode() for letter in "abcdefghi"]
    check_modality(texts, items, size=24, damaged=[b"\xff\xfe", b"\xc3"])


@pytest.mark.parametrize("cache", [True, False])
def test_a_folder_of_texts_is_a_data_set(folder, texts, cache):
    (folder / "long/zz.txt").write_bytes(b"\xff")
    (folder / "long/photo.jpg").write_bytes(b"")
    for _ in range(2):
        data = load_dataset(folder, image_size=16, cache=cache)
        assert (data.modality, data.class_names) == ("text", ("long", "short"))
        assert (data.examples.shape, data.examples.dtype) == ((24, 16), np.int32)
        for i in range(24):
            assert np.array_equal(data.examples[i], texts.decode(data.read(i), texts.spec(16)))
        assert {(one.path, one.kind) for one in data.findings} == {
            ("long/zz.txt", "unreadable"),
            ("long/photo.jpg", "other_file"),
        }
    assert len(natural_sizes(folder)) == 24


def test_texts_are_shown_and_said_by_their_name(folder, tmp_path):
    (folder / "long/again.txt").write_text((folder / "long/00.txt").read_text().upper())
    inspection = inspect(folder)
    assert [one.reason for one in inspection.findings] == ["almost the same text as long/00.txt"]
    inspection.write_page(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "00-word 01-word" in page
    assert "letters" in page
    clean = inspection.fix(tmp_path / "clean")
    assert load_dataset(clean).modality == "text"


def test_too_few_texts_are_called_texts(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.txt").write_text("a-word")
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path)
    assert "image" not in str(caught.value)


NAMES = tuple(f"digit-{i}" for i in range(10))
EVIL = "<script>window.hacked = 1</script> & <b>"


def reader(classes=10):
    """A tiny classifier of letters, with the names of a real one."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((16,), dtype="int32", name="text")
    states = keras.layers.Embedding(256, 6, mask_zero=True)(ids)
    pooled = keras.layers.GlobalAveragePooling1D(name="avg_pool")(states)
    logits = keras.layers.Dense(classes, name="logits")(pooled)
    return keras.Model(ids, keras.layers.Softmax(name="probabilities")(logits))


def letters(i):
    return f"{EVIL} {i} words".encode() if i % 3 else f"{i:02d} plain words".encode()


def run_on_texts(folder, texts, names=NAMES):
    """A run, with what the page asks of it."""
    run = saved.save(folder, names, 60, names=[f"{i}.txt" for i in range(60)])
    examples = np.stack([texts.decode(letters(i), texts.spec(16)) for i in range(60)])
    data = dataclasses.replace(
        run.pictures, examples=examples, read=letters, modality="text", findings=()
    )
    config = {**run.config, "modality": "text"}
    return dataclasses.replace(run, config=config, pictures=data, classifier=reader)


@pytest.fixture
def run(tmp_path, texts):
    return run_on_texts(tmp_path / "run", texts)


def test_the_page_of_a_run_shows_texts_and_where_the_model_looked(run):
    page = write_report(run).read_text()
    assert "Parts of this page are missing" not in page
    mistakes, doubts = page.split("Most confident mistakes")[1].split("Least confident hits")
    items = mistakes.split("<li>")[1:]
    assert len(items) == report.MISTAKES
    assert all("opacity:1.000" in item for item in items)  # what spoke most for the class
    assert "opacity" not in doubts
    assert "words</p>" in doubts
    said = re.sub(r"(?s)<script>.*?</script>|<style>.*?</style>|<[^>]*>|data:[^\"]*", "", page)
    assert "image" not in said.rsplit("How to repeat it", 1)[0]
    assert "On 60 test texts" in said


def test_texts_are_data_and_not_markup(texts, tmp_path):
    run = run_on_texts(tmp_path / "odd", texts, [EVIL + name for name in NAMES])
    page = write_report(run).read_text()
    assert page.count("<script") == 1
    assert "&lt;script&gt;window.hacked = 1" in page
    pieces = [piece.read_text() for piece in (run.path / "plots" / "examples").iterdir()]
    assert len(pieces) == report.MISTAKES + report.DOUBTS + len(run.metrics.get("suspects", ()))
    assert not any("<script" in piece for piece in pieces)
    assert all("Text of the class &lt;script" in piece for piece in pieces)


def test_texts_survive_the_loss_of_data_and_model(run):
    page = write_report(run).read_text()
    run = dataclasses.replace(run, pictures=None, classifier=None)
    again = write_report(run).read_text()
    assert "The texts: The folder digits is gone" in again
    for part in ("mistakes", "repeat"):
        assert page.split(f'<h2 id="{part}">')[1].split("<h2")[0] in again
    assert again.count("opacity:1.000") == page.count("opacity:1.000") > 0


def test_a_text_that_is_gone_is_named_and_the_others_are_there(run):
    first = write_report(run).read_text()
    kept = run.path / "plots" / "examples"
    shutil.rmtree(kept)

    def read(i):
        if i % 2:
            raise DataError(f"{i}.txt has changed since the set was opened.", remedy="-")
        return letters(i)

    run = dataclasses.replace(run, pictures=dataclasses.replace(run.pictures, read=read))
    page = write_report(run).read_text()
    missing = page.split("Parts of this page are missing")[1].split("<nav")[0]
    gone = sum(int(i) % 2 for i in re.findall(r">(\d+)\.txt</bdi>", page))
    assert missing.count("has changed since the set was opened") == gone > 0
    shown = page.count('<div class="example"><p')
    assert shown + gone == first.count('<div class="example"><p')
    assert len(list(kept.iterdir())) == shown


# Predictions -----------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    """An exported classifier of texts: a file with its labels beside it."""
    (tmp_path / "export").mkdir()
    reader().save(tmp_path / "export" / "model.keras")
    (tmp_path / "export" / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return tmp_path / "export"


def expected(texts, data, names=NAMES):
    scores = np.asarray(reader(len(names))(texts.decode(data, texts.spec(16))[None]))[0]
    return [names[i] for i in np.argsort(-scores, kind="stable")[:3]]


def labels(row):
    return [one["label"] for one in row["classes"]]


def test_files_and_words_and_lines_are_classified(model, texts, tmp_path, monkeypatch):
    file = tmp_path / "a file.txt"
    file.write_text("what stands in a file")
    stream = io.BytesIO("first line\r\n\nzweite Zeile ß".encode() + b"\n\xff\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
    said = say("predict", model, file, "some words", "-", "--json")
    assert said.code == 2  # two of the lines cannot be read
    rows = json.loads(said.out)
    given = {str(file): b"what stands in a file", "some words": b"some words",
             "first line": b"first line", "": None, "zweite Zeile ß": "zweite Zeile ß".encode(),
             "\\xff": None}  # fmt: skip
    assert [row["text"] for row in rows] == list(given)
    for row, data in zip(rows, given.values(), strict=True):
        assert row.keys() == {"text", "classes" if data else "error"}
        assert data is None or labels(row) == expected(texts, data)
    assert [row["error"] for row in rows if "error" in row] == ["empty file", "no UTF-8"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [("none.txt", "no such file"), ("none.TXT", "no such file"), ("/proc/self/attr", "dir")],
)
def test_what_looks_like_a_file_is_not_taken_for_a_text(model, word, reason):
    said = say("predict", model, word, "--json")
    assert said.code == 2
    assert reason in json.loads(said.out)[0]["error"]


@pytest.mark.parametrize("word", ["a\nb\x1b[2J", "a" * 5000, "\udcff", "x.png", "none.md"])
def test_any_words_are_said_in_a_line(model, word):
    said = say("predict", model, word)
    assert said.code == (2 if word == "\udcff" else 0), said
    assert said.out.count("\n") == 1
    assert "\x1b" not in said.out


def test_lines_of_a_closed_standard_input_are_refused(model, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert_refused(say("predict", model, "-"), "standard input is closed")


def test_a_dash_is_a_file_where_a_model_takes_images(digits_run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"never read\n")))
    said = say("predict", digits_run, "-", "no file", "--json")
    assert said.code == 2
    assert [row["image"] for row in json.loads(said.out)] == ["-", "no file"]
    assert all(row["error"] == "no such file or directory" for row in json.loads(said.out))


def of_run(digits_run, folder, **config):
    """A copy of a run that holds a classifier of texts."""
    shutil.copytree(digits_run, folder)
    reader(5).save(folder / "model.keras")
    held = json.loads((folder / "config.json").read_text())
    files.write_json(folder / "config.json", held | config)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["files"]["model.keras"] = files.file_sha256(folder / "model.keras")
    files.write_json(folder / "metrics.json", files.sealed(metrics))
    return folder


def test_a_run_says_of_which_modality_it_is(digits_run, texts, tmp_path):
    told = of_run(digits_run, tmp_path / "told", modality="text", max_length=16, fit=None)
    said = say("predict", told, "some words", "--json")
    assert said.code == 0, said
    assert labels(json.loads(said.out)[0]) == expected(texts, b"some words", NAMES[:5])
    silent = of_run(digits_run, tmp_path / "silent")
    assert_refused(say("predict", silent, "words"), "int32 [None, 16], not images")


@pytest.mark.parametrize("value", ["video", "", 3, None, ["text"]], ids=repr)
@pytest.mark.parametrize("command", ["predict", "report"])
def test_a_run_of_no_known_modality_is_refused(digits_run, tmp_path, command, value):
    run = of_run(digits_run, tmp_path / "run", modality=value)
    words = [command, run, *["words"] * (command == "predict")]
    assert_refused(say(*words), str(run / "config.json"), "modality")
