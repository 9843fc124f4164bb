"""Where and how a model computes: in which type, compiled by XLA or not, on which hardware."""

import contextlib
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import keras

from keras_transfer.base.distribution import Distribution, distribute, has_bfloat16, place


@dataclasses.dataclass(frozen=True)
class Compute:
    """How training steps compute, decided once a run; the default is plain Keras on one CPU.

    Attributes:
        dtype_policy: the Keras dtype policy of the layers, ``float32``, ``mixed_bfloat16`` or
            ``mixed_float16``. Variables, the head and the loss are float32 in all of them.
        dtype_reason: why, in one sentence for the log and for ``metrics.json``.
        xla: the value for Keras's ``jit_compile``.
        xla_reason: why.
        rounded: whether the factors of convolutions' gradients may be rounded to bfloat16 where
            layers compute in float32, see ``fast/gradients.py``.
        distribution: what shares every batch; None where one device computes all of it.
    """

    dtype_policy: str = "float32"
    dtype_reason: str = "the default on a CPU"
    xla: bool = False
    xla_reason: str = "no accelerator; XLA slows convolutions on a CPU"
    rounded: bool = False
    distribution: Distribution | None = None

    @property
    def is_plain(self) -> bool:
        """Whether steps compute in float32 on one device, as Keras takes them, uncompiled."""
        return self.dtype_policy == "float32" and self.share == 1 and not self.xla

    @property
    def share(self) -> int:
        """How many devices share every batch."""
        return len(self.distribution) if self.distribution else 1

    @property
    def replicas(self) -> int:
        """In how many parts a step computes its loss."""
        return self.distribution.replicas if self.distribution else 1

    @property
    def here(self) -> "Compute":
        """The same on this host alone, where several share every batch."""
        several = self.distribution is not None and self.distribution.several_hosts
        return dataclasses.replace(self, distribution=None) if several else self

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Variables made, and steps taken, within the block belong to all devices."""
        return self.distribution.scope() if self.distribution else contextlib.nullcontext()

    def place(self, batch: Any) -> Any:
        """Sends nested arrays to where they are computed with."""
        return self.distribution.place(batch) if self.distribution else place(batch)

    def to_json(self) -> dict[str, Any]:
        """The entry ``compute`` of ``metrics.json``."""
        return {
            "jit": {"compile": self.xla, "reason": self.xla_reason},
            "precision": {"name": self.dtype_policy, "reason": self.dtype_reason},
            "devices": list(self.distribution.names if self.distribution else hardware()[:1]),
        }

    def notes(self) -> list[str]:
        """The decisions as sentences."""
        found = [
            f"XLA: {'on' if self.xla else 'off'} ({self.xla_reason}).",
            f"Precision: {self.dtype_policy} ({self.dtype_reason}).",
        ]
        if self.distribution:
            found.append(f"Each batch is shared by {', '.join(self.distribution.names)}.")
        return found


PLAIN = Compute()


def choose_compute(
    jit: str = "auto",
    precision: str = "auto",
    devices: int | str = 1,
    *,
    hosts: bool = False,
    multiplies_bfloat16: bool = False,
) -> Compute:
    """Decides how training steps compute.

    Args:
        jit: ``on``, ``off``, or ``auto``: XLA on a GPU or TPU, not on a CPU, where it runs
            convolutional networks 10 to 20 times slower. With JAX everything is XLA.
        precision: a dtype policy, or ``auto``: on a GPU or TPU ``mixed_bfloat16``, which needs no
            loss scaling, or ``mixed_float16`` where a GPU has no units for bfloat16; on a CPU
            ``float32``, since most processors only emulate the others; where this one does not,
            gradients may be rounded to bfloat16. ``mixed_float16`` on a CPU becomes ``float32``,
            with a warning.
        devices: how many share every batch, or ``all``.
        hosts: whether all devices of several hosts do, see ``distribution.meet``.
        multiplies_bfloat16: whether the CPU has instructions for bfloat16.

    Raises:
        UsageError: there are not that many devices.
    """
    distribution = distribute(devices, hardware(), hosts)
    xla, xla_reason = _xla(jit, shared=distribution is not None)
    policy, reason = _dtype_policy(precision)
    usual = precision == "auto" and policy == "float32"
    rounded = usual and multiplies_bfloat16 and keras.backend.backend() == "tensorflow"
    if rounded:
        reason += "; this one multiplies bfloat16, which serves for gradients"
    return Compute(policy, reason, xla, xla_reason, rounded, distribution)


def _xla(jit: str, *, shared: bool) -> tuple[bool, str]:
    if keras.backend.backend() == "jax":
        return True, "JAX compiles every step with XLA"
    if shared:
        return False, "tf.distribute adds gradients up outside of what XLA compiles"
    if jit != "auto":
        return jit == "on", "asked for" if jit == "on" else "switched off"
    found = accelerators()
    return bool(found), f"XLA is faster on {found[0]}" if found else PLAIN.xla_reason


def _dtype_policy(precision: str) -> tuple[str, str]:
    found = accelerators()
    if precision == "mixed_float16" and not found:
        warnings.warn(
            "mixed_float16 needs a GPU; on this CPU training goes on in float32.", stacklevel=3
        )
        return "float32", "float16 was asked for, but a CPU only emulates it"
    if precision != "auto":
        return precision, "asked for"
    if not found:
        return PLAIN.dtype_policy, PLAIN.dtype_reason
    name = "mixed_bfloat16" if has_bfloat16(found[0]) else "mixed_float16"
    return name, f"the default on {found[0]}"


def accelerators() -> list[str]:
    """The GPUs and TPUs that the Keras backend sees, as Keras names them, such as ``gpu:0``."""
    return _listed("gpu") + _listed("tpu")


def hardware() -> list[str]:
    """The accelerators or, where there are none, the CPU, or what it was divided into."""
    return accelerators() or _listed("cpu")


def _listed(kind: str) -> list[str]:
    try:
        return list(keras.distribution.list_devices(kind))
    except (RuntimeError, ValueError):
        # JAX raises for a kind of device that its installation does not support.
        return []


def keep_compiled(folder: Path) -> None:
    """Lets JAX keep what it compiles for an accelerator, and find it again in later processes.

    A GPU's compiler tries out ways to compute each convolution, which takes longer than training
    on a few thousand images does. Nothing happens on a CPU, with TensorFlow, or where the user has
    given JAX a folder; the least recently used entries go when they fill 2 GiB.

    Args:
        folder: what is in it is run: it must be as trusted as the code.
    """
    if keras.backend.backend() != "jax" or not accelerators():
        return
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_max_size", 2 << 30)
        jax.config.update("jax_compilation_cache_dir", str(folder))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory is full, in the backends' own types."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"XlaRuntimeError", "JaxRuntimeError"}:
        # JAX has one type for all that the device reports; the status is in the text.
        return "RESOURCE_EXHAUSTED" in str(error)
    return "ResourceExhaustedError" in names
