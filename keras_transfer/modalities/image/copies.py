"""Which images show the same thing, though their bytes differ."""

import numpy as np

from keras_transfer.modalities.neighbours import alike_neighbours

MARGIN = 2  # levels by which neighbouring cells must differ to set a bit
TOLERANCE = 0.15  # greatest difference of any 3x3 cells, as a share of the thumbnails' contrast
BLOCK = 8192  # thumbnails looked at at once
MIN_CONTRAST = 6.0  # levels; flatter images hold too little to be recognised by


def near_copies(fingerprints: np.ndarray) -> np.ndarray:
    """Finds pairs of near copies: encoded again, or at another size.

    A difference hash of 112 bits (is a cell of an 8x8 grid darker than its neighbour to the right,
    and below; N. Krawetz, "Kind of like that", 2013) proposes pairs: of images that share one of
    its seven 16-bit bands, those of nearly the same brightness. A pair counts when nowhere the mean
    of 3x3 cells differs by more than 15 % of the contrast: encoding again spreads its errors over
    the whole image, while another expression of the same face is one large difference in one place.
    Crops, rotations and changes of colour are not found, and images with hardly any contrast are
    never near copies.

    Args:
        fingerprints: thumbnails, uint8, shape ``[images, 16, 16, 3]``.

    Returns:
        int64, shape ``[pairs, 2]``, each pair once.
    """
    count = len(fingerprints)
    contrast, brightness = np.empty((2, count), np.float32)
    bands = np.empty((count, 7), np.uint16)
    for start in range(0, count, BLOCK):
        these = slice(start, start + BLOCK)
        cells = fingerprints[these].reshape(-1, 768)
        contrast[these] = cells.std(axis=1, dtype=np.float32)
        brightness[these] = cells.mean(axis=1, dtype=np.float32)
        bands[these] = _bands(fingerprints[these])

    def alike(pairs: np.ndarray) -> np.ndarray:
        least = contrast[pairs].min(axis=1)
        near = np.flatnonzero(least >= MIN_CONTRAST)
        for step in (3, 1):  # 25 of the 196 boxes tell nearly all apart, for a tenth of the work
            first, second = (_boxes(fingerprints[rows], step) for rows in pairs[near].T)
            near = near[_worst(first, second) <= TOLERANCE * least[near]]
        return np.isin(np.arange(len(pairs)), near)

    return alike_neighbours(bands, np.broadcast_to(brightness[:, None], bands.shape), alike)


def _boxes(thumbnails: np.ndarray, step: int) -> np.ndarray:
    """Sums over boxes of 3x3 cells, one at every ``step``: int16 ``[images, rows, columns, 3]``."""
    cells = thumbnails.astype(np.int16)
    rows = cells[:, :-2:step] + cells[:, 1:-1:step] + cells[:, 2::step]
    return rows[:, :, :-2:step] + rows[:, :, 1:-1:step] + rows[:, :, 2::step]


def _worst(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each pair the root mean square over colours of boxes' mean difference, at its worst, in
    levels, float32 ``[pairs]``; given are sums over boxes of 3x3 cells, int16 ``[pairs, height,
    width, 3]``.
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
