import dataclasses
import math

import pytest

from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Block
from keras_transfer.learn import planner
from keras_transfer.learn.planner import Measured
from keras_transfer.recipe import Recipe, resolve

# Ten blocks of one price each, whose cuts narrow towards the top.
BLOCKS = tuple(
    Block(f"block{i}", (f"layer{i}",), 100, 1_000_000, (f"layer{i}",), ((16, 16, 64 - 4 * i),))
    for i in range(10)
)
MEASURED = Measured(0.01, 0.005, 128 * 128, 1280, "openvino", "asked for")


def plan(recipe=None, cache_bytes=10**10, measured=MEASURED, train=1000, test=200, **more):
    return planner.make_plan(
        BLOCKS,
        recipe or Recipe(),
        measured,
        train=train,
        validation=200,
        test=test,
        cache_bytes=cache_bytes,
        **more,
    )


@pytest.mark.parametrize(
    ("unfreeze", "depth"),
    [(0, 0), ("none", 0), ("all", 10), (3, 3), ("3", 3), ("block7", 3), ("block0", 10),
     ("10%", 1), ("11%", 2), ("35%", 4), ("100%", 10)],
)  # fmt: skip
def test_depth_by_number_name_and_share(unfreeze, depth):
    assert planner.resolve_depth(BLOCKS, unfreeze) == depth


@pytest.mark.parametrize("unfreeze", [11, "blok7", "-1", "x%"])
def test_a_depth_that_does_not_exist_is_refused(unfreeze):
    with pytest.raises(UsageError):
        planner.resolve_depth(BLOCKS, unfreeze)


def test_the_cut_lies_below_the_blocks_that_train():
    assert planner.cut_below(BLOCKS, 3) == ("layer6",)
    assert planner.cut_below(BLOCKS, 10) == ()


def test_the_price_of_a_step_is_t_plus_2r_against_3r():
    made, _ = plan()  # of ten equal blocks, four are the fewest that hold 35 %
    assert made.unfreeze == 4
    assert made.step_ratio == pytest.approx((10 + 2 * 4) / (3 * 4), abs=1e-3)


def test_the_plan_counts_the_head_that_is_solved_again():
    # Of 1,000 images two views each pass through what trains, of 1,024 one.
    some, more = (plan(train=train)[0].seconds["fine_tune"] for train in (1000, 1024))
    steps = 5 * 24 * 3 * 0.4 * MEASURED.forward
    assert some - more == pytest.approx(2 * 976 * (0.4 * MEASURED.forward + 6e-4) - steps, rel=0.05)


def test_cheaper_steps_are_cheaper_in_the_plan():
    dear, cheap = (
        plan(measured=dataclasses.replace(MEASURED, step=step))[0].seconds for step in (3.0, 2.0)
    )
    # Five epochs of a thousand images, each two fifths of a forward pass less.
    saved = 5 * 1000 * 0.4 * MEASURED.forward
    assert dear["fine_tune"] - cheap["fine_tune"] == pytest.approx(saved, abs=0.02)
    assert [dear[name] for name in ("extract", "head")] == [cheap["extract"], cheap["head"]]


def test_bytes_are_counted_from_the_cut_and_the_features():
    made, _ = plan()
    row = 2 * 16 * 16 * (64 - 4 * 5) + 2 * 1280
    assert made.cached
    assert made.bytes == row * (1000 * 2 + 200)


def test_not_cached_when_switched_off_too_large_or_slower_to_read():
    off, _ = plan(cache_bytes=None)
    assert not off.cached
    assert "switched off" in str(off)
    large, _ = plan(cache_bytes=1000)
    assert not large.cached
    assert "do not fit" in str(large)
    # An accelerator that needs microseconds for what the disk needs a hundred to read.
    fast, _ = plan(measured=dataclasses.replace(MEASURED, extract=1e-7, forward=1e-7))
    assert not fast.cached
    assert "longer than computing" in str(fast)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, (4, 2, 5, 55193600, 1.5, (11.4, 1.2, 84.05, 96.65))),
        ({"effort": "quick"}, (2, 1, 2, 25190400, 2.333, (6.0, 0.6, 18.78, 25.38))),
        ({"effort": "high"}, (10, 4, 8, 10752000, 1.0, (22.2, 2.4, 301.94, 326.54))),
        ({"unfreeze": "none"}, (0, 2, 0, 5632000, 0.0, (11.4, 1.2, 0.0, 12.6))),
    ],
)
def test_without_a_budget_the_plan_is_what_was_asked_for(words, expected):
    made, recipe = plan(resolve(words))
    assert recipe == resolve(words)
    numbers = made.unfreeze, made.views, made.epochs, made.bytes, made.step_ratio
    assert (*numbers, tuple(made.seconds.values())) == expected
    assert made.notes == ("Frozen layers run on openvino: asked for.",)
    assert plan(resolve(words), time_left=math.inf)[0] == made


