"""Tables of features that may be larger than memory: sliced like arrays, and read when they are."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from keras_transfer.base import files

MEMORY = 2**28
"""Bytes of features, as float32, that are held at once; of more, blocks are read as needed."""
BLOCK = 2048
"""Rows in a block, of which several copies are made at a time."""


class Table(Protocol):
    """Rows ``[n, d]``: an array, or what is sliced like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray:
        """The rows at a slice without a step, or at positions."""


class Rows:
    """Tables one below the other, changed when they are read.

    Args:
        parts: the tables.
        change: what is done to rows that were read, each by itself.
    """

    def __init__(self, parts: Sequence[Table], change: Callable[[np.ndarray], np.ndarray]) -> None:
        self._parts, self._change = parts, change

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """The rows at a slice without a step, or at ascending positions."""
        found, first = [], 0
        for part in self._parts:
            last = first + len(part)
            if isinstance(rows, slice):
                start, stop, _ = rows.indices(len(self))
                within: Any = slice(max(start, first) - first, max(stop, first) - first)
            else:
                within = rows[(rows >= first) & (rows < last)] - first
            found.append(self._change(part[within]))
            first = last
        return found[0] if len(found) == 1 else np.concatenate(found)


class Spooled:
    """Rows that were written to a file without a name, which is gone with them.

    Args:
        batches: the rows, float32, in order.

    Raises:
        OSError: there is no room; it names the folder for such files, see ``TMPDIR``.
    """

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        count, self._file = 0, tempfile.TemporaryFile()  # noqa: SIM115
        with files.naming(tempfile.gettempdir()):
            for batch in batches:
                self._file.write(np.ascontiguousarray(batch, np.float32).data)
                count, self._shape = count + len(batch), batch.shape[1:]
            self._file.flush()
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        places = np.arange(len(self))[rows]
        found = np.empty((len(places), *self._shape), np.float32)
        for first, last in stretches(places):
            start = int(places[first]) * found[0].nbytes
            os.preadv(self._file.fileno(), [found[first:last].data], start)
        return found


def stretches(places: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where stretches of places that follow each other begin and end: they are read at once.

    >>> list(stretches(np.array([4, 5, 6, 2, 9])))
    [(0, 3), (3, 4), (4, 5)]
    """
    steps = np.flatnonzero(np.diff(places) != 1) + 1
    return itertools.pairwise(np.unique([0, *steps, len(places)]).tolist())


def width(table: Table) -> int:
    """The number of columns."""
    return int(table[:0].shape[1])


def fits(table: Table) -> bool:
    """Whether a table may be held in memory."""
    return not spooled_bytes(len(table), width(table))


def spooled_bytes(count: int, width: int) -> int:
    """What so many rows take in a file, where they do not fit in memory; else 0."""
    size = 4 * count * width
    return size if size > MEMORY else 0


def views_that_fit(rows: int, width: int, views: int) -> int:
    """Of how many views, each of so many rows, all fit in memory; of one in any case."""
    return min(views, max(1, MEMORY // max(1, 4 * rows * width)))


def sample(count: int, width: int) -> np.ndarray | slice:
    """Positions, of so many rows, of those that stand for all: of all where they fit in memory,
    else of as many as take half of it, drawn at random, ascending.
    """
    if not spooled_bytes(count, width):
        return slice(None)
    most = max(1, MEMORY // (8 * width))
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def blocks(table: Table) -> Iterator[slice]:
    """Slices that cut a table into blocks."""
    return (slice(start, start + BLOCK) for start in range(0, len(table), BLOCK))


def moments(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column, float64 ``[d]``."""
    mean = sum(table[rows].sum(axis=0, dtype=np.float64) for rows in blocks(table)) / len(table)
    squares = (np.square(table[rows] - mean).sum(axis=0) for rows in blocks(table))
    return mean, sum(squares) / len(table)
