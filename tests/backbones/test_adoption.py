"""A functional model of one's own trains as those in the registry, and stays as it is."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer import backbones
from keras_transfer.backbones.copying import copy_of
from keras_transfer.base.errors import UsageError
from keras_transfer.runs import probing

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)


class Hub(keras.Model):
    """Functional within a class of its own, as KerasHub's are, and part of it nested."""

    def __init__(self, size: int | None = None, **extra: object) -> None:
        images = keras.Input((size, size, 3))
        stem = keras.Sequential(
            [keras.layers.Conv2D(8, 3, strides=2, padding="same", name="conv"),
             keras.layers.BatchNormalization(name="norm")], name="stem",
        )  # fmt: skip
        x = stem(images)
        for name in ("one", "two"):
            y = keras.layers.Conv2D(8, 3, padding="same", name=f"{name}_conv")(x)
            y = keras.layers.ReLU(name=f"{name}_relu")(y)
            x = keras.ops.multiply(keras.layers.Add(name=f"{name}_add")([x, y]), 0.5)
        super().__init__(images, x, **extra)


@pytest.fixture
def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = Hub(name="resnet50")
    model.layers[1].layers[1].set_weights([np.full(8, v) for v in (1.5, 0.1, 0.2, 0.9)])
    return model


def test_its_graph_and_weights_are_taken_and_cut(network: keras.Model) -> None:
    before = [array.copy() for array in network.get_weights()]
    names = [layer.name for layer in network.layers]
    built = kt.build(network, preprocessing="tf", image_size=32)
    whole = np.asarray(built.model(PIXELS))
    np.testing.assert_allclose(whole, network(PIXELS / 127.5 - 1.0), atol=1e-5)
    assert [block.name for block in built.blocks] == ["block1", "block2", "block3"]
    assert [block.parameters for block in built.blocks] == [256, 584, 584]
    layers = [layer for block in built.blocks for layer in block.layers]
    assert sorted(layers) == sorted(operation.name for operation in built.model.operations)
    for block in built.blocks[:-1]:
        below, above = backbones.split(built.model, block.cut)
        np.testing.assert_array_equal(above(below(PIXELS)), whole)
    built.model.layers[-2].trainable = False
    built.model.set_weights([array + 1 for array in built.model.get_weights()])
    for mine, was in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, was)
    assert [layer.name for layer in network.layers] == names
    assert built.spec.name == "own-resnet50"  # never taken for the one in the registry


def test_how_it_takes_pixels_is_read_or_asked_for(network: keras.Model) -> None:
    with pytest.raises(UsageError, match="How resnet50 takes pixels is not known"):
        kt.build(network)
    with pytest.raises(UsageError, match="Unknown preprocessing 'torsh'"):
        kt.build(network, preprocessing="torsh")
    images = keras.Input((32, 32, 3))
    scaled = keras.Model(images, network(keras.layers.Rescaling(1 / 255)(images)))
    found = kt.build(scaled).model(PIXELS)
    np.testing.assert_allclose(found, network(PIXELS / 255.0), atol=1e-5)
    chain = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(),
         keras.layers.Dense(4, name="block1_dense"), keras.layers.Dense(3, name="block2_dense")]
    )  # fmt: skip
    built = kt.build(chain)
    np.testing.assert_allclose(built.model(PIXELS), chain(PIXELS.astype("float32")), atol=1e-5)
    assert (built.spec.name, built.spec.size) == ("own-model", 32)
    assert [block.name for block in built.blocks] == ["block1", "block2"]


def test_what_is_no_backbone_is_refused(network: keras.Model) -> None:
    images, text = keras.Input((32, 32, 3)), keras.Input((16, 2), dtype="int32")
    flat = keras.layers.Flatten()(images)
    headed = keras.Model(images, keras.layers.Dense(5, activation="softmax")(flat))
    grey = keras.Model(one := keras.Input((32, 32, 1)), keras.layers.Flatten()(one))
    twice = keras.Model(images, network(keras.layers.Conv2D(3, 1)(network(images)[..., :3])))

    class Forgetful(keras.layers.Layer):
        def __init__(self, factor, **named):
            super().__init__(**named)

        def call(self, images):
            return images

        def get_config(self):
            return super().get_config()

    dense = keras.layers.Dense(4)(flat)
    with pytest.raises(UsageError, match="cannot be built again for a size of 64"):
        kt.build(keras.Model(images, dense), preprocessing="tf", image_size=64)
    moved = keras.Model(images, keras.layers.RandomFlip()(images))

    class Subclassed(keras.Model):
        def call(self, images):
            return images

    for model, said in (
        (headed, "ends with the probabilities of its own classes"),
        (grey, r"shapes \(32, 32, 1\)|shapes \(None, 32, 32, 1\)"),
        (keras.Model(text, keras.layers.Dense(2)(text)), "shapes"),
        (twice, "more than once"),
        (Subclassed(name="mine"), "has no graph"),
        (
            keras.Model(images, Forgetful(2)(images)),
            "cannot be built again: Error when deserializing",
        ),
        (moved, "has a RandomFlip, which would never change anything"),
    ):
        with pytest.raises(UsageError, match=said):
            kt.build(model, preprocessing="tf")


def test_what_it_has_learnt_of_its_own_data_is_taken_over_and_copied() -> None:
    by_data = keras.layers.Normalization()
    by_data.adapt(np.linspace(-9.0, 99.0, 300).reshape(100, 3))
    images = keras.Input((32, 32, 3))
    mine = keras.Model(images, keras.layers.Conv2D(4, 3)(by_data(images)))
    built = kt.build(mine)
    np.testing.assert_allclose(built.model(PIXELS), mine(PIXELS), rtol=1e-4, atol=1e-4)
    copied = copy_of(built).model
    np.testing.assert_array_equal(copied(PIXELS), built.model(PIXELS))


def test_a_run_of_it_is_complete_and_goes_on_without_it(
    network: keras.Model, digits_folder, tmp_path
) -> None:
    images = keras.Input((32, 32, 3))
    mine = keras.Model(images, network(keras.layers.Rescaling(1 / 255)(images)), name="mine")
    how = {"unfreeze": 1, "fine_tune_epochs": 1, "per_class": 6, "seed": 3}
    result = kt.train(digits_folder, backbone=mine, output=tmp_path / "run", **how)
    run = kt.open_run(tmp_path / "run")
    assert run.config["backbone"] == "own-mine"
    kept = tmp_path / "run" / "backbone.keras"
    again = kt.train(digits_folder, backbone=str(kept), output=tmp_path / "again", **how)
    assert again.config["weights_digest"] == result.config["weights_digest"]
    np.testing.assert_allclose(again.test_probabilities, result.test_probabilities, atol=1e-5)
    data = run.dataset
    features = probing.pretrained_features(run, data)
    expected = np.asarray(network(data.examples[:4] / 255.0)).mean(axis=(1, 2))
    np.testing.assert_allclose(features[:4, -8:], expected, rtol=1e-3, atol=1e-3)
    rows = probing.compare_with_baselines(run, scratch_seconds=0.1)
    assert [row["name"] for row in rows][-1] == "training from scratch"
    with pytest.raises(UsageError, match="'own-mine' is unknown") as caught:
        kt.train(digits_folder, config=tmp_path / "run" / "config.json")
    assert "backbone.keras" in caught.value.remedy
