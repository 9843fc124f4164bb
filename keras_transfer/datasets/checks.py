"""What is wrong with a set, image by image and as a whole, and which images are therefore kept."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from keras_transfer.base.types import Finding
from keras_transfer.datasets import similarity
from keras_transfer.datasets.sources import SUFFIXES, Item, name_findings

MIN_SIDE = 8
"""Images with a shorter side, in pixels, are left out."""

FEW_IMAGES = 10
"""A class with fewer images is reported."""

IMBALANCE = 10
"""Reported when the largest class has this many times the images of the smallest."""

PRECEDENCE = {"train": 0, None: 0, "val": 1, "test": 2}


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """What is known of each item, in the source's order.

    Attributes:
        digests: ``files.content_digest`` of the bytes; empty where they could not be read.
        faults: (kind, reason) where there is no image, else None.
        formats: Pillow's name of the format.
        sizes: int32, shape ``[items, 2]``: width and height in pixels.
        thumbnails: uint8, shape ``[items, 16, 16, 3]``.
    """

    digests: list[str]
    faults: list[tuple[str, str] | None]
    formats: list[str]
    sizes: np.ndarray
    thumbnails: np.ndarray

    @classmethod
    def blank(cls, count: int) -> Records:
        """Room for ``count`` items."""
        return cls(
            [""] * count,
            [None] * count,
            [""] * count,
            np.zeros((count, 2), np.int32),
            np.zeros((count, 16, 16, 3), np.uint8),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """What the checks decided.

    Attributes:
        kept: the positions of the items that stay, ascending, int64.
        groups: for each kept item, the name of the group that may not be parted.
        findings: everything noticed.
    """

    kept: np.ndarray
    groups: tuple[str, ...]
    findings: tuple[Finding, ...]


def judge(items: Sequence[Item], records: Records) -> Verdict:
    """Decides which items stay.

    Left out: what cannot be decoded; images of a side under ``MIN_SIDE``; exact copies with
    different labels (all of them, since the truth is unknown); where the source gives the splits,
    copies, exact or near, of a test image in validation, and of either in training; classes
    without an image to train on. Everything else stays, and is reported.
    """
    checks = _Checks(items, records)
    checks.images()
    checks.exact_copies()
    near = checks.near_copies()
    checks.parted_groups()
    checks.untrained_classes()
    rows = np.flatnonzero(checks.kept)
    kept = [items[i] for i in rows.tolist()]
    place = np.full(len(items), -1)
    place[rows] = np.arange(len(rows))
    near = place[near[checks.kept[near].all(axis=1)]]
    groups = similarity.group_names(
        [records.digests[i] for i in rows], [item.group for item in kept], near
    )
    findings = checks.findings + _class_findings(items, kept, groups)
    return Verdict(rows, tuple(groups), tuple(findings))


class _Checks:
    """The checks of single images and of pairs, in the order in which they run."""

    def __init__(self, items: Sequence[Item], records: Records) -> None:
        self.items = items
        self.records = records
        self.kept = np.ones(len(items), bool)
        self.findings = name_findings(items)

    def _drop(self, i: int, kind: str, reason: str, other: str = "") -> None:
        self.kept[i] = False
        self.findings.append(Finding(self.items[i].path, kind, reason, "left out", other))

    def _keep(self, i: int, kind: str, reason: str, other: str = "") -> None:
        action = "kept in the same split" if other else "kept"
        self.findings.append(Finding(self.items[i].path, kind, reason, action, other))

    def images(self) -> None:
        """Faults, size and format of each image."""
        for i, (item, fault) in enumerate(zip(self.items, self.records.faults, strict=True)):
            width, height = self.records.sizes[i].tolist()
            promised = SUFFIXES.get(os.path.splitext(item.path)[1].lower(), "other")
            found = self.records.formats[i]
            if fault is not None:
                self._drop(i, *fault)
            elif min(width, height) < MIN_SIDE:
                reason = f"{width}x{height} pixels: under {MIN_SIDE} on a side"
                self._drop(i, "too_small", reason)
            elif promised not in ("other", found):
                self._keep(i, "misnamed", f"named as {promised}, but its content is {found}")

    def exact_copies(self) -> None:
        """Equal bytes: with other labels, in other given splits, or merely twice."""
        copies: dict[str, list[int]] = defaultdict(list)
        for i in np.flatnonzero(self.kept).tolist():
            copies[self.records.digests[i]].append(i)
        for same in copies.values():
            first = max(same, key=lambda i: (self._precedence(i), -i))
            labels = sorted({self.items[i].label for i in same})
            for i in same:
                if len(labels) > 1:
                    other = self.items[same[0] if i != same[0] else same[1]].path
                    listed = " and ".join(repr(label) for label in labels)
                    reason = f"the same file as {other}, labelled {listed}"
                    self._drop(i, "conflicting_labels", reason, other)
                elif self._precedence(i) < self._precedence(first):
                    self._leak(i, first, "the same file as")
                elif i != first:
                    other = self.items[first].path
                    self._keep(i, "duplicate", f"the same file as {other}", other)

    def near_copies(self) -> np.ndarray:
        """Alike to the eye: int64 pairs of positions, shape ``[pairs, 2]``."""
        rows = np.flatnonzero(self.kept)
        pairs = rows[similarity.near_pairs(self.records.thumbnails[rows])]
        reported: set[int] = set()
        for i, j in pairs.tolist():
            if self.records.digests[i] == self.records.digests[j]:
                continue
            if self._precedence(i) > self._precedence(j):
                i, j = j, i
            if not (self.kept[i] and self.kept[j]):
                continue
            if self._precedence(i) < self._precedence(j):
                self._leak(i, j, "almost the same image as")
                continue
            if j in reported:  # one finding an image, however many it resembles
                continue
            reported.add(j)
            labels = (self.items[i].label, self.items[j].label)
            odd = "" if labels[0] == labels[1] else f", labelled {labels[0]!r} and {labels[1]!r}"
            other = self.items[i].path
            self._keep(j, "near_duplicate", f"almost the same image as {other}{odd}", other)
        return pairs

    def parted_groups(self) -> None:
        """Groups of the source that its own splits tear apart."""
        places: dict[str, set[str]] = defaultdict(set)
        for item in self.items:
            if item.group is not None:
                places[item.group].add(item.split or "train")
        for group, splits in places.items():
            if len(splits) > 1:
                reason = f"group {group!r} is in {' and '.join(sorted(splits))}"
                self.findings.append(Finding("", "leak", reason, "kept"))

    def untrained_classes(self) -> None:
        """Classes that only validation or test know."""
        kept = np.flatnonzero(self.kept).tolist()
        trained = {self.items[i].label for i in kept if self._precedence(i) == 0}
        for i in kept:
            label = self.items[i].label
            if label not in trained:
                self._drop(i, "class_without_training", f"{label!r} has no training image")

    def _precedence(self, i: int) -> int:
        return PRECEDENCE[self.items[i].split]

    def _leak(self, i: int, j: int, alike: str) -> None:
        other = self.items[j].path
        self._drop(i, "leak", f"{alike} {other}, which is in {self.items[j].split}", other)


def _class_findings(
    items: Sequence[Item], kept: Sequence[Item], groups: Sequence[str]
) -> list[Finding]:
    """Classes that vanished, are small, or are much larger than others."""
    findings = []
    counts = Counter(item.label for item in kept)
    members: dict[str, set[str]] = defaultdict(set)
    for item, group in zip(kept, groups, strict=True):
        members[item.label].add(group)
    for label in sorted({item.label for item in items}):
        count, distinct = counts[label], len(members[label])
        if count == 0:
            reason = f"class {label!r} has no image that can be used"
            findings.append(Finding("", "empty_class", reason, "left out"))
        elif count < FEW_IMAGES or distinct < 3:
            reason = f"class {label!r} has {count} images, {distinct} of them distinct"
            findings.append(Finding("", "small_class", reason, "kept"))
    ranked = counts.most_common()
    if ranked and ranked[0][1] >= IMBALANCE * ranked[-1][1]:
        (largest, most), (smallest, least) = ranked[0], ranked[-1]
        reason = f"{most} images of {largest!r}, but {least} of {smallest!r}"
        findings.append(Finding("", "imbalance", reason, "kept"))
    return findings
