"""From encoded bytes to uint8 pixels, and the augmented views of those pixels.

One policy everywhere (training, evaluation, prediction, the export proof): the first frame, EXIF
rotation applied, alpha composited on white, RGB, and the whole image squashed to the model's size
with an antialiased bilinear filter (see ``resampling``). Colour profiles are not applied: pixels
are taken as sRGB. Pillow decodes, and ordinary JPEGs are handed to the same libjpeg-turbo directly
(``simplejpeg``), which gives the same pixels sooner; reading images needs no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from keras_transfer.base.errors import ImageError, UsageError
from keras_transfer.modalities.image.resampling import squash

MAX_PIXELS = 89_478_485
"""Largest width times height that is decoded (256 MiB of RGB, Pillow's own warning level)."""

MAX_SCANS = 200
"""Largest number of scans of a progressive JPEG; each costs a pass over the whole image."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
"""The decoders that may run. None of them starts another program or reads another file."""

JPEGS = ("JPEG", "MPO")
"""Pillow's names of what the DCT can scale down."""

SCALED_SIDE = 224
"""Sizes below this do not make the DCT scale a JPEG down further, so that up to this size one
decoding serves both the pixels and a thumbnail that does not depend on the size asked for."""

POLICY_VERSION = 5
"""Raised whenever the same bytes may give other pixels or fingerprints: a key of every cache."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What EXIF's orientation asks for (CIPA DC-008, tag 0x0112)."""

SIDEWAYS = (TURNS[5], TURNS[6], TURNS[7], TURNS[8])

CHUNKS = (2, 16)  # images a task, at least and at most: enough to hide what a task costs

ROTATION = 10.0  # degrees either way
ZOOM = 0.12  # log-scale range either way
SHIFT = 0.06  # of the side, either way
BRIGHTNESS = 0.12
CONTRAST = 0.2
SATURATION = 0.2

# Pillow warns of exactly what MAX_PIXELS refuses with an error of our own.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Size = int | tuple[int, int]


def decode_image(data: bytes, image_size: Size | None = None) -> np.ndarray:
    """Decodes one image file.

    Args:
        data: the encoded bytes of a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or PPM file.
        image_size: side of the square, or (height, width), in pixels; None keeps the image's own
            size. The image is squashed, not cropped. JPEGs of which the DCT can give 1/2, 1/4
            or 1/8 and leave 0.8 of that size, and of 224 px, are decoded so.

    Returns:
        uint8 RGB, shape ``[height, width, 3]``.

    Raises:
        ImageError: the bytes are no image, a damaged one, or one of more than ``MAX_PIXELS``.
    """
    size = None if image_size is None else height_width(image_size)
    return _load(_open(data), data, None if size is None else max(size)).upright(size)


@dataclasses.dataclass(frozen=True, eq=False)
class Examined:
    """What one decoding of an image yields.

    Attributes:
        pixels: as ``decode_image`` gives them; None when no size was asked for.
        thumbnail: uint8 ``[16, 16, 3]``, the whole image, by which near duplicates are found. It
            does not depend on the size asked for.
        format: Pillow's name of the format, such as ``JPEG``.
        width: in pixels, as stored.
        height: in pixels, as stored.
    """

    pixels: np.ndarray | None
    thumbnail: np.ndarray
    format: str
    width: int
    height: int


def examine(data: bytes, image_size: Size | None = None) -> Examined:
    """Decodes an image file in full, once, for everything that a data set wants to know of it.

    Raises:
        ImageError: as ``decode_image``.
    """
    size = None if image_size is None else height_width(image_size)
    image = _open(data)
    width, height = image.size
    decoded = _load(image, data, SCALED_SIDE if size is None else max(size))
    pixels = None if size is None else decoded.upright(size)
    if decoded.scale != _dct_scale(image, (width, height), SCALED_SIDE):
        decoded = _load(_open(data), data, SCALED_SIDE)
    format = "JPEG" if image.format == "MPO" else image.format or ""
    return Examined(pixels, decoded.upright((16, 16)), format, width, height)


@dataclasses.dataclass(frozen=True, eq=False)
class _Decoded:
    """A decoded image: RGB as stored, how it must be turned, and how far the DCT scaled it down.

    At a scale of 1/8, 900 pixels become 113, the last of them a fraction: ``width`` is 112.5, which
    is what the whole image fills.
    """

    rgb: Image.Image | np.ndarray
    turn: Image.Transpose | None
    scale: int
    width: float
    height: float
    jpeg: bool

    def upright(self, size: tuple[int, int] | None) -> np.ndarray:
        """The pixels turned, and squashed to (height, width) where that is asked for."""
        if size is None:
            return self._turned(np.asarray(self.rgb))
        rgb, box = self.rgb, (0.0, 0.0, self.width, self.height)
        height, width = size[::-1] if self.turn in SIDEWAYS else size
        # What no DCT scales down becomes means of as many pixels as leave four times the size.
        x, y = max(1, int(self.width / width / 4)), max(1, int(self.height / height / 4))
        if isinstance(rgb, Image.Image) and not self.jpeg and (x, y) != (1, 1):
            rgb, box = rgb.reduce((x, y)), (0.0, 0.0, self.width / x, self.height / y)
        return self._turned(squash(np.asarray(rgb), (height, width), box))

    def _turned(self, pixels: np.ndarray) -> np.ndarray:
        if self.turn is None:
            return pixels
        return np.asarray(Image.fromarray(pixels).transpose(self.turn))


def _dct_scale(image: Image.Image, size: tuple[int, int], side: int) -> int:
    """By how much (1, 2, 4 or 8) a JPEG is scaled down: to 0.8 of ``side``, or of 224 px, at least.

    At 0.8 the pixels stay within 35 to 42 dB of those of the whole image, nearer than a plain
    bilinear filter (30 to 38 dB, measured on two photos), for a third less work.
    """
    if image.format not in JPEGS:
        return 1
    ratio = 5 * min(size) // (4 * max(side, SCALED_SIDE))
    return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)


