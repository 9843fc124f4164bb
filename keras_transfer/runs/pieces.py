"""Gathers what a page needs from a run folder, and names what is not there."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError
from keras_transfer.base.types import Dataset
from keras_transfer.evaluation import plots
from keras_transfer.learn import calibration
from keras_transfer.runs import figures

if TYPE_CHECKING:
    import keras

IMAGES = Path("plots") / "images"
"""Where the pictures of a page are kept, so that it can be made again without the data."""

_Value = TypeVar("_Value")


class Reportable(Protocol):
    """What a page reads of a run; see ``runs.Run``."""

    @property
    def path(self) -> Path:
        """The run's folder."""

    @property
    def config(self) -> Mapping[str, Any]:
        """``config.json``."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """``metrics.json``."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the model's outputs."""

    def model(self) -> keras.Model:
        """The classifier."""

    def dataset(self) -> Dataset:
        """The data with the run's splits and decoded pixels."""

    def predictions(self) -> list[dict[str, Any]]:
        """The rows of ``predictions.csv``."""


class Gatherer:
    """Reads the pieces of a run, each at most once.

    Args:
        run: the run.
        dataset: its data where at hand; otherwise it is opened when a picture is needed.
        model: its classifier where at hand.

    Attributes:
        missing: what could not be read, a sentence each.
    """

    def __init__(self, run: Reportable, dataset: Dataset | None, model: keras.Model | None) -> None:
        self.run, self.missing = run, list[str]()
        self._dataset, self._model = dataset, model
        self._tried: set[str] = set()

    def attempt(self, name: str, read: Callable[[], _Value]) -> _Value | None:
        """The value that ``read`` returns, or None with the reason noted under ``name``."""
        try:
            return read()
        except KerasTransferError as error:
            reason = error.message
        except FileNotFoundError:
            reason = "the file is not there"
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        self.missing.append(f"{name}: {reason}".rstrip(".") + ".")
        return None

    def dataset(self) -> Dataset | None:
        """The data set, or None where it is gone."""
        if self._dataset is None and "dataset" not in self._tried:
            self._tried.add("dataset")
            self._dataset = self.attempt("The images", self.run.dataset)
        return self._dataset

    def model(self) -> keras.Model | None:
        """The classifier, or None where it cannot be loaded."""
        if self._model is None and "model" not in self._tried:
            self._tried.add("model")
            self._model = self.attempt("model.keras", self.run.model)
        return self._model

    def history(self) -> list[Mapping[str, Any]]:
        """The path of a head that was solved, a row a penalty, then one row an epoch."""

        def read() -> list[dict[str, Any]]:
            with open(self.run.path / "history.csv", newline="", encoding="utf-8") as stream:
                return list(csv.DictReader(stream))

        rows = self.attempt("history.csv", read) or []
        return plots.with_head(rows, self.run.metrics.get("phases") or [])

    def answers(self) -> Answers | None:
        """Probabilities, labels and paths of the test images."""
        rows = self.attempt("predictions.csv", self.run.predictions)
        probabilities = self.attempt(
            "test_probabilities.npy",
            lambda: np.load(self.run.path / "test_probabilities.npy", allow_pickle=False),
        )
        if rows is None or probabilities is None:
            return None
        index = {name: i for i, name in enumerate(self.run.class_names)}

        def read() -> Answers:
            if probabilities.shape != (len(rows), len(index)):
                raise ValueError(
                    f"shape {probabilities.shape} does not fit {len(rows)} rows of "
                    f"predictions.csv and {len(index)} classes"
                )
            labels = np.array([index[str(row["label"])] for row in rows], np.int64)
            paths = tuple(str(row["path"]) for row in rows)
            return Answers(probabilities, labels, paths)

        return self.attempt("test_probabilities.npy", read)

    def pictured(
        self, items: list[dict[str, str]], kind: str, classes: Sequence[int] | None = None
    ) -> list[dict[str, str]]:
        """The items with addresses of their ``image`` and ``map``, ``""`` where there is none.

        Pictures are kept in the run folder by kind and order and used again without the data.

        Args:
            items: with the ``path`` of an image in the data set.
            kind: what the pictures are of, a word for their file names.
            classes: the class that each Grad-CAM explains; None for no Grad-CAM.
        """
        dataset = self.dataset() if items else None
        if dataset is not None and dataset.examples is not None:
            place = {path: i for i, path in enumerate(dataset.paths)}
            known = [i for i, item in enumerate(items) if item["path"] in place]
            if known:
                pixels = np.stack([dataset.examples[place[items[i]["path"]]] for i in known])
                self._keep(kind, known, pixels, "")
                if classes is not None:
                    self._explain(kind, known, pixels, [classes[i] for i in known])
        return [
            {
                **item,
                "image": self._kept(kind, i, ""),
                "map": "" if classes is None else self._kept(kind, i, "-map"),
            }
            for i, item in enumerate(items)
        ]

    def _explain(
        self, kind: str, rows: Sequence[int], pixels: np.ndarray, classes: Sequence[int]
    ) -> None:
        model = self.model()
        if model is None:
            return
        from keras_transfer.evaluation import saliency as explain

        maps = self.attempt("Grad-CAM", lambda: explain.grad_cam(model, pixels, classes))
        if maps is not None:
            self._keep(kind, rows, explain.overlay(pixels, maps), "-map")

    def _keep(self, kind: str, rows: Sequence[int], pixels: np.ndarray, suffix: str) -> None:
        for i, image in zip(rows, pixels, strict=True):
            target = self.run.path / IMAGES / f"{kind}-{i:02d}{suffix}.webp"
            files.write_bytes(target, figures.webp(image))

    def _kept(self, kind: str, i: int, suffix: str) -> str:
        try:
            image = (self.run.path / IMAGES / f"{kind}-{i:02d}{suffix}.webp").read_bytes()
        except OSError:
            return ""
        return figures.data_url(image)


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """The model's answers to the test images.

    Attributes:
        probabilities: float32, shape ``[images, classes]``, as shipped.
        labels: int64, shape ``[images]``.
        paths: the images.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    paths: tuple[str, ...]

    def before(self, temperature: float) -> np.ndarray:
        """The probabilities without the division by ``temperature``, float64."""
        logits = np.log(np.maximum(self.probabilities.astype(np.float64), 1e-38))
        return calibration.softmax(temperature * logits)
