"""What the names of layers tell: their block, or nothing where Keras made them up."""

import re
from collections.abc import Iterable
from typing import Any

from keras_transfer.base.types import Patterns

# What Keras calls the layers and operations that its applications leave unnamed.
_AUTOMATIC = re.compile(
    "(activation|add|average_pooling2d|batch_normalization|cast|concatenate|conv1d|conv2d|"
    "cropping2d|custom_scale_layer|dense|embedding|expand_dims|get_item|layer_normalization|log|"
    "max|max_pooling2d|maximum|minimum|multi_head_attention|multiply|re_lu|square|subtract|take|"
    "zero_padding2d|zeros_like)"
    "(?:_([0-9]+))?"
)


def label(layer: str, patterns: Patterns) -> str:
    """The name of the block to which a layer belongs by its own name, or nothing."""
    found = ((re.search(pattern, layer), name) for pattern, name in patterns)
    return next((match.expand(name) for match, name in found if match), "")


def constant(layer: Any) -> bool:
    """Whether a layer's weights, if it has any, belong to the preprocessing, and never train."""
    return layer.name.startswith("preprocessing_")


def is_automatic(name: str) -> bool:
    """Whether Keras made the name up, so that it tells the order of creation and no more."""
    return _AUTOMATIC.fullmatch(name) is not None


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Counts automatic names from zero, whatever else the process had built before.

    Cut points and weights are found by name: ``conv2d_94`` must not be another layer's name the
    next time.

    Args:
        names: the names of a network's layers, in any order.

    Returns:
        For each name the one it has in a process that builds this network first: automatic ones
        are numbered from zero in the order of their creation, others stay.
    """
    renamed: dict[str, str] = {}
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        renamed[name] = name
        if match := _AUTOMATIC.fullmatch(name):
            numbered.setdefault(match[1], []).append((int(match[2] or 0), name))
    for prefix, members in numbered.items():
        for rank, (_, name) in enumerate(sorted(members)):
            renamed[name] = f"{prefix}_{rank}" if rank else prefix
    return renamed
