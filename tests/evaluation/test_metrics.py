import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from keras_transfer import evaluation
from keras_transfer.base import errors, files
from keras_transfer.evaluation import metrics

DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def predictions():
    digits = load_digits()
    noisy = digits.data / 16 + np.random.default_rng(1).normal(scale=0.4, size=digits.data.shape)
    model = LogisticRegression(C=0.3).fit(noisy[:900], digits.target[:900])
    return model.predict_proba(noisy[900:]), digits.target[900:]


@pytest.fixture(scope="module")
def result(predictions):
    return evaluation.evaluate(*predictions, DIGITS)


def test_every_metric_agrees_with_plain_python(predictions, result):
    probabilities, labels = predictions
    answers = [max(range(10), key=lambda j: row[j]) for row in probabilities]
    pairs = list(zip(labels.tolist(), answers, strict=True))
    recalls, scores = [], []
    for c in range(10):
        hits = sum(t == c == a for t, a in pairs)
        support, given = sum(t == c for t, _ in pairs), sum(a == c for _, a in pairs)
        recalls.append(hits / support)
        precision = hits / given if given else 0.0
        scores.append(2 * precision * recalls[-1] / (precision + recalls[-1]) if hits else 0.0)
        row = result.per_class[c]
        assert (row.support, row.predicted) == (support, given)
        assert row.recall == pytest.approx(hits / support)
        assert row.precision == pytest.approx(precision)
        assert row.f1 == pytest.approx(scores[-1])
    ranked = [sorted(range(10), key=lambda j: -row[j])[:5] for row in probabilities]
    brier = [
        sum((row[j] - (j == t)) ** 2 for j in range(10))
        for row, t in zip(probabilities, labels, strict=True)
    ]
    nll = [-math.log(row[t]) for row, t in zip(probabilities, labels, strict=True)]
    assert result.accuracy == pytest.approx(sum(t == a for t, a in pairs) / len(pairs))
    assert result.top5 == pytest.approx(
        sum(t in top for t, top in zip(labels, ranked, strict=True)) / len(labels)
    )
    assert result.balanced_accuracy == pytest.approx(sum(recalls) / 10)
    assert result.macro_f1 == pytest.approx(sum(scores) / 10)
    assert result.nll == pytest.approx(sum(nll) / len(nll))
    assert result.brier == pytest.approx(sum(brier) / len(brier))
    assert result.ece == pytest.approx(result.reliability.ece, abs=1e-12)
    assert result.confusion[3, 8] == sum((t, a) == (3, 8) for t, a in pairs)


def test_wilson_is_where_the_score_test_turns():
    """The ends of the interval are the rates that the score test just rejects."""
    z = stats.norm.ppf(0.975)
    for successes, n in ((7, 9), (180, 200), (1, 50)):
        for end in evaluation.wilson_interval(successes, n):
            assert abs(successes / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n))
    assert evaluation.wilson_interval(0, 5)[0] == 0.0
    assert evaluation.wilson_interval(5, 5)[1] == 1.0
    assert evaluation.wilson_interval(5, 5)[0] == pytest.approx(0.5655, abs=1e-4)
    assert evaluation.wilson_interval(0, 0) == (0.0, 1.0)


def test_the_bootstrap_agrees_with_the_standard_error_of_a_mean(predictions, result):
    probabilities, labels = predictions
    losses = -np.log(probabilities[np.arange(len(labels)), labels])
    half = 1.96 * losses.std() / math.sqrt(len(losses))
    low, high = result.intervals["nll"]
    assert low == pytest.approx(losses.mean() - half, abs=0.25 * half)
    assert high == pytest.approx(losses.mean() + half, abs=0.25 * half)


def test_every_interval_holds_its_estimate_well_inside(result):
    for name, (low, high) in result.intervals.items():
        share = (getattr(result, name) - low) / (high - low)
        assert 0.2 < share < 0.8, name


def test_the_ece_of_a_calibrated_model_is_its_floor():
    random = np.random.default_rng(2)
    scores = random.normal(size=(300, 4)) * 2
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    found, floors = [], []
    for _ in range(12):
        labels = (random.random((300, 1)) > probabilities.cumsum(1)).sum(1).clip(0, 3)
        result = evaluation.evaluate(probabilities, labels, list("abcd"))
        found.append(result.ece)
        floors.append(result.ece_floor)
    assert np.mean(found) == pytest.approx(np.mean(floors), rel=0.15)
    assert min(floors) > 0.02


def test_the_same_predictions_have_the_same_intervals(predictions, result):
    assert evaluation.evaluate(*predictions, DIGITS).intervals == result.intervals


