"""Several labels an example: each formula against scikit-learn, SciPy or Keras."""

import keras
import numpy as np
import pytest
from scipy import special
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from keras_transfer.base.task import LEAST, ONE, SEVERAL, task_of
from keras_transfer.evaluation import evaluate
from keras_transfer.learn import calibration
from keras_transfer.learn.heads import solve_head

NAMES = ("bird", "cat", "dog", "owl")


def drawn(n=240, seed=0, classes=4):
    """Features, labels that depend on them, and probabilities that know of it."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(n, 6)).astype(np.float32)
    logits = features @ random.normal(size=(6, classes)) - np.linspace(0, 2, classes)
    labels = (random.random(logits.shape) < special.expit(logits)).astype(np.uint8)
    return features, labels, special.expit(logits + random.normal(size=logits.shape))


@pytest.mark.parametrize("balance", [False, True])
def test_a_head_is_one_against_the_rest(balance):
    features, labels, _ = drawn()
    penalty = 0.01
    head = solve_head(
        features, labels, 4, features, labels, penalties=[penalty],
        sample_weights=SEVERAL.weights(labels, 4, balance),
    )  # fmt: skip
    standard = StandardScaler().fit_transform(features)
    how = {"C": 1 / (2 * penalty * len(labels)), "tol": 1e-8}
    how["class_weight"] = "balanced" if balance else None
    for column, found in zip(labels.T, head.logits(features).T, strict=True):
        own = LogisticRegression(**how).fit(standard, column)
        np.testing.assert_allclose(found, own.decision_function(standard), atol=0.01)


def test_a_cell_in_words_says_that_there_are_none():
    assert [SEVERAL.said(cell) for cell in ("a|b", "a", "|")] == ["a + b", "a", "none"]
    assert ONE.said("a|b") == "a|b"


def test_metrics_are_those_of_scikit_learn():
    _, labels, scores = drawn()
    scores = scores.round(2)  # which makes ties
    least = (0.5, 0.4, 0.3, 0.6)
    found = evaluate(scores, labels, NAMES, thresholds=least)
    answers = SEVERAL.answers(scores, least)
    pairs = list(zip(labels.T, np.clip(scores, 1e-12, 1).T, strict=True))
    expected = {
        "accuracy": metrics.accuracy_score(labels, answers),
        "mean_average_precision": metrics.average_precision_score(labels, scores, average="macro"),
        "micro_f1": metrics.f1_score(labels, answers, average="micro"),
        "macro_f1": metrics.f1_score(labels, answers, average="macro"),
        "micro_precision": metrics.precision_score(labels, answers, average="micro"),
        "micro_recall": metrics.recall_score(labels, answers, average="micro"),
        "balanced_accuracy": metrics.recall_score(labels, answers, average="macro"),
        "hamming": metrics.hamming_loss(labels, answers),
        "nll": np.mean([metrics.log_loss(y, p) for y, p in pairs]),
        "brier": np.mean([metrics.brier_score_loss(y, p) for y, p in pairs]),
    }  # fmt: skip
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-6)
    areas = metrics.average_precision_score(labels, scores, average=None)
    assert [row.average_precision for row in found.per_class] == pytest.approx(areas)
    assert all(low <= getattr(found, n) <= high for n, (low, high) in found.intervals.items())
    assert found.majority["mean_average_precision"] == pytest.approx(labels.mean())


def test_the_five_most_probable_hold_a_true_label():
    random = np.random.default_rng(1)
    scores, labels = random.random((50, 12)), np.zeros((50, 12), np.uint8)
    labels[np.arange(40), random.integers(12, size=40)] = 1  # ten have none
    rank = (scores[:40] > scores[:40][labels[:40] > 0][:, None]).sum(axis=1)
    found = evaluate(scores, labels, [f"c{i:02d}" for i in range(12)])
    assert found.top5 == pytest.approx((rank < 5).mean())


def test_a_threshold_has_the_best_f1_of_its_class():
    _, labels, scores = drawn()
    found = SEVERAL.thresholds(scores, labels)
    for column, probability, threshold in zip(labels.T, scores.T, found, strict=True):
        all_of_them = [metrics.f1_score(column, probability >= one) for one in probability]
        own = metrics.f1_score(column, probability >= threshold)
        assert own == pytest.approx(max(all_of_them), abs=1e-6)


def test_few_examples_leave_the_middle():
    _, labels, scores = drawn()
    labels[:, 0] = 0
    labels[: LEAST - 1, 0] = 1
    assert SEVERAL.thresholds(scores, labels)[0] == 0.5
    assert ONE.thresholds(scores, labels[:, 0]) == ()


def test_a_temperature_is_found_again():
    random = np.random.default_rng(2)
    logits = random.normal(size=(4000, 3)) * 2
    labels = (random.random(logits.shape) < special.expit(logits)).astype(np.uint8)
    assert calibration.fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.06)
    own = calibration.nll(logits, labels)
    assert own == pytest.approx(metrics.log_loss(labels.ravel(), special.expit(logits).ravel()))
    assert own == pytest.approx(calibration.losses(logits, labels).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_keras_own(smoothing):
    _, labels, scores = drawn(n=32)
    logits = special.logit(scores).astype(np.float32)
    own = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
    shares = SEVERAL.weights(labels, 4) / len(labels)
    found = SEVERAL.loss(SEVERAL.targets(labels, 4, smoothing), logits, shares)
    assert float(found) == pytest.approx(float(own(labels.astype(np.float32), logits)), rel=1e-5)


def test_balanced_decisions_weigh_the_same():
    _, labels, _ = drawn()
    weights = SEVERAL.weights(labels, 4, balanced=True)
    for own, weight in zip(labels.T, weights.T, strict=True):
        assert weight[own == 1].sum() == pytest.approx(weight[own == 0].sum(), rel=1e-5)
        assert weight.mean() == pytest.approx(1, rel=1e-5)


def test_cells_go_there_and_back():
    cells = ["cat|dog", "|", "owl", "bird|cat|dog|owl"]
    labels = SEVERAL.encode(["dog| cat", "|", "owl|", "owl|dog|cat|bird|cat"], NAMES)
    assert SEVERAL.decode(labels, NAMES) == cells == [*map(SEVERAL.canonical, cells)]
    assert labels.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]]
    assert [task_of(labels), task_of(labels[:, 0])] == [SEVERAL, ONE]
    assert SEVERAL.strata(labels).tolist() == [1, 4, 3, 0]  # the rarest class of each
