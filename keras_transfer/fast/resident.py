"""Views of a phase held in an accelerator's memory, so that no step waits for its inputs.

A GPU takes the steps above a cut faster than a host sends activations to it. Views that fit are
sent once; an epoch then needs the numbers of the images alone.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transfer import fast
from keras_transfer.base.compute import accelerators
from keras_transfer.base.distribution import place
from keras_transfer.base.types import Inputs
from keras_transfer.fast import frozen_graph

# The share of the memory left that views may take; the rest is the steps'.
_SHARE = 0.3
_PIECE = 64 << 20
_THREADS = 4
# The attribute of a model that keeps what predict_all has compiled, as in frozen_graph.
_KEPT = "_keras_transfer_all"


class Resident:
    """Inputs whose tensors lie in the device's memory, sent when they are first asked for."""

    held = True

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._tensors: list[keras.KerasTensor] = []

    def __len__(self) -> int:
        return len(self._inputs)

    @property
    def tensors(self) -> list[keras.KerasTensor]:
        """All rows of every tensor of the cut, on the device."""
        if not self._tensors:
            rows = max(1, _PIECE // max(1, row_bytes(self._inputs)))
            pieces = np.split(np.arange(len(self)), range(rows, len(self), rows))
            with ThreadPoolExecutor(_THREADS) as pool:
                sent = list(pool.map(lambda rows: place(self._inputs.gather(rows)), pieces))
            self._tensors += [
                ops.concatenate(parts) if len(parts) > 1 else parts[0]
                for parts in map(list, zip(*sent, strict=True))
            ]
        return self._tensors

    def gather(self, rows: np.ndarray) -> list[keras.KerasTensor]:
        """The rows of every tensor, on the device."""
        return [ops.take(tensor, rows, axis=0) for tensor in self.tensors]


def resident(views: Sequence[Inputs], room: int) -> Sequence[Inputs]:
    """The views on the device if they fit there all together and are held anywhere; else as given.

    Args:
        views: of some images each.
        room: bytes, see :func:`free_room`.
    """
    if room <= 0 or not all(view.held for view in views):
        return views
    needed = sum(row_bytes(view) * len(view) for view in views)
    return [Resident(view) for view in views] if needed <= room else views


def row_bytes(inputs: Inputs) -> int:
    """Bytes of an image's tensors."""
    return sum(tensor.nbytes for tensor in inputs.gather(np.arange(1)))


def predict_all(model: keras.Model, view: Resident, batch_size: int = 64) -> np.ndarray:
    """The first output for every image, computed in one call of the device.

    Args:
        model: takes the view's tensors.
        view: the images.
        batch_size: of how many at a time.

    Returns:
        float32 ``[images, ...]``.
    """
    import jax

    infer, weights = frozen_graph.stateless(model)
    if _KEPT not in vars(model):

        def whole(weights: Any, tensors: Sequence[Any]) -> Any:
            count = len(tensors[0])
            rows = np.resize(np.arange(count), (-(-count // batch_size), batch_size))
            found = jax.lax.map(
                lambda some: infer(weights, [ops.take(one, some, axis=0) for one in tensors])[0],
                rows,
            )
            # The last batch was filled up.
            return ops.cast(ops.reshape(found, (-1, *found.shape[2:]))[:count], "float32")

        vars(model)[_KEPT] = jax.jit(whole)
    return np.asarray(vars(model)[_KEPT](weights, view.tensors))


def free_room() -> int:
    """Bytes that views may take of the accelerator; 0 on a CPU, and where nobody can tell."""
    # TensorFlow does not say how much memory a GPU has left.
    if keras.backend.backend() != "jax" or not accelerators() or not fast.enabled():
        return 0
    import jax

    said = jax.local_devices()[0].memory_stats() or {}
    return int(_SHARE * (said.get("bytes_limit", 0) - said.get("bytes_in_use", 0)))