def test_baselines_are_what_such_predictions_score(predictions, result):
    _, labels = predictions
    frequencies = np.bincount(labels) / len(labels)
    constant = evaluation.evaluate(np.tile(frequencies, (len(labels), 1)), labels, DIGITS)
    for name, value in result.majority.items():
        assert getattr(constant, name) == pytest.approx(value), name
    uniform = evaluation.evaluate(np.full((len(labels), 10), 0.1), labels, DIGITS)
    assert uniform.nll == pytest.approx(result.chance["nll"])
    assert uniform.brier == pytest.approx(result.chance["brier"])
    assert result.chance["accuracy"] == 0.1
    random = np.random.default_rng(0).random((50_000, 10))
    guesses = evaluation.evaluate(
        random / random.sum(1, keepdims=True), np.resize(labels, 50_000), DIGITS
    )
    assert guesses.macro_f1 == pytest.approx(result.chance["macro_f1"], abs=0.005)
    assert guesses.top5 == pytest.approx(result.chance["top5"], abs=0.01)


def test_classes_that_never_occur_do_not_distort_the_means(predictions, result):
    probabilities, labels = predictions
    wider = np.hstack([probabilities, np.zeros((len(labels), 2))])
    padded = evaluation.evaluate(wider, labels, [*DIGITS, "ten", "eleven"])
    assert padded.balanced_accuracy == pytest.approx(result.balanced_accuracy)
    assert padded.macro_f1 == pytest.approx(result.macro_f1)
    assert math.isnan(padded.per_class[-1].recall)
    assert padded.per_class[-1].recall_interval is None


@pytest.mark.parametrize("images", [1, 9])
def test_few_images_get_no_false_precision(predictions, images):
    probabilities, labels = predictions
    few = evaluation.evaluate(probabilities[:images], labels[:images], DIGITS)
    assert f"Only {images} example" in few.note
    assert few.intervals["macro_f1"] is None
    low, high = few.intervals["accuracy"]
    assert high - low > 0.3


def test_resamples_that_all_agree_are_not_an_interval():
    perfect = evaluation.evaluate(np.eye(3)[np.arange(30) % 3], np.arange(30) % 3, ["a", "b", "c"])
    assert perfect.accuracy == 1.0
    assert perfect.intervals["balanced_accuracy"] is None
    assert perfect.intervals["accuracy"][0] == pytest.approx(0.886, abs=1e-3)


def test_the_json_is_plain_complete_and_small_for_a_thousand_classes(tmp_path):
    random = np.random.default_rng(0)
    names = [f"class {i}" for i in range(1000)]
    labels = random.integers(1000, size=1500)
    scores = random.random((1500, 1000)) + 3.0 * np.eye(1000)[labels] * (
        random.random((1500, 1)) > 0.5
    )
    result = evaluation.evaluate(scores / scores.sum(1, keepdims=True), labels, names)
    files.write_json(tmp_path / "metrics.json", result.to_json())
    assert (tmp_path / "metrics.json").stat().st_size < 1_500_000
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics.METRICS) <= read.keys()
    assert {"confusion", "per_class", "intervals", "majority", "chance"} <= read.keys()
    rebuilt = np.zeros((1000, 1000), int)
    for cell in read["confusion"]:
        rebuilt[names.index(cell["label"]), names.index(cell["predicted"])] = cell["count"]
    assert np.array_equal(rebuilt, result.confusion)


def test_mistakes_and_doubts_come_in_order(predictions):
    probabilities, labels = predictions
    mistakes = metrics.ranked(probabilities, labels, right=False)
    doubts = metrics.ranked(probabilities, labels, right=True)
    wrong = probabilities.argmax(1) != labels
    top = probabilities.max(1)
    assert wrong[mistakes].all()
    assert top[mistakes].tolist() == sorted(top[wrong], reverse=True)
    assert not wrong[doubts].any()
    assert top[doubts].tolist() == sorted(top[~wrong])


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((0, 3), [], "no examples"),
        ((2, 2), [0, 1], r"\(2, 2\) do not fit 2 labels and 3 class names"),
        ((2, 3), [0, 3], "from 0 to 3, but there are 3 classes"),
    ],
)
def test_what_does_not_fit_together_is_refused(shape, labels, message):
    with pytest.raises(errors.DataError, match=message):
        evaluation.evaluate(np.full(shape, 1 / 3), np.array(labels, int), ["a", "b", "c"])


def test_nan_weights_are_named():
    broken = np.full((4, 3), np.nan)
    with pytest.raises(errors.KerasTransferError, match="4 of 4 examples") as caught:
        evaluation.evaluate(broken, np.zeros(4, int), ["a", "b", "c"])
    assert caught.value.exit_code == 1


def test_an_interval_takes_a_share_of_the_images_that_is_no_whole_number():
    low, high = evaluation.wilson_interval(13.5, 15)
    assert evaluation.wilson_interval(13, 15)[0] < low < evaluation.wilson_interval(14, 15)[0]
    assert evaluation.wilson_interval(1.5, 15) == pytest.approx((1 - high, 1 - low))


def test_results_show_themselves(result):
    assert f"{result.macro_f1:.3f}" in result._repr_html_()
    assert result.plot_confusion()._repr_png_().startswith(b"\x89PNG")
    assert len(result.plot_reliability().axes) == 1
