"""Tables larger than memory give what arrays give."""

from __future__ import annotations

import numpy as np
import pytest

from keras_transfer.base import rows

DRAW = np.random.default_rng(0)
TABLE = DRAW.normal(3, 2, (50, 7)).astype(np.float32)
ASKED = [
    slice(None), slice(0, 0), slice(13, 29), slice(40, 99), np.array([], int),
    np.array([3, 4, 5, 19, 20, 31]), np.arange(50)[::7],
]  # fmt: skip


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_file_is_read_like_an_array(asked):
    spooled = rows.Spooled(iter(np.split(TABLE.astype(np.float16), [1, 20, 20, 37])))
    assert len(spooled) == 50
    np.testing.assert_array_equal(spooled[asked], TABLE.astype(np.float16)[asked])
    assert spooled[asked].dtype == np.float32


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_tables_below_each_other_are_read_like_one(asked):
    parts = rows.Rows(np.split(TABLE, [20, 21]), lambda found: 2 * found)
    assert (len(parts), rows.width(parts)) == (50, 7)
    np.testing.assert_array_equal(parts[asked], 2 * TABLE[asked])


def test_positions_in_any_order_come_from_a_file_in_that_order():
    order = DRAW.permutation(50)
    np.testing.assert_array_equal(rows.Spooled([TABLE])[order], TABLE[order])


def test_moments_are_those_of_all_blocks(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 16)
    mean, variance = rows.moments(TABLE)
    np.testing.assert_allclose(mean, TABLE.astype(float).mean(axis=0))
    np.testing.assert_allclose(variance, TABLE.astype(float).var(axis=0), rtol=1e-5)


def test_what_fits_is_taken_whole_and_else_half_of_it(monkeypatch):
    assert rows.sample(50, 7) == slice(None)
    assert rows.fits(TABLE)
    assert rows.spooled_bytes(50, 7) == 0
    monkeypatch.setattr(rows, "MEMORY", 4 * 7 * 40)
    taken = rows.sample(50, 7)
    assert isinstance(taken, np.ndarray)
    assert len(taken) == len(set(taken.tolist())) == 20
    assert (np.diff(taken) > 0).all()
    assert not rows.fits(TABLE)
    assert rows.spooled_bytes(50, 7) == TABLE.nbytes
