"""The history as TensorBoard draws it, written by TensorBoard's own writer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_transfer.base.progress import Progress

_TAGS = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "validation_calibrated_loss": "loss/validation_calibrated",
    "train_accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "learning_rate": "learning_rate",
    "penalty": "penalty",
}
"""What is drawn of a row of the history, and under which name."""


class EventLog(Progress):
    """Writes each row of the history as it comes: a TensorBoard run for each phase.

    Args:
        folder: where the phases' folders go.
        inner: what else is to be told.
    """

    def __init__(self, folder: str | os.PathLike[str], inner: Progress) -> None:
        from tensorboard.summary import Writer

        self._folder, self._inner, self._writer = Path(folder), inner, Writer
        self._writers: dict[str, Any] = {}

    def note(self, text: str) -> None:
        """As ``inner`` does."""
        self._inner.note(text)

    def detail(self, text: str) -> None:
        """As ``inner`` does."""
        self._inner.detail(text)

    def stage(self, name: str) -> None:
        """As ``inner`` does."""
        self._inner.stage(name)

    def expect(self, seconds: Mapping[str, float], units: Mapping[str, int] | None = None) -> None:
        """As ``inner`` does."""
        self._inner.expect(seconds, units)

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """As ``inner`` does."""
        with self._inner.step(name, total) as advance:
            yield advance

    def row(self, row: Mapping[str, Any]) -> None:
        """Appends the row to its phase's file, where whoever watches sees it at once."""
        self._inner.row(row)
        phase = str(row["phase"])
        if phase not in self._writers:
            self._writers[phase] = self._writer(str(self._folder / phase))
        for key, tag in _TAGS.items():
            if row.get(key) is not None:
                self._writers[phase].add_scalar(tag, row[key], int(row["epoch"]))
        self._writers[phase].flush()
