"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6 for swish.

Both changes make the network fit for full-integer arithmetic on phones (TensorFlow blog,
"Higher accuracy on vision models with EfficientNet-Lite", 2020). Stem, top and the number of
blocks in the first and the last stage are not scaled with the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_transfer.base.errors import WeightsError

# Width and depth multipliers (Tan and Le 2019, table 1, as the Lite networks use them).
_SCALING = {
    "EfficientNetLite0": (1.0, 1.0),
    "EfficientNetLite1": (1.0, 1.1),
    "EfficientNetLite2": (1.1, 1.2),
}
# Kernel, blocks, filters, expansion and stride of each stage (the same table).
_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)
_STEM, _TOP = 32, 1280
# The last block is dropped with this probability, those below in proportion.
_DROP = 0.2


def EfficientNetLite0(**arguments: Any) -> Any:
    """Builds EfficientNet-Lite0 on ``input_tensor``, its top left off, with random weights."""
    return _build("EfficientNetLite0", **arguments)


def EfficientNetLite1(**arguments: Any) -> Any:
    """Builds EfficientNet-Lite1, as :func:`EfficientNetLite0`."""
    return _build("EfficientNetLite1", **arguments)


def EfficientNetLite2(**arguments: Any) -> Any:
    """Builds EfficientNet-Lite2, as :func:`EfficientNetLite0`."""
    return _build("EfficientNetLite2", **arguments)


def _build(
    name: str, *, input_tensor: Any, include_top: bool = False, weights: str | None = None
) -> Any:
    """Built here, since Keras's constructor puts a preprocessing of its own into every graph."""
    import keras

    assert not include_top
    assert weights is None
    width, names = _SCALING[name][0], _block_names(name)
    blocks = iter(enumerate(names))
    x = _norm(_convolution(_pad(input_tensor, 3, "stem_conv"), _STEM, "stem_conv", 3, 2), "stem_bn")
    x = keras.layers.Activation("relu6", name="stem_activation")(x)
    for (kernel, _, filters, expansion, stride), repeats in zip(
        _STAGES, _repeats(name), strict=True
    ):
        for index in range(repeats):
            number, block = next(blocks)
            x = _block(
                x, block, kernel, _scaled(filters, width), expansion,
                1 if index else stride, _DROP * number / len(names),
            )  # fmt: skip
    x = _norm(_convolution(x, _TOP, "top_conv"), "top_bn")
    x = keras.layers.Activation("relu6", name="top_activation")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x, name=name.lower())


def _block(
    inputs: Any, name: str, kernel: int, filters: int, expansion: int, stride: int, drop: float
) -> Any:
    """An inverted residual block (Sandler et al. 2018)."""
    from keras import layers

    x = inputs
    if expansion > 1:
        wide = expansion * inputs.shape[-1]
        x = _norm(_convolution(x, wide, f"{name}_expand_conv"), f"{name}_expand_bn")
        x = layers.Activation("relu6", name=f"{name}_expand_activation")(x)
    if stride > 1:
        x = _pad(x, kernel, f"{name}_dwconv")
    x = layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        depthwise_initializer=_initial(),
        name=f"{name}_dwconv",
    )(x)
    x = layers.Activation("relu6", name=f"{name}_activation")(_norm(x, f"{name}_bn"))
    x = _norm(_convolution(x, filters, f"{name}_project_conv"), f"{name}_project_bn")
    if stride > 1 or filters != inputs.shape[-1]:
        return x
    if drop:
        x = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    return layers.Add(name=f"{name}_add")([x, inputs])


def _convolution(x: Any, filters: int, name: str, kernel: int = 1, stride: int = 1) -> Any:
    from keras import layers

    return layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        kernel_initializer=_initial(),
        name=name,
    )(x)


def _norm(x: Any, name: str) -> Any:
    from keras import layers

    return layers.BatchNormalization(axis=3, name=name)(x)


def _pad(x: Any, kernel: int, name: str) -> Any:
    """What TensorFlow's own padding would add before a stride of 2: more at the end."""
    from keras import layers

    half = kernel // 2
    sides = tuple((half - 1 + (side or 0) % 2, half) for side in x.shape[1:3])
    return layers.ZeroPadding2D(sides, name=f"{name}_pad")(x)


def _initial() -> Any:
    import keras

    return keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")


def _scaled(filters: int, width: float, divisor: int = 8) -> int:
    """Scales a channel count to the nearest multiple of ``divisor``, never 10 % below."""
    scaled = filters * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def from_torch(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Renames and transposes a PyTorch EfficientNet-Lite checkpoint for the Keras graph.

    Args:
        name: the backbone's name, for the message.
        tensors: the checkpoint's state dictionary; convolutions ``[out, in, height, width]``.

    Returns:
        Arrays by Keras layer name, in the order of the layer's weights; ``predictions`` is the
        1,000-class top.

    Raises:
        WeightsError: a tensor that the network needs is not in the checkpoint.
    """
    converted: dict[str, list[np.ndarray]] = {}

    def convolution(layer: str, key: str, *, depthwise: bool = False) -> None:
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        converted[layer] = [tensors[f"{key}.weight"].transpose(axes)]

    def batch_norm(layer: str, key: str) -> None:
        parts = ("weight", "bias", "running_mean", "running_var")
        converted[layer] = [tensors[f"{key}.{part}"] for part in parts]

    try:
        convolution("stem_conv", "_conv_stem")
        batch_norm("stem_bn", "_bn0")
        for index, block in enumerate(_block_names(name)):
            key = f"_blocks.{index}"
            expanded = f"{key}._expand_conv.weight" in tensors
            if expanded:
                convolution(f"{block}_expand_conv", f"{key}._expand_conv")
                batch_norm(f"{block}_expand_bn", f"{key}._bn0")
            convolution(f"{block}_dwconv", f"{key}._depthwise_conv", depthwise=True)
            batch_norm(f"{block}_bn", f"{key}._bn1")
            convolution(f"{block}_project_conv", f"{key}._project_conv")
            batch_norm(f"{block}_project_bn", f"{key}._bn2")
        convolution("top_conv", "_conv_head")
        batch_norm("top_bn", "_bn1")
        converted["predictions"] = [tensors["_fc.weight"].T, tensors["_fc.bias"]]
    except KeyError as error:
        raise WeightsError(
            f"The checkpoint is not one of {name}: it has no tensor {error}.",
            remedy=f"Use the checkpoint of {name}, or name the backbone that it belongs to.",
        ) from error
    return converted


def _block_names(name: str) -> list[str]:
    return [
        f"block{stage}{chr(ord('a') + index)}"
        for stage, count in enumerate(_repeats(name), start=1)
        for index in range(count)
    ]


def _repeats(name: str) -> list[int]:
    counts = [count for _, count, *_ in _STAGES]
    deep = [math.ceil(_SCALING[name][1] * count) for count in counts[1:-1]]
    return [counts[0], *deep, counts[-1]]
