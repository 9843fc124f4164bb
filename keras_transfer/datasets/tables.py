"""Rows of named cells: from CSV, from JSON Lines, from a DataFrame."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keras_transfer.base.errors import DataError
from keras_transfer.base.task import MARK
from keras_transfer.datasets.sources import MAX_FILE_BYTES

COLUMNS = {
    "name": ("name_in_run",),
    "path": (
        "path", "image", "file", "filename", "file_name", "filepath", "image_path", "audio", "clip",
        "audio_path",
    ),
    "text": ("text", "sentence", "document", "content"),
    "label": ("label", "class", "category", "class_name", "target"),
    "split": ("split", "set", "subset", "partition"),
    "group": ("group", "group_id"),
    "start": ("start", "start_time", "begin", "onset"),
    "end": ("end", "end_time", "stop"),
}  # fmt: skip
LISTS = (list, tuple, set, frozenset)
"""What a cell may be that lists an example's classes."""
LONGEST = 131_072  # characters of a cell that is no text: one longer comes of a lost quote


class Table(NamedTuple):
    """Cells as they were found.

    Attributes:
        where: names the table in messages.
        header: the names of its columns.
        rows: what a row is counted as, and its cells.
        named: what columns are called, by what they mean, if it is another than ``COLUMNS`` says.
        listed: True where labels were lists, see ``Source.listed``.
    """

    where: str
    header: Sequence[str]
    rows: Sequence[tuple[int, list[str]]]
    named: Mapping[str, str]
    listed: bool | None = None

    def columns(self, needed: Sequence[str]) -> dict[str, int]:
        """Where the columns are that it has, by what they mean.

        Args:
            needed: what they must mean; alternatives are joined by " or ".

        Raises:
            DataError: one of those is missing.
        """
        names = [cell.strip().lower() for cell in self.header]
        listed, present = ", ".join(self.header)[:500], dict[str, int]()
        own = {key: name.strip().lower() for key, name in self.named.items()}
        # A table with none of them, such as the sheet that label() writes, has the usual ones.
        named = own if "group" in own or set(own.values()) & set(names) else {}
        for key, aliases in COLUMNS.items():
            aliases = (named[key],) if key in named else aliases
            found = [names.index(alias) for alias in aliases if alias in names]
            present |= {key: found[0]} if found else {}
        for key in named.keys() - present.keys():
            problem = f"{self.where} has no column {self.named[key]!r} for {key}. It has: {listed}"
            raise DataError(problem, remedy=f"Give {key} the name of one of its columns.")
        for key in needed:
            if present.keys().isdisjoint(key.split(" or ")):
                missing = key.replace(" or ", "' or '")
                problem = f"{self.where} has no column '{missing}'. Its first row is: {listed}"
                remedy = "Name them path, text, label, or say columns text=review,label=stars."
                raise DataError(problem, remedy=remedy)
        return present

    def cells(self, columns: dict[str, int]) -> list[tuple[int, dict[str, str]]]:
        """The rows that are not empty, by what their cells mean.

        What is not there is blank; ``beyond`` is what a row has more than the header.

        Raises:
            DataError: a cell other than a text is larger than any name.
        """
        width, found = len(self.header), []
        for number, row in self.rows:
            known = row[:width] + [""] * (width + 1)
            cells = {key: known[columns.get(key, width)] for key in COLUMNS}
            cells["beyond"] = "".join(row[width:])
            if any(len(cells[key]) > LONGEST for key in cells if key != "text"):
                problem = f"{self.where}, row {number}: a cell has over {LONGEST:,} letters."
                raise DataError(problem, remedy="Look for a quote that was left out.")
            if any(cell.strip() for cell in row):
                found.append((number, cells))
        return found


def named(group: str | None, columns: str | None) -> dict[str, str]:
    """What settings of these names say that columns are called, by what they mean."""
    pairs = dict(pair.split("=") for pair in columns.split(",")) if columns else {}
    return pairs if group is None else pairs | {"group": group}


