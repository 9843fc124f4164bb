"""Which images show the same thing: exact copies by digest, near copies by perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MARGIN = 2  # levels by which neighbouring cells must differ to set a bit
NEIGHBOURS = 6  # how many followers in a band's order each image is compared with
TOLERANCE = 0.08  # root mean square difference of two thumbnails, as a share of their contrast
MIN_CONTRAST = 6.0  # levels; flatter images hold too little to be recognised by


def near_pairs(thumbnails: np.ndarray) -> np.ndarray:
    """Finds pairs of near duplicates: copies encoded again, or at another size.

    Each thumbnail gives a difference hash of 128 bits (is a cell darker than its neighbour to the
    right, and below; N. Krawetz, "Kind of like that", 2013). Images that share one of its eight
    16-bit bands are sorted by brightness and compared with the next few, so the work is linear in
    the number of images and bounded even where all are alike. A pair counts when its thumbnails
    differ by less than 8 % of their contrast. Crops, rotations and changes of colour are not
    found, and images with hardly any contrast are never near duplicates.

    Args:
        thumbnails: uint8, shape ``[images, 9, 9, 3]``.

    Returns:
        int64, shape ``[pairs, 2]``, each pair once.
    """
    if len(thumbnails) < 2:
        return np.empty((0, 2), np.int64)
    cells = thumbnails.reshape(len(thumbnails), -1)
    contrast = cells.std(axis=1, dtype=np.float32)
    brightness = cells.mean(axis=1, dtype=np.float32)
    bands = _bands(thumbnails)
    pairs = [np.empty((0, 2), np.int64)]
    for band in bands.T:
        order = np.lexsort((brightness, band))
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            left, right = order[:-step], order[step:]
            same = (band[left] == band[right]) & (contrast[left] >= MIN_CONTRAST)
            left, right = left[same], right[same]
            for start in range(0, len(left), 8192):
                a, b = left[start : start + 8192], right[start : start + 8192]
                difference = cells[a].astype(np.float32) - cells[b]
                distance = np.sqrt(np.square(difference).mean(axis=1))
                near = distance <= TOLERANCE * np.minimum(contrast[a], contrast[b])
                pairs.append(np.sort(np.stack([a[near], b[near]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _bands(thumbnails: np.ndarray) -> np.ndarray:
    """The hash of each image as eight numbers: uint16, shape ``[images, 8]``."""
    grey = thumbnails.astype(np.int16).sum(axis=3) // 3
    right = grey[:, :8, :8] + MARGIN < grey[:, :8, 1:]
    below = grey[:, :8, :8] + MARGIN < grey[:, 1:, :8]
    bits = np.concatenate([right.reshape(-1, 64), below.reshape(-1, 64)], axis=1)
    return np.packbits(bits, axis=1).view(np.uint16)


def components(count: int, pairs: np.ndarray) -> list[int]:
    """Gives each of ``count`` nodes a number that its connected component alone has."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]  # halves the path
            node = parent[node]
        return node

    for first, second in pairs.tolist():
        parent[root(first)] = root(second)
    return [root(node) for node in range(count)]


def chain(keys: Sequence[str | None]) -> np.ndarray:
    """Pairs that link equal keys, one after the other; None links nothing."""
    last: dict[str, int] = {}
    pairs = []
    for i, key in enumerate(keys):
        if key is not None:
            if key in last:
                pairs.append((last[key], i))
            last[key] = i
    return np.array(pairs, np.int64).reshape(-1, 2)


def group_names(
    digests: Sequence[str], groups: Sequence[str | None], near: np.ndarray
) -> list[str]:
    """Names the group of each image: those that may never be in different splits.

    A group is held together by equal digests, by near duplicates, and by the source's own groups.
    Its name is the first of its source groups, or else the first of its digests, by order of text.

    Args:
        digests: of each image's bytes.
        groups: the source's own group of each image, or None.
        near: pairs of near duplicates.
    """
    pairs = np.concatenate([chain(digests), chain(groups), near.reshape(-1, 2)])
    component = components(len(digests), pairs)
    names: dict[int, str] = {}
    for number, digest, group in zip(component, digests, groups, strict=True):
        # A source's group sorts before a digest, so that adding images does not rename it.
        name = f"group {group}" if group is not None else f"image {digest}"
        names[number] = min(name, names.get(number, name))
    return [names[number] for number in component]
