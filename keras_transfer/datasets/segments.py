"""Segments of recordings, named as W3C Media Fragments has it: ``a.wav#t=1.5,3``, in seconds."""

from __future__ import annotations

import re
from typing import NamedTuple

from keras_transfer.base.errors import DataError

_NUMBER = r"(\d+(?:\.\d+)?)"
_NAME = re.compile(rf"(.+)#t={_NUMBER}?(?:,{_NUMBER})?", re.DOTALL)
LAST = 1e9  # seconds beyond which nothing is meant


class Segment(NamedTuple):
    """A file, and from which second to which; None is its end."""

    file: str
    start: float = 0.0
    end: float | None = None

    @property
    def whole(self) -> bool:
        """Whether all of the file is meant."""
        return self.start == 0 and self.end is None

    @property
    def name(self) -> str:
        """That of an item: to the microsecond, or the file alone."""
        until = "" if self.end is None else f",{_spelt(self.end)}"
        return self.file if self.whole else f"{self.file}#t={_spelt(self.start)}{until}"


def named(path: str) -> Segment:
    """What the name of an item stands for."""
    match = _NAME.fullmatch(path)
    if match is None:
        return Segment(path)
    file, start, end = match.groups()
    return Segment(file, float(start or 0), None if end is None else float(end))


def in_cells(where: str, file: str, start: str, end: str) -> Segment:
    """What a row of a table says; an empty cell is the beginning or the end of the file.

    Raises:
        DataError: seconds that are no numbers, or none between start and end.
    """
    if not start and not end:
        return named(file)
    try:
        found = Segment(file, float(start or 0), float(end) if end else None)
        if not 0 <= found.start < (LAST if found.end is None else found.end) <= LAST:
            raise ValueError
    except ValueError:
        problem = f"{where}: the segment is from {start!r} to {end!r}."
        remedy = "Give seconds from the beginning of the file, such as 1.5 and 3, or none."
        raise DataError(problem, remedy=remedy) from None
    return found


def _spelt(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
