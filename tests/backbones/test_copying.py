"""A copy computes the same and shares nothing: what a caller passes in stays as it was."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_transfer import backbones
from keras_transfer.backbones.copying import copy_of
from keras_transfer.backbones.weights import digest
from keras_transfer.base.types import Backbone
from keras_transfer.learn.model import build_classifier

from .check import photos, randomise

SIZE = (65, 94)


@pytest.fixture(scope="module", params=["EfficientNetLite0", "ResNet50"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    built = backbones.build(request.param, image_size=SIZE, weights="none")
    randomise(built.model)
    return built


def test_a_copy_answers_the_same_to_the_last_bit(backbone: Backbone) -> None:
    copied = copy_of(backbone)
    pixels = photos(*SIZE)
    np.testing.assert_array_equal(
        copied.model(pixels, training=False), backbone.model(pixels, training=False)
    )
    assert digest(copied.model) == digest(backbone.model)
    assert copied.blocks == backbone.blocks == backbones.block_map(copied.model, copied.spec)
    assert copied.spec == backbone.spec


def test_a_copy_draws_the_same_chances(backbone: Backbone) -> None:
    copied = copy_of(backbone)
    pixels = photos(*SIZE)
    found = [np.asarray(one.model(pixels, training=True)) for one in (copied, backbone)]
    np.testing.assert_array_equal(*found)


def test_a_copy_has_variables_of_its_own(backbone: Backbone) -> None:
    copied = copy_of(backbone)
    mine = {id(variable) for variable in backbone.model.variables}
    assert len(mine) == len(copied.model.variables)
    assert mine.isdisjoint(id(variable) for variable in copied.model.variables)
    layers = {id(operation) for operation in backbone.model.operations}
    assert layers.isdisjoint(id(operation) for operation in copied.model.operations)


def test_training_a_copy_leaves_the_original(backbone: Backbone) -> None:
    backbone.model.trainable = False
    before = digest(backbone.model)
    copied = copy_of(backbone)
    assert all(layer.trainable for layer in copied.model.layers)  # whatever the caller froze
    classifier = build_classifier(copied, 2)
    classifier.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    classifier.train_on_batch(photos(*SIZE), np.array([0, 1]))
    assert digest(copied.model) != before
    assert digest(backbone.model) == before
    assert not any(layer.trainable for layer in backbone.model.layers)
    assert not isinstance(backbone.model.layers[-1], keras.layers.Softmax)


@pytest.mark.slow
def test_a_registered_backbone_is_copied_too() -> None:
    def layers(x: keras.KerasTensor) -> keras.KerasTensor:
        x = keras.layers.Conv2D(4, 3, strides=2, name="block1_conv")(x)
        x = keras.layers.Reshape((-1, 4), name="block2_rows")(keras.ops.relu(x))
        x = keras.layers.MultiHeadAttention(2, 3, dropout=0.5, name="block2_attention")(x, x)
        return keras.layers.GRU(5, dropout=0.5, name="block3_rows")(x)

    backbones.register("Copied", layers, image_size=40)
    built = backbones.build("Copied", weights="none")
    copied = copy_of(built)
    pixels = photos(40, 40)
    for training in (False, True, True):
        found = [np.asarray(one.model(pixels, training=training)) for one in (copied, built)]
        np.testing.assert_array_equal(*found)
