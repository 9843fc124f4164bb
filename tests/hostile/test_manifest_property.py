"""Any bytes as a manifest: read as an independent reader reads them, or refused. Any names too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transfer import datasets
from keras_transfer.base.errors import DataError
from keras_transfer.base.types import Dataset

ALIASES = {
    "path": ("path", "image", "file", "filename", "file_name", "filepath", "image_path"),
    "label": ("label", "class", "category", "class_name", "target"),
    "split": ("split", "set", "subset", "partition"),
    "group": ("group", "group_id"),
}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
Row = tuple[str, str, str | None, str | None]


class Refused(Exception):
    """No manifest by the rules."""


def cells_of(text: str, separator: str) -> list[list[str]]:
    """The rows of a table after RFC 4180, character by character; blank lines are rows too."""
    rows: list[list[str]] = [[]]
    cell, state, at = "", "begin", 0
    while at < len(text):
        c = text[at]
        end = "\r\n" if text.startswith("\r\n", at) else c if c in "\r\n" else ""
        if state == "quoted":
            if c != '"':
                cell += c
            elif text.startswith('""', at):
                cell, at = cell + '"', at + 1
            else:
                state = "closed"
        elif c == separator or end:
            if c == separator or state != "begin" or rows[-1]:
                rows[-1].append(cell)
            cell, state = "", "begin"
            if end:
                rows.append([])
                at += len(end) - 1
        elif state == "closed":
            raise Refused
        elif state == "begin" and c == '"':
            state = "quoted"
        else:
            cell, state = cell + c, "plain"
        at += 1
    if state == "quoted":
        raise Refused
    if state != "begin" or rows[-1]:
        rows[-1].append(cell)
    return rows if rows[-1] else rows[:-1]


def manifest_of(data: bytes) -> list[Row]:
    """What a manifest means, by what its documentation says."""
    try:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = data.decode("utf-16") if wide else data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise Refused from None
    first = re.split("\r\n|\r|\n", text)[0]
    header, *rows = cells_of(text, max(",;\t", key=first.count)) or [[]]
    names = [cell.strip().lower() for cell in header]
    places = {
        key: next((names.index(alias) for alias in known if alias in names), None)
        for key, known in ALIASES.items()
    }
    if places["path"] is None or places["label"] is None:
        raise Refused
    labels: dict[str, set[str]] = {}
    found: dict[str, Row] = {}
    for row in (row for row in rows if "".join(row).strip()):
        known = dict(zip(range(len(names)), (cell.strip() for cell in row), strict=False))
        path, label, split, group = (known.get(at, "") if at is not None else ""
                                     for at in places.values())  # fmt: skip
        if split and split.lower() not in SPLITS:
            raise Refused
        if path and label and not "".join(row[len(names) :]).strip():
            path = path.replace("\\", "/")  # no such file is there
            labels.setdefault(path, set()).add(label)
            found.setdefault(path, (path, label, SPLITS.get(split.lower()), group or None))
    kept = sorted(row for path, row in found.items() if len(labels[path]) == 1)
    if not kept or any(re.search("[\0\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", row[1]) for row in kept):
        raise Refused
    return kept


ODD = st.text('ab,;\t" \n\r\0\\/.\u00e9\x85\ufeff', max_size=6)
PATHS = st.one_of(st.sampled_from(["a.jpg", "b.jpg", " a.jpg", "a\\c.jpg", "a/c.jpg", ""]), ODD)
LABELS = st.one_of(st.sampled_from(["cat", "dog ", "chat, noir", 'a "b" c', ""]), ODD)
PLACES = st.sampled_from(["", "", "train", "dev", "TEST", "valid", "holdout"])
ROWS = st.one_of(
    st.tuples(PATHS, LABELS),
    st.tuples(PATHS, LABELS, PLACES),
    st.tuples(PATHS, LABELS, PLACES, ODD),
    st.lists(ODD, max_size=5).map(tuple),
)
HEADERS = st.one_of(
    st.just(("path", "label")),
    st.just(("Image", " class ", "split")),
    st.just(("file", "label", "set", "group_id")),
    st.lists(st.sampled_from(["path", "file", "label", "set", "note", ""]), max_size=5).map(tuple),
)


@st.composite
def tables(draw) -> str:
    """A table that is nearly right: quoted or not, with any separator and line end."""
    separator, end = draw(st.sampled_from(",;\t")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = ""
    careless = draw(st.booleans())  # about what has to be quoted
    for row in [draw(HEADERS), *draw(st.lists(ROWS, min_size=1, max_size=5))]:
        quote = ["" if careless or not set(cell) & set('",;\t\r\n') else '"' for cell in row]
        doubled = [cell if careless else cell.replace('"', '""') for cell in row]
        cells = [mark + cell + mark for mark, cell in zip(quote, doubled, strict=True)]
        text += separator.join(cells) + end
    return text


ENCODED = st.builds(
    lambda text, encoding: text.encode(encoding),
    tables(),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]),
)
MANIFESTS = st.one_of(
    ENCODED,
    st.builds(lambda one, other: one + other, ENCODED, st.binary(max_size=20)),
    st.binary(max_size=60),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("manifests") / "list.csv"


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=MANIFESTS)
def test_any_bytes_are_read_as_an_independent_reader_reads_them_or_refused(manifest, data):
    manifest.write_bytes(data)
    try:
        expected = manifest_of(data)
    except Refused:
        with pytest.raises(DataError) as refused:
            datasets.inspect(manifest, cache=False)
        assert refused.value.remedy
    else:
        source = datasets.inspect(manifest, cache=False).source
        assert [tuple(item) for item in source.items] == expected


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(names=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=6, unique_by=lambda x: x[0]))
def test_any_names_come_back_from_a_file_of_splits(manifest, names):
    paths, labels = zip(*names, strict=True)
    classes = tuple(sorted(set(labels)))
    splits = np.array([("train", "val", "test")[i % 3] for i in range(len(names))])
    made = Dataset("set", paths, np.array([classes.index(label) for label in labels]), classes,
                   splits, (), (), read=lambda i: b"")  # fmt: skip
    datasets.write_splits(made, manifest)
    held = datasets.read_splits(manifest)
    assert held == {p: (a, s) for p, a, s in zip(paths, labels, splits.tolist(), strict=True)}
