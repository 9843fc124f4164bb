import dataclasses

import pytest

from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Block
from keras_transfer.learn import planner
from keras_transfer.learn.planner import Measured
from keras_transfer.recipe import Recipe

# Ten blocks of one price each, whose cuts narrow towards the top.
BLOCKS = tuple(
    Block(f"block{i}", (f"layer{i}",), 100, 1_000_000, (f"layer{i}",), ((16, 16, 64 - 4 * i),))
    for i in range(10)
)
MEASURED = Measured(0.01, 0.005, 128 * 128, 1280, "openvino", "asked for")


def plan(recipe=None, cache_bytes=10**10, time_left=None, measured=MEASURED, train=1000):
    return planner.make_plan(
        BLOCKS,
        recipe or Recipe(),
        measured,
        train=train,
        validation=200,
        cache_bytes=cache_bytes,
        time_left=time_left,
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
    assert some - more == pytest.approx(976 * (0.4 * MEASURED.forward + 6e-4) - steps, rel=0.05)


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


def test_a_time_budget_shortens_step_by_step_until_it_fits():
    full, asked = plan()
    assert asked == Recipe()
    half = full.seconds["total"] / 2
    shorter, recipe = plan(time_left=half)
    assert shorter.seconds["total"] <= half
    assert recipe.fine_tune_epochs < 5
    assert "To fit the time" in str(shorter)
    least, recipe = plan(time_left=0.001)
    assert recipe.unfreeze == "none"
    assert recipe.views == 1
    assert "least that can be done" in str(least)


def test_more_images_cost_in_proportion():
    few, many = plan(train=1000)[0].seconds, plan(train=10_000)[0].seconds
    for stage in ("extract", "head"):
        assert many[stage] / few[stage] == pytest.approx(10, rel=0.1)
