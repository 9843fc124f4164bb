"""A first look at a set, before it is read."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image

from keras_transfer.base.errors import ImageError
from keras_transfer.datasets.loading import open_source
from keras_transfer.modalities.image.pipeline import FORMATS


def image_sides(data: Any, at_most: int = 64) -> list[int]:
    """The shorter sides, in pixels, of some images spread evenly over a set.

    Args:
        data: as for ``load_dataset``.
        at_most: how many images are looked at. Only their headers are decoded.

    Returns:
        One number for each image whose header could be read; may be empty.
    """
    source = open_source(data)
    chosen = np.unique(np.linspace(0, len(source.items) - 1, at_most).astype(int))
    sides = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on files that the inspection names
        for position in chosen if len(source.items) else ():
            try:
                encoded = source.read(source.items[position].path)
                with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                    sides.append(min(image.size))
            except (ImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError):
                continue  # the inspection names it
    return sides
