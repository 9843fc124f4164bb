"""What training comes to: a model with the evidence."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer import evaluation
from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.task import task_of
from keras_transfer.base.types import SPLITS, Backbone, Dataset, PhaseReport
from keras_transfer.datasets.sources import JOINT, parts_of
from keras_transfer.frozen.store import StoreCounts
from keras_transfer.learn import calibration
from keras_transfer.modalities import modality
from keras_transfer.recipe import Recipe
from keras_transfer.runs.finished import Finished

if TYPE_CHECKING:
    import keras

    from keras_transfer.learn import planner
    from keras_transfer.learn.selection import Candidate


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fitted:
    """A trained classifier of which the test split knows nothing yet.

    Attributes:
        model: the deployable graph, see ``model.build_classifier``; its temperature is fitted.
        dataset: what it was trained on.
        recipe: what was carried out, after any shortening.
        plan: what was expected.
        measured: the rates of this machine, for the next run of the same backbone and data.
        history: one row an epoch.
        phases: one report a phase.
        candidates: what the returned weights were chosen among, the chosen one first.
        temperature: by which the model divides its logits.
        validation_logits: float32 ``[validation images, classes]``, before the temperature.
        seconds: durations by stage.
        cache: rows found and computed, bytes written.
        compute: how steps were computed and why, see ``Compute.to_json``, and of the compiled ones
            their number and seconds.
    """

    model: keras.Model
    dataset: Dataset
    recipe: Recipe
    plan: planner.Plan
    measured: planner.Measured
    history: tuple[dict[str, Any], ...]
    phases: tuple[PhaseReport, ...]
    candidates: tuple[Candidate, ...]
    temperature: float
    validation_logits: np.ndarray
    seconds: dict[str, float]
    cache: StoreCounts
    compute: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the model's outputs."""
        return self.dataset.class_names

    @property
    def thresholds(self) -> tuple[float, ...]:
        """From which probability on each class is answered, as chosen on validation; empty where
        the most probable one is."""
        labels = self.dataset.labels[self.dataset.indices("val")]
        task = task_of(labels)
        return task.thresholds(
            task.probabilities(self.validation_logits / self.temperature), labels
        )

    def __repr__(self) -> str:
        kept = self.candidates[0]
        about = f"{self.recipe.backbone} on {self.dataset.name!r}"
        return f"Fitted({about}: {kept.name} kept, validation accuracy {kept.accuracy:.3f})"

    @property
    def compilations(self) -> int:
        """Training steps that were traced and compiled."""
        return int(self.compute["jit"]["compilations"])


VERSIONED = (
    "keras", "tensorflow", "tensorflow-cpu", "jax", "openvino", "numpy", "pillow",
    "cykooz-resizer",
)  # fmt: skip
"""Packages whose version may move a run's figures."""


def environment() -> dict[str, Any]:
    """Versions and machine, as far as they matter for repeating a run."""
    import keras

    from keras_transfer.base.compute import accelerators

    versions = {}
    for package in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "keras_transfer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "accelerators": accelerators(),
        "backend": keras.backend.backend(),
        "versions": versions,
    }


def config_before(
    dataset: Dataset, backbone: Backbone, recipe: Recipe, asked: Sequence[str]
) -> dict[str, Any]:
    """What ``config.json`` holds before a run begins."""
    parts = [(part, Path(part).expanduser()) for part in parts_of(dataset.name)]
    places = (str(path.resolve()) if path.exists() else part for part, path in parts)
    return {
        "keras_transfer": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": dataset.name,
        "data_path": JOINT.join(places),
        "data_digest": files.sha256("".join(sorted(dataset.digests)).encode()),
        "class_names": list(dataset.class_names),
        "weights_digest": backbone.weights_digest,
        "weights_licence": backbone.spec.licence,
        "modality": dataset.modality,
        "input": modality(dataset.modality).INPUT,
        "asked": list(asked),
        "splits_from": recipe.splits and os.path.abspath(recipe.splits),
        **({} if dataset.origin == "name" else {"in_memory": True}),
        **{n: v for n in ("update_of", "of_first_run") if (v := getattr(dataset, n))},
        **recipe.to_dict(),
    }


def _config_of(result: TransferResult) -> dict[str, Any]:
    learnt = {"temperature": result.temperature, "class_names": list(result.dataset.class_names)}
    return {**result.about, **result.recipe.to_dict(), **learnt}


def _metrics_of(result: TransferResult) -> dict[str, Any]:
    kept, images = result.candidates[0], len(result.validation_logits)
    return {
        "test": result.evaluation.to_json(),
        "validation": {"accuracy": kept.accuracy, "nll": kept.nll, "images": images},
        "kept": kept.name,
        "candidates": [dataclasses.asdict(candidate) for candidate in result.candidates],
        "temperature": result.temperature,
        "threshold": dataclasses.asdict(result.threshold),
        "class_thresholds": dict(zip(result.class_names, result.thresholds, strict=False)),
        "phases": [dataclasses.asdict(phase) for phase in result.phases],
        "seconds": dict(result.seconds),
        "cache": dataclasses.asdict(result.cache),
        "plan": dataclasses.asdict(result.plan),
        "images": {split: len(result.dataset.indices(split)) for split in SPLITS},
        "findings": len(result.dataset.findings),
        "compute": result.compute,
        "environment": environment(),
    }


def _predictions_of(result: TransferResult) -> list[dict[str, Any]]:
    data, names, scores = result.dataset, result.class_names, result.test_probabilities
    task, rows = task_of(data.labels), data.indices("test")
    answers = task.answers(scores, result.thresholds)
    columns = (
        task.decode(data.labels[rows], names), task.decode(answers, names),
        task.sureness(scores, answers),
    )  # fmt: skip
    return [
        {
            "path": data.paths[i],
            "label": label,
            "predicted": predicted,
            "probability": float(probability),
            "digest": data.digests[i],
        }
        for i, label, predicted, probability in zip(rows, *columns, strict=True)
    ]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransferResult(Finished, Fitted):
    """A trained classifier with everything that was learnt on the way.

    Attributes:
        test_probabilities: float32 ``[test images, classes]``.
        evaluation: on the test split.
        threshold: the confidence from which on validation shows answers to be right as often as
            wanted, and what it comes to on the test split.
        about: what was known before it began, see :attr:`config`.
        path: the run folder, None without one.
    """

    test_probabilities: np.ndarray
    evaluation: evaluation.Evaluation
    threshold: calibration.Threshold
    about: Mapping[str, Any]
    path: Path | None

    config = functools.cached_property(_config_of)
    metrics = functools.cached_property(_metrics_of)
    predictions = functools.cached_property(_predictions_of)
    validation_labels = functools.cached_property(
        lambda result: result.dataset.labels[result.dataset.indices("val")]
    )
