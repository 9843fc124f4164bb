"""Single examples without labels, whatever somebody holds: names, files, folders, memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.datasets import manifests
from keras_transfer.modalities import InputSpec, Modality

Items = os.PathLike[str] | Image.Image | Iterable[Any]
"""One or several examples: names, bytes, texts, pictures, arrays."""


def named_items(
    form: Modality, spec: InputSpec, items: Items, columns: str | None = None
) -> Iterator[tuple[str, bytes | None]]:
    """What each item is called, and its bytes unless it is a file.

    Args:
        form: the modality of the items.
        spec: how a model takes them.
        items: one or several, see ``predict``.
        columns: what tables call their columns.

    Raises:
        DataError: what is in memory is no example.
    """
    for number, item in enumerate(_several(form, spec, items)):
        if isinstance(item, (str, os.PathLike)):
            yield from _named(form, os.fspath(item), columns)
        elif isinstance(item, bytes):
            yield f"{form.NOUN} {number}", item
        else:
            yield f"{form.NOUN} {number}", form.encode(form.from_memory([item])[0])


def column(examples: Any) -> Any:
    """The only column of a table, as scikit-learn hands one on; what is no table as it is.

    Raises:
        DataError: there are several.
    """
    if not hasattr(examples, "columns"):
        return examples
    if len(examples.columns) != 1:
        problem = f"A table of {len(examples.columns)} columns was given as examples."
        raise DataError(problem, remedy="Give the column that holds them, such as table['path'].")
    return np.asarray(examples)[:, 0]


def _several(form: Modality, spec: InputSpec, items: Any) -> Any:
    """Items one by one; a name, a picture, one example's array, a sound and its rate are one."""
    items = column(items)
    one = isinstance(items, (str, bytes, os.PathLike)) or hasattr(items, "convert")
    if isinstance(items, tuple) and len(items) == 2:
        one = isinstance(items[1], (int, np.integer))
    if hasattr(items, "ndim"):  # of any library
        items = np.asarray(items)
        numbers, batch = items.dtype.kind in "uif", items.shape[1:] == spec.shape
        one = numbers and items.ndim < 4 and not batch
    if one or np.iterable(items):
        return [items] if one else items
    problem = f"{items!r:.40} is a {type(items).__name__}, and no {form.NOUN}."
    raise DataError(problem, remedy="Give a path, an array, or a list of them.")


def _named(form: Modality, word: str, columns: str | None) -> Iterator[tuple[str, bytes | None]]:
    """A file, the files in a folder, the rows of a table, or what a word stands for.

    Where the modality takes words, ``-`` stands for the lines of the standard input, and a word
    that neither names a file nor ends like one for itself.
    """
    if os.path.isdir(word):
        found = [(place, name) for place, _, names in os.walk(word) for name in names]
        paths = sorted(os.path.join(place, name) for place, name in found if name[0] != ".")
        inside = [path for path in paths if form.SUFFIXES.get(_suffix(path))]
        yield from ((path, None) for path in inside or [word])
    elif os.path.isfile(word) and _suffix(word) in manifests.OF_ROWS:
        column, cells = manifests.unlabelled(Path(word), form.NAME, columns)
        yield from ((cell, cell.encode() if column == "text" else None) for cell in cells)
    elif not form.LITERAL or os.path.lexists(word) or form.SUFFIXES.get(_suffix(word)):
        yield word, None
    elif word != "-":
        yield word, word.encode("utf-8", "surrogatepass")
    elif sys.stdin is None:
        raise UsageError("standard input is closed.", remedy="Give what to classify as words.")
    else:
        for line in sys.stdin.buffer:
            told = line.rstrip(b"\r\n")
            yield told.decode("utf-8", "backslashreplace"), told


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
