"""The history as TensorBoard draws it, written by TensorBoard's own writer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress, Relay

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


class EventLog(Relay):
    """Writes each row of the history as it comes: a TensorBoard run for each phase.

    Args:
        folder: where the phases' folders go.
        inner: what else is to be told.
    """

    def __init__(self, folder: str | os.PathLike[str], inner: Progress) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError:
            remedy = "pip install tensorboard, or leave --tensorboard out."
            raise UsageError("TensorBoard is not installed.", remedy=remedy) from None
        super().__init__(inner)
        self._folder, self._writer = Path(folder), Writer
        self._writers: dict[str, Any] = {}

    def row(self, row: Mapping[str, Any]) -> None:
        """Appends the row to its phase's file, where whoever watches sees it at once."""
        super().row(row)
        phase = str(row["phase"])
        if phase not in self._writers:
            self._writers[phase] = self._writer(str(self._folder / phase))
        for key, tag in _TAGS.items():
            if row.get(key) is not None:
                self._writers[phase].add_scalar(tag, row[key], int(row["epoch"]))
        self._writers[phase].flush()
