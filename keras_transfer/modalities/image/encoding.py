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
from PIL import Image, ImageOps

from keras_transfer.base.errors import DataError
from keras_transfer.recipe import reads_arguments


def from_memory(values: Any) -> Sequence[np.ndarray]:
    """Checks shapes and levels of images; floating-point levels are rounded.

    Args:
        values: uint8, or floating point in 0..255, ``[images, height, width, 1, 3 or 4]`` or a
            list of single ones, or of PIL images.

    Returns:
        uint8 arrays of the same shapes.
    """
    images = [np.asarray(_upright(image)) for image in values]
    for i, image in enumerate(images):
        if image.dtype.kind not in "buif":
            problem = f"image {i} is {values[i]!r:.40}, a {type(values[i]).__name__}."
            raise DataError(problem, remedy="Give arrays of pixels, PIL images or paths.")
    low = float(np.min([image.min() for image in images if image.size] or [0]))
    high = float(np.max([image.max() for image in images if image.size] or [0]))
    for image in images:
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise DataError(
                f"an image has the shape {image.shape}.",
                remedy="Give [height, width], or [height, width, 1, 3 or 4 channels].",
            )
        if image.dtype != np.uint8 and (not (low >= 0 and high <= 255) or 0 < high <= 1):
            problem = f"images are {image.dtype} with levels from {low:g} to {high:g}."
            raise DataError(problem, remedy="Give uint8, or levels from 0 to 255.")
    return [i if i.dtype == np.uint8 else np.rint(i).astype(np.uint8) for i in images]


def _upright(value: Any) -> Any:
    """A PIL image turned as EXIF asks, its palette resolved; anything else as it is."""
    if not isinstance(value, Image.Image):
        return value
    image = ImageOps.exif_transpose(value)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("L", "RGB", "RGBA", "F") and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


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


def show(example: np.ndarray, caption: str = "", saliency: np.ndarray | None = None) -> str:
    """An ``<img>`` that holds its picture, as WebP.

    Args:
        example: uint8 ``[height, width, 3]``.
        caption: for a mouse that rests on it, and for who cannot see it.
        saliency: float in 0..1, ``[map height, map width]``: a second picture has it laid over.
    """
    if saliency is None:
        return _picture(example, caption)
    laid = overlay(example[None], saliency[None])[0]
    return f"{_picture(example, caption)} {_picture(laid, f'{caption}: where the model looked')}"


def _picture(pixels: np.ndarray, caption: str) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=72, method=2)
    said, picture = html.escape(caption), base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{said}" title="{said}" src="data:image/webp;base64,{picture}">'


@reads_arguments
def overlay(pixels: np.ndarray, maps: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Lays maps as colour over their images in grey: dark where nothing speaks for the class.

    Args:
        pixels: uint8, shape ``[images, height, width, 3]``.
        maps: float in 0..1, shape ``[images, map height, map width]``.
        strength: share of the colour in the mixture, 0..1.

    Returns:
        uint8, of the shape of ``pixels``.

    >>> overlay(np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 2, 2))).shape
    (1, 8, 8, 3)
    """
    import matplotlib

    colours = matplotlib.colormaps["inferno"]
    size = (pixels.shape[2], pixels.shape[1])
    result = np.empty_like(pixels)
    for i, (image, heat) in enumerate(zip(pixels, maps, strict=True)):
        enlarged = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        colour = colours(np.clip(np.asarray(enlarged), 0.0, 1.0))[..., :3] * 255.0
        grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)[..., None]
        result[i] = np.round((1.0 - strength) * grey + strength * colour)
    return result
