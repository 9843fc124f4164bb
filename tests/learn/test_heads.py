import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from keras_transfer.base import rows
from keras_transfer.base.task import ONE
from keras_transfer.learn import calibration, heads


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    features, labels = data.data[order].astype(np.float32), data.target[order]
    return features[:900], labels[:900], features[900:1300], labels[900:1300]


def reference(features, labels, validation, penalty):
    """Scikit-learn's solution of the same problem: C = 1 / (2 n lambda)."""
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=1 / (2 * len(labels) * penalty), tol=1e-8, max_iter=5000)
    model.fit(scaler.transform(features), labels)
    return model.decision_function(scaler.transform(validation))


@pytest.mark.parametrize("penalty", [0.1, 1e-2, 1e-3])
def test_solves_the_stated_problem_as_scikit_learn_does(digits, penalty):
    features, labels, validation, validation_labels = digits
    head = heads.solve_head(
        features, labels, 10, validation, validation_labels, penalties=[penalty]
    )
    expected = reference(features, labels, validation, penalty)
    found = ONE.probabilities(head.logits(validation))
    assert np.abs(found - ONE.probabilities(expected)).max() < 0.01


def test_fewer_images_than_features_is_the_same_problem(digits):
    features, labels, validation, validation_labels = digits
    few = slice(0, 40)
    head = heads.solve_head(
        features[few], labels[few], 10, validation, validation_labels, penalties=[1e-2]
    )
    scaler = StandardScaler().fit(features[few])
    varying = scaler.scale_ != 1.0
    expected = reference(features[few][:, varying], labels[few], validation[:, varying], 1e-2)
    found = ONE.probabilities(head.logits(np.where(varying, validation, features[0])))
    assert np.abs(found - ONE.probabilities(expected)).max() < 0.02


class Read:
    """A table that is larger than memory: it says how much of it was read at once."""

    def __init__(self, table):
        self.table, self.most = table, 0

    def __len__(self):
        return len(self.table)

    def __getitem__(self, rows):
        found = self.table[rows]
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize("start", [False, True])
def test_what_does_not_fit_in_memory_is_the_same_problem(digits, monkeypatch, start):
    features, labels, validation, validation_labels = digits
    weights = np.random.default_rng(0).uniform(0.5, 2, len(labels)).astype(np.float32)
    given = {"penalties": heads.PENALTIES[4:], "sample_weights": weights}
    whole = heads.solve_head(features, labels, 10, validation, validation_labels, **given)
    if start:  # as the last head is, from another one
        given["start"] = whole.kernel + 0.01, whole.bias
        given["penalties"] = [whole.penalty]
    monkeypatch.setattr(rows, "MEMORY", 4 * 64 * 600)
    monkeypatch.setattr(rows, "BLOCK", 128)
    tables = Read(features), Read(validation)
    large, judged = (rows.Rows([table], lambda found: 2 * found + 1) for table in tables)
    head = heads.solve_head(large, labels, 10, judged, validation_labels, **given)
    assert tables[0].most == 128
    expected = ONE.probabilities(
        heads.solve_head(
            features, labels, 10, validation, validation_labels,
            penalties=[head.penalty], sample_weights=weights,
        ).logits(validation)
    )  # fmt: skip
    found = ONE.probabilities(head.logits(2 * validation + 1))
    assert np.abs(found - expected).max() < 0.02
    assert head.validation_nll < whole.validation_nll + 0.005


