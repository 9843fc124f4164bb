"""Which recordings are the same one, though their bytes differ."""

import hashlib

import numpy as np

from keras_transfer.modalities.neighbours import alike_neighbours

WINDOW = 1024  # samples: 64 ms
MOMENTS, BANDS = 32, 32  # cells of the picture of a sound, over its whole length
CELL = 512  # samples between windows of one cell, at most
EDGES = np.geomspace(10, 218, BANDS + 1).round().astype(int)  # of 15.6 Hz: 156 Hz to 3.4 kHz
DEEP = 1e-3  # power below the loudest cell's at which everything is as silent
FLAT = 0.2  # decibels; what varies less has nothing to be recognised by
STEP = 32  # levels to a standard deviation

WORDS = 16  # of sixteen bits each; two sounds that share one are compared
LIKENESS = 0.96  # least correlation
BLOCK = 4096

_HANN = np.hanning(WINDOW).astype(np.float32)
_BITS = np.frombuffer(hashlib.shake_128(b"planes").digest(MOMENTS * BANDS * WORDS * 2), np.uint8)
_PLANES = np.unpackbits(_BITS).reshape(MOMENTS * BANDS, WORDS * 16) * np.float32(2) - 1


def fingerprint(samples: np.ndarray) -> np.ndarray:
    """A picture of a sound that neither its gain nor its encoding changes much: uint8 ``[32, 32]``.

    The levels in decibels of 32 bands at 32 moments, without the mean of each band and of each
    moment: what is left is how this one recording goes, even of a machine that always sounds the
    same. Silence and steady tones leave nothing.

    Args:
        samples: float32 at 16 kHz.
    """
    often = max(1, round(len(samples) / MOMENTS / CELL))
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    starts = np.linspace(0, len(padded) - WINDOW, MOMENTS * often).astype(int)
    windows = padded[starts[:, None] + np.arange(WINDOW)] * _HANN
    power = np.add.reduceat(np.abs(np.fft.rfft(windows)) ** 2, EDGES, axis=1)[:, :-1]
    cells = power.reshape(MOMENTS, often, BANDS).mean(axis=1)
    levels = 10 * np.log10(np.maximum(cells, DEEP * cells.max()) + 1e-12)
    levels -= levels.mean(axis=0)
    levels -= levels.mean(axis=1, keepdims=True)
    spread = levels.std()
    if spread < FLAT:
        return np.full((MOMENTS, BANDS), 128, np.uint8)
    return np.clip(np.rint(levels / spread * STEP) + 128, 0, 255).astype(np.uint8)


def near_copies(fingerprints: np.ndarray) -> np.ndarray:
    """Finds pairs of near copies: encoded again, louder, or at another rate.

    On which side of 256 random planes a picture lies (M. S. Charikar, "Similarity estimation
    techniques from rounding algorithms", 2002) proposes pairs; one counts when the pictures
    correlate. Parts of a recording that begin at other moments are not found.

    Args:
        fingerprints: uint8, shape ``[sounds, 32, 32]``.

    Returns:
        int64, shape ``[pairs, 2]``, each pair once.
    """
    cells = fingerprints.reshape(len(fingerprints), MOMENTS * BANDS)
    words = np.empty((len(cells), WORDS), np.uint16)
    for start in range(0, len(cells), BLOCK):
        sides = _centred(cells[start : start + BLOCK]) @ _PLANES > 0
        words[start : start + BLOCK] = np.packbits(sides, axis=1).view(np.uint16)

    def alike(pairs: np.ndarray) -> np.ndarray:
        left, right = (_centred(cells[rows]) for rows in pairs.T)
        return (left * right).sum(axis=1) >= LIKENESS

    return alike_neighbours(words, np.roll(words, -1, axis=1), alike)


def _centred(cells: np.ndarray) -> np.ndarray:
    """Pictures about 0, of length 1: float32. Flat ones are 0."""
    levels = cells.astype(np.float32) - 128
    return levels / np.maximum(1, np.linalg.norm(levels, axis=1, keepdims=True))