def _open(data: bytes) -> Image.Image:
    """Reads the header, and refuses what no decoder should be let loose on."""
    if not data:
        raise ImageError("empty file", kind="empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
    except Image.DecompressionBombError:
        raise ImageError(f"over {MAX_PIXELS:,} pixels", kind="bomb") from None
    except Exception as error:
        raise _not_an_image(data, error) from None
    if "progressive" in image.info and data.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(f"over {MAX_SCANS} scans", kind="bomb")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height}: over {MAX_PIXELS:,} pixels", kind="bomb")
    if image.format in JPEGS and isinstance(image, ImageFile.ImageFile):
        # The bytes are in memory: to hand them over in pieces of 64 KiB would only copy them.
        image.decodermaxblock = max(len(data), ImageFile.MAXBLOCK)
    return image


def _load(image: Image.Image, data: bytes, side: int | None) -> _Decoded:
    """Decodes to RGB, a JPEG scaled down as far as ``side`` allows."""
    width, height = image.size
    scale = 1 if side is None else _dct_scale(image, image.size, side)
    try:
        rgb: Image.Image | np.ndarray | None = _plain_jpeg(image, data, scale)
        if rgb is None:
            if scale > 1:
                image.draft(None, (width // scale, height // scale))
            image.load()
            rgb = _flatten(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        raise _damaged(error) from None
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # an image whose EXIF block is damaged is still an image
        turn = None
    if scale == 1:
        width, height = image.size  # which decoding may turn
    return _Decoded(rgb, turn, scale, width / scale, height / scale, image.format in JPEGS)


def _plain_jpeg(image: Image.Image, data: bytes, scale: int) -> np.ndarray | None:
    """What libjpeg-turbo makes of a JPEG in colour or gray, unless it has any remark to make.

    Pillow, which then decodes it, is to decide whether what was remarked on is an error.
    """
    if image.format not in JPEGS or image.mode not in ("RGB", "L"):
        return None
    width, height = (-(-side // scale) for side in image.size)
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


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


def _damaged(error: Exception) -> ImageError:
    """What a decoder said of a damaged file."""
    reason = str(error) or type(error).__name__
    return ImageError(reason, kind="truncated" if "truncated" in reason.lower() else "unreadable")


def _not_an_image(data: bytes, error: Exception) -> ImageError:
    """Says what the bytes are instead of an image, where their beginning tells."""
    head = data[:512].lstrip().lower()
    if not isinstance(error, Image.UnidentifiedImageError):
        return _damaged(error)
    if head.startswith((b"<!doctype html", b"<html")):
        return ImageError("an HTML page, not an image", kind="not_an_image")
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return ImageError("an SVG drawing; convert it to PNG", kind="not_an_image")
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return ImageError("a HEIC photo; convert it to JPEG", kind="not_an_image")
    return ImageError("no image format that is known", kind="not_an_image")


def height_width(size: Size) -> tuple[int, int]:
    """A side, or (height, width), as (height, width). Raises UsageError under one pixel."""
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
        strength: 0 to 3, multiplies every range. 1 suits most sets; 0 leaves only the flip.
        flip: whether half of the images are mirrored left to right. Turn it off where direction
            has a meaning, as in text and digits.

    Returns:
        uint8, the shape of ``pixels``; ``pixels`` itself for view 0.

    Raises:
        UsageError: the strength is out of range, or the lengths differ.
    """
    if len(digests) != len(pixels):
        raise UsageError(
            f"augment got {len(pixels)} images and {len(digests)} digests.",
            remedy="Give one digest an image.",
        )
    if not 0 <= strength <= 3:
        raise UsageError(
            f"the strength of augmentation is {strength}.", remedy="Give a number from 0 to 3."
        )
    if view == 0 or len(pixels) == 0:
        return pixels
    drawn = np.empty_like(pixels)

    def draw(i: int) -> None:
        drawn[i] = _view(pixels[i], _uniforms(digests[i], view, seed), strength, flip)

    # Half of the cores: the others compute what views are drawn for. Pillow holds Python's lock for
    # much of a small view, so that two threads on two cores gain nothing and delay the network.
    in_threads(draw, len(pixels), max(1, threads() // 2))
    return drawn


def in_threads(function: Callable[[int], None], count: int, workers: int = 0) -> None:
    """Calls ``function`` with 0 to ``count - 1``, and gives up at the first error.

    Worth it where the work releases Python's lock, as decoding, hashing and reading do.

    Args:
        function: what is called.
        count: how often.
        workers: the number of threads; one for each core by default.
    """
    workers = workers or threads()
    least, most = CHUNKS
    # With fifty tasks a thread, the last ones do not keep the other threads waiting for long.
    chunk = max(least, min(most, count // (50 * workers)))

    def several(start: int) -> None:
        for i in range(start, min(start + chunk, count)):
            function(i)

    if workers == 1 or count <= least:
        for i in range(count):
            function(i)
        return
    # Freeing a large block teaches glibc to keep memory, rather than to give the buffers of every
    # image back to the system and meet a page fault for each 4 KiB of the next one.
    del bytearray(2**24)[:]
    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(several, range(0, count, chunk)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all that is queued


def threads() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _uniforms(digest: str, view: int, seed: int) -> np.ndarray:
    """Eight numbers in [0, 1) that depend on nothing but the arguments."""
    drawn = hashlib.sha256(f"{digest}:{view}:{seed}".encode()).digest()
    return np.frombuffer(drawn, "<u4") / 2.0**32


def _view(image: np.ndarray, uniforms: np.ndarray, strength: float, flip: bool) -> np.ndarray:
    """One view of one image: uint8 ``[height, width, 3]`` in and out."""
    height, width = image.shape[:2]
    signed = ((2 * uniforms - 1) * strength).tolist()
    angle = math.radians(ROTATION * signed[0])
    scale = math.exp(ZOOM * signed[1])
    mirror = -1.0 if flip and uniforms[4] < 0.5 else 1.0
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    # How far outside the image its corners may look, as a share of the longer side.
    reach = 0.5 * (cosine + abs(sine)) - 0.5 + SHIFT * strength
    padded, left, top = _reflect(Image.fromarray(image), max(reach, 0.0))
    # Pillow maps output to input positions: here about the centres, plus the shift.
    x = left + width * (0.5 + SHIFT * signed[2]) - (mirror * cosine * width + sine * height) / 2
    y = top + height * (0.5 + SHIFT * signed[3]) - (cosine * height - mirror * sine * width) / 2
    # The nearest pixel at twice the size, then the mean of each 2x2: four times faster than
    # Pillow's bilinear transform at 128 px, and within 43 dB of it.
    doubled = padded.transform(
        (2 * width, 2 * height),
        Image.Transform.AFFINE,
        (mirror * cosine / 2, sine / 2, x, -mirror * sine / 2, cosine / 2, y),
        resample=Image.Resampling.NEAREST,
    )
    return np.asarray(_recolour(doubled.reduce(2), *signed[5:8]))


def _reflect(image: Image.Image, reach: float) -> tuple[Image.Image, int, int]:
    """Mirrors an image outwards at its borders. Returns it with its left and top margins."""
    width, height = image.size
    margin = math.ceil(reach * max(width, height)) + 1
    left, top = min(margin, width - 1), min(margin, height - 1)
    padded = Image.new("RGB", (width + 2 * left, height + 2 * top))
    padded.paste(image, (left, top))
    flipped = Image.Transpose.FLIP_LEFT_RIGHT
    padded.paste(image.crop((1, 0, left + 1, height)).transpose(flipped), (0, top))
    padded.paste(
        image.crop((width - left - 1, 0, width - 1, height)).transpose(flipped), (left + width, top)
    )
    across, flipped = padded.width, Image.Transpose.FLIP_TOP_BOTTOM
    padded.paste(padded.crop((0, top + 1, across, 2 * top + 1)).transpose(flipped), (0, 0))
    padded.paste(
        padded.crop((0, height - 1, across, height + top - 1)).transpose(flipped), (0, top + height)
    )
    return padded, left, top


def _recolour(image: Image.Image, first: float, second: float, third: float) -> Image.Image:
    """Saturation about each pixel's grey, contrast about mid-grey, and brightness, as one matrix.

    Args:
        image: RGB.
        first: saturation, second: contrast, third: brightness, each -1..1 times the strength.
    """
    saturation, contrast = 1 + SATURATION * first, 1 + CONTRAST * second
    offset = 127.5 * (1 - contrast) + 255 * BRIGHTNESS * third
    matrix: list[float] = []
    for band in range(3):
        row = [contrast * (1 - saturation) * share for share in (0.299, 0.587, 0.114)]
        row[band] += contrast * saturation
        matrix += [*row, offset]
    return image.convert("RGB", tuple(matrix))
