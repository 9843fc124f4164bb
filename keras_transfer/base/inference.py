"""OpenVINO, which reads and runs networks."""

import sys
from typing import Any

from keras_transfer.base.errors import require


def openvino_core() -> Any:
    """What opens and compiles networks. Raises UsageError where it is not installed."""
    # OpenVINO reports over the network that it is imported, and what it converts, from a process
    # of its own, unless this package cannot be found. No variable of the environment stops it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    require(["openvino"], "pip install openvino, or --engine keras.")
    import openvino

    return openvino.Core()
