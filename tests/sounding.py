"""Sounds to test with, and files of them."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import soundfile

RATE = 16_000

FORMS = {
    "WAV": ("WAV", "PCM_16"), "WAV of 8 bits": ("WAV", "PCM_U8"), "24 bits": ("WAVEX", "PCM_24"),
    "64-bit floating point": ("WAV", "DOUBLE"), "FLAC": ("FLAC", "PCM_24"),
    "Vorbis": ("OGG", "VORBIS"), "Opus": ("OGG", "OPUS"), "MP3": ("MP3", "MPEG_LAYER_III"),
    "AIFF": ("AIFF", "PCM_16"), "AU": ("AU", "ULAW"), "ALAC": ("CAF", "ALAC_16"),
    "Wave64": ("W64", "PCM_16"), "A-law": ("WAV", "ALAW"), "ADPCM": ("WAV", "IMA_ADPCM"),
}  # fmt: skip
"""Formats and codecs, as libsndfile calls them."""


def melody(seed: int, seconds: float = 0.6, rate: int = RATE) -> np.ndarray:
    """Notes that come and go, under some noise: float64 in -0.8..0.8."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.01 * random.standard_normal(len(time))
    for start, pitch in itertools.product(np.arange(0, seconds, 0.1), random.uniform(200, 3000, 3)):
        since = np.maximum(0, time - start - random.uniform(0, 0.1))
        bent = pitch * 2 ** random.uniform(-1, 1)
        sound += np.exp(-since * 20) * np.sin(2 * np.pi * bent * since)
    return 0.8 * sound / np.abs(sound).max()


def written(samples: np.ndarray, rate: int = RATE, form: str = "WAV", **options: Any) -> bytes:
    """A file of one of ``FORMS``."""
    stream = io.BytesIO()
    container, codec = FORMS[form]
    soundfile.write(stream, samples, rate, format=container, subtype=codec, **options)
    return stream.getvalue()
