"""How long the sounds of a model are; what is odd about one, and what of it is not heard."""

import math
from collections.abc import Sequence

import numpy as np

from keras_transfer.base.types import Finding
from keras_transfer.modalities.protocol import InputSpec

USUAL = 10.0  # seconds that backbones of sounds take at most, unless another length is asked for
SILENT = 1e-3  # root mean square, -60 dB of full scale
FULL = 0.99  # of full scale: what two samples in a row have reached is cut off
CLIPPED = 1e-3  # share of such samples from which on it is said
OFFSET = 0.01  # of full scale, and OFFSET_SHARE of the root mean square
OFFSET_SHARE = 0.3
MARGIN = 0.5  # seconds
RATES = 4_000, 384_000  # samples a second that anything is recorded at


def cut_off(block: np.ndarray) -> int:
    """How many samples stand at full scale beside their like, as in waves with flat tops.

    Args:
        block: ``[samples, channels]``.
    """
    high = np.abs(block) >= FULL
    beyond = np.abs(block) > 1
    return int(beyond[:1].sum() + (high[1:] & (beyond[1:] | (block[1:] == block[:-1]))).sum())


def remarks(
    samples: np.ndarray, rate: int, peak: float, clipped: float
) -> tuple[tuple[str, str], ...]:
    """The kinds and reasons of what is odd about a sound.

    Args:
        samples: what was read, at the rate of models.
        rate: its own, in samples a second.
        peak: the largest level before it was cut to -1..1.
        clipped: the share of samples that ``cut_off`` counts.
    """
    found = []
    mean, power = float(samples.mean()), float(np.square(samples).mean())
    level, loud = abs(mean), power**0.5
    if loud < SILENT:
        decibels = f"{20 * np.log10(loud):.0f} dB of full scale" if loud else "nothing but zeros"
        found.append(("silence", f"{decibels} on average"))
    elif level > max(OFFSET, OFFSET_SHARE * loud):
        found.append(("offset", f"{mean:+.3f} of full scale on average, where sounds have 0"))
    if clipped >= CLIPPED:
        levels = f"levels up to {peak:.4g}" if peak > 1 else "the waves have flat tops"
        found.append(("clipping", f"{clipped:.1%} of its samples are at full scale: {levels}"))
    if not RATES[0] <= rate <= RATES[1]:
        found.append(("odd_rate", f"{rate:,} samples a second, by its header"))
    return tuple(found)


def suited(sizes: Sequence[float], own: float) -> float:
    """The length to train at: 95 of 100 clips stay whole, with half a second of silence beside
    them, since a network knows a sound best that does not fill all it hears.

    Args:
        sizes: the lengths of some clips in seconds; ``own`` counts where there are none.
        own: the longest that suits the backbone.

    Returns:
        Whole quarters of a second, at least 1.25 s, unless ``own`` is less.
    """
    wanted = float(np.percentile(sizes, 95)) + MARGIN if len(sizes) else own
    return min(own, max(1.25, math.ceil(4 * wanted) / 4))


def losses(
    extents: Sequence[int], unknown: int, spec: InputSpec | None, some: Sequence[int]
) -> list[Finding]:
    """How much of a set's sounds is cut off at a length.

    Args:
        extents: the length of each clip in milliseconds.
        unknown: nothing; sounds have no vocabulary.
        spec: of the model; by default what ``suited`` finds by ``some``.
        some: the milliseconds of the clips by which the length is chosen.
    """
    wanted = suited([one / 1000 for one in some], USUAL)
    size = spec.shape[0] / 16 if spec else 1000 * wanted
    lengths = np.array(extents, np.int64)
    long = lengths[lengths > size]
    if not len(long):
        return []
    count = f"{len(long):,} of {len(lengths):,} clips are longer than {size / 1000:g} s"
    share = (long - size).sum() / lengths.sum()
    lost = f"the longest {long.max() / 1000:,.1f} s; {share:.1%} of all sound is cut off"
    return [Finding("", "cut", f"{count}, {lost}", "the beginning is heard")]
