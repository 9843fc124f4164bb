"""Whisper's encoder: its spectrogram, every hidden state, cuts, and the files that it comes in."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.signal import get_window
from scipy.special import erf, softmax
from sounding import melody

from keras_transfer import backbones
from keras_transfer.backbones.graph import tensors
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Backbone
from keras_transfer.evaluation.saliency import explain
from keras_transfer.learn.model import build_classifier, cut_blocks

safetensors = pytest.importorskip("safetensors.numpy")

SECONDS, WIDTH, INNER, HEADS, BLOCKS = 1.01, 16, 32, 4, 2
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Two sounds under noise that is heard to their ends, so that nothing is moved."""
    noise = np.random.default_rng(0).normal(0, 0.01, (2, round(SECONDS * 16_000)))
    sounds = np.stack([melody(seed, SECONDS) for seed in (1, 2)])
    return np.clip(sounds + noise, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> Tensors:
    """Random tensors under the hub's names, in float16 as CTranslate2 has them."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (WIDTH, 80, 3), "conv1.bias": (WIDTH,),
        "conv2.weight": (WIDTH, WIDTH, 3), "conv2.bias": (WIDTH,),
        "embed_positions.weight": (100, WIDTH),
        "layer_norm.weight": (WIDTH,), "layer_norm.bias": (WIDTH,),
    }  # fmt: skip
    for number in range(BLOCKS):
        layer = f"layers.{number}"
        for part in ("q", "k", "v", "out"):
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (WIDTH, WIDTH)
            if part != "k":
                shapes[f"{layer}.self_attn.{part}_proj.bias"] = (WIDTH,)
        for part, form in (("fc1", (INNER, WIDTH)), ("fc2", (WIDTH, INNER))):
            shapes |= {f"{layer}.{part}.weight": form, f"{layer}.{part}.bias": form[:1]}
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{layer}.{part}.weight": (WIDTH,), f"{layer}.{part}.bias": (WIDTH,)}
    return {
        f"encoder.{name}": (0.5 * random.normal(size=shape)).astype("f2")
        for name, shape in shapes.items()
    }


def write_hub(folder: Path, held: Tensors, **config: object) -> Path:
    decoder = {"model.decoder.layers.0.fc1.weight": np.zeros((2, 2), "f2")}
    named = {f"model.{name}": value for name, value in held.items()}
    safetensors.save_file(named | decoder, folder / "model.safetensors")
    settings = {"model_type": "whisper", "encoder_attention_heads": HEADS, "num_mel_bins": 80}
    (folder / "config.json").write_text(json.dumps(settings | config))
    return folder


def write_converted(folder: Path, held: Tensors, kind: str = "WhisperSpec") -> Path:
    """As CTranslate2's own converter lays it out."""
    variables: Tensors = {"encoder/num_heads": np.int16(HEADS), "decoder/x": np.zeros(3, "f2")}
    norms = {"weight": "gamma", "bias": "beta"}
    for name, value in held.items():
        *_, layer, part = parts = name.split(".")
        place = f"encoder/layer_{parts[2]}/" if parts[1] == "layers" else "encoder/"
        if layer == "embed_positions":
            variables[f"{place}position_encodings/encodings"] = value
        elif layer in ("k_proj", "v_proj"):
            continue
        elif layer == "q_proj":
            thirds = [held.get(name.replace("q_proj", f"{k}_proj"), 0 * value) for k in "qkv"]
            variables[f"{place}self_attention/linear_0/{part}"] = np.concatenate(thirds)
        elif layer == "out_proj":
            variables[f"{place}self_attention/linear_1/{part}"] = value
        elif layer.endswith("layer_norm"):
            room = {"self_attn_layer_norm": "self_attention/", "final_layer_norm": "ffn/"}
            variables[f"{place}{room.get(layer, '')}layer_norm/{norms[part]}"] = value
        else:
            layer = {"fc1": "ffn/linear_0", "fc2": "ffn/linear_1"}.get(layer, layer)
            variables[f"{place}{layer}/{part}"] = value

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", 6) + string(kind) + struct.pack("<II", 3, len(variables))
    types = {"f4": 0, "i1": 1, "i2": 2, "f2": 4}
    for name, value in variables.items():
        data += string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", types[value.dtype.str[1:]], value.nbytes) + value.tobytes()
    (folder / "model.bin").write_bytes(data + struct.pack("<I", 0))
    return folder


def spectrogram(clip: np.ndarray) -> np.ndarray:
    """As the paper's front end has it, ``[frames, 80]``, by NumPy's Fourier transform in float64:
    windows of 25 ms about every 10 ms, mirrored ends, Slaney's bands, 8 powers of ten.
    """
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82)
    marks = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    bins, low, middle, high = np.linspace(0, 8000, 201)[:, None], marks[:-2], marks[1:-1], marks[2:]
    bands = np.maximum(
        0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
    )
    framed = np.pad(clip.astype(np.float64), 200, "reflect")
    framed = np.lib.stride_tricks.sliding_window_view(framed, 400)[::160][: len(clip) // 160]
    power = np.abs(np.fft.rfft(framed * get_window("hann", 400))) ** 2
    levels = np.log10(np.maximum(power @ (bands * 2 / (high - low)), 1e-10))
    return (np.maximum(levels, levels.max() - 8) + 4) / 4


def forward(held: Tensors, frames: np.ndarray) -> list[np.ndarray]:
    """Every hidden state ``[places, width]``, by the paper's formulas, in float64."""
    t = {name.removeprefix("encoder."): value.astype(np.float64) for name, value in held.items()}

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def convolution(x: np.ndarray, name: str, stride: int) -> np.ndarray:
        padded = np.pad(x, ((1, 1), (0, 0)))
        taps = [padded[tap : len(x) + tap : stride] for tap in range(3)]
        found = sum(tap @ t[f"{name}.weight"][..., k].T for k, tap in enumerate(taps))
        return gelu(found + t[f"{name}.bias"])

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]

    def attend(x: np.ndarray, name: str) -> np.ndarray:
        q, k, v = (
            dense(x, f"{name}.{part}_proj").reshape(len(x), HEADS, -1).swapaxes(0, 1)
            for part in "qkv"
        )
        shares = softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), axis=-1)
        return dense((shares @ v).swapaxes(0, 1).reshape(x.shape), f"{name}.out_proj")

    x = convolution(convolution(frames, "conv1", 1), "conv2", 2)
    states = [x + t["embed_positions.weight"][: len(x)]]
    for number in range(BLOCKS):
        layer, x = f"layers.{number}", states[-1]
        x = x + attend(norm(x, f"{layer}.self_attn_layer_norm"), f"{layer}.self_attn")
        inner = gelu(dense(norm(x, f"{layer}.final_layer_norm"), f"{layer}.fc1"))
        states.append(x + dense(inner, f"{layer}.fc2"))
    return [*states, norm(states[-1], "layer_norm")]


