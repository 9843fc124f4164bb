"""Tensors as the Hugging Face hub has them, as those of Keras's layers."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def pair(named: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Weight and bias: a kernel ``[in, out]``, or a normalisation's scale. Raises KeyError."""
    return [named[f"{name}.weight"].T, named[f"{name}.bias"]]


def attention(
    named: Mapping[str, np.ndarray], inner: Iterable[str], output: str, heads: int
) -> list[np.ndarray]:
    """What ``MultiHeadAttention`` takes, by the names of the dense layers of query, key and value,
    and of the one behind them.

    Raises:
        KeyError: a tensor is missing.
        ValueError: the heads do not divide the width.
    """
    found = [array for name in inner for array in pair(named, name)]
    outer, bias = pair(named, output)
    split = [array.reshape(*array.shape[:-1], heads, -1) for array in found]
    return [*split, outer.reshape(heads, -1, outer.shape[-1]), bias]


def shape_of(kind: Any, arrays: Mapping[str, Any], *tables: str) -> Any:
    """The sizes of the network to which arrays belong; the usual ones where they fit none.

    Args:
        kind: the sizes: blocks, width, heads, what is between two dense layers, rows of tables.
        arrays: of each layer, its query's kernel or the only one first.
        tables: the layers that hold these rows, each of the width.
    """
    blocks = sum(re.fullmatch(r"layer_\d+_attention", name) is not None for name in arrays)
    try:
        rows, (width, *_) = zip(*(arrays[name][0].shape for name in tables), strict=True)
        _, heads, _ = arrays["layer_0_attention"][0].shape
        _, inner = arrays["layer_0_intermediate"][0].shape
    except (KeyError, ValueError):
        return kind()
    return kind(blocks, width, heads, inner, *rows)
