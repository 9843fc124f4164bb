"""OpenVINO, which reads and runs networks."""

import sys
from typing import Any

from keras_transfer.base.errors import UsageError


def openvino_core() -> Any:
    """What opens and compiles networks. Raises UsageError where it is not installed."""
    # OpenVINO reports over the network that it is imported, and what it converts, from a process
    # of its own, unless this package cannot be found. No variable of the environment stops it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        problem = "The engine openvino is not installed."
        raise UsageError(problem, remedy="pip install openvino, or --engine keras.") from None
    return openvino.Core()
