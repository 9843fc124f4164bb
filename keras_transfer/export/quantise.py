"""Post-training quantisation of a float TensorFlow Lite graph, to int8 weights or wholly to int8.

TensorFlow's own converter, given a sample of training images, loses more than it must: rounding the
weights shifts the mean of every channel; one extreme activation stretches the range of all others;
and eight bits for the softmax leave nothing of small probabilities. Here

- the biases take up the shift that rounding the weights causes (Nagel et al., "Data-Free
  Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2, with channel
  means measured on training images);
- the range of each activation is the one with the least squared error over a sample of its values;
- the head (pooling, logits, softmax) stays in float32: it is under 1 % of the arithmetic;
- so does the spectrogram of a sound: powers span more decades than eight bits have.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_transfer.export.flatbuffer import LiteModel

CALIBRATION_IMAGES = 100
"""Training images on which the activations are measured."""

SAMPLES = 1024
"""Values kept of each activation from each image, to choose its range by."""

SMALLEST = 1024
"""Weights with fewer elements than this stay in float: they save nothing."""

_SPECTROGRAM = b"preprocessing_map"
"""In the name of what hands a spectrogram to the network, as ``modalities.audio`` calls it."""

_KERNELS = {"CONV_2D": (1, 2, 3), "DEPTHWISE_CONV_2D": (0, 1, 2), "FULLY_CONNECTED": (1,)}
"""The axes of a kernel over which one output channel sums."""

_HYBRID = {"CONV_2D": 5, "FULLY_CONNECTED": 12}
"""Of what computes with int8 weights and float activations, the first version that takes a scale a
channel."""


@dataclasses.dataclass
class Activation:
    """What was seen of one tensor.

    Attributes:
        low: smallest value.
        high: largest value.
        mean: float64 mean of each channel, shape ``[channels]``.
        sample: float32 values drawn from all images.
    """

    low: float
    high: float
    mean: np.ndarray
    sample: np.ndarray


def float16(content: bytes) -> bytes:
    """Stores the larger weights as float16; the runtime widens them again when it loads the file.

    Weights beyond the range of float16, or so small that it hardly resolves them, stay as they are.

    Args:
        content: a float32 file.
    """
    model = LiteModel(content)
    graph = model.graph
    widening = []
    for wide in [n for n in range(len(graph.tensors)) if model.is_weight(n, SMALLEST)]:
        values = model.values(wide)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.linalg.norm(half - values) <= 1e-3 * np.linalg.norm(values):
            continue
        narrow = model.like(wide, "float16", "FLOAT16", half)
        graph.tensors[wide].buffer = 0
        # The third version is the first that takes float16.
        widening.append(model.operator("DEQUANTIZE", [narrow], wide, version=3))
    graph.operators[:0] = widening
    return model.content()


def dynamic_range(content: bytes, seen: dict[int, Activation]) -> bytes:
    """Stores the kernels of convolutions and dense layers, and what rows are looked up in, as int8,
    one scale an output channel or a row.

    The runtime quantises the activations as it goes. Depthwise kernels are small and sensitive and
    stay in float, as the head does: that is both more accurate and faster than quantising them.

    Args:
        content: a float32 file.
        seen: its activations, from ``measure``.
    """
    model = LiteModel(content)
    rounding = _rounding(model, tuple(_HYBRID), SMALLEST)
    _correct_biases(model, seen, rounding)
    for operator in rounding:
        kind, tensor = model.code(operator), operator.inputs[1]
        rounded, scale = _round(model.values(tensor), _KERNELS[kind])
        model.set_values(tensor, rounded.astype(np.int8))
        row = model.graph.tensors[tensor]
        row.type = model.schema.TensorType.INT8
        row.quantization = model.make("QuantizationParametersT", quantizedDimension=0)
        row.quantization.scale = scale.ravel().astype(np.float32)
        row.quantization.zeroPoint = np.zeros(scale.size, np.int64)
        version = model.tree.operatorCodes[operator.opcodeIndex]
        version.version = max(version.version, _HYBRID[kind])
    _narrow_tables(model)
    return model.content()


def full_integer(content: bytes, seen: dict[int, Activation]) -> bytes:
    """Computes all between entrance and head in int8; uint8 pixels in, float32 probabilities out.

    Of a network with attention only products with kernels are: normalisation and attention are
    made of differences and shares that eight bits are too few for.

    Args:
        content: a float32 file.
        seen: its activations, from ``measure``.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    model = LiteModel(content)
    _correct_biases(model, seen, _rounding(model, tuple(_KERNELS)))
    # What has no range stays in float.
    ranges = {tensor: _range(seen[tensor]) for tensor in seen.keys() - _in_float(model)}
    _draw_in(model, ranges)
    # Pixels reach from 0 to 255 whatever the sample held, so that their scale is exactly 1.
    pixels = _drop_cast(model)
    ranges |= dict.fromkeys(pixels, (0.0, 255.0))
    for tensor, (low, high) in ranges.items():
        ends = {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}
        model.graph.tensors[tensor].quantization = model.make("QuantizationParametersT", **ends)
    kinds = {model.code(operator) for operator in model.graph.operators}
    convolutional = {"MEAN", "FULLY_CONNECTED", "SOFTMAX"}
    in_float = kinds - {"FULLY_CONNECTED"} if "BATCH_MATMUL" in kinds else convolutional
    quantised = LiteModel(
        bytes(
            mlir_quantize(
                model.content(),
                input_data_type=tf.uint8 if pixels else tf.float32,
                denylisted_ops=sorted(in_float),
            )
        )
    )
    _narrow_tables(quantised)
    return quantised.content()


