"""What happens to a classifier on images from elsewhere."""

from __future__ import annotations

import dataclasses
import html
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from keras_transfer.base.errors import DataError, closest
from keras_transfer.evaluation.metrics import Evaluation, Interval, evaluate, wilson_interval
from keras_transfer.evaluation.probes import unit_rows

NEIGHBOUR = 10
"""Which nearest training image an image's unlikeness is the distance to."""


@dataclasses.dataclass(frozen=True)
class Unlikeness:
    """How unlike the training images some others are.

    Attributes:
        scores: float64, shape ``[images]``: Euclidean distance, 0..2, between unit features to the
            ``NEIGHBOUR``-th nearest training image.
        threshold: the score that 95 % of the run's own held-out images stay below.
        share: share of the images above the threshold: 0.05 where nothing has shifted.
        auroc: chance that an image from elsewhere scores above one of the run's own held-out
            images, 0.5 where nothing has shifted.
    """

    scores: np.ndarray
    threshold: float
    share: float
    auroc: float


@dataclasses.dataclass(frozen=True, eq=False)
class Shift:
    """A run's own test images against other data, on the classes that both have.

    Attributes:
        home: metrics on the run's own test images of the shared classes.
        away: metrics on the other images of the shared classes; any class may be answered.
        shared: names of the shared classes.
        left_out: number of other images whose class the run does not know.
        unknown: the names of those classes.
        drop: accuracy at home minus accuracy away.
        drop_interval: 95 % interval of ``drop`` (Newcombe 1998, from the two Wilson intervals).
        per_class: for each shared class its name, recall at home and away, the drop and its
            interval; None where a side has no image of it.
        unlikeness: how unlike the training images the other images are, None if not measured.
    """

    home: Evaluation
    away: Evaluation
    shared: tuple[str, ...]
    left_out: int
    unknown: tuple[str, ...]
    drop: float
    drop_interval: Interval
    per_class: tuple[dict[str, Any], ...]
    unlikeness: Unlikeness | None = None

    @property
    def verdict(self) -> str:
        """One sentence: how much accuracy the other images cost."""
        low, high = (100 * value for value in self.drop_interval)
        figures = (
            f"{self.away.accuracy:.1%} against {self.home.accuracy:.1%} on its own test images"
        )
        if low <= 0 <= high:
            return f"No evidence of a drop: {figures} ({-high:+.1f} to {-low:+.1f} points)."
        change = "falls" if self.drop > 0 else "rises"
        span = sorted((abs(low), abs(high)))
        return (
            f"Accuracy {change} by {100 * abs(self.drop):.1f} points ({span[0]:.1f} to "
            f"{span[1]:.1f}): {figures}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the unlikeness scores only their summary."""
        unlike = self.unlikeness
        return {
            "verdict": self.verdict,
            "home": self.home.to_json(),
            "away": self.away.to_json(),
            "shared": self.shared,
            "left_out": self.left_out,
            "unknown": self.unknown,
            "drop": self.drop,
            "drop_interval": self.drop_interval,
            "per_class": self.per_class,
            "unlikeness": unlike
            and {"threshold": unlike.threshold, "share": unlike.share, "auroc": unlike.auroc},
        }

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.verdict)}"


def shared_classes(known: Sequence[str], other: Sequence[str]) -> dict[int, int]:
    """Maps indices of ``other`` to indices of ``known`` for the classes of the same name.

    Names are compared in Unicode normal form, without case and outer blanks.

    Raises:
        DataError: no class in common.
    """
    index = {_plain(name): i for i, name in enumerate(known)}
    mapping = {j: index[_plain(name)] for j, name in enumerate(other) if _plain(name) in index}
    if not mapping:
        raise DataError(
            f"None of the other data's {len(other)} classes ({_some(other)}) is among the "
            f"{len(known)} that the run knows ({_some(known)}).{closest(other[0], list(known))}",
            remedy="Rename the class folders so that the same class has the same name.",
        )
    return mapping


