"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6 for swish.

Both changes make the network fit for full-integer arithmetic on phones (TensorFlow blog,
"Higher accuracy on vision models with EfficientNet-Lite", 2020). Stem, top and the number of
blocks in the first and the last stage are not scaled with the network.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.backbones.checkpoint import keras_layers, read_checkpoint

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
_DROP = 0.2  # the last block is dropped with this probability, those below in proportion


def _blocks(network: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Name, kernel, filters, expansion and stride of each block."""
    width, depth = _SCALING[network]
    for stage, (kernel, count, filters, expansion, stride) in enumerate(_STAGES):
        repeats = count if stage in (0, len(_STAGES) - 1) else math.ceil(depth * count)
        for index in range(repeats):
            name = f"block{stage + 1}{'abcdefgh'[index]}"
            yield name, kernel, _scaled(filters, width), expansion, 1 if index else stride


def _scaled(filters: int, width: float, divisor: int = 8) -> int:
    """Scales a channel count to the nearest multiple of ``divisor``, never 10 % below."""
    scaled = filters * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def _network(network: str, *, input_tensor: Any, **_: Any) -> Any:
    """Builds the network on a tensor, its top left off, with random weights."""
    # Built here, since Keras's constructor puts a preprocessing of its own into every graph.
    import keras
    from keras import layers

    blocks = list(_blocks(network))
    x = _normalised(_convolution(input_tensor, "stem_conv", _STEM, 3, 2), "stem")
    for number, (name, kernel, filters, expansion, stride) in enumerate(blocks):
        entry = x  # each an inverted residual block (Sandler et al. 2018)
        if expansion > 1:
            x = _convolution(x, f"{name}_expand_conv", expansion * x.shape[-1])
            x = _normalised(x, f"{name}_expand")
        x = _normalised(_convolution(x, f"{name}_dwconv", None, kernel, stride), name)
        x = _convolution(x, f"{name}_project_conv", filters)
        x = _normalised(x, f"{name}_project", activated=False)
        if stride == 1 and filters == entry.shape[-1]:
            if drop := _DROP * number / len(blocks):
                x = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
            x = layers.Add(name=f"{name}_add")([x, entry])
    x = _normalised(_convolution(x, "top_conv", _TOP), "top")
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x, name=network.lower())


EfficientNetLite0 = functools.partial(_network, "EfficientNetLite0")
EfficientNetLite1 = functools.partial(_network, "EfficientNetLite1")
EfficientNetLite2 = functools.partial(_network, "EfficientNetLite2")


def _convolution(x: Any, name: str, filters: int | None, kernel: int = 1, stride: int = 1) -> Any:
    """A convolution without bias, depthwise without ``filters``, padded as TensorFlow does."""
    from keras import initializers, layers

    if stride > 1:  # TensorFlow's own padding adds more at the end
        half = kernel // 2
        sides = tuple((half - 1 + (side or 0) % 2, half) for side in x.shape[1:3])
        x = layers.ZeroPadding2D(sides, name=f"{name}_pad")(x)
    padding = "valid" if stride > 1 else "same"
    settings = {"strides": stride, "padding": padding, "use_bias": False, "name": name}
    initial = initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")
    if filters is None:
        return layers.DepthwiseConv2D(kernel, depthwise_initializer=initial, **settings)(x)
    return layers.Conv2D(filters, kernel, kernel_initializer=initial, **settings)(x)


def _normalised(x: Any, name: str, *, activated: bool = True) -> Any:
    from keras import layers

    x = layers.BatchNormalization(axis=3, name=f"{name}_bn")(x)
    return layers.Activation("relu6", name=f"{name}_activation")(x) if activated else x


def published(name: str, path: Path) -> dict[str, list[np.ndarray]]:
    """Reads a checkpoint of PyTorch, the 1,000-class top at its end."""
    return keras_layers(read_checkpoint(path))
