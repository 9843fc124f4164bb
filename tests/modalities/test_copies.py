from __future__ import annotations

import numpy as np
import zoo
from PIL import Image

from keras_transfer.modalities import image


def thumbnails(*encoded: bytes) -> np.ndarray:
    return np.stack([image.examine(data).fingerprint for data in encoded])


def pairs_of(stack: np.ndarray) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in image.near_copies(stack)}


def test_copies_encoded_again_or_resized_are_found():
    found = 0
    for seed in range(20):
        photo = zoo.photo(("china.jpg", "flower.jpg")[seed % 2], side=300, seed=seed)
        copies = (
            zoo.encode(photo, "PNG"),
            zoo.encode(photo, "JPEG", quality=50),
            zoo.encode(photo.resize((140, 160)), "WEBP", quality=70),
            zoo.encode(photo.resize((640, 640)), "JPEG"),
        )
        found += pairs_of(thumbnails(*copies)) >= {(0, 1), (0, 2), (0, 3)}
    assert found == 20


def test_other_images_are_not_found():
    photos = [zoo.encode(zoo.photo("china.jpg", seed=seed), "JPEG") for seed in range(40)]
    assert pairs_of(thumbnails(*photos)) == set()
    assert pairs_of(zoo.noise(300, side=16)) == set()


def test_digits_are_all_different():
    from keras_transfer.datasets.arrays import digits_source

    source = digits_source()
    stack = thumbnails(*(source.read(item.path) for item in source.items))
    assert pairs_of(stack) == set()


def test_emoji_are_told_apart_and_their_copies_are_found(emoji_noto):
    paths = sorted(emoji_noto.rglob("*.png"))[::4]
    whole = [Image.open(path).convert("RGB") for path in paths]
    stack = thumbnails(*(path.read_bytes() for path in paths))
    assert len(pairs_of(stack)) <= 2
    for least, copy in (
        (0.98, lambda image: zoo.encode(image, "JPEG", quality=90)),
        (0.98, lambda image: zoo.encode(image.resize((42, 42)), "PNG")),
        (0.98, lambda image: zoo.encode(image.resize((128, 128)), "JPEG", quality=85)),
        (0.9, lambda image: zoo.encode(image, "JPEG", quality=50)),
    ):
        both = np.concatenate([stack, thumbnails(*map(copy, whole))])
        found = pairs_of(both)
        count = len(paths)
        assert sum((i, i + count) in found for i in range(count)) >= least * count


def test_flat_images_are_never_near_duplicates():
    flat = [zoo.encode(Image.new("RGB", (32, 32), (9, 9, level)), "PNG") for level in (7, 7, 8)]
    assert pairs_of(thumbnails(*flat)) == set()


def test_work_is_bounded_where_all_images_are_alike():
    one = zoo.noise(1, side=16)
    assert len(image.near_copies(np.repeat(one, 5000, axis=0))) <= 5000 * 6


def test_no_images_at_all():
    assert image.near_copies(np.empty((0, 16, 16, 3), np.uint8)).shape == (0, 2)
    assert image.near_copies(zoo.noise(1, side=16)).shape == (0, 2)
