"""A modality is a folder: a toy one, of short texts, goes through data sets as it is."""

from __future__ import annotations

import hashlib
import html
from typing import ClassVar

import numpy as np
import pytest
from promises import check_modality

from keras_transfer.base.errors import DataError, ExampleError, UsageError
from keras_transfer.datasets import inspect, load_dataset, natural_sizes
from keras_transfer.modalities import MODALITIES, Examined, InputSpec


class Texts:
    """Words as the bytes of their letters; a view leaves out one word."""

    NAME = "text"
    VERSION = 1
    SUFFIXES: ClassVar = {".txt": "TEXT", ".md": ""}
    SUFFIX = ".txt"
    FINGERPRINT = (32,)
    EXTENT = "letters"
    EXTENT_EDGES = (0, 10, 100)

    @staticmethod
    def spec(size):
        if size < 1:
            raise UsageError("no length", remedy="Give one.")
        return InputSpec("text", (size,), "int32", "letters, 0 where there are none")

    PREVIEW = spec(40)

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

    def peek(self, data):
        return len(self.decode(data))

    def view(self, examples, digests, number, *, seed=0, strength=1.0, flip=True):
        drawn = examples.copy()
        for row, digest in zip(drawn, digests, strict=True) if number else ():
            key = hashlib.sha256(f"{digest} {number} {seed}".encode()).digest()
            row[int.from_bytes(key[:4], "big") % np.count_nonzero(row)] = ord(" ")
        return drawn

    def mirroring_is_safe(self, train, labels, validation, validation_labels):
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

    def show(self, example, caption=""):
        return f'<p title="{html.escape(caption)}">{html.escape(self.encode(example).decode())}</p>'


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
