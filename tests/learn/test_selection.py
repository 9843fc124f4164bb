import numpy as np
import pytest

from keras_transfer.base.task import ONE
from keras_transfer.learn import calibration
from keras_transfer.learn.planner import new_head_views
from keras_transfer.learn.selection import choose

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


def test_balanced_weights_choose_what_is_better_for_every_class():
    labels = np.repeat([0, 1], [190, 10])
    truth, common = np.eye(2)[labels], np.eye(2)[np.zeros(200, int)]

    def biased(weights):
        """Both classes told apart a little, or the common one always given."""
        apart, always = (float(part) for part in weights)
        return apart * truth + always * common + NOISE[:, :2]

    ends = {"last epoch": weigh(0.5, 3)}
    _, plain, _ = choose(weigh(1, 0), ends, biased, labels)
    _, fair, _ = choose(
        weigh(1, 0), ends, biased, labels, image_weights=ONE.weights(labels, 2, True)
    )
    assert plain[0].name != "head"
    assert fair[0].name == "head"


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


def sharper(seen):
    """What stands for a head solved again: more of the truth in it, and less of it told."""

    def new_head(weights):
        seen.append(weights)
        solved = [*weights[:1], np.float64(0.2), np.float64(1)]
        return lambda: (solved, logits_of(solved))

    return new_head


def test_a_new_head_of_the_best_fine_tuned_weights_can_win():
    seen = []
    ends = {"last epoch": weigh(2.2, 1, 1), "average": weigh(2.5, 1, 1)}
    weights, candidates, logits = choose(weigh(2, 1, 1), ends, logits_of, LABELS, sharper(seen))
    assert seen == [ends["average"]]
    assert candidates[0].name == "average, new head"
    assert weights == weigh(2.5, 0.2, 1)
    np.testing.assert_array_equal(logits, logits_of(weights))


def test_a_mean_of_both_heads_can_win():
    # Heads that err in different images; the logits of a linear head lie on a line.
    draw = np.random.default_rng(2)
    errors = draw.normal(size=(2, *CLEAN.shape))

    def linear(weights):
        body, *head = weights
        return body * CLEAN + sum(part * error for part, error in zip(head, errors, strict=True))

    solved = weigh(2, 0, 1.5)
    weights, candidates, logits = choose(
        weigh(1, 1.5, 0), {"last epoch": weigh(2, 1.5, 0)}, linear, LABELS,
        lambda weights: lambda: (solved, linear(solved)),
    )  # fmt: skip
    assert candidates[0].name == "last epoch, 0.5 to new head"
    assert weights == weigh(2, 0.75, 0.75)
    np.testing.assert_allclose(logits, linear(weights))


def test_a_head_alone_is_not_solved_again():
    seen = []
    _, candidates, _ = choose(weigh(2, 1, 1), {}, logits_of, LABELS, sharper(seen))
    assert [candidate.name for candidate in candidates] == ["head"]
    assert not seen


@pytest.mark.parametrize(
    ("images", "views", "used"),
    [(5000, 8, 1), (1024, 4, 1), (1023, 4, 2), (180, 4, 4), (180, 8, 6), (10, 1, 1)],
)
def test_few_images_are_given_several_views_each(images, views, used):
    assert new_head_views(images, views) == used


def test_of_few_labels_the_head_stays_unless_another_is_surely_better():
    few, start, better = slice(0, 12), weigh(1, 1, 1), weigh(1, 0.7, 1)

    def chosen(rows, head):
        def logits(weights):  # each errs on images of its own
            noise = NOISE if weights[1] == 1 else NOISE[::-1]
            return (float(weights[0]) * CLEAN + float(weights[1]) * noise)[rows]

        given = (weigh(7, 7, 7), logits(start), 1.0) if head else None
        return choose(start, {"last epoch": better}, logits, LABELS[rows], head=given)

    assert chosen(few, head=False)[1][0].name != "head"
    weights, candidates, logits = chosen(few, head=True)
    assert (candidates[0].name, candidates[0].temperature) == ("head", 1.0)
    assert weights == weigh(7, 7, 7)
    np.testing.assert_array_equal(logits, (CLEAN + NOISE)[few])
    assert min(candidate.nll for candidate in candidates) < candidates[0].nll
    assert len({candidate.name for candidate in candidates}) == len(candidates) == 5
    assert chosen(slice(None), head=True)[1][0].name != "head"
