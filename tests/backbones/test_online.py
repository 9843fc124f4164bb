"""Keras's own download: the right arrays arrive, and without a network it fails at once."""

from __future__ import annotations

import socket
from typing import Any

import keras
import numpy as np
import pytest

from keras_transfer import backbones
from keras_transfer.backbones import published
from keras_transfer.base.errors import WeightsError

from .check import photos
from .test_weights import randomise_nested


def test_a_server_that_is_silent_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))  # an empty cache
    monkeypatch.setattr(published, "SILENCE_SECONDS", 0.1)
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and answers nothing
    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", silent.getsockname())
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address])
    with silent, pytest.raises(WeightsError) as caught:
        backbones.build("VGG16", image_size=32, weights="imagenet")
    assert "timed out" in caught.value.message
    assert "--weights offline" in caught.value.remedy
    assert "PATH" in caught.value.remedy
    assert socket.getdefaulttimeout() is None


def test_what_keras_returns_is_what_the_backbone_gets(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    genuine, donors = keras.applications.MobileNetV3Small, []

    def download(*, weights: str | None, **arguments: Any) -> keras.Model:
        model = genuine(weights=None, **arguments)
        if weights == "imagenet":
            print("Downloading data")
            randomise_nested(model)
            donors.append(model)
        return model

    # Keras's own signature tells whether preprocessing can be left out.
    download.__wrapped__ = genuine  # type: ignore[attr-defined]
    monkeypatch.setattr(keras.applications, "MobileNetV3Small", download)
    built = backbones.build("MobileNetV3Small", image_size=224, weights="imagenet")
    pixels = photos(224, 224)
    expected = np.asarray(donors[0](pixels.astype(np.float32), training=False))
    received = np.asarray(built.model(pixels, training=False))
    np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max())
    printed = capfd.readouterr()
    assert "Downloading" not in printed.out


def test_nested_layers_are_found() -> None:
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="deep")])
    outer = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2, name="top")])
    assert [name for name, _ in published.layer_arrays(outer)] == ["deep", "top"]


def test_lite_has_no_download() -> None:
    with pytest.raises(WeightsError, match="Use --weights offline"):
        backbones.build("EfficientNetLite0", image_size=32, weights="imagenet")
