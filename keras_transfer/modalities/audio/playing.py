"""From samples in memory to the bytes of a file, and to what a page plays and shows."""

import base64
import html
import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_transfer.base.errors import DataError, ExampleError
from keras_transfer.modalities.audio.listening import MAX_CHANNELS, RATE, libraries, reading

WIDTH, HEIGHT = 240, 80  # pixels of a spectrogram
SHORTEST = 1_600  # samples
WINDOW, FOURIER = 512, 2048  # samples; the latter makes the low frequencies of the picture smooth
LOW, HIGH = 60, 7_800  # hertz, at the bottom and the top of the picture
DEEP = 70  # decibels below the loudest that are black
QUIETEST = 1e-12  # power
LATE = 0.1  # seconds behind the end of a sound up to which a segment's end is one
MOST = 2**27  # samples of a segment, of all channels: 512 MiB


def from_memory(values: Any) -> Sequence[Any]:
    """Checks clips: int16, or floating point in -1..1.

    Args:
        values: arrays ``[samples]`` or ``[samples, channels]`` at 16 kHz, or pairs of one and its
            rate in samples a second.

    Returns:
        A pair of int16 or float32 ``[samples]`` and its rate for each.

    Raises:
        DataError: shapes, types or levels that are none of these.
    """
    return [_mono(value, i) for i, value in enumerate(values)]


def _mono(value: Any, i: int) -> tuple[np.ndarray, int]:
    given, rate = value if isinstance(value, tuple) and len(value) == 2 else (value, RATE)
    samples = np.asarray(given)
    channels = samples.shape[1] if samples.ndim == 2 else 1
    if samples.ndim not in (1, 2) or not 0 < channels <= min(len(samples), MAX_CHANNELS):
        problem = f"clip {i} has the shape {samples.shape}."
        raise DataError(problem, remedy="Give [samples], or [samples, channels].")
    if samples.dtype.kind != "f" and samples.dtype != np.int16:
        problem = f"clip {i} is {samples.dtype}."
        raise DataError(problem, remedy="Give int16, or floating point from -1 to 1.")
    if samples.dtype != np.int16 and not np.abs(samples).max() <= 1:
        problem = f"clip {i} has levels up to {np.abs(samples).max():g}."
        raise DataError(problem, remedy="Divide by what is full scale, so that all are in -1..1.")
    if not isinstance(rate, (int, np.integer)) or not 0 < rate < 2**28:
        problem = f"clip {i} has the rate {rate!r}."
        raise DataError(problem, remedy="Give samples a second as an integer.")
    if samples.ndim == 1 and samples.dtype == np.int16:
        return samples, int(rate)
    scaled = samples / 2**15 if samples.dtype == np.int16 else samples
    return scaled.reshape(len(samples), -1).mean(axis=1).astype(np.float32), int(rate)


def encode(value: Any) -> bytes:
    """Encodes as an uncompressed WAV, byte for byte the same on every machine.

    What libsndfile writes of floating point holds the time of day.

    Args:
        value: int16 or float32 ``[samples]`` at 16 kHz, or a pair of one and its rate.
    """
    samples, rate = value if isinstance(value, tuple) else (value, RATE)
    form, size, kind = (1, 2, "<i2") if samples.dtype == np.int16 else (3, 4, "<f4")
    raw = samples.astype(kind).tobytes()
    about = form, 1, rate, rate * size, size, 8 * size, b"data", len(raw)
    head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(raw), b"WAVEfmt ", 16, *about)
    return head + raw


def excerpt(data: bytes, start: float, end: float | None) -> bytes:
    """A segment of a sound as a WAV file: its channels' mean, at its own rate.

    Args:
        data: a sound file.
        start: where it begins, in seconds.
        end: where it ends, in seconds; None where the sound does.

    Raises:
        ExampleError: the sound cannot be read or ends before that, or the segment is too large.
    """
    with reading(data) as sound:
        rate, frames = sound.samplerate, sound.frames
        first, last = round(start * rate), frames if end is None else round(end * rate)
        if first >= frames or last > frames + LATE * rate:
            raise ExampleError(f"the sound ends after {frames / rate:g} s", kind="truncated")
        count = min(last, frames) - first
        if count * sound.channels > MOST:
            raise ExampleError(f"{count / rate:,.0f} s: too long a segment", kind="bomb")
        sound.seek(first)
        samples = sound.read(count, "float32", always_2d=True)
    if len(samples) < count:
        reason = f"it ends after {first + len(samples):,} of {frames:,} samples"
        raise ExampleError(reason, kind="truncated")
    return encode((samples.mean(axis=1), rate))


