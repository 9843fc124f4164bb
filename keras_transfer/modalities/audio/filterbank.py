"""What lies below a network of sounds: samples in, and the spectrogram that its weights expect out.

Layers whose names begin with ``preprocessing`` are constants: they are computed here, no file of
weights holds them, and they never train.
"""

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_transfer.base.errors import UsageError, closest
from keras_transfer.modalities.audio.listening import RATE, spec
from keras_transfer.modalities.audio.sounds import USUAL
from keras_transfer.modalities.protocol import Put

if TYPE_CHECKING:
    import keras


class Filterbank(NamedTuple):
    """A log-mel spectrogram of samples at 16 kHz, by default that of Google's speech embedding.

    A level is ``scale * log10(power) + offset``.

    Attributes:
        bands: of the mel scale.
        low, high: where the lowest begins and the highest ends, in Hz.
        window: the length of the periodic Hann window, in samples.
        points: of the Fourier transform; the window stands in their middle.
        hop: from one frame to the next, in samples.
        full: what a sample of full scale becomes first; the embedding was trained on 16 bits.
        mirrored: how many samples are mirrored at both ends, one ``hop`` less behind.
    """

    bands: int = 32
    low: float = 60.0
    high: float = 3800.0
    window: int = 400
    points: int = 512
    hop: int = 160
    full: float = 32768.0
    mirrored: int = 0
    scale: float = 1.0
    offset: float = 2.0


MODES = {
    "speech": Filterbank(),
    "whisper": Filterbank(80, 0.0, 8000.0, 400, 400, 160, 1.0, 200, 0.25, 1.0),
}
"""What a network's ``preprocessing`` may be."""

LEVELS = {"none": 1.0, "int16": 32768.0}
"""What full scale is to a network of somebody's own."""

QUIETEST = 1e-10
RANGE = 8.0
"""In powers of ten: what is further below the loudest place of a clip is raised to it."""


def entrance(size: float, preprocessing: str) -> "tuple[keras.KerasTensor, keras.KerasTensor]":
    """The input float32 ``[samples]``, and its log-mel spectrogram ``[frames, bands, 1]``.

    Args:
        size: in seconds.
        preprocessing: one of ``MODES``.

    Raises:
        UsageError: there is no such mode.
    """
    import keras
    from keras import layers, ops

    if preprocessing not in MODES:
        problem = f"Unknown preprocessing {preprocessing!r}.{closest(preprocessing, list(MODES))}"
        raise UsageError(problem, remedy=f"Choose one of {', '.join(MODES)}.")
    bank = MODES[preprocessing]
    waves, mels = _waves(bank), _mels(bank)
    samples = keras.Input(spec(size).shape, name="samples")
    x = layers.Rescaling(bank.full, dtype="float32", name="preprocessing")(samples)
    if bank.mirrored:
        ends = bank.mirrored, bank.mirrored - bank.hop
        x = ops.pad(x, ((0, 0), ends), mode="reflect")
    x = layers.Reshape((-1, 1), dtype="float32", name="preprocessing_signal")(x)
    fourier = layers.Conv1D(
        waves.shape[2], bank.points, bank.hop, use_bias=False, dtype="float32",
        name="preprocessing_fourier",
    )  # fmt: skip
    x = ops.square(fourier(x))
    banded = layers.Dense(bank.bands, use_bias=False, dtype="float32", name="preprocessing_mel")
    x = ops.log(ops.maximum(banded(x), QUIETEST))
    tens = bank.scale / np.log(10.0)
    x = layers.Rescaling(tens, bank.offset, dtype="float32", name="preprocessing_log")(x)
    x = _centred(x, ops.max(x, axis=(1, 2), keepdims=True) - RANGE * bank.scale)
    for layer, weights in ((fourier, waves), (banded, mels)):
        layer.set_weights([weights])
        layer.trainable = False
    return samples, layers.Reshape((*x.shape[1:], 1), name="preprocessing_map")(x)


