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
    metrics: dict = dataclasses.field(default_factory=dict)


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
    low, high = (100 * end for end in pair.interval)
    assert low < 0 < high
    way = "better" if pair.difference > 0 else "worse"
    gap = f"s2 is {100 * abs(pair.difference):.1f} points {way} than s1 on these 400"
    assert pair.verdict.startswith(gap)
    assert (
        f"between {-low:.1f} worse and {high:.1f} better (p = {pair.p_value:.2f})" in pair.verdict
    )


@pytest.mark.parametrize(
    ("count", "lost", "gained", "said"),
    [
        (27, 3, 4, "but so few cannot show a difference: it may lie between"),
        (200, 30, 33, "but these cannot show a difference: it may lie between"),
        (2000, 30, 33, "which shows no difference; it lies between"),
        (20, 0, 0, "is right as often as one on these 20, but so few cannot show a difference."),
        (35, 0, 1, "cannot show a difference: it may lie between as good and 8.6 better (p = 1.00"),
        (400, 0, 0, "two is right as often as one on these 400, the same ones."),
    ],
)
def test_what_leaves_room_for_a_loss_is_no_all_clear(count, lost, gained, said):
    labels = np.zeros(count, int)
    first, second = labels.copy(), labels.copy()
    first[:gained], second[gained : gained + lost] = 1, 1
    pair = evaluation.compare_predictions(labels, first, second, names=("one", "two"))
    assert said in pair.verdict
    assert ("cannot" in said) == (pair.interval[0] < -0.05 or count < 60)


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


def test_what_would_make_them_comparable_is_possible(tmp_path):
    first, fewer = finished("one", LABELS, LABELS), finished("two", LABELS[:-1], LABELS[:-1])
    for run, names in ((first, "abc"), (fewer, "bcda")):
        run.path = tmp_path / run.path.name
        run.path.mkdir()
        rows = "".join(f"{name}.png,a,train\n" for name in names)
        (run.path / "splits.csv").write_text(f"path,label,split\n{rows}")
    with pytest.raises(errors.UsageError, match="different test splits") as raised:
        evaluation.compare([fewer, first])
    splits = first.path / "splits.csv"
    assert f"{fewer.path} again with --splits {splits} " in raised.value.remedy
    splits.write_text(splits.read_text().replace("b.png", "other/b.png"))
    with pytest.raises(errors.UsageError, match="different test splits") as raised:
        evaluation.compare([fewer, first])
    assert "--splits" not in raised.value.remedy


def test_images_under_other_names_go_by_what_is_in_them():
    first, second = (finished(f"s{i}", answers(LABELS, 0.8, i), LABELS) for i in (1, 2))
    expected = evaluation.compare([first, second])
    for row in second.predictions:
        row["path"] = f"elsewhere/{row['path']}"
    second.predictions.reverse()
    found = evaluation.compare([first, second])
    assert (found.images, found.accuracy) == (400, expected.accuracy)
    pairs = [one.pairs[0] for one in (found, expected)]
    assert pairs[0].only_first == pairs[1].only_first
    for row in second.predictions:
        row["label"] = {"b": "bee"}.get(row["label"], row["label"])
    with pytest.raises(errors.UsageError, match="s1 and s2 have different classes: b, and bee"):
        evaluation.compare([first, second])


def test_an_update_is_held_to_the_test_split_of_the_run_it_began_with():
    old = finished("old", answers(LABELS, 0.7, 1), LABELS)
    new = finished("new", answers([*LABELS, "b"], 0.8, 2), [*LABELS, "b"])
    with pytest.raises(errors.UsageError, match="0 only in the first, 1 only in the second"):
        evaluation.compare([old, new])
    new.metrics = {"update": {"of": str(old.path.resolve())}}
    for runs in ([old, new], [new, old]):
        found = evaluation.compare(runs)
        assert found.images == 400
        shorter = finished("new", [row["predicted"] for row in new.predictions][:400], LABELS)
        assert found.accuracy == evaluation.compare([old, shorter]).accuracy
        assert "new is an update of old" in found.render()
        assert "new is an update of old" in found._repr_html_()


def test_a_comparison_is_a_line_and_renders_its_verdicts():
    runs = [finished(f"s{i}", answers(LABELS, 0.8, i), LABELS) for i in (1, 2)]
    found = evaluation.compare(runs)
    assert re.fullmatch(
        r"Comparison\(accuracy on 400 examples: s1 0\.\d+, s2 0\.\d+\)", repr(found)
    )
    *shares, verdict = found.render().splitlines()
    assert [line.split(":")[0] for line in shares] == ["s1", "s2"]
    assert verdict == found.pairs[0].verdict


def test_different_test_images_are_refused():
    first = finished("one", LABELS, LABELS)
    fewer = finished("two", LABELS[:-1], LABELS[:-1])
    with pytest.raises(errors.UsageError, match="1 only in the first, 0 only in the second") as e:
        evaluation.compare([first, fewer])
    assert "--splits" not in e.value.remedy  # nobody knows what else they have
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
