"""Which images show the same thing: exact copies by digest, near copies by perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MARGIN = 2  # levels by which neighbouring cells must differ to set a bit
NEIGHBOURS = 6  # how many followers in a band's order each image is compared with
TOLERANCE = 0.15  # greatest difference of any 3x3 cells, as a share of the thumbnails' contrast
MIN_CONTRAST = 6.0  # levels; flatter images hold too little to be recognised by


def near_pairs(thumbnails: np.ndarray) -> np.ndarray:
    """Finds pairs of near duplicates: copies encoded again, or at another size.

    A difference hash of 112 bits (is a cell of an 8x8 grid darker than its neighbour to the right,
    and below; N. Krawetz, "Kind of like that", 2013) proposes pairs: images that share one of its
    seven 16-bit bands are sorted by brightness and compared with the next few, so the work is
    linear in the number of images and bounded even where all are alike. A pair counts when nowhere
    the mean of 3x3 cells differs by more than 15 % of the contrast: encoding again spreads its
    errors over the whole image, while another expression of the same face is one large difference
    in one place. Crops, rotations and changes of colour are not found, and images with hardly any
    contrast are never near duplicates.

    How the 15 % were chosen: pairs found among images that are all distinct, and the share of their
    copies found (1,892 and 1,873 emoji of 64 px by two vendors, 200 random crops of two photos at
    300 px, 1,797 digits of 8 px):

    ====== ===================== =================== =================== ================= ========
    share  distinct emoji paired JPEG q90 and q50    WebP q70            half, double size photos
    ====== ===================== =================== =================== ================= ========
    0.08   1 and 1               .91 .49 and .98 .63 .82 and .89         .97 or more       1.00
    0.12   2 and 1               .98 .84 and .99 .93 .96 and .98         .99 or more       1.00
    0.15   4 and 4               .99 .94 and 1.0 .98 .99 and .99         .99 or more       1.00
    0.20   10 and 10             1.0 .99 and 1.0 1.0 1.0 and 1.0         1.0               1.00
    ====== ===================== =================== =================== ================= ========

    No digits are paired at any of these; of the crops six pairs, shifted by a few pixels, at 0.12
    and 0.15, and nine at 0.20. The root mean square over the whole thumbnail pairs three to four
    times as many distinct emoji for the same share of copies. Digits of 8 px change too much to be
    found again at another size. Among what is paired are flags that are the same (Norway's and
    Bouvet Island's).

    Args:
        thumbnails: uint8, shape ``[images, 16, 16, 3]``.

    Returns:
        int64, shape ``[pairs, 2]``, each pair once.
    """
    if len(thumbnails) < 2:
        return np.empty((0, 2), np.int64)
    cells = thumbnails.reshape(len(thumbnails), -1)
    contrast = cells.std(axis=1, dtype=np.float32)
    brightness = cells.mean(axis=1, dtype=np.float32)
    count = len(thumbnails)
    proposed = []
    for band in _bands(thumbnails).T:
        order = np.lexsort((brightness, band))
        for step in range(1, min(NEIGHBOURS, count - 1) + 1):
            left, right = order[:-step], order[step:]
            same = (band[left] == band[right]) & (contrast[left] >= MIN_CONTRAST)
            left, right = left[same], right[same]
            proposed.append(np.minimum(left, right) * count + np.maximum(left, right))
    # Most pairs share several bands; each is compared once.
    pairs = np.stack(np.divmod(np.unique(np.concatenate(proposed)), count), axis=1)
    limits = TOLERANCE * np.minimum(contrast[pairs[:, 0]], contrast[pairs[:, 1]])
    # 25 of the 196 boxes tell nearly all other images apart, for a tenth of the work.
    few = _boxes(thumbnails, 3)
    for boxes in (lambda rows: few[rows], lambda rows: _boxes(thumbnails[rows])):
        near = np.empty(len(pairs), bool)
        for start in range(0, len(pairs), 1024):  # what these need stays in a processor's cache
            these = slice(start, start + 1024)
            near[these] = _worst(*(boxes(rows) for rows in pairs[these].T)) <= limits[these]
        pairs, limits = pairs[near], limits[near]
    return pairs


def _boxes(thumbnails: np.ndarray, step: int = 1) -> np.ndarray:
    """Sums over boxes of 3x3 cells, one at every ``step``: int16 ``[images, rows, columns, 3]``."""
    cells = thumbnails.astype(np.int16)
    rows = cells[:, :-2:step] + cells[:, 1:-1:step] + cells[:, 2::step]
    return rows[:, :, :-2:step] + rows[:, :, 1:-1:step] + rows[:, :, 2::step]


def _worst(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each pair the root mean square over colours of boxes' mean difference, at its worst.

    Args:
        first, second: sums over boxes of 3x3 cells, int16, shape ``[pairs, height, width, 3]``.

    Returns:
        Levels, float32, shape ``[pairs]``.
    """
    squares = np.square(first - second, dtype=np.float32)
    # Three planes, since NumPy takes ten times as long to add along an axis of three.
    mean = (squares[..., 0] + squares[..., 1] + squares[..., 2]) / 3
    return np.sqrt(mean.max(axis=(1, 2))) / 9


def _bands(thumbnails: np.ndarray) -> np.ndarray:
    """The hash of each image as seven numbers: uint16, shape ``[images, 7]``."""
    grey = thumbnails.reshape(-1, 8, 2, 8, 2, 3).sum(axis=(2, 4, 5), dtype=np.int16) // 12
    right = grey[:, :, :-1] + MARGIN < grey[:, :, 1:]
    below = grey[:, :-1] + MARGIN < grey[:, 1:]
    bits = np.concatenate([right.reshape(-1, 56), below.reshape(-1, 56)], axis=1)
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
