"""What lies below a network of images: uint8 pixels in, and what its weights expect out."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.base.errors import UsageError, closest
from keras_transfer.base.types import Finding
from keras_transfer.modalities.image.decoding import size_of
from keras_transfer.modalities.protocol import InputSpec, Put, layers_within

if TYPE_CHECKING:
    import keras

_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's

# Each mode maps a pixel x in 0..255 to x * scale + offset, after turning RGB to BGR if asked to.
MODES: dict[str, tuple[bool, float | list[float], float | list[float]]] = {
    "tf": (False, 1 / 127.5, -1.0),
    "symmetric": (False, 1 / 128, -1.0),
    "lite": (False, 1 / 128, -127 / 128),
    "torch": (False, (1 / (255 * _DEVIATION)).tolist(), (-_MEAN / _DEVIATION).tolist()),
    "none": (False, 1.0, 0.0),
    "caffe": (True, 1.0, [-103.939, -116.779, -123.68]),
}

# Enlarging helps networks that were trained on larger pictures, up to a point.
_SMALLEST, _ENLARGED = 96, 128
_USUAL = 224


def entrance(size: int | tuple[int, int], preprocessing: str) -> tuple[Any, Any]:
    """The input uint8 ``[height, width, 3]``, and it scaled by a mode, as standard layers in
    float32. Raises UsageError where there is no such mode.
    """
    import keras

    if preprocessing not in MODES:
        problem = f"Unknown preprocessing {preprocessing!r}.{closest(preprocessing, list(MODES))}"
        raise UsageError(problem, remedy=f"Choose one of {', '.join(MODES)}.")
    height, width = (size, size) if isinstance(size, int) else size
    images = keras.Input((height, width, 3), dtype="uint8", name="image")
    flipped, scale, offset = MODES[preprocessing]
    x = keras.ops.take(images, [2, 1, 0], axis=-1) if flipped else images
    scaled = keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")
    return images, scaled(x)


def adopted(
    model: "keras.Model", put: Put, size: Any, preprocessing: str | None
) -> tuple[Any, Any] | None:
    """Takes what has one input ``[height, width, 3]`` and one output, see ``Modality``."""
    shapes = [tuple(one.shape[1:]) for one in model.inputs]
    if len(shapes[0]) != 3 or [shape[2:] for shape in shapes] != [(3,)] or len(model.outputs) > 1:
        return None
    size = size or (_USUAL if None in shapes[0] else size_of(shapes[0]))
    images, x = entrance(size, preprocessing or _preprocessing(model))
    return images, put([x])[0]


def _preprocessing(model: "keras.Model") -> str:
    """``none``, where a model takes pixels as they are; raises UsageError."""
    import keras

    scales = (keras.layers.Rescaling, keras.layers.Normalization)
    for layer in layers_within(model):
        if isinstance(layer, scales) or model.inputs[0].dtype == "uint8":
            return "none"
        if layer.weights:
            break
    problem = f"How {model.name} takes pixels is not known: it begins without a Rescaling."
    remedy = "Say it: backbone=kt.build(model, preprocessing=...) with tf, torch, caffe, symmetric "
    raise UsageError(problem, remedy=f"{remedy}or lite, or none for levels from 0 to 255.")


def suited(sizes: Sequence[int], own: int) -> int:
    """The network's own size, unless images are less than half as large: then twice the median of
    their shorter sides, four times where that is at most 128 pixels, in whole steps of 32, and at
    least 96. Enlarging further costs time and adds no detail.
    """
    side = int(statistics.median(sizes))
    return min(own, max(_SMALLEST, -(-max(2 * side, min(4 * side, _ENLARGED)) // 32) * 32))


def losses(
    extents: Sequence[int], unknown: int, spec: InputSpec | None, some: Sequence[int]
) -> list[Finding]:
    """Nothing to say: nothing is cut off of an image unless ``fit`` asks for it."""
    return []
