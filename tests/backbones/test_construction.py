"""Building: sizes, names that do not depend on the process, preprocessing inside the graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_transfer import backbones
from keras_transfer.backbones.weights import digest
from keras_transfer.base.errors import UsageError
from keras_transfer.learn.model import build_classifier

from .check import photos, randomise, reference_preprocessing


@pytest.mark.parametrize(("size", "expected"), [(None, 7), (32, 1), (320, 10), ((33, 130), None)])
def test_sizes(size: int | tuple[int, int] | None, expected: int | None) -> None:
    model = backbones.build("VGG16", image_size=size, weights="none").model
    height, width = (expected, expected) if expected else (1, 4)
    assert model.output_shape == (None, height, width, 512)


@pytest.mark.parametrize("size", [31, (32, 20), 0, -5])
def test_a_size_that_is_too_small_is_an_error(size: int | tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"a size of 32 or more|must be positive"):
        backbones.build("VGG16", image_size=size, weights="none")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["DenseNet121", "EfficientNetLite0", "InceptionResNetV2", "InceptionV3",
             "MobileNetV3Small", "NASNetMobile", "ResNet50V2", "Xception"]
)  # fmt: skip
def test_the_smallest_size_works(name: str) -> None:
    backbone = backbones.build(name, image_size=backbones.spec(name).min_size, weights="none")
    assert min(backbone.model.output_shape[1:3]) >= 1


def test_names_do_not_depend_on_what_was_built_before() -> None:
    keras.layers.Conv2D(1, 1)
    keras.layers.Add()
    built = [backbones.build("Xception", image_size=71, weights="none") for _ in range(2)]
    assert built[0].blocks == built[1].blocks
    names = {operation.name for operation in built[0].model.operations}
    assert {"conv2d", "conv2d_3", "add", "add_11", "batch_normalization"} <= names
    assert "add_12" not in names


def test_the_digest_follows_the_weights() -> None:
    backbone = backbones.build("VGG16", image_size=32, weights="none")
    assert digest(backbone.model) == backbone.weights_digest
    kernel, bias = backbone.model.get_layer("block5_conv3").get_weights()
    bias[3] += 1e-6
    backbone.model.get_layer("block5_conv3").set_weights([kernel, bias])
    assert digest(backbone.model) != backbone.weights_digest


@pytest.mark.parametrize(
    ("name", "last"),
    [("EfficientNetV2B0", "normalization"), ("MobileNetV3Small", "rescaling"),
     ("ConvNeXtTiny", "convnext_tiny_prestem_normalization")],
)  # fmt: skip
def test_preprocessing_is_what_the_constructor_includes(name: str, last: str) -> None:
    genuine = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(32, 48, 3)
    )
    layer = next(layer for layer in genuine.layers if layer.name.startswith(last))
    included = keras.Model(genuine.input, layer.output)
    pixels = photos(32, 48)
    np.testing.assert_allclose(
        included(pixels.astype(np.float32)).numpy(),
        reference_preprocessing(name, pixels),
        atol=1e-5,
    )


def test_a_classifier_loads_where_this_package_is_unknown(tmp_path: Path) -> None:
    backbone = backbones.build("MobileNetV3Small", image_size=32, weights="none")
    randomise(backbone.model)
    classifier = build_classifier(backbone, 3)
    classifier.save(tmp_path / "model.keras")
    np.save(tmp_path / "photos.npy", photos(32, 32))
    code = (
        "import sys, keras, numpy as np;"
        "model = keras.models.load_model('model.keras');"
        "np.save('answer.npy', model(np.load('photos.npy'), training=False));"
        "sys.exit('keras_transfer' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
    expected = classifier(photos(32, 32), training=False).numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "answer.npy"), expected)


def test_floats_in_the_same_range_are_taken_too() -> None:
    model = backbones.build("MobileNetV3Small", image_size=32, weights="none").model
    pixels = photos(32, 32)
    np.testing.assert_array_equal(model(pixels).numpy(), model(pixels.astype(np.float32)).numpy())