def _narrow_tables(model: LiteModel) -> None:
    """Stores tables as int8, a scale a row; the rows that were looked up are widened."""
    operators = []
    for gather in model.graph.operators:
        operators.append(gather)
        if model.code(gather) != "GATHER" or not model.is_weight(gather.inputs[0], SMALLEST):
            continue
        (table, rows), wide = gather.inputs, gather.outputs[0]
        rounded, scale = _round(model.values(table), (1,))
        narrow = model.like(table, "narrow", "INT8", rounded.astype(np.int8))
        scales = model.like(table, "scales", values=scale.astype(np.float32))
        model.graph.tensors[table].buffer = 0
        looked_up, floats = model.like(wide, "narrow", "INT8"), model.like(wide, "floats")
        factors = model.like(wide, "scales")
        one = model.graph.tensors[factors]
        one.shape = np.array([*one.shape[:-1], 1], np.int32)
        one.shapeSignature = np.array([*one.shapeSignature[:-1], 1], np.int32)
        gather.inputs = np.array([narrow, rows], np.int32)
        gather.outputs = np.array([looked_up], np.int32)
        options = model.make("MulOptionsT")
        operators += [
            model.operator("CAST", [looked_up], floats),
            model.operator("GATHER", [scales, rows], factors, options=gather.builtinOptions),
            model.operator("MUL", [floats, factors], wide, options=options),
        ]
    model.graph.operators = operators


def measure(content: bytes, examples: np.ndarray) -> dict[int, Activation]:
    """Runs examples through a float graph and looks at every activation.

    Args:
        content: a float32 file.
        examples: ``[n, ...]``, from training.

    Returns:
        What was seen, by the number of the tensor.
    """
    from ai_edge_litert.interpreter import Interpreter

    model = LiteModel(content)
    graph = model.graph
    made = [tensor for operator in graph.operators for tensor in operator.outputs]
    tensors = [tensor for tensor in made if model.is_float(tensor)]
    # As outputs of the graph they survive, and the fast kernels can still be used.
    graph.outputs, model.tree.signatureDefs = np.array(tensors, np.int32), []
    interpreter = Interpreter(model_content=model.content())
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]["index"]
    exits = [row["index"] for row in interpreter.get_output_details()]
    random = np.random.default_rng(0)
    found: dict[int, list[tuple[np.ndarray, ...]]] = {tensor: [] for tensor in tensors}
    for example in examples:
        interpreter.set_tensor(entry, example[None])
        interpreter.invoke()
        for tensor, index in zip(tensors, exits, strict=True):
            values = interpreter.get_tensor(index)
            flat = values.reshape(-1, values.shape[-1] if values.ndim else 1)
            sample = flat.ravel()
            if sample.size > SAMPLES:
                sample = sample[random.integers(0, sample.size, SAMPLES)]
            mean = flat.mean(axis=0, dtype=np.float64)
            found[tensor].append((flat.min(), flat.max(), mean, sample.copy()))
    seen = {}
    for tensor, rows in found.items():
        lows, highs, means, samples = zip(*rows, strict=True)
        mean, sample = np.mean(means, axis=0), np.concatenate(samples)
        seen[tensor] = Activation(float(min(lows)), float(max(highs)), mean, sample)
    return seen


