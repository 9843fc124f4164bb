"""Telling a person what a run is doing: live on a terminal, plain lines when piped, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras_transfer.base.quiet import say


class Progress:
    """Says nothing; the base of those that do.

    A step is a stretch of work with a known number of units, such as images or epochs.
    """

    def note(self, text: str) -> None:
        """Says one sentence that stays on the screen."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes note of a row of the history, see ``TransferResult.history``."""

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """Yields ``advance(units=1, info="")``, to be called as the work goes on."""
        yield lambda units=1, info="": None


class PlainProgress(Progress):
    """One line when a step ends, and one each ten seconds while it lasts: for pipes and logs."""

    def __init__(self, stream: Any = None, every: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._every = every

    def note(self, text: str) -> None:
        say(text, self._stream)

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        start = last = time.monotonic()
        done, latest = 0, ""

        def advance(units: int = 1, info: str = "") -> None:
            nonlocal done, last, latest
            done, latest = done + units, info or latest
            if time.monotonic() - last >= self._every:
                last = time.monotonic()
                self.note(f"{name}: {done}/{total} {latest}".rstrip())

        yield advance
        self.note(f"{name}: {done}/{total} in {time.monotonic() - start:.1f} s {latest}".rstrip())


class RichProgress(Progress):
    """A bar for each step, on a terminal."""

    def __init__(self) -> None:
        import rich.console

        self._console = rich.console.Console(stderr=True)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        import rich.progress as bars

        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[info]}", markup=False),
        )
        with bars.Progress(*columns, console=self._console, redirect_stdout=False) as bar:
            task = bar.add_task(name, total=total, info="")
            yield lambda units=1, info="": bar.update(
                task, advance=units, **({"info": info} if info else {})
            )


def progress_for(quiet: bool = False) -> Progress:
    """What suits where the standard error goes: a terminal, a pipe, or silence."""
    if quiet:
        return Progress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()
