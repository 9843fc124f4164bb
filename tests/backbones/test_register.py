"""A backbone of one's own behaves as those in the registry."""

import keras
import numpy as np
import pytest

from keras_transfer import backbones
from keras_transfer.base.errors import UsageError


def tiny(x):
    for block, filters in enumerate((8, 16), start=1):
        x = keras.layers.Conv2D(filters, 3, strides=2, name=f"block{block}_conv")(x)
    return x


@pytest.fixture
def registered():
    return backbones.register("Tiny", tiny, image_size=40)


def test_it_is_built_cut_and_listed_by_name(registered):
    built = backbones.build("tiny", weights="none")
    assert [block.name for block in built.blocks] == ["block1", "block2"]
    assert registered.parameters == built.model.count_params() == (27 + 1) * 8 + (72 + 1) * 16
    assert backbones.block_map(built.model, "Tiny") == built.blocks
    assert "Tiny" in backbones.names()
    below, above = backbones.split(built.model, built.blocks[0].cut)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.uint8)
    whole = np.asarray(built.model(pixels))
    np.testing.assert_array_equal(above(below(pixels)), whole)
    assert built.model.input.dtype == "uint8"
    plain = keras.Model(built.model.get_layer("preprocessing").output, built.model.output)
    np.testing.assert_allclose(plain(pixels / 127.5 - 1), whole, rtol=1e-4, atol=1e-5)


def test_a_built_in_name_and_unknown_preprocessing_are_refused():
    with pytest.raises(UsageError, match="built in"):
        backbones.register("resnet50", tiny, image_size=40)
    with pytest.raises(UsageError, match="preprocessing"):
        backbones.register("Tiny", tiny, image_size=40, preprocessing="torsh")
    with pytest.raises(TypeError, match="licens"):
        backbones.register("Tiny", tiny, image_size=40, license="MIT")
    assert "Tiny" not in backbones.names()
