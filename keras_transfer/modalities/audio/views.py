"""Augmented views of sounds: moved, louder or softer, under noise, with parts left out."""

import hashlib
from collections.abc import Sequence

import numpy as np

SHIFT = 0.1  # of the clip, at strength 1: earlier or later by at most so much
GAIN = 6.0  # dB, up or down
NOISE = (15.0, 45.0)  # dB by which the clip is louder than white noise, at strength 1
MASK = 0.1  # of the clip, and of the band: the longest that is left out (Park et al. 2019)


def view(
    examples: np.ndarray,
    digests: Sequence[str],
    number: int,
    *,
    seed: int = 0,
    strength: float = 1.0,
    flip: bool = True,
) -> np.ndarray:
    """Draws one augmented view of each clip.

    Args:
        examples: float32 samples, shape ``[clips, samples]``.
        digests: one content digest a clip: with ``number`` and ``seed`` it alone decides what is
            drawn, so that neither the order nor the other clips matter.
        number: 0 gives the samples unchanged; every other number another draw.
        seed: of the draws.
        strength: 0 to 3, multiplies how far things change.
        flip: has no meaning for sounds.

    Returns:
        float32, the shape of ``examples``; ``examples`` itself for view 0.
    """
    if number == 0:
        return examples
    drawn = [
        _drawn(clip, strength, f"{digest}:{number}:{seed}")
        for clip, digest in zip(examples, digests, strict=True)
    ]
    return np.stack(drawn) if drawn else examples


def _drawn(clip: np.ndarray, strength: float, key: str) -> np.ndarray:
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))
    moved = _shifted(clip, round(random.uniform(-1, 1) * strength * SHIFT * len(clip)))
    if not moved.any():
        return moved
    spectrum = np.fft.rfft(moved)
    spectrum[_part(len(spectrum), strength * MASK, random)] = 0
    heard = np.fft.irfft(spectrum, len(clip))
    heard[_part(len(clip), strength * MASK, random)] = 0
    noise = strength * random.standard_normal(len(clip)) * np.sqrt(np.mean(np.square(clip)))
    heard += noise * 10 ** (-random.uniform(*NOISE) / 20)
    heard *= 10 ** (random.uniform(-1, 1) * strength * GAIN / 20)
    # Silence around a clip stays silence: by it a network finds the middle.
    first, last = np.flatnonzero(moved)[[0, -1]]
    heard[:first], heard[last + 1 :] = 0, 0
    return np.clip(heard, -1, 1).astype(np.float32)


def _shifted(clip: np.ndarray, by: int) -> np.ndarray:
    """Later by so many samples, or earlier; silence moves in."""
    moved = np.roll(clip, by)
    moved[: max(by, 0)] = 0
    moved[len(clip) + min(by, 0) :] = 0
    return moved


def _part(length: int, share: float, random: np.random.Generator) -> slice:
    """A stretch of at most so much of a length."""
    size = int(random.uniform(0, share) * length)
    start = int(random.uniform(0, length - size))
    return slice(start, start + size)


def mirroring_is_safe(
    examples: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> tuple[bool, str]:
    """Sounds are never mirrored, and nothing is said of it."""
    return False, ""
