"""Transfer learning for images, texts and sounds: train, search, export, prove what is exported.

Nothing heavy is imported until it is used, so that ``import keras_transfer`` takes milliseconds.
``__init__.pyi``, which ``python docs/settings.py`` writes, tells editors the types.
"""

from __future__ import annotations

import importlib
from typing import Any

from keras_transfer._version import __version__

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
    "labelling": ["inspect_labels", "label"],
    "learn.model": ["build_classifier"],
    "runs.folder": ["Run", "open_run"],
    "runs.report": ["write_report"],
    "runs.result": ["TransferResult"],
    "training": ["train"],
    "updating": ["update"],
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
