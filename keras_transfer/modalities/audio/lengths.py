"""How long the sounds of a model are."""

import math
from collections.abc import Sequence

import numpy as np

MARGIN = 0.5  # seconds


def suited(sizes: Sequence[float], own: float) -> float:
    """The length to train at: 95 of 100 clips stay whole, with half a second of silence beside
    them, since a network knows a sound best that does not fill all it hears.

    Args:
        sizes: the lengths of some clips in seconds; ``own`` counts where there are none.
        own: the longest that suits the backbone.

    Returns:
        Whole quarters of a second, at least 1.25 s, unless ``own`` is less.
    """
    wanted = float(np.percentile(sizes, 95)) + MARGIN if len(sizes) else own
    return min(own, max(1.25, math.ceil(4 * wanted) / 4))
