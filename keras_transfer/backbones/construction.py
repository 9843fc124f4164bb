"""Builds a backbone: one flat graph from uint8 RGB to feature map, with its weights."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.backbones import registry
from keras_transfer.backbones.blocks import block_map
from keras_transfer.backbones.naming import canonical_names
from keras_transfer.backbones.weights import assign, resolve
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Backbone, BackboneSpec

if TYPE_CHECKING:
    import keras

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

# Each mode maps a pixel x in 0..255 to x * scale + offset, after turning RGB to BGR if asked to.
MODES: dict[str, tuple[bool, tuple[float, ...], tuple[float, ...]]] = {
    "tf": (False, (1 / 127.5,), (-1.0,)),
    "symmetric": (False, (1 / 128,), (-1.0,)),
    "lite": (False, (1 / 128,), (-127 / 128,)),
    "torch": (
        False,
        tuple(1 / (255 * std) for std in _IMAGENET_STD),
        tuple(-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)),
    ),
    "caffe": (True, (1.0,), (-103.939, -116.779, -123.68)),
}

_BUILDING = threading.Lock()


def build(
    name: str, *, image_size: int | tuple[int, int] | None = None, weights: str = "offline"
) -> Backbone:
    """Builds a backbone.

    Args:
        name: a name in the registry.
        image_size: height and width in pixels, one number for both; default the network's own.
        weights: ``"offline"`` (from an installed package), ``"imagenet"`` (Keras's download),
            ``"none"`` (random), a file (``.keras``, ``.weights.h5``, ``_notop.h5``) or the
            folder of an earlier run, whose head is dropped.

    Returns:
        The backbone; its model takes uint8 RGB ``[batch, height, width, 3]``, does its own
        preprocessing, and returns a float32 feature map ``[batch, h, w, channels]``.

    Raises:
        UsageError: the name is unknown or the image size is not one that the network takes.
        WeightsError: the weights cannot be had, are damaged, or belong to another architecture.

    >>> build("MobileNetV3Small", image_size=64, weights="none").model.output_shape
    (None, 2, 2, 576)
    """
    row = registry.spec(name)
    size = _checked_size(row, image_size)
    source = resolve(row, weights)
    with contextlib.nullcontext() if source is None else unset_weights():
        model = construct(row, size)
    if source is not None:
        assign(model, source, row)
    return Backbone(
        spec=row,
        model=model,
        blocks=block_map(model, row),
        weights=weights,
        weights_digest=digest(model),
    )


@contextlib.contextmanager
def unset_weights() -> Iterator[None]:
    """Layers that this thread makes within the block begin with zeros: their weights follow.

    Drawing random ones takes much of the time to build a network, and with JAX, which compiles a
    function for every shape, most of it.
    """
    import keras

    here = threading.get_ident()

    def add_weight(
        self: Any, shape: Any = None, initializer: Any = None, *rest: Any, **options: Any
    ) -> Any:
        if threading.get_ident() == here:
            initializer = _zeros
        return own(self, shape, initializer, *rest, **options)

    with _BUILDING:
        own = keras.layers.Layer.add_weight
        keras.layers.Layer.add_weight = add_weight
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = own


def _zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.zeros(shape, dtype)


def construct(row: BackboneSpec, size: tuple[int, int]) -> keras.Model:
    """Builds the graph with random weights, preprocessing included, without a head."""
    import keras

    images = keras.Input((*size, 3), dtype="uint8", name="image")
    inputs = preprocess(images, row.preprocessing)
    own = registry.layers_of(row)
    if own is not None:
        model = keras.Model(images, own(inputs))
    else:
        model = _published(row, inputs)
    renamed = canonical_names(operation.name for operation in model.operations)
    for operation in model.operations:
        operation.name = renamed[operation.name]
    return keras.Model(model.inputs[0], model.outputs[0], name=row.name)


def _published(row: BackboneSpec, inputs: keras.KerasTensor) -> keras.Model:
    """Builds a network on preprocessed images by its constructor in Keras Applications."""
    import keras

    module, function = row.constructor.split(":")
    constructor: Callable[..., keras.Model] = getattr(importlib.import_module(module), function)
    arguments: dict[str, Any] = {"include_top": False, "weights": None, "input_tensor": inputs}
    if "include_preprocessing" in inspect.signature(constructor).parameters:
        arguments["include_preprocessing"] = False
    model = constructor(**arguments)
    if any(isinstance(layer, (keras.Model, keras.layers.Normalization)) for layer in model.layers):
        model = _flatten(model)
    return model


def preprocess(images: keras.KerasTensor, mode: str) -> keras.KerasTensor:
    """Applies a preprocessing mode to RGB pixels 0..255 with standard layers, in float32."""
    import keras

    flipped, scale, offset = MODES[mode]
    x = images
    if flipped:
        x = keras.ops.take(x, [2, 1, 0], axis=-1)
    scales, offsets = (part[0] if len(part) == 1 else list(part) for part in (scale, offset))
    return keras.layers.Rescaling(scales, offsets, dtype="float32", name="preprocessing")(x)


def _flatten(model: keras.Model) -> keras.Model:
    """Replaces nested models by their layers, and drops the constructor's own preprocessing.

    ConvNeXt nests its stem and downsampling layers; EfficientNet always brings a Rescaling and a
    Normalization whose numbers differ between its sources of weights.
    """
    import keras

    own = (keras.layers.Rescaling, keras.layers.Normalization)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            for inner in layer.layers:
                args = (inner(*args),)
            return args[0]
        if isinstance(layer, own) and layer.name != "preprocessing":
            return args[0]
        return layer(*args, **kwargs)

    return keras.models.clone_model(
        model,
        clone_function=lambda layer: layer.from_config(layer.get_config()),
        call_function=call,
    )


def _checked_size(row: BackboneSpec, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    wanted = row.image_size if image_size is None else image_size
    height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
    if row.fixed_size and (height, width) != (row.image_size, row.image_size):
        raise UsageError(
            f"{row.name} takes images of {row.image_size} px only; received {height} x {width}.",
            remedy=f"Use --image-size {row.image_size}, or another backbone.",
        )
    if min(height, width) < row.min_size:
        raise UsageError(
            f"{row.name} needs images of at least {row.min_size} px; received {height} x {width}.",
            remedy=f"Use --image-size {row.min_size} or more, or another backbone.",
        )
    return height, width


def digest(model: keras.Model) -> str:
    """SHA-256 over the names, shapes and values of all weights, in hexadecimal."""
    total = hashlib.sha256()
    for layer in model.layers:
        for array in layer.get_weights():
            total.update(f"{layer.name}{array.shape}{array.dtype}".encode())
            total.update(array.tobytes())
    return total.hexdigest()
