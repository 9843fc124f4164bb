"""How long the texts of a model are, and where they enter it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


def suited(sizes: Sequence[int], own: int) -> int:
    """The length to train at: 95 of 100 texts stay whole.

    Args:
        sizes: the numbers of tokens of some texts; ``own`` counts where there are none.
        own: the longest that the backbone was made for.

    Returns:
        A multiple of 8, at least 16, unless ``own`` is less.
    """
    wanted = np.percentile(sizes, 95) if len(sizes) else own
    return min(own, max(16, 8 * int(np.ceil(wanted / 8))))


def entrance(size: int, preprocessing: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input of a network, and what its first layer takes: ids need no preprocessing."""
    import keras

    ids = keras.Input((size,), dtype="int32", name="ids")
    return ids, ids
