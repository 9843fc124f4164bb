"""What a classifier is worth on images that it has not seen, with what can be said for certain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from keras_transfer.base import errors
from keras_transfer.learn import calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95
"""Coverage of every interval."""

FEW_IMAGES = 10
"""Below this many images no bootstrap interval is given: resampling them shows too little."""

RESAMPLES = 1000
"""Bootstrap resamples; the ends of a 95 % interval then rest on 25 resamples each."""

METRICS = ("accuracy", "top5", "balanced_accuracy", "macro_f1", "nll", "brier", "ece")

Interval = tuple[float, float]


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


@dataclasses.dataclass(frozen=True, eq=False)
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

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``metrics.json``.

        ``confusion`` becomes the list of its cells that are not zero, by class name, so that its
        size follows the number of images and not the square of the number of classes.
        """
        result = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("confusion", "per_class", "reliability")
        }
        names = [row.name for row in self.per_class]
        result["reliability"] = dataclasses.asdict(self.reliability)
        result["per_class"] = [dataclasses.asdict(row) for row in self.per_class]
        result["confusion"] = [
            {"label": names[i], "predicted": names[j], "count": int(self.confusion[i, j])}
            for i, j in zip(*np.nonzero(self.confusion), strict=True)
        ]
        return result

    def plot_confusion(self) -> Figure:
        """Which class is taken for which."""
        from keras_transfer.evaluation import plots

        return plots.confusion(self.confusion, [row.name for row in self.per_class])

    def plot_reliability(self) -> Figure:
        """How often the model was right, by how sure it said it was."""
        from keras_transfer.evaluation import plots

        return plots.reliability(dataclasses.asdict(self.reliability))

    def _repr_html_(self) -> str:
        rows = []
        for name in METRICS:
            interval = self.intervals.get(name)
            between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "unknown"
            majority = self.majority.get(name)
            rows.append(
                f"<tr><td>{name.replace('_', ' ')}<td>{getattr(self, name):.3f}<td>{between}"
                f"<td>{'' if majority is None else format(majority, '.3f')}"
            )
        return (
            f"<table><caption>{self.images} images. {self.note}</caption><tr><th>Metric<th>Value"
            f"<th>95 % interval<th>Commonest class{''.join(rows)}</table>"
        )


def wilson_interval(successes: int, n: int) -> Interval:
    """The 95 % score interval of a rate (Wilson 1927), sound for few trials and rates near 0 or 1.

    Args:
        successes: how many of ``n`` came out well.
        n: number of trials; with none the interval is (0, 1).

    >>> [round(bound, 3) for bound in wilson_interval(45, 50)]
    [0.786, 0.957]
    """
    if n == 0:
        return (0.0, 1.0)
    z = float(stats.norm.ppf((1.0 + CONFIDENCE) / 2.0))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return (0.0 if successes == 0 else low, 1.0 if successes == n else high)


def evaluate(
    probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str], *, seed: int = 0
) -> Evaluation:
    """Measures predictions against the truth.

    Args:
        probabilities: float, shape ``[images, classes]``, rows summing to 1.
        labels: int, shape ``[images]``, values in ``0..classes - 1``.
        class_names: the classes, in the order of the columns.
        seed: of the bootstrap.

    Raises:
        DataError: no images, or shapes or labels that do not fit together.
        KerasTransferError: a probability is NaN or infinite.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int64)
    _check(probabilities, labels, class_names)
    images, classes = probabilities.shape
    samples = _Samples.of(probabilities, labels)
    confusion = np.bincount(labels * classes + samples.predicted, minlength=classes * classes)
    confusion = confusion.reshape(classes, classes)
    intervals: dict[str, Interval | None] = {
        "accuracy": wilson_interval(int(samples.correct.sum()), images),
        "top5": wilson_interval(int(samples.in_top5.sum()), images),
        **_bootstrap(samples, seed),
    }
    note = ""
    if images < FEW_IMAGES:
        note = (
            f"Only {images} image{'s' * (images != 1)}: too few for more than a first impression. "
            "Trust the intervals, not the figures."
        )
    majority, chance = _baselines(np.bincount(labels, minlength=classes) / images)
    return Evaluation(
        images=images,
        top5=float(samples.in_top5.mean()),
        **samples.metrics(np.arange(images)),
        ece_floor=_ece_floor(samples, seed),
        confusion=confusion,
        per_class=_per_class(confusion, class_names),
        reliability=calibration.reliability(probabilities, labels),
        intervals=intervals,
        majority=majority,
        chance=chance,
        note=note,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Samples:
    """What each image contributes, so that a resample costs a few counts."""

    classes: int
    labels: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray
    in_top5: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    gap: np.ndarray
    bin: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray) -> _Samples:
        images, classes = probabilities.shape
        truth = probabilities[np.arange(images), labels]
        predicted = probabilities.argmax(axis=1)
        correct = predicted == labels
        # Ties are broken as argmax breaks them: the lower index comes first.
        earlier = np.arange(classes) < labels[:, None]
        ahead = (probabilities > truth[:, None]) | ((probabilities == truth[:, None]) & earlier)
        confidence = probabilities.max(axis=1)
        return cls(
            classes=classes,
            labels=labels,
            predicted=predicted,
            correct=correct,
            in_top5=ahead.sum(axis=1) < 5,
            nll=-np.log(np.maximum(truth, 1e-12)),
            brier=np.square(probabilities).sum(axis=1) - 2.0 * truth + 1.0,
            gap=confidence - correct,
            bin=calibration.confidence_bins(confidence),
        )

    def metrics(self, rows: np.ndarray) -> dict[str, float]:
        """The metrics over the images at ``rows``, which may repeat."""
        count = self.classes
        support = np.bincount(self.labels[rows], minlength=count)
        chosen = np.bincount(self.predicted[rows], minlength=count)
        hits = np.bincount(self.labels[rows], weights=self.correct[rows], minlength=count)
        gaps = np.bincount(self.bin[rows], weights=self.gap[rows], minlength=calibration.BINS)
        occurs, seen = support > 0, support + chosen > 0
        return {
            "accuracy": float(self.correct[rows].mean()),
            "balanced_accuracy": float((hits[occurs] / support[occurs]).mean()),
            "macro_f1": float((2.0 * hits[seen] / (support + chosen)[seen]).mean()),
            "nll": float(self.nll[rows].mean()),
            "brier": float(self.brier[rows].mean()),
            "ece": float(np.abs(gaps).sum() / len(rows)),
        }


def confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Rows of the wrong answers with the highest probability, highest first, int64 ``[<= count]``.

    Args:
        probabilities: float, shape ``[images, classes]``.
        labels: int, shape ``[images]``.
        count: the most rows to return.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")][:count]


def doubtful_hits(probabilities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Rows of the right answers with the lowest probability, lowest first, int64 ``[<= count]``.

    Arguments as in :func:`confident_mistakes`.
    """
    right = np.flatnonzero(probabilities.argmax(axis=1) == labels)
    return right[np.argsort(probabilities.max(axis=1)[right], kind="stable")][:count]


