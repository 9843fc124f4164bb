"""EfficientNet-Lite with its published weights recognises a palace."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from keras_transfer import backbones
from keras_transfer.backbones.published import offline_weights
from keras_transfer.base.errors import WeightsError

PALACE = 698
# Parameters with the 1,000-class top; probability of "palace" on scikit-learn's china.jpg, on
# which an independent PyTorch implementation with the same checkpoints agrees to 1e-5.
GOLDEN = [
    ("EfficientNetLite0", 4_694_031, 0.403),
    ("EfficientNetLite1", 5_470_351, 0.589),
    ("EfficientNetLite2", 6_150_175, 0.285),
]


@pytest.mark.parametrize(("name", "parameters", "probability"), GOLDEN)
def test_recognises_a_palace(name: str, parameters: int, probability: float) -> None:
    try:
        kernel, bias = offline_weights(name).arrays["_fc"]
    except WeightsError as error:
        pytest.skip(str(error))
    backbone = backbones.build(name, weights="offline")
    size = backbone.spec.size
    photo = load_sample_image("china.jpg")[:, 106:533]
    pixels = tf.image.resize(photo, (size, size), "bicubic").numpy()
    _, network = backbones.split(backbone.model, ["preprocessing"])
    features = network((pixels[None] - 127) / 128).numpy().mean(axis=(1, 2))
    logits = features.astype(np.float64) @ kernel + bias
    softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert softmax.argmax() == PALACE
    assert softmax[0, PALACE] == pytest.approx(probability, abs=5e-4)
    # Seven of the published count are the constructor's own normalisation of pixels.
    assert backbone.model.count_params() + kernel.size + bias.size + 7 == parameters


def test_the_whole_graph_agrees_on_bytes() -> None:
    kernel, bias = offline_weights("EfficientNetLite0").arrays["_fc"]
    backbone = backbones.build("EfficientNetLite0")
    photo = load_sample_image("china.jpg")[:, 106:533]
    pixels = tf.image.resize(photo, (224, 224), "bicubic").numpy()
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    logits = backbone.model(pixels[None]).numpy().mean(axis=(1, 2)) @ kernel + bias
    assert np.exp(logits[0, PALACE]) / np.exp(logits).sum() == pytest.approx(0.4028, abs=5e-4)
