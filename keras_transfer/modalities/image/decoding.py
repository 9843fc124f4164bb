"""From the bytes of an image file to uint8 pixels."""

import functools
import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, features
from PIL.Image import Transpose

from keras_transfer.base.errors import NEEDS_PACKAGE, ExampleError, UsageError
from keras_transfer.modalities.image.resampling import squash
from keras_transfer.modalities.protocol import Examined, InputSpec

VERSION = 5

FITS = {
    "squash": "the whole of it squashed",
    "crop": "cut to its middle",
    "pad": "the whole of it, with grey (127) on two sides",
}
"""How an image of other proportions is brought to a model's; the first where nothing is said."""

PADDING = 127
"""The level beside an image that is padded: what most networks scale to 0."""

MAX_PIXELS = 89_478_485  # width times height: 256 MiB of RGB, Pillow's own warning level
MAX_SCANS = 200  # of a progressive JPEG; each costs a pass over the whole image
MIN_SIDE = 8  # pixels; an image with a shorter side is not for training

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
"""The decoders that may run. None of them starts another program or reads another file."""

HEIC = rb"(?s)....ftyp(hei|hev|mif|msf)"
AVIF = rb"(?s)....ftypavi"

SCALED_SIDE = 224
"""Sizes below this do not make the DCT scale a JPEG down further, so that up to this size one
decoding serves both the pixels and a thumbnail that does not depend on the size asked for."""

TURNS = {
    **{2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM},
    **{5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE},
    **{8: Transpose.ROTATE_90},
}
"""What EXIF's orientation asks for (CIPA DC-008, tag 0x0112); from 5 on, sides are swapped."""

LOOKALIKES = {
    rb"(?i)\s*(<!doctype html|<html)": "an HTML page, not an image",
    rb"(?is)\s*(<\?xml.*)?<svg": "an SVG drawing; convert it to PNG",
}
"""What no decoder knows may yet be known by its beginning."""

# Pillow warns of exactly what MAX_PIXELS refuses with an error of our own.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def spec(size: int | tuple[int, int]) -> InputSpec:
    """The input of a model for images of a side, or a (height, width), in pixels.

    Raises:
        UsageError: it is under one pixel.
    """
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    whole = all(isinstance(side, (int, np.integer)) for side in sides)
    if len(sides) != 2 or not whole or min(sides) < 1:
        problem = f"image size must be positive. Received: {size!r}"
        raise UsageError(problem, remedy="Give a size in pixels, or height and width.")
    height, width = sides
    content = f"RGB image of {width}x{height} pixels, 0 to 255"
    return InputSpec("image", (height, width, 3), "uint8", content, "squash")


def size_of(shape: Sequence[int]) -> int:
    """The height of images of a shape, which are square where a size is asked for."""
    return int(shape[0])


def spec_of(shape: Sequence[Any], dtype: str) -> InputSpec | None:
    """The input that takes uint8 ``[height, width, 3]``; None for any other shape or type."""
    known = len(shape) == 3 and None not in shape and shape[2] == 3 and dtype == "uint8"
    return spec((int(shape[0]), int(shape[1]))) if known else None


def preview(model: InputSpec | None) -> InputSpec:
    """What pages decode to: 160 pixels a side, fitted as for the model."""
    return spec(160).fitted(model and model.fit)


def decode(data: bytes, spec: InputSpec | None = None) -> np.ndarray:
    """Decodes one image file.

    Args:
        data: the encoded bytes of a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC or PPM file.
        spec: whose height and width the image is fitted to, see ``FITS``; None keeps its own.
            JPEGs of which the DCT can give 1/2, 1/4 or 1/8 and leave 0.8 of that size, and of
            224 px, are decoded so.

    Returns:
        uint8 RGB, shape ``[height, width, 3]``.

    Raises:
        ExampleError: the bytes are no image, a damaged one, or one of more than ``MAX_PIXELS``.
    """
    if spec is None:
        return _load(_open(data), None).upright(None)
    return _load(_open(data), max(spec.shape[:2])).upright(spec.shape[:2], spec.fit)


