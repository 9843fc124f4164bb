"""Train, validation and test: stratified, grouped, seeded, and stable under added files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.base.task import task_of
from keras_transfer.base.types import SPLITS, Dataset, Finding, Split
from keras_transfer.datasets.sources import LEFT_OUT
from keras_transfer.datasets.tables import read_csv
from keras_transfer.modalities import modality

COLUMNS = ("path", "label", "split")
FEW_GROUPS = 7  # so many groups of a size can be cut into the usual shares


def rank(seed: int, group: str) -> str:
    """The place of a group in its class's order: a hash of the seed and the group's name."""
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()


def check_shares(split: tuple[float, float, float]) -> tuple[float, float, float]:
    """Normalises three shares (train, val, test) to a sum of one."""
    if len(split) != 3 or min(split) <= 0 or not 0.99 <= sum(split) <= 1.01:
        problem = f"the split must be three positive shares that add up to 1. Received: {split}"
        raise UsageError(problem, remedy="Give train, validation and test, such as 0.7,0.15,0.15.")
    total = sum(split)
    return (split[0] / total, split[1] / total, split[2] / total)


def strata_of(labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """The class by which each example is split: of several the rarest, of none "".

    >>> strata_of(np.array([[1, 1], [1, 0], [0, 0]], np.uint8), ("cat", "dog"))
    ['dog', 'cat', '']
    """
    names = [*class_names, ""]
    return [names[i] for i in task_of(labels).strata(labels).tolist()]


def _strata(
    labels: Sequence[str], groups: Sequence[str], seed: int
) -> list[tuple[list[str], np.ndarray]]:
    """For each class its groups in the order of their hashes, and where their middles lie.

    The middles are shares of the class's items, in (0, 1). Of a source's own groups those that hold
    several classes are a class of their own where theirs would have fewer than ``FEW_GROUPS``.
    """
    # By number: a counter for each of a million groups would take half a gigabyte.
    place: dict[str, int] = {}
    numbers = np.array([place.setdefault(group, len(place)) for group in groups], np.int64)
    kinds, names = ["", *sorted(set(labels) - {""})], list(place)
    number_of = {kind: number for number, kind in enumerate(kinds)}
    pairs = numbers * len(kinds) + [number_of[label] for label in labels]
    pairs, counts = np.unique(pairs, return_counts=True)
    held, kind = np.divmod(pairs, len(kinds))
    # Of each group the class that it has most of comes first, and of equals the first by name.
    order = np.lexsort((kind, -counts, held))
    held, first = np.unique(held[order], return_index=True)
    fullest, several = kind[order][first], np.diff([*first, len(order)]) > 1
    few = np.bincount(fullest, minlength=len(kinds)) < FEW_GROUPS
    mixed = [i for i in np.flatnonzero(several & few[fullest]) if names[i].startswith("group ")]
    if len(mixed) > 2:
        fullest[mixed] = number_of[""]
    sizes, strata = np.bincount(numbers), []
    order = np.argsort(fullest, kind="stable")
    for those in np.split(order, np.flatnonzero(np.diff(fullest[order])) + 1):
        stratum = sorted(those.tolist(), key=lambda i: rank(seed, names[i]))
        many = sizes[stratum]
        strata.append(([names[i] for i in stratum], (np.cumsum(many) - many / 2) / many.sum()))
    return strata


def _assign(
    labels: Sequence[str], groups: Sequence[str], shares: dict[str, float], seed: int
) -> np.ndarray:
    """Cuts each class's order: test first, then val, as far as they have shares, then train."""
    test = shares.get("test", 0.0)
    val = test + shares.get("val", 0.0)
    wanted = ["train", *sorted(shares)]
    chosen: dict[str, str] = {}
    for stratum, middle in _strata(labels, groups, seed):
        places = np.where(middle < test, "test", np.where(middle < val, "val", "train"))
        if len(stratum) < len(wanted):
            places = np.array(wanted[: len(stratum)])
        else:
            for name in wanted:
                if name not in places:
                    richest = Counter(places.tolist()).most_common(1)[0][0]
                    places[np.flatnonzero(places == richest)[0]] = name
        chosen.update(zip(stratum, places.tolist(), strict=True))
    return np.array([chosen[group] for group in groups], dtype="<U5")