@pytest.fixture(scope="module")
def built(small: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = write_hub(tmp_path_factory.mktemp("hub"), small)
    return backbones.build("whisper", image_size=SECONDS, weights=str(folder))


def test_the_spectrogram_is_that_of_the_paper(built: Backbone, clips: np.ndarray) -> None:
    below = keras.Model(built.model.input, built.model.get_layer("preprocessing_map").output)
    for clip, levels in zip(clips, below(clips).numpy()[..., 0], strict=True):
        np.testing.assert_allclose(levels, spectrogram(clip), atol=1e-4)


def test_every_hidden_state_is_that_of_the_formulas(
    built: Backbone, small: Tensors, clips: np.ndarray
) -> None:
    assert [block.name for block in built.blocks] == ["stem", "layer_0", "layer_1", "top"]
    ends = tensors(built.model, [block.cut[0] for block in built.blocks])
    found = keras.Model(built.model.input, ends)(clips, training=False)
    for row, clip in enumerate(clips):
        for mine, expected in zip(found, forward(small, spectrogram(clip)), strict=True):
            assert mine.shape[1:] == expected.shape == (51, WIDTH)  # an odd number of frames
            np.testing.assert_allclose(np.asarray(mine)[row], expected, rtol=1e-3, atol=1e-3)


def test_every_cut_is_exact(built: Backbone, clips: np.ndarray) -> None:
    model = build_classifier(built, 3, 5)
    whole = np.asarray(model(clips, training=False))
    for block in cut_blocks(built.blocks, 5)[:-1]:
        below, above = backbones.split(model, block.cut)
        parts = below(clips, training=False)
        np.testing.assert_array_equal(np.asarray(above(parts, training=False)), whole)


def test_where_it_listened_is_told_by_place(built: Backbone, clips: np.ndarray) -> None:
    """A head that hears one feature alone listens where that is positive, or negative."""
    states = np.asarray(built.model(clips, training=False))
    feature = int((states.max(axis=(0, 1)) * -states.min(axis=(0, 1))).argmax())
    model, kernel = build_classifier(built, 2), np.zeros((WIDTH, 2), np.float32)
    kernel[feature] = 1.0, -1.0
    model.get_layer("logits").set_weights([kernel, np.zeros(2, np.float32)])
    for chosen, sign in ((0, 1), (1, -1)):
        wanted = np.maximum(sign * states[..., feature], 0)
        assert wanted.any(axis=1).all()
        looked = explain(model, clips, [chosen] * len(clips))
        np.testing.assert_allclose(looked, wanted / wanted.max(axis=1, keepdims=True), atol=1e-4)


def test_it_hears_no_more_than_it_has_positions_for(small: Tensors, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hears at most 2 s"):
        backbones.build("Whisper", image_size=2.1, weights=str(write_hub(tmp_path, small)))


def test_what_ctranslate2_made_of_it_is_the_same_network(
    built: Backbone, small: Tensors, tmp_path: Path
) -> None:
    folder = write_converted(tmp_path, small)
    again = backbones.build("Whisper", image_size=SECONDS, weights=str(folder))
    assert again.weights_digest == built.weights_digest
    build_classifier(again, 3).save(tmp_path / "again.keras")
    saved = backbones.build("Whisper", image_size=SECONDS, weights=str(tmp_path / "again.keras"))
    assert saved.weights_digest == built.weights_digest


def test_the_default_row_counts_the_network_of_base() -> None:
    base = backbones.build("Whisper", image_size=1.0, weights="none")
    assert base.model.count_params() == base.spec.parameters
    # By hand: 50 places a second, 8 heads of 64; products of places with places twice.
    places, width, inner = 50, 512, 2048
    block = places * (4 * width**2 + 2 * width * inner) + 2 * places**2 * width
    assert [one.macs for one in base.blocks[1:-1]] == [block] * 6


def cut_short(folder: Path) -> None:
    path = next(folder.glob("model.*"))
    path.write_bytes(path.read_bytes()[:-1000])


def in_int8(folder: Path) -> None:
    random = {"encoder.conv1.weight": np.zeros((WIDTH, 80, 3), np.int8)}
    write_converted(folder, random)


BAD: dict[str, tuple[Callable[..., Path], dict, Callable[[Path], object], str]] = {
    "another activation": (
        write_hub, {"activation_function": "relu"}, lambda folder: None,
        "activation_function is 'relu', not 'gelu'",
    ),
    "more bands": (write_hub, {"num_mel_bins": 128}, lambda folder: None, "num_mel_bins is 128"),
    "no heads": (
        write_hub, {"encoder_attention_heads": None}, lambda folder: None, "config.json",
    ),
    "other heads": (
        write_hub, {"encoder_attention_heads": 5}, lambda folder: None, "cannot be read",
    ),
    "the tensors end early": (write_hub, {}, cut_short, r"safetensors cannot be read"),
    "a conversion that ends early": (write_converted, {}, cut_short, r"model\.bin cannot be read"),
    "a conversion of another network": (
        write_converted, {"kind": "TransformerSpec"}, lambda folder: None, "no Whisper",
    ),
    "a conversion to int8": (write_converted, {}, in_int8, "int8; take a conversion to float16"),
    "no conversion at all": (
        write_converted, {}, lambda folder: (folder / "model.bin").write_bytes(b"PK\3\4"),
        r"model\.bin cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_whisper_is_named(what: str, small: Tensors, tmp_path: Path) -> None:
    write, options, spoil, message = BAD[what]
    spoil(write(tmp_path, small, **options))
    with pytest.raises(UsageError, match=message) as refused:
        backbones.build("Whisper", image_size=SECONDS, weights=str(tmp_path))
    assert str(tmp_path) in str(refused.value)


def test_a_network_of_images_is_not_looked_for_on_the_hub(small: Tensors, tmp_path: Path) -> None:
    write_hub(tmp_path, small)
    with pytest.raises(UsageError, match="where MobileNetV2 is not looked for"):
        backbones.build("MobileNetV2", image_size=32, weights=str(tmp_path))