def examine(data: bytes, spec: InputSpec | None = None) -> Examined:
    """As ``decode``, with what else a data set wants to know.

    The fingerprint is a thumbnail of the whole image, uint8 ``[16, 16, 3]``.

    Raises:
        ExampleError: as ``decode``; and a side is shorter than ``MIN_SIDE``.
    """
    image = _open(data)
    size = width, height = image.size
    side = SCALED_SIDE if spec is None else max(spec.shape[:2])
    decoded = _load(image, side)
    example = None if spec is None else decoded.upright(spec.shape[:2], spec.fit)
    if decoded.scale != _dct_scale(image, size, SCALED_SIDE):
        decoded = _load(_open(data), SCALED_SIDE)
    if min(size) < MIN_SIDE:
        reason = f"{width}x{height} pixels: under {MIN_SIDE} on a side"
        raise ExampleError(reason, kind="too_small")
    format = "JPEG" if image.format == "MPO" else image.format or ""
    return Examined(example, decoded.upright((16, 16)), format, max(size))


def peek(data: bytes) -> int:
    """The shorter side in pixels, from the header alone."""
    return min(_open(data).size)


class _Decoded(NamedTuple):
    """A decoded image: RGB as stored, how it must be turned, and how far the DCT scaled it down.

    At a scale of 1/8, 900 pixels become 113, the last of them a fraction: ``width`` is 112.5, which
    is what the whole image fills.
    """

    rgb: Image.Image
    orientation: int
    scale: int
    width: float
    height: float
    jpeg: bool

    def upright(self, size: tuple[int, ...] | None, fit: str = "squash") -> np.ndarray:
        """The pixels turned, and fitted to (height, width) where that is asked for."""
        pixels = np.asarray(self.rgb)
        if size is not None:
            height, width = size[::-1] if 5 <= self.orientation <= 8 else size
            pixels = self._fitted(height, width, fit)
        if self.orientation in TURNS:
            pixels = np.asarray(Image.fromarray(pixels).transpose(TURNS[self.orientation]))
        if size is None or pixels.shape[:2] == size:
            return pixels
        canvas = np.full((*size, 3), PADDING, np.uint8)
        (height, width), (top, left) = pixels.shape[:2], placed(pixels.shape[:2], size)
        canvas[top : top + height, left : left + width] = pixels
        return canvas

    def _fitted(self, height: int, width: int, fit: str) -> np.ndarray:
        """Of the size asked for, or within it where it is to be padded."""
        if fit == "crop":
            return self._middle(height, width)._squashed(height, width)
        if fit == "pad":
            height, width = within((self.height, self.width), (height, width))
        return self._squashed(height, width)

    def _middle(self, height: int, width: int) -> "_Decoded":
        """The middle of the image, as large as can be, in the proportions of a size."""
        high = min(self.height, self.width * height / width)
        wide = min(self.width, self.height * width / height)
        left, top = int((self.width - wide) / 2), int((self.height - high) / 2)
        # Whole pixels, so that nothing beside it has a share in it.
        rgb = self.rgb.crop((left, top, math.ceil(left + wide), math.ceil(top + high)))
        return self._replace(rgb=rgb, width=wide, height=high)

    def _squashed(self, height: int, width: int) -> np.ndarray:
        # What no DCT scales down becomes means of as many pixels as leave four times the size.
        x = 1 if self.jpeg else max(1, int(self.width / width / 4))
        y = 1 if self.jpeg else max(1, int(self.height / height / 4))
        rgb = self.rgb if x == y == 1 else self.rgb.reduce((x, y))
        box = (0.0, 0.0, self.width / x, self.height / y)
        return squash(np.asarray(rgb), (height, width), box)


