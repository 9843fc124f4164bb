"""What can be asked of a finished run, whichever way one came by it."""

from __future__ import annotations

import dataclasses
import html
import os
import webbrowser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.task import TASKS, Task
from keras_transfer.datasets.items import Items, named_items
from keras_transfer.datasets.sources import read_file
from keras_transfer.modalities import InputSpec, Modality, modality

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    import keras_transfer
    from keras_transfer.base.types import Dataset, PhaseReport, Size
    from keras_transfer.evaluation import Evaluation
    from keras_transfer.learn.calibration import Threshold
    from keras_transfer.learn.selection import Candidate
    from keras_transfer.recipe import Recipe

Folder = str | os.PathLike[str]


class Finished:
    """A trained classifier with its evidence: what ``train`` returns, or what a folder holds.

    Attributes:
        path: its folder; None where it was trained without ``output``.
        config: everything needed to repeat it, as in ``config.json``.
        metrics: what came of it, as in ``metrics.json``.
        recipe: the settings that were carried out.
        dataset: its data in its own splits, decoded.
        model: the deployable graph: examples in, probabilities out.
        temperature: by which the model divides its logits.
        history: one row an epoch.
        validation_logits: float32 ``[validation examples, classes]``, before the temperature.
        validation_labels: of these, as in ``Dataset.labels``.
        test_probabilities: float32 ``[test examples, classes]``.
        predictions: one row a test example: path, label, predicted, probability, digest.
        evaluation: on the test split.
        thresholds: of several labels an example, the probability from which on each class is
            answered; else empty.
        candidates: what its weights were chosen among, the chosen one first.
        threshold: the confidence from which on answers are as often right as wanted.
        phases: one report a phase.
        seconds: durations by stage.
    """

    path: Path | None
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    recipe: Recipe
    dataset: Dataset
    model: keras.Model
    temperature: float
    history: Sequence[dict[str, Any]]
    validation_logits: np.ndarray
    validation_labels: np.ndarray
    test_probabilities: np.ndarray
    predictions: Sequence[dict[str, Any]]
    evaluation: Evaluation
    thresholds: tuple[float, ...]
    candidates: Sequence[Candidate]
    threshold: Threshold
    phases: Sequence[PhaseReport]
    seconds: Mapping[str, float]

    @property
    def task(self) -> Task:
        """What its labels are."""
        return TASKS[str(self.config.get("multi_label", "off"))]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the model's outputs."""
        return tuple(self.config["class_names"])

    @property
    def modality(self) -> Modality:
        """What its examples are."""
        return modality(self.config.get("modality", "image"))

    @property
    def size(self) -> Size:
        """How large an example of it is, see ``Modality.spec``."""
        return getattr(self.recipe, self.modality.SIZE)

    @property
    def fit(self) -> str | None:
        """How its examples were brought to that size, see ``InputSpec``; None for the usual way."""
        return self.config.get("fit")

    @property
    def spec(self) -> InputSpec:
        """The input of its model."""
        return self.modality.spec(self.size).fitted(self.fit)

    @property
    def how(self) -> dict[str, Any]:
        """How data is opened for its model, as keywords of ``load_dataset`` and ``inspect``."""
        how = {"image_size": self.size, "fit": self.fit, "multi_label": self.task.setting}
        return how | {"columns": self.config.get("columns")}

    def predict(
        self, items: Items, *, top: int = 3, csv: Folder | None = None
    ) -> list[dict[str, Any]]:
        """Classifies items, see ``keras_transfer.predict``."""
        import keras_transfer

        return keras_transfer.predict(self, items, top=top, csv=csv)

    def export(
        self,
        formats: str | Sequence[str] = "saved_model,tflite",
        output: Folder | None = None,
        *,
        overwrite: bool = False,
    ) -> keras_transfer.ExportResult:
        """Exports the model and proves it, see ``keras_transfer.export_run``."""
        import keras_transfer

        return keras_transfer.export_run(self, formats, output, overwrite=overwrite)

    def report(self, *, show: bool = False) -> Path:
        """Writes its page, see ``keras_transfer.write_report``; ``show`` opens it in a browser."""
        import keras_transfer

        page = keras_transfer.write_report(self)
        if show:
            webbrowser.open(page.absolute().as_uri())
        return page

    def plot_history(self) -> Figure:
        """Accuracy and loss over both phases, the unfreezing marked."""
        from keras_transfer.evaluation import plots

        return plots.history(self.history, self.metrics["phases"])

    def plot_confusion(self) -> Figure:
        """Which class is taken for which on the test split."""
        return self.evaluation.plot_confusion()

    def plot_reliability(self) -> Figure:
        """How often the model was right on the test split, by how sure it said it was."""
        return self.evaluation.plot_reliability()

    def plot_mistakes(self, count: int = 12) -> Shown:
        """The wrong answers on the test split, the surest first, and where the model looked."""
        return self.plot_saliency(self._mistakes(count))

    def plot_saliency(self, items: Items | None = None) -> Shown:
        """Where the model looked for its answers.

        Args:
            items: anything that ``predict`` takes; by default the first test example of each class.

        Raises:
            UsageError: the model's layers have no places.
            ExampleError: an item cannot be read.
        """
        from keras_transfer.evaluation.saliency import explain

        form, names = self.modality, self.class_names
        spec = self.spec
        if items is None:
            labels, test = self.task.strata(self.dataset.labels), self.dataset.indices("test")
            items = self._told(test[np.unique(labels[test], return_index=True)[1]])
        elif not isinstance(items, _Told):
            items = named_items(form, spec, items)
        named = [(name, read_file(name) if data is None else data) for name, data in items]
        if not named:
            return Shown(())
        examples = np.stack([form.decode(data, spec) for _, data in named])
        scores = np.asarray(self.model.predict_on_batch(examples))
        best = scores.argmax(axis=1)
        maps = explain(self.model, examples, best)
        pieces = []
        for (name, data), row, answer, looked in zip(named, scores, best, maps, strict=True):
            said = f"{name}: {names[answer]}, {row[answer]:.0%}"
            example = form.decode(data, form.preview(spec))
            pieces.append((said, form.show(example, said, looked)))
        return Shown(pieces)

    def _mistakes(self, count: int) -> _Told:
        from keras_transfer.evaluation.metrics import ranked

        test = self.dataset.indices("test")
        labels, least = self.dataset.labels[test], self.thresholds
        wrong = ranked(self.test_probabilities, labels, right=False, thresholds=least)
        return self._told(test[wrong[:count]])

    def _told(self, rows: Iterable[int]) -> _Told:
        """Examples of the data set under the names of their classes."""
        data = self.dataset
        names = self.task.decode(data.labels, data.class_names)
        return _Told((names[i], data.read(int(i))) for i in rows)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.evaluation._repr_html_()}"

    def __repr__(self) -> str:
        place = f", in {str(self.path)!r}" if self.path else ""
        return (
            f"{type(self).__name__}({self.config['backbone']} on {self.config['data']!r}: "
            f"test accuracy {self.metrics['test']['accuracy']:.3f}{place})"
        )


class _Told(list[tuple[str, bytes]]):
    """Items whose names and bytes are known."""


@dataclasses.dataclass(frozen=True, repr=False)
class Shown:
    """Examples, each with a line of text: a notebook shows them, ``save`` writes a page.

    Attributes:
        pieces: the line and the HTML of each.
    """

    pieces: Sequence[tuple[str, str]]

    def save(self, path: Folder) -> None:
        """Writes one HTML file that needs no other, atomically."""
        files.write_text(path, f"<!DOCTYPE html><meta charset=utf-8>{self._repr_html_()}")

    def _repr_html_(self) -> str:
        cells = (
            f'<figure style="margin:0">{piece}<figcaption>{html.escape(said)}</figcaption></figure>'
            for said, piece in self.pieces
        )
        return f'<div style="display:flex;flex-wrap:wrap;gap:1em">{"".join(cells)}</div>'

    def __repr__(self) -> str:
        return f"Shown({len(self.pieces)} examples; a notebook shows them, .save(FILE) writes them)"
