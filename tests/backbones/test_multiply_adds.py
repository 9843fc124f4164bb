"""Every layer of Keras that has weights is counted, or refused by name; never taken for free."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import layers, ops
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_transfer.backbones.graph import trace
from keras_transfer.backbones.multiply_adds import count_macs, counts, model_macs
from keras_transfer.base.errors import UsageError

LINE, MAP, CUBE = (12, 6), (10, 12, 6), (6, 7, 8, 4)
FILM = (3, *MAP)


class Case:
    """One layer with small settings, and what it is called with."""

    def __init__(self, make: Callable[[], Any], *shapes: tuple[int, ...], **call: Any) -> None:
        self.make, self.shapes, self.call = make, shapes, call

    def model(self, batch: int = 1) -> keras.Model:
        inputs = [keras.Input(shape, batch_size=batch) for shape in self.shapes]
        layer = self.make()
        together = isinstance(layer, (layers.Attention, layers.AdditiveAttention))
        output = layer(inputs, **self.call) if together else layer(*inputs, **self.call)
        return keras.Model(inputs, output)


# The multiply-adds of these are found in TensorFlow's graph.
PROFILED = {
    "Dense": Case(lambda: layers.Dense(7), (5, 6)),
    "EinsumDense": Case(lambda: layers.EinsumDense("abc,cde->abde", (None, 3, 5)), LINE),
    "EinsumDense spelled short": Case(lambda: layers.EinsumDense("...x,xy->...y", (7,)), MAP),
    "EinsumDense over an axis": Case(lambda: layers.EinsumDense("abc,bcd->ad", (9,)), LINE),
    "Conv1D": Case(lambda: layers.Conv1D(8, 3, dilation_rate=2), LINE),
    "Conv2D": Case(lambda: layers.Conv2D(8, (3, 5), strides=2, padding="same"), MAP),
    "Conv3D": Case(lambda: layers.Conv3D(5, 3), CUBE),
    "DepthwiseConv1D": Case(lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), LINE),
    "DepthwiseConv2D": Case(lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), MAP),
    "SeparableConv1D": Case(lambda: layers.SeparableConv1D(4, 3, depth_multiplier=2), LINE),
    "SeparableConv2D": Case(lambda: layers.SeparableConv2D(4, 3, padding="same"), MAP),
    "Conv2DTranspose": Case(lambda: layers.Conv2DTranspose(5, 3, strides=2), MAP),
    "STFTSpectrogram": Case(lambda: layers.STFTSpectrogram("magnitude", 16, 8, 32), (100, 1)),
    "STFTSpectrogram whole": Case(lambda: layers.STFTSpectrogram("stft", 16, 8, 32), (100, 2)),
    "Attention": Case(lambda: layers.Attention(use_scale=True), (5, 6), (9, 6), (9, 6)),
    "MultiHeadAttention": Case(
        lambda: layers.MultiHeadAttention(3, 4, value_dim=5, flash_attention=False), (8, 6), (9, 7)
    ),
    "MultiHeadAttention with a key": Case(
        lambda: layers.MultiHeadAttention(3, 4, output_shape=11), (8, 6), (9, 7), (9, 10)
    ),
    "MultiHeadAttention over an axis": Case(
        lambda: layers.MultiHeadAttention(2, 4, attention_axes=(2,)), (3, 8, 6), (3, 9, 6)
    ),
    "MultiHeadAttention with a gate": Case(
        lambda: layers.MultiHeadAttention(3, 4, use_gate=True), (8, 6), (9, 7)
    ),
    "GroupQueryAttention": Case(lambda: layers.GroupQueryAttention(4, 6, 2), (8, 6), (9, 6)),
    "GroupQueryAttention with a gate": Case(
        lambda: layers.GroupQueryAttention(4, 6, 2, use_gate=True), (8, 6), (9, 6), (9, 5)
    ),
    "SimpleRNN": Case(lambda: layers.SimpleRNN(7, unroll=True), LINE),
    "LSTM": Case(lambda: layers.LSTM(7, unroll=True, return_sequences=True), LINE),
    "GRU": Case(lambda: layers.GRU(7, unroll=True), LINE),
    "GRU before reset": Case(lambda: layers.GRU(7, unroll=True, reset_after=False), LINE),
    "RNN": Case(
        lambda: layers.RNN([layers.LSTMCell(7), layers.GRUCell(5)], unroll=True, name="stacked"),
        LINE,
    ),
    "Bidirectional": Case(lambda: layers.Bidirectional(layers.LSTM(7, unroll=True)), LINE),
    "TimeDistributed": Case(lambda: layers.TimeDistributed(layers.Conv2D(5, 3)), FILM),
    "SpectralNormalization": Case(lambda: layers.SpectralNormalization(layers.Conv2D(5, 3)), MAP),
    "ReversibleEmbedding": Case(lambda: layers.ReversibleEmbedding(20, 6), LINE, reverse=True),
    "ConvLSTM1D": Case(lambda: layers.ConvLSTM1D(5, 3, unroll=True), (3, *LINE)),
    "ConvLSTM2D": Case(lambda: layers.ConvLSTM2D(5, 3, return_sequences=True, unroll=True), FILM),
    "ConvLSTM3D": Case(lambda: layers.ConvLSTM3D(2, 3, unroll=True), (2, *CUBE)),
    "ConvLSTM both ways": Case(
        lambda: layers.Bidirectional(layers.ConvLSTM2D(5, 3, unroll=True)), FILM
    ),
}
# TensorFlow's graph does not show these as products of their own; by hand.
BY_HAND = {
    "AdditiveAttention": (
        Case(layers.AdditiveAttention, (5, 6), (9, 7), (9, 6)), 5 * 9 * (6 + 7)
    ),
    "Attention by concatenation": (
        Case(lambda: layers.Attention(score_mode="concat"), (5, 6), (9, 6)), 5 * 9 * (6 + 6)
    ),
    "Conv1DTranspose": (
        Case(lambda: layers.Conv1DTranspose(5, 3, strides=2), LINE), 12 * 6 * 3 * 5
    ),
    "Conv3DTranspose": (Case(lambda: layers.Conv3DTranspose(5, 3), CUBE), 6 * 7 * 8 * 4 * 27 * 5),
    "Conv2D in groups": (
        Case(lambda: layers.Conv2D(8, 3, groups=2, padding="same"), MAP), 10 * 12 * 8 * 9 * 3
    ),
    "Conv2D with channels first": (
        Case(lambda: layers.Conv2D(7, 3, data_format="channels_first"), (6, 10, 12)), 80 * 7 * 54
    ),
    "SimpleRNNCell": (Case(lambda: layers.SimpleRNNCell(7), (6,), (7,)), 7 * (6 + 7)),
    "GRUCell": (Case(lambda: layers.GRUCell(7), (6,), (7,)), 3 * 7 * (6 + 7)),
    "LSTMCell": (Case(lambda: _with_states(layers.LSTMCell(7)), (6,), (7,), (7,)), 4 * 7 * (6 + 7)),
    "StackedRNNCells": (
        Case(lambda: _with_states(layers.StackedRNNCells([layers.GRUCell(7), layers.GRUCell(5)])),
             (6,), (7,), (5,)),
        3 * 7 * (6 + 7) + 3 * 5 * (7 + 5),
    ),
}  # fmt: skip
FREE = {
    "Embedding": Case(lambda: layers.Embedding(20, 6), (5,)),
    "ReversibleEmbedding forward": Case(lambda: layers.ReversibleEmbedding(20, 6), (5,)),
    "BatchNormalization": Case(layers.BatchNormalization, MAP),
    "LayerNormalization": Case(layers.LayerNormalization, MAP),
    "GroupNormalization": Case(lambda: layers.GroupNormalization(2), MAP),
    "RMSNormalization": Case(layers.RMSNormalization, MAP),
    "Normalization": Case(layers.Normalization, MAP),
    "PReLU": Case(layers.PReLU, MAP),
}


def _with_states(cell: Any) -> Callable[..., Any]:
    return lambda x, *states: cell(x, list(states))


def profiled(model: keras.Model) -> int:
    """The products in the graph that TensorFlow runs, counted from the shapes of its operations."""
    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]
    run = tf.function(lambda *x: model(x[0] if len(x) == 1 else list(x), training=False))
    graph = convert_variables_to_constants_v2(run.get_concrete_function(*signature)).graph
    return sum(products(operation) for operation in graph.get_operations())


def products(operation: tf.Operation) -> int:
    sizes = [tensor.shape.as_list() for tensor in operation.inputs]
    output = operation.outputs[0].shape.num_elements() if operation.outputs else 0
    if operation.type in {"Conv2D", "Conv3D"}:
        return output * tf.TensorShape(sizes[1][:-1]).num_elements()
    if operation.type == "DepthwiseConv2dNative":
        return output * sizes[1][0] * sizes[1][1]
    if operation.type == "Conv2DBackpropInput":
        return operation.inputs[2].shape.num_elements() * sizes[1][0] * sizes[1][1] * sizes[1][2]
    if operation.type == "MatMul":
        return output * sizes[0][0 if operation.get_attr("transpose_a") else 1]
    if operation.type in {"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"}:
        return output * sizes[0][-2 if operation.get_attr("adj_x") else -1]
    if operation.type == "Einsum":
        letters = operation.get_attr("equation").decode().split("->")[0].split(",")
        named = {}
        for word, shape in zip(letters, sizes, strict=True):
            first, _, last = word.partition("...")
            places = [*first, *range(len(shape) - len(first + last)), *last]
            named |= dict(zip(places, shape, strict=True))
        return tf.TensorShape(list(named.values())).num_elements()
    return 0


@pytest.mark.parametrize("name", PROFILED)
def test_what_tensorflow_computes_is_counted(name: str) -> None:
    model = PROFILED[name].model()
    assert model_macs(model) == profiled(model) > 0


@pytest.mark.parametrize("name", BY_HAND)
def test_the_rest_agrees_with_a_count_by_hand(name: str) -> None:
    case, expected = BY_HAND[name]
    assert model_macs(case.model()) == expected


@pytest.mark.parametrize("name", FREE)
def test_what_multiplies_no_matrices_is_free(name: str) -> None:
    assert model_macs(FREE[name].model()) == 0


# What holds other layers, which make it refused where they have weights, and what takes no numbers.
LEFT_OUT = {"InputLayer", "Lambda", "Layer", "MaxNumBoundingBoxes", "Pipeline", "Wrapper"}
CLASSES = {
    kind: name
    for name, kind in inspect.getmembers(layers, inspect.isclass)
    if issubclass(kind, layers.Layer)
    and name not in LEFT_OUT
    and not any(base in counts() for base in kind.__mro__)
}


@pytest.mark.parametrize("kind", CLASSES, ids=CLASSES.values())
def test_every_other_layer_of_keras_has_no_weights(kind: type) -> None:
    """A new version of Keras may bring a layer with weights: it must not be overlooked."""
    arguments = [(), (2,), (0.1,), ((1,),), ((1, 2),), ((2, 2, 2),), ((6, 12),), ("relu",)]
    arguments += [(2, 2), (0.1, 0.1), (20, "multi_hot", "int")]
    line, map_, cube, image = map(keras.Input, (LINE, MAP, CUBE, (10, 12, 3)))
    codes, words = keras.Input((5,), dtype="int64"), keras.Input((1,), dtype="string")
    inputs = [line, map_, cube, image, codes, words, [line, line], [map_, map_], [words, words]]
    for settings, x in itertools.product(arguments, inputs):
        try:
            layer = kind(*settings)
            layer(x)
        except Exception:
            continue
        assert not layer.weights
        return
    raise AssertionError(f"{kind.__name__} takes none of these: add some, or count it")


class Unheard(layers.Layer):
    def build(self, shape: tuple[int | None, ...]) -> None:
        self.scale = self.add_weight(shape=(shape[-1],))

    def call(self, x: Any) -> Any:
        return x * self.scale

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return shape


@pytest.mark.parametrize("wrap", [lambda x: x, layers.TimeDistributed])
def test_a_layer_with_weights_that_is_not_known_is_refused(wrap: Callable[[Any], Any]) -> None:
    model = Case(lambda: wrap(Unheard(name="odd")), LINE).model()
    with pytest.raises(UsageError, match=r"'odd' has weights.*Unheard") as caught:
        model_macs(model)
    assert "counts()[Unheard]" in caught.value.remedy


class Encoder(layers.Layer):
    """A layer of layers, as many write one for texts; the same one is called twice."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.attention = layers.MultiHeadAttention(2, 3)
        self.inner = keras.Sequential([layers.Dense(6, "relu"), layers.Dropout(0.1)])
        self.shared = layers.Dense(6)

    def call(self, x: Any, padding_mask: Any) -> Any:
        x = x + self.attention(x, x, attention_mask=ops.expand_dims(padding_mask, 1))
        return self.shared(self.shared(self.inner(x)))