def show(example: np.ndarray, caption: str = "", saliency: np.ndarray | None = None) -> str:
    """A spectrogram above a player, without zeros at the ends.

    Args:
        example: float32 ``[samples]``.
        caption: for a mouse that rests on it, and for who cannot see it.
        saliency: float in 0..1, ``[times]`` or ``[times, frequencies]``, spread evenly over what
            a model sees, in whose middle ``entrance`` puts what is heard: a second spectrogram has
            it laid over.
    """
    heard = np.trim_zeros(example)
    heard = heard if len(heard) >= SHORTEST else example[:SHORTEST]
    levels = _spectrogram(heard)
    pictures = _picture(_coloured(levels), caption)
    if saliency is not None:
        share = len(heard) / len(example)
        laid = 0.4 * 255 * levels[..., None] + 0.6 * _coloured(_spread(saliency, share))
        pictures += _picture(laid, f"{caption}: where the model looked")
    said, sound = html.escape(caption), base64.b64encode(_mp3(heard)).decode()
    player = (
        f'<audio controls preload="none" aria-label="{said}" style="width:100%;height:2rem" '
        f'src="data:audio/mpeg;base64,{sound}"></audio>'
    )
    return f'<div class="clip">{pictures}{player}</div>'


def _spectrogram(samples: np.ndarray) -> np.ndarray:
    """Levels in 0..1 over time and the logarithm of frequency, the highest on top."""
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    starts = np.linspace(0, len(padded) - WINDOW, WIDTH).astype(int)
    windows = padded[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    rows = np.geomspace(HIGH, LOW, HEIGHT) * FOURIER / RATE
    power = np.abs(np.fft.rfft(windows, FOURIER)[:, rows.round().astype(int)].T) ** 2
    decibels = 10 * np.log10(np.maximum(power, QUIETEST) / max(power.max(), 1e8 * QUIETEST))
    return np.clip(1 + decibels / DEEP, 0, 1)


def _spread(saliency: np.ndarray, share: float) -> np.ndarray:
    """Weights of the pixels of a spectrogram that shows the middle ``share`` of what is seen."""
    weights = np.atleast_2d(np.clip(saliency, 0, 1).astype(np.float32).T)[::-1]
    picture = Image.fromarray(np.ascontiguousarray(weights))
    left, right = picture.width * (1 - share) / 2, picture.width * (1 + share) / 2
    box = (left, 0, right, picture.height)
    return np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box))


def _coloured(levels: np.ndarray) -> np.ndarray:
    import matplotlib

    return matplotlib.colormaps["inferno"](np.clip(levels, 0.0, 1.0))[..., :3] * 255.0


def _picture(pixels: np.ndarray, caption: str) -> str:
    stream, said = io.BytesIO(), html.escape(caption)
    Image.fromarray(np.round(pixels).astype(np.uint8)).save(stream, "WEBP", quality=60, method=2)
    source = base64.b64encode(stream.getvalue()).decode()
    style = f"display:block;width:100%;height:auto;aspect-ratio:{WIDTH}/{HEIGHT}"
    about = f'alt="{said}" title="{said}" style="{style}"'
    return f'<img {about} src="data:image/webp;base64,{source}">'


def _mp3(samples: np.ndarray) -> bytes:
    """About 3 kB a second. At a constant rate as low LAME changes the pitch."""
    stream, how = io.BytesIO(), {"bitrate_mode": "VARIABLE", "compression_level": 0.7}
    libraries()[0].write(stream, samples, RATE, format="MP3", **how)
    return stream.getvalue()
