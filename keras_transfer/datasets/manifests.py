"""CSV manifests: a path and a label a row, optionally a split and a group."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from keras_transfer.base.errors import DataError
from keras_transfer.base.types import Finding
from keras_transfer.datasets.sources import LEFT_OUT, SPLIT_NAMES, Item, Source, read_file
from keras_transfer.modalities import modality_of_files

COLUMNS = {
    "path": ("path", "image", "file", "filename", "file_name", "filepath", "image_path"),
    "label": ("label", "class", "category", "class_name", "target"),
    "split": ("split", "set", "subset", "partition"),
    "group": ("group", "group_id"),
}


def csv_source(path: Path, name: str) -> Source:
    """Reads a manifest with a header; paths in it are relative to the manifest.

    Commas, semicolons and tabs separate; quoting, a byte order mark and Windows line ends are
    understood. Rows without a path or a label, and repeated rows, are left out with a finding.

    Raises:
        DataError: it cannot be read, lacks the columns, or names an unknown split.
    """
    root = path.parent
    findings: list[Finding] = []
    items: dict[str, Item] = {}
    for line, row in read_rows(path, ("path", "label")):
        cells = {key: cell.strip() for key, cell in row.items()}
        item = _item(f"{path}, row {line}", root, cells)
        first = items.get(item.path)
        kind, reason, action = "conflicting_labels", f"row {line} names it again", LEFT_OUT
        if not item.path or not item.label:
            kind, reason = "unlabelled", f"row {line}: no {'label' if item.path else 'path'}"
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
    kept = sorted((item for item in items.values() if item.label), key=lambda item: item.path)
    return Source(
        name,
        kept,
        lambda file: read_file(root / file),
        str(path.resolve()),
        findings,
        lambda file: root / file,
        modality=modality_of_files(item.path for item in kept),
    )


def _item(where: str, root: Path, cells: dict[str, str]) -> Item:
    """One row, as far as it says something; its path may have been written on Windows."""
    split = SPLIT_NAMES.get(cells["split"].lower())
    if cells["split"] and split is None:
        problem = f"{where}: the split is {cells['split']!r}."
        raise DataError(problem, remedy="Use train, val or test, or leave it empty.")
    file = cells["path"]
    if "\\" in file and not os.path.exists(root / file):
        file = file.replace("\\", "/")
    return Item(file, cells["label"], split, cells["group"] or None)


def read_rows(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The numbers of the rows that are not empty, and their cells by what they mean.

    The separator is the one that the first line has most of. ``beyond`` is what a row has more
    than the header.

    Raises:
        DataError: it cannot be read, or lacks a column that is needed.
    """
    try:
        data = path.read_bytes()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if wide else "utf-8-sig")
        separator = max(",;\t", key=next(io.StringIO(text, newline=""), "").count)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header, *rows = list(lines) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", "") or str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = f"not UTF-8 at byte {error.start}"
        problem = f"{path} cannot be read: {reason}."
        raise DataError(problem, remedy="Give a file saved as CSV in UTF-8.") from None
    names = [cell.strip().lower() for cell in header]
    columns = {
        key: next((names.index(alias) for alias in aliases if alias in names), len(names))
        for key, aliases in COLUMNS.items()
    }
    for key in needed:
        if columns[key] == len(names):
            problem = f"{path} has no column {key!r}. Its first row is: {', '.join(header)[:500]}"
            raise DataError(problem, remedy="Begin with a header: path,label (and split, group).")
    read = []
    for line, row in enumerate(rows, start=2):
        # Blank cells for rows that are short, and columns that are not there.
        known = row[: len(names)] + [""] * (len(names) + 1)
        cells = {key: known[i] for key, i in columns.items()}
        if any(cell.strip() for cell in row):
            read.append((line, cells | {"beyond": "".join(row[len(names) :])}))
    return read