def complete(
    labels: Sequence[str],
    groups: Sequence[str],
    given: Sequence[str | None],
    *,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> np.ndarray:
    """Keeps the splits that a source gives, and takes those that are missing from training.

    Images without a given split count as given for training; without any given split, all do. A
    missing validation or test split is drawn from these, with its share relative to the splits that
    share them: within each class the groups are ordered by a hash of (seed, group name) and the
    order is cut, first the test share, then the validation share, the rest is for training.
    A group goes where its middle image falls, so each class's share is right to within half a group
    at each cut. A class of three groups or more has at least one image in each split; one of two
    groups has one for training and one for testing; one of a single group is for training. A group
    that holds several classes is placed with the class that it holds most of (the first by name if
    tied); if that has too few groups to be cut, and the source named this one, then with all such
    groups, whatever their classes.

    What is promised when files are added: a group's place in the order never changes, so only
    groups next to a cut can change their split, as many as the cut moves by (a few in a hundred
    images, none in the classes without new files).

    Args:
        labels: the class of each image; of several the rarest one.
        groups: the group of each image: images of one group never part.
        given: the split that the source gives each image, or None.
        split: shares of train, validation and test.
        seed: of the order.

    Returns:
        ``train``, ``val`` or ``test`` for each image, shape ``[images]``.
    """
    train, val, test = check_shares(split)
    present = {name for name in given if name is not None}
    placed = np.array([name or "train" for name in given], dtype="<U5")
    pool = np.flatnonzero(placed == "train").tolist()
    missing = {"val": val, "test": test}
    shares = {name: share for name, share in missing.items() if name not in present}
    if shares and pool:
        total = train + sum(shares.values())
        shares = {name: share / total for name, share in shares.items()}
        placed[pool] = _assign([labels[i] for i in pool], [groups[i] for i in pool], shares, seed)
    return placed


def kfold(dataset: Dataset, folds: int = 5, *, seed: int = 0) -> list[Dataset]:
    """The set ``folds`` times, each image being in the test split exactly once.

    Within each class the groups, ordered by a hash of (seed, group), are cut into as many parts;
    fold ``f`` tests on part ``f``, validates on the next and trains on the rest. Groups stay whole.

    Args:
        dataset: as ``load_dataset`` gives it; its own splits do not matter.
        folds: at least 3.
        seed: of the order.

    Raises:
        UsageError: ``folds`` is under 3, or over the number of groups in a class.
    """
    labels = strata_of(dataset.labels, dataset.class_names)
    groups = dataset.groups or dataset.digests
    strata = _strata(labels, groups, seed)
    smallest = min(len(stratum) for stratum, _ in strata)
    what = modality(dataset.modality).NOUN
    if not 3 <= folds <= smallest:
        raise UsageError(
            f"{folds} folds were asked for; three are the least, and {smallest} the most, since "
            f"the smallest class has {smallest} distinct {what}s or groups of them.",
            remedy=f"Ask for another number of folds, or add {what}s.",
        )
    part: dict[str, int] = {}
    for stratum, middle in strata:
        part.update(zip(stratum, (middle * folds).astype(int).tolist(), strict=True))
    parts = np.array([part[group] for group in groups])
    placed = [
        np.where(parts == fold, "test", np.where(parts == (fold + 1) % folds, "val", "train"))
        for fold in range(folds)
    ]
    return [dataclasses.replace(dataset, splits=splits) for splits in placed]


def few(dataset: Dataset, per_class: int, *, seed: int = 0) -> np.ndarray:
    """Chooses up to ``per_class`` training images of each class, and all others. Of several
    classes the rarest counts.

    Validation and test stay whole, so that the points of a learning curve are comparable; a
    smaller subset is contained in a larger one of the same seed.

    Returns:
        The positions of the chosen images, ascending, int64.
    """
    if per_class < 1:
        problem = f"{per_class} {modality(dataset.modality).NOUN}s a class were asked for."
        raise UsageError(problem, remedy="Give a positive number.")
    chosen = np.asarray(dataset.splits) != "train"
    strata = task_of(dataset.labels).strata(dataset.labels)
    for label in np.unique(strata):
        rows = np.flatnonzero((dataset.splits == "train") & (strata == label)).tolist()
        rows.sort(key=lambda i: rank(seed, f"{dataset.digests[i]} {dataset.paths[i]}"))
        chosen[rows[:per_class]] = True
    return np.flatnonzero(chosen)


def write_splits(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Writes ``path,label,split`` for each item of a data set, as UTF-8 CSV, atomically."""
    labels = task_of(dataset.labels).decode(dataset.labels, dataset.class_names)
    rows = zip(dataset.paths, labels, dataset.splits, strict=True)
    files.write_csv(path, COLUMNS, rows)


def read_splits(path: str | os.PathLike[str]) -> dict[str, tuple[str, Split]]:
    """Reads what ``write_splits`` wrote: from each item's path to its (label, split)."""
    given: dict[str, tuple[str, Split]] = {}
    table = read_csv(Path(path), {})
    for row, cells in table.cells(table.columns(COLUMNS)):
        split = cells["split"] + cells["beyond"]
        if split not in SPLITS:
            problem = f"{path}, row {row}: the split is {split!r}."
            raise DataError(problem, remedy="Use train, val or test.")
        placed = cells["label"], SPLITS[SPLITS.index(split)]
        if given.setdefault(cells["path"], placed) != placed:
            problem = f"{path}, row {row}: {cells['path']} had another label or split before."
            raise DataError(problem, remedy="Give the splits.csv of a run.")
    return given


def apply(dataset: Dataset, path: str | os.PathLike[str]) -> tuple[Dataset, np.ndarray]:
    """Gives a set the splits of a file.

    Returns:
        The items that the file names, and their positions in ``dataset``. The others are left out,
        each with a finding.

    Raises:
        DataError: the file names items that the set lacks, or gives them another label.
    """
    given, name, task = read_splits(path), dataset.name, task_of(dataset.labels)
    held = map(task.canonical, task.decode(dataset.labels, dataset.class_names))
    labels = dict(zip(dataset.paths, held, strict=True))
    left_out = {finding.path for finding in dataset.findings if finding.action == LEFT_OUT}
    problems = [
        f"{item} is {labels[item]!r} in {name}, but {label!r} in {path}."
        for item, (label, _) in given.items()
        if labels.get(item, task.canonical(label)) != task.canonical(label)
    ]
    absent = sorted(set(given) - set(dataset.paths) - left_out)
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        listed = ", ".join(absent[:3]) + more
        problems = [f"{path} names {modality(dataset.modality).NOUN}s that {name} lacks: {listed}."]
    if problems:
        remedy = "Give the data that the splits were made from, or other splits."
        raise DataError(problems[0], remedy=remedy)
    named = np.array([item in given for item in dataset.paths], bool)
    rows = np.flatnonzero(named)
    findings = tuple(
        Finding(dataset.paths[i], "not_in_splits", f"{path} does not name it", LEFT_OUT)
        for i in np.flatnonzero(~named)
    )
    placed = np.array([given[dataset.paths[i]][1] for i in rows], dtype="<U5")
    findings = dataset.findings + findings
    return dataclasses.replace(take(dataset, rows), splits=placed, findings=findings), rows


def take(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """The items at some positions, with the classes that are left.

    Examples are copied into memory unless all are taken.
    """
    if np.array_equal(rows, np.arange(len(dataset))):
        return dataset
    present, labels = task_of(dataset.labels).left(dataset.labels[rows])
    return dataclasses.replace(
        dataset,
        paths=tuple(dataset.paths[i] for i in rows),
        labels=labels,
        class_names=tuple(dataset.class_names[i] for i in present),
        splits=dataset.splits[rows],
        digests=tuple(dataset.digests[i] for i in rows),
        read=lambda i: dataset.read(int(rows[i])),
        examples=None if dataset.examples is None else np.asarray(dataset.examples[rows]),
        groups=None if dataset.groups is None else tuple(dataset.groups[i] for i in rows),
    )
