import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest

from keras_transfer import evaluation
from keras_transfer.base import errors
from keras_transfer.evaluation import comparison


@dataclasses.dataclass
class Finished:
    """A run as far as a comparison reads it."""

    path: Path
    predictions: list


def finished(name, answers, labels):
    rows = [
        {"path": f"{i}.png", "label": t, "predicted": a, "digest": f"sha of {i}"}
        for i, (t, a) in enumerate(zip(labels, answers, strict=True))
    ]
    return Finished(Path("runs") / name, rows)


def answers(labels, accuracy, seed):
    """Right on a given share of the images, wrong on the others."""
    right = np.random.default_rng(seed).random(len(labels)) < accuracy
    return [
        t if good else ("b" if t == "a" else "a") for t, good in zip(labels, right, strict=True)
    ]


LABELS = ["a", "b"] * 200


def test_two_seeds_of_one_method_show_no_evidence_of_a_difference():
    first, second = (finished(f"s{i}", answers(LABELS, 0.8, i), LABELS) for i in (1, 2))
    pair = evaluation.compare([first, second]).pairs[0]
    assert pair.verdict.startswith("No evidence of a difference between s1 and s2")
    assert pair.interval[0] < 0 < pair.interval[1]


def test_the_better_one_is_named_whichever_comes_first():
    good = finished("tuned", answers(LABELS, 0.9, 1), LABELS)
    poor = finished("scratch", answers(LABELS, 0.5, 2), LABELS)
    for runs in ([good, poor], [poor, good]):
        result = evaluation.compare(runs)
        gap = 100 * (result.accuracy["tuned"] - result.accuracy["scratch"])
        assert result.pairs[0].verdict.startswith(
            f"tuned is better than scratch by {gap:.1f} points ("
        )
        assert "p < 0.001" in result.pairs[0].verdict
        low, high = (
            float(end) for end in re.findall(r"\((.*) to (.*), p", result.pairs[0].verdict)[0]
        )
        assert low < gap < high


def test_mcnemar_is_the_exact_binomial_tail():
    """Nine images that only one got right against two: twice the tail of eleven fair coins."""
    labels = np.zeros(40, int)
    first, second = labels.copy(), labels.copy()
    first[:2], second[2:11] = 1, 1
    pair = evaluation.compare_predictions(labels, first, second)
    tail = sum(math.comb(11, k) for k in (0, 1, 2)) / 2**11
    assert (pair.only_first, pair.only_second) == (9, 2)
    assert pair.p_value == pytest.approx(2 * tail)
    assert pair.difference == pytest.approx(-7 / 40)


def test_the_bootstrap_is_that_of_the_images():
    """Against resampling image by image, in a loop."""
    labels = np.array(LABELS)
    first, second = (np.array(answers(LABELS, a, s)) for a, s in ((0.7, 3), (0.8, 4)))
    gain = (second == labels).astype(float) - (first == labels)
    random = np.random.default_rng(9)
    drawn = [gain[random.integers(400, size=400)].mean() for _ in range(4000)]
    pair = evaluation.compare_predictions(labels, first, second)
    assert pair.interval == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.008)


def test_identical_answers_are_no_evidence():
    labels = np.array(LABELS)
    pair = evaluation.compare_predictions(labels, labels, labels)
    assert (pair.p_value, pair.difference, pair.interval) == (1.0, 0.0, (0.0, 0.0))


def test_many_comparisons_are_held_to_a_stricter_test():
    assert comparison.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert comparison.holm([0.5, 0.9]) == [1.0, 1.0]
    runs = [finished(f"r{i}", answers(LABELS, 0.8, i), LABELS) for i in range(4)]
    alone = {
        (a.path.name, b.path.name): evaluation.compare([a, b]).pairs[0].p_value
        for i, a in enumerate(runs)
        for b in runs[i + 1 :]
    }
    for pair in evaluation.compare(runs).pairs:
        assert pair.p_value >= alone[pair.first, pair.second]


def test_the_order_of_the_rows_does_not_matter():
    first = finished("one", answers(LABELS, 0.8, 1), LABELS)
    second = finished("two", answers(LABELS, 0.7, 2), LABELS)
    shuffled = Finished(second.path, second.predictions[::-1])
    assert evaluation.compare([first, second]) == evaluation.compare([first, shuffled])


def test_runs_of_one_folder_name_are_told_apart():
    runs = [
        Finished(Path(p), finished("x", LABELS, LABELS).predictions) for p in ("a/run", "b/run")
    ]
    assert set(evaluation.compare(runs).accuracy) == {"a/run", "b/run"}


def test_different_test_images_are_refused():
    first = finished("one", LABELS, LABELS)
    fewer = finished("two", LABELS[:-1], LABELS[:-1])
    with pytest.raises(errors.UsageError, match="1 only in the first, 0 only in the second") as e:
        evaluation.compare([first, fewer])
    assert "--splits" in e.value.remedy
    assert "splits.csv" in e.value.remedy
    relabelled = finished("three", LABELS, ["b", *LABELS[1:]])
    with pytest.raises(errors.UsageError, match=r"'0.png' is 'a' in one and 'b' in the other"):
        evaluation.compare([first, relabelled])


def test_files_of_the_same_name_from_other_data_are_not_the_same_images():
    before, after = (finished(name, LABELS, LABELS) for name in ("noto", "twemoji"))
    assert evaluation.compare([before, after]).images == 400
    after.predictions[7]["digest"] = "another"
    with pytest.raises(errors.UsageError, match=r"under the same name: '7.png'"):
        evaluation.compare([before, after])


@pytest.mark.parametrize("count", [0, 1])
def test_one_run_is_no_comparison(count):
    with pytest.raises(errors.UsageError, match=f"Received: {count}"):
        evaluation.compare([finished("one", LABELS, LABELS)] * count)


def test_a_run_is_not_compared_with_itself():
    run = finished("one", LABELS, LABELS)
    with pytest.raises(errors.UsageError, match="named twice"):
        evaluation.compare([run, run])


def test_names_are_escaped_where_the_result_shows_itself():
    runs = [finished(n, LABELS, LABELS) for n in ("<script>", "other")]
    shown = evaluation.compare(runs)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
