"""The choice of cuts against trying all of them."""

import itertools

import numpy as np
import pytest

from keras_transfer.base.types import Block
from tuning import plan
from tuning.plan import Cut


def blocks():
    """Ten blocks of equal price whose outputs shrink towards the top."""
    return [
        Block(f"b{i}", (f"l{i}",), 1, 100, (f"l{i}",), ((2 ** (10 - i), 1, 1),)) for i in range(10)
    ]


def brute(cuts, rows, images, forward, budget):
    """The least seconds over all subsets, priced as the module's words say."""
    best = np.inf
    for stored in itertools.product([False, True], repeat=len(cuts)):
        size = sum(rows * c.row_bytes for c, s in zip(cuts, stored, strict=True) if s)
        if size > budget:
            continue
        seconds, below, row = rows * forward, 0.0, 0
        for cut, kept in zip(cuts, stored, strict=True):
            if kept:
                below, row = cut.below, cut.row_bytes
            seconds += cut.passes * images * (row / 500e6 + forward * (cut.below - below))
        best = min(best, seconds)
    return best


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_of_cuts_is_cheaper(seed):
    draw = np.random.default_rng(seed)
    count = int(draw.integers(1, 7))
    below = np.sort(draw.random(count))
    cuts = [
        Cut(
            (f"c{i}",), float(below[i]), int(draw.integers(100, 50_000)), float(draw.uniform(1, 90))
        )
        for i in range(count)
    ]
    everything = sum(1000 * cut.row_bytes for cut in cuts)
    for share in (0.0, 0.3, 0.6, 1.0):
        budget = int(share * everything)
        found = plan.plan(cuts, rows=1000, images=300, forward=1e-4, variants=1, budget=budget)
        assert found.bytes <= budget
        assert found.seconds == pytest.approx(brute(cuts, 1000, 300, 1e-4, budget))
        assert found.bytes == sum(1000 * cut.row_bytes for cut in found.stored)


def test_without_a_budget_all_is_computed_from_the_pixels():
    cuts = plan.cuts_of(blocks(), ["2", "5"], passes=40)
    found = plan.plan(cuts, rows=10, images=5, forward=0.01, variants=1, budget=0)
    assert found.base == (None, None)
    assert found.seconds == pytest.approx(found.uncached)
    assert "computed anew from the pixels" in str(found)


def test_depths_become_cuts_lowest_first():
    cuts = plan.cuts_of(blocks(), ["2", "20%", "5", "all", "none"], passes=50)
    assert [cut.layers for cut in cuts] == [("l4",), ("l7",)]
    assert [cut.below for cut in cuts] == pytest.approx([0.5, 0.8])
    assert [cut.passes for cut in cuts] == pytest.approx([10.0, 20.0])
    assert cuts[0].row_bytes == 2 * 2**6


def test_a_cut_that_is_left_out_goes_on_from_the_one_below():
    cuts = [Cut(("low",), 0.4, 1000, 10.0), Cut(("high",), 0.5, 100_000, 10.0)]
    found = plan.plan(cuts, rows=100, images=100, forward=1e-3, variants=1, budget=150_000)
    assert found.base == (cuts[0], cuts[0])
    assert "above high: not stored, computed anew from low" in str(found)
