"""Whether one method is better than another on the very same images."""

import collections
import dataclasses
import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import stats

from keras_transfer.base import intervals
from keras_transfer.base.errors import UsageError
from keras_transfer.base.intervals import Interval
from keras_transfer.base.task import task_of
from keras_transfer.datasets.splits import read_splits
from keras_transfer.evaluation.metrics import RESAMPLES, html_table

_Rows = dict[Any, dict[str, Any]]
_ENOUGH = 60  # of fewer, all of them answered alike, 5 in 100 may still be lost (rule of three)


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
        return self.p_value < 1.0 - intervals.CONFIDENCE

    @property
    def verdict(self) -> str:
        """Which is better and by how much, or what more than a difference could lie behind."""
        p = f"p = {self.p_value:.{3 if self.p_value < 0.1 else 2}f}"
        p = "p < 0.001" if self.p_value < 0.001 else p
        low, high = (100 * value for value in self.interval)
        if not self.different:
            gap = f"{_way(100 * self.difference, ' points')} than"
            gap = gap if self.difference else "right as often as"
            on = f"{self.second} is {gap} {self.first} on these {self.images}"
            if not self.only_first + self.only_second:
                few = self.images < _ENOUGH
                return f"{on}, {'but so few cannot show a difference' if few else 'the same ones'}."
            so = "so few" if self.images < _ENOUGH else "these"
            range_ = f"between {_way(low)} and {_way(high)}"
            if low < -5 or high > 5:
                return f"{on}, but {so} cannot show a difference: it may lie {range_} ({p})."
            return f"{on}, which shows no difference; it lies {range_} ({p})."
        better, worse = self.second, self.first
        if self.difference < 0:
            better, worse, low, high = worse, better, -high, -low
        return (
            f"{better} is better than {worse} by {100 * abs(self.difference):.1f} points "
            f"({low:.1f} to {high:.1f}, {p})."
        )


def _way(points: float, unit: str = "") -> str:
    """A difference in points, in words."""
    if not points:
        return "as good"
    return f"{abs(points):.1f}{unit} {'worse' if points < 0 else 'better'}"


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Methods side by side on common test images.

    Attributes:
        images: number of test images.
        accuracy: share right, by method.
        intervals: Wilson interval of each accuracy.
        pairs: every two of the methods.
        note: on which images, where they are not all that were tested.
    """

    images: int
    accuracy: dict[str, float]
    intervals: dict[str, Interval]
    pairs: tuple[Pair, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict of each pair."""
        pairs = [dataclasses.asdict(pair) | {"verdict": pair.verdict} for pair in self.pairs]
        return dataclasses.asdict(self) | {"pairs": pairs}

    def render(self) -> str:
        """Each accuracy and each verdict on a line, for a terminal."""
        shares = []
        for name, value in self.accuracy.items():
            low, high = self.intervals[name]
            shares.append(f"{name}: {value:.1%} of {self.images} right ({low:.1%} to {high:.1%})")
        return "\n".join(filter(None, [*shares, self.note, *(pair.verdict for pair in self.pairs)]))

    def __repr__(self) -> str:
        right = ", ".join(f"{name} {value:.3f}" for name, value in self.accuracy.items())
        return f"Comparison(accuracy on {self.images} examples: {right})"

    def _repr_html_(self) -> str:
        header = ("Run", f"Accuracy on {self.images} examples", "95 % interval")
        rows = [
            (name, f"{value:.1%}", "{:.1%} to {:.1%}".format(*self.intervals[name]))
            for name, value in self.accuracy.items()
        ]
        verdicts = "".join(f"<li>{html.escape(pair.verdict)}" for pair in self.pairs)
        return f"{html_table(header, rows)}<p>{html.escape(self.note)}<ul>{verdicts}</ul>"


