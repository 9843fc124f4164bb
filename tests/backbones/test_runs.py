"""Whole runs, from files to a saved model, of a small network of each family."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_transfer import backbones, training
from keras_transfer.frozen.engine import predict_probabilities
from keras_transfer.runs import folder as runs

# Activations that OpenVINO takes for outputs.
DIFFERENT = ["EfficientNetV2B0"]
OTHERS = [
    "ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetLite0", "InceptionResNetV2",
    "InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50",
    "ResNet50V2", "VGG16", "Xception",
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [*DIFFERENT, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_a_backbone_trains_from_end_to_end(name, digits_folder, tmp_path):
    result = training.train(
        str(digits_folder), backbone=name, weights="none", unfreeze=2, engine="openvino",
        image_size=max(32, backbones.spec(name).min_size), per_class=4, effort="quick",
        fine_tune_epochs=1, output=tmp_path / "run",
    )  # fmt: skip
    cached = result.metrics["cache"]
    assert cached["misses"] > 0
    run = runs.open_run(tmp_path / "run")
    data = run.dataset
    found = predict_probabilities(run.model, data.examples[data.indices("test")])
    np.testing.assert_allclose(found, run.test_probabilities, atol=1e-4)
    keras.utils.clear_session()
