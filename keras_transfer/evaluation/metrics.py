"""What a classifier is worth on images that it has not seen, with what can be said for certain."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from keras_transfer.base import errors
from keras_transfer.base.intervals import Interval, percentile_interval, wilson_interval
from keras_transfer.base.task import ONE, SEVERAL, task_of
from keras_transfer.evaluation import several
from keras_transfer.learn import calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW_IMAGES = 10
"""Below this many images no bootstrap interval is given: resampling them shows too little."""

RESAMPLES = 1000
"""Bootstrap resamples; the ends of a 95 % interval then rest on 25 resamples each."""

RATES = ("accuracy", "top5")
"""Metrics that are the share of images of which something is true."""

_Columns = dict[str, np.ndarray]

METRICS = ("accuracy", "top5", "balanced_accuracy", "macro_f1", "nll", "brier", "ece")


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """One class on the test images.

    Attributes:
        name: the class.
        support: images of this class.
        predicted: images that were given this class.
        precision: share of ``predicted`` that was right, NaN where nothing was predicted.
        recall: share of ``support`` that was found, NaN where there was none.
        f1: harmonic mean of the two, NaN where the class neither occurs nor is predicted.
        precision_interval: Wilson interval of ``precision``, None where it is NaN.
        recall_interval: Wilson interval of ``recall``, None where it is NaN.
        confused_with: the class that its images are most often taken for, ``""`` for none.
    """

    name: str
    support: int
    predicted: int
    precision: float
    recall: float
    f1: float
    precision_interval: Interval | None
    recall_interval: Interval | None
    confused_with: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassOfSeveral(ClassResult):
    """The same where an example may have several.

    Attributes:
        average_precision: area under precision by recall, NaN where no example has the class.
        threshold: the probability from which on it is answered.
    """

    average_precision: float
    threshold: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """The metrics of one set of predictions. Rates lie in 0..1; NLL is in nats.

    Attributes:
        images: number of images.
        accuracy: share whose most probable class is the true one.
        top5: share whose true class is among the five most probable; 1 with five or fewer classes.
        balanced_accuracy: mean recall over the classes that occur.
        macro_f1: mean F1 over the classes that occur or are predicted.
        nll: mean negative log-likelihood in nats, probabilities below 1e-12 counted as 1e-12.
        brier: mean squared distance between the probabilities and the one-hot truth, 0..2.
        ece: expected calibration error over ``calibration.BINS`` equally wide confidence bins.
        ece_floor: the ECE that a perfectly calibrated model of the same confidences would be
            expected to show on so few images: the part of ``ece`` that is chance.
        confusion: int64, shape ``[classes, classes]``, true class by predicted class.
        per_class: one row a class, in the order of the model's outputs.
        reliability: the diagram behind ``ece``.
        intervals: 95 % interval of each metric: Wilson for ``accuracy`` and ``top5``, seeded
            percentile bootstrap over the images for the rest (for ``ece`` shifted by the
            bootstrap's bias, which resampling would add a second time). None where nothing can be
            said: under ``FEW_IMAGES`` images, or where every resample agrees.
        majority: the metrics of always answering with the commonest class of these images (for
            ``nll`` and ``brier``, with their class frequencies).
        chance: what a uniform guess is expected to reach.
        note: a warning to read with the numbers, or ``""``.
    """

    images: int
    accuracy: float
    top5: float
    balanced_accuracy: float
    macro_f1: float
    nll: float
    brier: float
    ece: float
    ece_floor: float
    confusion: np.ndarray
    per_class: tuple[ClassResult, ...]
    reliability: calibration.Reliability
    intervals: dict[str, Interval | None]
    majority: dict[str, float]
    chance: dict[str, float]
    note: str = ""
    shown: ClassVar[tuple[str, ...]] = METRICS

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``metrics.json``.

        ``confusion`` becomes the list of its cells that are not zero, by class name, so that its
        size follows the number of images and not the square of the number of classes.
        """
        names = [row.name for row in self.per_class]
        cells = [
            {"label": names[i], "predicted": names[j], "count": int(self.confusion[i, j])}
            for i, j in zip(*np.nonzero(self.confusion), strict=True)
        ]
        return dataclasses.asdict(self) | {"confusion": cells}

    def plot_confusion(self) -> Figure:
        """Which class is taken for which."""
        from keras_transfer.evaluation import plots

        return plots.confusion(self.confusion, [row.name for row in self.per_class])

    def plot_reliability(self) -> Figure:
        """How often the model was right, by how sure it said it was."""
        from keras_transfer.evaluation import plots

        return plots.reliability(dataclasses.asdict(self.reliability))

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {getattr(self, name):.3f}" for name in self.shown)
        return f"Evaluation({self.images} examples: {metrics})"

    def _repr_html_(self) -> str:
        rows = []
        for name in self.shown:
            ends, majority = self.intervals.get(name), self.majority.get(name)
            between = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "unknown"
            common = "" if majority is None else f"{majority:.3f}"
            rows.append((name.replace("_", " "), f"{getattr(self, name):.3f}", between, common))
        header = ("Metric", "Value", "95 % interval", "Commonest class")
        return html_table(header, rows, caption=f"{self.images} examples. {self.note}")


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EvaluationOfSeveral(Evaluation):
    """The metrics where an example has several labels; a decision is one class of one example.

    Attributes:
        accuracy: share of the examples of which all decisions are right.
        top5: share of the examples with a label of which one is among the five most probable.
        balanced_accuracy: mean recall over the classes that occur.
        nll: mean negative log-likelihood of the decisions, in nats.
        brier: mean squared distance of a decision's probability from 0 or 1.
        ece: by the probability of a class, over all decisions.
        confusion: of shape ``[0, 0]``: no class stands in another's place.
        majority: of always giving the commonest set of labels, with the frequency of each class.
        chance: of a coin for each class.
        mean_average_precision: mean average precision over the classes that occur.
        micro_f1: harmonic mean of the two that follow.
        micro_precision: share of the labels given that is right.
        micro_recall: share of the true labels that is given.
        hamming: share of the decisions that is wrong.
    """

    mean_average_precision: float
    micro_f1: float
    micro_precision: float
    micro_recall: float
    hamming: float
    shown: ClassVar[tuple[str, ...]] = several.METRICS

    def plot_confusion(self) -> Figure:
        """Refused: no class stands in another's place."""
        raise errors.UsageError(
            "There is no confusion matrix of several labels an example.",
            remedy="Look at per_class: precision, recall and average precision of each.",
        )


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table for a notebook; what the cells hold is text and no markup."""
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    lines = ["<th>".join(["<tr>", *header])]
    lines += ["<td>".join(["<tr>", *map(html.escape, row)]) for row in rows]
    return f"<table>{title}{''.join(lines)}</table>"


def evaluate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    thresholds: Sequence[float] = (),
) -> Evaluation:
    """Measures predictions against the truth.

    Args:
        probabilities: float, shape ``[images, classes]``; of one label rows sum to 1.
        labels: int, shape ``[images]``, values in ``0..classes - 1``; or of several 0 and 1, shape
            ``[images, classes]``.
        class_names: the classes, in the order of the columns.
        thresholds: of several labels the probability from which on each class is answered, 0.5 by
            default.

    Raises:
        DataError: no images, or shapes or labels that do not fit together.
        KerasTransferError: a probability is NaN or infinite.
    """
    _check(np.asarray(probabilities), np.asarray(labels), class_names)
    measures = {ONE.setting: _of_one, SEVERAL.setting: _of_several}
    return measures[task_of(labels).setting](probabilities, labels, class_names, thresholds)


def _note(images: int) -> str:
    note = (
        f"Only {images} example{'s' * (images != 1)}: too few for more than a first impression. "
        "Trust the intervals, not the figures."
    )
    return note if images < FEW_IMAGES else ""


def _of_several(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float],
) -> EvaluationOfSeveral:
    # As predict compares them: a probability is float32 at first.
    answers = SEVERAL.answers(probabilities, thresholds)
    scores, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.uint8)
    resamples = RESAMPLES if len(truth) >= FEW_IMAGES else 0
    found = several.measure(scores, truth, answers, resamples)
    frequencies = np.broadcast_to(truth.mean(axis=0), truth.shape)
    common = several.measure(frequencies, truth, several.commonest(truth), 0).values
    counts = [one.sum(axis=0, dtype=np.int64) for one in (answers * truth, truth, answers)]
    names = list(class_names)
    rows = _rows_of_classes(counts, [""] * len(names), names)
    least = thresholds if len(thresholds) else [0.5] * len(class_names)
    return EvaluationOfSeveral(
        images=len(truth), **found.values, ece_floor=found.ece_floor,
        confusion=np.zeros((0, 0), np.int64), reliability=found.reliability,
        per_class=tuple(
            ClassOfSeveral(**vars(row), average_precision=float(area), threshold=float(value))
            for row, area, value in zip(rows, found.average_precision, least, strict=True)
        ),
        intervals=dict(found.intervals),
        majority={name: value for name, value in common.items() if name != "ece"},
        chance=several.chance(truth), note=_note(len(truth)),
    )  # fmt: skip


def _of_one(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float],
) -> Evaluation:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int64)
    images, classes = probabilities.shape
    table = _contributions(probabilities, labels)
    metrics = _metrics(table, classes)
    cells = np.bincount(labels * classes + table["predicted"], minlength=classes * classes)
    confusion = cells.reshape(classes, classes)
    return Evaluation(
        images=images, **metrics, confusion=confusion,
        ece_floor=several.ece_floor(table["bin"], table["gap"] + table["accuracy"]),
        per_class=_per_class(confusion, class_names),
        reliability=calibration.reliability(probabilities, labels),
        intervals={
            **{name: wilson_interval(int(table[name].sum()), images) for name in RATES},
            **_bootstrap(table, classes, metrics["ece"]),
        },
        majority=_majority(labels, classes), chance=_chance(labels, classes),
        note=_note(images),
    )  # fmt: skip


def ranked(
    probabilities: np.ndarray, labels: np.ndarray, *, right: bool, thresholds: Sequence[float] = ()
) -> np.ndarray:
    """Rows to look at: the right answers, the least sure first; or the wrong, the surest first.

    Args:
        probabilities: float, shape ``[images, classes]``.
        labels: of either task.
        right: which of the two.
        thresholds: as for :func:`evaluate`.
    """
    task = task_of(labels)
    answers = task.answers(probabilities, thresholds)
    rows = np.flatnonzero(task.same(answers, labels) == right)
    sure = task.sureness(probabilities, answers)[rows]
    return rows[np.argsort(sure if right else -sure, kind="stable")]


def _contributions(probabilities: np.ndarray, labels: np.ndarray) -> _Columns:
    """What each image contributes to the metrics, so that a resample costs a few counts."""
    truth = probabilities[np.arange(len(labels)), labels]
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    # Of equals the first comes before the others, as argmax has it.
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    equal = (probabilities == truth[:, None]) & earlier
    return {
        "label": labels,
        "predicted": predicted,
        "accuracy": predicted == labels,
        "top5": ((probabilities > truth[:, None]) | equal).sum(axis=1) < 5,
        "nll": -np.log(np.maximum(truth, 1e-12)),
        "brier": np.square(probabilities).sum(axis=1) - 2.0 * truth + 1.0,
        "gap": confidence - (predicted == labels),
        "bin": calibration.confidence_bins(confidence),
    }


def _metrics(table: _Columns, classes: int) -> dict[str, float]:
    """The metrics of the images in the table, which may repeat."""
    support = np.bincount(table["label"], minlength=classes)
    seen = support + np.bincount(table["predicted"], minlength=classes)
    hits = np.bincount(table["label"], weights=table["accuracy"], minlength=classes)
    return {
        **{name: float(table[name].mean()) for name in (*RATES, "nll", "brier")},
        "balanced_accuracy": float((hits[support > 0] / support[support > 0]).mean()),
        "macro_f1": float((2.0 * hits[seen > 0] / seen[seen > 0]).mean()),
        "ece": several.ece(table["bin"], table["gap"]),
    }


def _bootstrap(table: _Columns, classes: int, ece: float) -> dict[str, Interval | None]:
    """Percentile intervals of the metrics that are not simple rates."""
    names = [name for name in METRICS if name not in RATES]
    images = len(table["label"])
    if images < FEW_IMAGES:
        return dict.fromkeys(names)
    random, drawn = np.random.default_rng(0), []
    # Intervals of very many images are narrow: their ends need fewer resamples.
    for _ in range(min(RESAMPLES, max(100, 10_000_000 // images))):
        rows = random.integers(images, size=images)
        drawn.append(_metrics({name: column[rows] for name, column in table.items()}, classes))
    values = {name: np.array([metrics[name] for metrics in drawn]) for name in names}
    # Resampling adds noise to every bin and noise adds to the ECE: take that bias out.
    values["ece"] = np.maximum(0.0, values["ece"] - (values["ece"].mean() - ece))
    ends = {name: percentile_interval(found) for name, found in values.items()}
    return {name: (low, high) if high > low else None for name, (low, high) in ends.items()}


def _chance(labels: np.ndarray, classes: int) -> dict[str, float]:
    """What a uniform guess is expected to reach."""
    frequencies = np.bincount(labels) / len(labels)
    present = frequencies[frequencies > 0]
    return {
        "accuracy": 1.0 / classes,
        "top5": min(5, classes) / classes,
        "balanced_accuracy": 1.0 / classes,
        "macro_f1": float((2.0 * present / (classes * present + 1.0)).mean()),
        "nll": float(np.log(classes)),
        "brier": 1.0 - 1.0 / classes,
    }


def _majority(labels: np.ndarray, classes: int) -> dict[str, float]:
    """The metrics of always giving the frequencies of the classes."""
    frequencies = np.bincount(labels, minlength=classes) / len(labels)
    constant = np.broadcast_to(frequencies, (len(labels), classes))
    metrics = _metrics(_contributions(constant, labels), classes)
    del metrics["ece"]
    return metrics


def _per_class(confusion: np.ndarray, class_names: Sequence[str]) -> tuple[ClassResult, ...]:
    hits, support, given = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    mistakes = confusion - np.diag(hits)
    taken_for = [class_names[row.argmax()] if row.any() else "" for row in mistakes]
    return _rows_of_classes((hits, support, given), taken_for, class_names)


def _rows_of_classes(
    counts: Sequence[np.ndarray], taken_for: Sequence[str], class_names: Sequence[str]
) -> tuple[ClassResult, ...]:
    """The table of classes, from how often each is rightly given, true, and given."""
    hits, support, given = counts
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is wanted
        precision, recall, f1 = hits / given, hits / support, 2 * hits / (support + given)
    return tuple(
        ClassResult(
            name=name,
            support=int(support[i]),
            predicted=int(given[i]),
            precision=float(precision[i]),
            recall=float(recall[i]),
            f1=float(f1[i]),
            precision_interval=wilson_interval(hits[i], given[i]) if given[i] else None,
            recall_interval=wilson_interval(hits[i], support[i]) if support[i] else None,
            confused_with=taken_for[i],
        )
        for i, name in enumerate(class_names)
    )


def _check(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    images, classes = len(labels), len(class_names)
    said = remedy = ""
    if not images:
        said = "There are no examples to evaluate on."
        remedy = "Name data that holds labelled examples."
    elif probabilities.shape != (images, classes):
        shape = f"Probabilities of shape {probabilities.shape} do not fit"
        said = f"{shape} {images} labels and {classes} class names."
        remedy = "Pass one row for each label and one column for each class."
    elif labels.min() < 0 or labels.max() >= classes:
        ends = f"{labels.min()} to {labels.max()}"
        said = f"Labels run from {ends}, but there are {classes} classes."
        remedy = "Number the labels from 0 in the order of the class names."
    if said:
        raise errors.DataError(said, remedy=remedy)
    if bad := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        raise errors.KerasTransferError(
            f"The model answers {bad} of {images} examples with probabilities that are NaN or "
            "infinite.",
            remedy="Train again with a lower learning rate: its weights are damaged.",
        )