def within(own: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """The largest height and width within a size in an image's own proportions, in whole pixels."""
    scale = min(size[0] / own[0], size[1] / own[1])
    return max(1, int(own[0] * scale + 0.5)), max(1, int(own[1] * scale + 0.5))


def placed(own: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, int]:
    """Top and left of an image in the middle of a larger one."""
    return (size[0] - own[0]) // 2, (size[1] - own[1]) // 2


def _is_jpeg(image: Image.Image) -> bool:
    """Whether the DCT can scale it down."""
    return image.format in ("JPEG", "MPO")


def _dct_scale(image: Image.Image, size: tuple[int, int], side: int) -> int:
    """By how much (1, 2, 4 or 8) a JPEG is scaled down: to at least 0.8 of a side, or of 224 px."""
    # At 0.8 the pixels are nearer to those of the whole image than a plain bilinear filter's.
    if not _is_jpeg(image):
        return 1
    ratio = 5 * min(size) // (4 * max(side, SCALED_SIDE))
    return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)


def _open(data: bytes) -> Image.Image:
    """Reads the header, and refuses what no decoder should be let loose on."""
    if not data:
        raise ExampleError("empty file", kind="empty")
    try:
        heic = re.match(HEIC, data[:16]) and reads_heic()
        image = Image.open(io.BytesIO(data), formats=(*FORMATS, "HEIF") if heic else FORMATS)
        width, height = image.size
    except Image.DecompressionBombError:
        raise ExampleError(f"over {MAX_PIXELS:,} pixels", kind="bomb") from None
    except Image.UnidentifiedImageError:
        raise _unknown(data[:512]) from None
    except Exception as error:
        raise _damaged(error) from None
    if "progressive" in image.info and data.count(b"\xff\xda") > MAX_SCANS:
        raise ExampleError(f"over {MAX_SCANS} scans", kind="bomb")
    if width * height > MAX_PIXELS:
        raise ExampleError(f"{width}x{height}: over {MAX_PIXELS:,} pixels", kind="bomb")
    if _is_jpeg(image) and isinstance(image, ImageFile.ImageFile):
        # The bytes are in memory: to hand them over in pieces of 64 KiB would only copy them.
        image.decodermaxblock = max(len(data), ImageFile.MAXBLOCK)
    return image


@functools.cache
def reads_heic() -> bool:
    """Whether the package is there that reads HEIC, which Pillow is taught to use."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _unknown(start: bytes) -> ExampleError:
    """Why no decoder takes what begins so."""
    heic, avif = re.match(HEIC, start), re.match(AVIF, start)
    if heic and not reads_heic():
        reason = "a HEIC photo; pip install 'keras-transfer[heic]', or convert it to JPEG"
        return ExampleError(reason, kind=NEEDS_PACKAGE)
    if avif and not features.check("avif"):
        reason = "an AVIF image, which this Pillow does not read; pip install --upgrade pillow"
        return ExampleError(reason, kind=NEEDS_PACKAGE)
    if heic or avif:
        return ExampleError("a truncated or damaged HEIC or AVIF image", kind="truncated")
    known = (said for lookalike, said in LOOKALIKES.items() if re.match(lookalike, start))
    return ExampleError(next(known, "no image format that is known"), kind="not_an_image")


def _load(image: Image.Image, side: int | None) -> _Decoded:
    """Decodes to RGB, a JPEG scaled down as far as ``side`` allows."""
    width, height = image.size
    scale = 1 if side is None else _dct_scale(image, image.size, side)
    try:
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
        image.load()
        rgb = _flatten(image)
    except ExampleError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        raise _damaged(error) from None
    try:
        orientation = int(image.getexif().get(0x0112, 1))
    except Exception:  # an image whose EXIF block is damaged is still an image
        orientation = 1
    if scale == 1:
        width, height = image.size  # which decoding may turn
    return _Decoded(rgb, orientation, scale, width / scale, height / scale, _is_jpeg(image))


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
        raise ExampleError("levels that are negative or not finite")
    top = levels.max()
    if image.mode == "F":
        scale = 255.0 if top <= 1 else 1.0
    else:
        scale = 1.0 if image.mode == "I" and top <= 255 else 1 / 257
    if top * scale > 255:
        raise ExampleError(f"levels up to {top:g}, with no stated range")
    return Image.fromarray(np.rint(levels * scale).astype(np.uint8))


def _damaged(error: Exception) -> ExampleError:
    """What a decoder said of a damaged file."""
    reason = str(error) or type(error).__name__
    return ExampleError(reason, kind="truncated" if "truncated" in reason.lower() else "unreadable")
