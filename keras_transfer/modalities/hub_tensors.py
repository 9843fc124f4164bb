"""Tensors as the Hugging Face hub has them, as those of Keras's layers."""

from collections.abc import Iterable, Mapping

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
