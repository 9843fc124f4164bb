"""Where the time goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

STAGES = ("decode", "extract", "head", "fine_tune", "evaluate")


class Clock:
    """Adds up the seconds of stages.

    Attributes:
        start: ``time.monotonic()`` at its beginning.
        seconds: of each stage so far.
    """

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the duration of the block to a stage."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun

    def report(self) -> dict[str, float]:
        """All stages and the total, in seconds."""
        total = {"total": time.monotonic() - self.start}
        return {name: round(value, 3) for name, value in (self.seconds | total).items()}
