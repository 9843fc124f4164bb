"""The run folder: everything that a training run leaves behind, and what it needs to go on."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer import datasets
from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Dataset

if TYPE_CHECKING:
    import keras

    from keras_transfer.runs.result import TransferResult

CONFIG, METRICS, MODEL, SPLITS = "config.json", "metrics.json", "model.keras", "splits.csv"
PREDICTIONS, HISTORY, STATE = "predictions.csv", "history.csv", "state"
PROBABILITIES = "test_probabilities.npy"
VALIDATION_LOGITS, VALIDATION_LABELS = "validation_logits.npy", "validation_labels.npy"
# What a run may leave in its folder; only these are ever removed.
_OURS = (
    CONFIG, METRICS, MODEL, SPLITS, PREDICTIONS, HISTORY, PROBABILITIES,
    VALIDATION_LOGITS, VALIDATION_LABELS, "report.html",
)  # fmt: skip
_OUR_FOLDERS = (STATE, "plots", "tensorboard")
_HISTORY_COLUMNS = (
    "phase", "epoch", "step", "learning_rate", "train_loss", "validation_loss",
    "validation_calibrated_loss", "validation_accuracy", "input_wait", "seconds",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run on disk.

    Attributes:
        path: its folder.
        config: everything needed to repeat it, as in ``config.json``.
        metrics: what came of it, as in ``metrics.json``.
    """

    path: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the model's outputs."""
        return tuple(self.config["class_names"])

    @property
    def image_size(self) -> int:
        """Height and width of the model's input in pixels."""
        return int(self.config["image_size"])

    def model(self) -> keras.Model:
        """The deployable model: uint8 ``[batch, size, size, 3]`` in, probabilities out.

        Raises:
            UsageError: the file is missing or damaged.
        """
        import keras

        try:
            return keras.models.load_model(self.path / MODEL, compile=False, safe_mode=True)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"Cannot load {self.path / MODEL}: {str(error).splitlines()[0]}",
                remedy="Train the run again with --overwrite.",
            ) from error

    def dataset(self) -> Dataset:
        """The run's data set with its own splits, pixels decoded.

        Raises:
            DataError: the data is gone, or differs from what the run saw.
        """
        return datasets.load_dataset(
            self.data, image_size=self.image_size, splits_file=self.path / SPLITS
        )

    @property
    def data(self) -> str:
        """Where the data is: as the user named it if that exists from here, else in full."""
        named = str(self.config["data"])
        full = str(self.config.get("data_path", named))
        return named if ":" in named or Path(named).exists() else full

    def predictions(self) -> list[dict[str, Any]]:
        """One row a test image: path, label, predicted, probability, digest of its bytes."""
        with open(self.path / PREDICTIONS, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return [row | {"probability": float(row["probability"])} for row in rows]

    def history(self) -> list[dict[str, str]]:
        """One row an epoch, as in ``history.csv``."""
        with open(self.path / HISTORY, newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def array(self, name: str) -> np.ndarray:
        """An array that the run left, such as ``test_probabilities.npy``."""
        return np.load(self.path / name, allow_pickle=False)

    def __repr__(self) -> str:
        test = self.metrics["test"]
        return (
            f"Run({str(self.path)!r}: {self.config['backbone']} on {self.config['data']!r}, "
            f"test accuracy {test['accuracy']:.3f})"
        )


def open_run(path: str | os.PathLike[str]) -> Run:
    """Opens a finished run.

    Args:
        path: the folder given as ``--output`` or ``output=`` when it was trained.

    Returns:
        The run, from which model, metrics, predictions and data set are read when asked for.

    Raises:
        UsageError: the folder is no run, or one that has not finished, or pieces are missing.
    """
    folder = Path(path)
    config = _read_json(folder / CONFIG)
    if config is None or "keras_transfer" not in config:
        raise UsageError(
            f"{folder} is not a run folder: it has no {CONFIG} of ours.",
            remedy="Name the folder given to `keras-transfer train --output`.",
        )
    metrics = _read_json(folder / METRICS)
    if metrics is None:
        raise UsageError(
            f"The run in {folder} has not finished: it has no {METRICS}.",
            remedy="Continue it with `keras-transfer train ... --resume`.",
        )
    missing = [
        name for name in (MODEL, SPLITS, PREDICTIONS, HISTORY) if not (folder / name).exists()
    ]
    if missing:
        raise UsageError(
            f"The run in {folder} lacks {', '.join(missing)}.",
            remedy="Restore the files, or train again with --overwrite.",
        )
    return Run(folder, config, metrics)


def begin(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Makes a run's folder ready and returns the folder for its checkpoints.

    Args:
        path: the run folder.
        config: what the run is about to do.
        resume: go on from the checkpoints of a run with the same settings.
        overwrite: replace a run that is there.

    Raises:
        UsageError: the folder holds something else, a run that was not to be replaced, or one
            with other settings than those to be resumed.
    """
    folder = Path(path)
    check_output(folder, resume=resume, overwrite=overwrite)
    held = _read_json(folder / CONFIG)
    if held is not None and resume:
        for name in sorted(set(held) & set(config) - {"created", "keras_transfer"}):
            if held[name] != json.loads(json.dumps(files.plain(config[name]))):
                raise UsageError(
                    f"The run in {folder} had {name}={held[name]!r}; received {config[name]!r}.",
                    remedy="Give the same settings to resume it, or --overwrite to begin anew.",
                )
    elif held is not None:
        remove(folder)
    (folder / STATE).mkdir(parents=True, exist_ok=True)
    files.write_json(folder / CONFIG, dict(config))
    return folder / STATE


def check_output(path: str | os.PathLike[str], *, resume: bool, overwrite: bool) -> None:
    """Refuses a folder that a run must not be written to, before any work is done."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", remedy="Name a folder with --output.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    held = _read_json(folder / CONFIG)
    if held is None or "keras_transfer" not in held:
        raise UsageError(
            f"{folder} holds files that are not a run of ours; they are left alone.",
            remedy="Name another folder with --output.",
        )
    finished = (folder / METRICS).exists()
    if resume and finished:
        raise UsageError(
            f"The run in {folder} has finished; there is nothing to resume.",
            remedy="Look at it with `keras-transfer evaluate`, or pass --overwrite.",
        )
    if not resume and not overwrite:
        what = "already holds a run" if finished else "holds a run that has not finished"
        raise UsageError(
            f"{folder} {what}.",
            remedy="Pass --overwrite to replace it, --resume to go on, or name another --output.",
        )


def remove(path: str | os.PathLike[str]) -> None:
    """Removes a run's own files, and its folder if nothing else is in it."""
    folder = Path(path)
    for name in _OURS:
        (folder / name).unlink(missing_ok=True)
    for name in _OUR_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def finish(path: str | os.PathLike[str], result: TransferResult, config: Mapping[str, Any]) -> Run:
    """Writes what came of a run; ``metrics.json`` comes last and makes the run finished.

    Args:
        path: the run folder, made by :func:`begin` or new.
        result: from ``training.train``.
        config: what the run did, completed with what it learnt.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with files.atomic_path(folder / MODEL) as temporary:
        result.model.save(temporary)
    datasets.write_splits(result.dataset, folder / SPLITS)
    files.write_text(folder / PREDICTIONS, _csv(_predictions(result)))
    files.write_text(folder / HISTORY, _csv(result.history, _HISTORY_COLUMNS))
    for name, array in (
        (PROBABILITIES, result.test_probabilities),
        (VALIDATION_LOGITS, result.validation_logits),
        (VALIDATION_LABELS, result.dataset.labels[result.dataset.indices("val")]),
    ):
        with files.atomic_path(folder / name) as temporary, open(temporary, "wb") as stream:
            np.save(stream, array)
    complete = dict(config) | {
        **result.recipe.to_dict(),
        "temperature": result.temperature,
        "class_names": list(result.class_names),
    }
    files.write_json(folder / CONFIG, complete)
    metrics = metrics_of(result)
    files.write_json(folder / METRICS, metrics)
    shutil.rmtree(folder / STATE, ignore_errors=True)
    return open_run(folder)


def metrics_of(result: TransferResult) -> dict[str, Any]:
    """What ``metrics.json`` holds."""
    validation = result.candidates[0]
    return {
        "test": result.evaluation.to_json(),
        "validation": {
            "accuracy": validation.accuracy,
            "nll": validation.nll,
            "images": len(result.validation_logits),
        },
        "kept": validation.name,
        "candidates": [dataclasses.asdict(candidate) for candidate in result.candidates],
        "temperature": result.temperature,
        "threshold": dataclasses.asdict(result.threshold),
        "phases": [phase.to_json() for phase in result.phases],
        "seconds": dict(result.seconds),
        "cache": dataclasses.asdict(result.cache),
        "plan": result.plan.to_json(),
        "images": {
            name: int((result.dataset.splits == name).sum()) for name in ("train", "val", "test")
        },
        "findings": len(result.dataset.findings),
        "compute": result.compute,
        "environment": environment(),
    }


VERSIONED = (
    *("keras", "tensorflow", "tensorflow-cpu", "jax", "openvino"),
    *("numpy", "pillow", "cykooz-resizer"),
)
"""Packages whose version may move a run's figures."""


def environment() -> dict[str, Any]:
    """Versions and machine, as far as they matter for repeating a run."""
    import keras

    from keras_transfer.base.compute import accelerators

    versions = {}
    for package in VERSIONED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "keras_transfer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "accelerators": accelerators(),
        "backend": keras.backend.backend(),
        "versions": versions,
    }


def _predictions(result: TransferResult) -> list[dict[str, Any]]:
    data, names = result.dataset, result.class_names
    rows = []
    for index, row in zip(data.indices("test"), result.test_probabilities, strict=True):
        best = int(row.argmax())
        rows.append(
            {
                "path": data.paths[index],
                "label": names[data.labels[index]],
                "predicted": names[best],
                "probability": f"{float(row[best]):.6f}",
                "digest": data.digests[index],
            }
        )
    return rows


def _csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None) -> str:
    rows = list(rows)
    header = list(columns) if columns else list(rows[0])
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
