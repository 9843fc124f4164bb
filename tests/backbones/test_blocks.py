"""Named blocks: what they are called, what trains when they are opened, their rates."""

from __future__ import annotations

import keras
import pytest

from keras_transfer import backbones
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Backbone
from keras_transfer.learn.model import build_classifier


@pytest.fixture(scope="module")
def mobile() -> Backbone:
    return backbones.build("MobileNetV3Small", image_size=(32, 48), weights="none")


def test_blocks_bear_their_published_names(mobile: Backbone) -> None:
    assert [block.name for block in mobile.blocks] == [
        "conv", "expanded_conv", *(f"expanded_conv_{n}" for n in range(1, 11)), "conv_1",
    ]  # fmt: skip
    # The activation that closes the top has no name of its own.
    assert mobile.blocks[-1].layers == ("conv_1", "conv_1_bn", "activation_17")
    assert mobile.blocks[0].layers[:2] == ("image", "preprocessing")


def test_bytes_at_a_cut_are_float16(mobile: Backbone) -> None:
    assert mobile.blocks[0].output_shapes == ((16, 24, 16),)
    assert mobile.blocks[0].cut_bytes == 16 * 24 * 16 * 2


def test_the_head_is_not_in_the_map(mobile: Backbone) -> None:
    for levels in (0.0, 1.0):
        classifier = build_classifier(mobile, 3, levels)
        assert backbones.block_map(classifier, mobile.spec) == mobile.blocks


@pytest.mark.parametrize(
    ("depth", "count"),
    [(0, 0), (3, 3), ("3", 3), ("none", 0), ("all", 13), ("conv_1", 1), ("expanded_conv_9", 3),
     ("45%", 4)],
)  # fmt: skip
def test_depths(mobile: Backbone, depth: int | str, count: int) -> None:
    assert backbones.depth_of(mobile.blocks, depth) == count
    opened = backbones.unfreeze(mobile.model, depth, mobile.blocks)
    assert opened == mobile.blocks[len(mobile.blocks) - count :]
    names = {name for block in opened for name in block.layers}
    for layer in mobile.model.layers:
        frozen = layer.name not in names or isinstance(layer, keras.layers.BatchNormalization)
        assert layer.trainable is not frozen, layer.name


@pytest.mark.parametrize("depth", [-1, 14, "99", "expanded_conv_19", "some"])
def test_an_unknown_depth_is_an_error(mobile: Backbone, depth: int | str) -> None:
    with pytest.raises(UsageError, match="unknown"):
        backbones.depth_of(mobile.blocks, depth)


def test_near_matches_are_offered(mobile: Backbone) -> None:
    with pytest.raises(UsageError, match=r"Did you mean .*expanded_conv_1"):
        backbones.depth_of(mobile.blocks, "expanded_conv_19")


def test_batch_norm_trains_only_on_demand(mobile: Backbone) -> None:
    norm = mobile.model.get_layer("conv_1_bn")
    backbones.unfreeze(mobile.model, 1, mobile.blocks)
    assert not norm.trainable_weights
    backbones.unfreeze(mobile.model, 1, mobile.blocks, batch_norm=True)
    assert len(norm.trainable_weights) == 2
    assert not mobile.model.get_layer("expanded_conv_10_project_bn").trainable_weights


def test_the_head_keeps_its_own_setting(mobile: Backbone) -> None:
    classifier = build_classifier(mobile, 3)
    classifier.trainable = False
    backbones.unfreeze(classifier, 1, mobile.blocks)
    assert {weight.path for weight in classifier.trainable_weights} == {
        "conv_1/kernel", "logits/kernel", "logits/bias",
    }  # fmt: skip
    classifier.get_layer("logits").trainable = False
    backbones.unfreeze(classifier, 1, mobile.blocks)
    assert {weight.path for weight in classifier.trainable_weights} == {"conv_1/kernel"}


def test_rate_groups_count_from_the_top(mobile: Backbone) -> None:
    groups = backbones.rate_groups(mobile.blocks)
    assert groups["conv_1"] == 0
    assert groups["expanded_conv_10_project"] == 1
    assert groups["conv"] == groups["preprocessing"] == 12
    assert set(groups) == {operation.name for operation in mobile.model.operations}
