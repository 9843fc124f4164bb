"""Which framework Keras runs on, checked before Keras is imported."""

import contextlib
import importlib.util
import os
import sys
from pathlib import Path

from keras_transfer.base import files
from keras_transfer.base.errors import UsageError, closest

BACKENDS = ("tensorflow", "jax")


def require_backend() -> None:
    """Makes sure that Keras will find its backend; call it before ``import keras``.

    The choice is Keras's own: ``KERAS_BACKEND``, else ``keras.json``, else TensorFlow. Where that
    is not installed and the variable is not set, the other one is taken: Keras writes its default
    into ``keras.json`` unasked, so that what stands there need not be anybody's choice.

    Raises:
        UsageError: the backend is unknown, not one that this package trains on, or not installed.
    """
    if "keras" in sys.modules:
        return
    chosen = os.environ.get("KERAS_BACKEND")
    name = chosen or _configured() or "tensorflow"
    if name not in BACKENDS:
        raise UsageError(
            f"Keras is set to run on {name!r}; training runs on {' and '.join(BACKENDS)}."
            f"{closest(name, list(BACKENDS))}",
            remedy=f"Set KERAS_BACKEND to one of {', '.join(BACKENDS)}.",
        )
    there = [one for one in BACKENDS if importlib.util.find_spec(one)]
    if name in there:
        return
    if there and not chosen:
        os.environ["KERAS_BACKEND"] = there[0]
        return
    instead = f", or set KERAS_BACKEND={there[0]}" if there else ""
    problem = f"Keras is set to run on {name}, which is not installed."
    raise UsageError(problem, remedy=f"pip install {name}{instead}.")


def _configured() -> str | None:
    """The backend that Keras's own settings file names, if there is one."""
    path = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    with contextlib.suppress(UsageError):
        return str(files.read_json(path, files.table(backend=str))["backend"])
    return None
