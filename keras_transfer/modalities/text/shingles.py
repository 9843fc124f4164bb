"""Which texts say the same, though their bytes differ."""

from __future__ import annotations

import hashlib

import numpy as np

HASHES = 128
BANDS = 32  # of four hashes each; two texts that share one are compared
NEIGHBOURS = 6  # how many followers in a band's order each text is compared with
LIKENESS = 0.7  # least share of equal hashes
BLOCK = 4096  # shingles hashed at once: 4 MB

_DRAWN = hashlib.shake_128(b"MinHash").digest(16 * HASHES)  # the same everywhere and for ever
_FACTORS, _OFFSETS = np.frombuffer(_DRAWN, "<u8").reshape(2, HASHES) | np.uint64(1)
_LEFT, _RIGHT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def fingerprint(tokens: np.ndarray) -> np.ndarray:
    """The MinHash of a text: uint8 ``[256]``.

    A. Z. Broder, "On the resemblance and containment of documents", 1997: the share of equal
    hashes estimates that of common shingles, here pairs of tokens that follow each other. Of each
    least hash 16 bits are kept (P. Li and A. C. König, "b-Bit Minwise Hashing", 2010).

    Args:
        tokens: uint64, at least two.
    """
    pairs = np.unique(tokens[:-1] * _LEFT + tokens[1:] * _RIGHT)
    least = np.full(HASHES, 2**64 - 1, np.uint64)
    for start in range(0, len(pairs), BLOCK):
        hashed = pairs[start : start + BLOCK, None] * _FACTORS + _OFFSETS
        least = np.minimum(least, hashed.min(axis=0))
    return (least >> np.uint64(16)).astype("<u2").view(np.uint8)


def near_copies(fingerprints: np.ndarray) -> np.ndarray:
    """Finds pairs of near copies: of other case or spacing, or with a few words changed.

    Texts that share a band are sorted by the next band and compared with the next few, so the work
    is linear in the number of texts, and bounded even where all are alike.

    Args:
        fingerprints: uint8, shape ``[texts, 256]``.

    Returns:
        int64, shape ``[pairs, 2]``, each pair once.
    """
    count = len(fingerprints)
    if count < 2:
        return np.empty((0, 2), np.int64)
    bands = np.ascontiguousarray(fingerprints).view("<u8")
    proposed = []
    for band, following in zip(bands.T, np.roll(bands, -1, axis=1).T, strict=True):
        order = np.lexsort((following, band))
        for step in range(1, min(NEIGHBOURS, count - 1) + 1):
            left, right = order[:-step], order[step:]
            same = band[left] == band[right]
            left, right = left[same], right[same]
            proposed.append(np.minimum(left, right) * count + np.maximum(left, right))
    pairs = np.stack(np.divmod(np.unique(np.concatenate(proposed)), count), axis=1)
    hashes = bands.view("<u2")
    alike = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        left, right = pairs[start : start + BLOCK].T
        alike[start : start + BLOCK] = (hashes[left] == hashes[right]).mean(axis=1)
    return pairs[alike >= LIKENESS]
