"""What layers cost: the multiply-adds of one example.

Products of weights or of two tensors count, as in published figures; biases, normalisation,
activations, pooling and additions do not.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keras_transfer.backbones.graph import trace
from keras_transfer.base.errors import UsageError

if TYPE_CHECKING:
    import keras

Shape = tuple[int, ...]
# Takes a built layer, the shape of each argument of its call without the batch axis (None where
# one is left out; for a list a list of shapes), and the shape of its first output.
Count = Callable[[Any, list[Any], Shape], int]


@functools.cache
def counts() -> dict[type, Count]:
    """The function that counts for each class of layer, and for those derived from it.

    Add an entry for a layer of one's own.
    """
    from keras import layers as k
    from keras.src.applications.convnext import LayerScale  # Keras exports it nowhere

    table: list[tuple[Any, ...]] = [
        (_kernels, k.Dense, k.Conv1D, k.Conv2D, k.Conv3D, k.DepthwiseConv1D, k.DepthwiseConv2D),
        (_kernels, k.SeparableConv1D, k.SeparableConv2D),
        (_transposed, k.Conv1DTranspose, k.Conv2DTranspose, k.Conv3DTranspose),
        (_einsum, k.EinsumDense),
        (_spectrogram, k.STFTSpectrogram),
        (_attention, k.Attention, k.AdditiveAttention),
        (_multi_head, k.MultiHeadAttention),
        (_group_query, k.GroupQueryAttention),
        (lambda layer, *_: _size(layer), k.SimpleRNNCell, k.LSTMCell, k.GRUCell),
        (lambda layer, *on: sum(_count(one, *on) for one in layer.cells), k.StackedRNNCells),
        (lambda layer, x, y: x[0][0] * _count(layer.cell, x, y), k.RNN),
        (_conv_lstm, k.ConvLSTM1D, k.ConvLSTM2D, k.ConvLSTM3D),
        (_bidirectional, k.Bidirectional),
        (lambda layer, x, y: x[0][0] * _count(layer.layer, [x[0][1:]], y[1:]), k.TimeDistributed),
        (lambda layer, *on: _count(layer.layer, *on), k.SpectralNormalization),
        (lambda layer, x, y: math.prod(y) * layer.output_dim if x[1] else 0, k.ReversibleEmbedding),
        (_nothing, k.Embedding, k.PReLU, k.Normalization, k.BatchNormalization),
        (_nothing, k.LayerNormalization, k.GroupNormalization, k.RMSNormalization),
        (_nothing, LayerScale),
        (_unknown, k.TFSMLayer, k.JaxLayer, k.TorchModuleWrapper),
    ]
    return {kind: count for count, *kinds in table for kind in kinds}


def count_macs(node: Any) -> int:
    """Counts the multiply-adds of one layer for one example.

    Args:
        node: the layer's, from :func:`keras_transfer.backbones.graph.trace`.

    Raises:
        UsageError: the layer has weights and is of a class that is not known, or the model was
            built without fixed sizes.
    """
    import keras

    layer, output = node.operation, tuple(node.output_tensors[0].shape[1:])
    count = _function(layer)
    if count is _nothing:
        return 0
    if count is _unknown and layer._layers and (made := _composed(node)) is not None:
        return made
    if None in (size for tensor in node.input_tensors for size in tensor.shape[1:]):
        problem = f"Layer {layer.name!r} has no fixed size, so that its cost is unknown."
        raise UsageError(problem, remedy="Build the backbone with an image size.")
    call = inspect.signature(layer.call).bind(*node.arguments.args, **node.arguments.kwargs)
    call.apply_defaults()
    shapes = keras.tree.map_structure(
        lambda x: tuple(x.shape[1:]) if isinstance(x, keras.KerasTensor) else x,
        list(call.arguments.values()),
    )
    return count(layer, shapes, output)


def _composed(node: Any) -> int | None:
    """Counts a layer that is made of others, by the graph of its call; None where it has none."""
    import keras

    given = {id(x): keras.Input(x.shape[1:], dtype=x.dtype) for x in node.input_tensors}
    args, kwargs = node.arguments.fill_in(given)
    try:
        made = keras.Model([*given.values()], node.operation.call(*args, **kwargs))
    except (TypeError, ValueError):  # it computes with more than layers and operations of Keras
        return None
    return sum(count_macs(inner) for level in made._nodes_by_depth.values() for inner in level)


def model_macs(model: "keras.Model") -> int:
    """The multiply-adds of a functional model for one example; raises as :func:`count_macs`."""
    return sum(map(count_macs, trace(model).values()))


def _function(layer: Any) -> Count:
    known = counts()
    found = next((known[kind] for kind in type(layer).__mro__ if kind in known), None)
    # Rows that are only looked up are multiplied with nothing, as those of KerasHub's positions.
    multiplied = any(one.name != "embeddings" for one in getattr(layer, "weights", ()))
    return found or (_unknown if multiplied else _nothing)


def _count(layer: Any, inputs: list[Any], output: Shape) -> int:
    return _function(layer)(layer, inputs, output)


def _nothing(layer: Any, inputs: list[Any], output: Shape) -> int:
    return 0


def _unknown(layer: Any, inputs: list[Any], output: Shape) -> int:
    kind = type(layer).__name__
    raise UsageError(
        f"Layer {layer.name!r} has weights, and what a {kind} costs is not known.",
        remedy="Use layers of Keras, or add a function that counts: "
        f"keras_transfer.backbones.multiply_adds.counts()[{kind}] = function.",
    )


def _size(layer: Any) -> int:
    """Elements of a layer's kernels: each is used once at every place."""
    return sum(math.prod(part.shape) for part in layer.weights if part.name.endswith("kernel"))


