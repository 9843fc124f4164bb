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


def test_an_overlay_is_light_where_the_map_is():
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    heat = np.zeros((1, 4, 4), np.float32)
    heat[0, 0, 0] = 1.0
    laid = image.overlay(grey, heat).astype(int)
    assert laid.shape == grey.shape
    assert laid[0, 4, 4].sum() > laid[0, 60, 60].sum() + 200
    assert np.array_equal(image.overlay(grey, heat, strength=0.0), grey)
    red = np.zeros_like(grey)
    red[..., 0] = 200
    plain = image.overlay(red, heat, strength=0.0)
    assert (plain[..., 0] == plain[..., 2]).all()
