"""The functional graph of a model: its order, its cut points, and splitting it.

A cut is a place where few tensors are alive. For an operation ``v`` take ``P``, ``v`` with all its
ancestors: the tensors made inside ``P`` that something outside still reads are alive there. Where
``v``'s own output is the only one, the graph can be split in two models joined by one tensor.
"""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import MASK
from keras_transfer.recipe import reads_arguments

if TYPE_CHECKING:
    import keras

Nodes = dict[str, Any]


def trace(model: keras.Model) -> Nodes:
    """Reads a functional model's graph.

    Returns:
        Keras's node (``operation``, ``parent_nodes``, ``input_tensors``, ``output_tensors``) of
        each layer and operation by its name, in topological order, inputs first.

    Raises:
        UsageError: the model is not functional, or one of its layers is called more than once.
    """
    nodes: Nodes = {}
    for node in itertools.chain(*getattr(model, "_nodes_by_depth", {}).values()):
        if node.operation.name in nodes:
            raise UsageError(
                f"Model {model.name!r} calls layer {node.operation.name!r} more than once.",
                remedy="Pass a functional model that calls each of its layers once.",
            )
        nodes[node.operation.name] = node
    if not nodes:
        problem = f"Model {model.name!r} has no graph to cut: it is a {type(model).__name__}."
        raise UsageError(problem, remedy="Pass a functional keras.Model, such as build() returns.")
    return {operation.name: nodes[operation.name] for operation in model.operations}


def tensors(model: keras.Model, names: Sequence[str]) -> list[keras.KerasTensor]:
    """The outputs of a functional model's layers and operations, which ``get_layer`` leaves out.

    Args:
        model: as for :func:`trace`.
        names: such as those of a cut.
    """
    nodes = trace(model)
    return [nodes[name].output_tensors[0] for name in names]


class Cut(NamedTuple):
    """A place to split: the layers whose outputs are alive, and all that is computed below.

    Attributes:
        alive: names of the layers whose outputs cross the cut, in topological order.
        below: names of all layers under the cut, those of ``alive`` included.
    """

    alive: tuple[str, ...]
    below: frozenset[str]


def cuts(nodes: Nodes, *, pairs: str = "") -> list[Cut]:
    """Finds the cuts of a graph, bottom to top, each containing the one before it.

    Args:
        nodes: the traced model.
        pairs: regular expression for the layers at which two live tensors are allowed as well;
            empty for none. NASNet's cells hand on their own and their predecessor's output.

    Returns:
        The cuts; the last is at the graph's end. What of a sequence is no padding (``MASK``) may
        cross beside the one tensor.
    """
    parents = {name: [up.operation.name for up in nodes[name].parent_nodes] for name in nodes}
    readers: dict[str, set[str]] = collections.defaultdict(set)
    for name in nodes:
        for parent in parents[name]:
            readers[parent].add(name)
    ancestry: dict[str, frozenset[str]] = {}
    found: list[Cut] = []
    for name in nodes:
        below = ancestry[name] = frozenset({name}).union(*(ancestry[up] for up in parents[name]))
        alive = {member for member in below if member == name or not readers[member] <= below}
        limit = 2 if MASK in alive or (pairs and re.search(pairs, name)) else 1
        if len(alive) <= limit and (not found or found[-1].below <= below):
            found.append(Cut(tuple(member for member in nodes if member in alive), below))
    return found


@reads_arguments
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
    >>> backbone = build("MobileNetV3Small", weights="none")
    >>> below, above = split(backbone.model, backbone.blocks[-3].cut)
    >>> below.output_shape == above.input_shape, above.output_shape
    (True, (None, 7, 7, 576))
    """
    import keras

    remedy = "Use the cut of one of the blocks that block_map() lists."
    try:
        joint = _lone(tensors(model, cut))
        wanted = _lone(tensors(model, outputs) if outputs else model.outputs)
    except KeyError as error:
        raise UsageError(
            f"Model {model.name!r} has no layer {error} to split at.", remedy=remedy
        ) from error
    prefix = keras.Model(_lone(model.inputs), joint, name=f"{model.name}_prefix")
    try:
        suffix = keras.Model(joint, wanted, name=f"{model.name}_suffix")
    except ValueError as error:
        raise UsageError(
            f"Splitting {model.name!r} at {', '.join(cut)} leaves other tensors alive.",
            remedy=remedy,
        ) from error
    return prefix, suffix


def _lone(tensors: Sequence[Any]) -> Any:
    """One tensor stands for itself: Keras warns of ``[x]`` where ``x`` is passed later."""
    return tensors[0] if len(tensors) == 1 else list(tensors)
