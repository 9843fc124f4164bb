"""What a table of texts may hold, and by what it may be asked to be split."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import zoo

from hostile.table import assert_refused, say
from keras_transfer import datasets
from keras_transfer.modalities.text import tokens
from keras_transfer.recipe import Recipe
from tuning.bench import Workbench

WORDS = Path(tokens.__file__).with_name("vocab.txt")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_TRANSFER_CACHE", str(tmp_path / "cache"))


SOUND = [
    (f"{word} number {'and so on ' * (i % 3)}{i} of many", word)
    for i in range(20)
    for word in ("cat", "dog")
]


def table(*rows, header=("text", "label"), sound=SOUND):
    """Forty sound rows, and odd ones before them, as CSV."""
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([header, *rows, *sound])
    return stream.getvalue()


def inspected(*words):
    said = say("inspect", *words, "--json")
    assert (said.code, said.err) == (0, ""), said
    return json.loads(said.out)


# What a cell may hold --------------------------------------------------------------------------

READ = {
    "nothing odd": ("cats and dogs", {}),
    "only emoji": ("\U0001f600 \U0001f621\U0001f408", {"unknown_words": 1, "unknown": 1}),
    "an emoji among words": ("I love my cat \U0001f600", {"unknown": 1}),
    "only spaces": ("  \t ", {"empty": 1}),
    "spaces that have no width": ("\u200b\u2060", {"empty": 1}),
    "an override of direction": ("\u202ecats and dogs\u202c", {}),
    "line breaks": ("one\n\nand, two\r\nthree", {}),
    "NUL": ("a\0b", {"not_text": 1}),
    "10 MB": ("word " * 2_000_000, {"bomb": 1}),
    "more than is read": ("very " * 300 + "long", {"cut": 1}),
    "one tag": ("Fine.<br />Really.", {"markup": 1}),
    "a tag with attributes": ('<a href="x">here</a>', {"markup": 1}),
    "an entity": ("cats &amp; dogs", {"markup": 1}),
    "comparisons": ("a <b and c> d &c;", {}),
    "many tags that never end": ("<a " * 50_000, {"cut": 1}),
    "Russian": ("Кошки и собаки", {"other_script": 1}),
    "Chinese": ("我们的人大中国", {"other_script": 1, "unknown": 1}),
    "Amharic": ("ድመቶች እና ውሾች", {"other_script": 1, "unknown_words": 1, "unknown": 1}),
    "a Russian word among English ones": ("the Russian word кошка means cat", {}),
    "French": ("L'été, ça, œuvre", {}),
    "rich's markup": ("[/red] text", {}),
    "a formula": ("=HYPERLINK(1)", {}),
}


@pytest.mark.parametrize("case", READ)
def test_cells_are_read_or_what_is_odd_is_said(case, tmp_path):
    content, findings = READ[case]
    Path("a.csv").write_text(table((content, "cat")), newline="")
    found = inspected("a.csv")
    assert found["finding_counts"] == findings
    assert inspected("a.csv") == found  # of what was kept of the first pass
    left_out = bool(findings.keys() & {"empty", "not_text", "bomb"})
    assert (found["images"], found["left_out"]) == (41 - left_out, left_out)
    said = say("inspect", "a.csv", "--page", "page.html", "--quiet")
    assert (said.code, said.err) == (0, "")
    page = Path("page.html").read_text()
    for words in (said.out, page.split("</style>")[1]):
        assert "image" not in words
        assert "pixel" not in words
        assert "file" not in words.replace("file that", "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_tables_in_other_encodings_are_read(encoding):
    Path("a.csv").write_bytes(table(("caf\u00e9 \u4f60", "cat")).encode(encoding))
    data = datasets.load_dataset("a.csv")
    assert data.read(0).decode() == "caf\u00e9 \u4f60"


REFUSED = {
    "no column of texts": (table(header=("words", "label")), "no column 'path' or 'text'"),
    "no labels": (table(header=("text", "stars")), "no column 'label'"),
    "labels that are blank": (table(sound=[(one, "") for one, _ in SOUND]), "no labelled texts"),
    "one class": (table(sound=[(one, "cat") for one, _ in SOUND]), "the single class 'cat'"),
    "Latin-1": (table(("caf\xe9", "cat")).encode("latin-1"), "not UTF-8 at byte 15"),
    "UTF-16 that is cut": (table().encode("utf-16")[:-1], "a.csv cannot be read"),
    "a picture": (zoo.encode(zoo.photo("china.jpg", side=8, seed=0), "PNG"), "not UTF-8 at byte 0"),
    "nothing": ("", "no column 'path' or 'text'"),
    "texts of spaces": (table(sound=[(" ", label) for _, label in SOUND]), "has no text that can"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_of_texts_that_cannot_be_used_are_refused(case):
    content, needle = REFUSED[case]
    Path("a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    said = say("inspect", "a.csv")
    assert "image" not in said.err + said.out
    assert_refused(said._replace(out=""), "a.csv", needle)  # what can be shown of it is


def test_five_thousand_classes_are_looked_at():
    rows = [(f"{i} {i * i} {word} {i + 7}", f"class {i}") for i in range(5000) for word in "ab"]
    Path("a.csv").write_text(table(sound=rows))
    found = datasets.inspect("a.csv", cache=False)
    assert len(found.dataset.class_names) == 5000
    assert "no text in the split 'val'" in found.problem.message


# Weights ---------------------------------------------------------------------------------------


def folder_of_weights(vocabulary):
    Path("hub").mkdir()
    Path("hub/config.json").write_text(json.dumps({"num_attention_heads": 2}))
    Path("hub/model.safetensors").write_bytes(b"")
    Path("hub/vocab.txt").write_bytes(vocabulary)


WEIGHTS = {
    "none for a backbone of any": ((), None, "BERT stands for many networks", "--weights FOLDER"),
    "a folder with other words": (("hub",), b"[PAD]\nhallo\n", "vocab.txt has 2 words of its own"),
    "a folder without words": (("hub",), b"", "vocab.txt is missing"),
    "our words, and no tensors": (("hub",), WORDS.read_bytes(), "hub/model.safetensors cannot be"),
    "a folder that is not there": (("gone",), None, "'gone' are neither", "Hugging Face"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_fit_texts_are_refused(case):
    weights, vocabulary, *needles = WEIGHTS[case]
    Path("a.csv").write_text(table())
    if vocabulary is not None:
        folder_of_weights(vocabulary)
    words = [word for name in weights for word in ("--weights", name)]
    said = say("train", "a.csv", "--backbone", "BERT", *words, "--output", "run", "--quiet")
    assert_refused(said, *needles)
    assert not Path("run").exists()


# Groups ----------------------------------------------------------------------------------------

FILMS = [(text, label, f"film {i // 4}") for i, (text, label) in enumerate(SOUND)]
HEADER = ("text", "label", "Film")


def lay(rows=FILMS, header=HEADER, name="a.csv"):
    if name.endswith(".jsonl"):
        lines = [json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows]
        Path(name).write_text("".join(lines))
    else:
        separator = "\t" if name.endswith(".tsv") else ","
        Path(name).write_text(table(header=header, sound=rows).replace(",", separator))


def parted(data, column=2, rows=FILMS):
    """The values of a column that are in several splits."""
    first = 1 if data.name.endswith("jsonl") else 2
    places = defaultdict(set)
    for path, split in zip(data.paths, data.splits.tolist(), strict=True):
        places[rows[int(path.removeprefix("row-")) - first][column]].add(split)
    return {value for value, splits in places.items() if len(splits) > 1}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_one_group_stay_in_one_split(name, seed):
    lay(name=name)
    assert parted(datasets.load_dataset(name, seed=seed))
    data = datasets.load_dataset(name, seed=seed, group="film")
    assert parted(data) == set()
    for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        labels = data.labels[data.indices(split)]
        assert abs(len(labels) / 40 - share) < 0.1  # a film is a tenth
        assert np.bincount(labels).tolist() == [len(labels) // 2] * 2
    for fold in datasets.kfold(datasets.load_dataset(name, group="film"), 5, seed=seed):
        assert parted(fold) == set()


def test_trials_of_a_search_are_grouped_as_well(tmp_path):
    lay()
    recipe = Recipe(backbone="MiniLM-L6", group="film", seed=1)
    bench = Workbench("a.csv", recipe, tmp_path, None)
    assert parted(bench.dataset(bench.trial_recipe({}))) == set()


def test_pictures_of_a_table_are_grouped_as_well():
    rows = []
    for i in range(24):
        label = ("china", "flower")[i % 2]
        Path(f"{i}.png").write_bytes(zoo.encode(zoo.photo(f"{label}.jpg", side=32, seed=i), "PNG"))
        rows.append((f"{i}.png", label, f"camera {i % 8}"))
    lay(rows, ("path", "label", "camera"))
    data = datasets.load_dataset("a.csv", group="camera")
    cameras = {path: camera for path, _, camera in rows}
    places = {(cameras[p], s) for p, s in zip(data.paths, data.splits.tolist(), strict=True)}
    assert len(places) == 8
    assert "8 groups by the column 'camera'" in say("inspect", "a.csv", "--group", "camera").out


@pytest.mark.parametrize("speakers", [3, 4, 5, 8, 20, 40])
def test_groups_that_hold_every_class_are_cut_by_the_shares_all_the_same(speakers):
    """Of ten classes each is the largest in few groups, too few to be cut by themselves."""
    groups = [f"group {i}" for i in range(speakers) for _ in range(50)]
    labels = np.random.default_rng(0).choice([f"class {i}" for i in range(10)], len(groups))
    for seed in range(5):
        placed = datasets.splits.complete(labels.tolist(), groups, [None] * len(groups), seed=seed)
        assert set(placed.tolist()) == {"train", "val", "test"}
        for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            held = (placed == name).mean() * speakers
            assert abs(held - share * speakers) < 1.2  # speakers


def splits_of(*rows):
    """Films with the splits of their rows."""
    return [(*row, split) for row, split in zip(FILMS, rows * 40, strict=False)]


ALONE = [(*row[:2], "") for row in FILMS[:8]] + FILMS[8:]
BLANK = "8 groups by the column 'Film'; rows without one: 8"
JOINED = [("the very same words", "cat", f"film {i}") for i in range(3)] + FILMS
GROUPED = {
    "as it is spelt": ("Film", FILMS, HEADER, "10 groups by the column 'Film'"),
    "spelt otherwise": (" FILM ", FILMS, HEADER, "10 groups by the column 'Film'"),
    "some rows without": ("Film", ALONE, HEADER, BLANK),
    "a column called so": (None, FILMS, ("text", "label", "group"), "by the column 'group'"),
    "another than the one called so": (
        "Film", [(*row, "x") for row in FILMS], (*HEADER, "group"), "10 groups by the column 'Film'"
    ),
    "copies that join three": ("Film", JOINED, HEADER, "10 groups by the column 'Film', 8 where"),
    "the texts": ("text", FILMS, HEADER, "40 groups by the column 'text'"),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPED)
def test_how_many_groups_there_are_is_said(case):
    group, rows, header, needle = GROUPED[case]
    lay(rows, header)
    words = ("a.csv", *(() if group is None else ("--group", group)))
    found = inspected(*words)
    said = [one["reason"] for one in found["findings"] if one["kind"] == "grouped"]
    assert len(said) == 1
    assert needle in said[0]
    told = datasets.notes(datasets.load_dataset("a.csv", group=group))  # what train prints
    assert f"{said[0]}: each stays in one split." in told
    assert say("inspect", *words, "--strict").code == (0 if case != "copies that join three" else 2)


def test_groups_that_given_splits_tear_apart_are_a_leak():
    lay(splits_of("train", "val", "test", "train"), (*HEADER, "split"))
    found = inspected("a.csv", "--group", "film")
    leaks = [one["reason"] for one in found["findings"] if one["kind"] == "leak"]
    assert leaks == [f"group 'film {i}' is in test and train and val" for i in range(10)]
    notes = [one["action"] for one in found["findings"] if one["kind"] == "grouped"]
    assert notes == ["parted by given splits alone"]
    assert "leak" not in inspected("a.csv")["finding_counts"]


def test_groups_that_later_lines_name_are_groups():
    lay(name="a.jsonl")
    lines = Path("a.jsonl").read_text().splitlines(True)
    lines[0] = json.dumps({"text": SOUND[0][0], "label": "cat"}) + "\n"
    Path("a.jsonl").write_text("".join(lines))
    data = datasets.load_dataset("a.jsonl", group="FILM")
    assert parted(data) <= {"film 0"}  # whose first row names none
    assert "10 groups by the column 'Film'; rows without one: 1" in str(data.findings)


def test_a_clean_manifest_keeps_the_groups():
    lay(JOINED)
    said = say("inspect", "a.csv", "--group", "film", "--fix", "clean")
    assert said.code == 0, said
    (note,) = [
        one for one in inspected("clean/manifest.csv")["findings"] if one["kind"] == "grouped"
    ]
    assert note["reason"] == "8 groups by the column 'group'"


UNGROUPED = {
    "a column that is not there": ("a.csv", "actor", "a.csv has no column 'actor'", "label, Film"),
    "one that JSON Lines lack": ("a.jsonl", "actor", "a.jsonl has no column 'actor'", "Film"),
    "one that a table of one group has": ("one.csv", "Film", "40 texts make 1 for the splits"),
    "one whose groups copies join": ("joined.csv", "Film", "50 texts make 1 for the splits"),
    "the label": ("a.csv", "label", "40 texts make 2 for the splits"),
    "a column of blanks": ("a.csv", "note", "a.csv has no column 'note' with names of groups"),
    "one of a folder": ("set", "film", "set has no column 'film' with"),
    "one of a builtin set": ("builtin:scipy", "film", "builtin:scipy has no column 'film' with"),
    "nothing": ("a.csv", "", "must be a name"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "command"),
    [
        *((case, "inspect") for case in UNGROUPED),
        ("a column that is not there", "train"), ("a column that is not there", "search"),
        ("nothing", "train"), ("one of a folder", "train"), ("one of a folder", "search"),
        ("one that a table of one group has", "train"),
    ],
)  # fmt: skip
def test_what_cannot_be_grouped_by_is_named(case, command):
    data, group, *needles = UNGROUPED[case]
    lay([(*row, " ") for row in FILMS], (*HEADER, "note"))
    lay(name="a.jsonl")
    lay([(*row[:2], "the only film") for row in FILMS], name="one.csv")
    lay([*FILMS, *(("as said before", "cat", f"film {i}") for i in range(10))], name="joined.csv")
    for i, (text, label) in enumerate(SOUND):
        Path("set", label).mkdir(parents=True, exist_ok=True)
        Path("set", label, f"{i}.txt").write_text(text)
    more = () if command == "inspect" else ("--output", "made", "--quiet")
    said = say(command, data, "--group", group, *more)
    if command == "inspect":  # which shows what can be shown
        said = said._replace(out="")
    assert_refused(said, *needles)
    assert not Path("made", "config.json").exists()
    assert not Path("made", "study.json").exists()
    shutil.rmtree("made", ignore_errors=True)
