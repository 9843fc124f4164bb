"""From the bytes of a sound file to samples."""

import contextlib
import functools
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.base.errors import ExampleError, UsageError
from keras_transfer.modalities.audio.fingerprints import fingerprint
from keras_transfer.modalities.audio.sounds import cut_off, remarks
from keras_transfer.modalities.protocol import Examined, InputSpec

VERSION = 1

RATE = 16_000  # samples a second that models take
SHORTEST, LONGEST = 0.8, 30  # seconds that a model may take
SHOWN = 4  # seconds that a page plays where there is no model
MIN_SECONDS = 0.02  # a shorter clip is not for training
MAX_SECONDS = 7_200
MAX_BYTES = 2**28
MAX_CHANNELS = 64
RATES = 1_000, 1_000_000  # samples a second between which resampling makes sense
BLOCK = 2**21  # samples decoded at once, of all channels: 8 MiB

UNKNOWN_FORMAT, SYSTEM_ERROR = 1, 2  # libsndfile's codes of these errors
ENDLESS = 2**63 - 1  # frames, by libsndfile, of a FLAC whose header leaves the number out
PROMISE = r"(?im)^ *(?:rif[fx](?: size)?|data(?: size)?|form|ssnd) *: (\d+) \(should be (\d+)\)"
"""What libsndfile notes of a size that does not fit: bytes by the header, and those there are."""
SLACK = 64  # bytes that a header may promise beyond the end: some count themselves
UNSAID = 2**31 - 64  # bytes from which on a header means that it was written before the sound

FORMATS = {
    **{"WAV": "WAV", "WAVEX": "WAV", "RF64": "WAV", "W64": "W64", "AIFF": "AIFF", "AU": "AU"},
    **{"FLAC": "FLAC", "OGG": "OGG", "MP3": "MP3", "CAF": "CAF"},
}
"""What libsndfile calls the formats that may be read, and what they are called here."""

LOOKALIKES = {
    rb"(?i)\s*(<!doctype html|<html)": "an HTML page, not a sound",
    rb"(?s)....ftyp": "an MP4 or M4A file; convert it to FLAC",
    rb"\x1a\x45\xdf\xa3": "a WebM or Matroska file; convert it to FLAC",
    rb"\x30\x26\xb2\x75": "a WMA file; convert it to FLAC",
    rb"#!AMR": "an AMR file; convert it to FLAC",
}
"""What no decoder knows may yet be known by its beginning."""


class Heard(NamedTuple):
    """A sound that was read.

    Attributes:
        samples: float32 in -1..1, at ``RATE``: its beginning, or all of it.
        seconds: how long it is as a whole.
        rate: its own, in samples a second.
        format: one of ``FORMATS``.
        peak: the largest level that was read, before it was cut to -1..1.
        clipped: the share of what was read that is cut off, see ``sounds.cut_off``.
    """

    samples: np.ndarray
    seconds: float
    rate: int
    format: str
    peak: float
    clipped: float


def spec(size: Any) -> InputSpec:
    """The input of a model for sounds of ``size`` seconds.

    Raises:
        UsageError: it is no number from ``SHORTEST`` to ``LONGEST``.
    """
    if not isinstance(size, (int, float)) or not SHORTEST <= size <= LONGEST:
        problem = f"the length of clips must be {SHORTEST} to {LONGEST} s. Received: {size!r}"
        raise UsageError(problem, remedy="Give a number of seconds, such as 1.5.")
    return _spec(round(size * RATE))


def _spec(count: int) -> InputSpec:
    content = f"{count / RATE:g} s of mono sound at {RATE:,} samples a second, -1 to 1, 0 behind"
    return InputSpec("samples", (count,), "float32", content)


def spec_of(shape: Sequence[Any], dtype: str) -> InputSpec | None:
    """The input that takes float32 ``[samples]``; None for any other shape or type."""
    known = len(shape) == 1 and None not in shape and dtype == "float32"
    return _spec(int(shape[0])) if known and SHORTEST <= shape[0] / RATE <= LONGEST else None


def size_of(shape: Sequence[int]) -> float:
    """The seconds that so many samples last."""
    return shape[0] / RATE


def preview(spec: InputSpec | None) -> InputSpec:
    """What pages decode to: what the model takes, or ``SHOWN`` seconds."""
    return spec or _spec(SHOWN * RATE)


def decode(data: bytes, spec: InputSpec | None = None) -> np.ndarray:
    """Decodes one sound file.

    Args:
        data: WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF or W64, as libsndfile reads them.
        spec: at whose length it is cut, or filled with 0; None keeps its own. No more of it is
            decoded than that takes.

    Returns:
        float32, shape ``[samples]``: the mean of all channels, at ``RATE``, in -1..1.

    Raises:
        ExampleError: the bytes are no sound, a damaged one, or one of more than ``MAX_SECONDS``.
    """
    return read(data).samples if spec is None else _filled(read(data, spec.shape[0]).samples, spec)


def examine(data: bytes, spec: InputSpec | None = None) -> Examined:
    """As ``decode``, with the fingerprint of ``fingerprints`` and the length in milliseconds.

    All is said of the first ``LONGEST`` seconds: no model hears what is behind them.

    Raises:
        ExampleError: as ``decode``; and it is shorter than ``MIN_SECONDS``.
    """
    heard = read(data, LONGEST * RATE)
    if heard.seconds < MIN_SECONDS:
        reason = f"{1000 * heard.seconds:.2g} ms of sound: under {1000 * MIN_SECONDS:g} ms"
        raise ExampleError(reason, kind="too_small")
    example = None if spec is None else _filled(heard.samples, spec)
    said = remarks(heard.samples, heard.rate, heard.peak, heard.clipped)
    extent = math.ceil(1000 * heard.seconds)
    return Examined(example, fingerprint(heard.samples), heard.format, extent, remarks=said)


