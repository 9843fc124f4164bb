"""Room for the pixels of a whole set while it is decoded, in memory or in a file."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from keras_transfer.base.errors import DataError
from keras_transfer.modalities.image import pipeline

FLUSH_SECONDS = 0.5


class MemoryRows:
    """Rows in one array.

    Args:
        shape: ``[images, height, width, 3]``.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.array = np.empty(shape, np.uint8)

    def put(self, i: int, pixels: np.ndarray) -> None:
        """Stores one image; called from several threads."""
        self.array[i] = pixels

    def complete(self) -> None:
        """Says that nothing more will be put."""

    def keep(self, rows: np.ndarray) -> None:
        """Drops all rows but some, given in ascending order."""
        _move_up(self.array, rows)
        self.array = self.array[: len(rows)]


class FileRows:
    """Rows in a file, which is on the disk once ``keep`` returns.

    The file is written to rather than mapped, because a mapping costs a page fault for every 4 KiB
    (a millisecond for an image of 224 px). It is flushed while the decoding goes on, and after
    ``complete`` while the caller does other work, so that little is left to wait for in the end.

    Args:
        path: an empty file.
        shape: ``[images, height, width, 3]``.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self._shape = shape
        self._stride = math.prod(shape[1:])
        self._stream = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed by ``close``
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._flusher = threading.Thread(target=self._flush, daemon=True)
        self._flusher.start()

    def put(self, i: int, pixels: np.ndarray) -> None:
        """Stores one image; called from several threads."""
        row = np.ascontiguousarray(pixels).data.cast("B")
        place = i * self._stride
        while row:  # a disk that is nearly full takes a part, and refuses the rest with an error
            written = self._write(row, place)
            row, place = row[written:], place + written

    def _write(self, data: memoryview, place: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._stream.fileno(), data, place)
        with self._lock:  # Windows, where all threads share one position
            self._stream.seek(place)
            return self._stream.write(data)

    def complete(self) -> None:
        """Says that nothing more will be put, and begins to flush what has been."""
        self._done.set()

    def keep(self, rows: np.ndarray) -> None:
        """Drops all rows but some, given in ascending order."""
        if len(rows) and rows[-1] != len(rows) - 1:
            self._stream.truncate(math.prod(self._shape))
            _move_up(np.memmap(self.path, np.uint8, "r+", shape=self._shape), rows)
        self._stream.truncate(len(rows) * self._stride)
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Stops flushing and closes the file."""
        self.complete()
        self._flusher.join()
        self._stream.close()

    def _flush(self) -> None:
        last = False
        while not last:
            last = self._done.wait(FLUSH_SECONDS)
            with contextlib.suppress(OSError):  # ``keep`` meets it again, and raises
                os.fsync(self._stream.fileno())


def _move_up(array: np.ndarray, rows: np.ndarray) -> None:
    for place, row in enumerate(rows.tolist()):
        if place != row:
            array[place] = array[row]


@contextlib.contextmanager
def room(
    count: int, image_size: pipeline.Size | None, folder: Path | None
) -> Iterator[MemoryRows | FileRows | None]:
    """Makes room for ``count`` images.

    Args:
        count: the most images that will be stored.
        image_size: as for ``pipeline.decode_image``; None yields None.
        folder: where a temporary file may be made; None keeps everything in memory.

    Raises:
        DataError: there is not enough memory, or disk.
    """
    if image_size is None:
        yield None
        return
    shape = (count, *pipeline.height_width(image_size), 3)
    needed = math.prod(shape)
    if folder is None:
        free = psutil.virtual_memory().available
        if needed > 0.8 * free:
            raise DataError(
                f"the decoded images take {needed:,} bytes; {free:,} bytes of memory are free.",
                remedy="Switch the cache on, or take a smaller image size.",
            )
        yield MemoryRows(shape)
        return
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise DataError(
            f"the decoded images take {needed:,} bytes; {folder} has {free:,} bytes free.",
            remedy="Set KERAS_TRANSFER_CACHE to a larger disk, or take a smaller image size.",
        )
    handle, name = tempfile.mkstemp(dir=folder, prefix=".")
    os.close(handle)
    rows = FileRows(Path(name), shape)
    try:
        yield rows
    finally:
        rows.close()
        rows.path.unlink(missing_ok=True)
