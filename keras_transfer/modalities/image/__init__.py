"""Images: uint8 RGB of one size, squashed unless the setting ``fit`` says to crop or to pad.

One policy everywhere (training, evaluation, prediction, the export proof): the first frame, EXIF
rotation applied, alpha composited on white, RGB, and the image fitted to the model's size with an
antialiased bilinear filter (see ``resampling``). Colour profiles are not applied: pixels are taken
as sRGB. Pillow decodes; reading images needs no TensorFlow.
"""

# ruff: noqa: F401

from collections.abc import Mapping, Sequence
from typing import Any

from keras_transfer import recipe
from keras_transfer.modalities.image.augmentation import mirroring_is_safe, view
from keras_transfer.modalities.image.copies import near_copies
from keras_transfer.modalities.image.decoding import (
    FITS,
    VERSION,
    decode,
    examine,
    peek,
    preview,
    size_of,
    spec,
    spec_of,
)
from keras_transfer.modalities.image.encoding import encode, from_memory, overlay, show
from keras_transfer.modalities.image.entrance import adopted, entrance, losses, suited

NAME = NOUN = "image"
SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm"), "PPM"),
    **{".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".avif": "AVIF"},
    **dict.fromkeys((".heic", ".heif"), "HEIF"),
    **dict.fromkeys((".svg", ".ico", ".jp2", ""), ""),
}
SUFFIX = ".png"
FINGERPRINT: tuple[int, ...] = (16, 16, 3)
EXTENT = "longer side in pixels"
EXTENT_EDGES: Sequence[int] = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096)
LITERAL = False
excerpt = None
INPUT = "uint8 RGB, 0..255, fitted to a square as fit says, bilinear"
SIZE = "image_size"
EFFORTS: Mapping[str, Mapping[str, Any]] = recipe.EFFORTS
SEARCH: Mapping[str, Mapping[str, Any]] = {}
