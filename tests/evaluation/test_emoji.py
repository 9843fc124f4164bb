"""The two emoji vendors: what holds on real features of the offline backbone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from keras_transfer import evaluation
from keras_transfer.base.task import ONE
from keras_transfer.learn import calibration, heads

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the emoji sets are not next to the repository"),
]


def features_of(name):
    import keras

    from keras_transfer import backbones, datasets

    data = datasets.load_dataset(str(DATA / name), image_size=96)
    backbone = backbones.build("EfficientNetLite0", image_size=96, weights="offline")
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.model.output)
    model = keras.Model(backbone.model.input, pooled)
    return data, model.predict(data.examples, batch_size=64, verbose=0)


@pytest.fixture(scope="module")
def noto():
    return features_of("emoji-noto")


def thirds(count, seed):
    """Half for training, a quarter each for validation and test."""
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, [count // 2, 3 * count // 4])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_temperature_halves_the_ece_of_an_overconfident_head(noto, seed):
    data, features = noto
    train, val, test = thirds(len(data), seed)
    labels = data.labels
    for penalties, overconfident in (((1e-6,), True), (heads.PENALTIES, False)):
        head = heads.solve_head(
            features[train], labels[train], 9, features[val], labels[val], penalties=penalties
        )
        temperature = calibration.fit_temperature(head.logits(features[val]), labels[val])
        logits = head.logits(features[test])
        before, after = (
            evaluation.evaluate(ONE.probabilities(logits / t), labels[test], data.class_names)
            for t in (1.0, temperature)
        )
        assert after.nll <= before.nll + 0.01
        if overconfident:
            assert before.ece > 0.04
            assert after.ece <= before.ece / 2


def test_half_the_data_foresees_all_of_it(noto):
    data, features = noto
    held = []
    for seed in range(10):
        train, val, test = thirds(len(data), seed)
        splits = np.full(len(data), "unused")
        splits[val], splits[test], splits[train[::2]] = "val", "test", "train"
        half = evaluation.learning_curve(dataclasses.replace(data, splits=splits), features)
        splits[train] = "train"
        _, full = evaluation.baselines(dataclasses.replace(data, splits=splits), features)
        low, high = half.gain_interval
        held.append(low <= full.evaluation.accuracy - half.accuracy[-1] <= high)
    assert sum(held) >= 8


def test_the_other_vendor_costs_accuracy(noto):
    data, features = noto
    other, other_features = features_of("emoji-twemoji")
    train, val, test = thirds(len(data), 0)
    labels = data.labels
    head = heads.solve_head(features[train], labels[train], 9, features[val], labels[val])
    unlike = evaluation.unlikeness(features[train], features[test], other_features)
    shift = evaluation.measure_shift(
        dataclasses.replace(data, splits=np.where(np.isin(np.arange(len(data)), test), "test", "")),
        ONE.probabilities(head.logits(features[np.sort(test)])),
        other,
        ONE.probabilities(head.logits(other_features)),
        unlike=unlike,
    )
    assert shift.verdict.startswith("Accuracy falls by")
    assert len(shift.shared) == 9
    assert 0.5 < unlike.auroc < 1.0


def test_frozen_features_beat_training_from_scratch(noto):
    from keras_transfer.evaluation.scratch import train_from_scratch

    data, features = noto
    _, regression = evaluation.baselines(data, features)
    scratch = train_from_scratch(data, "EfficientNetLite0", seconds=60)
    pair = evaluation.compare_predictions(
        data.labels[data.indices("test")],
        scratch.predicted,
        regression.predicted,
        names=("scratch", "transfer"),
    )
    assert pair.verdict.startswith("transfer is better than scratch by")
    assert scratch.evaluation.accuracy > 0.15
