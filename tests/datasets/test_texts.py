"""Texts from tables, folders and memory go through a data set as they are."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from keras_transfer import cli
from keras_transfer.base.errors import DataError
from keras_transfer.datasets import (
    inspect,
    load_dataset,
    natural_sizes,
    open_source,
    write_splits,
)
from keras_transfer.modalities import text


@pytest.fixture(scope="session")
def said():
    """Forty texts of two classes that have nothing to do with each other."""
    source = open_source("builtin:scipy")
    chosen = []
    for label in ("ndimage", "signal"):
        rows = [item for item in source.items if item.label == label][:60:3]
        chosen += [(source.read(item.path).decode(), label) for item in rows]
    return chosen


def write_table(path, said, header=("text", "label"), encoding="utf-8", delimiter=","):
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(said)
    return path


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def assert_holds(data, said):
    """That a set has these texts, under their labels, as ids of 32."""
    assert data.modality == "text"
    assert Counter(
        (data.read(i).decode(), data.class_names[data.labels[i]]) for i in range(len(data))
    ) == Counter(said)
    for i in range(len(data)):
        assert np.array_equal(data.examples[i], text.decode(data.read(i), text.spec(32)))


@pytest.mark.parametrize("cache", [True, False])
def test_a_folder_of_texts_is_a_data_set(tmp_path, said, cache):
    for i, (one, label) in enumerate(said):
        place = tmp_path / "set" / label / f"{i:02d}{('.txt', '.md')[i % 2]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(one)
    for _ in range(2):
        data = load_dataset(tmp_path / "set", image_size=32, cache=cache)
        assert_holds(data, said)
        assert data.paths[0] == "ndimage/00.txt"


def test_what_lies_beside_the_classes_does_not_decide(tmp_path, pictures):
    for i, picture in enumerate(pictures[:24]):
        place = tmp_path / "set" / "ab"[i % 2] / str(i)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture)
    (tmp_path / "set/README.txt").write_text("photos")
    assert load_dataset(tmp_path / "set").modality == "image"
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/a.txt").write_text("a text")
    with pytest.raises(DataError, match="no labelled texts"):
        load_dataset(tmp_path / "flat")


@pytest.mark.parametrize(
    ("name", "encoding", "delimiter"),
    [("a.csv", "utf-8", ","), ("a.csv", "utf-8-sig", ";"), ("a.tsv", "utf-16", "\t")],
)
def test_a_table_of_texts_is_a_data_set(tmp_path, said, name, encoding, delimiter):
    said = [
        (f'{one}\n\nsecond, "quoted" paragraph 你好; {i}', label)
        for i, (one, label) in enumerate(said)
    ]
    file = write_table(tmp_path / name, said, encoding=encoding, delimiter=delimiter)
    data = load_dataset(file, image_size=32)
    assert_holds(data, said)
    assert data.paths[:2] == ("row-000002", "row-000003")
    assert data.read(0).decode() == said[0][0]


def test_json_lines_are_a_data_set(tmp_path, said):
    records = [
        {"text": one, "label": label, "meta": {"n": [i]}} for i, (one, label) in enumerate(said)
    ]
    data = load_dataset(write_lines(tmp_path / "a.jsonl", records), image_size=32)
    assert_holds(data, said)
    assert data.paths[0] == "row-000001"


def test_labels_of_json_lines_may_be_numbers(tmp_path, said):
    records = [{"Text": one, "label": len(label)} for one, label in said]
    assert load_dataset(write_lines(tmp_path / "a.jsonl", records)).class_names == ("6", "7")


@pytest.mark.parametrize("kind", [list, np.array, lambda values: [v.encode() for v in values]])
def test_texts_in_memory_are_a_data_set(said, kind):
    texts, labels = zip(*said, strict=True)
    data = load_dataset((kind(texts), list(labels)), image_size=32)
    assert_holds(data, said)
    assert data.paths[0] == "ndimage/000000.txt"


class Column:
    """As much of a pandas Series as is asked for."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values

    def isna(self):
        return Column([value is None or value != value for value in self.values])


