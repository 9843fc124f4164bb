"""Cheap questions to the features of the frozen backbone: baselines, more data, wrong labels.

Features are float arrays ``[images, d]``, one row an image (clean view), such as the pooled
output of the backbone; ``splits`` holds ``train``, ``val`` or ``test`` for each row.
"""

from __future__ import annotations

import dataclasses
import html
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.evaluation.comparison import compare_predictions
from keras_transfer.evaluation.metrics import (
    RESAMPLES,
    Evaluation,
    Interval,
    evaluate,
    percentile_interval,
)
from keras_transfer.learn import calibration, heads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPONENTS = (0.2, 0.5, 0.8)
"""By which powers of the number of images a learning curve's error may fall to its floor."""


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline:
    """What a simpler method reaches on the same test images.

    Attributes:
        name: ``nearest neighbour`` or ``logistic regression``.
        predicted: int64, shape ``[test images]``, its class for each, in the order of the rows.
        evaluation: its metrics.
        seconds: time for fitting and answering.
    """

    name: str
    predicted: np.ndarray
    evaluation: Evaluation
    seconds: float

    def to_json(self, labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """The headline metrics, and the verdict on a run's answers to the same images.

        Args:
            labels: int, shape ``[test images]``.
            predicted: int, shape ``[test images]``, the run's classes.
        """
        kept = ("images", "accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")
        pair = compare_predictions(labels, predicted, self.predicted, names=("this run", self.name))
        return {
            "name": self.name,
            **{name: getattr(self.evaluation, name) for name in kept},
            "interval": self.evaluation.intervals["accuracy"],
            "seconds": self.seconds,
            "verdict": pair.verdict[:1].upper() + pair.verdict[1:],
            "better": pair.different and pair.difference > 0,
            "p_value": pair.p_value,
        }


def baselines(
    features: np.ndarray,
    labels: np.ndarray,
    splits: np.ndarray,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> tuple[Baseline, ...]:
    """Nearest neighbour (cosine) and logistic regression, fitted on train, measured on test.

    The penalty and the temperature of the regression are chosen on validation. The nearest
    neighbour's probabilities are the softmax of each class's largest cosine, with a temperature
    chosen there as well, so that all methods are measured by the same metrics.

    Raises:
        DataError: a split without images.
    """
    train, val, test = (_rows(splits, name) for name in ("train", "val", "test"))
    classes, results = len(class_names), []
    for name in ("nearest neighbour", "logistic regression"):
        start = time.perf_counter()
        if name == "nearest neighbour":
            unit = unit_rows(features)
            logits = _class_cosines(unit[train], labels[train], unit[val], classes)
            answers = _class_cosines(unit[train], labels[train], unit[test], classes)
        else:
            head = heads.solve_head(
                features[train], labels[train], classes, features[val], labels[val]
            )
            logits, answers = head.logits(features[val]), head.logits(features[test])
        temperature = calibration.fit_temperature(logits, labels[val])
        probabilities = calibration.softmax(answers / temperature)
        results.append(
            Baseline(
                name=name,
                predicted=answers.argmax(axis=1),
                evaluation=evaluate(probabilities, labels[test], class_names, seed=seed),
                seconds=time.perf_counter() - start,
            )
        )
    return tuple(results)


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    """Accuracy of a linear head against the number of training images.

    Attributes:
        sizes: training images of each point, ascending; the last is all of them.
        accuracy: mean test accuracy at each size.
        intervals: 95 % interval of each, over test images and draws of the subset.
        twice: accuracy expected with twice the training images.
        gain: ``twice`` minus the accuracy with all of today's.
        gain_interval: where the gain measured on this test split would lie 95 times of 100.
    """

    sizes: tuple[int, ...]
    accuracy: tuple[float, ...]
    intervals: tuple[Interval, ...]
    twice: float
    gain: float
    gain_interval: Interval

    @property
    def verdict(self) -> str:
        """One sentence on what twice the data would bring."""
        low, high = (100 * value for value in self.gain_interval)
        start = (
            f"Twice the training images ({2 * self.sizes[-1]:,}) would bring about "
            f"{100 * self.gain:+.1f} points of accuracy ({low:+.1f} to {high:+.1f})"
        )
        return f"{start}." if low > 0 else f"{start}: no clear gain."

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}

    def plot(self) -> Figure:
        """The measured points, their intervals, and the extrapolated one."""
        from keras_transfer.evaluation import plots

        return plots.learning_curve(self.to_json())

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.verdict)}"


