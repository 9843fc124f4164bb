"""Writes what is said of all settings from the fields of ``Recipe``: docs/settings.md, their
reference, and keras_transfer/__init__.pyi, by which editors and type checkers know them.

python docs/settings.py
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_transfer
from keras_transfer import training
from keras_transfer.modalities import MODALITIES
from keras_transfer.recipe import RANDOM_WEIGHTS, SETTINGS, kind_of, type_of

HEADING = """\
# Settings

Every setting of a run: an option of `keras-transfer train` (with dashes for underscores), a keyword
of `keras_transfer.train`, a line of the TOML file that `--config` takes, and, but for those of the
data, the judgement and the machine, something that a search may vary. What is typed beats the file,
the file beats the effort, the effort beats the default. Written by `python docs/settings.py`.
"""


def text() -> str:
    """The page."""
    parts = [HEADING]
    groups = dict.fromkeys(field.metadata["group"] for field in SETTINGS.values())
    for group in groups:
        parts.append(
            f"## {group.capitalize()}\n\n| setting | default | what it is | what it may be |"
        )
        parts[-1] += "\n|---|---|---|---|"
        for name, field in SETTINGS.items():
            about = field.metadata
            if about["group"] == group:
                default = "" if field.default is None else f"`{field.default}`"
                cells = name, default, about["help"], kind_of(name).expected
                parts[-1] += f"\n| `{cells[0]}` | " + " | ".join(
                    cell.replace("|", "\\|") for cell in cells[1:]
                )
                parts[-1] += " |"
    changes = {
        f"{form.NOUN}s, {effort}": numbers
        for form in MODALITIES.values() for effort, numbers in form.EFFORTS.items()
    } | {"random weights": RANDOM_WEIGHTS}  # fmt: skip
    parts.append("## What an effort changes\n\n| | settings |\n|---|---|")
    for name, numbers in changes.items():
        said = ", ".join(f"`{key} = {value}`" for key, value in numbers.items())
        parts[-1] += f"\n| {name} | {said or 'nothing'} |"
    return "\n\n".join(parts) + "\n"


STUB = """\
# Written by `python docs/settings.py`: the public names, and what they take.

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, overload

import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from keras_transfer._version import __version__ as __version__
{imports}
from keras_transfer.base.progress import Progress
from keras_transfer.base.types import Backbone
from keras_transfer.datasets.items import Items
from keras_transfer.datasets.sources import Data
from keras_transfer.runs.result import Fitted
from keras_transfer.training import Shared

@overload
def train(
{judged}
) -> TransferResult: ...
@overload
def train(
{unjudged}
) -> Fitted: ...

class TransferClassifier(ClassifierMixin, BaseEstimator):
    classes_: np.ndarray
    thresholds_: tuple[float, ...]
    model_: keras.Model
    modality_: str
    def __init__(
        self,
{settings}
    ) -> None: ...
    def fit(self, X: Items, y: Any) -> TransferClassifier: ...
    def predict(self, X: Items) -> np.ndarray: ...
    def predict_proba(self, X: Items) -> np.ndarray: ...
"""


def parameters(function: Callable[..., Any]) -> dict[str, str]:
    """What a function takes, each as a stub says it, by name."""
    said = {}
    for one in inspect.signature(function).parameters.values():
        if one.kind is one.KEYWORD_ONLY:
            said.setdefault("*", "*")
        known = one.name in SETTINGS and not isinstance(one.annotation, str)
        kind = type_of(one.name) if known else one.annotation.replace("'", '"')
        default = "" if one.default is one.empty else f" = {one.default!r}"
        said[one.name] = f"{one.name}: {kind}{default}"
    return said


def stub() -> str:
    """The types of the public names."""
    imports = "\n".join(
        f"from keras_transfer.{home} import {name} as {name}"
        for name, home in sorted(keras_transfer._HOMES.items(), key=lambda pair: pair[::-1])
        if name not in ("train", "TransferClassifier")
    )
    train, estimator = map(parameters, (training.train, keras_transfer.TransferClassifier))
    judged, unjudged = (
        "\n".join(f"    {line}," for line in (train | {"judge": judge}).values())
        for judge in ("judge: Literal[True] = True", "judge: Literal[False]")
    )
    estimator["backbone"] = train["backbone"]
    settings = "\n".join(f"        {line}," for line in estimator.values())
    return STUB.format(imports=imports, judged=judged, unjudged=unjudged, settings=settings)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(text(), encoding="utf-8")
    place = Path(keras_transfer.__file__).with_suffix(".pyi")
    place.write_text(stub(), encoding="utf-8")
