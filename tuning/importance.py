"""Which settings decide a trial's score, and how sure the trials are of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tuning import results
from tuning.results import Record

# Fewer trials say nothing that a forest could find.
LEAST = 8
_RESAMPLES, _TREES, _SHUFFLES = 30, 40, 5
METHOD = (
    "Permutation importance (Breiman, 2001) of a random forest that predicts the ranks of the "
    f"trials: each of {_RESAMPLES} bootstrap samples of the trials grows a forest, and the trials "
    "left out of it show how much of the variance is lost when one setting is shuffled. Dots are "
    "medians, lines span 90 % of the samples."
)


@dataclasses.dataclass(frozen=True)
class Importance:
    """What shuffling one setting costs a forest that predicts the ranks of trials.

    Attributes:
        name: the setting.
        median: share of the variance of the ranks that is lost, over bootstrap samples.
        low: its 5 % quantile.
        high: its 95 % quantile.
    """

    name: str
    median: float
    low: float
    high: float


def importances(records: Sequence[Record], objective: str) -> list[Importance]:
    """The importance of every setting that varies, the greatest first; empty under ``LEAST``.

    Args:
        records: of a study; trials that failed are left out.
        objective: what the trials are ranked by.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    done = results.completed(records)
    names = results.varied(done)
    if len(done) < LEAST or not names:
        return []
    x = np.column_stack([_codes(done, name) for name in names])
    scores = np.array([results.score(record, objective) for record in done])
    y = scores.argsort().argsort().astype(np.float64)
    draw, lost = np.random.default_rng(0), []
    for number in range(_RESAMPLES):
        rows = draw.integers(len(y), size=len(y))
        out = np.setdiff1d(np.arange(len(y)), rows)
        if len(out) < 2:
            continue
        forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=number)
        found = permutation_importance(
            forest.fit(x[rows], y[rows]), x[out], y[out], scoring="neg_mean_squared_error",
            n_repeats=_SHUFFLES, random_state=number,
        )  # fmt: skip
        lost.append(found.importances_mean / y.var())
    quantiles = np.percentile(lost, [50, 5, 95], axis=0).T.tolist()
    measured = [Importance(name, *three) for name, three in zip(names, quantiles, strict=True)]
    return sorted(measured, key=lambda one: -one.median)


def _codes(records: Sequence[Record], name: str) -> list[float]:
    """A setting as numbers: itself, its place among the words, -1 where it did not matter."""
    given = [record.values.get(name) for record in records]
    known = sorted({str(value) for value in given}, key=natural)
    return [
        -1.0 if v is None else float(v) if isinstance(v, (int, float)) else known.index(str(v))
        for v in given
    ]


def natural(word: str) -> tuple[float, str]:
    """Sorts ``"12%"`` before ``"100%"``, and words after numbers."""
    digits = word.rstrip("%")
    return (float(digits) if digits.replace(".", "", 1).isdigit() else np.inf, word)
