from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_transfer.export import FORMATS, exporter, images, metadata, parity, proof
from keras_transfer.export.convert import Source
from keras_transfer.modalities import image

FED = images.ImageSignature(image.spec((16, 16)))
INFO = metadata.ModelInfo("small", "Tells three things apart", ("a", "b", "c"), FED, "MIT")


@pytest.fixture(scope="module")
def small():
    """A model with a Normalization layer, whose constants converters are known to lose."""

    keras.utils.set_random_seed(0)
    entry = keras.Input((16, 16, 3), dtype="uint8", name="image")
    scaled = keras.layers.Normalization(mean=[123.0, 117.0, 104.0], variance=[58.0**2] * 3)(entry)
    hidden = keras.layers.Conv2D(16, 3, strides=2, activation="silu")(scaled)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(entry, keras.layers.Dense(3, activation="softmax")(hidden))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("name", ["onnx", "tflite", "tflite-float16", "tflite-int8"])
def test_a_normalization_layer_survives(
    small, pixels: np.ndarray, name: str, tmp_path: Path
) -> None:
    if name == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    path = tmp_path / FORMATS[name].file
    FORMATS[name].write(Source(small, INFO, lambda: pixels), path)
    predict = proof.RUNTIMES[FORMATS[name].runtime][1](path, 1)
    tolerance = {"tflite-float16": 1e-3, "tflite-int8": 0.02}.get(name, 1e-5)
    expected = small.predict(pixels, verbose=0)
    np.testing.assert_allclose(predict(pixels), expected, atol=tolerance)
    np.testing.assert_allclose(predict(pixels[:1]), expected[:1], atol=tolerance)


def test_onnx_files_carry_their_labels(small, pixels: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    onnx = pytest.importorskip("onnx")
    FORMATS["onnx"].write(Source(small, INFO, lambda: pixels), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    properties = {row.key: row.value for row in model.metadata_props}
    assert properties["labels"].splitlines() == ["a", "b", "c"]
    assert [row.name for row in model.graph.input] == ["image"]
    assert [row.name for row in model.graph.output] == ["scores"]


def test_onnx_takes_what_convnext_is_made_of(pixels: np.ndarray, tmp_path: Path) -> None:
    """Keras compiles grouped convolutions apart; TensorFlow writes gelu with an op ONNX lacks."""
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    image = keras.Input((16, 16, 3), dtype="uint8", name="image")
    x = keras.layers.Conv2D(8, 3, activation="gelu")(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Conv2D(8, 7, groups=8, padding="same", activation="gelu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax", name="scores")(x))
    FORMATS["onnx"].write(Source(model, INFO, lambda: pixels), tmp_path / "model.onnx")
    predict = proof.open_onnx(tmp_path / "model.onnx", 1)
    np.testing.assert_allclose(predict(pixels), model.predict(pixels, verbose=0), atol=1e-5)


def test_a_missing_extra_is_named(
    small, pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    pytest.importorskip("onnx")
    source = Source(small, INFO, lambda: pixels)
    reason = exporter.convert(FORMATS["onnx"], source, tmp_path / "model.onnx")
    assert reason == (
        "could not be converted: tf2onnx is not installed; pip install 'keras-transfer[onnx]'"
    )


def test_advice_names_what_does_not_fit_into_eight_bits(small) -> None:
    assert "the activation silu" in exporter.advice(small)


def test_converting_says_nothing(
    small, pixels: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even what TensorFlow's compiled parts write to the file descriptors."""
    source = Source(small, INFO, lambda: pixels)
    for name in ("saved_model", "tflite", "tflite-int8"):
        assert exporter.convert(FORMATS[name], source, tmp_path / FORMATS[name].file) == ""
    assert capfd.readouterr() == ("", "")
    assert zipfile.is_zipfile(tmp_path / "model.tflite")


def test_mobile_resizing_samples_at_steps_of_a_thirty_second() -> None:
    """Held against scipy's interpolation at the same points."""
    from scipy.ndimage import map_coordinates

    levels = np.random.default_rng(0).integers(0, 256, (23, 31, 3), np.uint8)
    for size in ((8, 12), (23, 31), (64, 48)):
        y, x = np.meshgrid(
            np.round(32 * np.arange(size[0]) * 23 / size[0]) / 32,
            np.round(32 * np.arange(size[1]) * 31 / size[1]) / 32,
            indexing="ij",
        )
        expected = np.stack(
            [
                map_coordinates(levels[..., c].astype(float), (y, x), order=1, mode="nearest")
                for c in range(3)
            ],
            axis=2,
        )
        assert np.abs(images.mobile_resize(levels, size) - expected).max() <= 0.501


def test_what_resizing_changes_is_reported() -> None:
    from PIL import Image

    levels = np.random.default_rng(0).integers(0, 256, (23, 31, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")

    class Model:
        def predict(self, pixels: np.ndarray, **_: object) -> np.ndarray:
            np.testing.assert_array_equal(pixels[0], images.mobile_resize(levels, (8, 12)))
            return np.array([[0.2, 0.8]])

    tests = parity.HeldOut(
        names=("x",),
        encoded=(stream.getvalue(),),
        signature=images.ImageSignature(image.spec((8, 12))),
        examples=np.zeros((1, 8, 12, 3), np.uint8),
        labels=np.array([1]),
        class_names=("a", "b"),
        thresholds=(),
        probabilities=np.array([[0.6, 0.4]]),
    )
    row = parity.by_mediapipe(tests, Model())  # type: ignore[arg-type]
    assert row == {"agreement": 0.0, "accuracy": 1.0, "largest_difference": pytest.approx(0.4)}
