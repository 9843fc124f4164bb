"""Where training runs: the devices, the one policy on XLA, and the precision."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import keras

from keras_transfer.base.distribution import has_bfloat16
from keras_transfer.base.errors import UsageError, closest

JIT = ("auto", "on", "off")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class JitPolicy:
    """Whether training steps are compiled by XLA, and why.

    Attributes:
        compile: the value for Keras's ``jit_compile``.
        reason: one sentence for the log and for ``metrics.json``.
    """

    compile: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Precision:
    """In which type a model computes while it trains, and why.

    Attributes:
        name: a Keras dtype policy, one of ``PRECISIONS``. Variables, the head and the loss are
            float32 in all of them.
        reason: one sentence for the log and for ``metrics.json``.
        rounded: whether the factors of convolutions' gradients may be rounded to bfloat16 where
            layers compute in float32, see ``gradients.py``.
    """

    name: str
    reason: str
    rounded: bool = False

    @property
    def compute(self) -> str:
        """The type of the layers' arithmetic: ``float32``, ``bfloat16`` or ``float16``."""
        return self.name.removeprefix("mixed_")


def accelerators() -> list[str]:
    """The GPUs and TPUs that the Keras backend sees, as Keras names them, such as ``gpu:0``."""
    return _devices("gpu") + _devices("tpu")


def devices() -> list[str]:
    """The accelerators or, where there are none, the CPU, or what it was divided into."""
    return accelerators() or _devices("cpu")


def _devices(kind: str) -> list[str]:
    try:
        return list(keras.distribution.list_devices(kind))
    except (RuntimeError, ValueError):
        # JAX raises for a kind of device that its installation does not support.
        return []


def check_words(**choices: str) -> None:
    """Refuses unknown words for ``jit`` and ``precision``, before any work is done.

    Raises:
        UsageError: a word is unknown; the message names near ones.
    """
    for name, choice in choices.items():
        known = {"jit": JIT, "precision": ("auto", *PRECISIONS)}[name]
        if choice not in known:
            raise UsageError(
                f"Unknown {name} {choice!r}.{closest(str(choice), list(known))}",
                remedy=f"Use --{name} with one of {', '.join(known)}.",
            )


def jit_policy(choice: str = "auto", *, distributed: bool = False) -> JitPolicy:
    """Decides on XLA for training steps.

    Args:
        choice: ``on``, ``off``, or ``auto``: compile on a GPU or TPU, not on a CPU, where XLA runs
            convolutional networks 10 to 20 times slower (TensorFlow 2.21, EfficientNet-Lite0 at
            224 px: 13 ms an image without, 143 ms with it). With JAX everything is XLA.
        distributed: whether the step runs on several devices.

    Raises:
        UsageError: the choice is none of the three.
    """
    check_words(jit=choice)
    if keras.backend.backend() == "jax":
        return JitPolicy(True, "JAX compiles every step with XLA")
    if distributed:
        return JitPolicy(False, "tf.distribute adds gradients up outside of what XLA compiles")
    if choice == "on":
        return JitPolicy(True, "asked for")
    if choice == "off":
        return JitPolicy(False, "switched off")
    found = accelerators()
    if found:
        return JitPolicy(True, f"XLA is faster on {found[0]}")
    return JitPolicy(False, "no accelerator; XLA slows convolutions on a CPU")


def precision_policy(choice: str = "auto", *, multiplies_bfloat16: bool = False) -> Precision:
    """Decides in which type layers compute.

    Args:
        choice: one of ``PRECISIONS``, or ``auto``: on a GPU or TPU ``mixed_bfloat16``, which needs
            no loss scaling, or ``mixed_float16`` where a GPU has no units for bfloat16; on a CPU
            ``float32``, since most processors only emulate the others; where this one does not
            emulate bfloat16, gradients may be rounded to it.
        multiplies_bfloat16: whether the CPU has instructions for bfloat16.

    Returns:
        The decision. float16 on a CPU becomes float32, with a warning: it is emulated there.

    Raises:
        UsageError: the choice is unknown; the message names near ones.
    """
    check_words(precision=choice)
    found = accelerators()
    if choice == "mixed_float16" and not found:
        warnings.warn(
            "mixed_float16 needs a GPU; on this CPU training goes on in float32.", stacklevel=2
        )
        return Precision("float32", "float16 was asked for, but a CPU only emulates it")
    if choice != "auto":
        return Precision(choice, "asked for")
    if found:
        name = "mixed_bfloat16" if has_bfloat16(found[0]) else "mixed_float16"
        return Precision(name, f"the default on {found[0]}")
    if multiplies_bfloat16 and keras.backend.backend() == "tensorflow":
        reason = "the default on a CPU; this one multiplies bfloat16, which serves for gradients"
        return Precision("float32", reason, rounded=True)
    return Precision("float32", "the default on a CPU")


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
    if "ResourceExhaustedError" in names:
        return True
    # JAX has one type for all that the device reports; the status is in the text.
    return bool(names & {"XlaRuntimeError", "JaxRuntimeError"}) and "RESOURCE_EXHAUSTED" in str(
        error
    )
