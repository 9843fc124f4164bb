"""What is wrong with a set, item by item and as a whole, and which items are therefore kept."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.base.task import ONE, Task
from keras_transfer.base.types import Finding
from keras_transfer.datasets.sources import LEFT_OUT, Item, classes_of, name_findings, repeated
from keras_transfer.modalities import Modality

FEW = 10  # a class with fewer items is reported
IMBALANCE = 10  # reported when the largest class has so many times the items of the smallest
PRECEDENCE = {"train": 0, None: 0, "val": 1, "test": 2}  # of two copies the lower one goes

KINDS = list(csv.DictReader(io.StringIO(Path(__file__).with_name("findings.csv").read_text())))
# Every kind of finding, the gravest first, as a heading; and those that ask for nothing, which are
# no problem under --strict.
TITLES = {row["kind"]: row["title"] for row in KINDS}
RANKED = "suspect_label"  # the kind whose findings come in an order of their own
NOTES = frozenset(row["kind"] for row in KINDS if row["problem"] == "no")


class Record(NamedTuple):
    """What is known of an item.

    Attributes:
        digest: SHA-256 of the bytes; empty where they could not be read.
        fault: (kind, reason) where there is no example, else None.
        format: what the bytes are, such as ``JPEG``.
        extent: how large, see ``Modality.EXTENT``.
        checksum: CRC-32 of the decoded example, where one was asked for.
        unknown: how much of the extent is unknown, see ``Examined``.
        remarks: kinds and reasons of what is odd about it.
    """

    digest: str = ""
    fault: tuple[str, str] | None = None
    format: str = ""
    extent: int = 0
    checksum: int = 0
    unknown: int = 0
    remarks: Sequence[tuple[str, str]] = ()


class Records(Sequence[Record]):
    """A record for each item, in columns: a million of them take 100 MB.

    Attributes:
        table: structured ``[items]``, the fields of ``Record`` that every item has.
        odd: fault and remarks of the few that have any, by position.
    """

    COLUMNS = np.dtype(
        [
            ("digest", "S64"), ("format", "S12"), ("extent", np.int64), ("checksum", np.uint32),
            ("unknown", np.int64),
        ]
    )  # fmt: skip

    def __init__(self, table: np.ndarray, odd: Mapping[int, tuple[Any, Any]] | None = None) -> None:
        self.table, self.odd = table, dict(odd or {})

    @classmethod
    def of(cls, count: int) -> Records:
        """So many of which nothing is known."""
        return cls(np.zeros(count, cls.COLUMNS))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[one] for one in range(len(self))[i]]
        i = range(len(self))[i]
        digest, format, extent, checksum, unknown = self.table[i].item()
        fault, remarks = self.odd.get(i, (None, ()))
        return Record(digest.decode(), fault, format.decode(), extent, checksum, unknown, remarks)

    def __setitem__(self, i: int, one: Record) -> None:
        about = one.format.encode(), one.extent, one.checksum, one.unknown
        self.table[i] = (one.digest.encode(), *about)
        if one.fault is not None or one.remarks:
            self.odd[i] = one.fault, one.remarks

    def digests(self, rows: np.ndarray) -> list[str]:
        """Those of the items at some positions."""
        return [one.decode() for one in self.table["digest"][rows].tolist()]


class Verdict(NamedTuple):
    """What the checks decided.

    Attributes:
        kept: the positions of the items that stay, ascending, int64.
        groups: for each kept item, the name of the group that may not be parted.
        findings: everything noticed.
    """

    kept: np.ndarray
    groups: tuple[str, ...]
    findings: tuple[Finding, ...]


def judge(
    items: Sequence[Item],
    records: Records,
    fingerprints: np.ndarray,
    modality: Modality,
    task: Task = ONE,
) -> Verdict:
    """Decides which items stay.

    Left out: what cannot be decoded; exact copies with different labels (all of them, since the
    truth is unknown); where the source gives the splits, copies, exact or near, of a test item in
    validation, and of either in training; classes with nothing to train on. Everything else stays,
    and is reported.
    """
    checks = _Checks(items, records, task)
    checks.contents(modality.SUFFIXES)
    checks.exact_copies()
    near = checks.near_copies(fingerprints, modality)
    checks.parted_groups()
    checks.untrained_classes(modality.NOUN)
    rows = np.flatnonzero(checks.kept)
    kept = [items[i] for i in rows.tolist()]
    place = np.full(len(items), -1)
    place[rows] = np.arange(len(rows))
    near = place[near[checks.kept[near].all(axis=1)]]
    groups = group_names(records.table["digest"][rows], [item.group for item in kept], near)
    findings = checks.findings + _class_findings(items, kept, groups, modality.NOUN, task)
    return Verdict(rows, tuple(groups), tuple(findings))


class _Checks:
    """The checks of single items and of pairs, in the order in which they run."""

    def __init__(self, items: Sequence[Item], records: Records, task: Task) -> None:
        self.items = items
        self.task = task
        self.records = records
        self.precedence = [PRECEDENCE[item.split] for item in items]
        self.kept = np.ones(len(items), bool)
        self.findings = name_findings(items, task)

    def _note(self, i: int, kind: str, reason: str, action: str, other: str = "") -> None:
        self.kept[i] &= action != LEFT_OUT
        self.findings.append(Finding(self.items[i].path, kind, reason, action, other))

    def contents(self, suffixes: Mapping[str, str]) -> None:
        """Faults, and formats that are not what the name promises."""
        for i, (item, record) in enumerate(zip(self.items, self.records, strict=True)):
            promised = suffixes.get(os.path.splitext(item.path)[1].lower(), "")
            if record.fault is not None:
                self._note(i, *record.fault, LEFT_OUT)
            for kind, reason in record.remarks:
                self._note(i, kind, reason, "kept")
            if record.fault is None and promised not in ("", record.format):
                reason = f"named as {promised}, but its content is {record.format}"
                self._note(i, "misnamed", reason, "kept")

    def exact_copies(self) -> None:
        """Equal bytes: with other labels, in other given splits, or merely twice."""
        copies: dict[str, list[int]] = defaultdict(list)
        rows = np.flatnonzero(self.kept)
        for i in rows[repeated(self.records.table["digest"][rows])].tolist():
            copies[self.records[i].digest].append(i)
        for same in copies.values():
            first = max(same, key=lambda i: (self.precedence[i], -i))
            labels = sorted({self.items[i].label for i in same})
            for i in same:
                if len(labels) > 1:
                    other = self.items[same[0] if i != same[0] else same[1]].path
                    listed = " and ".join(repr(label) for label in labels)
                    reason = f"the same content as {other}, labelled {listed}"
                    self._note(i, "conflicting_labels", reason, LEFT_OUT, other)
                elif i != first:
                    self._pair(i, first, "duplicate", "the same content as")

    def near_copies(self, fingerprints: np.ndarray, modality: Modality) -> np.ndarray:
        """Alike to a person: int64 pairs of positions, shape ``[pairs, 2]``."""
        rows = np.flatnonzero(self.kept)
        held = fingerprints if len(rows) == len(fingerprints) else fingerprints[rows]
        pairs = rows[modality.near_copies(held)]
        alike = f"almost the same {modality.NOUN} as"
        reported: set[int] = set()
        exact = np.equal(*self.records.table["digest"][pairs].T)
        for (i, j), equal in zip(pairs.tolist(), exact.tolist(), strict=True):
            # The later of two is reported, unless the earlier leaks from a lower split.
            i, j = (i, j) if self.precedence[i] < self.precedence[j] else (j, i)
            if equal or not (self.kept[i] and self.kept[j]):
                continue
            if self.precedence[i] == self.precedence[j]:
                if i in reported:  # one finding an item, however many it resembles
                    continue
                reported.add(i)
            labels = (self.items[j].label, self.items[i].label)
            odd = "" if labels[0] == labels[1] else f", labelled {labels[0]!r} and {labels[1]!r}"
            self._pair(i, j, "near_duplicate", alike, odd)
        return pairs

    def _pair(self, i: int, j: int, kind: str, alike: str, odd: str = "") -> None:
        """What becomes of an item that is like another one of a split as high, or higher."""
        other = self.items[j]
        if self.precedence[i] < self.precedence[j]:
            reason = f"{alike} {other.path}, which is in {other.split}"
            self._note(i, "leak", reason, LEFT_OUT, other.path)
        else:
            self._note(i, kind, f"{alike} {other.path}{odd}", "kept in the same split", other.path)

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

    def untrained_classes(self, what: str) -> None:
        """Classes that only validation or test know."""
        kept = np.flatnonzero(self.kept).tolist()
        given = (self.items[i] for i in kept if self.precedence[i] == 0)
        trained = classes_of(given, self.task)
        for i in kept:
            unknown = [n for n in self.task.names(self.items[i].label) if n not in trained]
            if unknown:
                reason = f"{unknown[0]!r} has no training {what}"
                self._note(i, "class_without_training", reason, LEFT_OUT)


def group_names(
    digests: Sequence[str] | np.ndarray, groups: Sequence[str | None], near: np.ndarray
) -> list[str]:
    """Names the group of each item: those that may never be in different splits.

    A group is held together by equal digests, by near copies, and by the source's own groups. Its
    name is the first of its source groups, or else the first of its digests, by order of text.

    Args:
        digests: of each item's bytes.
        groups: the source's own group of each item, or None.
        near: pairs of near copies, int64 ``[pairs, 2]``.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Items are nodes of a graph, and so is what they have in common.
    held, content = np.unique(np.array(digests, np.bytes_), return_inverse=True)
    names = sorted({group for group in groups if group is not None})
    place = {name: number for number, name in enumerate(names)}
    named = np.array([i for i, group in enumerate(groups) if group is not None], np.int64)
    group = np.array([place[one] for one in groups if one is not None], np.int64)
    count, nodes = len(digests), len(digests) + len(held) + len(names)
    starts = np.concatenate([np.arange(count), named, near[:, 0]])
    ends = np.concatenate([count + content, count + len(held) + group, near[:, 1]])
    graph = coo_array((np.ones(len(starts), bool), (starts, ends)), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1] if nodes else np.empty(0, np.int64)
    # The first of each component by order of text, which is that of the nodes.
    first = np.full(nodes, nodes)
    np.minimum.at(first, component[count:], np.arange(count, nodes))
    first_group = np.full(nodes, nodes)
    np.minimum.at(first_group, component[count + len(held) :], np.arange(count + len(held), nodes))

    def name(part: int) -> str:
        # These words decide splits, and are the same for all modalities.
        if first_group[part] < nodes:  # so that adding items does not rename a source's group
            return f"group {names[first_group[part] - count - len(held)]}"
        return f"image {held[first[part] - count].decode()}"

    return [name(part) for part in component[:count].tolist()]


def _class_findings(
    items: Sequence[Item], kept: Sequence[Item], groups: Sequence[str], what: str, task: Task
) -> list[Finding]:
    """Classes that vanished, are small, or are much larger than others."""
    findings = []
    pairs = zip(kept, groups, strict=True)
    members = [(name, group) for item, group in pairs for name in task.names(item.label)]
    counts = Counter(name for name, _ in members)
    distinct = Counter(label for label, _ in set(members))
    for label in sorted(classes_of(items, task)):
        if not counts[label]:
            reason = f"class {label!r} has no {what} that can be used"
            findings.append(Finding("", "empty_class", reason, LEFT_OUT))
        elif counts[label] < FEW or distinct[label] < 3:
            many = f"{counts[label]} {what}s, {distinct[label]} of them distinct"
            reason = f"class {label!r} has {many}"
            findings.append(Finding("", "small_class", reason, "kept"))
    ranked = counts.most_common()
    if ranked and ranked[0][1] >= IMBALANCE * ranked[-1][1]:
        (largest, most), (smallest, least) = ranked[0], ranked[-1]
        reason = f"{most} {what}s of {largest!r}, but {least} of {smallest!r}"
        findings.append(Finding("", "imbalance", reason, "kept"))
    return findings
