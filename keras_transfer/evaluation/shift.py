"""What happens to a classifier on images from elsewhere."""

import dataclasses
import html
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from keras_transfer.base.errors import DataError, closest
from keras_transfer.base.intervals import Interval, wilson_interval
from keras_transfer.base.task import task_of
from keras_transfer.base.types import Dataset
from keras_transfer.evaluation.metrics import ClassResult, Evaluation, evaluate
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

    Of one label an image those of other classes are left out. Of several all images are asked, of
    the shared classes alone, and accuracy is whether all of these are right.

    Attributes:
        home: metrics on the run's own test images of the shared classes.
        away: metrics on the other images of the shared classes; any class may be answered.
        shared: names of the shared classes.
        left_out: number of other images that are not asked, as their class is unknown to the run.
        unknown: the names of the classes that the run does not know.
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
        there, here = self.away.accuracy, self.home.accuracy
        figures = f"{there:.1%} against {here:.1%} on its own test split"
        if low <= 0 <= high:
            return f"No evidence of a drop: {figures} ({-high:+.1f} to {-low:+.1f} points)."
        change = "falls" if self.drop > 0 else "rises"
        least, most = sorted((abs(low), abs(high)))
        points = f"{100 * abs(self.drop):.1f} points ({least:.1f} to {most:.1f})"
        return f"Accuracy {change} by {points}: {figures}."

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the unlikeness scores only their summary."""
        sides = {"home": self.home.to_json(), "away": self.away.to_json()}
        plain = {"verdict": self.verdict, **dataclasses.asdict(self), **sides}
        if self.unlikeness is not None:
            del plain["unlikeness"]["scores"]
        return plain

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
    home: Dataset,
    home_probabilities: np.ndarray,
    away: Dataset,
    away_probabilities: np.ndarray,
    *,
    thresholds: Sequence[float] = (),
    unlike: Unlikeness | None = None,
) -> Shift:
    """Measures the drop in accuracy between a run's own test images and others.

    Args:
        home: the run's data.
        home_probabilities: float, shape ``[test images, classes]``, on its test split.
        away: the other data, of which every image is used.
        away_probabilities: float, shape ``[images, classes]``, for the same classes.
        thresholds: of the run's classes, as for ``evaluate``.
        unlike: the other images' :func:`unlikeness`.

    Raises:
        DataError: no class in common, or no image of the shared classes on one side.
    """
    task, names = task_of(home.labels), np.array(home.class_names)
    mapping = shared_classes(home.class_names, away.class_names)
    places = np.array([mapping.get(j, -1) for j in range(len(away.class_names))])
    known = sorted(set(mapping.values()))
    shared = tuple(names[known].tolist())

    def judged(probabilities: np.ndarray, labels: np.ndarray) -> Evaluation:
        rows, columns, truth = task.asked(labels, known)
        least = np.asarray(thresholds)[columns].tolist() if len(thresholds) else ()
        given, asked = probabilities[rows][:, columns], names[columns].tolist()
        return evaluate(given, truth, asked, thresholds=least)

    here = judged(home_probabilities, home.labels[home.indices("test")])
    there = judged(away_probabilities, task.renumbered(away.labels, places, len(names)))
    hits = [round(side.accuracy * side.images) for side in (here, there)]
    of_class = [{row.name: row for row in side.per_class} for side in (here, there)]
    return Shift(
        here, there, shared, left_out=len(away) - there.images,
        unknown=tuple(name for j, name in enumerate(away.class_names) if j not in mapping),
        drop=here.accuracy - there.accuracy,
        drop_interval=_newcombe(hits[0], here.images, hits[1], there.images),
        per_class=tuple(_class_drop(*(rows[name] for rows in of_class)) for name in shared),
        unlikeness=unlike,
    )  # fmt: skip


def _class_drop(here: ClassResult, there: ClassResult) -> dict[str, Any]:
    drop = interval = None
    if here.support and there.support:
        drop = here.recall - there.recall
        hits = [round(row.recall * row.support) for row in (here, there)]
        interval = _newcombe(hits[0], here.support, hits[1], there.support)
    recalls, n = {"home": here.recall, "away": there.recall}, there.support
    return {"name": here.name, **recalls, "drop": drop, "interval": interval, "images": n}


def unlikeness(train: np.ndarray, held_out: np.ndarray, other: np.ndarray) -> Unlikeness:
    """How unlike the training images others are, by deep nearest neighbours (Sun et al. 2022).

    Args:
        train: float, shape ``[images, d]``, features of the training images.
        held_out: float, shape ``[images, d]``, of the run's own images that it was not trained on.
        other: float, shape ``[images, d]``, of the images in question.

    Returns:
        Scores of ``other``, a threshold from ``held_out``, and the AUROC between the two.
    """
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOUR, len(train))).fit(unit_rows(train))
    own, others = (
        neighbours.kneighbors(unit_rows(rows))[0][:, -1].astype(np.float64)
        for rows in (held_out, other)
    )
    threshold = float(np.quantile(own, 0.95))
    u = stats.mannwhitneyu(others, own).statistic
    share, auroc = float((others > threshold).mean()), float(u / (len(own) * len(others)))
    return Unlikeness(others, threshold, share, auroc)


def _newcombe(successes: int, n: int, other_successes: int, other_n: int) -> Interval:
    """Interval of the first rate minus the second, of independent images."""
    p, q = successes / n, other_successes / other_n
    p_low, p_high = wilson_interval(successes, n)
    q_low, q_high = wilson_interval(other_successes, other_n)
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:3])
    return shown + (", ..." if len(names) > 3 else "")
