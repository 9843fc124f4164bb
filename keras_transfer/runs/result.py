"""What training comes to: a model with the evidence."""

from __future__ import annotations

import dataclasses
import html
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_transfer import evaluation
from keras_transfer.base.types import Dataset
from keras_transfer.evaluation import plots
from keras_transfer.frozen.store import StoreCounts
from keras_transfer.learn import calibration, planner
from keras_transfer.learn.selection import Candidate
from keras_transfer.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class PhaseReport:
    """What a phase did: the entries of ``phases`` in ``metrics.json``."""

    name: str
    epochs: int
    seconds: float
    images_per_second: float
    cached: bool
    details: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
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
    def compilations(self) -> int:
        """Training steps that were traced and compiled."""
        return int(self.compute["jit"]["compilations"])

    def plot_history(self) -> Figure:
        """Accuracy and loss over both phases, the unfreezing marked."""
        return plots.history(plots.with_head(self.history, [*map(vars, self.phases)]))


@dataclasses.dataclass(frozen=True, eq=False)
class TransferResult(Fitted):
    """A trained classifier with everything that was learnt on the way.

    Attributes:
        test_probabilities: float32 ``[test images, classes]``.
        evaluation: on the test split.
        threshold: the confidence from which on validation shows answers to be right as often as
            wanted, and what it comes to on the test split.
    """

    test_probabilities: np.ndarray
    evaluation: evaluation.Evaluation
    threshold: calibration.Threshold

    def plot_confusion(self) -> Figure:
        """Which class is taken for which on the test split."""
        return self.evaluation.plot_confusion()

    def plot_reliability(self) -> Figure:
        """How often the model was right on the test split, by how sure it said it was."""
        return self.evaluation.plot_reliability()

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.evaluation._repr_html_()}"

    def __repr__(self) -> str:
        return (
            f"TransferResult({self.recipe.backbone} on {self.dataset.name!r}: test accuracy "
            f"{self.evaluation.accuracy:.3f}, {self.candidates[0].name} kept, "
            f"{self.seconds['total']:.0f} s)"
        )
