"""A network of somebody's own as a backbone: a functional model, without registering it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transfer.backbones.blocks import block_map
from keras_transfer.backbones.graph import cuts, trace
from keras_transfer.backbones.naming import canonical_names, label
from keras_transfer.backbones.weight_files import load_model
from keras_transfer.backbones.weights import digest, unset_weights
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Backbone, BackboneSpec, Patterns
from keras_transfer.modalities import modality

if TYPE_CHECKING:
    import keras

OWN, FILE = "own", "backbone.keras"
"""What the weights are said to be from; the file of a run folder that holds such a backbone."""


def adopt(model: keras.Model, *, size: Any = None, preprocessing: str | None = None) -> Backbone:
    """A backbone with the graph and the weights of a model, which stays as it is.

    Args:
        model: functional; takes images ``[batch, height, width, 3]`` and returns a feature map or
            vector. KerasHub's are such models.
        size: height and width in pixels; by default the model's own, else 224.
        preprocessing: what becomes of pixels 0..255 before the model sees them, see ``register``;
            ``none`` leaves them as they are. By default read from the model: ``none`` where it
            scales them itself by a Rescaling or Normalization.

    Raises:
        UsageError: the model is none of this, or it cannot be told how it takes pixels.
    """
    import keras

    form, name = modality("image"), re.sub(r"^(functional|sequential)(_\d+)?$", "model", model.name)
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs)
    trace(model)  # refuses what has no graph
    shape = tuple(model.inputs[0].shape[1:])
    if len(model.inputs) != 1 or len(model.outputs) != 1 or shape[2:] != (3,):
        shapes = ", ".join(str(tuple(one.shape)) for one in [*model.inputs, *model.outputs])
        problem = f"{name} has inputs and outputs of shapes {shapes}."
        raise UsageError(problem, remedy="Give a model of one image [height, width, 3].")
    if getattr(getattr(model.layers[-1], "activation", None), "__name__", "") == "softmax":
        problem = f"{name} ends with the probabilities of its own classes."
        raise UsageError(problem, remedy="Give it without its head (include_top=False).")
    for layer in _layers(model):
        if isinstance(layer, keras.layers.Layer) and type(layer).__name__.startswith("Random"):
            problem = f"{name} has a {type(layer).__name__}, which would never change anything: "
            problem += "what is frozen is computed once, in inference mode."
            remedy = "Leave it out; views and strength say how training examples are augmented."
            raise UsageError(problem, remedy=remedy)
    if (model.inputs[0].name, model.layers[1].name) == ("image", "preprocessing"):
        return _described(model, name)  # as this function made it
    size = size or (form.size_of(shape) if None not in shape else 224)
    examples, x = form.entrance(size, preprocessing or _preprocessing(model))
    pairs: list[tuple[Any, Any]] = []
    try:
        with unset_weights():
            built = keras_model(examples, inline(model, x, pairs), f"{OWN}-{name}")
        for old, new in pairs:
            new.set_weights(old.get_weights())
    except (TypeError, ValueError) as error:  # of Keras, or of a layer of somebody's own
        problem = f"{name} cannot be built again for {size} pixels: {str(error).splitlines()[0]}"
        remedy = "Give it at its own size, of layers that their get_config() describes."
        raise UsageError(problem, remedy=remedy) from None
    return _described(built, built.name)


def opened(path: Path) -> Backbone:
    """A backbone of a ``.keras`` file, such as ``backbone.keras`` of a run folder.

    Raises:
        UsageError: it cannot be read, or as :func:`adopt`.
    """
    with files.reading(path, "Give a .keras file of a functional model."):
        model = load_model(path)
    return adopt(model)


def keras_model(inputs: Any, outputs: Any, name: str) -> keras.Model:
    """A functional model whose automatic names are those of a process that builds it first."""
    import keras

    model = keras.Model(inputs, outputs)
    renamed = canonical_names(operation.name for operation in model.operations)
    for operation in model.operations:
        operation.name = renamed[operation.name]
    return keras.Model(model.inputs[0], model.outputs[0], name=name)


def inline(
    model: keras.Model,
    x: Any,
    pairs: list[tuple[Any, Any]],
    skip: Callable[[Any], bool] = lambda layer: False,
) -> Any:
    """Puts copies of a functional model's layers on a tensor, those of nested models too.

    Args:
        model: of one input and one output.
        x: what its input is.
        pairs: receives each layer with its copy, whose weights are to follow.
        skip: which layers are left out.
    """
    import keras

    held = {id(model.inputs[0]): x}
    for node in trace(model).values():
        if node.is_input:
            continue
        args, kwargs = node.arguments.fill_in(held)
        layer = node.operation
        if skip(layer):
            value = args[0]
        elif isinstance(layer, keras.Model):
            value = inline(keras.Model(layer.inputs, layer.outputs), args[0], pairs, skip)
        else:
            copied = layer.from_config(layer.get_config())
            value = copied(*args, **kwargs)
            if isinstance(layer, keras.layers.Layer):
                pairs.append((layer, copied))
        made = keras.tree.flatten(value)
        held.update(zip(map(id, node.output_tensors), made, strict=True))
    return held[id(model.outputs[0])]


def _preprocessing(model: keras.Model) -> str:
    """``none``, where a model takes pixels as they are; raises UsageError."""
    import keras

    scales = (keras.layers.Rescaling, keras.layers.Normalization)
    for layer in _layers(model):
        if isinstance(layer, scales) or model.inputs[0].dtype == "uint8":
            return "none"
        if layer.weights:
            break
    problem = f"How {model.name} takes pixels is not known: it begins without a Rescaling."
    remedy = "Say it: backbone=kt.build(model, preprocessing=...) with tf, torch, caffe, symmetric "
    raise UsageError(problem, remedy=f"{remedy}or lite, or none for levels from 0 to 255.")


def _layers(model: keras.Model) -> Iterator[Any]:
    """All layers in the order of the graph, those of nested models in their place."""
    for layer in model.layers:
        yield from _layers(layer) if hasattr(layer, "layers") else [layer]


def _described(model: keras.Model, name: str) -> Backbone:
    size = modality("image").size_of(model.input_shape[1:])
    row = BackboneSpec(
        name, "", size, "none", model.count_params(), blocks=_blocks(model),
        weights=(OWN,), advice="A model of its user's own.",
    )  # fmt: skip
    return Backbone(row, model, block_map(model, row), OWN, digest(model))


def _blocks(model: keras.Model) -> Patterns:
    """Blocks by names such as ``block1_...`` where layers have them, else by number: one ends at
    each cut that has a layer with a kernel below it, since the one before."""
    usual = BackboneSpec("", "", 0, "").blocks
    nodes = trace(model)
    if len({label(name, usual) for name in nodes} - {""}) > 1:
        return usual
    patterns, done, number = list[tuple[str, str]](), frozenset[str](), 0
    for cut in cuts(nodes):
        own = [name for name in nodes if name in cut.below - done]
        weights = [w for name in own for w in getattr(nodes[name].operation, "weights", ())]
        if any(len(weight.shape) > 1 for weight in weights):
            number += 1
            patterns += [(f"^{re.escape(name)}$", f"block{number}") for name in own]
        done = cut.below
    return tuple(patterns)
