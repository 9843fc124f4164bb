"""Tables whose columns have names of their own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import keras_transfer as kt
from keras_transfer import cli
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.recipe import read

COLUMNS = "text=Review,label=stars,split=part"
ROWS = [
    {"id": str(n), "Review": f"{word} number {n}", "stars": stars, "part": part, "film": f"f{n}"}
    for n, (word, stars, part) in enumerate(
        [("good", "5", "train"), ("bad", "1", "train"), ("fine", "5", "val"), ("poor", "1", "test")]
    )
]


def written(folder: Path, suffix: str, rows: list[dict[str, str]]) -> Path:
    path = folder / f"reviews{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
        return path
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)
    return path


def read_so(data: object) -> list[tuple[str, str, str]]:
    found = kt.inspect(data, columns=COLUMNS).dataset
    return [
        (found.read(i).decode(), found.class_names[found.labels[i]], str(found.splits[i]))
        for i in range(len(found.labels))
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_columns_are_found_by_the_names_that_are_said(tmp_path: Path, suffix: str) -> None:
    rows = read_so(str(written(tmp_path, suffix, ROWS)))
    assert rows == [(row["Review"], row["stars"], row["part"]) for row in ROWS]


def test_of_a_dataframe_too_with_lists_as_labels(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert len(read_so(pandas.DataFrame(ROWS))) == 4
    frame = pandas.DataFrame({"Review": ["a b", "c d"], "stars": [["x", "y"], []]})
    found = kt.inspect(frame, columns="text=Review,label=stars").dataset
    assert found.labels.tolist() == [[1, 1], [0, 0]]


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    table = str(written(tmp_path, ".csv", ROWS))
    with pytest.raises(DataError, match=r"no column 'path' or 'text'.*id, Review, stars") as said:
        kt.inspect(table)
    assert "columns text=review,label=stars" in said.value.remedy
    with pytest.raises(DataError, match=r"no column 'prat' for split.*id, Review, stars, part"):
        kt.inspect(table, columns="text=Review,label=stars,split=prat")


def test_a_named_column_that_is_missing_is_not_replaced_by_a_usual_one(tmp_path: Path) -> None:
    table = str(written(tmp_path, ".csv", [row | {"label": "other"} for row in ROWS]))
    with pytest.raises(DataError, match=r"no column 'strs' for label.*id, Review, stars"):
        kt.inspect(table, columns="text=Review,label=strs")
    usual = [{"text": row["Review"], "label": row["stars"], "split": row["part"]} for row in ROWS]
    (tmp_path / "sheet").mkdir()
    sheet = written(tmp_path / "sheet", ".csv", usual)
    assert read_so(str(sheet)) == [(row["Review"], row["stars"], row["part"]) for row in ROWS]


@pytest.mark.parametrize("wrong", ["review", "texts=review", "text=", "text=a=b", "", 5, "text"])
def test_what_cannot_be_a_name_of_columns_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError, match="columns must be names of columns such as text=review"):
        read("columns", wrong)


@pytest.mark.slow
def test_a_run_knows_its_columns_from_then_on(
    texts_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``evaluate``, ``predict``, ``label`` and ``update`` are not told again."""
    rows = [json.loads(line) for line in texts_table.read_text().splitlines()]
    named = [{"id": "0", "Review": row["text"], "stars": row["label"]} for row in rows]
    monkeypatch.chdir(tmp_path)
    written(tmp_path, ".csv", named[::2])
    (tmp_path / "more").mkdir()
    more = written(tmp_path / "more", ".csv", named[1::2])
    words = ["--effort", "quick", "--max-length", "24", "--quiet", "--columns"]
    words += ["text=review,label=stars", "--output", "run", "--split", "0.4,0.2,0.4"]
    assert cli.main(["train", "reviews.csv", *words]) == 0
    run = kt.open_run("run")
    assert len(run.dataset.labels) == len(named[::2])
    told = kt.predict(run, more, top=1)
    assert [row["text"] for row in told] == [row["Review"] for row in named[1::2]]
    assert told == kt.predict(run, [row["Review"] for row in named[1::2]], top=1)
    assert cli.main(["evaluate", "run", str(more), "--quiet"]) == 0
    sheet = kt.label(run, str(more), count=5)
    assert len(sheet.rows) == 5
    kt.update(run, str(more), output="updated")
    assert len(kt.open_run("updated").dataset.labels) == len(named) - 1  # a near copy
