"""Transfer learning for image classification: train, search, export, and prove what is exported.

Nothing heavy is imported until it is used, so that ``import keras_transfer`` takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_transfer._version import __version__

if TYPE_CHECKING:
    from keras_transfer.api import export_run, train
    from keras_transfer.backbones import block_map, build, register, split, unfreeze
    from keras_transfer.base.errors import KerasTransferError
    from keras_transfer.base.types import Dataset
    from keras_transfer.datasets import inspect, load_dataset
    from keras_transfer.evaluation import compare
    from keras_transfer.evaluation.plots import gallery
    from keras_transfer.evaluation.saliency import grad_cam, overlay
    from keras_transfer.export import verify
    from keras_transfer.export.prediction import predict
    from keras_transfer.frozen.store import ActivationStore
    from keras_transfer.learn.model import build_classifier
    from keras_transfer.runs.folder import Run, open_run
    from keras_transfer.schedule import HeadSpec, Phase, Schedule, recipe
    from keras_transfer.training import TransferResult

_HOMES = {
    "ActivationStore": "frozen.store",
    "HeadSpec": "schedule",
    "Dataset": "base.types",
    "KerasTransferError": "base.errors",
    "Phase": "schedule",
    "Run": "runs.folder",
    "Schedule": "schedule",
    "TransferResult": "training",
    "block_map": "backbones",
    "build": "backbones",
    "build_classifier": "learn.model",
    "compare": "evaluation",
    "export_run": "api",
    "gallery": "evaluation.plots",
    "grad_cam": "evaluation.saliency",
    "inspect": "datasets",
    "load_dataset": "datasets",
    "open_run": "runs.folder",
    "overlay": "evaluation.saliency",
    "predict": "export.prediction",
    "recipe": "schedule",
    "register": "backbones",
    "split": "backbones",
    "train": "api",
    "unfreeze": "backbones",
    "verify": "export",
}

__all__ = [
    "ActivationStore",
    "Dataset",
    "HeadSpec",
    "KerasTransferError",
    "Phase",
    "Run",
    "Schedule",
    "TransferResult",
    "__version__",
    "block_map",
    "build",
    "build_classifier",
    "compare",
    "export_run",
    "gallery",
    "grad_cam",
    "inspect",
    "load_dataset",
    "open_run",
    "overlay",
    "predict",
    "recipe",
    "register",
    "split",
    "train",
    "unfreeze",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] not in ("base.errors", "schedule", "base.types"):
        from keras_transfer.base.backend import require_backend

        require_backend()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