def measure_shift(
    class_names: Sequence[str],
    home_probabilities: np.ndarray,
    home_labels: np.ndarray,
    away_probabilities: np.ndarray,
    away_labels: np.ndarray,
    away_class_names: Sequence[str],
    *,
    unlike: Unlikeness | None = None,
    seed: int = 0,
) -> Shift:
    """Measures the drop in accuracy between a run's own test images and others.

    Args:
        class_names: the run's classes, the columns of both arrays of probabilities.
        home_probabilities: float, shape ``[images, classes]``, on the run's own test images.
        home_labels: int, shape ``[images]``, indices into ``class_names``.
        away_probabilities: float, shape ``[other images, classes]``, on the other images.
        away_labels: int, shape ``[other images]``, indices into ``away_class_names``.
        away_class_names: the other data's classes.
        unlike: the other images' :func:`unlikeness`.
        seed: of the bootstraps.

    Raises:
        DataError: no class in common, or no image of the shared classes on one side.
    """
    mapping = shared_classes(class_names, away_class_names)
    shared = sorted(set(mapping.values()))
    home_rows = np.isin(home_labels, shared)
    away_rows = np.isin(away_labels, list(mapping))
    translated = np.array([mapping[int(label)] for label in away_labels[away_rows]], np.int64)
    home = evaluate(home_probabilities[home_rows], home_labels[home_rows], class_names, seed=seed)
    away = evaluate(away_probabilities[away_rows], translated, class_names, seed=seed)
    per_class = []
    for i in shared:
        at_home, elsewhere = home.per_class[i], away.per_class[i]
        both = at_home.support > 0 and elsewhere.support > 0
        interval = None
        if both:
            interval = _newcombe(
                int(home.confusion[i, i]),
                at_home.support,
                int(away.confusion[i, i]),
                elsewhere.support,
            )
        per_class.append(
            {
                "name": class_names[i],
                "home": at_home.recall,
                "away": elsewhere.recall,
                "drop": at_home.recall - elsewhere.recall if both else None,
                "interval": interval,
                "images": elsewhere.support,
            }
        )
    return Shift(
        home=home,
        away=away,
        shared=tuple(class_names[i] for i in shared),
        left_out=int((~away_rows).sum()),
        unknown=tuple(name for j, name in enumerate(away_class_names) if j not in mapping),
        drop=home.accuracy - away.accuracy,
        drop_interval=_newcombe(
            int(np.trace(home.confusion)), home.images, int(np.trace(away.confusion)), away.images
        ),
        per_class=tuple(per_class),
        unlikeness=unlike,
    )


def unlikeness(train: np.ndarray, held_out: np.ndarray, other: np.ndarray) -> Unlikeness:
    """How unlike the training images others are, by deep nearest neighbours (Sun et al. 2022).

    Args:
        train: float, shape ``[images, d]``, features of the training images.
        held_out: float, shape ``[images, d]``, of the run's own images that it was not trained on.
        other: float, shape ``[images, d]``, of the images in question.

    Returns:
        Scores of ``other``, a threshold from ``held_out``, and the AUROC between the two.
    """
    unit = unit_rows(train)
    own, others = (_neighbour_distance(unit, unit_rows(rows)) for rows in (held_out, other))
    threshold = float(np.quantile(own, 0.95))
    u = stats.mannwhitneyu(others, own).statistic
    return Unlikeness(
        scores=others,
        threshold=threshold,
        share=float((others > threshold).mean()),
        auroc=float(u / (len(own) * len(others))),
    )


def _neighbour_distance(train: np.ndarray, queries: np.ndarray, block: int = 1024) -> np.ndarray:
    k = min(NEIGHBOUR, len(train))
    cosine = np.concatenate(
        [
            -np.partition(-(queries[i : i + block] @ train.T), k - 1, axis=1)[:, k - 1]
            for i in range(0, len(queries), block)
        ]
    )
    return np.sqrt(np.maximum(0.0, 2.0 - 2.0 * cosine.astype(np.float64)))


def _newcombe(successes: int, n: int, other_successes: int, other_n: int) -> Interval:
    """Interval of the first rate minus the second, of independent images."""
    p, q = successes / n, other_successes / other_n
    p_low, p_high = wilson_interval(successes, n)
    q_low, q_high = wilson_interval(other_successes, other_n)
    low = p - q - float(np.hypot(p - p_low, q_high - q))
    high = p - q + float(np.hypot(p_high - p, q - q_low))
    return low, high


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:3])
    return shown + (", ..." if len(names) > 3 else "")
