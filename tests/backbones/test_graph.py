"""Cuts, splits and costs, on small graphs whose answers are known and on NASNet."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_transfer import backbones
from keras_transfer.backbones import graph
from keras_transfer.base.errors import UsageError

from .check import check_cuts, photos, randomise

layers = keras.layers


def residual() -> keras.Model:
    """in -> a -> (b -> c) + a -> sum -> d, the classic block."""
    inputs = keras.Input((8, 8, 3), name="in")
    a = layers.Conv2D(4, 3, padding="same", name="a")(inputs)
    b = layers.Conv2D(4, 3, padding="same", name="b")(a)
    c = layers.Conv2D(4, 3, padding="same", name="c")(b)
    total = layers.Add(name="sum")([a, c])
    return keras.Model(inputs, layers.Conv2D(2, 1, name="d")(total))


def test_cuts_are_where_one_tensor_is_alive() -> None:
    cuts = graph.cuts(graph.trace(residual()))
    assert [cut.alive for cut in cuts] == [("in",), ("a",), ("sum",), ("d",)]
    assert cuts[2].below == {"in", "a", "b", "c", "sum"}


def test_two_tensors_are_allowed_where_asked_for() -> None:
    cuts = graph.cuts(graph.trace(residual()), pairs="^b$")
    assert [cut.alive for cut in cuts] == [("in",), ("a",), ("a", "b"), ("sum",), ("d",)]


def test_split_is_exact_and_shares_weights() -> None:
    model = residual()
    pixels = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    whole = model(pixels).numpy()
    for cut in (["a"], ["sum"], ["a", "b"]):
        prefix, suffix = backbones.split(model, cut)
        np.testing.assert_array_equal(suffix(prefix(pixels)).numpy(), whole)
    model.get_layer("d").set_weights([np.zeros((1, 1, 4, 2)), np.ones(2)])
    assert (suffix(prefix(pixels)).numpy() == 1).all()
    saved = keras.Model.from_config(model.get_config())  # splitting leaves the model whole
    assert [layer.name for layer in saved.layers] == [layer.name for layer in model.layers]


def test_split_can_end_at_other_outputs() -> None:
    model = residual()
    pixels = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    prefix, suffix = backbones.split(model, ["a"], outputs=["c", "d"])
    c, d = suffix(prefix(pixels))
    assert c.shape == (2, 8, 8, 4)
    np.testing.assert_array_equal(d.numpy(), model(pixels).numpy())


def test_what_cannot_be_split_is_an_error() -> None:
    with pytest.raises(UsageError, match="no layer 'z'"):
        backbones.split(residual(), ["z"])
    with pytest.raises(UsageError, match="leaves other tensors alive"):
        backbones.split(residual(), ["c"])
    with pytest.raises(UsageError, match="no graph to cut"):
        backbones.split(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), ["dense"])
    inputs = keras.Input((8,))
    twice = layers.Dense(8, name="twice")
    with pytest.raises(UsageError, match="'twice' more than once"):
        graph.trace(keras.Model(inputs, twice(twice(inputs))))


@pytest.mark.slow
def test_nasnet_is_cut_between_its_cells() -> None:
    backbone = backbones.build("NASNetMobile", image_size=(33, 64), weights="none")
    randomise(backbone.model)
    assert [block.name for block in backbone.blocks] == [
        "stem", "stem_1", "stem_2", "normal_0", "normal_1", "normal_2", "normal_3", "reduce_4",
        "normal_5", "normal_6", "normal_7", "normal_8", "reduce_8", "normal_9", "normal_10",
        "normal_11", "normal_12",
    ]  # fmt: skip
    pairs = [block.cut for block in backbone.blocks if len(block.cut) == 2]
    assert len(pairs) == 15
    assert pairs[-1] == ("normal_concat_10", "normal_concat_11")
    check_cuts(backbone, photos(33, 64))
