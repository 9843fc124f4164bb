"""Transfer learning for image classification: train, search, export, and prove what is exported.

Nothing heavy is imported until it is used, so that ``import keras_transfer`` takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_transfer._version import __version__

if TYPE_CHECKING:
    from keras_transfer.backbones import block_map as block_map
    from keras_transfer.backbones import build as build
    from keras_transfer.backbones import register as register
    from keras_transfer.backbones import split as split
    from keras_transfer.backbones import unfreeze as unfreeze
    from keras_transfer.base.errors import KerasTransferError as KerasTransferError
    from keras_transfer.base.types import Dataset as Dataset
    from keras_transfer.datasets import inspect as inspect
    from keras_transfer.datasets import load_dataset as load_dataset
    from keras_transfer.estimator import TransferClassifier as TransferClassifier
    from keras_transfer.evaluation import compare as compare
    from keras_transfer.evaluation.plots import gallery as gallery
    from keras_transfer.evaluation.saliency import grad_cam as grad_cam
    from keras_transfer.export import ExportResult as ExportResult
    from keras_transfer.export import export_run as export_run
    from keras_transfer.export import verify as verify
    from keras_transfer.export.prediction import predict as predict
    from keras_transfer.frozen.store import ActivationStore as ActivationStore
    from keras_transfer.learn.model import build_classifier as build_classifier
    from keras_transfer.modalities.image import overlay as overlay
    from keras_transfer.recipe import Recipe as Recipe
    from keras_transfer.runs.folder import Run as Run
    from keras_transfer.runs.folder import open_run as open_run
    from keras_transfer.runs.report import write_report as write_report
    from keras_transfer.runs.result import TransferResult as TransferResult
    from keras_transfer.training import train as train

_WITHOUT_KERAS = {
    "base.errors": ["KerasTransferError"],
    "base.types": ["Dataset"],
    "modalities.image": ["overlay"],
    "recipe": ["Recipe"],
}
_WITH_KERAS = {
    "backbones": ["block_map", "build", "register", "split", "unfreeze"],
    "datasets": ["inspect", "load_dataset"],
    "estimator": ["TransferClassifier"],
    "evaluation": ["compare"],
    "evaluation.plots": ["gallery"],
    "evaluation.saliency": ["grad_cam"],
    "export": ["ExportResult", "export_run", "verify"],
    "export.prediction": ["predict"],
    "frozen.store": ["ActivationStore"],
    "learn.model": ["build_classifier"],
    "runs.folder": ["Run", "open_run"],
    "runs.report": ["write_report"],
    "runs.result": ["TransferResult"],
    "training": ["train"],
}
_HOMES = {name: home for home, names in {**_WITHOUT_KERAS, **_WITH_KERAS}.items() for name in names}
__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] in _WITH_KERAS:
        from keras_transfer.base.backend import require_backend

        require_backend()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