def test_features_that_a_sample_lacks_keep_their_scale(digits, monkeypatch):
    """Measured on a sample, they would count for nothing, or be far from zero elsewhere."""
    features, labels, validation, validation_labels = digits
    draw = np.random.default_rng(0)
    rare = 50 * (draw.uniform(size=(len(features), 40)) < 2e-3).astype(np.float32)
    rare[draw.permutation(len(features))[:40], np.arange(40)] = 50  # each at least once
    wide = np.hstack([features, rare])
    others = np.hstack([validation, np.zeros((len(validation), 40), np.float32)])
    given = others, validation_labels
    whole = heads.solve_head(wide, labels, 10, *given)
    monkeypatch.setattr(rows, "MEMORY", 4 * wide.shape[1] * 200)  # a sample of 100
    monkeypatch.setattr(rows, "BLOCK", 128)
    head = heads.solve_head(wide, labels, 10, *given)
    assert head.validation_nll < whole.validation_nll + 0.005
    assert max(count for *_, count in head.path) <= 2 * max(count for *_, count in whole.path)


def test_the_chosen_penalty_is_the_best_of_the_path_on_validation(digits):
    head = heads.solve_head(digits[0], digits[1], 10, digits[2], digits[3])
    losses = [loss for _, loss, _ in head.path]
    assert head.validation_nll == min(losses)
    assert head.penalty == head.path[int(np.argmin(losses))][0]
    assert calibration.nll(head.logits(digits[2]), digits[3]) == pytest.approx(
        min(losses), abs=1e-4
    )
    assert (head.logits(digits[2]).argmax(1) == digits[3]).mean() > 0.94


def test_sample_weights_count_as_repetitions(digits):
    features, labels, validation, validation_labels = digits
    weights = np.where(labels < 5, 3.0, 1.0)
    repeats = np.where(labels < 5, 3, 1)
    # Repetition moves the mean and deviation, so the features are standardised beforehand.
    scaler = StandardScaler().fit(np.repeat(features, repeats, axis=0))
    wide, tall = scaler.transform(features), scaler.transform(np.repeat(features, repeats, axis=0))
    shared = {"validation_features": scaler.transform(validation), "penalties": [1e-2]}
    a = heads.solve_head(
        wide, labels, 10, validation_labels=validation_labels, sample_weights=weights, **shared
    )
    b = heads.solve_head(
        tall, np.repeat(labels, repeats), 10, validation_labels=validation_labels, **shared
    )
    unweighted = heads.solve_head(wide, labels, 10, validation_labels=validation_labels, **shared)
    queries = shared["validation_features"]
    near = np.abs(a.logits(queries) - b.logits(queries)).mean()
    far = np.abs(unweighted.logits(queries) - b.logits(queries)).mean()
    assert near < 0.5 * far


def test_validation_weights_decide_which_penalty_is_best(digits):
    weights = np.where(digits[3] == 8, 20.0, 1.0)
    head = heads.solve_head(*digits[:2], 10, *digits[2:], validation_weights=weights)
    assert head.validation_nll == pytest.approx(
        calibration.nll(head.logits(digits[2]), digits[3], weights=weights), abs=1e-4
    )
    assert head.validation_nll != pytest.approx(
        calibration.nll(head.logits(digits[2]), digits[3]), abs=1e-3
    )


def test_a_constant_feature_is_ignored(digits):
    features, labels, validation, validation_labels = digits
    wide = np.hstack([features, np.full((len(features), 1), 7.0, np.float32)])
    wider = np.hstack([validation, np.full((len(validation), 1), 99.0, np.float32)])
    head = heads.solve_head(wide, labels, 10, wider, validation_labels, penalties=[1e-2])
    assert np.isfinite(head.logits(wider)).all()
    assert (head.kernel[-1] == 0).all()


def thinned(digits, labels, seed):
    """So many examples of each digit, and others to ask about."""
    features, numbers = (
        np.concatenate([digits[0], digits[2]]),
        np.concatenate([digits[1], digits[3]]),
    )
    order = np.random.default_rng(seed).permutation(len(numbers))
    first = np.concatenate([order[numbers[order] == digit][:labels] for digit in range(10)])
    rest = np.setdiff1d(order, first)
    return features[first], numbers[first], features[rest], numbers[rest]