def _round(kernel: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers in -127..127, and the scale of each output channel."""
    scale = np.abs(kernel).max(axis=axes, keepdims=True) / 127.0
    scale[scale == 0] = 1.0
    return np.clip(np.rint(kernel / scale), -127, 127), scale


def _rounding(model: LiteModel, kinds: tuple[str, ...], least: int = 1) -> list[Any]:
    """The operators of some kinds whose kernels, of so many weights, are to be rounded."""
    in_float = _in_float(model)
    return [
        operator
        for operator in model.graph.operators
        if model.code(operator) in kinds
        and operator.outputs[0] not in in_float
        and model.is_weight(operator.inputs[1], least)
    ]


def _correct_biases(model: LiteModel, seen: dict[int, Activation], rounding: Sequence[Any]) -> None:
    """Takes from each bias what rounding the kernel adds to the channel's mean."""
    for operator in rounding:
        if operator.inputs[0] not in seen or len(operator.inputs) < 3:
            continue
        kernel, bias = operator.inputs[1], operator.inputs[2]
        if bias < 0 or not model.is_weight(bias):
            continue
        shift = _shift(model.code(operator), model.values(kernel), seen[operator.inputs[0]].mean)
        model.set_values(bias, (model.values(bias) - shift).astype(np.float32))


def _shift(kind: str, kernel: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """What rounding a kernel adds to the mean of each output channel, ``[out]``.

    Args:
        kind: of the operator, a key of ``_KERNELS``.
        kernel: ``[out, height, width, inputs of its group]``, ``[1, height, width, out]`` of a
            depthwise one, or ``[out, inputs]``.
        mean: of each input channel.
    """
    rounded, scale = _round(kernel, _KERNELS[kind])
    error = (rounded * scale - kernel).astype(np.float64)
    if kind == "DEPTHWISE_CONV_2D":
        return error.sum(axis=(0, 1, 2)) * np.repeat(mean, error.shape[3] // len(mean))
    groups = len(mean) // error.shape[-1]
    inputs = np.repeat(mean.reshape(groups, -1), len(error) // groups, axis=0)
    return (error.sum(axis=tuple(range(1, error.ndim - 1))) * inputs).sum(axis=1)


def _drop_cast(model: LiteModel) -> set[int]:
    """Makes the graph take float pixels in place of uint8 ones and a cast; returns the tensors that
    hold pixels: the input, and what may come of it before the cast, such as its channels in another
    order.
    """
    # The quantiser then makes the input uint8 itself, and keeps the preprocessing in int8.
    graph, types = model.graph, model.schema.TensorType
    pixels = {i for i, row in enumerate(graph.tensors) if row.type == types.UINT8}
    casts = [op for op in graph.operators if model.code(op) == "CAST" and op.inputs[0] in pixels]
    if not pixels:
        return pixels
    if not casts:
        raise ValueError("the graph has no cast from uint8 pixels")
    cast = casts[0]
    for tensor in pixels:
        graph.tensors[tensor].type = types.FLOAT32
    graph.operators.remove(cast)
    old, new = cast.outputs[0], cast.inputs[0]
    for operator in graph.operators:
        operator.inputs = np.where(operator.inputs == old, new, operator.inputs).astype(np.int32)
    return pixels


def _head(model: LiteModel) -> set[int]:
    """The tensors between the means of the maps and the probabilities, both included."""
    makers = {tensor: op for op in model.graph.operators for tensor in op.outputs}
    found: set[int] = set()
    waiting = list(model.graph.outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor in found or tensor not in makers or len(model.graph.tensors[tensor].shape) > 2:
            continue
        found.add(tensor)
        if model.code(makers[tensor]) != "MEAN":
            waiting += [one for one in makers[tensor].inputs if one >= 0]
    return found


def _in_float(model: LiteModel) -> set[int]:
    """The tensors that no format rounds to eight bits."""
    return _head(model) | _spectrogram(model)


def _spectrogram(model: LiteModel) -> set[int]:
    """The tensors between the samples of a sound and its spectrogram, the latter included."""
    made = [
        (tensor, _SPECTROGRAM in model.graph.tensors[tensor].name)
        for operator in model.graph.operators
        for tensor in operator.outputs
    ]
    last = max((place for place, (_, named) in enumerate(made) if named), default=-1)
    return {tensor for tensor, _ in made[: last + 1]}


def _draw_in(model: LiteModel, ranges: dict[int, tuple[float, float]]) -> None:
    """Gives leaky rectifiers and maxima one range from entry to exit, so that values are rounded
    once, and no level is spent on what they would cut off."""
    readers = collections.Counter(i for op in model.graph.operators for i in op.inputs)
    chained = []
    for operator in reversed(model.graph.operators):
        entry, made = operator.inputs[0], operator.outputs[0]
        slope = {"MAXIMUM": 1.0, "LEAKY_RELU": getattr(operator.builtinOptions, "alpha", 1.0)}
        if model.code(operator) in slope and readers[entry] == 1 and {entry, made} <= ranges.keys():
            low, high = ranges[made]
            ranges[entry] = low / slope[model.code(operator)], high
            chained.append((entry, made))
    for entry, made in reversed(chained):
        ranges[made] = ranges[entry]


def _range(activation: Activation) -> tuple[float, float]:
    """The range, zero in it, whose 256 levels have the least squared error over the sample."""
    # Each end is drawn in by itself, down to 0.2 of what was seen, the upper one first.
    low, high = min(activation.low, 0.0), max(activation.high, 0.0)
    shares = np.linspace(1.0, 0.2, 17)
    high = min((high * s for s in shares), key=lambda end: _error(activation.sample, low, end))
    low = min((low * s for s in shares), key=lambda end: _error(activation.sample, end, high))
    return float(low), float(high)


def _error(sample: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of rounding to 256 levels, one of them zero."""
    scale = (high - low) / 255.0
    if not scale > 0:
        return float(np.square(sample).mean())
    least = np.rint(low / scale)
    levels = np.clip(np.rint(sample / scale), least, least + 255)
    return float(np.square(levels * scale - sample).mean())
