from __future__ import annotations

import numpy as np
import pytest
import zoo

from keras_transfer.modalities import image
from keras_transfer.modalities.image import augmentation


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.stack([np.asarray(zoo.photo(seed=seed, side=96)) for seed in range(40)])


def digests(count: int) -> list[str]:
    return [f"digest {i}" for i in range(count)]


def test_view_depends_on_digest_view_seed_and_nothing_else(photos, monkeypatch):
    monkeypatch.setattr(augmentation, "cores", lambda: 8)
    drawn = image.view(photos, digests(40), 1, seed=0)
    monkeypatch.setattr(augmentation, "cores", lambda: 1)
    order = np.random.default_rng(0).permutation(40)
    shuffled = image.view(photos[order], [f"digest {i}" for i in order], 1, seed=0)
    assert np.array_equal(shuffled, drawn[order])
    alone = image.view(photos[7:8], ["digest 7"], 1, seed=0)
    assert np.array_equal(alone[0], drawn[7])
    for other in ({"number": 2, "seed": 0}, {"number": 1, "seed": 1}):
        assert difference(image.view(photos, digests(40), **other), drawn) > 5


def test_view_zero_is_clean(photos):
    assert np.array_equal(image.view(photos, digests(40), 0, seed=3), photos)


def test_strength_zero_only_flips_half(photos):
    plain = image.view(photos, digests(40), 1, seed=0, strength=0, flip=False)
    assert np.array_equal(plain, photos)
    drawn = image.view(photos, digests(40), 1, seed=0, strength=0)
    same = [np.array_equal(a, b) for a, b in zip(drawn, photos, strict=True)]
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(drawn, photos, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 10 < sum(mirrored) < 30


def test_views_move_and_recolour_mildly_and_have_no_black_border(photos):
    drawn = image.view(photos, digests(40), 1, seed=0, flip=False)
    assert 5 < difference(drawn, photos) < 60
    white = np.full((200, 64, 64, 3), 230, np.uint8)
    views = image.view(white, digests(200), 1, seed=0)
    assert views.min() > 150
    spread = views.reshape(200, -1)
    assert (spread.max(axis=1) - spread.min(axis=1)).max() <= 3
    assert np.ptp(spread.mean(axis=1)) > 20


def test_rotation_is_about_the_centre_and_within_its_range():
    spot = np.zeros((100, 65, 65, 3), np.uint8)
    spot[:, 30:35, 30:35] = 255
    views = image.view(spot, digests(100), 1, seed=0).astype(float).sum(axis=3)
    views -= views.min(axis=(1, 2), keepdims=True)
    position = np.arange(65)
    mass = views.sum(axis=(1, 2))
    y = (views.sum(axis=2) * position).sum(axis=1) / mass - 32
    x = (views.sum(axis=1) * position).sum(axis=1) / mass - 32
    reach = 65 * augmentation.SHIFT * np.exp(augmentation.ZOOM) + 1
    assert max(np.abs(x).max(), np.abs(y).max()) < reach
    assert abs(x.mean()) < 1
    assert abs(y.mean()) < 1
    assert x.std() > 1


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (3, 8, 8, 3), (2, 40, 20, 3)])
def test_any_shape_can_be_augmented(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    drawn = image.view(pixels, digests(shape[0]), 4, seed=2, strength=3)
    assert drawn.shape == shape
    assert drawn.dtype == np.uint8
