import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_transfer import backbones, depthwise, planner  # noqa: E402
from keras_transfer.finetune import Suffix  # noqa: E402


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("size", "taps", "stride"),
    [((4, 4), 5, 1), ((8, 8), 5, 2), ((7, 7), 7, 1), ((5, 9), 5, 1), ((6, 8), 5, 3)],
)
def test_gradients_are_those_of_tensorflow(size, taps, stride, padding):
    draw = np.random.default_rng(0)
    images = tf.constant(draw.normal(size=(3, *size, 6)).astype(np.float32))
    kernel = tf.constant(draw.normal(size=(taps, taps, 6, 1)).astype(np.float32))
    if padding == "VALID" and min(size) < taps:
        pytest.skip("no output")

    def gradients(convolve):
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = convolve(images, kernel)
            loss = tf.reduce_sum(tf.sin(outputs))
        return outputs, *tape.gradient(loss, [images, kernel])

    ours = tf.function(lambda x, k: depthwise.convolve(x, k, stride, padding), autograph=False)
    theirs = [1, stride, stride, 1]
    expected = gradients(lambda x, k: tf.nn.depthwise_conv2d(x, k, theirs, padding))
    for found, other in zip(gradients(ours), expected, strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-4)


def test_a_step_of_a_real_network_ends_where_keras_own_would(monkeypatch):
    draw = np.random.default_rng(0)
    targets = np.eye(3, dtype=np.float32)[draw.integers(0, 3, 4)]
    pixels = draw.integers(0, 256, (4, 128, 128, 3), np.uint8)
    replaced = []

    def trained(cheap):
        monkeypatch.setattr("keras_transfer.finetune.cheap", cheap)
        built = backbones.build("EfficientNetLite0", image_size=128, weights="offline")
        cut = planner.cut_below(built.blocks, planner.resolve_depth(built.blocks, "35%"))
        below, above = backbones.split(built.model, cut)
        pooled = keras.layers.GlobalAveragePooling2D()(above.output)
        keras.utils.set_random_seed(0)
        suffix = Suffix(above.input, keras.layers.Dense(3, name="logits")(pooled))
        suffix.inference_mode = True
        suffix.regularise("none", 0.0)
        suffix.prepare(lambda parts: keras.optimizers.SGD(1e-2), 1, False)
        loss = suffix.step(np.asarray(below(pixels)), targets, np.full(4, 0.25, np.float32))
        return loss, [np.asarray(variable) for variable in suffix.trainable_variables]

    def counted(layer):
        found = depthwise.cheap(layer)
        replaced.append(found is not layer)
        return found

    (loss, weights), (other, expected) = trained(counted), trained(lambda layer: layer)
    # Block 6 has four depthwise convolutions of 5 by 5, block 7 one of 3 by 3.
    assert sum(replaced) == 4
    assert loss == pytest.approx(other, rel=1e-6)
    for found, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_large_maps_and_other_layers_are_left_to_keras():
    for layer in (
        keras.layers.Conv2D(3, 5),
        keras.layers.DepthwiseConv2D(3, use_bias=False),
        keras.layers.DepthwiseConv2D(5),
        keras.layers.DepthwiseConv2D(5, use_bias=False, dilation_rate=2),
        keras.layers.DepthwiseConv2D(5, use_bias=False, dtype="mixed_bfloat16"),
    ):
        assert depthwise.cheap(layer) is layer
    layer = keras.layers.DepthwiseConv2D(5, use_bias=False, activation="relu")
    images = np.random.default_rng(0).normal(size=(2, 9, 9, 4)).astype(np.float32)
    np.testing.assert_array_equal(depthwise.cheap(layer)(images), layer(images))
    small = images[:, :8, :8]
    np.testing.assert_allclose(depthwise.cheap(layer)(small), layer(small), rtol=1e-6)
