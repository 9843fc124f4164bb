"""Google's speech embedding (Lin et al. 2020, "Training keyword spotters with limited and
synthesized speech data", arXiv:2002.01322), with BatchNorm folded into its convolutions.

From a log-mel spectrogram ``[frames, 32, 1]`` to one vector of 96 for every 80 ms, each of which
hears 76 frames (0.78 s): ``[places, 1, 96]``.
"""

from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.base.inference import openvino_core

SLOPE, LEAST = 0.2, -0.4
"""Of what follows each convolution: ``max(leaky_relu(x), LEAST)``."""

_GROUPS = ((24, 0), (48, 2), (72, 1), (96, 2), (96, 1))
"""Filters of each group of convolutions; and, but for the first, the stride in time of the pooling
before it. Every pooling halves the bands."""


def SpeechEmbedding(*, input_tensor: Any, **_: Any) -> Any:
    """Builds the network on a spectrogram, with random weights."""
    import keras
    from keras import layers

    x = input_tensor
    for number, (filters, stride) in enumerate(_GROUPS, start=1):
        name = f"block{number}_conv"
        if stride:
            x = layers.MaxPooling2D((stride, 2), name=f"block{number - 1}_pool")(x)
            kernels = [(1, 3), (3, 1), (1, 3), (3, 1)]
        else:
            x = layers.ZeroPadding2D((0, 1), name="block1_pad")(x)
            kernels = [(3, 3), (1, 3), (3, 1)]
        for index, kernel in enumerate(kernels):
            x = _convolution(x, filters, kernel, f"{name}{index}")
    x = layers.MaxPooling2D((2, 2), name=f"block{len(_GROUPS)}_pool")(x)
    x = layers.Conv2D(96, (3, 1), use_bias=False, name="top_conv")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)


def _convolution(x: Any, filters: int, kernel: tuple[int, int], name: str) -> Any:
    from keras import layers, ops

    padding = "same" if kernel == (1, 3) else "valid"
    x = layers.Conv2D(filters, kernel, padding=padding, name=name)(x)
    return ops.maximum(layers.LeakyReLU(SLOPE, name=f"{name}_leaky")(x), LEAST)


def published(name: str, path: Path) -> dict[str, list[np.ndarray]]:
    """Reads the ONNX file of the embedding.

    Returns:
        Of each convolution the kernel ``[height, width, in, out]``, and the bias but for the last,
        in the order of the network.
    """
    found: dict[str, list[np.ndarray]] = {}
    for operation in openvino_core().read_model(path).get_ordered_ops():
        if operation.get_type_name() == "Constant" and "/Conv2D" in operation.get_friendly_name():
            layer = operation.get_friendly_name().split("/")[1]
            array = np.array(operation.data)
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
            found.setdefault(layer, []).append(array)
    ordered = sorted(found, key=lambda layer: (len(layer), layer))
    return {layer: sorted(found[layer], key=np.ndim, reverse=True) for layer in ordered}
