"""BERT (Devlin et al. 2019) and what has its shape: MiniLM, E5, GTE, BGE, in all their sizes.

From token ids, 0 being padding, to the last hidden states ``[tokens, width]``. Beside the hidden
states only ``mask`` crosses from block to block, 1 for a token and 0 for padding.
"""

import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.base.errors import UsageError
from keras_transfer.base.inference import openvino_core
from keras_transfer.modalities import hub_tensors

CONFIGURATION = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}
"""What the network is built with, and the configuration of one on the hub may say otherwise."""
HEADS = "num_attention_heads"
VOCABULARY = "0f052197aac305fe42f378b5c61554b7bacb34b8be4af83fec2cfdcdffbc9973"
"""SHA-256 of the words of BERT-uncased, one a line."""


class Shape(NamedTuple):
    """The sizes of a network, by default those of BERT-base."""

    blocks: int = 12
    width: int = 768
    heads: int = 12
    inner: int = 3072
    words: int = 30522
    positions: int = 512


SHAPES = {"MiniLM-L6": Shape(6, 384, 12, 1536)}


def BERT(*, input_tensor: Any, arrays: Mapping[str, Any], **_: Any) -> Any:
    """Builds the network to which ``arrays`` belong, BERT-base where they are not a BERT's."""
    tables = "embeddings_words", "embeddings_positions"
    return _network(hub_tensors.shape_of(Shape, arrays, *tables), input_tensor=input_tensor)


def _network(shape: Shape, *, input_tensor: Any, **_: Any) -> Any:
    """Builds the network on token ids, with random weights."""
    import keras
    from keras import layers, ops

    tokens = input_tensor.shape[1]
    if tokens > shape.positions:
        problem = f"The network reads at most {shape.positions} tokens; received {tokens}."
        raise UsageError(problem, remedy=f"Use {shape.positions} or fewer.")
    present = ops.minimum(input_tensor, 1)
    mask = layers.Rescaling(1.0, dtype="float32", name="mask")(present)
    # Made of the mask, so that it lies below the first block's end like everything that is read.
    # A sum with zeros TensorFlow would make a BiasAdd of integers, which TensorFlow Lite lacks.
    places = ops.maximum(ops.cast(mask, "int32") - 1, np.arange(tokens, dtype=np.int32))
    embeddings = [
        layers.Embedding(shape.words, shape.width, name="embeddings_words")(input_tensor),
        layers.Embedding(shape.positions, shape.width, name="embeddings_positions")(places),
    ]
    x = _normalised_sum(embeddings, "embeddings")
    for number in range(shape.blocks):
        x = _block(x, mask, shape, f"layer_{number}")
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)


MiniLML6 = functools.partial(_network, SHAPES["MiniLM-L6"])


def _block(x: Any, mask: Any, shape: Shape, name: str) -> Any:
    """Attention and two dense layers, each added to what it read and normalised."""
    from keras import layers

    read = layers.Reshape((1, mask.shape[1]), name=f"{name}_mask")(mask)
    attention = layers.MultiHeadAttention(
        shape.heads, shape.width // shape.heads, name=f"{name}_attention"
    )
    x = _normalised_sum([x, attention(x, x, attention_mask=read)], f"{name}_attention")
    y = layers.Dense(shape.inner, activation="gelu", name=f"{name}_intermediate")(x)
    return _normalised_sum([x, layers.Dense(shape.width, name=f"{name}_output")(y)], name)


def _normalised_sum(tensors: list[Any], name: str) -> Any:
    from keras import layers

    total = layers.Add(name=f"{name}_add")(tensors)
    return layers.LayerNormalization(epsilon=1e-12, name=f"{name}_norm")(total)


def published(name: str, path: Path) -> dict[str, list[np.ndarray]]:
    """Reads a network of ``SHAPES`` from an ONNX file with kernels in int8."""
    return hub_layers(_read_onnx(path), SHAPES[name].heads)


def _read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a BERT whose matrices are int8 with a scale for each row or column.

    Returns:
        float32 under the hub's names, kernels ``[out, in]``. A kernel has no name of its own in
        the file: it takes that of the bias that follows it in the order of the graph.
    """
    operations = openvino_core().read_model(path).get_ordered_ops()
    constants = {
        operation.get_friendly_name(): operation.data
        for operation in operations
        if operation.get_type_name() == "Constant"
    }
    tensors, kernel = {}, None
    for name, value in constants.items():
        stem = name.removeprefix("inner.").removesuffix("_q")
        if name.endswith("_q"):
            value = value * constants[name.removesuffix("_q") + "_scale"]
        if name.startswith("val_") and name.endswith("_q"):
            kernel = value.T
        elif name.startswith("inner.") and not name.endswith("_scale"):
            tensors[stem] = np.array(value)
            if kernel is not None and stem.endswith(".bias"):
                tensors[stem.removesuffix("bias") + "weight"], kernel = kernel, None
    return tensors


def hub_layers(tensors: Mapping[str, np.ndarray], heads: int) -> dict[str, list[np.ndarray]]:
    """Brings a BERT's tensors as the Hugging Face hub names them into this network's layers.

    Args:
        tensors: by name, such as ``encoder.layer.0.output.dense.weight``, with ``bert.`` before it
            or not; kernels ``[out, in]``. The pooler, and what belongs to other heads, is left.
        heads: of attention, which no tensor tells.

    Raises:
        KeyError: a tensor is missing.
        ValueError: the heads do not divide the width.
    """
    renamed = {"gamma": "weight", "beta": "bias"}  # as TensorFlow's first release had them
    named = {}
    for name, tensor in tensors.items():
        stem, _, part = name.removeprefix("bert.").rpartition(".")
        named[f"{stem}.{renamed.get(part, part)}"] = tensor.astype(np.float32)

    pair = functools.partial(hub_tensors.pair, named)
    # A single text is all of segment 0.
    positions = named["embeddings.position_embeddings.weight"]
    found = {
        "embeddings_words": [named["embeddings.word_embeddings.weight"]],
        "embeddings_positions": [positions + named["embeddings.token_type_embeddings.weight"][0]],
        "embeddings_norm": pair("embeddings.LayerNorm"),
    }
    for number in itertools.count():
        theirs, ours = f"encoder.layer.{number}", f"layer_{number}"
        if f"{theirs}.output.dense.weight" not in named:
            break
        inner = (f"{theirs}.attention.self.{part}" for part in ("query", "key", "value"))
        outer = f"{theirs}.attention.output.dense"
        found[f"{ours}_attention"] = hub_tensors.attention(named, inner, outer, heads)
        found[f"{ours}_attention_norm"] = pair(f"{theirs}.attention.output.LayerNorm")
        found[f"{ours}_intermediate"] = pair(f"{theirs}.intermediate.dense")
        found[f"{ours}_output"] = pair(f"{theirs}.output.dense")
        found[f"{ours}_norm"] = pair(f"{theirs}.output.LayerNorm")
    return found
