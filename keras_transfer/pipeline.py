"""From encoded bytes to uint8 pixels, and the augmented views of those pixels.

One policy everywhere (training, evaluation, prediction, the export proof): the first frame, EXIF
rotation applied, alpha composited on white, RGB, and the whole image squashed to the model's size
with Pillow's antialiased bilinear filter. Colour profiles are not applied: pixels are taken as
sRGB. Pillow is the only decoder, so that the pixels are the same in every place and reading images
needs no TensorFlow.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from keras_transfer.errors import ImageError, UsageError

MAX_PIXELS = 89_478_485
"""Largest width times height that is decoded (256 MiB of RGB, Pillow's own warning level)."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
"""The decoders that may run. None of them starts another program or reads another file."""

POLICY_VERSION = 1
"""Raised whenever the same bytes may give other pixels or fingerprints: a key of every cache."""

ROTATION = 10.0  # degrees either way
ZOOM = 0.12  # log-scale range either way
SHIFT = 0.06  # of the side, either way
BRIGHTNESS = 0.12
CONTRAST = 0.2
SATURATION = 0.2

Size = int | tuple[int, int]


def decode_image(data: bytes, image_size: Size | None = None) -> np.ndarray:
    """Decodes one image file.

    Args:
        data: the encoded bytes of a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or PPM file.
        image_size: side of the square, or (height, width), in pixels; None keeps the image's own
            size. The image is squashed, not cropped. JPEGs of at least twice the size are decoded
            at a fraction of their resolution by the DCT.

    Returns:
        uint8 RGB, shape ``[height, width, 3]``.

    Raises:
        ImageError: the bytes are no image, a damaged one, or one of more than ``MAX_PIXELS``.
    """
    size = None if image_size is None else _height_width(image_size)
    image = open_rgb(data, size)
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(image)


def open_rgb(data: bytes, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decodes to an upright RGB image, of ``at_least`` (height, width) where a JPEG can be scaled.

    Raises:
        ImageError: as ``decode_image``.
    """
    if not data:
        raise ImageError("empty file", kind="empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(str(error), kind="bomb") from None
    except Exception as error:
        raise _not_an_image(data, error) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are over the bound of {MAX_PIXELS}", kind="bomb")
    try:
        if at_least is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (max(at_least), max(at_least)))
        image.load()
        return _flatten(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        reason = str(error) or type(error).__name__
        kind = "truncated" if "truncated" in reason else "unreadable"
        raise ImageError(reason, kind=kind) from None


def _flatten(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: alpha onto white, 16-bit and floating-point levels to 0..255."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Levels of 16 bits are divided by 257; floating-point levels must lie in 0..1 or 0..255."""
    levels = np.asarray(image).astype(np.float64)
    if not np.isfinite(levels).all() or levels.min() < 0:
        raise ImageError("levels that are negative or not finite")
    top = levels.max()
    if image.mode == "F":
        scale = 255.0 if top <= 1 else 1.0
    else:
        scale = 1.0 if image.mode == "I" and top <= 255 else 1 / 257
    if top * scale > 255:
        raise ImageError(f"levels up to {top:g}, with no stated range")
    return Image.fromarray(np.rint(levels * scale).astype(np.uint8))


def _not_an_image(data: bytes, error: Exception) -> ImageError:
    """Says what the bytes are instead of an image, where their beginning tells."""
    head = data[:512].lstrip().lower()
    if not isinstance(error, Image.UnidentifiedImageError):
        return ImageError(str(error) or type(error).__name__)
    if head.startswith((b"<!doctype html", b"<html")):
        return ImageError("an HTML page, not an image", kind="not_an_image")
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return ImageError("an SVG drawing; convert it to PNG", kind="not_an_image")
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return ImageError("a HEIC photo; convert it to JPEG", kind="not_an_image")
    return ImageError("no image format that is known", kind="not_an_image")


def _height_width(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise UsageError(
            f"image size must be positive. Received: {size!r}", remedy="Give a size in pixels."
        )
    return height, width


def augment(
    pixels: np.ndarray,
    digests: Sequence[str],
    *,
    view: int,
    seed: int,
    strength: float = 1.0,
    flip: bool = True,
) -> np.ndarray:
    """Draws one augmented view of each image.

    A view is one affine transform (rotation up to 10 degrees, zoom up to 12 %, shift up to 6 % of
    the side, reflected at the border) and one colour transform (brightness, contrast, saturation).
    The ranges are mild enough to keep the meaning of digits, letters and symbols.

    Args:
        pixels: uint8, shape ``[images, height, width, 3]``.
        digests: one content digest an image: with ``view`` and ``seed`` it alone decides what is
            drawn, so that neither the order nor the number of threads matters.
        view: 0 gives the pixels unchanged; every other number another draw.
        seed: of the draws.
        strength: multiplies every range. 1 suits photographs; 0 leaves only the flip.
        flip: whether half of the images are mirrored left to right. Turn it off where direction
            has a meaning, as in text and digits.

    Returns:
        uint8, the shape of ``pixels``.
    """
    if len(digests) != len(pixels):
        raise UsageError(
            f"augment got {len(pixels)} images and {len(digests)} digests",
            remedy="Give one digest an image.",
        )
    if view == 0 or len(pixels) == 0:
        return pixels
    drawn = np.empty_like(pixels)
    spread = _padding(pixels.shape[1:3], strength)

    def draw(start: int) -> None:
        for i in range(start, min(start + 16, len(pixels))):
            drawn[i] = _draw(pixels[i], _uniforms(digests[i], view, seed), strength, flip, spread)

    starts = range(0, len(pixels), 16)
    if len(starts) == 1:
        draw(0)
    else:
        with ThreadPoolExecutor(threads()) as pool:
            list(pool.map(draw, starts))
    return drawn


def threads() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _uniforms(digest: str, view: int, seed: int) -> np.ndarray:
    """Eight numbers in [0, 1) that depend on nothing but the arguments."""
    drawn = hashlib.sha256(f"{digest}:{view}:{seed}".encode()).digest()
    return np.frombuffer(drawn, "<u4") / 2.0**32


def _padding(size: tuple[int, ...], strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column indices that reflect an image at its borders, as far as a view may look."""
    angle = math.radians(min(ROTATION * strength, 45.0))
    reach = 0.5 * (math.cos(angle) + math.sin(angle)) * math.exp(ZOOM * strength)
    share = reach - 0.5 + SHIFT * strength

    def reflected(side: int) -> np.ndarray:
        margin = math.ceil(share * max(size)) + 1
        period = max(2 * side - 2, 1)
        position = np.abs(np.arange(-margin, side + margin)) % period
        return np.minimum(position, period - position) if side > 1 else position * 0

    return reflected(size[0]), reflected(size[1])


def _draw(
    image: np.ndarray,
    uniforms: np.ndarray,
    strength: float,
    flip: bool,
    spread: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """One view of one image: uint8 ``[height, width, 3]`` in and out."""
    height, width = image.shape[:2]
    rows, columns = spread
    signed = (2 * uniforms - 1) * strength
    angle = math.radians(max(-45.0, min(45.0, ROTATION * signed[0])))
    scale = math.exp(ZOOM * signed[1])
    mirror = -1.0 if flip and uniforms[4] < 0.5 else 1.0
    a, b = mirror * scale * math.cos(angle), scale * math.sin(angle)
    d, e = -mirror * scale * math.sin(angle), scale * math.cos(angle)
    # Pillow maps output to input coordinates; centre to centre, plus the shift.
    x = len(columns) / 2 + SHIFT * signed[2] * width - a * width / 2 - b * height / 2
    y = len(rows) / 2 + SHIFT * signed[3] * height - d * width / 2 - e * height / 2
    padded = Image.fromarray(image[rows[:, None], columns[None, :]])
    moved = padded.transform(
        (width, height),
        Image.Transform.AFFINE,
        (a, b, x, d, e, y),
        resample=Image.Resampling.BILINEAR,
    )
    return _recolour(moved, signed[5:8])


def _recolour(image: Image.Image, signed: np.ndarray) -> np.ndarray:
    """Saturation about the grey of each pixel, then contrast about mid-grey and brightness."""
    saturation = 1 + SATURATION * signed[0]
    contrast = 1 + CONTRAST * signed[1]
    offset = 127.5 * (1 - contrast) + 255 * BRIGHTNESS * signed[2]
    grey = image.convert("L").convert("RGB")
    image = Image.blend(grey, image, saturation)
    ramp = np.clip(np.rint(np.arange(256) * contrast + offset), 0, 255).astype(int).tolist()
    return np.asarray(image.point(ramp * 3))
