"""Manifests: a path or a text and a label a row, optionally a split, a group, and a segment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_transfer.base.errors import DataError
from keras_transfer.base.task import MARK, ONE, task_of
from keras_transfer.base.types import Dataset, Finding
from keras_transfer.datasets import segments, tables
from keras_transfer.datasets.sources import BLANK, LEFT_OUT, SPLIT_NAMES, Item, Source, read_file
from keras_transfer.modalities import Modality, modality, modality_of_files

JSON_LINES = (".jsonl", ".ndjson")
OF_ROWS = (".csv", ".tsv", *JSON_LINES)
SUFFIXES = (".txt", *OF_ROWS)

Rows = list[tuple[int, dict[str, str]]]


def manifest_source(path: Path, name: str, named: Mapping[str, str]) -> Source:
    """Reads a CSV manifest with a header, or JSON Lines; paths in it are relative to the file.

    Commas, semicolons and tabs separate; quoting, a byte order mark and Windows line ends are
    understood.

    Raises:
        DataError: it cannot be read, or as ``table_source``.
    """
    return table_source(_table(path, named), name, path.parent, str(path.resolve()))


def table_of(
    dataset: Dataset, home: str, named: Mapping[str, str]
) -> tuple[list[str], Iterator[list[str]]]:
    """A table from which examples that came from Python are read again, under the same names.

    Args:
        dataset: of the origin ``files`` or ``texts``.
        home: what the names of these examples begin with; others are not of this table.
        named: what columns are called, by what they mean.

    Returns:
        Its header and its rows, in the splits of the data set; paths are in full.
    """
    of_texts, task = dataset.origin == "texts", task_of(dataset.labels)
    keys = dict.fromkeys(
        ["name", "text" if of_texts else "path", "label", "split", "group", *named]
    )
    labels = task.decode(dataset.labels, dataset.class_names)
    groups = dataset.groups or [""] * len(dataset)

    def rows() -> Iterator[list[str]]:
        for i, name in enumerate(dataset.paths):
            if name.startswith(home):
                meant = segments.named(name.removeprefix(home))
                place = meant._replace(file=os.path.abspath(meant.file)).name
                what = dataset.read(i).decode() if of_texts else place
                # However many classes it has, the cell says that it might have several.
                label = labels[i] + ("" if task is ONE else MARK)
                group = groups[i].removeprefix("group ") if groups[i].startswith("group ") else ""
                row = [name.removeprefix(home), what, label, str(dataset.splits[i]), group]
                yield row + [""] * (len(keys) - len(row))

    return [named.get(key, tables.COLUMNS[key][0]) for key in keys], rows()


def unlabelled(data: Any, kind: str, columns: str | None) -> tuple[str, list[str]]:
    """Whether a table, a file or a DataFrame, names files (by ``path``) or texts (``text``), and
    those of its rows."""
    named = tables.named(None, columns)
    named = {key: named[key] for key in ("path", "text") if key in named}
    is_frame = hasattr(data, "columns")
    table = tables.read_frame(data, named) if is_frame else _table(data, named)
    found = table.columns(("path or text",))
    column = "text" if kind == "text" and "text" in found else "path"
    cells = [row[column].strip() for _, row in table.cells(found) if row[column].strip()]
    if column == "text" or is_frame:
        return column, cells
    return column, [str(data.parent / cell) for cell in cells]


def _table(path: Path, named: Mapping[str, str]) -> tables.Table:
    json_lines = path.suffix.lower() in JSON_LINES
    return (tables.read_jsonl if json_lines else tables.read_csv)(path, named)


def frame_source(frame: Any, named: Mapping[str, str]) -> Source:
    """Reads a pandas DataFrame; paths in it are relative to the working folder.

    Raises:
        DataError: as ``table_source``.
    """
    return table_source(tables.read_frame(frame, named), "DataFrame", Path())


def table_source(table: tables.Table, name: str, root: Path, identity: str | None = None) -> Source:
    """The items of a table: files, or texts that stand in it.

    A text is named after its row, such as ``row-000012``: the header of CSV is row 1, JSON Lines
    count from 1, a DataFrame counts from 0. Of a table with paths and texts the files are taken if
    any of them is there, else the texts; a finding says which. What :func:`table_of` has written is
    called as it was. Rows without a path or a label, and repeated rows, are left out with a
    finding. Rows of one value in the column of groups are one. Of what has segments a row may mean
    one, from its start to its end in seconds; rows of one file are then one group, unless the
    column of groups says more.

    Raises:
        DataError: the table lacks the columns, or names an unknown split or impossible segment.
    """
    columns = table.columns(("path or text", "label"))
    column = table.header[columns["group"]] if "group" in columns else None
    rows = table.cells(columns)
    findings: list[Finding] = []
    if not _is_of_texts(columns, rows, root, findings):
        kind = modality_of_files(segments.named(cells["path"]).file for _, cells in rows)
        form = modality(kind)
        if form.excerpt is not None:
            rows = _of_segments(table.where, rows)
            column = column or ("path" if any(cells["group"] for _, cells in rows) else None)
        places = {cells["name"]: cells["path"] for _, cells in rows if cells["name"]}
        rows = [(n, cells | {"path": cells["name"] or cells["path"]}) for n, cells in rows]
        return Source(
            name,
            _items(table.where, root, rows, findings),
            lambda item: _read(root, places.get(item, item), form),
            identity,
            findings,
            lambda item: root / places.get(item, item),
            modality=kind,
            group=column,
            listed=table.listed,
        )
    rows = [(n, cells | {"path": cells["name"] or f"row-{n:06d}"}) for n, cells in rows]
    texts = {cells["path"]: cells["text"] for _, cells in rows}
    encode: Any = modality("text").encode
    kept = _items(table.where, root, rows, findings)
    return Source(
        name, kept, lambda row: encode(texts[row]), identity, findings,
        modality="text", group=column, listed=table.listed,
    )  # fmt: skip


def _of_segments(where: str, rows: Rows) -> Rows:
    """The rows with paths that name their segments; what is of one file is of one group."""
    meant = []
    for line, cells in rows:
        said = (cells[key].strip() for key in ("path", "start", "end"))
        meant.append(segments.in_cells(f"{where}, row {line}", *said))
    parted, found = {one.file for one in meant if not one.whole}, []
    for (line, cells), one in zip(rows, meant, strict=True):
        group = cells["group"] or (one.file if one.file in parted else "")
        found.append((line, cells | {"path": one.name, "group": group}))
    return found


def _read(root: Path, name: str, form: Modality) -> bytes:
    meant = segments.Segment(name) if form.excerpt is None else segments.named(name)
    data = read_file(root / meant.file)
    return data if meant.whole or form.excerpt is None else form.excerpt(data, *meant[1:])


def _is_of_texts(columns: dict[str, int], rows: Rows, root: Path, findings: list[Finding]) -> bool:
    """Whether the texts of a table are meant, rather than files that it names."""
    if not columns.keys() >= {"path", "text"}:
        return "text" in columns
    absent = not any(cells["path"] and os.path.exists(root / cells["path"]) for _, cells in rows)
    reason = "there are paths and texts; " + ("no file is there" if absent else "files are there")
    findings.append(Finding("", "two_columns", reason, f"{'texts' if absent else 'files'} read"))
    return absent


def _items(where: str, root: Path, rows: Rows, findings: list[Finding]) -> list[Item]:
    """The rows that say enough, sorted by path."""
    items: dict[str, Item] = {}
    for line, row in rows:
        # Half a surrogate pair, as JSON can spell it, is no part of a name.
        cells = {
            key: cell.encode(errors="backslashreplace").decode().strip()
            for key, cell in row.items()
            if key != "text"
        }
        item = _item(f"{where}, row {line}", root, cells)
        first = items.get(item.path)
        kind, reason, action = "conflicting_labels", f"row {line} names it again", LEFT_OUT
        if not item.path or not item.label:
            kind, reason = "unlabelled", f"row {line}: {BLANK if item.path else 'no path'}"
        elif cells["beyond"]:
            kind, reason = "unlabelled", f"row {line}: more cells than the header has"
        elif first is None:
            items[item.path] = item
            continue
        elif first.label == item.label:
            kind, action = "repeated_row", f"kept as {first.label!r}"
        else:
            reason += f", as {item.label!r}"
            items[item.path] = Item(item.path, "")
        findings.append(Finding(item.path, kind, reason, action))
    return sorted((item for item in items.values() if item.label), key=lambda item: item.path)


def _item(where: str, root: Path, cells: dict[str, str]) -> Item:
    """One row, as far as it says something; its path may have been written on Windows."""
    split = SPLIT_NAMES.get(cells["split"].lower())
    if cells["split"] and split is None:
        problem = f"{where}: the split is {cells['split']!r}."
        raise DataError(problem, remedy="Use train, val or test, or leave it empty.")
    file = cells["path"]
    if "\\" in file and not cells["name"] and not os.path.exists(root / file):
        file = file.replace("\\", "/")
    return Item(file, sys.intern(cells["label"]), split, cells["group"] or None)
