"""Cheap questions to the features of the frozen backbone: baselines, more data, wrong labels.

Features are float arrays ``[images, d]``, a row for each example of the data set (clean view), such
as the pooled output of the backbone.
"""

import dataclasses
import html
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.base.errors import DataError
from keras_transfer.base.intervals import Interval, percentile_interval
from keras_transfer.base.task import task_of
from keras_transfer.base.types import SPLITS, Dataset, Split
from keras_transfer.evaluation.comparison import compare_predictions
from keras_transfer.evaluation.metrics import FEW_IMAGES, RESAMPLES, Evaluation, evaluate
from keras_transfer.learn import calibration, heads
from keras_transfer.modalities import modality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPONENTS = (0.2, 0.5, 0.8)
"""By which powers of the number of images a learning curve's error may fall to its floor."""

DRAWS = 3
"""Subsets of each share of the training images, so that a curve knows how much draws differ."""

FOLDS = 5
"""Folds in the search for wrong labels."""

Logits = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline:
    """What a simpler method reaches on the same test images.

    Attributes:
        name: ``nearest neighbour``, ``logistic regression`` or ``training from scratch``.
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


def baselines(dataset: Dataset, features: np.ndarray) -> tuple[Baseline, ...]:
    """Nearest neighbour (cosine) and logistic regression, fitted on train, measured on test.

    The penalty and the temperature of the regression are chosen on validation. The nearest
    neighbour's probabilities are the softmax of each class's largest cosine, with a temperature
    chosen there as well, so that all methods are measured by the same metrics.

    Raises:
        DataError: a split without images.
    """
    train, val = _rows(dataset, "train"), _rows(dataset, "val")

    def neighbour() -> Logits:
        unit, classes = unit_rows(features), len(dataset.class_names)
        has = task_of(dataset.labels).targets(dataset.labels[train], classes) > 0
        return lambda rows: _class_cosines(unit[train], has, unit[rows])

    def regression() -> Logits:
        head = _solve(dataset, features, train, val)
        return lambda rows: head.logits(features[rows])

    results = []
    for name, fit in (("nearest neighbour", neighbour), ("logistic regression", regression)):
        begun = time.monotonic()
        results.append(judge(name, begun, fit(), dataset))
    return tuple(results)


def judge(name: str, begun: float, logits_of: Logits, dataset: Dataset) -> Baseline:
    """Fits the temperature of a method on validation and measures the method on test.

    Args:
        name: what the method is called.
        begun: ``time.monotonic()`` when the method began to fit.
        logits_of: its logits ``[rows, classes]`` for rows of the data set.
        dataset: the data.
    """
    val, test, labels = _rows(dataset, "val"), _rows(dataset, "test"), dataset.labels
    task, of_validation = task_of(labels), logits_of(val)
    temperature = calibration.fit_temperature(of_validation, labels[val])
    least = task.thresholds(task.probabilities(of_validation / temperature), labels[val])
    probabilities = task.probabilities(logits_of(test) / temperature)
    evaluation = evaluate(probabilities, labels[test], dataset.class_names, thresholds=least)
    answers = task.answers(probabilities, least)
    return Baseline(name, answers, evaluation, time.monotonic() - begun)


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
            f"Twice the training data ({2 * self.sizes[-1]:,}) would bring the head alone about "
            f"{100 * self.gain:+.1f} points of test accuracy ({low:+.1f} to {high:+.1f})"
        )
        return f"{start}." if low > 0 else f"{start}: no clear gain."

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}

    def plot(self) -> "Figure":
        """The measured points, their intervals, and the extrapolated one."""
        from keras_transfer.evaluation import plots

        return plots.learning_curve(self.to_json())

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.verdict)}"


def learning_curve(
    dataset: Dataset, features: np.ndarray, *, fractions: Sequence[float] = (0.125, 0.25, 0.5, 1.0)
) -> LearningCurve:
    """Retrains the linear head on growing stratified subsets and extrapolates to twice the data.

    The error is fitted as a power law above a floor, ``error = c + a * images ** -b`` with a at
    least 0 (Cortes et al. 1993; Viering and Loog 2022), least squares in the error for each b of
    ``EXPONENTS``, since few points cannot tell; the estimate is the mean of these fits. Its
    uncertainty comes from them, from resampling the test images and the draws of the subsets, and
    from how much the accuracy of a draw of so many images scatters, today's and that of twice as
    many included: the draws of smaller shares tell, with few degrees of freedom
    (``benchmarks/curve.py`` measures how well a doubling is foreseen).

    Args:
        dataset: its labels and splits.
        features: float, shape ``[images, d]``.
        fractions: shares of the training images, ascending, ending in 1.

    Raises:
        DataError: a split without images, too few to test on (``FEW_IMAGES``), or fewer than two
            sizes left because the training split is too small.
    """
    train, val, test = (_rows(dataset, split) for split in SPLITS)
    what = modality(dataset.modality).NOUN
    if len(test) < FEW_IMAGES:
        problem = f"{len(test)} test {what}s are too few to see what more data brings."
        raise DataError(problem, remedy=f"Label more {what}s: {FEW_IMAGES} to test on at least.")
    random, labels, task = np.random.default_rng(0), dataset.labels, task_of(dataset.labels)
    strata = task.strata(labels)
    hits: dict[int, list[np.ndarray]] = {}
    for fraction in fractions:
        for _ in range(1 if fraction == 1.0 else DRAWS):
            subset = _stratified(train, strata, fraction, random)
            logits = _solve(dataset, features, subset, val).logits(features[test])
            hits.setdefault(len(subset), []).append(task.hits(logits, labels[test]))
    if len(hits) < 2:
        raise DataError(
            f"{len(train)} training {what}s of {len(dataset.class_names)} classes are too few for "
            "a learning curve.",
            remedy=f"Add training {what}s: at least two of each class.",
        )
    sizes, drawn = np.array(sorted(hits), float), [np.stack(hits[size]) for size in sorted(hits)]
    accuracy = np.array([right.mean() for right in drawn])
    room = 1.0 - float(accuracy[-1])  # nobody is right more often than always
    gain = min(float(_gain(sizes, accuracy[None]).mean()), room)
    curves = _resampled(drawn, random)
    today, later = _scatter(sizes, drawn, random)
    refits = curves.copy()
    refits[:, -1] += today
    return LearningCurve(
        tuple(sorted(hits)), tuple(accuracy.tolist()),
        intervals=tuple(map(percentile_interval, curves.T)),
        twice=float(accuracy[-1]) + gain, gain=gain,
        gain_interval=percentile_interval(np.minimum(_gain(sizes, refits) - today + later, room)),
    )  # fmt: skip


def _resampled(drawn: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Curves ``[RESAMPLES, sizes]`` over resampled test images and draws of the subsets; of each
    size is given which images a head got right, bool ``[draws, images]``.
    """
    count = drawn[0].shape[1]
    curves = np.empty((RESAMPLES, len(drawn)))
    for curve in curves:
        images = random.integers(count, size=count)
        for j, right in enumerate(drawn):
            draws = random.integers(len(right), size=len(right))
            curve[j] = right[draws][:, images].mean()
    return curves


