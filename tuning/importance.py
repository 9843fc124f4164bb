"""Which settings decide a trial's score, and how sure the trials are of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tuning import results
from tuning.results import COMPLETED, Record

# Fewer trials say nothing that a forest could find.
LEAST = 8
_RESAMPLES, _TREES = 30, 40
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

    done = [record for record in records if record.status == COMPLETED]
    names = varied(done)
    if len(done) < LEAST or not names:
        return []
    x = np.array([[_code(done, name, record) for name in names] for record in done])
    scores = np.array([results.score(record, objective) for record in done])
    y = scores.argsort().argsort().astype(np.float64)
    draw = np.random.default_rng(0)
    found = []
    for number in range(_RESAMPLES):
        rows = draw.integers(len(y), size=len(y))
        out = np.setdiff1d(np.arange(len(y)), rows)
        if len(out) < 2:
            continue
        forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=number)
        forest.fit(x[rows], y[rows])
        base = np.square(forest.predict(x[out]) - y[out]).mean()
        lost = []
        for column in range(len(names)):
            shuffled = np.repeat(x[out][None], 5, axis=0)
            for copy in shuffled:
                copy[:, column] = draw.permutation(copy[:, column])
            guessed = forest.predict(shuffled.reshape(-1, len(names))).reshape(5, -1)
            lost.append((np.square(guessed - y[out]).mean() - base) / y.var())
        found.append(lost)
    low, median, high = np.percentile(np.array(found), [5, 50, 95], axis=0)
    order = np.argsort(-median, kind="stable")
    return [Importance(names[i], float(median[i]), float(low[i]), float(high[i])) for i in order]


def varied(records: Sequence[Record]) -> list[str]:
    """The settings that differ between trials, without what KerasTuner notes of its rungs."""
    names = list(dict.fromkeys(name for record in records for name in record.values))
    return [
        name
        for name in names
        if (not name.startswith("tuner/") or name == "tuner/epochs")
        and len({str(record.values.get(name)) for record in records}) > 1
    ]


def _code(records: Sequence[Record], name: str, record: Record) -> float:
    """A setting as a number: itself, its place among the words, -1 where it did not matter."""
    value = record.values.get(name)
    if value is None:
        return -1.0
    if isinstance(value, (int, float)):
        return float(value)
    words = sorted({str(r.values.get(name)) for r in records}, key=natural)
    return float(words.index(str(value)))


def natural(word: str) -> tuple[float, str]:
    """Sorts ``"12%"`` before ``"100%"``, and words after numbers."""
    digits = word.rstrip("%")
    return (float(digits) if digits.replace(".", "", 1).isdigit() else np.inf, word)