def _meant(named: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """What columns may be called, by what they mean."""
    usual = {key: COLUMNS[key] if key != "group" else () for key in named}
    return COLUMNS | {key: (name.strip().lower(), *usual[key]) for key, name in named.items()}


def read_csv(path: Path, named: Mapping[str, str]) -> Table:
    """Reads a table with a header. The separator is the one that the first line has most of.

    Raises:
        DataError: it cannot be read.
    """
    text = _decoded(path, "CSV")
    separator = max(",;\t", key=next(io.StringIO(text, newline=""), "").count)
    limit = csv.field_size_limit(MAX_FILE_BYTES)  # a long text is a finding, no damaged file
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header, *rows = list(lines) or [[]]
    except csv.Error as error:
        problem = f"{path}, line {lines.line_num}: {error}."
        raise DataError(problem, remedy="Give a file saved as CSV in UTF-8.") from None
    finally:
        csv.field_size_limit(limit)
    return Table(str(path), header, list(enumerate(rows, start=2)), named)


def read_jsonl(path: Path, named: Mapping[str, str]) -> Table:
    """Reads one JSON object a line. What is null, a list or an object is a blank cell, but for
    labels that are all lists of classes.

    Raises:
        DataError: it cannot be read, or a line is no object.
    """
    records = []
    for number, line in enumerate(_decoded(path, "JSON Lines").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append((number, dict(json.loads(line).items())))
        except (ValueError, AttributeError, RecursionError) as error:
            reason = "no object" if isinstance(error, AttributeError) else error
            problem = f"{path}, line {number}: {reason}."
            remedy = 'Give one object a line, such as {"text": "...", "label": "..."}.'
            raise DataError(problem, remedy=remedy) from None
    first = list(records[0][1]) if records else []
    known = set(itertools.chain(*_meant(named).values()))
    later = [key for _, record in records for key in record if key.strip().lower() in known]
    header = list(dict.fromkeys([*first, *later]))
    labels = [key for key in header if key.strip().lower() in _meant(named)["label"]][:1]
    held = {type(record.get(key)) for _, record in records for key in labels} - {type(None)}
    if listed := held == {list}:
        for number, record in records:
            if record.get(labels[0]) is not None:
                record[labels[0]] = of_list(record[labels[0]], f"{path}, line {number}")
    rows = [(number, [_cell(record.get(key)) for key in header]) for number, record in records]
    return Table(str(path), header, rows, named, listed or None)


def of_list(names: Iterable[Any], where: str) -> str:
    """The classes of an example as one cell, which holds ``MARK`` however many they are.

    Raises:
        DataError: one of them is no name, or holds ``MARK`` itself.
    """
    words = [str(name) if isinstance(name, int) else name for name in names]
    for word in words:
        if not isinstance(word, str) or MARK in word or not word.strip():
            problem = f"{where}: {word!r} is no name of a class among several."
            raise DataError(problem, remedy=f"Give words without {MARK!r}.")
    return MARK.join([*words, ""]) or MARK


def read_frame(frame: Any, named: Mapping[str, str]) -> Table:
    """Reads a pandas DataFrame, or what has its ``columns`` and ``iloc``; rows count from 0."""
    header, known = [str(column) for column in frame.columns], _meant(named)
    columns, listed = [], False
    for i, name in enumerate(header):
        column = frame.iloc[:, i]
        wanted = name.strip().lower() in itertools.chain(*known.values())
        held = column.tolist() if wanted else []
        if name.strip().lower() in known["label"]:
            listed = listed or any(isinstance(cell, LISTS) for cell in held)
            held = [
                of_list(cell, f"the DataFrame, row {row}") if isinstance(cell, LISTS) else cell
                for row, cell in enumerate(held)
            ]
        cells = zip(held, column.isna().tolist(), strict=True) if wanted else ()
        columns.append(
            ["" if missing else str(cell) for cell, missing in cells] or [""] * len(frame)
        )
    rows = [(number, list(cells)) for number, cells in enumerate(zip(*columns, strict=True))]
    return Table("the DataFrame", header, rows, named, listed or None)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or isinstance(value, (dict, list)) else json.dumps(value)


def _decoded(path: Path, form: str) -> str:
    """The characters of a file: UTF-8, or UTF-16 as its mark or its first letter says."""
    try:
        data = path.read_bytes()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        unmarked = "utf-16-le" if data[1:2] == b"\0" else "utf-8-sig"
        return data.decode("utf-16" if wide else unmarked)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = f"not UTF-8 at byte {error.start}"
        problem = f"{path} cannot be read: {reason}."
        raise DataError(problem, remedy=f"Give a file saved as {form} in UTF-8.") from None
