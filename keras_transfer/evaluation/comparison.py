"""Whether one method is better than another on the very same images."""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import stats

from keras_transfer.base.errors import UsageError
from keras_transfer.evaluation.metrics import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    percentile_interval,
    wilson_interval,
)


class HasPredictions(Protocol):
    """What :func:`compare` reads of a run."""

    @property
    def path(self) -> Path:
        """The run's folder."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its configuration; ``data`` says which images it was made from."""

    def predictions(self) -> list[dict[str, Any]]:
        """The rows of its ``predictions.csv``: path, label, predicted, maybe digest."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two methods on the same images; differences are second minus first.

    Attributes:
        first: name of one method.
        second: name of the other.
        images: number of images that both answered.
        difference: accuracy of ``second`` minus that of ``first``, -1..1.
        interval: 95 % paired bootstrap interval of ``difference``.
        only_first: images that only ``first`` got right.
        only_second: images that only ``second`` got right.
        p_value: exact two-sided McNemar test of equal accuracy; adjusted by Holm's method where
            several pairs were compared.
    """

    first: str
    second: str
    images: int
    difference: float
    interval: Interval
    only_first: int
    only_second: int
    p_value: float

    @property
    def different(self) -> bool:
        """Whether the images are evidence of a difference at the 5 % level."""
        return self.p_value < 1.0 - CONFIDENCE

    @property
    def verdict(self) -> str:
        """One sentence: which is better and by how much, or that nothing shows a difference."""
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        if not self.different:
            low, high = (100 * value for value in self.interval)
            return (
                f"No evidence of a difference between {self.first} and {self.second}: "
                f"{100 * self.difference:+.1f} points ({low:+.1f} to {high:+.1f}, {p})."
            )
        better, worse = self.second, self.first
        low, high = self.interval
        if self.difference < 0:
            better, worse, low, high = worse, better, -high, -low
        return (
            f"{better} is better than {worse} by {100 * abs(self.difference):.1f} points "
            f"({100 * low:.1f} to {100 * high:.1f}, {p})."
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods side by side on common test images.

    Attributes:
        images: number of test images.
        accuracy: share right, by method.
        intervals: Wilson interval of each accuracy.
        pairs: every two of the methods.
    """

    images: int
    accuracy: dict[str, float]
    intervals: dict[str, Interval]
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict of each pair."""
        result = dataclasses.asdict(self)
        for row, pair in zip(result["pairs"], self.pairs, strict=True):
            row["verdict"] = pair.verdict
        return result

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}<td>{value:.1%}"
            f"<td>{self.intervals[name][0]:.1%} to {self.intervals[name][1]:.1%}"
            for name, value in self.accuracy.items()
        )
        verdicts = "".join(f"<li>{html.escape(pair.verdict)}" for pair in self.pairs)
        return (
            f"<table><tr><th>Run<th>Accuracy on {self.images} images<th>95 % interval{rows}"
            f"</table><ul>{verdicts}</ul>"
        )


def compare_predictions(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    names: tuple[str, str] = ("first", "second"),
    seed: int = 0,
) -> Pair:
    """Compares two methods' answers to the same images.

    McNemar's test looks only at the images on which exactly one was right: under equal accuracy
    each side is as likely (McNemar 1947, in its exact binomial form). The bootstrap resamples
    images, keeping the two answers to an image together.

    Args:
        labels: shape ``[images]``, the truth, indices or names.
        first: shape ``[images]``, one method's classes.
        second: shape ``[images]``, the other's.
        names: how the two are called in the verdict.
        seed: of the bootstrap.
    """
    one, two = np.asarray(first) == labels, np.asarray(second) == labels
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    discordant, images = only_first + only_second, len(one)
    shares = np.array([only_first, only_second, images - discordant]) / images
    counts = np.random.default_rng(seed).multinomial(images, shares, size=10 * RESAMPLES)
    p_value = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    return Pair(
        first=names[0],
        second=names[1],
        images=images,
        difference=(only_second - only_first) / images,
        interval=percentile_interval((counts[:, 1] - counts[:, 0]) / images),
        only_first=only_first,
        only_second=only_second,
        p_value=float(p_value),
    )


