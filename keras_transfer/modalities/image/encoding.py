"""From pixels in memory to the bytes of a file, and to what a page shows."""

from __future__ import annotations

import base64
import html
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_transfer.base.errors import DataError


def from_memory(values: Any) -> Sequence[np.ndarray]:
    """Checks shapes and levels of images; floating-point levels are rounded.

    Args:
        values: uint8, or floating point in 0..255, ``[images, height, width, 1, 3 or 4]`` or a
            list of single ones.

    Returns:
        uint8 arrays of the same shapes.
    """
    images = [np.asarray(image) for image in values]
    low = min((float(image.min()) for image in images if image.size), default=0.0)
    high = max((float(image.max()) for image in images if image.size), default=0.0)
    for image in images:
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise DataError(
                f"an image has the shape {image.shape}.",
                remedy="Give [height, width], or [height, width, 1, 3 or 4 channels].",
            )
        if image.dtype != np.uint8 and (low < 0 or high > 255 or 0 < high <= 1):
            problem = f"images are {image.dtype} with levels from {low:g} to {high:g}."
            raise DataError(problem, remedy="Give uint8, or levels from 0 to 255.")
    return [i if i.dtype == np.uint8 else np.rint(i).astype(np.uint8) for i in images]


def encode(value: np.ndarray) -> bytes:
    """Encodes as an uncompressed PNG, byte for byte the same on every machine.

    Compressed bytes, and so the digests that decide splits, differ between versions of zlib.

    Args:
        value: uint8, shape ``[height, width]`` or ``[height, width, 1, 3 or 4]``.
    """
    height, width = value.shape[:2]
    channels = 1 if value.ndim == 2 else value.shape[2]
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with filter 0
    rows[:, 1:] = value.reshape(height, -1)
    raw = rows.tobytes()
    stream = bytearray(b"\x78\x01")
    for start in range(0, len(raw), 65535):
        block = raw[start : start + 65535]
        last = start + 65535 >= len(raw)
        stream += struct.pack("<BHH", last, len(block), 65535 - len(block)) + block
    stream += struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + kind + data
        png += struct.pack(">I", zlib.crc32(kind + data))
    return png


def show(example: np.ndarray, caption: str = "") -> str:
    """An ``<img>`` that holds its picture, as a JPEG.

    Args:
        example: uint8 ``[height, width, 3]``.
        caption: for a mouse that rests on it, and for who cannot see it.
    """
    stream = io.BytesIO()
    Image.fromarray(example).save(stream, "JPEG", quality=80)
    said, picture = html.escape(caption), base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{said}" title="{said}" src="data:image/jpeg;base64,{picture}">'
