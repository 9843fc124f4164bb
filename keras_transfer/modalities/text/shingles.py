"""Which texts say the same, though their bytes differ."""

import hashlib

import numpy as np

from keras_transfer.modalities.neighbours import alike_neighbours

HASHES = 128
BANDS = 32  # of four hashes each; two texts that share one are compared
LIKENESS = 0.75  # least share of equal hashes: one word of thirty changed leaves 0.88
BLOCK = 4096  # shingles hashed at once: 4 MB

_DRAWN = hashlib.shake_128(b"MinHash").digest(16 * HASHES)  # the same everywhere and for ever
_FACTORS, _OFFSETS = np.frombuffer(_DRAWN, "<u8").reshape(2, HASHES) | np.uint64(1)
_LEFT, _RIGHT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def fingerprint(tokens: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The MinHash of a text: uint8 ``[256]``.

    A. Z. Broder, "On the resemblance and containment of documents", 1997: the share of equal
    hashes estimates that of common shingles, here pairs of words that follow each other. Of each
    least hash 16 bits are kept (P. Li and A. C. König, "b-Bit Minwise Hashing", 2010).

    Args:
        tokens: uint64, [CLS] and [SEP] among them.
        words: of which word each is a piece, -1 at both ends.
    """
    mixed = tokens * _LEFT
    pieces = (mixed ^ (mixed >> np.uint64(32))) * _RIGHT
    whole = np.add.reduceat(pieces, np.flatnonzero(np.diff(words, prepend=-2)))
    pairs = np.unique(whole[:-1] * _LEFT + whole[1:])
    least = np.full(HASHES, 2**64 - 1, np.uint64)
    for start in range(0, len(pairs), BLOCK):
        hashed = pairs[start : start + BLOCK, None] * _FACTORS + _OFFSETS
        least = np.minimum(least, hashed.min(axis=0))
    return (least >> np.uint64(16)).astype("<u2").view(np.uint8)


def near_copies(fingerprints: np.ndarray) -> np.ndarray:
    """Finds pairs of near copies: of other case or spacing, or with a few words changed.

    Texts that share a band are sorted by the next band, see ``alike_neighbours``.

    Args:
        fingerprints: uint8, shape ``[texts, 256]``.

    Returns:
        int64, shape ``[pairs, 2]``, each pair once.
    """
    bands = np.ascontiguousarray(fingerprints).view("<u8")
    hashes = bands.view("<u2")

    def alike(pairs: np.ndarray) -> np.ndarray:
        left, right = pairs.T
        return (hashes[left] == hashes[right]).mean(axis=1) >= LIKENESS

    return alike_neighbours(bands, np.roll(bands, -1, axis=1), alike)