def learning_curve(
    features: np.ndarray,
    labels: np.ndarray,
    splits: np.ndarray,
    class_names: Sequence[str],
    *,
    fractions: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    draws: int = 3,
    seed: int = 0,
) -> LearningCurve:
    """Retrains the linear head on growing stratified subsets and extrapolates to twice the data.

    The error is fitted as a power law above a floor, ``error = c + a * images ** -b`` with a at
    least 0 (Cortes et al. 1993; Viering and Loog 2022), least squares in the error for each b of
    ``EXPONENTS``, since few points cannot tell; the estimate is the mean of these fits. Its
    uncertainty comes from them, from resampling the test images and the draws of the subsets, and
    from how much the accuracy of a draw of so many images scatters, today's and that of twice as
    many included: the draws of smaller shares tell, with few degrees of freedom.

    Measured (``benchmarks/curve.py``) on six tasks, two sets of emoji, all nine classes and four of
    each, and digits, raw and as features, with 16 splits each: from half of the images the gain
    with all of them is foreseen to 1.7 points (root mean square; 2.8 said and 2.7 found on
    average), and lies in the interval in 96 cases of 100. That is a doubling; nothing larger has
    been tried.

    Args:
        features: float, shape ``[images, d]``.
        labels: int, shape ``[images]``.
        splits: shape ``[images]``.
        class_names: the classes.
        fractions: shares of the training images, ascending, ending in 1.
        draws: subsets of each share, two at least; all images are one subset.
        seed: of the draws and of the bootstrap.

    Raises:
        DataError: a split without images, or fewer than two sizes left because the training split
            is too small.
        UsageError: a single draw.
    """
    if draws < 2:
        raise UsageError(
            f"draws is {draws}: one draw does not tell how much draws differ.",
            remedy="Give two or more.",
        )
    train, val, test = (_rows(splits, name) for name in ("train", "val", "test"))
    random = np.random.default_rng(seed)
    hits: dict[int, list[np.ndarray]] = {}
    for fraction in fractions:
        for _ in range(1 if fraction == 1.0 else draws):
            subset = _stratified(train, labels, fraction, random)
            head = heads.solve_head(
                features[subset], labels[subset], len(class_names), features[val], labels[val]
            )
            right = head.logits(features[test]).argmax(axis=1) == labels[test]
            hits.setdefault(len(subset), []).append(right)
    if len(hits) < 2:
        raise DataError(
            f"{len(train)} training images of {len(class_names)} classes are too few for a "
            "learning curve.",
            remedy="Add training images: at least two of each class.",
        )
    sizes = np.array(sorted(hits), float)
    curves = np.empty((RESAMPLES, len(sizes)))
    for row in curves:
        images = random.integers(len(test), size=len(test))
        for j, size in enumerate(sizes):
            drawn = random.integers(len(hits[size]), size=len(hits[size]))
            row[j] = np.mean([hits[size][k][images].mean() for k in drawn])
    accuracy = np.array([np.mean(hits[size]) for size in sizes])
    gain = float(np.mean([_gain(sizes, accuracy[None], b) for b in EXPONENTS]))
    # A draw's accuracy varies in inverse proportion to its size, and is known from few draws.
    drawn_twice = {size: rights for size, rights in hits.items() if len(rights) > 1}
    spread = np.mean([n * np.mean(rows, axis=1).var(ddof=1) for n, rows in drawn_twice.items()])
    freedom = sum(len(rights) - 1 for rights in drawn_twice.values())
    today, later = random.standard_t(freedom, (2, RESAMPLES)) * np.sqrt(
        spread / np.array([[sizes[-1]], [2 * sizes[-1]]])
    )
    refits = curves.copy()
    refits[:, -1] += today
    gains = np.stack([_gain(sizes, refits, b) for b in EXPONENTS]) - today + later
    low, high = percentile_interval(gains.ravel())
    return LearningCurve(
        sizes=tuple(int(size) for size in sizes),
        accuracy=tuple(float(value) for value in accuracy),
        intervals=tuple(percentile_interval(column) for column in curves.T),
        twice=float(accuracy[-1]) + gain,
        gain=gain,
        gain_interval=(low, high),
    )


