"""Several devices for one model: each step's batch is cut into equal parts, one a device.

TensorFlow: ``tf.distribute.MirroredStrategy``. JAX: ``keras.distribution.DataParallel``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_transfer.base.errors import UsageError


class Distribution:
    """The devices that share every batch.

    Args:
        names: as Keras lists them, such as ``gpu:0``; at least one.

    Attributes:
        names: those names.
        replicas: how many separate parts a step's loss is added up from: the number of devices on
            TensorFlow, 1 on JAX, where a step sees the whole batch.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.replicas = 1
        self._shared: Any
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self._shared = tf.distribute.MirroredStrategy([name.upper() for name in names])
            self.replicas = len(self.names)
        else:
            self._shared = keras.distribution.DataParallel(
                devices=list(names), auto_shard_dataset=False
            )

    def __len__(self) -> int:
        return len(self.names)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Variables made, and steps taken, within the block belong to all devices."""
        return self._shared.scope()

    def place(self, batch: Any) -> Any:
        """Sends nested arrays to the devices, their rows cut into as many equal parts."""
        return keras.tree.map_structure(self._place, batch)

    def _place(self, array: np.ndarray) -> Any:
        if keras.backend.backend() != "tensorflow":
            import jax

            layout = self._shared.get_data_layout(array.shape)
            return jax.device_put(array, layout.backend_layout)
        import tensorflow as tf

        parts = np.split(array, len(self))

        def part(context: Any) -> Any:
            number = context.replica_id_in_sync_group
            with tf.device(self.names[number].upper()):
                return tf.convert_to_tensor(parts[number])

        return self._shared.experimental_distribute_values_from_function(part)


def place(batch: Any) -> Any:
    """Sends nested arrays to the default device."""
    return keras.tree.map_structure(keras.ops.convert_to_tensor, batch)


def add_up(tensors: Sequence[Any], distribution: Distribution | None) -> list[Any]:
    """Sums tensors over the replicas of a step that runs; unchanged where there is one."""
    if distribution is None or distribution.replicas == 1:
        return list(tensors)
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def has_bfloat16(device: str) -> bool:
    """Whether an accelerator multiplies bfloat16 in hardware: TPUs do, NVIDIA GPUs since 8.0.

    Args:
        device: its name as Keras lists it.
    """
    kind, _, number = device.partition(":")
    if kind != "gpu":
        return True
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")[int(number)]
        version = tf.config.experimental.get_device_details(found).get("compute_capability")
    else:
        import jax

        text = getattr(jax.devices("gpu")[int(number)], "compute_capability", None)
        version = text and [int(part) for part in str(text).split(".")]
    return version is None or version[0] >= 8


def distribute(wanted: int | str, found: Sequence[str]) -> Distribution | None:
    """The devices asked for; None where that is one.

    Args:
        wanted: how many, or ``all``.
        found: the names of those that there are.

    Raises:
        UsageError: there are not that many.
    """
    count = len(found) if wanted == "all" else wanted
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(found):
        raise UsageError(
            f"{wanted!r} devices were asked for; Keras sees {len(found)}: {', '.join(found)}.",
            remedy=f"Use --devices with a number from 1 to {len(found)}, or all.",
        )
    return Distribution(found[:count]) if count > 1 else None
