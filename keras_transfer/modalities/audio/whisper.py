"""The encoder of Whisper (Radford et al. 2022, "Robust speech recognition via large-scale weak
supervision", arXiv:2212.04356), in all its sizes.

From a log-mel spectrogram ``[frames, bands, 1]``, 100 frames a second, to the last hidden states
``[places, width]``, 50 a second. Positions are cut to the length of the clip, which need not be 30
seconds. Lower blocks know more of sounds that are no speech.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.base.errors import UsageError
from keras_transfer.modalities import hub_tensors
from keras_transfer.modalities.audio import ctranslate

CONFIGURATION = {"model_type": "whisper", "activation_function": "gelu", "num_mel_bins": 80}
HEADS = "encoder_attention_heads"
VOCABULARY = ""
read_converted = ctranslate.read


class Shape(NamedTuple):
    """The sizes of a network, by default those of Whisper base."""

    blocks: int = 6
    width: int = 512
    heads: int = 8
    inner: int = 2048
    positions: int = 1500


def Whisper(*, input_tensor: Any, arrays: Mapping[str, Any], **_: Any) -> Any:
    """Builds the network to which ``arrays`` belong, that of base where they are no Whisper's."""
    import keras
    from keras import layers, ops

    shape = hub_tensors.shape_of(Shape, arrays, "stem_positions")
    x = layers.Reshape(input_tensor.shape[1:3], name="stem_frames")(input_tensor)
    for number, stride in enumerate((1, 2), start=1):
        name = f"stem_conv{number}"
        x = layers.ZeroPadding1D(1, name=f"{name}_pad")(x)
        x = layers.Conv1D(shape.width, 3, stride, activation="gelu", name=name)(x)
    if x.shape[1] > shape.positions:
        problem = f"The network hears at most {shape.positions / 50:g} s."
        raise UsageError(problem, remedy=f"Use a clip length of {shape.positions / 50:g} or less.")
    # Made of what was read, so that it lies below the first block's end.
    places = ops.maximum(ops.zeros_like(x[:, :, 0], dtype="int32"), np.arange(x.shape[1]))
    positions = layers.Embedding(shape.positions, shape.width, name="stem_positions")(places)
    x = layers.Add(name="stem_add")([x, positions])
    for number in range(shape.blocks):
        x = _block(x, shape, f"layer_{number}")
    x = layers.LayerNormalization(epsilon=1e-5, name="top_norm")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)


def _block(x: Any, shape: Shape, name: str) -> Any:
    """Attention and two dense layers, each on what was normalised, and added to what was not."""
    from keras import layers

    def norm(x: Any, part: str) -> Any:
        return layers.LayerNormalization(epsilon=1e-5, name=f"{name}_{part}norm")(x)

    attention = layers.MultiHeadAttention(
        shape.heads, shape.width // shape.heads, name=f"{name}_attention"
    )
    y = norm(x, "attention_")
    x = layers.Add(name=f"{name}_attention_add")([x, attention(y, y)])
    y = layers.Dense(shape.inner, activation="gelu", name=f"{name}_intermediate")(norm(x, ""))
    return layers.Add(name=f"{name}_add")([x, layers.Dense(shape.width, name=f"{name}_output")(y)])


def hub_layers(tensors: Mapping[str, np.ndarray], heads: int) -> dict[str, list[np.ndarray]]:
    """Brings a Whisper's tensors as the Hugging Face hub names them into this network's layers.

    Args:
        tensors: by name, such as ``model.encoder.layers.0.fc1.weight``, with ``model.`` before it
            or not. The decoder is left.
        heads: of attention, which no tensor tells.

    Raises:
        KeyError: a tensor is missing.
        ValueError: the heads do not divide the width.
    """
    named = {
        name.removeprefix("model.").removeprefix("encoder."): tensor.astype(np.float32)
        for name, tensor in tensors.items()
    }
    found = {"stem_positions": [named["embed_positions.weight"]]}
    for number in (1, 2):
        kernel, bias = (named[f"conv{number}.{part}"] for part in ("weight", "bias"))
        found[f"stem_conv{number}"] = [kernel.transpose(2, 1, 0), bias]
    for number in itertools.count():
        theirs, ours = f"layers.{number}", f"layer_{number}"
        if f"{theirs}.fc1.weight" not in named:
            break
        # The keys have no bias, which would move all scores of a place alike.
        named[f"{theirs}.self_attn.k_proj.bias"] = np.zeros(named["layer_norm.bias"].shape, "f4")
        *inner, outer = (f"{theirs}.self_attn.{part}_proj" for part in ("q", "k", "v", "out"))
        found[f"{ours}_attention"] = hub_tensors.attention(named, inner, outer, heads)
        for mine, its in (
            ("attention_norm", "self_attn_layer_norm"), ("norm", "final_layer_norm"),
            ("intermediate", "fc1"), ("output", "fc2"),
        ):  # fmt: skip
            found[f"{ours}_{mine}"] = hub_tensors.pair(named, f"{theirs}.{its}")
    return found | {"top_norm": hub_tensors.pair(named, "layer_norm")}