def peek(data: bytes) -> float:
    """Its length in seconds, from the header alone."""
    with _open(data) as sound:
        return sound.frames / sound.samplerate


def read(data: bytes, count: int = MAX_SECONDS * RATE) -> Heard:
    """The beginning of a sound.

    Block by block through one resampler, so that no sound needs more memory than what is asked of
    it, and what comes does not depend on how much is asked for.

    Args:
        data: a sound file.
        count: how many samples, at ``RATE``, are enough.

    Raises:
        ExampleError: it cannot be read.
    """
    with reading(data) as sound:
        return _heard(sound, count)


@contextlib.contextmanager
def reading(data: bytes) -> Iterator[Any]:
    """An open ``soundfile.SoundFile``; whatever goes wrong with it is an ExampleError."""
    with _open(data) as sound:
        try:
            yield sound
        except ExampleError:
            raise
        except Exception as error:
            raise ExampleError(_reason(error)) from None


def _heard(sound: Any, count: int) -> Heard:
    rate = sound.samplerate
    stream = libraries()[1].ResampleStream(rate, RATE, 1, "float32", "HQ")
    pieces, frames, made, peak, clipped = [], 0, 0, 0.0, 0
    while made < count and frames < sound.frames:
        block = sound.read(BLOCK // sound.channels, "float32", always_2d=True)
        frames += len(block)
        if not len(block):
            reason = f"it ends after {frames:,} of {sound.frames:,} samples"
            raise ExampleError(reason, kind="truncated")
        mono = block.mean(axis=1)
        if not np.isfinite(mono).all():
            raise ExampleError("levels that are not finite numbers")
        peak, clipped = max(peak, float(np.abs(block).max())), clipped + cut_off(block)
        last = frames >= sound.frames
        pieces.append(mono if rate == RATE else stream.resample_chunk(mono, last))
        made += len(pieces[-1])
    samples = np.clip(np.concatenate(pieces)[:count], -1, 1)
    share = clipped / (frames * sound.channels)
    return Heard(samples, sound.frames / rate, rate, FORMATS[sound.format], peak, share)


def _open(data: bytes) -> Any:
    """Reads the header, and refuses what no decoder should be let loose on."""
    soundfile, _ = libraries()
    if not data:
        raise ExampleError("empty file", kind="empty")
    if len(data) > MAX_BYTES:
        raise ExampleError(f"{len(data):,} bytes: over {MAX_BYTES:,} of sound", kind="bomb")
    try:
        sound = soundfile.SoundFile(_Bytes(data))
    except Exception as error:
        known = (said for start, said in LOOKALIKES.items() if re.match(start, data[:512]))
        kind = "not_a_sound" if getattr(error, "code", 0) == UNKNOWN_FORMAT else "unreadable"
        raise ExampleError(next(known, _reason(error)), kind=kind) from None
    _check(sound)
    return sound


def _check(sound: Any) -> None:
    """Refuses what cannot be meant, by the header."""
    rate, frames = sound.samplerate, sound.frames
    if sound.format not in FORMATS:
        raise ExampleError(f"{sound.format_info}: convert it to FLAC", kind="not_a_sound")
    if frames <= 0:
        raise ExampleError("no samples in it", kind="empty")
    if frames == ENDLESS:
        raise ExampleError("its header does not say how long it is; encode it again")
    if not RATES[0] <= rate <= RATES[1]:
        raise ExampleError(f"{rate:,} samples a second, by its header")
    if sound.channels > MAX_CHANNELS:
        raise ExampleError(f"{sound.channels:,} channels: over {MAX_CHANNELS}", kind="bomb")
    if frames > MAX_SECONDS * rate:
        reason = f"{frames / rate:,.0f} s: over {MAX_SECONDS:,} of sound"
        raise ExampleError(reason, kind="bomb")
    said = sound.extra_info
    for promised, there in re.findall(PROMISE, said):
        if int(there) + SLACK < int(promised) < UNSAID:
            reason = f"{int(promised):,} bytes are promised, {int(there):,} are there"
            raise ExampleError(reason, kind="truncated")
    if re.search("lacks an end-of-stream bit|Junk after the last page", said):
        raise ExampleError("the stream has no end", kind="truncated")


class _Bytes(io.BytesIO):
    """Stays where it is when a damaged header points before the beginning."""

    def seek(self, offset: int, whence: int = 0) -> int:
        with contextlib.suppress(ValueError):
            super().seek(offset, whence)
        return self.tell()


def _reason(error: Exception) -> str:
    """What libsndfile said of a sound; what it takes for the system's fault is the sound's."""
    said = getattr(error, "error_string", "") or str(error) or type(error).__name__
    damaged = getattr(error, "code", 0) == SYSTEM_ERROR
    return "damaged" if damaged else said.strip().rstrip(".").lower()


@functools.cache
def libraries() -> tuple[Any, Any]:
    """The modules soundfile and soxr. Raises UsageError where one of them is absent."""
    try:
        import soundfile
        import soxr
    except (ImportError, OSError):  # the latter where libsndfile is missing
        problem = "sounds need the packages soundfile and soxr, which are not installed."
        raise UsageError(problem, remedy="pip install keras-transfer[audio]") from None
    return soundfile, soxr


def _filled(samples: np.ndarray, spec: InputSpec) -> np.ndarray:
    example = np.zeros(spec.shape, np.float32)
    part = samples[: len(example)]
    example[: len(part)] = part
    return example
