from __future__ import annotations

import numpy as np
import pytest

from keras_transfer.export import ExportResult, quantise
from keras_transfer.export.flatbuffer import LiteModel


def _interpreter(exported: ExportResult, name: str):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(exported.path / name))
    interpreter.allocate_tensors()
    return interpreter


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "-float16", "-dynamic", "-int8"])
def test_pixels_go_in_as_they_are(exported: ExportResult, name: str) -> None:
    """uint8 in with scale 1 and zero point 0 at most, float32 out, and named."""
    interpreter = _interpreter(exported, f"model{name}.tflite")
    entry, exit_ = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert entry["dtype"] == np.uint8
    assert entry["quantization"] == ((1.0, 0) if name == "-int8" else (0.0, 0))
    assert exit_["dtype"] == np.float32
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["scores"]}
    }


def _content(exported: ExportResult, name: str) -> bytes:
    return (exported.path / name).read_bytes()


def test_int8_is_int8_but_for_the_head(exported: ExportResult) -> None:
    model = LiteModel(_content(exported, "model-int8.tflite"))
    codes = [model.code(operator) for operator in model.graph.operators]
    assert codes[0] == "QUANTIZE"
    assert codes[-3:] == ["CONCATENATION", "FULLY_CONNECTED", "SOFTMAX"]
    assert codes.count("DEQUANTIZE") == codes.count("MEAN") == 6  # the topmost map and five levels
    assert "CAST" not in codes
    head = {"DEQUANTIZE", "MEAN", "CONCATENATION", "FULLY_CONNECTED", "SOFTMAX"}
    for operator, code in zip(model.graph.operators, codes, strict=True):
        assert model.is_float(operator.outputs[0]) == (code in head)


def test_kernels_have_a_scale_for_each_output_channel(exported: ExportResult) -> None:
    for name in ("model-dynamic.tflite", "model-int8.tflite"):
        model = LiteModel(_content(exported, name))
        convolutions = [op for op in model.graph.operators if model.code(op) == "CONV_2D"]
        kernels = [model.graph.tensors[op.inputs[1]] for op in convolutions]
        scaled = [row for row in kernels if row.type == model.schema.TensorType.INT8]
        assert len(scaled) > 25
        assert all(len(row.quantization.scale) == row.shape[0] for row in scaled)


def test_float16_weights_are_the_rounded_float32_ones(exported: ExportResult) -> None:
    whole = LiteModel(_content(exported, "model.tflite"))
    half = LiteModel(_content(exported, "model-float16.tflite"))
    widened = {
        op.outputs[0]: op.inputs[0] for op in half.graph.operators if half.code(op) == "DEQUANTIZE"
    }
    assert len(widened) > 40
    for wide, narrow in widened.items():
        data = half.tree.buffers[half.graph.tensors[narrow].buffer].data.tobytes()
        expected = whole.values(wide).astype(np.float16).ravel()
        np.testing.assert_array_equal(np.frombuffer(data, np.float16), expected)


@pytest.mark.parametrize("factor", [1e9, 1e-9])
def test_weights_that_float16_cannot_hold_stay(exported: ExportResult, factor: float) -> None:
    whole = LiteModel(_content(exported, "model.tflite"))
    kernels = [op.inputs[1] for op in whole.graph.operators if whole.code(op) == "CONV_2D"]
    whole.set_values(kernels[3], whole.values(kernels[3]) * np.float32(factor))
    half = LiteModel(quantise.float16(whole.content()))
    kept = {bytes(row.name): row for row in half.graph.tensors if row.buffer}
    names = [bytes(whole.graph.tensors[i].name) for i in kernels[2:5]]
    assert [name in kept for name in names] == [False, True, False]
    assert kept[names[1]].type == half.schema.TensorType.FLOAT32


def test_weights_lie_where_runtimes_may_read_them_in_place(exported: ExportResult) -> None:
    schema = LiteModel(_content(exported, "model.tflite")).schema
    content = _content(exported, "model.tflite")
    root = schema.Model.GetRootAs(content, 0)
    places = []
    for number in range(root.BuffersLength()):
        buffer = root.Buffers(number)
        if buffer.DataLength():
            places.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert len(places) > 100
    assert not any(place % 16 for place in places)


