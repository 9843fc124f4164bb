"""Event files that TensorBoard reads, written without TensorBoard and without TensorFlow.

A file is a row of records: the length, a checksum of it, the data, a checksum of that. The data are
``Event`` messages of tensorflow/core/util/event.proto, written field by field.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
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
        self._folder, self._inner = Path(folder), inner
        self._files: dict[str, Path] = {}

    def note(self, text: str) -> None:
        """As ``inner`` does."""
        self._inner.note(text)

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """As ``inner`` does."""
        with self._inner.step(name, total) as advance:
            yield advance

    def row(self, row: Mapping[str, Any]) -> None:
        """Appends the row to its phase's file."""
        self._inner.row(row)
        values = {tag: row[key] for key, tag in _TAGS.items() if row.get(key) is not None}
        phase, now = str(row["phase"]), time.time()
        if phase not in self._files:
            name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}"
            self._files[phase] = self._folder / phase / name
            self._files[phase].parent.mkdir(parents=True, exist_ok=True)
            self._append(phase, _double(1, now) + field(3, b"brain.Event:2"))
        scalars = b"".join(
            field(1, field(1, tag.encode()) + _float(2, value)) for tag, value in values.items()
        )
        self._append(phase, _double(1, now) + _whole(2, int(row["epoch"])) + field(5, scalars))

    def _append(self, phase: str, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        record = length + _checksum(length) + event + _checksum(event)
        # Opened anew each time: an epoch takes seconds, and whoever watches sees it at once.
        with open(self._files[phase], "ab") as stream:
            stream.write(record)


def field(number: int, payload: bytes) -> bytes:
    """A protocol buffer field of known length: text, bytes or a message."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _whole(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return out + struct.pack("B", value)


def _table() -> list[int]:
    """CRC-32C of every byte, its polynomial in reversed bits."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()


def _checksum(data: bytes) -> bytes:
    """The record format's masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