def adopted(
    model: "keras.Model", put: Put, size: Any, preprocessing: str | None
) -> tuple[Any, Any] | None:
    """Takes what has one input ``[samples]`` or ``[samples, 1]`` and one output, see ``Modality``.

    Levels are -1 to 1, or those of 16 bits where the input is int16 or ``preprocessing`` says so.
    """
    import keras

    given = model.inputs[0]
    if len(model.inputs) + len(model.outputs) != 2 or given.shape[2:] not in ((), (1,)):
        return None
    if len(given.shape) < 2 or not given.dtype.startswith(("float", "int16")):
        return None
    mode = preprocessing or ("int16" if given.dtype == "int16" else "none")
    if mode not in LEVELS:
        problem = f"Unknown preprocessing {mode!r}.{closest(mode, list(LEVELS))}"
        raise UsageError(problem, remedy=f"Choose one of {', '.join(LEVELS)}.")
    size = size or (given.shape[1] / RATE if given.shape[1] else USUAL)
    samples = keras.Input(spec(size).shape, name="samples")
    x = keras.layers.Rescaling(LEVELS[mode], dtype="float32", name="preprocessing")(samples)
    return samples, put([keras.ops.expand_dims(x, -1) if len(given.shape) == 3 else x])[0]


def _centred(levels: Any, floor: Any) -> Any:
    """Raises levels ``[batch, frames, bands]`` under a floor ``[batch, 1, 1]`` to it, and moves
    what is over it to the middle.
    """
    # A short sound is known far better from the middle of silence than from before it, where
    # clients leave it (benchmarks/results/audio_tuning.md).
    from keras import ops

    frames = levels.shape[1]
    numbers = np.arange(frames, dtype="int32")
    raised = ops.maximum(levels, floor)
    heard = ops.cast(ops.max(levels - floor, axis=2) > 0, "int32")
    after = ops.max(heard * (numbers + 1), axis=1, keepdims=True)
    before = ops.max(heard * (frames - numbers), axis=1, keepdims=True)
    # So many frames are silent behind (frames - after) and before (frames - before).
    # Never negative while it is halved: ONNX rounds towards zero.
    origin = ops.add(numbers, (after - before + 2 * frames) // 2 - frames)
    moved = ops.take_along_axis(raised, ops.expand_dims(ops.clip(origin, 0, frames - 1), 2), axis=1)
    inside = ops.logical_and(origin >= 0, origin < frames)
    return ops.where(ops.expand_dims(inside, 2), moved, floor)


@functools.cache
def _waves(bank: Filterbank) -> np.ndarray:
    """Cosines and sines under the window, for the frequencies that some band hears: float32
    ``[points, 1, 2 * frequencies]``.
    """
    from scipy.signal import get_window

    window = np.zeros(bank.points)
    start = (bank.points - bank.window) // 2
    window[start : start + bank.window] = get_window("hann", bank.window)
    turns = 2 * np.pi * np.outer(np.arange(bank.points), _heard(bank)) / bank.points
    waves = window[:, None] * np.concatenate([np.cos(turns), np.sin(turns)], axis=1)
    return waves[:, None].astype(np.float32)


@functools.cache
def _mels(bank: Filterbank) -> np.ndarray:
    """What each power adds to each band, of cosines and then of sines: float32 ``[2 * frequencies,
    bands]``.
    """
    # Triangles of unit area on the scale of Slaney's Auditory Toolbox (1998), as librosa has them.
    corners = _hertz(np.linspace(_mel(bank.low), _mel(bank.high), bank.bands + 2))
    frequencies = _heard(bank)[:, None] * (RATE / bank.points)
    below, middle, above = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies - below) / (middle - below)
    falling = (above - frequencies) / (above - middle)
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * 2 / (above - below)
    return np.concatenate([triangles, triangles]).astype(np.float32)


def _heard(bank: Filterbank) -> np.ndarray:
    """The numbers of the frequencies within the bands."""
    numbers = np.arange(bank.points // 2 + 1)
    hertz = numbers * (RATE / bank.points)
    return numbers[(hertz > bank.low) & (hertz < bank.high)]


def _mel(hertz: float) -> float:
    """Slaney's scale: linear up to 1,000 Hz, which is 15, and logarithmic beyond."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
