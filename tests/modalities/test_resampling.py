"""Squashing: one definition, whoever computes it, and close to what Pillow does."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zoo
from PIL import Image

from keras_transfer.export import proof
from keras_transfer.modalities import image
from keras_transfer.modalities.image import resampling


def cases(count):
    """Random pictures, sizes to squash them to, and boxes; seeded."""
    random = np.random.default_rng(0)
    for _ in range(count):
        height, width, rows, columns = (int(2 ** random.uniform(0, 9)) for _ in range(4))
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        cut = random.integers(0, 8, 2) / 8 if random.random() < 0.5 else (0, 0)
        yield pixels, (rows, columns), (0, 0, width - cut[0], height - cut[1])


def by_pillow(pixels, size, box):
    image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box)
    return np.asarray(image).astype(int)


@pytest.mark.skipif(resampling.fast is None, reason="cykooz.resizer is not installed")
def test_vector_instructions_give_what_the_definition_says_to_the_last_bit(monkeypatch):
    given = list(cases(300))
    found = [resampling.squash(*case) for case in given]
    monkeypatch.setattr(resampling, "fast", None)
    for case, expected in zip(given, found, strict=True):
        np.testing.assert_array_equal(resampling.squash(*case), expected)


def test_levels_are_within_two_of_pillows(monkeypatch):
    worst = [np.abs(resampling.squash(*case) - by_pillow(*case)).max() for case in cases(300)]
    assert max(worst) <= 2
    assert np.mean(worst) < 1.1


def test_what_travels_with_an_export_computes_the_same():
    for pixels, (rows, columns), (_, _, right, bottom) in cases(100):
        high = proof._filtered(pixels, rows, bottom)
        theirs = proof._filtered(high.swapaxes(0, 1), columns, right).swapaxes(0, 1)
        np.testing.assert_array_equal(
            resampling.squash(pixels, (rows, columns), (0, 0, right, bottom)), theirs
        )


def test_one_colour_stays_that_colour():
    for level in (0, 1, 127, 128, 254, 255):
        plain = np.full((37, 53, 3), level, np.uint8)
        for size in ((224, 224), (16, 16), (37, 9), (1, 1)):
            assert (resampling.squash(plain, size) == level).all()


def test_nothing_to_do_copies_nothing():
    pixels = np.zeros((5, 7, 3), np.uint8)
    assert resampling.squash(pixels, (5, 7)) is pixels


def test_a_part_is_what_the_part_alone_gives_where_it_ends_between_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    # Enlarging sees no pixel beyond the neighbours of the part.
    part = resampling.squash(pixels, (80, 80), (10, 5, 50, 35))
    alone = resampling.squash(pixels[5:35, 10:50], (80, 80))
    np.testing.assert_array_equal(part[2:-2, 2:-2], alone[2:-2, 2:-2])


def test_many_threads_do_not_disturb_each_other():
    given = list(cases(60))
    expected = [resampling.squash(*case) for case in given]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda case: resampling.squash(*case), given * 5))
    for one, other in zip(found, expected * 5, strict=True):
        np.testing.assert_array_equal(one, other)


def test_images_are_the_same_where_the_fast_package_is_missing(monkeypatch):
    files = [*zoo.odd_images().values(), zoo.encode(zoo.photo(side=700), "JPEG")]
    expected = [image.examine(data, image.spec(96)) for data in files]
    monkeypatch.setattr(resampling, "fast", None)
    for data, before in zip(files, expected, strict=True):
        found = image.examine(data, image.spec(96))
        np.testing.assert_array_equal(found.example, before.example)
        np.testing.assert_array_equal(found.fingerprint, before.fingerprint)