def test_a_time_budget_shortens_step_by_step_until_it_fits():
    full, asked = plan()
    assert asked == Recipe()
    half = full.needed_seconds / 2
    shorter, recipe = plan(time_left=half)
    assert shorter.needed_seconds <= half
    assert recipe.fine_tune_epochs < 5
    assert "To fit the time" in str(shorter)
    assert f"{half:.0f} s of the budget are left" in str(shorter)
    least, recipe = plan(time_left=0.001)
    assert recipe.unfreeze == "none"
    assert recipe.views == 1
    assert "least that can be done" in str(least)


@pytest.mark.parametrize("left", [16, 20, 25, 30, 40, 60, 80, 100, 120, 200])
def test_what_a_budget_plans_fits_with_its_reserve(left):
    made, recipe = plan(time_left=left)
    before = made.seconds["extract"] + made.seconds["head"] + made.epochs * made.epoch_seconds
    assert before + made.reserve_seconds <= left
    assert made.views == recipe.views
    assert made.epochs == (recipe.fine_tune_epochs if made.unfreeze else 0)


def test_the_reserve_is_priced_by_images_and_passes():
    def reserve(**more):
        return plan(**more)[0].reserve_seconds

    # A test image passes the frozen part and the four tenths that train.
    assert reserve(test=1200) - reserve(test=200) == pytest.approx(1000 * (0.005 + 0.4 * 0.01))
    # One view is looked at once more for the new head, and eight times validation.
    again = 1000 * 2 * 2 * (0.4 * 0.01 + 6e-4)  # a new head, and one of all examples
    ends = 8 * 200 * 0.4 * 0.01 + 200 * (0.005 + 0.4 * 0.01)
    assert reserve() - again - ends == pytest.approx(planner._END_SECONDS)
    # The head alone has nothing to choose from.
    assert reserve(recipe=Recipe(unfreeze="none")) == pytest.approx(planner._END_SECONDS + 1)


def again_after(planned, left, recipe=None, **measured):
    """The plan made again when the frozen part of another has been run."""
    rates = dataclasses.replace(MEASURED, **measured)
    recipe = recipe or Recipe(views=planned.views, unfreeze=planned.unfreeze)
    return plan(recipe, measured=rates, time_left=left, after=planned)[0]


def test_planned_again_it_needs_no_extraction_and_the_rest_as_before():
    planned, _ = plan()
    rest = again_after(planned, 1000)
    spent = planned.seconds["extract"] + planned.convert_seconds
    assert rest.needed_seconds == pytest.approx(planned.needed_seconds - spent, abs=0.02)
    same = (
        "unfreeze",
        "cut",
        "cached",
        "views",
        "epochs",
        "bytes",
        "seconds",
        "epoch_seconds",
        "reserve_seconds",
    )
    assert [getattr(rest, name) for name in same] == [getattr(planned, name) for name in same]


def test_the_less_is_left_after_extraction_the_shorter_the_second_phase():
    planned, _ = plan()
    made = [again_after(planned, left) for left in range(120, 0, -2)]
    work = [one.epochs * one.unfreeze for one in made]
    assert work == sorted(work, reverse=True)
    assert (work[0], work[-1]) == (5 * 4, 0)
    assert len(set(work)) >= 4
    for one, left in zip(made, range(120, 0, -2), strict=True):
        assert one.needed_seconds <= left or "least that can be done" in str(one)
        assert one.views <= planned.views


def test_a_second_phase_above_a_higher_cut_pays_for_the_layers_between():
    planned, _ = plan(Recipe(unfreeze=6))
    higher = again_after(planned, 1000, Recipe(unfreeze=2))
    own, _ = plan(Recipe(unfreeze=2))
    # Four tenths of a forward pass, in every epoch and for every image of both splits.
    reading = planner.READ_SECONDS * 2 * 16 * 16 * (4 * 4) * 1000  # rows that are wider
    between = 0.4 * 0.01 * (1000 + 200) + reading
    assert higher.epoch_seconds - own.epoch_seconds == pytest.approx(between, abs=0.02)
    assert higher.reserve_seconds - own.reserve_seconds == pytest.approx(
        0.4 * 0.01 * (2 * 2000 + 8 * 200), abs=0.02
    )
    assert higher.cut == own.cut


def test_a_slower_frozen_part_counts_where_it_runs_again():
    stored, _ = plan()
    computed, _ = plan(cache_bytes=None)
    slow = {"extract": 0.05}
    # Stored, it is the test split alone that it runs on; computed, every epoch.
    assert again_after(stored, 1000, **slow).epoch_seconds == stored.epoch_seconds
    more = again_after(computed, 10_000, **slow).epoch_seconds - computed.epoch_seconds
    assert more == pytest.approx(1000 * 0.6 * 0.045, abs=0.02)
    test = again_after(stored, 1000, **slow).reserve_seconds - stored.reserve_seconds
    assert test == pytest.approx(200 * 0.045, abs=0.02)


def test_more_images_cost_in_proportion():
    few, many = plan(train=1000)[0].seconds, plan(train=10_000)[0].seconds
    for stage in ("extract", "head"):
        assert many[stage] / few[stage] == pytest.approx(10, rel=0.1)
