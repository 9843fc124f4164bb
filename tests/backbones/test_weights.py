"""Weights from files and runs: they fit or are refused by name, and no file runs code."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from keras_transfer import backbones
from keras_transfer.backbones.weights import digest
from keras_transfer.base.errors import WeightsError
from keras_transfer.learn.model import build_classifier

from .check import photos, randomise, reference_preprocessing

SIZE = (96, 96)
# Automatic names in every format; a nested stem in the two that matter for it.
FORMATS = {
    "Xception": ["a.weights.h5", "a_notop.h5", "a.keras", "nested.keras", "nested.weights.h5"],
    "ConvNeXtTiny": ["a_notop.h5", "nested.keras"],
}


@pytest.fixture(
    scope="module", params=["Xception", pytest.param("ConvNeXtTiny", marks=pytest.mark.slow)]
)
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, keras.Model, Path]:
    """A network as Keras builds it, in every file format in which one meets its weights."""
    folder = tmp_path_factory.mktemp(request.param)
    keras.layers.Conv2D(1, 1)  # moves the counter of automatic names
    network = getattr(keras.applications, request.param)(
        include_top=False, weights=None, input_shape=(*SIZE, 3)
    )
    randomise_nested(network)
    nested = keras.Sequential(
        [keras.Input((*SIZE, 3)), network, keras.layers.GlobalAveragePooling2D(),
         keras.layers.Dense(3)]
    )  # fmt: skip
    for name in FORMATS[request.param]:
        model = nested if name.startswith("nested") else network
        save = model.save_weights if name.endswith(".weights.h5") else model.save
        save(folder / name)
    return request.param, network, folder


def randomise_nested(model: keras.Model) -> None:
    randomise(model)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            randomise_nested(layer)


def test_every_format_gives_the_published_network(
    published: tuple[str, keras.Model, Path],
) -> None:
    name, network, folder = published
    pixels = photos(*SIZE)
    included = "Normalization" in {type(layer).__name__ for layer in network.layers}
    inputs = pixels.astype(np.float32) if included else reference_preprocessing(name, pixels)
    expected = np.asarray(network(inputs, training=False))
    paths = sorted(folder.iterdir())
    assert len(paths) == len(FORMATS[name])
    built = [backbones.build(name, image_size=SIZE, weights=str(path)) for path in paths]
    assert len({backbone.weights_digest for backbone in built}) == 1
    received = np.asarray(built[0].model(pixels, training=False))
    np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max())


def test_a_run_becomes_the_start_of_the_next(tmp_path: Path) -> None:
    first = backbones.build("MobileNetV3Small", image_size=32, weights="none")
    randomise(first.model)
    run = tmp_path / "run"
    run.mkdir()
    build_classifier(first, 7).save(run / "model.keras")
    (run / "config.json").write_text(json.dumps({"backbone": "MobileNetV3Small"}))
    second = backbones.build("MobileNetV3Small", image_size=64, weights=str(run))
    assert second.weights_digest == digest(first.model)
    assert second.weights == str(run)
    with pytest.raises(WeightsError, match="trained MobileNetV3Small, not MobileNetV2"):
        backbones.build("MobileNetV2", image_size=32, weights=str(run))
    (run / "model.keras").unlink()
    with pytest.raises(WeightsError, match=r"no model\.keras"):
        backbones.build("MobileNetV3Small", image_size=32, weights=str(run))


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_another_architecture_is_named_with_both_shapes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"other{suffix}"
    other = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, name="entry"),
         keras.layers.Flatten(), keras.layers.Dense(5, name="exit")]
    )  # fmt: skip
    other.save_weights(path) if suffix == ".weights.h5" else other.save(path)
    with pytest.raises(WeightsError) as caught:
        backbones.build("VGG16", image_size=32, weights=str(path))
    message = caught.value.message
    assert "not weights of VGG16" in message
    assert "'block1_conv1' has [(3, 3, 3, 64), (64,)]" in message
    assert "[(3, 3, 3, 4), (4,)] in layer 'entry'" in message


def test_a_deeper_sister_is_refused(tmp_path: Path) -> None:
    """VGG19 holds every layer of VGG16, with the same shapes."""
    path = tmp_path / "deeper.weights.h5"
    keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(
        path
    )
    with pytest.raises(WeightsError, match="no layer 'block3_conv4'; received"):
        backbones.build("VGG16", image_size=32, weights=str(path))


@pytest.mark.parametrize("name", ["MobileNetV3Small", "Xception"])
def test_older_files_are_matched_by_order(tmp_path: Path, name: str) -> None:
    path = tmp_path / "older_notop.h5"
    network = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(*SIZE, 3)
    )
    randomise(network)
    layers = [layer for layer in network.layers if layer.weights]
    if name == "Xception":  # automatic names count in another order
        names = [re.sub(r"^(conv2d|batch_norm\w+?)(?:_(\d+))?$", renumber, x.name) for x in layers]
    else:  # other names altogether
        names = [f"Conv/{number}" for number in range(len(layers))]
    with h5py.File(path, "w") as stream:  # the layout of Keras 2, its list of names in two parts
        stream.attrs["layer_names0"] = [name.encode() for name in names[:20]]
        stream.attrs["layer_names1"] = [name.encode() for name in names[20:]]
        for key, layer in zip(names, layers, strict=True):
            group = stream.create_group(key)
            keys = [f"{key}/weight{index}:0" for index in range(len(layer.weights))]
            group.attrs["weight_names"] = [key.encode() for key in keys]
            for key, array in zip(keys, layer.get_weights(), strict=True):
                group.create_dataset(key, data=array)
    built = backbones.build(name, image_size=SIZE, weights=str(path))
    pixels = photos(*SIZE)
    included = (
        pixels.astype(np.float32)
        if name == "MobileNetV3Small"
        else (reference_preprocessing(name, pixels))
    )
    expected = np.asarray(network(included, training=False))
    received = np.asarray(built.model(pixels, training=False))
    np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(WeightsError, match=rf"'block1_conv1' has .*; received .*{names[0]!r}"):
        backbones.build("VGG16", image_size=32, weights=str(path))


def renumber(match: re.Match[str]) -> str:
    return f"{match[1]}_{1000 - int(match[2] or 0)}"


def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    trap = tmp_path / "was-here"
    target = str(trap)

    @keras.saving.register_keras_serializable("evil")
    class Custom(keras.layers.Layer):
        def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
            return x

    inputs = keras.Input((32, 32, 3))
    for layer, word in (
        (keras.layers.Lambda(lambda x: (open(target, "w").close(), x)[1]), "Lambda"),
        (Custom(), "Custom"),
    ):
        keras.Model(inputs, layer(inputs)).save(tmp_path / "a.keras")
        trap.unlink(missing_ok=True)  # building the model ran it once
        with pytest.raises(WeightsError, match=f"{word}.*not executed"):
            backbones.build("VGG16", image_size=32, weights=str(tmp_path / "a.keras"))
        assert not trap.exists()


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_damaged_files_are_errors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(300)])
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=rf"a{suffix}"):
            backbones.build("VGG16", image_size=32, weights=str(path))


def test_a_file_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as stream:
        stream["0"] = np.zeros((3, 3, 3, 64), np.float32)
    with h5py.File(tmp_path / "a.weights.h5", "w") as stream:
        variables = stream.create_group("layers/conv2d/vars")
        variables.attrs["name"] = "block1_conv1"
        variables["0"] = h5py.ExternalLink("secret.h5", "/0")
    with pytest.raises(WeightsError, match="in another file"):
        backbones.build("VGG16", image_size=32, weights=str(tmp_path / "a.weights.h5"))


def test_unknown_sources_and_kinds_are_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither a known source nor a file"):
        backbones.build("VGG16", weights="imagenet21k")
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(WeightsError, match="not a weights file of a known kind"):
        backbones.build("VGG16", weights=str(tmp_path / "a.pt"))
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("readme.txt", "no model here")
    with pytest.raises(WeightsError, match=r"config\.json"):
        backbones.build("VGG16", weights=str(tmp_path / "a.keras"))
