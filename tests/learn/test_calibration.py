import math

import numpy as np
import pytest
import scipy.stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from keras_transfer.base import errors
from keras_transfer.base.task import ONE
from keras_transfer.learn import calibration


@pytest.fixture(scope="module")
def overconfident():
    """Logits of an overfitted model on digits that it has not seen, in two halves."""
    digits = load_digits()
    pixels = digits.data / 16 + np.random.default_rng(0).normal(scale=0.25, size=digits.data.shape)
    model = LogisticRegression(C=100.0, max_iter=2000).fit(pixels[:300], digits.target[:300])
    logits = model.decision_function(pixels[300:])
    return logits[:700], digits.target[300:1000], logits[700:], digits.target[1000:]


def plain_nll(logits, labels, temperature):
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        scaled = [float(value) / temperature for value in row]
        top = max(scaled)
        total += math.log(sum(math.exp(v - top) for v in scaled)) - (scaled[label] - top)
    return total / len(labels)


def plain_ece(probabilities, labels):
    bins = [[] for _ in range(15)]
    for row, label in zip(probabilities, labels, strict=True):
        confidence = max(row)
        bins[max(0, math.ceil(confidence * 15) - 1)].append(
            (confidence, int(np.argmax(row)) == label)
        )
    gaps = [abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins]
    return sum(gaps) / len(labels)


def test_nll_agrees_with_a_sum_in_plain_python(overconfident):
    logits, labels, _, _ = overconfident
    for temperature in (0.5, 1.0, 3.0):
        assert calibration.nll(logits, labels, temperature) == pytest.approx(
            plain_nll(logits, labels, temperature), rel=1e-12
        )


def test_softmax_survives_large_logits_and_float16():
    probabilities = ONE.probabilities(np.array([[60000.0, 0.0], [-60000.0, 0.0]], np.float16))
    assert probabilities.dtype == np.float64
    assert probabilities.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_the_temperature_is_the_minimum_of_a_fine_grid(overconfident):
    logits, labels, _, _ = overconfident
    grid = np.exp(np.linspace(math.log(0.05), math.log(20.0), 4001))
    best = grid[np.argmin([calibration.nll(logits, labels, t) for t in grid])]
    assert calibration.fit_temperature(logits, labels) == pytest.approx(best, rel=0.01)


def test_scaling_halves_the_ece_and_lowers_the_nll_of_held_out_images(overconfident):
    logits, labels, test_logits, test_labels = overconfident
    temperature = calibration.fit_temperature(logits, labels)
    before = plain_ece(ONE.probabilities(test_logits), test_labels)
    after = plain_ece(ONE.probabilities(test_logits / temperature), test_labels)
    assert temperature > 1.5
    assert before > 0.04
    assert after < before / 2
    assert calibration.nll(test_logits, test_labels, temperature) < calibration.nll(
        test_logits, test_labels
    )


def test_a_few_right_answers_are_no_licence_for_certainty():
    logits = 5.0 * np.eye(3)
    few = calibration.fit_temperature(logits, np.arange(3))
    many = calibration.fit_temperature(np.tile(logits, (200, 1)), np.tile(np.arange(3), 200))
    assert 0.5 < few < 1.0
    assert calibration.TEMPERATURES[0] < many < few


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_temperature_stays_within_its_bounds(overconfident, scale):
    logits, labels, _, _ = overconfident
    low, high = calibration.TEMPERATURES
    assert low <= calibration.fit_temperature(logits * scale, labels) <= high


def test_weights_count_as_repetitions(overconfident):
    logits, labels, _, _ = overconfident
    repeats = np.where(labels < 5, 3, 1)
    tall, again = np.repeat(logits, repeats, axis=0), np.repeat(labels, repeats)
    assert calibration.nll(logits, labels, 1.5, repeats) == pytest.approx(
        calibration.nll(tall, again, 1.5), rel=1e-12
    )
    assert calibration.fit_temperature(logits, labels, repeats) == pytest.approx(
        calibration.fit_temperature(tall, again), rel=1e-3
    )
    ones = np.ones(len(labels), np.float32)
    assert calibration.nll(logits, labels, 1.5, ones) == calibration.nll(logits, labels, 1.5)


def test_nothing_to_fit_on_leaves_the_model_as_it_is():
    assert calibration.fit_temperature(np.empty((0, 4)), np.empty(0, int)) == 1.0


