"""Training steps that cost less on a CPU, with TensorFlow: the same layers, cheaper gradients.

Four things, each where it applies and nowhere else:

- **A frozen BatchNorm after a convolution is folded into it.** With scale s and offset b of the
  channels, ``BN(x * w) = x * (w s) + b``: two passes over the outputs and one over their gradient
  become a product with the kernel, and TensorFlow fuses the offset, the activation and a residual
  into the convolution. The gradient of w flows through ``w s``.
- **Gradients of 1 by 1 convolutions are matrix products.** With an image's pixels as rows of X and
  the gradient at the outputs as rows of G, the kernel's gradient is ``X^T G`` and that of the
  images ``G W^T``.
- **Both factors of a convolution's gradients are rounded to bfloat16** where the processor
  multiplies that type, and their products added up in float32: half the time, for a relative error
  of 2^-9 in a gradient that the choice of a batch's images changes by far more. The forward pass
  stays float32 throughout, so that what is trained is what runs later.
- **The filter gradient of a large depthwise convolution is a matrix product** on a map of few
  pixels. TensorFlow's own takes five to ten times as long as the convolution for 5 by 5 and more.
  With x_c an image's channel as a vector of P pixels, and g_c the gradient at its Q outputs,

      M_c = sum over images of  x_c g_c^T      [P, Q]

  holds the product of each pixel with each output, and the gradient of a filter's tap is the sum
  of those entries of M_c that the tap connects. Measured on two cores for 32 images, Lite0 at
  128 px: 5 by 5 on 4 by 4 pixels 3.7 to 4 times faster, on 8 by 8 pixels 1.3 to 1.6 times, 7 by 7
  on 7 by 7 pixels 4 times; on larger maps and for 3 by 3 it is slower, and left alone.

`benchmarks/steps.py` measures what a step gains.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

# Entries of M_c, and taps of the filter, between which the matrix product is the faster way.
_MOST, _FEWEST_TAPS = 64 * 64, 25

Call = Callable[..., Any]
_Sides = tuple[int, int]


def cheap_calls(model: Any, *, rounded: bool) -> dict[int, Call]:
    """What to call in place of a functional model's layers in a training step.

    Args:
        model: a functional model on the TensorFlow backend, which is in inference mode or whose
            frozen BatchNorm layers are not trainable.
        rounded: whether matrix products of gradients may be rounded to bfloat16.

    Returns:
        For the ``id`` of a layer its substitute. The results are the layer's own but for the order
        of float32 operations; a BatchNorm that is folded into the layer before it returns what it
        is given.
    """
    calls: dict[int, Call] = {}
    for layer, folded in _convolutions(model):
        calls[id(layer)] = _call_of(layer, folded, rounded)
        if folded is not None:
            calls[id(folded)] = lambda images, **context: images
    return calls


def _convolutions(model: Any) -> list[tuple[Any, Any]]:
    """Convolutions that can be called otherwise, each with the BatchNorm to fold in, or None."""
    nodes = [n for depth in model._nodes_by_depth.values() for n in depth if not n.is_input]
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in model.outputs)
    calls = Counter(id(node.operation) for node in nodes)
    makers = {id(node.outputs[0]): node.operation for node in nodes if len(node.outputs) == 1}
    found: dict[int, tuple[Any, Any]] = {
        id(node.operation): (node.operation, None) for node in nodes if _plain(node.operation)
    }
    for node in nodes:
        layer = node.operation
        if not isinstance(layer, keras.layers.BatchNormalization) or layer.trainable:
            continue
        (tensor,) = node.input_tensors
        convolution = makers.get(id(tensor))
        alone = uses[id(tensor)] == calls[id(layer)] == calls[id(convolution)] == 1
        linear = getattr(convolution, "activation", None) is keras.activations.linear
        if alone and linear and id(convolution) in found and layer.axis in (-1, 3):
            found[id(convolution)] = (convolution, layer)
    return list(found.values())


def _plain(layer: Any) -> bool:
    """Whether a layer is a convolution of images whose kernel can be handed to TensorFlow."""
    return (
        type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
        and tuple(layer.dilation_rate) == (1, 1)
        and len(set(layer.strides)) == 1
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "depth_multiplier", 1) in (1, None)
    )


def _call_of(layer: Any, folded: Any, rounded: bool) -> Call:
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    convolve = depthwise_convolution if depthwise else convolution

    def call(images: Any, **context: Any) -> Any:
        kernel, offset = ops.convert_to_tensor(layer.kernel), layer.bias
        if folded is not None:
            scale, offset = _affine(folded, offset)
            kernel = kernel * (ops.expand_dims(scale, -1) if depthwise else scale)
        outputs = convolve(images, kernel, layer.strides[0], layer.padding.upper(), rounded=rounded)
        if offset is not None:
            import tensorflow as tf

            outputs = tf.nn.bias_add(outputs, ops.convert_to_tensor(offset))
        return layer.activation(outputs)

    return call


def _affine(norm: Any, bias: Any) -> tuple[Any, Any]:
    """Scale and offset ``[channels]`` of a frozen BatchNorm after a bias."""
    scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
    if norm.scale:
        scale = scale * norm.gamma
    offset = -norm.moving_mean if bias is None else bias - norm.moving_mean
    offset = offset * scale
    if norm.center:
        offset = offset + norm.beta
    return ops.stop_gradient(scale), offset if bias is not None else ops.stop_gradient(offset)


def convolution(
    images: Any, kernel: Any, stride: int, padding: str, *, rounded: bool = False
) -> Any:
    """A convolution; one of 1 by 1 pixels without stride has the gradients of a matrix product.

    Args:
        images: TensorFlow tensor ``[n, height, width, channels]``.
        kernel: tensor ``[taps down, taps across, channels, filters]`` of the same type.
        stride: of both axes.
        padding: ``SAME`` or ``VALID``.
        rounded: whether its gradients are products of numbers rounded to bfloat16.

    Returns:
        ``[n, rows, columns, filters]``.
    """
    import tensorflow as tf

    pointwise = tuple(kernel.shape[:2]) == (1, 1) and stride == 1
    if not pointwise and not rounded:
        return tf.nn.conv2d(images, kernel, stride, padding)
    channels, filters = kernel.shape[2:]
    common = {"strides": [1, stride, stride, 1], "padding": padding}

    def products(pixels: Any, weights: Any, upstream: Any) -> tuple[Any, Any]:
        if not pointwise:
            return (
                tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(pixels), filter=weights, out_backprop=upstream, **common
                ),
                tf.raw_ops.Conv2DBackpropFilter(
                    input=pixels, filter_sizes=weights.shape, out_backprop=upstream, **common
                ),
            )
        rows = tf.reshape(upstream, (-1, filters))
        inwards = tf.matmul(rows, tf.reshape(weights, (channels, filters)), transpose_b=True)
        of_kernel = tf.matmul(tf.reshape(pixels, (-1, channels)), rows, transpose_a=True)
        return tf.reshape(inwards, tf.shape(pixels)), tf.reshape(of_kernel, weights.shape)

    @tf.custom_gradient
    def forward(images: Any, kernel: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, ...]:
            given = images, kernel, upstream
            factors = [tf.cast(one, tf.bfloat16) for one in given] if rounded else given
            return tuple(tf.cast(product, images.dtype) for product in products(*factors))

        return tf.nn.conv2d(images, kernel, stride, padding), gradient

    return forward(images, kernel)


def depthwise_convolution(
    images: Any, kernel: Any, stride: int, padding: str, *, rounded: bool = False
) -> Any:
    """A depthwise convolution; one with a large filter on a small map has a cheap gradient.

    Args:
        images: TensorFlow tensor ``[n, height, width, channels]``.
        kernel: tensor ``[taps down, taps across, channels, 1]`` of the same type.
        stride: of both axes.
        padding: ``SAME`` or ``VALID``.
        rounded: as in :func:`convolution`.

    Returns:
        ``[n, rows, columns, channels]``.
    """
    import tensorflow as tf

    strides = [1, stride, stride, 1]
    few = np.prod(kernel.shape[:2]) < _FEWEST_TAPS
    if few or None in images.shape[1:3] or _products(images, kernel, stride, padding) > _MOST:
        return tf.nn.depthwise_conv2d(images, kernel, strides, padding)

    @tf.custom_gradient
    def forward(images: Any, kernel: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            inwards = tf.nn.depthwise_conv2d_backprop_input(
                tf.shape(images), kernel, upstream, strides, padding
            )
            of_kernel = _filter_gradient(images, upstream, kernel.shape, stride, padding, rounded)
            return inwards, of_kernel

        return tf.nn.depthwise_conv2d(images, kernel, strides, padding), gradient

    return forward(images, kernel)


def _products(images: Any, kernel: Any, stride: int, padding: str) -> int:
    """Pixels of an image times those of its result."""
    found = 1
    for length, taps in zip(images.shape[1:3], kernel.shape[:2], strict=True):
        found *= length * (-(-(length if padding == "SAME" else length - taps + 1) // stride))
    return found


def _filter_gradient(
    images: Any, upstream: Any, shape: Any, stride: int, padding: str, rounded: bool
) -> Any:
    import tensorflow as tf

    _, height, width, channels = images.shape
    rows, columns = upstream.shape[1:3]
    factor = tf.bfloat16 if rounded else images.dtype
    pixels = tf.cast(tf.reshape(images, (-1, height * width, channels)), factor)
    outputs = tf.cast(tf.reshape(upstream, (-1, rows * columns, channels)), factor)
    products = tf.matmul(tf.transpose(pixels, (2, 1, 0)), tf.transpose(outputs, (2, 0, 1)))
    products = tf.cast(tf.reshape(products, (channels, -1)), images.dtype)
    taps = _taps((height, width), (rows, columns), tuple(shape[:2]), stride, padding)
    summed = tf.matmul(products, tf.constant(taps, products.dtype))
    return tf.reshape(tf.transpose(summed), shape)


def _taps(size: _Sides, outputs: _Sides, kernel: _Sides, stride: int, padding: str) -> np.ndarray:
    """Which tap connects a pixel with an output: 0 or 1, float32 ``[pixels * outputs, taps]``."""

    def along(length: int, out: int, taps: int) -> np.ndarray:
        before = max((out - 1) * stride + taps - length, 0) // 2 if padding == "SAME" else 0
        pixel, output, tap = np.ogrid[:length, :out, :taps]
        return np.asarray(pixel == output * stride + tap - before, np.float32)

    down, across = (along(*each) for each in zip(size, outputs, kernel, strict=True))
    return np.einsum("ghi,klj->gkhlij", down, across).reshape(-1, kernel[0] * kernel[1])
