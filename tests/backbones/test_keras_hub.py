"""A network of images of KerasHub, from its constructor to a proven file; of texts see
``test_own_texts_and_sounds.py``."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.export import parity

hub = pytest.importorskip("keras_hub", reason=".ci/run says how it is installed")


def test_a_resnet_is_trained_answers_and_is_exported(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TIMING_SECONDS", 0.05)
    monkeypatch.setattr(parity, "most_threads", lambda: 1)
    keras.utils.set_random_seed(0)
    network = hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
    )  # fmt: skip
    before = [weight.copy() for weight in network.get_weights()]
    built = kt.build(network, image_size=32, preprocessing="torch")
    assert len(built.blocks) >= 3  # of which some stay frozen
    how = {"unfreeze": 1, "fine_tune_epochs": 1, "split": "0.5,0.25,0.25"}
    run = kt.train(digits_folder, backbone=built, output=tmp_path / "run", **how)
    assert run.evaluation.accuracy > 0.6
    for old, now in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert kt.export_run(run, "tflite", tmp_path / "export").passed
    assert kt.verify(tmp_path / "export").passed
    images = sorted(digits_folder.glob("*/*.png"))[::20]
    answers = [
        [row["classes"][0]["label"] for row in kt.predict(tmp_path / name, images)]
        for name in ("run", "export")
    ]
    assert answers[0] == answers[1]
