"""CSV manifests: a path and a label a row, optionally a split and a group."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from keras_transfer.base.errors import DataError
from keras_transfer.base.types import Finding
from keras_transfer.datasets.sources import SPLIT_NAMES, Item, Listing, read_file

COLUMNS = {
    "path": ("path", "image", "file", "filename", "file_name", "filepath", "image_path"),
    "label": ("label", "class", "category", "class_name", "target"),
    "split": ("split", "set", "subset", "partition"),
    "group": ("group", "group_id"),
}


def csv_source(path: Path, name: str) -> Listing:
    """Reads a manifest with a header; paths in it are relative to the manifest.

    Commas, semicolons and tabs separate; quoting, a byte order mark and Windows line ends are
    understood. Rows without a path or a label, and repeated rows, are left out with a finding.

    Raises:
        DataError: it cannot be read, lacks the columns, or names an unknown split.
    """
    rows = _rows(path)
    columns = _columns(path, rows[0] if rows else [])
    findings: list[Finding] = []
    items: dict[str, Item] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        cells = {key: row[i].strip() if i < len(row) else "" for key, i in columns.items()}
        item = _item(f"{path}, row {line}", path.parent, cells)
        first = items.get(item.path)
        if not item.path or not item.label:
            missing = "path" if not item.path else "label"
            reason = f"row {line}: no {missing}"
            findings.append(Finding(item.path, "unlabelled", reason, "left out"))
        elif first is None:
            items[item.path] = item
        elif first.label == item.label:
            action = f"kept as {first.label!r}"
            reason = f"row {line} names it again"
            findings.append(Finding(item.path, "repeated_row", reason, action))
        else:
            reason = f"row {line} names it again, as {item.label!r}"
            findings.append(Finding(item.path, "conflicting_labels", reason, "left out"))
            items[item.path] = Item(item.path, "")
    kept = sorted((item for item in items.values() if item.label), key=lambda item: item.path)
    if not kept:
        raise DataError(f"{path} names no images.", remedy="Add rows of a path and a label.")
    root = path.parent
    return Listing(
        name,
        str(path.resolve()),
        kept,
        lambda file: read_file(root / file),
        findings,
        lambda file: root / file,
    )


def _item(where: str, root: Path, cells: dict[str, str]) -> Item:
    """One row, as far as it says something; its path may have been written on Windows."""
    split = SPLIT_NAMES.get(cells.get("split", "").lower())
    if cells.get("split") and split is None:
        raise DataError(
            f"{where}: the split is {cells['split']!r}.",
            remedy="Use train, val or test, or leave it empty.",
        )
    file = cells["path"]
    if "\\" in file and not os.path.exists(root / file):
        file = file.replace("\\", "/")
    return Item(file, cells["label"], split, cells.get("group") or None)


def _rows(path: Path) -> list[list[str]]:
    """The cells of a delimited text file, by the separator that its first line has most of."""
    try:
        data = path.read_bytes()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if wide else "utf-8-sig")
        first = text.split("\n", 1)[0]
        separator = max(",;\t", key=first.count)
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except OSError as error:
        reason, remedy = error.strerror, "Check the file."
    except UnicodeDecodeError as error:
        reason, remedy = f"not UTF-8 at byte {error.start}", "Save the manifest as UTF-8."
    except csv.Error as error:
        reason, remedy = str(error), "Save the manifest as plain CSV."
    raise DataError(f"{path} cannot be read: {reason}.", remedy=remedy)


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    """Where each known column is, by name, whatever its case."""
    names = [cell.strip().lower() for cell in header]
    found = {
        key: next((names.index(alias) for alias in aliases if alias in names), -1)
        for key, aliases in COLUMNS.items()
    }
    for key in ("path", "label"):
        if found[key] < 0:
            raise DataError(
                f"{path} has no column {key!r}. Its first row is: {', '.join(header)}",
                remedy="Begin the manifest with a header: path,label (and split, group).",
            )
    return {key: i for key, i in found.items() if i >= 0}
