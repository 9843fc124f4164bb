"""How good answers of several labels an example are, in figures. All of them are float64."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.base.intervals import Interval, percentile_interval, wilson_interval
from keras_transfer.learn import calibration

METRICS = (
    "accuracy", "top5", "mean_average_precision", "micro_f1", "micro_precision", "micro_recall",
    "macro_f1", "balanced_accuracy", "hamming", "nll", "brier", "ece",
)  # fmt: skip

_Columns = dict[str, np.ndarray]


class Ranking(NamedTuple):
    """Examples by the probability of each class, the most probable first; ``[n, classes]`` each."""

    order: np.ndarray
    truth: np.ndarray
    last: np.ndarray
    """The last position of those that are as probable."""


class Measured(NamedTuple):
    """What is known of answers.

    Attributes:
        values: by the names of ``METRICS``.
        average_precision: of each class, NaN of one that no example has.
        intervals: 95 % of each value, None where nothing can be said.
        ece_floor: what the ECE of a perfectly calibrated model would be.
        reliability: of single decisions.
    """

    values: Mapping[str, float]
    average_precision: np.ndarray
    intervals: Mapping[str, Interval | None]
    ece_floor: float
    reliability: calibration.Reliability


def measure(
    probabilities: np.ndarray, labels: np.ndarray, answers: np.ndarray, resamples: int
) -> Measured:
    """Measures answers.

    Args:
        probabilities: float64 ``[n, classes]``, n at least 1.
        labels: 0 and 1, of the same shape, as are the answers.
        resamples: of the bootstrap over the examples; 0 for no intervals by it.
    """
    ranking, table = rank(probabilities, labels), _contributions(probabilities, labels, answers)
    values, average = _metrics(table, ranking, np.ones(len(labels)))
    labelled = int(table["labelled"].sum())
    intervals: dict[str, Interval | None] = dict.fromkeys(METRICS)
    intervals["accuracy"] = wilson_interval(int(table["accuracy"].sum()), len(labels))
    if labelled:
        intervals["top5"] = wilson_interval(int(table["top5"].sum()), labelled)
    random, drawn = np.random.default_rng(0), []
    for _ in range(min(resamples, max(100, 10_000_000 // labels.size)) if resamples else 0):
        counts = random.multinomial(len(labels), np.full(len(labels), 1 / len(labels)))
        drawn.append(_metrics(table, ranking, counts.astype(np.float64))[0])
    for name in set(METRICS) - {"accuracy", "top5"} if drawn else ():
        found = np.array([one[name] for one in drawn])
        if name == "ece":  # to which resampling adds noise
            found = np.maximum(0.0, found - (found.mean() - values["ece"]))
        low, high = percentile_interval(found[np.isfinite(found)]) if found.any() else (0.0, 0.0)
        intervals[name] = (low, high) if high > low else None
    given = probabilities.ravel()
    floor = ece_floor(calibration.confidence_bins(given), given)
    diagram = calibration.reliability(probabilities, labels)
    return Measured(values, average, intervals, floor, diagram)


def rank(probabilities: np.ndarray, labels: np.ndarray) -> Ranking:
    """The examples ranked by each class."""
    order = np.argsort(-probabilities, axis=0, kind="stable")
    sorted_by = np.take_along_axis(probabilities, order, axis=0)
    end = np.ones((1, labels.shape[1]), bool)
    is_last = np.append(sorted_by[1:] != sorted_by[:-1], end, axis=0)
    positions = np.where(is_last, np.arange(len(labels))[:, None], len(labels))
    last = np.minimum.accumulate(positions[::-1], axis=0)[::-1]
    return Ranking(order, np.take_along_axis(labels, order, axis=0), last)


def average_precision(ranking: Ranking, weights: np.ndarray) -> np.ndarray:
    """The area under each class's curve of precision by recall, in steps, as scikit-learn has it.

    Args:
        ranking: of the examples.
        weights: of each example, ``[n]``.
    """
    weigh = weights[ranking.order]
    found = np.cumsum(weigh * ranking.truth, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.take_along_axis(found / np.cumsum(weigh, axis=0), ranking.last, axis=0)
        gained = np.where(weigh * ranking.truth > 0, weigh * ranking.truth * precision, 0.0)
        return gained.sum(axis=0) / found[-1]


def _contributions(probabilities: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> _Columns:
    """What each example contributes, so that a resample costs some products."""
    size = labels.shape[1]
    truth = np.where(labels > 0, probabilities, 1.0 - probabilities)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    bins, gap = calibration.confidence_bins(probabilities), probabilities - labels
    gaps = np.stack([(gap * (bins == one)).sum(axis=1) for one in range(calibration.BINS)], axis=1)
    return {
        "hits": (answers * labels).astype(np.float64),
        "given": answers.astype(np.float64),
        "there": labels.astype(np.float64),
        "accuracy": (answers == labels).all(axis=1).astype(np.float64),
        "top5": np.take_along_axis(labels, best, axis=1).any(axis=1).astype(np.float64),
        "labelled": labels.any(axis=1).astype(np.float64),
        "hamming": (answers != labels).mean(axis=1),
        "nll": -np.log(np.maximum(truth, 1e-12)).mean(axis=1),
        "brier": np.square(gap).mean(axis=1),
        "gaps": gaps / size,
    }


def _metrics(
    table: _Columns, ranking: Ranking, weights: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """The metrics of examples that count so many times, and each class's average precision."""
    total = {name: weights @ column for name, column in table.items()}
    hits, given, there, count = (*(total[n] for n in ("hits", "given", "there")), weights.sum())
    average = average_precision(ranking, weights)
    seen = given + there > 0
    sums = {n: float(total[n] / count) for n in ("accuracy", "hamming", "nll", "brier")}
    return {
        **sums,
        "top5": _share(total["top5"], total["labelled"], 1.0),
        "mean_average_precision": float(average[there > 0].mean()) if there.any() else 0.0,
        "micro_f1": _share(2.0 * hits.sum(), (given + there).sum()),
        "micro_precision": _share(hits.sum(), given.sum()),
        "micro_recall": _share(hits.sum(), there.sum()),
        "macro_f1": float((2.0 * hits[seen] / (given + there)[seen]).mean()) if seen.any() else 0.0,
        "balanced_accuracy": float((hits / np.maximum(there, 1e-9))[there > 0].mean())
        if there.any()
        else 0.0,
        "ece": float(np.abs(total["gaps"]).sum() / count),
    }, average