def _bootstrap(samples: _Samples, seed: int) -> dict[str, Interval | None]:
    """Percentile intervals of the metrics that are not simple rates."""
    names = ("balanced_accuracy", "macro_f1", "nll", "brier", "ece")
    images = len(samples.labels)
    if images < FEW_IMAGES:
        return dict.fromkeys(names)
    random = np.random.default_rng(seed)
    # Intervals of very many images are narrow: their ends need fewer resamples.
    resamples = min(RESAMPLES, max(100, 10_000_000 // images))
    drawn = [samples.metrics(random.integers(images, size=images)) for _ in range(resamples)]
    result: dict[str, Interval | None] = {}
    for name in names:
        values = np.array([row[name] for row in drawn])
        if name == "ece":
            # Resampling adds noise to every bin and noise adds to the ECE: take that bias out.
            plain = samples.metrics(np.arange(images))["ece"]
            values = np.maximum(0.0, values - (values.mean() - plain))
        low, high = percentile_interval(values)
        result[name] = (low, high) if high > low else None
    return result


def _ece_floor(samples: _Samples, seed: int) -> float:
    """Draws right and wrong answers as the confidences promise them, and measures their ECE."""
    random, images = np.random.default_rng(seed), len(samples.labels)
    confidence = samples.gap + samples.correct
    drawn = []
    for _ in range(min(200, max(20, 2_000_000 // images))):
        gap = confidence - (random.random(images) < confidence)
        gaps = np.bincount(samples.bin, weights=gap, minlength=calibration.BINS)
        drawn.append(np.abs(gaps).sum() / images)
    return float(np.mean(drawn))


def percentile_interval(values: np.ndarray) -> Interval:
    """The central 95 % of resampled values."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _baselines(frequencies: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    classes = len(frequencies)
    present = frequencies[frequencies > 0]
    top = float(present.max())
    majority = {
        "accuracy": top,
        "top5": float(np.sort(frequencies)[-5:].sum()),
        "balanced_accuracy": 1.0 / len(present),
        "macro_f1": 2.0 * top / (1.0 + top) / len(present),
        "nll": float(-(present * np.log(present)).sum()),
        "brier": 1.0 - float(np.square(present).sum()),
    }
    chance = {
        "accuracy": 1.0 / classes,
        "top5": min(5, classes) / classes,
        "balanced_accuracy": 1.0 / classes,
        "macro_f1": float((2.0 * present / (classes * present + 1.0)).mean()),
        "nll": float(np.log(classes)),
        "brier": 1.0 - 1.0 / classes,
    }
    return majority, chance


def _per_class(confusion: np.ndarray, class_names: Sequence[str]) -> tuple[ClassResult, ...]:
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    hits = np.diagonal(confusion)
    rows = []
    for i, name in enumerate(class_names):
        right, count, given = int(hits[i]), int(support[i]), int(predicted[i])
        mistakes = confusion[i].copy()
        mistakes[i] = 0
        rows.append(
            ClassResult(
                name=name,
                support=count,
                predicted=given,
                precision=right / given if given else float("nan"),
                recall=right / count if count else float("nan"),
                f1=2 * right / (count + given) if count + given else float("nan"),
                precision_interval=wilson_interval(right, given) if given else None,
                recall_interval=wilson_interval(right, count) if count else None,
                confused_with=class_names[int(mistakes.argmax())] if mistakes.any() else "",
            )
        )
    return tuple(rows)


def _check(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    if not len(labels):
        raise errors.DataError(
            "There are no images to evaluate on.", remedy="Name data that holds labelled images."
        )
    if probabilities.shape != (len(labels), len(class_names)):
        raise errors.DataError(
            f"Probabilities of shape {probabilities.shape} do not fit {len(labels)} labels and "
            f"{len(class_names)} class names.",
            remedy="Pass one row for each label and one column for each class.",
        )
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise errors.DataError(
            f"Labels run from {labels.min()} to {labels.max()}, but there are "
            f"{len(class_names)} classes.",
            remedy="Number the labels from 0 in the order of the class names.",
        )
    bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if bad:
        raise errors.KerasTransferError(
            f"The model answers {bad} of {len(labels)} images with probabilities that are NaN or "
            "infinite.",
            remedy="Train again with a lower learning rate: its weights are damaged.",
        )
