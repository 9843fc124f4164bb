import keras
import numpy as np
import pytest

from keras_transfer import backbones, datasets
from keras_transfer.base.types import Block
from keras_transfer.frozen.features import FrozenPart, Views
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.model import (
    build_classifier,
    cut_blocks,
    head_inputs,
    levels_of,
    standardise,
)


@pytest.fixture(scope="module")
def mobile():
    return backbones.build("MobileNetV3Small", image_size=64, weights="none")


def blocks(*shapes):
    return [Block(f"b{i}", (), 0, 1, (f"l{i}",), (shape,)) for i, shape in enumerate(shapes)]


SHAPES = [(32, 32, 9), (16, 16, 8), (8, 8, 4), (8, 8, 4), (8, 8, 6), (4, 4, 6), (2, 2, 20)]


@pytest.mark.parametrize(
    ("share", "levels"),
    [(1.0, [2, 3, 4, 5]), (0.9, [3, 4, 5]), (0.7, [4, 5]), (0.5, [5]), (0.2, []), (0.0, [])],
)
def test_levels_are_as_many_as_fit_beside_the_top(share, levels):
    assert levels_of(blocks(*SHAPES), share) == levels


def test_a_cut_carries_the_levels_below_it():
    held = cut_blocks(blocks(*SHAPES), 0.9)
    assert [one.cut for one in held] == [
        ("l0",), ("l1",), ("l2",), ("l3", "levels_b3"), ("l4", "levels_b4"), ("l5", "levels_b5"),
        ("l6",),
    ]  # fmt: skip
    assert [one.output_shapes[1:] for one in held[3:6]] == [((4,),), ((10,),), ((16,),)]
    assert cut_blocks(blocks(*SHAPES), 0.0) == tuple(blocks(*SHAPES))


def test_a_head_with_levels_sees_standardised_features(mobile):
    draw = np.random.default_rng(0)
    model = build_classifier(mobile, 3, 1.0)
    count = model.get_layer("avg_pool").output.shape[-1]
    levels = levels_of(mobile.blocks, 1.0)
    assert count == 576 + sum(mobile.blocks[i].output_shapes[0][-1] for i in levels)
    features = draw.normal(5, draw.uniform(0.3, 30, count), (500, count)).astype(np.float32)
    features[:, 3] = 7
    features[:, 4] = 100 + 0.1 * draw.normal(size=500)  # less than bfloat16 can tell
    standardise(model, features)
    above = keras.Model(model.get_layer("avg_pool").output, model.get_layer("logits").input)
    seen = np.asarray(above(features, training=False))
    np.testing.assert_allclose(seen, head_inputs(model)(features), atol=1e-4)
    silent = np.isin(np.arange(count), (3, 4))
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(seen[:, ~silent].std(axis=0), 1, rtol=1e-3)
    assert np.abs(seen[:, silent]).max() < 1e-4


def test_a_head_without_levels_is_left_alone(mobile):
    model, features = build_classifier(mobile, 3), np.ones((4, 576), np.float32)
    standardise(model, features)
    assert head_inputs(model)(features) is features


def test_whatever_the_head_sees_has_its_own_keys(mobile, digits_folder, tmp_path):
    views = Views(datasets.load_dataset(str(digits_folder), image_size=64))
    found = {}
    for share in (0.0, 0.1, 0.5, 1.0):
        model, cut = build_classifier(mobile, 3, share), cut_blocks(mobile.blocks, share)[-2].cut
        sample = np.zeros((4, 64, 64, 3), np.uint8)
        part = FrozenPart(model, mobile, cut, examples_count=4, sample=sample)
        keys = part.keys(views, 0, "keras", ActivationStore(tmp_path))
        found[share] = [*levels_of(mobile.blocks, share)], keys
    levels, keys = zip(*found.values(), strict=True)
    assert len({tuple(one) for one in levels}) == 4
    # The case that names alone do not tell apart: the same level on top, fewer below it.
    assert levels[2][-1] == levels[3][-1]
    assert len({pooled.cut for pooled, _ in keys}) == 1
    assert keys[2][1].cut == keys[3][1].cut
    assert len({pooled for pooled, _ in keys}) == len({at_cut for _, at_cut in keys}) == 4
