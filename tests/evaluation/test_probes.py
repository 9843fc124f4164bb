import numpy as np
import pytest
from labelled import labelled
from sklearn.datasets import load_digits

from keras_transfer import evaluation
from keras_transfer.base import errors

DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def digits():
    """Pixels of scikit-learn's digits as features, noisy, in three splits."""
    data = load_digits()
    random = np.random.default_rng(0)
    features = (data.data / 16 + random.normal(scale=0.2, size=data.data.shape)).astype(np.float32)
    splits = random.choice(["train", "val", "test"], size=len(features), p=[0.5, 0.2, 0.3])
    return features, data.target.astype(np.int64), splits


def test_the_nearest_neighbour_is_the_nearest(digits):
    features, labels, splits = digits
    neighbour, regression = evaluation.baselines(labelled(labels, splits), features)
    train, test = features[splits == "train"], features[splits == "test"]
    for row in range(0, len(test), 25):
        cosines = [
            float(test[row] @ other / np.linalg.norm(test[row]) / np.linalg.norm(other))
            for other in train
        ]
        assert neighbour.predicted[row] == labels[splits == "train"][int(np.argmax(cosines))]
    assert regression.evaluation.accuracy > 0.85
    assert neighbour.evaluation.nll < neighbour.evaluation.chance["nll"]
    truth = labels[splits == "test"]
    against = regression.to_json(truth, np.full(len(truth), 3))
    assert against["better"]
    assert against["verdict"].startswith("Logistic regression is better than this run by")
    assert not regression.to_json(truth, truth)["better"]
    assert regression.evaluation.accuracy == np.mean(
        regression.predicted == labels[splits == "test"]
    )


def test_a_split_without_images_is_named(digits):
    features, labels, splits = digits
    with pytest.raises(errors.DataError, match="val split has no images"):
        evaluation.baselines(labelled(labels, np.where(splits == "val", "train", splits)), features)


def test_the_curve_foresees_what_twice_the_data_brings(digits):
    """The curve of half the training images is held against the other half."""
    features, labels, splits = digits
    train = np.flatnonzero(splits == "train")
    half = splits.copy()
    half[train[::2]] = "unused"
    curve = evaluation.learning_curve(labelled(labels, half), features)
    full = evaluation.learning_curve(labelled(labels, splits), features, fractions=(0.5, 1.0))
    assert curve.sizes[-1] == len(train) - len(train[::2])
    assert list(curve.sizes) == sorted(curve.sizes)
    assert curve.accuracy[0] < curve.accuracy[-1]
    low, high = curve.gain_interval
    assert low < curve.gain < high
    assert curve.gain > 0
    assert low < full.accuracy[-1] - curve.accuracy[-1] < high
    assert curve.verdict.startswith(f"Twice the training data ({2 * curve.sizes[-1]:,})")
    assert curve.to_json()["verdict"] == curve.verdict
    assert curve.plot()._repr_png_()


@pytest.mark.slow
def test_the_interval_of_the_gain_holds_as_often_as_it_says():
    """Of raw digits: the gain from twice the data lies in nearly all of 95 % intervals."""
    digits = load_digits()
    features, held, widths = digits.data.astype(np.float32), [], []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(features))
        train, val, test = np.split(order, [len(order) // 2, 3 * len(order) // 4])
        splits = np.full(len(order), "unused")
        splits[val], splits[test], splits[train[::2]] = "val", "test", "train"
        today = evaluation.learning_curve(labelled(digits.target, splits), features)
        splits[train] = "train"
        _, full = evaluation.baselines(labelled(digits.target, splits), features)
        twice = full.evaluation.accuracy
        low, high = today.gain_interval
        held.append(low <= twice - today.accuracy[-1] <= high)
        widths.append(high - low)
    assert sum(held) >= 17  # of 20 with a chance of 0.95 each, 17 or more come up 98 times of 100
    assert np.median(widths) < 0.08


def test_labels_without_meaning_promise_no_gain(digits):
    features, labels, splits = digits
    shuffled = np.random.default_rng(0).permutation(labels)
    curve = evaluation.learning_curve(labelled(shuffled, splits), features, fractions=(0.25, 1.0))
    assert curve.gain_interval[0] <= 0
    assert "no clear gain" in curve.verdict


def test_too_few_images_have_no_curve():
    features, labels = np.eye(6, dtype=np.float32), np.array([0, 1] * 3)
    splits = np.array(["train", "train", "val", "val", "test", "test"])
    with pytest.raises(errors.DataError, match="2 test images"):
        evaluation.learning_curve(labelled(labels, splits), features)
    features, labels = np.eye(14, dtype=np.float32), np.array([0, 1] * 7)
    splits = np.array(["train", "train", "val", "val", *["test"] * 10])
    with pytest.raises(errors.DataError, match="2 training images"):
        evaluation.learning_curve(labelled(labels, splits), features)


def test_wrong_labels_are_found_and_right_ones_mostly_left_alone(digits):
    _, labels, _ = digits
    features = (load_digits().data / 16).astype(np.float32)
    random = np.random.default_rng(3)
    wrong = random.choice(len(labels), size=40, replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + random.integers(1, 10, size=40)) % 10
    suspects = evaluation.suspected_label_errors(labelled(given), features, limit=40)
    found = {suspect.index for suspect in suspects}
    assert len(found & set(wrong.tolist())) >= 34
    for suspect in suspects:
        assert suspect.label == DIGITS[given[suspect.index]]
        assert suspect.path == str(suspect.index)
        assert suspect.label != suspect.suggested
        assert suspect.confidence > suspect.given
    margins = [suspect.confidence - suspect.given for suspect in suspects]
    assert margins == sorted(margins, reverse=True)


def test_of_several_labels_what_is_missing_or_too_many_is_found():
    held = load_digits(n_class=5)
    random = np.random.default_rng(0)
    pairs = random.integers(len(held.data), size=(1500, 2))
    features = (held.data[pairs].reshape(len(pairs), -1) / 16).astype(np.float32)
    truth = (held.target[pairs][..., None] == np.arange(5)).any(axis=1).astype(np.uint8)
    wrong, which = random.choice(len(pairs), 40, replace=False), random.integers(5, size=40)
    given = truth.copy()
    given[wrong, which] ^= 1
    data = labelled(given, class_names=[f"n{i}" for i in range(5)])
    suspects = evaluation.suspected_label_errors(data, features, limit=40)
    changed = {(wrong[i], f"n{which[i]}") for i in range(40)}
    found = set()
    for one in suspects:
        label, suggested = (
            {*cell.strip("|").split("|")} - {""} for cell in (one.label, one.suggested)
        )
        assert label == {f"n{j}" for j in np.flatnonzero(given[one.index])}
        found |= {(one.index, name) for name in label ^ suggested}
        assert one.confidence == pytest.approx(1 - one.given)
        assert one.confidence > 0.5
    assert len(found & changed) >= 24  # of 7,500 decisions


def test_a_class_of_one_image_breaks_nothing(digits):
    features, labels, _ = digits
    given = np.where(labels == 9, 8, labels)[:300]
    given[0] = 9
    assert isinstance(evaluation.suspected_label_errors(labelled(given), features[:300]), tuple)
