"""Copies of a functional model that share nothing with it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_transfer.backbones.naming import constant
from keras_transfer.backbones.weights import normalise_by_weights, unset_weights
from keras_transfer.base.compute import PLAIN, Compute
from keras_transfer.base.types import LEVELS, LOGITS, POOL, PROBABILITIES, TEMPERATURE, Backbone

# Layers that compute in float32 whatever the policy: pixels in, means and the head out.
_FLOAT32 = ("preprocessing", POOL, LEVELS, "head_", LOGITS, TEMPERATURE, PROBABILITIES)


def copy_of(backbone: Backbone) -> Backbone:
    """A backbone with a model of its own, so that training it leaves the caller's as it was.

    Takes as long as building the network.

    Returns:
        The same blocks and equal weights in other variables; every layer of the copy but the
        preprocessing is trainable, whatever is frozen in the original.
    """
    model = _clone(backbone.model)
    for layer in model.layers:
        layer.trainable = not constant(layer)
    return dataclasses.replace(backbone, model=model)


def working_copy(model: keras.Model, compute: Compute) -> keras.Model:
    """A copy of a part of a classifier that computes in another type or is shared.

    Args:
        model: the part; it stays as it is, in float32 on one device.
        compute: how the copy computes. Pixels are scaled, and features pooled and classified, in
            float32 in any case.

    Returns:
        The copy, its variables in the order of the model's; the model itself where one device and
        float32 are asked for.
    """
    policy = compute.dtype_policy
    if policy == "float32" and compute.share == 1:
        return model
    return _clone(model, lambda name: "float32" if name.startswith(_FLOAT32) else policy, compute)


def _clone(
    model: keras.Model, dtype: Callable[[str], str] | None = None, compute: Compute = PLAIN
) -> keras.Model:
    """A copy of a functional model with weights of its own and the same values; ``dtype`` gives the
    policy of a layer by its name, None leaves each its own.
    """

    def layer_like(layer: Any) -> Any:
        settings = layer.get_config()
        if dtype and isinstance(layer, keras.layers.Layer) and "dtype" in settings:
            settings["dtype"] = dtype(layer.name)
        if "synchronized" in settings:  # BatchNorm's statistics are of the whole batch
            settings["synchronized"] = compute.replicas > 1
        return type(layer).from_config(settings)

    with compute.scope(), unset_weights():
        graph = keras.Model(model.input, model.output)
        copied = keras.models.clone_model(graph, clone_function=layer_like)
        made = type(model)(copied.input, copied.output, name=model.name)
        for old, new in zip(model.layers, made.layers, strict=True):
            for theirs, mine in zip(old.variables, new.variables, strict=True):  # seeds included
                # By value: JAX would share the array, and a step gives its inputs away.
                mine.assign(np.array(theirs))
            normalise_by_weights(new)
    return made
