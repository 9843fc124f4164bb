import numpy as np
import pytest

from keras_transfer import calibration
from keras_transfer.selection import choose

LABELS = np.arange(200) % 4
CLEAN = np.eye(4)[LABELS]
NOISE = np.random.default_rng(0).normal(size=(200, 4))


def logits_of(weights):
    """Weights are (signal, noise, sharpness)."""
    signal, noise, sharpness = (float(part) for part in weights)
    return sharpness * (signal * CLEAN + noise * NOISE)


def weigh(*values):
    return [np.float64(value) for value in values]


def test_keeps_the_head_where_fine_tuning_hurt():
    weights, candidates, logits = choose(
        weigh(2, 1, 1), {"last epoch": weigh(0.5, 1, 1)}, logits_of, LABELS
    )
    assert candidates[0].name == "head"
    assert weights == weigh(2, 1, 1)
    np.testing.assert_array_equal(logits, logits_of(weights))


def test_over_confidence_is_not_held_against_better_weights():
    start, tuned = weigh(2, 1, 1), weigh(2.2, 1, 20)
    raw = [calibration.nll(logits_of(weights), LABELS) for weights in (start, tuned)]
    assert raw[1] > raw[0], "the example must be one that raw NLL gets wrong"
    _, candidates, _ = choose(start, {"last epoch": tuned}, logits_of, LABELS)
    assert candidates[0].name != "head"
    tuned_one = next(c for c in candidates if c.name == "last epoch")
    assert tuned_one.temperature > 2


def test_a_point_on_the_line_can_win():
    # Each end sees half of the truth; only between them is all of it.
    def halves(weights):
        a, b = weights
        return 3 * (np.minimum(a, b) * CLEAN) + 0.5 * NOISE

    start, end = [np.float64(1), np.float64(0)], [np.float64(0), np.float64(1)]
    weights, candidates, logits = choose(start, {"average": end}, halves, LABELS)
    assert candidates[0].name == "0.5 to average"
    assert weights == [0.5, 0.5]
    np.testing.assert_array_equal(logits, halves(weights))


def test_the_chosen_candidate_is_never_worse_than_the_head():
    draw = np.random.default_rng(1)
    for _ in range(20):
        start, end = draw.uniform(0, 3, 3), draw.uniform(0, 3, 3)
        _, candidates, _ = choose(list(start), {"last epoch": list(end)}, logits_of, LABELS)
        head = next(c for c in candidates if c.name == "head")
        assert candidates[0].nll <= head.nll
        assert [c.nll for c in candidates] == sorted(c.nll for c in candidates)


def test_candidates_report_accuracy_at_the_weights_they_name():
    _, candidates, _ = choose(weigh(2, 1, 1), {"average": weigh(3, 1, 1)}, logits_of, LABELS)
    for candidate in candidates:
        share = {"head": 0.0, "average": 1.0}.get(candidate.name)
        share = float(candidate.name.split()[0]) if share is None else share
        signal = 2 + share
        right = (logits_of(weigh(signal, 1, 1)).argmax(1) == LABELS).mean()
        assert candidate.accuracy == pytest.approx(right)