class Frame:
    """As much of a pandas DataFrame as is asked for, ``items`` and a column ``read`` included."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self.held = columns
        self.read = None

    def items(self):
        raise AssertionError

    def __len__(self):
        return len(next(iter(self.held.values())))

    @property
    def iloc(self):
        return self

    def __getitem__(self, key):
        return Column(self.held[self.columns[key[1]]])


def test_a_data_frame_is_a_data_set(said):
    texts, labels = map(list, zip(*said, strict=True))
    data = load_dataset(Frame(weight=[1.5] * 40, text=texts, label=labels), image_size=32)
    assert_holds(data, said)
    assert data.paths[0] == "row-000000"
    labels[3], texts[4] = None, float("nan")
    data = load_dataset(Frame(text=texts, label=labels, read=labels))
    assert {(one.path, one.kind) for one in data.findings if one.path} == {
        ("row-000003", "unlabelled"),
        ("row-000004", "empty"),
    }
    with pytest.raises(DataError, match="the DataFrame has no column 'label'"):
        load_dataset(Frame(text=texts))


def test_rows_of_a_data_frame_are_grouped(said):
    texts, labels = map(list, zip(*said, strict=True))
    films = [i // 2 for i in range(38)] + [None, float("nan")]
    data = load_dataset(Frame(text=texts, label=labels, Film=films), group="film")
    rows = [int(path.removeprefix("row-")) for path in data.paths]
    places = {(films[i], split) for i, split in zip(rows, data.splits.tolist(), strict=True)}
    assert len([film for film, _ in places if film in range(19)]) == 19
    assert "19 groups by the column 'Film'" in str(data.findings)
    with pytest.raises(DataError, match=r"no column 'actor' for group"):
        load_dataset(Frame(text=texts, label=labels, Film=films), group="actor")


def test_splits_and_groups_of_rows_are_taken(tmp_path, said):
    names = ["train"] * 6 + ["validation", "test"] * 2
    rows = [(one, label, names[i % 10], f"film {i // 2}") for i, (one, label) in enumerate(said)]
    file = write_table(tmp_path / "a.csv", rows, ("text", "label", "split", "group"))
    data = load_dataset(file)
    assert {split: len(data.indices(split)) for split in ("train", "val", "test")} == {
        "train": 24, "val": 8, "test": 8,
    }  # fmt: skip
    assert len({item.group for item in open_source(file).items}) == 20


def test_splits_go_back_in(tmp_path, said):
    file = write_table(tmp_path / "a.csv", said)
    first = load_dataset(file, image_size=32, seed=3)
    write_splits(first, tmp_path / "splits.csv")
    again = load_dataset(file, image_size=32, splits=tmp_path / "splits.csv")
    assert again.paths == first.paths
    assert np.array_equal(again.splits, first.splits)
    assert np.array_equal(again.examples, first.examples)


def test_rows_that_were_appended_rename_no_other(tmp_path, said):
    few = load_dataset(write_table(tmp_path / "few.csv", said[:30]))
    more = load_dataset(write_table(tmp_path / "more.csv", said))
    assert set(few.paths) < set(more.paths)


def test_of_paths_and_texts_the_files_are_read_if_they_are_there(tmp_path, said, pictures):
    rows = [(f"{i}.jpg", one, label) for i, (one, label) in enumerate(said)]
    file = write_table(tmp_path / "a.csv", rows, ("path", "text", "label"))
    data = load_dataset(file, image_size=32)
    assert_holds(data, said)
    assert ("two_columns", "texts read") in {(one.kind, one.action) for one in data.findings}
    for i, picture in enumerate(pictures[:40]):
        (tmp_path / f"{i}.jpg").write_bytes(picture)
    data = load_dataset(file, image_size=32)
    assert data.modality == "image"
    assert ("two_columns", "files read") in {(one.kind, one.action) for one in data.findings}


def test_copies_of_texts_are_said(tmp_path, said):
    (first, label), (second, _) = said[:2]
    rows = [*said, (first, label), (second.upper() + " ", label), (said[-1][0], "ndimage")]
    found = inspect(write_table(tmp_path / "a.csv", rows)).findings
    assert {(one.path, one.kind) for one in found if one.path} == {
        ("row-000042", "duplicate"), ("row-000043", "near_duplicate"),
        ("row-000041", "conflicting_labels"), ("row-000044", "conflicting_labels"),
    }  # fmt: skip


def test_the_page_shows_texts_and_calls_them_so(tmp_path, said, capsys):
    odd = "<script>alert(1)</script> \u202e hidden"
    rows = [*said, (odd, "signal"), (odd.upper(), "signal")]
    file = write_table(tmp_path / "a.csv", rows)
    assert cli.main(["inspect", str(file), "--page", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    HTMLParser().feed(page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert page.count(' title="row-0000') >= 24
    for words in (page, capsys.readouterr().out):
        assert "texts" in words
        assert not re.search(r"\bimages\b", words)


def test_a_clean_manifest_of_rows_is_one_of_files(tmp_path, said):
    inspection = inspect(write_table(tmp_path / "a.csv", [*said, said[0]]))
    clean = load_dataset(inspection.fix(tmp_path / "clean"), image_size=32)
    assert_holds(clean, said)
    assert all(path.startswith("texts/") and path.endswith(".txt") for path in clean.paths)


def test_natural_sizes_are_tokens(tmp_path, said):
    sizes = natural_sizes(write_table(tmp_path / "a.csv", said))
    assert sorted(sizes) == sorted(len(text.decode(one.encode())) for one, _ in said)


def table(*rows, header="text,label"):
    """A sound table of forty rows with these before it."""
    sound = [
        f"{word} number {'and so on ' * (i % 3)}{i} of many,{word}"
        for i in range(20)
        for word in ("cat", "dog")
    ]
    return "\n".join([header, *rows, *sound]) + "\n"


READ = {
    "an empty text": (table(",cat"), {"row-000002": "empty"}),
    "a text of blanks": (table('"  \n ",cat'), {"row-000002": "empty"}),
    "control characters alone": (table("\x07\x1b,cat"), {"row-000002": "empty"}),
    "NUL in a text": (table("a\0b,cat"), {"row-000002": "not_text"}),
    "a text of 10 MB": (table("word " * 2_000_000 + ",cat"), {"row-000002": "bomb"}),
    "a text of 900 kB": (table("word " * 180_000 + ",cat"), {}),
    "no label": (table("a text"), {"row-000002": "unlabelled"}),
    "more cells than the header": (table("a text,cat,dog"), {"row-000002": "unlabelled"}),
    "emoji alone": (table("\U0001f600 \U0001f621,cat"), {"row-000002": "unknown_words"}),
    "an override of direction": (table("\u202ea text,cat"), {}),
    "a formula": (table("=HYPERLINK(1),cat"), {}),
    "rich's markup": (table("[/red] text,cat"), {}),
    "blank rows": (table("", "  ", ","), {}),
}


@pytest.mark.parametrize("case", READ)
def test_odd_cells_are_read_or_said(tmp_path, case, capsys):
    content, expected = READ[case]
    (tmp_path / "a.csv").write_bytes(content.encode())
    data = load_dataset(tmp_path / "a.csv", image_size=32)
    about = {one.path: one.kind for one in data.findings if one.path == "row-000002"}
    assert about == expected
    assert cli.main(["inspect", str(tmp_path / "a.csv"), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "test texts means" in printed.out
    left_out = sum(one.action == "left out" for one in data.findings if one.path)
    assert len(data) + left_out == 40 + (len(content.splitlines()) > 41) - (case == "blank rows")


REFUSED = {
    "no label column": ("a.csv", "text,weight\nx,y\n", "has no column 'label'"),
    "no text column": ("a.csv", "name,label\nx,y\n", "no column 'path' or 'text'"),
    "a header alone": ("a.csv", "text,label\n", "no labelled texts"),
    "an unknown split": ("a.csv", "text,label,split\nx,cat,holdout\n", "row 2: the split is"),
    "a line break in a label": ("a.csv", table('x,"c\nat"'), "'c\\nat'"),
    "a quote that never ends": ("a.csv", table() + '"x', "line 42: unexpected end of data"),
    "a label of 200,000 letters": ("a.csv", table("x," + "y" * 200_000), "row 2: a cell has over"),
    "Latin-1": ("a.csv", table("caf\xe9,cat").encode("latin-1"), "not UTF-8 at byte 14"),
    "no JSON": ("a.jsonl", '{"text": "x", "label": "y"}\n{"text": \n', "line 2: Expecting value"),
    "a list for a line": ("a.jsonl", '[1, 2]\n', "line 1: no object"),
    "a word for a line": ("a.jsonl", '"text"\n', "line 1: no object"),
    "JSON without the names": ("a.jsonl", '{"x": 1}\n', "no column 'path' or 'text'"),
    "JSON nested deeply": ("a.jsonl", "[" * 200_000 + "\n", "line 1"),
    "JSON of a vast number": ("a.jsonl", '{"text": "x", "label": ' + "9" * 5000 + "}\n", "line 1"),
    "an empty file of JSON": ("a.jsonl", "", "no column 'path' or 'text'"),
    "JSON in Latin-1": ("a.jsonl", '{"text": "caf\xe9"}'.encode("latin-1"), "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_cannot_be_used_are_refused(tmp_path, case, capsys):
    name, content, needle = REFUSED[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / name)
    assert needle in caught.value.message
    assert len(caught.value.message) < 2_000
    assert cli.main(["inspect", str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert caught.value.remedy in printed.err


def test_half_a_surrogate_pair_is_a_finding_in_a_text_and_spelt_out_in_a_name(tmp_path, said):
    records = [{"text": one, "label": label, "group": i} for i, (one, label) in enumerate(said)]
    records[0]["text"] = "half \ud83d"
    records[1]["group"] = records[2]["label"] = "half \ud83d"
    data = load_dataset(write_lines(tmp_path / "a.jsonl", records), for_training=False)
    kinds = {(one.path, one.kind) for one in data.findings if one.path}
    assert ("row-000001", "not_text") in kinds
    assert "half \\ud83d" in {item.label for item in open_source(tmp_path / "a.jsonl").items}
    texts = [one for one, _ in said]
    data = load_dataset(([*texts, "half \ud83d"], [*(label for _, label in said), "signal"]))
    kinds = {(one.path, one.kind) for one in data.findings if one.path}
    assert kinds == {("signal/000040.txt", "not_text")}


def test_null_and_nested_values_are_blank(tmp_path, said):
    records = [{"text": one, "label": label} for one, label in said]
    records[0]["label"], records[1]["text"], records[2]["label"] = ["a"], {"b": 1}, None
    data = load_dataset(write_lines(tmp_path / "a.jsonl", records))
    assert {(one.path, one.kind) for one in data.findings if one.path} == {
        ("row-000001", "unlabelled"), ("row-000002", "empty"), ("row-000003", "unlabelled"),
    }  # fmt: skip


def test_what_is_no_text_in_a_list_is_named():
    with pytest.raises(DataError, match="text 2 is nan, a float"):
        load_dataset((["a", "b", float("nan")], [0, 1, 0]))


def test_scipys_own_words_are_a_data_set():
    data = load_dataset("builtin:scipy", image_size=32)
    assert (len(data) >= 600, len(data.class_names) >= 4, data.modality) == (True, True, "text")
    assert len(set(data.digests)) == len(data)
    assert {"scipy.linalg.svd", "scipy.stats.ttest_ind"} <= set(data.paths)
    again = load_dataset("builtin:scipy")
    assert again.digests == data.digests
    assert min(np.bincount(data.labels)) >= 40
    words = data.read(data.paths.index("scipy.special.gamma")).decode()
    assert words.startswith("gamma function.")
    assert "Parameters" not in words
    assert not any(b"The documentation is written" in data.read(i) for i in range(len(data)))


def test_builtin_sets_are_offered():
    with pytest.raises(DataError, match="builtin:digits or builtin:scipy"):
        open_source("builtin:nothing")
    with pytest.raises(DataError, match="Did you mean builtin:scipy"):
        open_source("builtin:scpy")
