"""Cheaper training steps that end where Keras's own would."""

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_transfer import backbones  # noqa: E402
from keras_transfer.fast import gradients  # noqa: E402
from keras_transfer.fast.steps import begin_steps  # noqa: E402
from keras_transfer.learn import planner  # noqa: E402
from keras_transfer.learn.model import set_batch_norm  # noqa: E402
from keras_transfer.learn.suffix import Suffix  # noqa: E402


def compared(ours, theirs, images, kernel):
    """Outputs and both gradients of a function of outputs, ours and TensorFlow's."""
    both = []
    for convolve in (ours, theirs):

        def differentiated(images, kernel, convolve=convolve):
            with tf.GradientTape() as tape:
                tape.watch([images, kernel])
                outputs = convolve(images, kernel)
                loss = tf.reduce_sum(tf.sin(outputs))
            return outputs, *tape.gradient(loss, [images, kernel])

        both.append(tf.function(differentiated, autograph=False)(images, kernel))
    return zip(*both, strict=True)


def drawn(*shape):
    return tf.constant(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("size", "taps", "stride"),
    [
        ((4, 4), 5, 1),
        ((8, 8), 5, 2),
        ((7, 7), 7, 1),
        ((5, 9), 5, 1),
        ((6, 8), 5, 3),
        ((11, 11), 5, 2),
    ],
)
def test_depthwise_gradients_are_those_of_tensorflow(size, taps, stride, padding):
    if padding == "VALID" and min(size) < taps:
        pytest.skip("no output")
    theirs = [1, stride, stride, 1]
    for found, other in compared(
        lambda x, k: gradients.depthwise_convolution(x, k, stride, padding),
        lambda x, k: tf.nn.depthwise_conv2d(x, k, theirs, padding),
        drawn(3, *size, 6),
        drawn(taps, taps, 6, 1),
    ):
        np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("taps", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 3)])
@pytest.mark.parametrize("rounded", [False, True])
def test_gradients_of_convolutions_are_those_of_tensorflow(taps, stride, padding, rounded, request):
    if rounded:
        request.getfixturevalue("bfloat16")
    outputs, *found = compared(
        lambda x, k: gradients.convolution(x, k, stride, padding, rounded=rounded),
        lambda x, k: tf.nn.conv2d(x, k, stride, padding),
        drawn(4, 9, 7, 5),
        drawn(taps, taps, 5, 6),
    )
    np.testing.assert_array_equal(*outputs)
    for ours, theirs in found:
        away = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        # Eight bits of each factor, and of the result.
        assert away < (2**-7 if rounded else 1e-6)
        assert not rounded or away > 1e-4, "nothing was rounded"


@pytest.mark.parametrize("size", [(4, 4), (9, 9)])
def test_rounding_reaches_the_filters_of_small_maps(size, bfloat16):
    for found, other in compared(
        lambda x, k: gradients.depthwise_convolution(x, k, 1, "SAME", rounded=True),
        lambda x, k: tf.nn.depthwise_conv2d(x, k, [1] * 4, "SAME"),
        drawn(8, *size, 6),
        drawn(5, 5, 6, 1),
    ):
        assert np.linalg.norm(found - other) / np.linalg.norm(other) < 2**-7


def step(name, share, size, monkeypatch, calls, *, rounded=False, rate=1e-2):
    """One step of plain gradient descent above a cut: loss, weights and their first values."""
    monkeypatch.setattr("keras_transfer.fast.steps.cheap_calls", calls)
    draw = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    weights = "offline" if name == "EfficientNetLite0" else "none"
    built = backbones.build(name, image_size=size, weights=weights)
    for layer in built.model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Statistics and scales as no network has them at first.
            layer.set_weights([v + 0.5 * draw.random(v.shape) for v in layer.get_weights()])
    set_batch_norm(built.model, trains=False)
    cut = planner.cut_below(built.blocks, planner.resolve_depth(built.blocks, share))
    below, above = backbones.split(built.model, cut)
    pooled = keras.layers.GlobalAveragePooling2D()(above.output)
    suffix = Suffix(above.input, keras.layers.Dense(3, name="logits")(pooled))
    suffix.inference_mode, suffix.rounded = True, rounded
    suffix.regularise("none", 0.0)
    suffix.prepare(lambda parts: keras.optimizers.SGD(rate), 1, False)
    before = [np.array(variable) for variable in suffix.trainable_variables]
    targets = np.eye(3, dtype=np.float32)[draw.integers(0, 3, 4)]
    pixels = draw.integers(0, 256, (4, size, size, 3), np.uint8)
    steps = begin_steps(suffix)
    steps.take(rate, np.asarray(below(pixels)), targets, np.full(4, 0.25, np.float32))
    return steps.end(), [np.array(variable) for variable in suffix.trainable_variables], before