def _scatter(
    sizes: np.ndarray, drawn: Sequence[np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """How far a draw of today's size, and one of twice as many, may lie from the mean of draws:
    float64 ``[2, RESAMPLES]``.
    """
    # A draw's accuracy varies in inverse proportion to its size, and is known from few draws.
    repeated = [(size, right) for size, right in zip(sizes, drawn, strict=True) if len(right) > 1]
    spread = np.mean([size * right.mean(axis=1).var(ddof=1) for size, right in repeated])
    freedom = sum(len(right) - 1 for _, right in repeated)
    deviations = np.sqrt(spread / (np.array([[1.0], [2.0]]) * sizes[-1]))
    return random.standard_t(freedom, (2, RESAMPLES)) * deviations


def _gain(sizes: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Gain by doubling of curves ``[curves, sizes]``: ``[3, curves]``, a row an exponent."""
    gains = []
    for exponent in EXPONENTS:
        power = sizes**-exponent
        centred = power - power.mean()
        slope = np.minimum((accuracy * centred).sum(axis=1) / np.square(centred).sum(), 0.0)
        gains.append(slope * ((2 * sizes[-1]) ** -exponent - sizes[-1] ** -exponent))
    return np.stack(gains)


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
        index: its place among the training images.
        path: its name.
        label: the class that it carries, or of several all of them.
        suggested: the class that it resembles, or all of them.
        confidence: out-of-fold probability of ``suggested``; of several of the surest change.
        given: out-of-fold probability of ``label``, so too.
    """

    index: int
    path: str
    label: str
    suggested: str
    confidence: float
    given: float

    @property
    def reason(self) -> str:
        """What looks wrong, in words."""
        seen = f"looks like {self.suggested!r} ({self.confidence:.0%}, against {self.given:.0%})"
        return f"labelled {self.label!r}, and {seen}"


def suspected_label_errors(
    dataset: Dataset, features: np.ndarray, *, limit: int = 50
) -> tuple[Suspect, ...]:
    """Training images that a model which has not seen them confidently gives to another class.

    Confident learning (Northcutt, Jiang and Chuang 2021): a linear head is fitted on all folds but
    one and asked about that one. Class j is confident about an image when its probability reaches
    the mean that it gives to its own images; an image is suspected when the likeliest such class
    is not its label. The temperature is fitted on the held-out answers themselves, one number for
    all of them. Of several labels each class is a question of its own, whether it holds.

    Args:
        dataset: its labels and splits.
        features: float, shape ``[images, d]``.
        limit: the longest list returned.

    Returns:
        Suspects, the most confident first.
    """
    rows, names, task = dataset.indices("train"), dataset.class_names, task_of(dataset.labels)
    logits, labels = _out_of_fold(dataset, features, rows), dataset.labels[rows]
    probabilities = task.probabilities(logits / calibration.fit_temperature(logits, labels))
    suggested, sure, given = labels.copy(), np.zeros(len(rows)), np.ones(len(rows))
    for scores, truth, place in task.choices(probabilities, labels):
        doubted, ways = _doubted(scores, truth)
        suggested[(doubted, *place)] = ways
        sure[doubted] = np.maximum(sure[doubted], scores[doubted, ways])
        given[doubted] = np.minimum(given[doubted], scores[doubted, truth[doubted]])
    suspects = np.flatnonzero(sure)
    suspects = suspects[np.argsort((given - sure)[suspects], kind="stable")][:limit]
    said = (task.decode(one[suspects], names) for one in (labels, suggested))
    return tuple(
        Suspect(i, dataset.paths[rows[i]], label, other, float(sure[i]), float(given[i]))
        for i, label, other in zip(suspects.tolist(), *said, strict=True)
    )


def _doubted(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows in which another way than the true one is likelier and confident, and which."""
    own, ways = scores[np.arange(len(truth)), truth], scores.shape[1]
    counts = np.bincount(truth, minlength=ways)
    sums = np.bincount(truth, weights=own, minlength=ways)
    # A class without images is never confident.
    least = np.divide(sums, counts, out=np.full(ways, 2.0), where=counts > 0)
    confident = np.where(scores >= least, scores, 0.0)
    suggested, margin = confident.argmax(axis=1), confident.max(axis=1) - own
    suspects = np.flatnonzero((suggested != truth) & (margin > 0))
    return suspects, suggested[suspects]


def _out_of_fold(dataset: Dataset, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The logits that a head gives to each of some rows when it has not seen the row's fold."""
    shuffled = np.random.default_rng(0).permutation(len(rows))
    strata = task_of(dataset.labels).strata(dataset.labels[rows])
    by_class = shuffled[np.argsort(strata[shuffled], kind="stable")]
    fold = np.empty(len(rows), np.int64)
    fold[by_class] = np.arange(len(rows)) % FOLDS  # every class spread evenly
    logits = np.zeros((len(rows), len(dataset.class_names)))
    penalties = heads.PENALTIES
    for held_out in range(FOLDS):
        # The penalty is chosen once, on a fold that is not the one asked about.
        asked, tuning = fold == held_out, fold == (held_out + 1) % FOLDS
        if asked.any() and not asked.all():
            fitted = rows[~asked & ~tuning]
            head = _solve(dataset, features, fitted, rows[tuning], penalties=penalties)
            penalties = (head.penalty,)
            logits[asked] = head.logits(features[rows[asked]])
    return logits


def _solve(
    dataset: Dataset, features: np.ndarray, fitted: np.ndarray, tuning: np.ndarray, **how: Any
) -> heads.Head:
    """A head fitted on some rows, with the penalty that is best on others."""
    labels, classes = dataset.labels, len(dataset.class_names)
    return heads.solve_head(
        features[fitted], labels[fitted], classes, features[tuning], labels[tuning], **how
    )


def unit_rows(features: np.ndarray) -> np.ndarray:
    """The rows scaled to length 1, float32; a row of zeros stays."""
    features = np.asarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _class_cosines(train: np.ndarray, has: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Each query's largest cosine to every class, ``[queries, classes]``; -1 for no images."""
    # Less that to what has it not, where classes do not exclude each other.
    result = np.full((len(queries), has.shape[1]), -1.0)
    alone = bool((has.sum(axis=1) == 1).all())
    for label, own in enumerate(has.T):
        if own.any():
            result[:, label] = (queries @ train[own].T).max(axis=1)
        if not alone and not own.all():
            result[:, label] -= (queries @ train[~own].T).max(axis=1)
    return result


def _rows(dataset: Dataset, split: Split) -> np.ndarray:
    rows = dataset.indices(split)
    if not len(rows):
        problem = f"The {split} split has no {modality(dataset.modality).NOUN}s."
        raise DataError(problem, remedy="Choose a split that leaves some in each.")
    return rows
