from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_transfer.modalities import image


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (1, 1), (200, 300, 3)])
def test_png_is_lossless_for_another_decoder(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    encoded = image.encode(pixels)
    decoded = np.asarray(Image.open(io.BytesIO(encoded)))
    assert np.array_equal(decoded, pixels[..., 0] if shape == (5, 7, 1) else pixels)
    compressed = encoded[encoded.index(b"IDAT") + 4 :]
    assert len(zlib.decompressobj().decompress(compressed)) == shape[0] * (
        1 + int(np.prod(shape[1:]))
    )