class Judged(Protocol):
    """As much of a finished run as a comparison looks at."""

    @property
    def path(self) -> Path | None:
        """Its folder."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What came of it."""

    @property
    def predictions(self) -> Sequence[dict[str, Any]]:
        """A row a test example."""


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
        labels: the truth of either task; or names, shape ``[images]``.
        first: shape ``[images]``, one method's classes.
        second: shape ``[images]``, the other's.
        names: how the two are called in the verdict.
        seed: of the bootstrap.
    """
    one, two = (task_of(labels).same(np.asarray(said), labels) for said in (first, second))
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    discordant, images = only_first + only_second, len(one)
    shares = np.array([only_first, only_second, images - discordant]) / images
    counts = np.random.default_rng(seed).multinomial(images, shares, size=10 * RESAMPLES)
    p_value = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    return Pair(
        *names, images,
        difference=(only_second - only_first) / images,
        interval=intervals.percentile_interval((counts[:, 1] - counts[:, 0]) / images),
        only_first=only_first, only_second=only_second, p_value=float(p_value),
    )  # fmt: skip


def compare(runs: Sequence[Judged], *, seed: int = 0) -> Comparison:
    """Compares finished runs on their common test images.

    Args:
        runs: two or more of ``runs.folder.Run`` with the same test images, by name or by what is
            in them; of an updated run and the one that it began with, those of the latter.
        seed: of the bootstrap.

    Returns:
        Accuracies with their intervals, and every two runs against each other.

    Raises:
        UsageError: fewer than two runs, or runs whose test images differ.
    """
    if not isinstance(runs, Sequence) or not all(hasattr(run, "predictions") for run in runs):
        problem = f"{runs!r:.60} are no runs."
        raise UsageError(problem, remedy="Give what open_run or train returned, in a list.")
    if len(runs) < 2:
        problem = f"A comparison takes at least two runs. Received: {len(runs)}."
        raise UsageError(problem, remedy="Name two or more run folders.")
    names = _names([Path(run.path or f"run {i}") for i, run in enumerate(runs, start=1)])
    tables, note = _aligned(runs, names)
    for name, table, run in zip(names[1:], tables[1:], runs[1:], strict=True):
        _check_same_images(names[0], tables[0], name, table, _again(runs[0], run))
    paths = sorted(tables[0])
    right = {
        name: np.array([table[path]["predicted"] == table[path]["label"] for path in paths])
        for name, table in zip(names, tables, strict=True)
    }
    truth = np.ones(len(paths), bool)
    pairs = [
        compare_predictions(truth, right[one], right[two], names=(one, two), seed=seed)
        for one, two in itertools.combinations(names, 2)
    ]
    adjusted = zip(pairs, holm([pair.p_value for pair in pairs]), strict=True)
    count, wilson = len(paths), intervals.wilson_interval
    return Comparison(
        images=count,
        accuracy={name: float(hits.mean()) for name, hits in right.items()},
        intervals={name: wilson(int(hits.sum()), count) for name, hits in right.items()},
        pairs=tuple(dataclasses.replace(pair, p_value=p) for pair, p in adjusted), note=note,
    )  # fmt: skip


def _aligned(runs: Sequence[Judged], names: Sequence[str]) -> tuple[list[_Rows], str]:
    """The answers of each run by test image, and what is to be said of which images these are."""
    # Where only names differ, as of a table and a folder of the same files, an image goes by its
    # digest. An updated run is held to the images of the run that it began with.
    tables: list[_Rows] = [{row["path"]: row for row in run.predictions} for run in runs]
    places = {Path(run.path).resolve(): i for i, run in enumerate(runs) if run.path}
    note = ""
    for i in sorted(range(len(runs)), key=lambda i: len(tables[i])):
        of = runs[i].metrics.get("update", {}).get("of")
        base = places.get(Path(of).resolve()) if of else None
        if base is not None and tables[base].keys() < tables[i].keys():
            tables[i] = {path: tables[i][path] for path in tables[base]}
            note = f"{names[i]} is an update of {names[base]}, on whose test split they are held."
    if any(table.keys() != tables[0].keys() for table in tables):
        digests = [collections.Counter(row.get("digest") for row in t.values()) for t in tables]
        if all(one == digests[0] and all(one) for one in digests):
            return [_by_digest(table) for table in tables], note
    return tables, note


def _by_digest(table: _Rows) -> _Rows:
    """Rows by digest, and by number where copies share one."""
    seen, found = collections.Counter[str](), _Rows()
    for row in table.values():
        found[row["digest"], seen[row["digest"]]] = row
        seen[row["digest"]] += 1
    return found


def _again(first: Judged, other: Judged) -> str:
    """How to test two runs on the same images: by the splits of one, if the other has all of it."""
    files = [Path(run.path or "") / "splits.csv" for run in (first, other)]
    if all(file.is_file() for file in files):
        labels = [{path: row[0] for path, row in read_splits(file).items()} for file in files]
        for one, two, again in ((0, 1, other), (1, 0, first)):
            if labels[one].items() <= labels[two].items():
                given = f"--splits {files[one]} (in Python splits=)"
                return f"Train {again.path} again with {given}, so that both have the same tests."
    return "Train both on the same data and with one seed, so that both have the same tests."


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down method (1979), in the same order."""
    order = np.argsort(p_values, kind="stable")
    raised = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return adjusted.tolist()


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest distinct endings of the paths: folder names where those suffice."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError("A run is named twice.", remedy="Name each run folder once.")


def _check_same_images(first: str, rows: _Rows, other: str, other_rows: _Rows, again: str) -> None:
    both = f"{first} and {other}"
    if not rows:
        raise UsageError(f"{first} has no test predictions.", remedy="Train it again.")
    missing, added = rows.keys() - other_rows.keys(), other_rows.keys() - rows.keys()
    if missing or added:
        raise UsageError(
            f"{both} have different test splits: {len(missing)} only in the first, {len(added)} "
            f"only in the second, such as {min(missing or added)!r}.",
            remedy=again,
        )
    for key, row in rows.items():
        twin, path = other_rows[key], row["path"]
        if row.get("digest") != twin.get("digest"):
            problem = f"{both} saw different content under the same name: {path!r}."
            raise UsageError(problem, remedy="Compare runs on the same data.")
        if row["label"] != twin["label"]:
            known, others = ({one["label"] for one in t.values()} for t in (rows, other_rows))
            if known != others:
                lists = (
                    ", ".join(sorted(part)) or "none" for part in (known - others, others - known)
                )
                problem = f"{both} have different classes: " + ", and ".join(lists) + "."
                raise UsageError(problem, remedy="Compare runs whose classes have the same names.")
            raise UsageError(
                f"{both} disagree on the truth: {path!r} is {row['label']!r} in one and "
                f"{twin['label']!r} in the other.",
                remedy=again,
            )
