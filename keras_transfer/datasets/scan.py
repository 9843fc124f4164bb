"""One pass over a source: every file read, hashed, decoded in full and resized once, in threads.

What a pass finds is kept in the user's cache folder, so that the next one costs reading and
hashing only: an index (``.npz``: digests, faults, thumbnails) and, where pixels were asked for, one
flat file of uint8 (``.pixels``) that is memory mapped. Both are put in place whole; an index that
is damaged, or whose pixels are missing or of the wrong length, counts as none.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import ImageError
from keras_transfer.datasets.checks import Records, Verdict, judge
from keras_transfer.datasets.decoded import FileRows, MemoryRows, room
from keras_transfer.datasets.sources import Source
from keras_transfer.modalities.image import pipeline

IN_MEMORY = 256 * 2**20  # bytes of pixels up to which they are read rather than mapped


Scanned = tuple[Records, Verdict, np.ndarray | None]


def scan(source: Source, image_size: pipeline.Size | None, *, cache: bool) -> Scanned:
    """Reads a whole source and judges it.

    Args:
        source: where the images are.
        image_size: what to decode to; None keeps no pixels.
        cache: whether to look for an earlier pass, and to keep this one.

    Returns:
        The records of all items, which of them are kept, and the pixels of these: uint8, shape
        ``[kept, height, width, 3]``, memory mapped and read-only where large; or None.

    Raises:
        DataError: there is no room for the pixels.
    """
    place = _Place(source.identity, image_size) if cache and source.identity else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on files that our findings name
        known = place.load(source) if place is not None else None
        return known or _decode_all(source, image_size, place)


def _decode_all(source: Source, image_size: pipeline.Size | None, place: _Place | None) -> Scanned:
    items = source.items
    records = Records.blank(len(items))
    with room(len(items), image_size, place.folder if place else None) as rows:

        def examine(i: int) -> None:
            try:
                data = source.read(items[i].path)
                records.digests[i] = files.content_digest(data)
                examined = pipeline.examine(data, image_size)
            except ImageError as error:
                records.faults[i] = (error.kind, error.message)
                return
            records.formats[i] = examined.format
            records.sizes[i] = examined.width, examined.height
            records.thumbnails[i] = examined.thumbnail
            if rows is not None and examined.pixels is not None:
                rows.put(i, examined.pixels)

        pipeline.in_threads(examine, len(items))
        if rows is not None:
            rows.complete()
        verdict = judge(items, records)
        if rows is not None:
            rows.keep(verdict.kept)
        if place is not None:
            return records, verdict, place.save(records, verdict.kept, rows)
        return records, verdict, rows.array if isinstance(rows, MemoryRows) else None


class _Place:
    """Where one source's pass at one size is kept: ``KEY.npz`` and ``KEY-CONTENT.pixels``."""

    def __init__(self, identity: str, image_size: pipeline.Size | None) -> None:
        size = None if image_size is None else pipeline.height_width(image_size)
        key = f"{identity}\n{size}\n{pipeline.POLICY_VERSION}"
        self.size = size
        self.key = files.sha256(os.fsencode(key))[:32]
        self.folder = files.cache_folder() / "pixels"
        self.index = self.folder / f"{self.key}.npz"

    def load(self, source: Source) -> Scanned | None:
        """An earlier pass, if every item still has the same bytes and the same are kept."""
        try:
            with np.load(self.index, allow_pickle=False) as index:
                text = json.loads(index["text"].tobytes())
                kept, sizes, thumbnails = index["kept"], index["sizes"], index["thumbnails"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        if len(text["digests"]) != len(source.items) or _hash_all(source) != text["digests"]:
            return None
        faults = [None if fault is None else (fault[0], fault[1]) for fault in text["faults"]]
        records = Records(text["digests"], faults, text["formats"], sizes, thumbnails)
        verdict = judge(source.items, records)
        if not np.array_equal(verdict.kept, kept):
            return None
        try:
            return records, verdict, self._open(text["content"], len(kept))
        except (OSError, ValueError):
            return None

    def save(
        self, records: Records, kept: np.ndarray, rows: FileRows | MemoryRows | None
    ) -> np.ndarray | None:
        """Keeps a pass. Returns the pixels of the kept items as they will be read next time."""
        content = files.sha256("".join(records.digests[i] for i in kept).encode())[:32]
        if isinstance(rows, FileRows):
            os.replace(rows.path, self._pixels(content))
        text = {
            "digests": records.digests,
            "faults": records.faults,
            "formats": records.formats,
            "content": content,
        }
        with files.atomic_path(self.index) as temporary:
            np.savez(
                temporary,
                text=np.frombuffer(json.dumps(text).encode(), np.uint8),
                kept=kept,
                sizes=records.sizes,
                thumbnails=records.thumbnails,
            )
        for path in self.folder.glob(f"{self.key}-*.pixels"):
            if path != self._pixels(content):
                with contextlib.suppress(OSError):
                    path.unlink()
        return self._open(content, len(kept))

    def _pixels(self, content: str) -> Path:
        return self.folder / f"{self.key}-{content}.pixels"

    def _open(self, content: str, count: int) -> np.ndarray | None:
        if self.size is None:
            return None
        shape = (count, *self.size, 3)
        path = self._pixels(content)
        if path.stat().st_size != math.prod(shape):
            raise ValueError(f"{path} has another length")
        if math.prod(shape) <= IN_MEMORY:
            pixels = np.empty(shape, np.uint8)
            with open(path, "rb", buffering=0) as stream:  # np.fromfile reads 4 KiB at a time
                if stream.readinto(pixels.data) != pixels.nbytes:
                    raise ValueError(f"{path} has another length")
            return pixels
        return np.memmap(path, np.uint8, "r", shape=shape)


def _hash_all(source: Source) -> list[str]:
    """The digest of each item's bytes, empty where they cannot be read."""
    digests = [""] * len(source.items)

    def digest(i: int) -> None:
        with contextlib.suppress(ImageError):
            digests[i] = files.content_digest(source.read(source.items[i].path))

    pipeline.in_threads(digest, len(digests))
    return digests