def _gain(sizes: np.ndarray, accuracy: np.ndarray, exponent: float) -> np.ndarray:
    """Gain in accuracy from doubling, shape ``[curves]``, of curves ``[curves, sizes]``."""
    power = sizes**-exponent
    centred = power - power.mean()
    slope = np.minimum((accuracy * centred).sum(axis=1) / np.square(centred).sum(), 0.0)
    return slope * ((2 * sizes[-1]) ** -exponent - sizes[-1] ** -exponent)


def _stratified(
    rows: np.ndarray, labels: np.ndarray, fraction: float, random: np.random.Generator
) -> np.ndarray:
    """A share of the rows of each class, at least one of each."""
    if fraction >= 1.0:
        return rows
    parts = []
    for label in np.unique(labels[rows]):
        members = random.permutation(rows[labels[rows] == label])
        parts.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(parts))


@dataclasses.dataclass(frozen=True)
class Suspect:
    """An image whose label looks wrong.

    Attributes:
        index: its row.
        label: the class that it carries.
        suggested: the class that it resembles.
        confidence: out-of-fold probability of ``suggested``.
        given: out-of-fold probability of ``label``.
    """

    index: int
    label: str
    suggested: str
    confidence: float
    given: float


def suspected_label_errors(
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    folds: int = 5,
    limit: int = 50,
    seed: int = 0,
) -> tuple[Suspect, ...]:
    """Images that a model which has not seen them confidently gives to another class.

    Confident learning (Northcutt, Jiang and Chuang 2021): a linear head is fitted on all folds but
    one and asked about that one. Class j is confident about an image when its probability reaches
    the mean that it gives to its own images; an image is suspected when the likeliest such class
    is not its label. The temperature is fitted on the held-out answers themselves, one number for
    all of them.

    Args:
        features: float, shape ``[images, d]``.
        labels: int, shape ``[images]``.
        class_names: the classes.
        folds: number of folds, stratified.
        limit: the longest list returned.
        seed: of the folds.

    Returns:
        Suspects, the most confident first.
    """
    fold = _folds(labels, folds, seed)
    logits = np.zeros((len(labels), len(class_names)))
    penalties: tuple[float, ...] = heads.PENALTIES
    for held_out in range(folds):
        inside, outside = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        if not len(outside) or not len(inside):
            continue
        # The penalty is chosen once, on a fold that is not the one asked about.
        tuning = fold[inside] == (held_out + 1) % folds
        head = heads.solve_head(
            features[inside][~tuning],
            labels[inside][~tuning],
            len(class_names),
            features[inside][tuning],
            labels[inside][tuning],
            penalties=penalties,
        )
        penalties = (head.penalty,)
        logits[outside] = head.logits(features[outside])
    probabilities = calibration.softmax(logits / calibration.fit_temperature(logits, labels))
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=len(class_names))
    with np.errstate(invalid="ignore"):
        threshold = np.bincount(labels, weights=own, minlength=len(class_names)) / counts
    confident = np.where(probabilities >= np.nan_to_num(threshold, nan=2.0), probabilities, 0.0)
    suggested = confident.argmax(axis=1)
    margin = confident.max(axis=1) - own
    suspects = np.flatnonzero((suggested != labels) & (margin > 0))
    ranked = suspects[np.argsort(-margin[suspects], kind="stable")][:limit]
    return tuple(
        Suspect(
            index=int(i),
            label=class_names[labels[i]],
            suggested=class_names[suggested[i]],
            confidence=float(probabilities[i, suggested[i]]),
            given=float(own[i]),
        )
        for i in ranked
    )


def unit_rows(features: np.ndarray) -> np.ndarray:
    """The rows scaled to length 1, float32; a row of zeros stays."""
    features = np.asarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _class_cosines(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int
) -> np.ndarray:
    """Each query's largest cosine to every class, ``[queries, classes]``; -1 for no images."""
    result = np.full((len(queries), classes), -1.0)
    for label in np.unique(labels):
        result[:, label] = (queries @ train[labels == label].T).max(axis=1)
    return result


def _folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold for each image, every class spread evenly."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    result = np.empty(len(labels), np.int64)
    result[by_class] = np.arange(len(labels)) % folds
    return result


def _rows(splits: np.ndarray, name: str) -> np.ndarray:
    rows = np.flatnonzero(np.asarray(splits) == name)
    if not len(rows):
        raise DataError(
            f"The {name} split has no images.", remedy="Choose a split that leaves some in each."
        )
    return rows
