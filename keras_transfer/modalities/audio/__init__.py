"""Sounds: float32 samples in -1..1, one channel, 16,000 a second, of one length.

One policy everywhere (training, evaluation, prediction, the export proof): channels are averaged,
other rates resampled by ``soxr``; a longer clip is cut at its end, and silence follows a shorter
one, as MediaPipe has it. The spectrogram is part of the network. ``soundfile`` decodes; reading
sounds needs no TensorFlow.
"""

# ruff: noqa: F401

from collections.abc import Mapping, Sequence
from typing import Any

from keras_transfer.modalities.audio.filterbank import adopted, entrance
from keras_transfer.modalities.audio.fingerprints import near_copies
from keras_transfer.modalities.audio.listening import (
    VERSION,
    decode,
    examine,
    peek,
    preview,
    size_of,
    spec,
    spec_of,
)
from keras_transfer.modalities.audio.playing import encode, excerpt, from_memory, show
from keras_transfer.modalities.audio.sounds import losses, suited
from keras_transfer.modalities.audio.views import mirroring_is_safe, view

NAME = "audio"
NOUN = "clip"
SIZE = "clip_length"
LITERAL = False
INPUT = "float32 samples, -1..1, one channel, 16 kHz, cut at the end or followed by silence"
EFFORTS: Mapping[str, Mapping[str, Any]] = {
    "quick": {"backbone": "SpeechEmbedding", "unfreeze": "none", "views": 1},
    "default": {"backbone": "SpeechEmbedding"},
    "high": {"backbone": "SpeechEmbedding", "fine_tune_epochs": 8, "views": 4},
}
"""By ``benchmarks/results/audio_tuning.md``."""
SUFFIXES: Mapping[str, str] = {
    **{".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG"},
    **{".mp3": "MP3", ".aif": "AIFF", ".aiff": "AIFF", ".aifc": "AIFF", ".au": "AU"},
    **{".caf": "CAF", ".w64": "W64"},
    **dict.fromkeys((".m4a", ".aac", ".wma"), ""),
}
SUFFIX = ".wav"
SEARCH: Mapping[str, Mapping[str, Any]] = {}
FINGERPRINT: tuple[int, ...] = (32, 32)
EXTENT = "length in milliseconds"
EXTENT_EDGES: Sequence[int] = (0, 250, 500, 1000, 2000, 4000, 8000, 16000, 60000)