def test_corrected_biases_keep_the_mean_of_each_channel(exported: ExportResult) -> None:
    """Rounding the kernels of one layer shifts its channels; the new bias takes that back."""
    content = _content(exported, "model.tflite")
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    seen = quantise.measure(content, images)
    model = LiteModel(content)
    first = next(
        op
        for op in model.graph.operators
        if model.code(op) == "CONV_2D"
        and model.values(op.inputs[1]).shape[1:3] == (1, 1)
        and op.builtinOptions.fusedActivationFunction == 0
        and model.is_weight(op.inputs[1], quantise.SMALLEST)
    )
    kernel, bias = model.values(first.inputs[1]), model.values(first.inputs[2])
    mean = seen[first.inputs[0]].mean
    exact = kernel[:, 0, 0] @ mean + bias
    np.testing.assert_allclose(exact, seen[first.outputs[0]].mean, rtol=1e-3, atol=1e-3)
    rounded = LiteModel(quantise.dynamic_range(content, seen))
    row = rounded.graph.tensors[first.inputs[1]]
    levels = np.frombuffer(rounded.tree.buffers[row.buffer].data.tobytes(), np.int8)
    stored = levels.reshape(kernel.shape) * row.quantization.scale[:, None, None, None]
    assert 0 < np.abs(stored - kernel).max() <= row.quantization.scale.max() / 2 * 1.001
    corrected = stored[:, 0, 0] @ mean + rounded.values(first.inputs[2])
    naive = stored[:, 0, 0] @ mean + bias
    assert np.abs(corrected - exact).max() < 1e-3 * np.abs(naive - exact).max()


def test_one_extreme_value_does_not_stretch_the_range() -> None:
    sample = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    sample[0] = 40.0
    least = float(sample.min())

    def error(low: float, high: float) -> float:
        scale = (high - low) / 255
        levels = np.clip(np.rint(sample / scale), np.rint(low / scale), np.rint(high / scale))
        return float(np.square(levels * scale - sample).mean())

    low, high = quantise._range(quantise.Activation(least, 40.0, np.zeros(1), sample))
    shares = np.linspace(1, 0.2, 9)
    best = min(error(least * a, 40.0 * b) for a in shares for b in shares)
    assert low < 0 < high < 40.0
    assert error(low, high) <= 1.02 * best < error(least, 40.0)


def test_a_range_that_is_used_evenly_is_kept() -> None:
    sample = np.linspace(0, 6, 10_000, dtype=np.float32)
    assert quantise._range(quantise.Activation(0.0, 6.0, np.zeros(1), sample)) == (0.0, 6.0)
    flat = quantise.Activation(0.0, 0.0, np.zeros(1), np.zeros(10, np.float32))
    assert quantise._range(flat) == (0.0, 0.0)


def test_grouped_convolutions_take_the_means_of_their_own_group() -> None:
    kernel = np.random.default_rng(0).normal(size=(4, 1, 1, 3)).astype(np.float32)
    mean = np.arange(6.0)  # two groups of three inputs, two outputs each
    rounded, scale = quantise._round(kernel, (1, 2, 3))
    error = (rounded * scale - kernel)[:, 0, 0]
    expected = [*(error[:2] @ mean[:3]), *(error[2:] @ mean[3:])]
    np.testing.assert_allclose(quantise._shift("CONV_2D", kernel, mean), expected)


def test_layers_that_are_left_in_float_keep_their_biases(exported: ExportResult) -> None:
    """The head's, and in the dynamic file those of small kernels."""

    def biases(name: str) -> list[np.ndarray]:
        model = LiteModel((exported.path / name).read_bytes())
        kinds = ("CONV_2D", "FULLY_CONNECTED")
        operators = [op for op in model.graph.operators if model.code(op) in kinds]
        return [model.values(op.inputs[2]) for op in operators if model.is_weight(op.inputs[1])]

    plain, dynamic = biases("model.tflite"), biases("model-dynamic.tflite")
    assert 1 < len(dynamic) < len(plain)
    for kept in dynamic:
        assert any(np.array_equal(kept, given) for given in plain)
    np.testing.assert_array_equal(biases("model-int8.tflite")[-1], plain[-1])