def test_nan_logits_are_named(overconfident):
    logits, labels, _, _ = overconfident
    broken = logits.copy()
    broken[3, 2] = np.nan
    with pytest.raises(errors.KerasTransferError, match="1 of 700 validation examples"):
        calibration.fit_temperature(broken, labels)


def test_reliability_agrees_with_plain_python(overconfident):
    logits, labels, _, _ = overconfident
    probabilities = ONE.probabilities(logits)
    diagram = calibration.reliability(probabilities, labels)
    assert diagram.ece == pytest.approx(plain_ece(probabilities, labels), abs=1e-12)
    assert diagram.counts.sum() == len(labels)
    last = probabilities.max(axis=1) > 14 / 15
    assert diagram.counts[-1] == last.sum()
    assert diagram.accuracy[-1] == pytest.approx(
        (probabilities.argmax(axis=1) == labels)[last].mean()
    )


def test_bins_are_open_below_and_closed_above():
    found = calibration.confidence_bins(np.array([0.0, 0.05, 0.2, 0.2000001, 1.0]))
    assert found.tolist() == [0, 0, 2, 3, 14]


def lower_bound(right, images):
    """The one-sided 95 % bound of Clopper and Pearson."""
    return scipy.stats.beta.ppf(0.05, right, images - right + 1)


def test_the_threshold_is_the_last_of_those_that_are_sure_to_reach_the_precision(overconfident):
    logits, labels, test_logits, test_labels = overconfident
    probabilities = ONE.probabilities(logits)
    chosen = calibration.precision_threshold(probabilities, labels, 0.9)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bounds = {
        least: lower_bound(right[confidence >= least].sum(), (confidence >= least).sum())
        for least in sorted(confidence)
    }
    assert bounds[chosen.threshold] >= 0.9 > bounds[max(c for c in bounds if c < chosen.threshold)]
    assert chosen.answered == chosen.validation_images == (confidence >= chosen.threshold).sum()
    applied = calibration.apply_threshold(
        ONE.probabilities(test_logits), test_labels, chosen.threshold, 0.9
    )
    assert applied.images == len(test_labels)
    assert applied.precision > 0.9


def drawn(images, draw):
    """Probabilities of two classes, right as often as the square root of what they say."""
    confidence = 0.5 + 0.5 * draw.beta(1.2, 0.35, images)
    right = draw.random(images) < np.sqrt(confidence)
    return np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1)


@pytest.mark.parametrize("images", [50, 100, 285, 1000])
def test_a_threshold_seldom_falls_short_of_its_precision(images):
    draw = np.random.default_rng(images)
    many = np.sort(drawn(400_000, draw)[0][:, 0])[::-1]
    precision = np.cumsum(np.sqrt(many)) / np.arange(1, len(many) + 1)
    assert precision[0] > 0.95 > precision[-1], "the example must need a threshold"
    chosen = [calibration.precision_threshold(*drawn(images, draw), 0.95) for _ in range(200)]
    short = [
        one.answered > 0 and precision[(many >= one.threshold).sum() - 1] < 0.95 for one in chosen
    ]
    assert np.mean(short) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    # 58 right answers of 58 are no proof yet; from a few hundred images on there mostly is one.
    assert np.mean([one.answered > 0 for one in chosen]) >= {50: 0, 100: 0.1}.get(images, 0.5)
    assert images > 58 or all(one.threshold == math.inf for one in chosen)


def test_images_of_equal_confidence_are_answered_together():
    confidence = np.repeat([0.9, 0.8, 0.7], [30, 40, 2])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.repeat([0, 1, 0, 1], [68, 2, 1, 1])
    chosen = calibration.precision_threshold(probabilities, labels, 0.9)
    assert (chosen.threshold, chosen.validation_images) == (0.8, 70)
    labels[30:36] = 1
    chosen = calibration.precision_threshold(probabilities, labels, 0.9)
    assert (chosen.threshold, chosen.validation_images) == (0.9, 30)


def test_an_unreachable_precision_answers_nothing():
    wrong = calibration.precision_threshold(np.array([[0.9, 0.1]]), np.array([1]), 0.5)
    assert wrong.threshold == math.inf
    assert wrong.coverage == 0.0
    assert math.isnan(wrong.precision)
