"""The functional graph of a model: its order, its cut points, its cost, and splitting it.

A cut is a place where few tensors are alive. For an operation ``v`` take ``P``, ``v`` with all its
ancestors: the tensors made inside ``P`` that something outside still reads are alive there. Where
``v``'s own output is the only one, the graph can be split in two models joined by one tensor.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_transfer.base.errors import UsageError

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A functional model's operations in topological order.

    Attributes:
        order: names of all layers and operations, inputs first.
        parents: for each name, the names of those whose outputs it reads.
        operations: the layers and operations themselves.
        outputs: each one's output tensor (symbolic, batch axis first).
    """

    order: tuple[str, ...]
    parents: dict[str, tuple[str, ...]]
    operations: dict[str, Any]
    outputs: dict[str, keras.KerasTensor]


def trace(model: keras.Model) -> Graph:
    """Reads a functional model's graph.

    Raises:
        UsageError: the model is not functional, or one of its layers is called more than once.
    """
    nodes = {}
    by_depth = getattr(model, "_nodes_by_depth", {})
    for node in (node for level in by_depth.values() for node in level):
        if node.operation.name in nodes:
            raise UsageError(
                f"Model {model.name!r} calls layer {node.operation.name!r} more than once.",
                remedy="Pass a functional model that calls each of its layers once.",
            )
        nodes[node.operation.name] = node
    if not nodes:
        raise UsageError(
            f"Model {model.name!r} has no graph to cut: it is a {type(model).__name__}.",
            remedy="Pass a functional keras.Model, such as build() returns.",
        )
    order = tuple(operation.name for operation in model.operations)
    return Graph(
        order=order,
        parents={
            name: tuple(parent.operation.name for parent in nodes[name].parent_nodes)
            for name in order
        },
        operations={name: nodes[name].operation for name in order},
        outputs={name: nodes[name].output_tensors[0] for name in order},
    )


def tensors(model: keras.Model, names: Sequence[str]) -> list[keras.KerasTensor]:
    """The outputs of a functional model's layers and operations, which ``get_layer`` leaves out.

    Args:
        model: as for :func:`trace`.
        names: such as those of a cut.
    """
    outputs = trace(model).outputs
    return [outputs[name] for name in names]


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place to split: the layers whose outputs are alive, and all that is computed below.

    Attributes:
        alive: names of the layers whose outputs cross the cut, in topological order.
        below: names of all layers under the cut, those of ``alive`` included.
    """

    alive: tuple[str, ...]
    below: frozenset[str]


def cuts(graph: Graph, *, pairs: str = "", end: str | None = None) -> list[Cut]:
    """Finds the cuts of a graph, bottom to top, each containing the one before it.

    Args:
        graph: the traced model.
        pairs: regular expression for the layers at which two live tensors are allowed as well;
            empty for none. NASNet's cells hand on their own and their predecessor's output.
        end: stop at this layer, the top of the backbone; default the last one.

    Returns:
        The cuts; the last is at ``end``.
    """
    position = {name: index for index, name in enumerate(graph.order)}
    readers = [0] * len(graph.order)
    for name in graph.order:
        for parent in graph.parents[name]:
            readers[position[parent]] |= 1 << position[name]
    ancestry = [0] * len(graph.order)
    found: list[Cut] = []
    last = 0
    for index, name in enumerate(graph.order):
        ancestry[index] = 1 << index
        for parent in graph.parents[name]:
            ancestry[index] |= ancestry[position[parent]]
        below = ancestry[index]
        members = [i for i in range(index + 1) if below >> i & 1]
        alive = [i for i in members if i == index or readers[i] & ~below]
        limit = 2 if pairs and re.search(pairs, name) else 1
        if len(alive) <= limit and below & last == last:
            found.append(
                Cut(
                    tuple(graph.order[i] for i in alive), frozenset(graph.order[i] for i in members)
                )
            )
            last = below
        if name == end:
            break
    return found


def split(
    model: keras.Model, cut: Sequence[str], outputs: Sequence[str] | None = None
) -> tuple[keras.Model, keras.Model]:
    """Splits a model in two that share its layers and weights.

    ``suffix(prefix(images))`` equals ``model(images)`` exactly. Call the prefix with
    ``training=False``: ``trainable = False`` switches off neither dropout nor stochastic depth.

    Args:
        model: a functional model.
        cut: names of the layers at whose outputs to split: a block's ``cut``.
        outputs: names of the layers whose outputs the suffix returns; default the model's own.

    Returns:
        The prefix, from the model's inputs to the outputs of ``cut``, and the suffix, from there
        to ``outputs``. With two names in ``cut``, the prefix returns and the suffix takes a list.

    Raises:
        UsageError: a name is not in the model, or ``cut`` leaves other tensors alive.

    >>> from keras_transfer import build
    >>> backbone = build("MobileNetV3Small", image_size=64, weights="none")
    >>> below, above = split(backbone.model, backbone.blocks[-3].cut)
    >>> below.output_shape == above.input_shape, above.output_shape
    (True, (None, 2, 2, 576))
    """
    import keras

    graph = trace(model)
    for name in [*cut, *(outputs or ())]:
        if name not in graph.outputs:
            raise UsageError(
                f"Model {model.name!r} has no layer {name!r} to split at.",
                remedy="Use the cut of one of the blocks that block_map() lists.",
            )
    wanted = [graph.outputs[name] for name in outputs] if outputs else list(model.outputs)
    joint = _lone([graph.outputs[name] for name in cut])
    prefix = keras.Model(_lone(model.inputs), joint, name=f"{model.name}_prefix")
    try:
        suffix = keras.Model(joint, _lone(wanted), name=f"{model.name}_suffix")
    except ValueError as error:
        raise UsageError(
            f"Splitting {model.name!r} at {', '.join(cut)} leaves other tensors alive.",
            remedy="Use the cut of one of the blocks that block_map() lists.",
        ) from error
    return prefix, suffix


def _lone(tensors: Sequence[Any]) -> Any:
    """One tensor stands for itself: Keras warns of ``[x]`` where ``x`` is passed later."""
    return tensors[0] if len(tensors) == 1 else list(tensors)


def macs(graph: Graph, name: str) -> int:
    """Counts the multiply-adds of one layer for one image.

    Convolutions and dense layers count, as in published figures; normalisation, activation,
    pooling and additions do not. A bias is not counted.

    Raises:
        UsageError: the model was built without a fixed height and width.
    """
    layer = graph.operations[name]
    kind = type(layer).__name__
    if kind not in {"Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"}:
        return 0
    shape = graph.outputs[name].shape[1:]
    if None in shape:
        raise UsageError(
            f"Layer {name!r} has no fixed size, so that its cost is unknown.",
            remedy="Build the backbone with an image size.",
        )
    positions = math.prod(shape[:-1])
    if kind == "SeparableConv2D":
        weights = math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)
    else:
        # Every weight of a (grouped, depthwise) kernel is used once at each output position.
        weights = math.prod(layer.kernel.shape)
    return positions * weights