def test_what_is_made_of_other_layers_is_counted_by_them() -> None:
    inner = keras.Sequential([keras.Input(LINE), layers.Dense(3)], name="inner")
    assert model_macs(Case(lambda: inner, LINE).model()) == 12 * 6 * 3
    x, mask = keras.Input(LINE, batch_size=1), keras.Input((12,), batch_size=1)
    masked = keras.Model([x, mask], Encoder()(x, padding_mask=mask))
    assert model_macs(masked) == profiled(masked) > 0


def test_what_computes_with_other_things_than_layers_is_refused() -> None:
    class Backend(layers.Layer):
        def __init__(self, **named: Any) -> None:
            super().__init__(**named)
            self.inner = layers.Dense(6)

        def call(self, x: Any) -> Any:
            return tf.nn.relu(self.inner(x))

    with pytest.raises(UsageError, match=r"'odd' has weights.*Backend"):
        model_macs(Case(lambda: Backend(name="odd"), LINE).model())


def test_a_layer_of_ones_own_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(counts(), Unheard, lambda layer, inputs, output: 2 * output[-1])
    assert model_macs(Case(Unheard, LINE).model()) == 12


def test_each_layer_is_counted_on_its_own() -> None:
    inputs = keras.Input((10, 12, 6), name="in")
    x = layers.Conv2D(8, (3, 5), strides=2, padding="same", name="conv")(inputs)
    x = layers.Activation("relu", name="relu")(x)
    x = layers.Dense(7, name="dense")(x)
    nodes = trace(keras.Model(inputs, x))
    assert {name: count_macs(node) for name, node in nodes.items()} == {
        "in": 0, "conv": 30 * 8 * 15 * 6, "relu": 0, "dense": 30 * 8 * 7,
    }  # fmt: skip


def test_a_call_by_keywords_with_a_mask_is_understood() -> None:
    query, value, mask = keras.Input((8, 6)), keras.Input((9, 7)), keras.Input((8, 9), dtype="bool")
    output = layers.MultiHeadAttention(3, 4)(value=value, attention_mask=mask, query=query)
    plain = PROFILED["MultiHeadAttention with a gate"].model()
    gate = 8 * 6 * 3 * 4
    assert model_macs(keras.Model([query, value, mask], output)) == model_macs(plain) - gate


def test_multiply_adds_need_a_size() -> None:
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(inputs))
    with pytest.raises(UsageError, match="'conv' has no fixed size"):
        model_macs(model)
    assert model_macs(keras.Model(inputs, layers.BatchNormalization()(inputs))) == 0
