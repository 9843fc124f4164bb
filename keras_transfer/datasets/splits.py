"""Train, validation and test: stratified, grouped, seeded, and stable under added files."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_transfer import files
from keras_transfer.errors import DataError, UsageError
from keras_transfer.types import SPLITS, ImageDataset


def rank(seed: int, group: str) -> str:
    """The place of a group in its class's order: a hash of the seed and the group's name."""
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()


def check_shares(split: tuple[float, float, float]) -> tuple[float, float, float]:
    """Normalises three shares (train, val, test) to a sum of one."""
    if len(split) != 3 or min(split) <= 0 or not 0.99 <= sum(split) <= 1.01:
        raise UsageError(
            f"the split must be three positive shares that add up to 1. Received: {split}",
            remedy="Give train, validation and test, such as 0.7,0.15,0.15.",
        )
    total = sum(split)
    return (split[0] / total, split[1] / total, split[2] / total)


def assign(
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> np.ndarray:
    """Gives each image a split.

    Within each class the groups are ordered by a hash of (seed, group name) and the order is cut:
    first the test share, then the validation share, the rest is for training. A group goes where
    its middle image falls, so each class's share is right to within half a group at each cut.
    A class of three groups or more has at least one image in each split; one of two groups has one
    for training and one for testing; one of a single group is for training. A group that holds
    several classes is placed with the class that it holds most of (the first by name if tied).

    What is promised when files are added: a group's place in the order never changes, so only
    groups next to a cut can change their split, as many as the cut moves by (a few in a hundred
    images, none in the classes without new files).

    Args:
        labels: the class of each image.
        groups: the group of each image: images of one group never part.
        split: shares of train, validation and test.
        seed: of the order.

    Returns:
        ``train``, ``val`` or ``test`` for each image, shape ``[images]``.
    """
    _, val_share, test_share = check_shares(split)
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        members[group][label] += 1
    strata: dict[str, list[str]] = defaultdict(list)
    for group, counts in members.items():
        strata[min(counts, key=lambda label: (-counts[label], label))].append(group)
    chosen: dict[str, str] = {}
    for stratum in strata.values():
        stratum.sort(key=lambda group: rank(seed, group))
        sizes = np.array([members[group].total() for group in stratum])
        middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        places = np.where(
            middle < test_share, "test", np.where(middle < test_share + val_share, "val", "train")
        )
        if len(stratum) >= 3:
            for name in SPLITS:
                if name not in places:
                    _give_one(places, name)
        else:
            places = np.array(["train", "test"][: len(stratum)])
        chosen.update(zip(stratum, places.tolist(), strict=True))
    return np.array([chosen[group] for group in groups], dtype="<U5")


def _give_one(places: np.ndarray, wanted: str) -> None:
    """Moves one group of the split that has most into the one that has none."""
    richest = Counter(places.tolist()).most_common(1)[0][0]
    places[np.flatnonzero(places == richest)[0]] = wanted


def write_splits(dataset: ImageDataset, path: str | os.PathLike[str]) -> None:
    """Writes ``path,label,split`` for each image of a data set, as UTF-8 CSV, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    for name, label, split in zip(dataset.paths, dataset.labels, dataset.splits, strict=True):
        writer.writerow([name, dataset.class_names[label], split])
    files.write_text(path, text.getvalue())


def read_splits(path: str | os.PathLike[str]) -> dict[str, tuple[str, str]]:
    """Reads what ``write_splits`` wrote: from each image's path to its (label, split)."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}", remedy="Give the splits.csv of a run."
        ) from None
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not {"path", "label", "split"} <= set(rows[0]):
        raise DataError(
            f"{path}: needs the columns path, label and split.",
            remedy="Give the splits.csv of a run.",
        )
    for line, row in enumerate(rows, start=2):
        if row["split"] not in SPLITS:
            raise DataError(
                f"{path}, line {line}: the split is {row['split']!r}.",
                remedy="Use train, val or test.",
            )
    return {row["path"]: (row["label"], row["split"]) for row in rows}
