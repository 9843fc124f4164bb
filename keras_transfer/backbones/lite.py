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

from keras_transfer.errors import WeightsError

# Width and depth multipliers (Tan and Le 2019, table 1, as the Lite networks use them).
_SCALING = {
    "EfficientNetLite0": (1.0, 1.0, 224),
    "EfficientNetLite1": (1.0, 1.1, 240),
    "EfficientNetLite2": (1.1, 1.2, 260),
}


def EfficientNetLite0(**arguments: Any) -> Any:
    """Builds EfficientNet-Lite0; takes the arguments of ``keras.applications.EfficientNetB0``."""
    return _build("EfficientNetLite0", **arguments)


def EfficientNetLite1(**arguments: Any) -> Any:
    """Builds EfficientNet-Lite1; takes the arguments of ``keras.applications.EfficientNetB0``."""
    return _build("EfficientNetLite1", **arguments)


def EfficientNetLite2(**arguments: Any) -> Any:
    """Builds EfficientNet-Lite2; takes the arguments of ``keras.applications.EfficientNetB0``."""
    return _build("EfficientNetLite2", **arguments)


def _build(name: str, **arguments: Any) -> Any:
    from keras.src.applications import efficientnet

    width, depth, size = _SCALING[name]
    stages = []
    for index, stage in enumerate(efficientnet.DEFAULT_BLOCKS_ARGS):
        ends = index in (0, len(efficientnet.DEFAULT_BLOCKS_ARGS) - 1)
        stages.append(
            {
                **stage,
                "se_ratio": 0,
                "repeats": stage["repeats"] if ends else math.ceil(depth * stage["repeats"]),
                "filters_in": _scaled(stage["filters_in"], 1.0 if index == 0 else width),
                "filters_out": _scaled(stage["filters_out"], width),
            }
        )
    arguments = {"weights": None, "name": name.lower(), **arguments}
    return efficientnet.EfficientNet(
        1.0, 1.0, size, activation="relu6", blocks_args=stages, **arguments
    )


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
    depth = _SCALING[name][1]
    repeats = [1, *(math.ceil(depth * count) for count in (2, 2, 3, 3, 4)), 1]
    return [
        f"block{stage}{chr(ord('a') + index)}"
        for stage, count in enumerate(repeats, start=1)
        for index in range(count)
    ]
