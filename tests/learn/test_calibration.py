import math

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from keras_transfer.base import errors
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
    probabilities = calibration.softmax(np.array([[60000.0, 0.0], [-60000.0, 0.0]], np.float16))
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
    before = plain_ece(calibration.softmax(test_logits), test_labels)
    after = plain_ece(calibration.softmax(test_logits / temperature), test_labels)
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


def test_nothing_to_fit_on_leaves_the_model_as_it_is():
    assert calibration.fit_temperature(np.empty((0, 4)), np.empty(0, int)) == 1.0


def test_nan_logits_are_named(overconfident):
    logits, labels, _, _ = overconfident
    broken = logits.copy()
    broken[3, 2] = np.nan
    with pytest.raises(errors.KerasTransferError, match="1 of 700 validation images"):
        calibration.fit_temperature(broken, labels)


def test_reliability_agrees_with_plain_python(overconfident):
    logits, labels, _, _ = overconfident
    probabilities = calibration.softmax(logits)
    diagram = calibration.reliability(probabilities, labels)
    assert diagram.ece == pytest.approx(plain_ece(probabilities, labels), abs=1e-12)
    assert diagram.counts.sum() == len(labels)
    last = probabilities.max(axis=1) > 14 / 15
    assert diagram.counts[-1] == last.sum()
    assert diagram.accuracy[-1] == pytest.approx(
        (probabilities.argmax(axis=1) == labels)[last].mean()
    )


def test_bins_are_open_below_and_closed_above():
    assert calibration.confidence_bins(np.array([0.0, 0.1, 0.2, 0.2000001, 1.0]), 10).tolist() == [
        0,
        0,
        1,
        2,
        9,
    ]


def test_the_threshold_reaches_its_precision_with_the_widest_coverage(overconfident):
    logits, labels, test_logits, test_labels = overconfident
    probabilities = calibration.softmax(logits)
    chosen = calibration.precision_threshold(probabilities, labels, 0.95)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    reaching = [t for t in confidence if right[confidence >= t].mean() >= 0.95]
    assert chosen.threshold == min(reaching)
    assert chosen.precision >= 0.95
    assert chosen.answered == (confidence >= chosen.threshold).sum()
    applied = calibration.apply_threshold(
        calibration.softmax(test_logits), test_labels, chosen.threshold, 0.95
    )
    assert applied.images == len(test_labels)
    assert applied.precision > 0.9


def test_images_of_equal_confidence_are_answered_together():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2]])
    chosen = calibration.precision_threshold(probabilities, np.array([0, 0, 1]), 0.9)
    assert (chosen.threshold, chosen.answered) == (0.9, 1)


def test_an_unreachable_precision_answers_nothing():
    wrong = calibration.precision_threshold(np.array([[0.9, 0.1]]), np.array([1]), 0.5)
    assert wrong.threshold == math.inf
    assert wrong.coverage == 0.0
    assert math.isnan(wrong.precision)
