"""Builds a backbone: one flat graph from examples to feature map, with its weights."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.backbones import registry
from keras_transfer.backbones.adoption import adopt, inline, keras_model, opened
from keras_transfer.backbones.blocks import block_map
from keras_transfer.backbones.weights import assign, digest, resolve, unset_weights
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Backbone, BackboneSpec, Size
from keras_transfer.modalities import modality
from keras_transfer.recipe import read, reads_arguments

if TYPE_CHECKING:
    import keras


@reads_arguments
def build(
    name: str | keras.Model,
    *,
    image_size: Size | None = None,
    weights: str = "offline",
    preprocessing: str | None = None,
) -> Backbone:
    """Builds a backbone.

    Args:
        name: a name in the registry; or a model of one's own, whose weights are taken as they are,
            see ``adoption.adopt``, or the ``.keras`` file of one.
        image_size: height and width in pixels, one number for both, or tokens, or seconds; default
            the network's own.
        weights: ``"offline"`` (from an installed package), ``"imagenet"`` (Keras's download),
            ``"none"`` (random), a file (``.keras``, ``.weights.h5``, ``_notop.h5``) or the
            folder of an earlier run, whose head is dropped.
        preprocessing: what a model of one's own expects, see ``adopt``.

    Returns:
        The backbone; its model takes uint8 RGB ``[batch, height, width, 3]``, ids or samples, does
        its own preprocessing, and returns float32 features, such as a map ``[batch, h, w, n]``.

    Raises:
        UsageError: the name is unknown or the image size is not one that the network takes.
        WeightsError: the weights cannot be had, are damaged, or belong to another architecture.

    >>> build("MobileNetV3Small", image_size=64, weights="none").model.output_shape
    (None, 2, 2, 576)
    """
    import keras

    if isinstance(name, str) and name.endswith(".keras"):
        return opened(Path(name))
    if isinstance(name, keras.Model):
        return adopt(name, size=image_size, preprocessing=preprocessing)
    row = registry.spec(read("backbone", name))
    size, form = row.size if image_size is None else image_size, modality(row.modality)
    form.spec(size)  # refuses what is no size at all
    sides = size if isinstance(size, tuple) else (size,)
    if min(sides) < row.min_size:
        raise UsageError(
            f"{row.name} takes a size of {row.min_size} or more; received "
            f"{' x '.join(map(str, sides))}.",
            remedy=f"Use --{form.SIZE.replace('_', '-')} {row.min_size} or more, or another "
            "backbone.",
        )
    source = resolve(row, weights)
    with contextlib.nullcontext() if source is None else unset_weights():
        arrays = source.arrays if source else {}
        model = _construct(row, registry.layers_of(row.name), size, arrays)
    if source is not None:
        assign(model, source, row)
    return Backbone(row, model, block_map(model, row), weights, digest(model))


@reads_arguments
def register(
    name: str, layers: registry.Layers, *, image_size: int, preprocessing: str = "tf", **facts: Any
) -> BackboneSpec:
    """Adds a backbone of one's own to the registry of this process.

    Every function then takes it by name. A network that many should have is better added as a row
    of ``modalities/image/backbones.csv``.

    Args:
        name: the name by which to ask for it.
        layers: takes the preprocessed images, a symbolic float32 ``[batch, height, width, 3]``,
            puts layers on them and returns the feature map ``[batch, h, w, channels]`` or vector.
        image_size: default height and width in pixels.
        preprocessing: what becomes of pixels 0..255: ``tf`` (to -1..1), ``torch`` (ImageNet's mean
            and deviation), ``caffe`` (BGR, mean subtracted), ``symmetric``, ``lite`` or ``none``.
        facts: other fields of :class:`keras_transfer.base.types.BackboneSpec`: ``min_size``
            (32 pixels), ``blocks`` (by default layers ``block1_...``, ``block2a_...`` and so on
            make blocks of these names), ``licence``, ``int8_safe``, ``advice``.

    Returns:
        Its row, the parameters counted.

    Raises:
        UsageError: the name is one of the built-in backbones', or the preprocessing is unknown.
    """
    facts = {"weights": ("none",), "advice": "Registered by its user.", **facts}
    row = BackboneSpec(name, "", image_size, preprocessing=preprocessing, **facts)
    built = _construct(row, layers, image_size, {})
    row = dataclasses.replace(row, parameters=built.count_params())
    registry.add(row, layers)
    return row


def _construct(
    row: BackboneSpec,
    layers: registry.Layers | None,
    size: Any,
    arrays: Mapping[str, list[np.ndarray]],
) -> keras.Model:
    """Builds the graph with random weights, preprocessing included, without a head."""
    # A network that comes in more than one shape takes that of the arrays which it will be given.
    examples, inputs = modality(row.modality).entrance(size, row.preprocessing)
    outputs = layers(inputs) if layers else _published(row, examples, inputs, arrays)
    return keras_model(examples, outputs, row.name)


def _published(
    row: BackboneSpec, examples: Any, inputs: Any, arrays: Mapping[str, list[np.ndarray]]
) -> Any:
    """Builds a network on preprocessed examples by its constructor, such as Keras Applications'."""
    # ConvNeXt nests its stem and downsampling layers; EfficientNet always brings a Rescaling and a
    # Normalization whose numbers differ between its sources of weights. Neither is wanted.
    import keras

    module, function = row.constructor.split(":")
    constructor = getattr(importlib.import_module(module), function)
    arguments: dict[str, Any] = {"include_top": False, "weights": None, "input_tensor": inputs}
    settings = {"include_preprocessing": False, "arrays": arrays}
    known = inspect.signature(constructor).parameters
    arguments |= {name: value for name, value in settings.items() if name in known}
    model = constructor(**arguments)
    own = (keras.layers.Rescaling, keras.layers.Normalization)
    if not any(isinstance(layer, (keras.Model, own[1])) for layer in model.layers):
        return model.outputs[0]
    return inline(
        model, [examples], [], lambda one: isinstance(one, own) and one.name != "preprocessing"
    )[0]