def _share(part: Any, whole: Any, of_none: float = 0.0) -> float:
    return float(part / whole) if whole else of_none


def ece(bins: np.ndarray, gap: np.ndarray) -> float:
    """The expected calibration error, from by how much each confidence exceeds what came true."""
    gaps = np.bincount(bins, weights=gap, minlength=calibration.BINS)
    return float(np.abs(gaps).sum() / len(gap))


def ece_floor(bins: np.ndarray, confidence: np.ndarray) -> float:
    """Draws right and wrong answers as the confidences promise them, and measures their ECE."""
    random, count = np.random.default_rng(0), len(confidence)
    draws = min(200, max(20, 2_000_000 // count))
    gaps = (confidence - (random.random(count) < confidence) for _ in range(draws))
    return float(np.mean([ece(bins, gap) for gap in gaps]))


def commonest(labels: np.ndarray) -> np.ndarray:
    """The commonest row, for every example."""
    rows, counts = np.unique(labels, axis=0, return_counts=True)
    return np.broadcast_to(rows[counts.argmax()], labels.shape)


def chance(labels: np.ndarray) -> dict[str, float]:
    """What tossing a coin for each class is expected to reach."""
    there = labels.mean(axis=0)
    found = float(there[there > 0].mean()) if there.any() else 0.0
    half = {"hamming": 0.5, "nll": float(np.log(2.0)), "brier": 0.25}
    return {"accuracy": 0.5 ** labels.shape[1], "mean_average_precision": found, **half}
