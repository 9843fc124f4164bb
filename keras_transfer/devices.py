"""Where training runs, and the one policy on XLA."""

from __future__ import annotations

import dataclasses

import keras


@dataclasses.dataclass(frozen=True)
class JitPolicy:
    """Whether training steps are compiled by XLA, and why.

    Attributes:
        compile: the value for Keras's ``jit_compile``.
        reason: one sentence for the log and for ``metrics.json``.
    """

    compile: bool
    reason: str


def accelerators() -> list[str]:
    """The GPUs and TPUs that the Keras backend sees, as Keras names them, such as ``gpu:0``."""
    found = []
    for kind in ("gpu", "tpu"):
        try:
            found += list(keras.distribution.list_devices(kind))
        except (RuntimeError, ValueError):
            # JAX raises for a kind of device that its installation does not support.
            continue
    return found


def jit_policy(choice: str = "auto") -> JitPolicy:
    """Decides on XLA for training steps.

    Args:
        choice: ``on``, ``off``, or ``auto``: compile on a GPU or TPU, not on a CPU, where XLA runs
            convolutional networks 10 to 20 times slower (TensorFlow 2.21, EfficientNet-Lite0 at
            224 px: 13 ms an image without, 143 ms with it). With JAX everything is XLA.
    """
    if keras.backend.backend() == "jax":
        return JitPolicy(True, "JAX compiles every step with XLA")
    if choice == "on":
        return JitPolicy(True, "asked for")
    if choice == "off":
        return JitPolicy(False, "switched off")
    devices = accelerators()
    if devices:
        return JitPolicy(True, f"XLA is faster on {devices[0]}")
    return JitPolicy(False, "no accelerator; XLA slows convolutions on a CPU")