def test_of_few_examples_features_that_hardly_vary_do_not_outweigh_the_others(digits):
    def accuracy(few, seed):
        known, labels, others, asked = thinned(digits, 2, seed)
        head = heads.solve_head(known, labels, 10, others, asked, penalties=[0.1], few=few)
        return (head.logits(others).argmax(1) == asked).mean()

    gained = [accuracy(True, seed) - accuracy(False, seed) for seed in range(5)]
    assert min(gained) > 0.0
    assert np.mean(gained) > 0.03


def test_variances_of_few_are_drawn_to_their_median_and_those_of_many_are_not():
    variance = np.array([0.0, 1e-4, 1.0, 2.0, 100.0])
    assert heads.steadied(variance, 10).tolist() == sorted(heads.steadied(variance, 10))
    assert 0.5 < heads.steadied(variance, 10)[1] < 1.5
    np.testing.assert_allclose(heads.steadied(variance, 10**9), variance, atol=1e-6)
    assert heads.steadied(np.zeros(3), 5).tolist() == [0.0] * 3


def solved_on_all(features, labels, groups, views=()):
    weights = np.ones(len(labels))
    return heads.solve_on_all(features, views, labels, weights, groups, int(labels.max()) + 1)


def test_a_head_on_all_labels_is_judged_by_what_it_had_not_seen():
    draw = np.random.default_rng(0)
    noise, labels = draw.normal(size=(80, 200)).astype(np.float32), np.arange(80) % 2
    head, logits = solved_on_all(noise, labels, np.arange(80))
    assert (head.logits(noise).argmax(1) == labels).mean() > 0.95
    assert (logits.argmax(1) == labels).mean() < 0.7
    # Nor the copies of what is asked about, nor other views of it.
    twice = {"features": np.tile(noise, (2, 1)), "labels": np.tile(labels, 2)}
    _, logits = solved_on_all(**twice, groups=np.tile(np.arange(80), 2))
    assert (logits.argmax(1) == twice["labels"]).mean() < 0.7
    _, logits = solved_on_all(noise, labels, np.arange(80), views=[noise[:50], noise[:50]])
    assert (logits.argmax(1) == labels).mean() < 0.7
    assert head.validation_nll >= 0.6


def test_a_head_on_all_labels_has_the_best_penalty_of_cross_validation(digits):
    known, labels, others, asked = thinned(digits, 5, 0)
    head, logits = solved_on_all(known, labels, np.arange(50))
    assert head.validation_nll == calibration.nll(logits, labels)
    alone = heads.solve_head(known, labels, 10, known, labels, penalties=[head.penalty], few=True)
    np.testing.assert_array_equal(head.kernel, alone.kernel)
    assert (head.logits(others).argmax(1) == asked).mean() > 0.75
    assert abs(calibration.nll(head.logits(others), asked) - head.validation_nll) < 0.3


def test_a_class_of_one_example_and_one_of_a_single_group_are_solved_too(digits):
    known, labels, _, _ = thinned(digits, 3, 0)
    rows = np.flatnonzero((labels != 4) | (np.arange(30) % 3 == 0))
    groups = np.where(labels[rows] == 5, "one", np.arange(len(rows)).astype(str))
    head, logits = solved_on_all(known[rows], labels[rows], groups)
    assert np.isfinite(logits).all()
    assert (head.logits(known[rows]).argmax(1) == labels[rows]).all()


def test_three_speakers_are_three_parts(digits):
    known, labels, _, _ = thinned(digits, 6, 0)
    speakers = np.arange(60) % 3
    head, logits = solved_on_all(known, labels, speakers)
    for speaker in range(3):
        others = speakers != speaker
        alone = heads.solve_head(
            known[others], labels[others], 10, known, labels, penalties=[head.penalty], few=True
        )
        said = alone.logits(known[~others])
        # Which penalty wins is told by looser solutions than the one that is kept.
        assert np.corrcoef(logits[~others].ravel(), said.ravel())[0, 1] > 0.99
