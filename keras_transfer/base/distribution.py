"""Several devices for one model: each step's batch is cut into equal parts, one a device.

TensorFlow: ``tf.distribute.MirroredStrategy``, over several hosts
``tf.distribute.MultiWorkerMirroredStrategy``. JAX: ``keras.distribution.DataParallel``.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import UsageError


class Distribution:
    """The devices that share every batch.

    Args:
        names: as Keras lists them, such as ``gpu:0``; at least one.
        strategy: from :func:`meet`, where they are those of several hosts.

    Attributes:
        names: those names.
        several_hosts: whether they are.
        replicas: how many separate parts a step's loss is added up from: the number of devices on
            TensorFlow, 1 on JAX, where a step sees the whole batch.
    """

    def __init__(self, names: Sequence[str], strategy: Any = None) -> None:
        self.names = tuple(names)
        self.replicas, self.several_hosts = 1, strategy is not None
        self._shared: Any
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            own = [name.upper() for name in names]
            self._shared = strategy or tf.distribute.MirroredStrategy(own)
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

    def check_alike(self, content: str) -> None:
        """Refuses several hosts that have not the same to begin with.

        Raises:
            UsageError: that is so.
        """
        own = int(files.sha256(content.encode())[:7], 16)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            given = self._shared.experimental_distribute_values_from_function
            found = self._shared.gather(given(lambda context: tf.constant([own])), axis=0)
        else:
            from jax.experimental.multihost_utils import process_allgather

            found = process_allgather(np.array([own], np.int32))
        if (np.asarray(found) != own).any():
            raise UsageError(
                "The hosts of this run have other data, splits or settings than each other.",
                remedy="Start the same command on each, on the same files, by the same version.",
            )

    def place(self, batch: Any) -> Any:
        """Sends nested arrays to the devices, their rows cut into as many equal parts."""
        return keras.tree.map_structure(self._place, batch)

    def _place(self, array: np.ndarray) -> Any:
        if keras.backend.backend() != "tensorflow":
            import jax

            layout = self._shared.get_data_layout(array.shape).backend_layout
            # Of several hosts, each has the whole batch and gives its own devices their parts.
            return jax.make_array_from_callback(array.shape, layout, lambda part: array[part])
        import tensorflow as tf

        parts, own = np.split(array, len(self)), self._shared.extended.worker_devices

        def part(context: Any) -> Any:
            number = context.replica_id_in_sync_group
            with tf.device(own[number % len(own)]):
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


def averaged(figures: dict[str, Any]) -> dict[str, Any]:
    """A step's figures so that Keras can take their mean over hosts: it wants an axis for it.

    Keras 3.15, ``reduce_per_replica``; without hosts they stay as they are.
    """
    import tensorflow as tf

    if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return {name: tf.reshape(value, [1]) for name, value in figures.items()}
    return figures


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


@functools.cache
def meet() -> Any:
    """Connects this process to the others of a run on several hosts, before anything is computed.

    Returns:
        On TensorFlow the strategy, else what is not None.

    Raises:
        UsageError: they do not come together.
    """
    try:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.distribute.MultiWorkerMirroredStrategy()
        keras.distribution.initialize()
        return True
    except (RuntimeError, ValueError, KeyError) as error:
        raise UsageError(
            f"The hosts of this run do not come together: {str(error).strip()}",
            remedy="Start the same command on each, in a process that has computed nothing yet.",
        ) from None


def distribute(wanted: int | str, found: Sequence[str], hosts: bool = False) -> Distribution | None:
    """The devices asked for; None where that is one.

    Args:
        wanted: how many, or ``all``.
        found: the names of those that there are.
        hosts: whether all of all hosts are.

    Raises:
        UsageError: there are not that many.
    """
    if hosts:
        strategy = meet()
        if keras.backend.backend() == "tensorflow":  # which lists other hosts' by the same names
            each = len(strategy.extended.worker_devices)
            shared = range(strategy.num_replicas_in_sync)
            found = [f"{found[i % each]} of host {i // each}" for i in shared]
        return Distribution(found, strategy)
    count = len(found) if wanted == "all" else wanted
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(found):
        raise UsageError(
            f"{wanted!r} devices were asked for; Keras sees {len(found)}: {', '.join(found)}.",
            remedy=f"Use --devices with a number from 1 to {len(found)}, or all.",
        )
    return Distribution(found[:count]) if count > 1 else None
