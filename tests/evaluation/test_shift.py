import math

import numpy as np
import pytest
from labelled import labelled
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score
from sklearn.multiclass import OneVsRestClassifier

from keras_transfer import evaluation
from keras_transfer.base import errors

DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    pixels = (data.data / 16).astype(np.float32)
    model = LogisticRegression(C=0.3).fit(pixels[:900], data.target[:900])
    return pixels, data.target, model


def test_a_shift_costs_accuracy_and_the_drop_says_so(digits):
    pixels, labels, model = digits
    moved = pixels[1300:].reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
    home, away = model.predict_proba(pixels[900:1300]), model.predict_proba(moved)
    # The other data has its classes in another order, one unknown, one missing.
    other_names = ["nothing", *DIGITS[:0:-1]]
    other = np.array([0 if t == 0 else other_names.index(str(t)) for t in labels[1300:]])
    result = evaluation.measure_shift(
        labelled(labels[900:1300], "test"), home, labelled(other, class_names=other_names), away
    )
    known = labels[1300:] != 0
    at_home = labels[900:1300] != 0
    right_home = (home.argmax(1) == labels[900:1300])[at_home].mean()
    right_away = (away.argmax(1) == labels[1300:])[known].mean()
    assert result.drop == pytest.approx(right_home - right_away)
    assert result.left_out == (~known).sum()
    assert result.unknown == ("nothing",)
    assert result.shared == tuple(DIGITS[1:])
    assert result.drop_interval[0] > 0
    assert result.verdict.startswith("Accuracy falls by")
    seven = next(row for row in result.per_class if row["name"] == "7")
    assert seven["away"] == pytest.approx((away.argmax(1) == 7)[labels[1300:] == 7].mean())
    assert seven["interval"][0] <= seven["drop"] <= seven["interval"][1]
    assert result.to_json()["home"]["images"] == at_home.sum()


def test_of_several_labels_the_shared_classes_alone_are_asked():
    held = load_digits(n_class=4)
    pairs = np.random.default_rng(0).integers(len(held.data), size=(1500, 2))
    pixels = held.data[pairs].reshape(len(pairs), -1) / 16
    truth = (held.target[pairs][..., None] == np.arange(4)).any(axis=1).astype(np.uint8)
    model = OneVsRestClassifier(LogisticRegression()).fit(pixels[:600], truth[:600])
    moved = pixels[1000:] * np.linspace(0.2, 1, 128)
    home, away = model.predict_proba(pixels[600:1000]), model.predict_proba(moved)
    least = (0.3, 0.6, 0.5, 0.4)
    # The other data knows nothing of 2 and has a class that the run has not.
    other = np.column_stack([truth[1000:, 3], np.arange(500) % 2, truth[1000:, :2]])
    result = evaluation.measure_shift(
        labelled(truth[600:1000], "test", DIGITS[:4]), home,
        labelled(other, class_names=["3", "cat", "0", "1"]), away, thresholds=least,
    )  # fmt: skip
    known = [0, 1, 3]
    right = [
        accuracy_score(labels[:, known], (scores >= least)[:, known])
        for labels, scores in ((truth[600:1000], home), (truth[1000:], away))
    ]
    assert result.drop == pytest.approx(right[0] - right[1])
    assert result.drop_interval[0] < result.drop < result.drop_interval[1]
    assert (result.shared, result.unknown, result.left_out) == (("0", "1", "3"), ("cat",), 0)
    (three,) = [row for row in result.per_class if row["name"] == "3"]
    assert three["away"] == pytest.approx((away[:, 3] >= 0.4)[truth[1000:, 3] > 0].mean())
    area = average_precision_score(truth[1000:][:, known], away[:, known])
    assert result.away.mean_average_precision == pytest.approx(area)


def test_the_same_images_show_no_drop(digits):
    pixels, labels, model = digits
    half = model.predict_proba(pixels[900:1350]), model.predict_proba(pixels[1350:])
    result = evaluation.measure_shift(
        labelled(labels[900:1350], "test"), half[0], labelled(labels[1350:], "train"), half[1]
    )
    assert result.drop_interval[0] - 0.06 <= 0 <= result.drop_interval[1] + 0.06


def test_newcombe_interval_of_a_published_example():
    """Newcombe (1998), example (a) of table II: 56/70 against 48/80."""
    from keras_transfer.evaluation.shift import _newcombe

    assert _newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_names_match_without_case_blanks_and_unicode_form():
    mapping = evaluation.shared_classes(
        ["Äpfel", "قطة", "猫"], ["猫", " äpfel", "A\u0308PFEL", "x"]
    )
    assert mapping == {0: 2, 1: 0, 2: 0}


def test_no_class_in_common_is_refused_with_both_names():
    with pytest.raises(errors.DataError, match=r"None of the other data's 2 classes \('cats'") as e:
        evaluation.shared_classes(["cat", "dog"], ["cats", "horse"])
    assert "Did you mean cat?" in e.value.message


def test_unlikeness_tells_noise_from_digits(digits):
    pixels, _, _ = digits
    noise = np.random.default_rng(0).random((200, 64), dtype=np.float32)
    strange = evaluation.unlikeness(pixels[:900], pixels[900:1300], noise)
    usual = evaluation.unlikeness(pixels[:900], pixels[900:1300], pixels[1300:])
    assert strange.auroc > 0.95
    assert strange.share > 0.9
    assert usual.auroc < 0.7
    unit = pixels[:900] / np.linalg.norm(pixels[:900], axis=1, keepdims=True)
    query = noise[7] / np.linalg.norm(noise[7])
    assert strange.scores[7] == pytest.approx(
        sorted(math.dist(query, row) for row in unit)[9], abs=1e-4
    )
    both = np.concatenate([usual.scores, strange.scores])
    truth = np.repeat([0, 1], [len(usual.scores), len(strange.scores)])
    direct = evaluation.unlikeness(pixels[:900], pixels[1300:], noise)
    assert direct.auroc == pytest.approx(roc_auc_score(truth, both), abs=1e-9)


def test_fewer_training_images_than_neighbours(digits):
    pixels, _, _ = digits
    assert len(evaluation.unlikeness(pixels[:3], pixels[3:9], pixels[9:12]).scores) == 3