def compare(runs: Sequence[HasPredictions], *, seed: int = 0) -> Comparison:
    """Compares finished runs on their common test images.

    Args:
        runs: two or more, with the same test images.
        seed: of the bootstrap.

    Returns:
        Accuracies with their intervals, and every two runs against each other.

    Raises:
        UsageError: fewer than two runs, or runs whose test images differ.
    """
    if len(runs) < 2:
        raise UsageError(
            f"A comparison takes at least two runs. Received: {len(runs)}.",
            remedy="Name two or more run folders.",
        )
    names = _names([Path(run.path) for run in runs])
    tables = [{str(row["path"]): row for row in run.predictions()} for run in runs]
    for name, run, table in zip(names[1:], runs[1:], tables[1:], strict=True):
        _check_same_images(names[0], runs[0], tables[0], name, run, table)
    paths = sorted(tables[0])
    labels = np.array([str(tables[0][path]["label"]) for path in paths])
    answers = [np.array([str(table[path]["predicted"]) for path in paths]) for table in tables]
    right = [int((answer == labels).sum()) for answer in answers]
    pairs = [
        compare_predictions(labels, answers[i], answers[j], names=(names[i], names[j]), seed=seed)
        for i, j in itertools.combinations(range(len(runs)), 2)
    ]
    adjusted = holm([pair.p_value for pair in pairs])
    return Comparison(
        images=len(paths),
        accuracy={name: count / len(paths) for name, count in zip(names, right, strict=True)},
        intervals={
            name: wilson_interval(count, len(paths))
            for name, count in zip(names, right, strict=True)
        },
        pairs=tuple(
            dataclasses.replace(pair, p_value=p) for pair, p in zip(pairs, adjusted, strict=True)
        ),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down method (1979), in the same order."""
    count, largest = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest distinct endings of the paths: folder names where those suffice."""
    if len(set(paths)) < len(paths):
        raise UsageError("A run is named twice.", remedy="Name each run folder once.")
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _check_same_images(
    first_name: str,
    first: HasPredictions,
    first_table: dict[str, Any],
    name: str,
    run: HasPredictions,
    table: dict[str, Any],
) -> None:
    remedy = (
        f"Train {name} again with --splits {Path(first.path) / 'splits.csv'}, so that both are "
        "tested on the same images."
    )
    if not first_table:
        raise UsageError(f"{first_name} has no test predictions.", remedy="Train it again.")
    missing, added = first_table.keys() - table.keys(), table.keys() - first_table.keys()
    if missing or added:
        example = min(missing or added)
        raise UsageError(
            f"{first_name} and {name} have different test images: {len(missing)} only in the "
            f"first, {len(added)} only in the second, such as {example!r}.",
            remedy=remedy,
        )
    if not all("digest" in row for row in (*first_table.values(), *table.values())):
        _check_same_data(first_name, first, name, run)
    for path, row in first_table.items():
        if row.get("digest") != table[path].get("digest"):
            raise UsageError(
                f"{first_name} and {name} saw different images under the same name: {path!r}.",
                remedy="Compare runs on the same data.",
            )
        if str(row["label"]) != str(table[path]["label"]):
            raise UsageError(
                f"{first_name} and {name} disagree on the truth: {path!r} is "
                f"{row['label']!r} in one and {table[path]['label']!r} in the other.",
                remedy=remedy,
            )


def _check_same_data(
    first_name: str, first: HasPredictions, name: str, run: HasPredictions
) -> None:
    """Where predictions carry no digest of each image, the whole data must be the same."""
    for key in ("data_digest", "data_path", "data"):
        known = first.config.get(key), run.config.get(key)
        if None not in known:
            if known[0] != known[1]:
                raise UsageError(
                    f"{first_name} and {name} were made from different data: {known[0]} and "
                    f"{known[1]}.",
                    remedy="Compare runs on the same data.",
                )
            return
