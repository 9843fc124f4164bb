"""A network of somebody's own as a backbone: a functional model, without registering it."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transfer.backbones.blocks import block_map
from keras_transfer.backbones.graph import cuts, trace
from keras_transfer.backbones.naming import canonical_names, label
from keras_transfer.backbones.weight_files import load_model
from keras_transfer.backbones.weights import digest, normalise_by_weights, unset_weights
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Backbone, BackboneSpec, Patterns, Size
from keras_transfer.modalities import MODALITIES
from keras_transfer.modalities.protocol import layers_within

if TYPE_CHECKING:
    import keras

OWN, FILE = "own", "backbone.keras"
"""What the weights are said to be from; the file of a run folder that holds such a backbone."""


def adopt(
    model: keras.Model, *, size: Size | None = None, preprocessing: str | None = None
) -> Backbone:
    """A backbone with the graph and the weights of a model, which stays as it is.

    Args:
        model: functional, such as KerasHub's; takes images ``[batch, height, width, 3]``, token ids
            ``[batch, tokens]`` or samples ``[batch, samples]``, and returns a map, a sequence or a
            vector. What else it may be, ``adopted`` of each modality says.
        size: height and width in pixels, tokens, or seconds; by default the model's own, else 224,
            256 and 10 or what suits the data.
        preprocessing: what becomes of pixels 0..255 before the model sees them, see ``register``;
            ``none`` leaves them as they are. By default read from the model: ``none`` where it
            scales them itself by a Rescaling or Normalization. Of texts its ``vocab.txt``, which
            must be BERT's; of sounds ``int16`` for their levels.

    Raises:
        UsageError: the model is none of this, or it cannot be told how it takes examples.
    """
    import keras

    kind = type(model).__name__
    name = re.sub(r"_\d+$", "", model.name)  # where Keras made it up
    name = name if name.replace("_", "") == kind.lower() else model.name
    name = "model" if kind in ("Functional", "Sequential") and name == kind.lower() else name
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs)
    trace(model)  # refuses what has no graph
    _check(model, name)
    entered = [layer.name for layer in model.layers[:2]] == ["image", "preprocessing"]
    if entered or model.name.startswith(f"{OWN}-"):  # as this function or a registered one made it
        return _described(model, model.name)
    pairs: list[tuple[Any, Any]] = []
    put = functools.partial(inline, model, pairs=pairs)
    try:
        with unset_weights():
            found = (one.adopted(model, put, size, preprocessing) for one in MODALITIES.values())
            entrance = next((one for one in found if one is not None), None)
            built = entrance and keras_model(*entrance, f"{OWN}-{name}")
        for old, new in pairs:
            new.set_weights(old.get_weights())
            normalise_by_weights(new)
    except (TypeError, ValueError) as error:  # of Keras, or of a layer of somebody's own
        of = "" if size is None else f" for a size of {size}"
        problem = f"{name} cannot be built again{of}: {str(error).splitlines()[0]}"
        remedy = "Give it at its own size, of layers that their get_config() describes."
        raise UsageError(problem, remedy=remedy) from None
    if built is None:
        shapes = ", ".join(str(tuple(one.shape)) for one in [*model.inputs, *model.outputs])
        problem = f"{name} has inputs and outputs of shapes {shapes}."
        remedy = "Give a model of one image [height, width, 3], of int32 token ids [tokens] or of "
        raise UsageError(problem, remedy=f"{remedy}float32 samples [samples], and of one output.")
    described = _described(built, built.name)
    unsettled = size is None and any(None in one.shape[1:] for one in model.inputs)
    again = functools.partial(adopt, model, preprocessing=preprocessing)
    return dataclasses.replace(described, at=(lambda size: again(size=size)) if unsettled else None)


def _check(model: keras.Model, name: str) -> None:
    """Refuses what would not do in a backbone what it does by itself."""
    import keras

    if getattr(getattr(model.layers[-1], "activation", None), "__name__", "") == "softmax":
        problem = f"{name} ends with the probabilities of its own classes."
        raise UsageError(problem, remedy="Give it without its head (include_top=False).")
    for layer in layers_within(model):
        for part in layer._flatten_layers():
            kind = type(part).__name__
            if kind.startswith("Random"):
                problem = f"{name} has a {kind}, which would never change anything: "
                problem += "what is frozen is computed once, in inference mode."
                remedy = "Leave it out; views and strength say how training examples are augmented."
                raise UsageError(problem, remedy=remedy)
            if part is not layer and isinstance(part, keras.layers.BatchNormalization):
                problem = f"{name} has a {kind} within {layer.name}, where it cannot be frozen."
                raise UsageError(problem, remedy="Build the model of that layer's own parts.")
            if getattr(part, "mask_zero", False) or isinstance(part, keras.layers.Masking):
                problem = f"{name} hands on a mask from {part.name}, which would end at a cut."
                remedy = "Leave mask_zero and Masking out, and take a second input padding_mask."
                raise UsageError(problem, remedy=remedy)


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
    inputs: Sequence[Any],
    pairs: list[tuple[Any, Any]],
    skip: Callable[[Any], bool] = lambda layer: False,
) -> list[Any]:
    """Puts copies of a functional model's layers on tensors, those of nested models too.

    Args:
        model: of any inputs and outputs.
        inputs: what its inputs are.
        pairs: receives each layer with its copy, whose weights are to follow.
        skip: which layers are left out.

    Returns:
        What its outputs are.
    """
    import keras

    held = dict(zip(map(id, model.inputs), inputs, strict=True))
    for node in trace(model).values():
        if node.is_input:
            continue
        args, kwargs = node.arguments.fill_in(held)
        layer = node.operation
        if skip(layer):
            value = args[0]
        elif isinstance(layer, keras.Model):
            nested = keras.Model(layer.inputs, layer.outputs)
            value = inline(nested, keras.tree.flatten(args[0]), pairs, skip)
        else:
            copied = layer.from_config(layer.get_config())
            value = copied(*args, **kwargs)
            if isinstance(layer, keras.layers.Layer):
                pairs.append((layer, copied))
        made = keras.tree.flatten(value)
        held.update(zip(map(id, node.output_tensors), made, strict=True))
    return [held[id(one)] for one in model.outputs]


def _described(model: keras.Model, name: str) -> Backbone:
    shape, kind = model.input_shape[1:], model.inputs[0].dtype
    form = next(one for one in MODALITIES.values() if one.spec_of(shape, kind))
    row = BackboneSpec(
        name, "", form.size_of(shape), "none", model.count_params(), modality=form.NAME,
        blocks=_blocks(model), min_size=1, weights=(OWN,), advice="A model of its user's own.",
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