def _places(layer: Any, shape: Shape) -> int:
    first = getattr(layer, "data_format", "") == "channels_first"
    return math.prod(shape[1:] if first else shape[:-1])


def _kernels(layer: Any, inputs: list[Any], output: Shape) -> int:
    return _places(layer, output) * _size(layer)


def _transposed(layer: Any, inputs: list[Any], output: Shape) -> int:
    return _places(layer, inputs[0]) * _size(layer)


def _einsum(layer: Any, inputs: list[Any], output: Shape) -> int:
    letters, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    shape = (1, *inputs[0])
    letters = letters.replace("...", "." * (len(shape) - len(letters.replace("...", ""))))
    others = (size for letter, size in zip(letters, shape, strict=True) if letter not in kernel)
    return _size(layer) * math.prod(others)


def _spectrogram(layer: Any, inputs: list[Any], output: Shape) -> int:
    frequencies = layer.weights[0].shape[-1] * (2 if layer.mode == "stft" else 1)
    return math.prod(output) // frequencies * _size(layer)


def _attention(layer: Any, inputs: list[Any], output: Shape) -> int:
    (queries, width), (keys, depth) = inputs[0][:2]
    return queries * keys * (width + depth)


def _multi_head(layer: Any, inputs: list[Any], output: Shape) -> int:
    query, value, key = inputs[0], inputs[1], inputs[2] or inputs[1]
    settings = layer.get_config()
    wide, deep = (settings["num_heads"] * settings[side] for side in ("key_dim", "value_dim"))
    axes = settings["attention_axes"] or range(1, len(query))
    gate = query[-1] * deep if settings["use_gate"] else 0
    each_query = query[-1] * wide + gate + deep * output[-1]
    each_query += math.prod(value[axis - 1] for axis in axes) * (wide + deep)
    return math.prod(query[:-1]) * each_query + math.prod(value) * deep + math.prod(key) * wide


def _group_query(layer: Any, inputs: list[Any], output: Shape) -> int:
    (queries, width), value, key = inputs[0], inputs[1], inputs[2] or inputs[1]
    wide, narrow = (n * layer.head_dim for n in (layer.num_query_heads, layer.num_key_value_heads))
    gate = width * wide if layer.use_gate else 0
    each_query = width * wide + gate + wide * output[-1] + value[0] * 2 * wide
    return queries * each_query + (math.prod(value) + math.prod(key)) * narrow


def _conv_lstm(layer: Any, inputs: list[Any], output: Shape) -> int:
    steps = 1 if layer.return_sequences else inputs[0][0]  # else the output has them
    return steps * (math.prod(output) // layer.cell.filters) * _size(layer.cell)


def _bidirectional(layer: Any, inputs: list[Any], output: Shape) -> int:
    one = (*output[:-1], output[-1] // 2) if layer.merge_mode == "concat" else output
    return sum(_count(side, inputs, one) for side in (layer.forward_layer, layer.backward_layer))
