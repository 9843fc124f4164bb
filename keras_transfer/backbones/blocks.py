"""The block map: a backbone's published blocks, bottom to top, with what each costs."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_transfer.backbones import registry
from keras_transfer.backbones.graph import Cut, cuts, trace
from keras_transfer.backbones.multiply_adds import count_macs
from keras_transfer.backbones.naming import constant, label
from keras_transfer.base.errors import UsageError, closest
from keras_transfer.base.types import POOL, TOPMOST, BackboneSpec, Block, Patterns
from keras_transfer.recipe import reads_arguments

if TYPE_CHECKING:
    import keras


@reads_arguments
def block_map(model: keras.Model, spec: BackboneSpec | str) -> tuple[Block, ...]:
    """Divides a backbone into its named blocks.

    A block ends at the last cut before the next block's layers begin, so that the model can be
    split above every block. Preprocessing belongs to the first block.

    Args:
        model: a backbone from ``build``, or a whole classifier on top of one (also one read back
            from its file); the head, which starts at the layer ``avg_pool``, is left out.
        spec: the backbone's row in the registry, or its name.

    Returns:
        The blocks, bottom to top; together they hold every layer of the backbone once.

    >>> from keras_transfer import build
    >>> backbone = build("MobileNetV3Small", weights="none")
    >>> [block.name for block in block_map(backbone.model, "MobileNetV3Small")][:3]
    ['conv', 'expanded_conv', 'expanded_conv_1']
    """
    row = registry.spec(spec) if isinstance(spec, str) else spec
    nodes = trace(_without_head(model))
    shapes = {name: tuple(node.output_tensors[0].shape[1:]) for name, node in nodes.items()}
    weights = {
        name: int(getattr(node.operation, "count_params", int)()) for name, node in nodes.items()
    }
    found = cuts(nodes, pairs=row.pairs)
    learned = [cut for cut in found if any(weights[name] for name in cut.below)]
    blocks: list[Block] = []
    done: frozenset[str] = frozenset()
    for name, cut in _ends(learned, row.blocks):
        own = cut.below - done
        layers = tuple(layer for layer in nodes if layer in own)
        alive = sorted(cut.alive, key=lambda layer: -len(shapes[layer]))  # a mask behind its map
        blocks.append(
            Block(
                name=name,
                layers=layers,
                parameters=sum(weights[layer] for layer in layers),
                macs=sum(count_macs(nodes[layer]) for layer in layers),
                cut=tuple(alive),
                output_shapes=tuple(shapes[layer] for layer in alive),
            )
        )
        done = cut.below
    return tuple(blocks)


def _without_head(model: keras.Model) -> keras.Model:
    import keras

    headed = any(layer.name == POOL for layer in model.layers)
    return keras.Model(model.input, topmost(model)) if headed else model


def topmost(model: keras.Model) -> Any:
    """What a classifier's head sees of the backbone's end: its last map, or vector."""
    means = any(layer.name == TOPMOST for layer in model.layers)
    pooled = model.get_layer(TOPMOST if means else POOL).input
    return pooled[-1] if isinstance(pooled, list) else pooled  # the levels or weights stand before


def _ends(found: Sequence[Cut], patterns: Patterns) -> list[tuple[str, Cut]]:
    """Names the stretches between cuts, and keeps the last cut of each name."""
    # A stretch takes the name that most of its layers bear; one without any, such as a lone
    # addition, belongs to the block below it.
    ends: list[tuple[str, Cut]] = []
    done: frozenset[str] = frozenset()
    for cut in found:
        labels = (label(layer, patterns) for layer in sorted(cut.below - done))
        votes = collections.Counter(label for label in labels if label)
        last = ends[-1][0] if ends else "stem"
        name = votes.most_common(1)[0][0] if votes else last
        if ends and name == last:
            ends.pop()
        ends.append((name, cut))
        done = cut.below
    return ends


def depth_of(blocks: Sequence[Block], depth: int | str) -> int:
    """How many blocks, counted from the top, a stated unfreeze depth covers.

    Args:
        blocks: the block map, bottom to top.
        depth: a number of blocks, ``"all"``, ``"none"``, the name of the lowest block that
            trains, or a share of the multiply-adds such as ``"25%"``: the fewest that reach it.

    Raises:
        UsageError: there is no such block, or not that many; near names are said.
    """
    text = str(depth).strip()
    if text.endswith("%") and text[:-1].replace(".", "", 1).isdigit():
        reached = list(itertools.accumulate(block.macs for block in reversed(blocks)))
        wanted = float(text[:-1]) / 100 * reached[-1]
        return next((n for n, macs in enumerate(reached, 1) if macs >= wanted), len(blocks))
    names = [block.name for block in blocks]
    known = {name: len(names) - index for index, name in enumerate(names)}
    known |= {str(count): count for count in range(len(names) + 1)}
    known |= {"none": 0, "all": len(names)}
    if text in known:
        return known[text]
    raise UsageError(
        f"Unfreeze depth {depth!r} is unknown.{closest(text, names)}",
        remedy=f"Give a number from 0 to {len(blocks)}, all, none, or one of: {', '.join(names)}.",
    )


@reads_arguments
def unfreeze(
    model: keras.Model, depth: int | str, blocks: Sequence[Block], *, batch_norm: bool = False
) -> tuple[Block, ...]:
    """Lets the top blocks of a backbone train and freezes the rest; the head is left as it is.

    Args:
        model: the backbone or the classifier on top of it.
        depth: a number of blocks from the top, ``"all"``, ``"none"``, the name of the lowest block
            that trains, or a share of the multiply-adds such as ``"25%"``.
        blocks: the model's block map.
        batch_norm: whether BatchNormalization in the open blocks trains too, statistics
            included. Off by default: in Keras a frozen one also runs in inference mode, and a
            small data set spoils pretrained statistics (Kumar et al. 2022).

    Returns:
        The blocks that train, bottom to top.

    Raises:
        UsageError: there is no such block, or not that many.

    >>> from keras_transfer import build
    >>> backbone = build("MobileNetV3Small", weights="none")
    >>> [block.name for block in unfreeze(backbone.model, 2, backbone.blocks)]
    ['expanded_conv_10', 'conv_1']
    """
    import keras

    count = depth_of(blocks, depth)
    if not model.trainable:
        model.trainable = True
    layers = {layer.name: layer for layer in model.layers}
    for index, block in enumerate(blocks):
        opened = index >= len(blocks) - count
        for name in block.layers:
            if name in layers:  # the rest are plain operations, without weights
                normaliser = isinstance(layers[name], keras.layers.BatchNormalization)
                held = constant(layers[name]) or (normaliser and not batch_norm)
                layers[name].trainable = opened and not held
    return tuple(blocks[len(blocks) - count :])


def rate_groups(blocks: Sequence[Block]) -> dict[str, int]:
    """Groups layers for layer-wise rate decay.

    Args:
        blocks: the block map, bottom to top.

    Returns:
        For each layer's name, how many blocks lie above its own: 0 in the top block. A layer's
        rate is ``rate * decay ** depth``.
    """
    return {layer: depth for depth, block in enumerate(reversed(blocks)) for layer in block.layers}