# Folded, pre-activated, shared by many layers, with bias and without BatchNorm.
@pytest.mark.parametrize(
    ("name", "share", "folds"),
    [
        ("EfficientNetLite0", "70%", True),
        ("MobileNetV2", "40%", True),
        ("ResNet50V2", "20%", True),
        ("DenseNet121", "20%", True),
        ("ConvNeXtTiny", "20%", False),
        ("MobileNetV3Small", "50%", True),
        ("ResNet50", "20%", True),
    ],
)
def test_a_step_ends_where_keras_own_would(name, share, folds, monkeypatch):
    replaced = []

    def counted(model, *, rounded):
        calls = gradients.cheap_calls(model, rounded=rounded)
        for layer in model.layers:
            if id(layer) in calls:
                replaced.append(type(layer).__name__)
        return calls

    loss, weights, before = step(name, share, 64, monkeypatch, counted)
    other, expected, _ = step(name, share, 64, monkeypatch, lambda model, rounded: {})
    assert {"Conv2D", "DepthwiseConv2D"} & set(replaced)
    assert ("BatchNormalization" in replaced) == folds
    assert loss == pytest.approx(other, rel=1e-4)
    moved = 0.0
    for found, wanted, start in zip(weights, expected, before, strict=True):
        change = np.linalg.norm(wanted - start)
        moved += change
        assert np.linalg.norm(found - wanted) <= 1e-2 * change + 1e-6
    assert moved > 1e-3


def test_a_rounded_step_points_where_the_exact_one_does(bfloat16, monkeypatch):
    run = step("EfficientNetLite0", "70%", 128, monkeypatch, gradients.cheap_calls, rounded=True)
    loss, weights, before = run
    other, expected, _ = step(
        "EfficientNetLite0", "70%", 128, monkeypatch, gradients.cheap_calls, rounded=False
    )
    # The forward pass is not rounded.
    assert loss == other
    ours, theirs = (
        np.concatenate([(a - b).ravel() for a, b in zip(moved, before, strict=True)])
        for moved in (weights, expected)
    )
    away = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert 1e-4 < away < 0.05


def called(*layers, outputs=None, trainable=()):
    """Substitutes of a chain of layers, by position."""
    inputs = keras.Input((8, 8, 4))
    tensor, tensors = inputs, []
    for layer in layers:
        tensor = layer(tensor)
        tensors.append(tensor)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = layer in trainable
    model = keras.Model(inputs, [tensors[i] for i in outputs or [len(layers) - 1]])
    calls = gradients.cheap_calls(model, rounded=False)
    return [id(layer) in calls for layer in layers]


def test_what_is_left_to_keras():
    layers = keras.layers
    norm = layers.BatchNormalization
    assert called(layers.Conv2D(4, 3), norm()) == [True, True]
    assert called(layers.Conv2D(4, 3, activation="relu"), norm()) == [True, False]
    # Its result is wanted by itself.
    assert called(layers.Conv2D(4, 3), norm(), outputs=[0, 1]) == [True, False]
    learning = norm()
    assert called(layers.Conv2D(4, 3), learning, trainable=[learning]) == [True, False]
    assert called(layers.ReLU(), norm()) == [False, False]
    shared = layers.Conv2D(4, 1)
    assert called(shared, shared, norm()) == [True, True, False]
    for other in (
        layers.Conv2D(4, 3, groups=2),
        layers.Conv2D(4, 3, dilation_rate=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.SeparableConv2D(4, 3),
        layers.Conv2DTranspose(4, 3),
        layers.Conv2D(4, 3, dtype="mixed_bfloat16"),
    ):
        assert called(other, norm()) == [False, False]


def test_a_folded_bias_still_learns():
    inputs = keras.Input((6, 6, 4))
    convolution = keras.layers.Conv2D(5, 3, bias_initializer="ones")
    norm = keras.layers.BatchNormalization(scale=False, center=False, trainable=False)
    model = keras.Model(inputs, norm(convolution(inputs)))
    norm.set_weights([np.full(5, 0.3), np.full(5, 2.0)])
    calls = gradients.cheap_calls(model, rounded=False)
    images = drawn(2, 6, 6, 4)
    with tf.GradientTape(persistent=True) as tape:
        ours = tf.reduce_sum(tf.sin(calls[id(norm)](calls[id(convolution)](images))))
        theirs = tf.reduce_sum(tf.sin(model(images, training=True)))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    variables = [variable.value for variable in convolution.trainable_variables]
    both = (tape.gradient(total, variables) for total in (ours, theirs))
    for found, other in zip(*both, strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-5)


def test_exact_gradients_can_be_asked_for(monkeypatch):
    from keras_transfer.base.compute import choose_compute

    assert choose_compute(multiplies_bfloat16=True).rounded
    assert not choose_compute(multiplies_bfloat16=False).rounded
    assert not choose_compute(precision="float32", multiplies_bfloat16=True).rounded
