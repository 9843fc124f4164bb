"""Whether a probability of 0.9 is right nine times in ten, and one number that makes it so.

Temperature scaling and the expected calibration error follow Guo, Pleiss, Sun and Weinberger,
"On Calibration of Modern Neural Networks" (2017). Everything here is float64 inside.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from keras_transfer.base import errors
from keras_transfer.base.task import task_of

TEMPERATURES = (0.05, 20.0)
"""The range in which a temperature is sought."""

RISK = 0.05
"""How often a threshold may fall short of the precision that it is chosen for."""

BINS = 15
"""Equally wide confidence bins of the reliability diagram and of the ECE, as many as Guo et al."""


def nll(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float = 1.0,
    weights: np.ndarray | None = None,
) -> float:
    """Mean negative log-likelihood of the labels, in nats: of several labels, of all decisions.

    Args:
        logits: float, shape ``[images, classes]``.
        labels: of either task, see :mod:`~keras_transfer.base.task`.
        temperature: what the logits are divided by first, above 0.
        weights: as ``Task.weights`` makes them, or None for 1.

    Returns:
        The mean over the images; NaN where there are none or where a logit is NaN.
    """
    if not len(labels):
        return float("nan")
    if weights is None or np.ndim(weights) == 1:
        return float(np.average(losses(logits, labels, temperature), weights=weights))
    scaled = np.asarray(logits, np.float64) / temperature
    return float(task_of(labels).scaled_nll(scaled, labels, weights)(1.0))


def losses(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """What :func:`nll` is the mean of: float64 ``[images]``."""
    return task_of(labels).losses(logits, labels, temperature)


def ahead(first: np.ndarray, second: np.ndarray) -> float:
    """By how many standard errors of their paired difference the first losses are below others."""
    gained = second - first
    error = float(gained.std(ddof=1)) / np.sqrt(len(gained))
    return float(gained.mean()) / error if error else 0.0


def fit_temperature(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """The temperature that makes held-out probabilities honest.

    Minimises, over ln T with T between 0.05 and 20, the mean NLL plus ``(b - 1 - ln b) / images``
    where ``b = 1 / T``: a gamma prior on the inverse temperature that peaks at 1 and is worth one
    observation. Where every image is right the NLL alone would drive T to its lower bound and
    claim certainty from a handful of images; the prior stops that and fades as images are added.
    The sum is convex in b, so there is one minimum and a bounded search finds it.

    Args:
        logits: float, shape ``[images, classes]``, of images that were not trained on.
        labels: as for :func:`nll`, as are the weights.

    Returns:
        T: above 1 where the model was over-confident. 1.0 where there are no images.

    Raises:
        KerasTransferError: a logit is NaN or infinite.
    """
    values = np.asarray(logits, dtype=np.float64)
    if not len(values):
        return 1.0
    if not np.isfinite(values).all():
        raise errors.KerasTransferError(
            f"{int((~np.isfinite(values)).any(axis=1).sum())} of {len(values)} validation examples "
            "have logits that are NaN or infinite.",
            remedy="Lower the learning rate: the training has diverged.",
        )

    mean_nll = task_of(labels).scaled_nll(values, labels, weights)

    def objective(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return mean_nll(inverse) + (inverse - 1.0 + log_temperature) / len(values)

    low, high = np.log(TEMPERATURES)
    found = optimize.minimize_scalar(
        objective, bounds=(low, high), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: answers grouped by their probability; of several labels decisions,
    each the probability of a class in an image, and whether the image has it.

    Attributes:
        edges: float64, shape ``[bins + 1]``: equally wide bins over 0..1, each open below and
            closed above.
        counts: int64, shape ``[bins]``: how many are in each bin.
        confidence: float64, shape ``[bins]``: mean probability, NaN where a bin is empty.
        accuracy: float64, shape ``[bins]``: share that was right, NaN where a bin is empty.
        ece: expected calibration error, 0..1: mean gap between the two, weighted by ``counts``.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, int64: ``(i / BINS, (i + 1) / BINS]`` is bin ``i``."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> Reliability:
    """Compares probabilities with how often they were right.

    Args:
        probabilities: float, shape ``[images, classes]``.
        labels: of either task.

    Returns:
        The diagram and its ECE; the ECE is NaN without images.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    confidence, correct = task_of(labels).decisions(given, np.asarray(labels))
    index = confidence_bins(confidence)
    counts = np.bincount(index, minlength=BINS)
    confident = np.bincount(index, weights=confidence, minlength=BINS)
    right = np.bincount(index, weights=correct, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges=np.linspace(0.0, 1.0, BINS + 1),
            counts=counts,
            confidence=confident / counts,
            accuracy=right / counts,
            ece=float(np.abs(confident - right).sum() / np.float64(len(confidence))),
        )


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Answering only when sure enough.

    Attributes:
        target: the wanted precision, in (0, 1].
        threshold: the least probability at which to answer; infinite where none is sure to reach
            the target, so that nothing is answered.
        precision: share of the answered images that was right, NaN where none was answered.
        coverage: share of the images that was answered.
        answered: number of images answered.
        images: number of images measured on.
        validation_images: number of validation images that reach the threshold, on which it rests.
    """

    target: float
    threshold: float
    precision: float
    coverage: float
    answered: int
    images: int
    validation_images: int = 0


def precision_threshold(
    probabilities: np.ndarray,
    labels: np.ndarray,
    target: float = 0.95,
    thresholds: Sequence[float] = (),
) -> Threshold:
    """The least confidence from which on a ``target`` share of the answers is surely right.

    Of each confidence, from the highest down, it is tested whether the one-sided 95 % lower bound
    of precision (Clopper and Pearson, 1934) reaches the target, up to the first that fails: since
    their order is fixed beforehand, one that falls short is chosen in at most 5 % of draws. The
    highest are passed over while they are too few to reach it even if all are right: a target of
    0.95 takes 59 images.

    Choose it on validation and measure it on test with :func:`apply_threshold`.

    Args:
        probabilities: float, shape ``[images, classes]``.
        labels: of either task; of several, an answer is all labels of an image.
        target: wanted precision, in (0, 1]; 1 is never sure.
        thresholds: of several labels, see ``Task.thresholds``.
    """
    confidence, right = _answered(probabilities, labels, thresholds)
    wrong = ~right
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    # Images of equal confidence are answered together.
    counts = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]) + 1
    # The bound reaches the target where so few wrong answers would be this rare at the target.
    allowed = stats.binom.ppf(RISK, counts, 1.0 - target) - 1
    counts, allowed = counts[allowed >= 0], allowed[allowed >= 0]
    reached = np.cumsum(wrong[order])[counts - 1] <= allowed
    passed = counts[np.logical_and.accumulate(reached)]
    count = int(passed.max(initial=0))
    threshold = float(ranked[count - 1]) if count else float("inf")
    return apply_threshold(probabilities, labels, threshold, target, count, thresholds)


def _answered(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """How sure each answer is, and whether it is right."""
    task, given = task_of(labels), np.asarray(probabilities, dtype=np.float64)
    answers = task.answers(given, thresholds)
    return task.sureness(given, answers), task.same(answers, np.asarray(labels))


def apply_threshold(
    probabilities: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    target: float,
    validation_images: int = 0,
    thresholds: Sequence[float] = (),
) -> Threshold:
    """Precision and coverage of answering only at a confidence of ``threshold`` or more."""
    confidence, right = _answered(probabilities, labels, thresholds)
    answered = confidence >= threshold
    correct = right[answered]
    return Threshold(
        target=target,
        threshold=threshold,
        precision=float(correct.mean()) if len(correct) else float("nan"),
        coverage=float(answered.mean()) if len(answered) else float("nan"),
        answered=int(answered.sum()),
        images=len(answered),
        validation_images=validation_images,
    )
