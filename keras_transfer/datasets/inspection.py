"""Shows people their data before they train: counts, findings, pictures, a clean manifest."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.base.intervals import wilson_interval
from keras_transfer.base.task import task_of
from keras_transfer.base.types import SPLITS, Dataset, Finding
from keras_transfer.datasets import inspection_page as page
from keras_transfer.datasets.checks import NOTES, RANKED, TITLES, Records
from keras_transfer.datasets.sources import BLANK, LEFT_OUT, Source, check_outside, readable
from keras_transfer.modalities import modality

if TYPE_CHECKING:
    from rich.console import Group


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """What ``inspect`` found.

    Attributes:
        dataset: the examples that would be trained on, with their splits.
        source: where they come from.
        records: what is known of each item of the source.
        kept: the positions of the data set's examples among these, int64.
        problem: what keeps the set from being trained on, or None.
    """

    dataset: Dataset
    source: Source
    records: Records
    kept: np.ndarray
    problem: DataError | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything noticed, the gravest kinds first, doubts of labels from the surest down."""
        order = {kind: i for i, kind in enumerate(TITLES)}

        def place(one: Finding) -> tuple[int, str]:
            return order.get(one.kind, 0), "" if one.kind == RANKED else one.path

        return tuple(sorted(self.dataset.findings, key=place))

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that ``--strict`` counts as errors."""
        return tuple(finding for finding in self.findings if finding.kind not in NOTES)

    @property
    def left_out(self) -> int:
        """How many files are not used."""
        return left_out(self.dataset)

    def __repr__(self) -> str:
        data = self.dataset
        state = "can be trained on" if self.problem is None else self.problem.message
        return (
            f"Inspection({data.name!r}: {len(data)} {modality(data.modality).NOUN}s, "
            f"{len(data.class_names)} classes, {len(self.findings)} findings; {state})"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values.

        ``classes`` has the examples of each split; ``sizes`` counts examples by their extent (of
        images the longer side in pixels), ``to`` being None for the last, open range;
        ``expected_accuracy`` is the 95 % interval that a measured accuracy of 0.9 would have.
        """
        data, known = self.dataset, self.records.table[self.kept]
        edges = modality(data.modality).EXTENT_EDGES
        extents = np.histogram(known["extent"], [*edges, np.inf])[0].tolist()
        ranges = zip(edges, [*edges[1:], None], extents, strict=True)
        splits: dict[str, np.ndarray] = {name: data.labels[data.indices(name)] for name in SPLITS}
        counts = {
            name: task_of(labels).counts(labels, len(data.class_names)).tolist()
            for name, labels in {"images": data.labels, **splits}.items()
        }
        return {
            "name": data.name,
            "modality": data.modality,
            "images": len(data),
            "left_out": self.left_out,
            "trainable": self.problem is None,
            "problem": None if self.problem is None else str(self.problem),
            "classes": [
                {"name": class_name} | {name: many[i] for name, many in counts.items()}
                for i, class_name in enumerate(data.class_names)
            ],
            "splits": {name: len(labels) for name, labels in splits.items()},
            "sizes": [{"from": a, "to": b, "images": count} for a, b, count in ranges if count],
            "formats": dict(Counter(known["format"].astype(str).tolist()).most_common()),
            "expected_accuracy": expected_accuracy(len(splits["test"])),
            "finding_counts": dict(Counter(finding.kind for finding in self.findings)),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def render(self) -> Group:
        """The same as tables for a terminal."""
        return page.terminal(self.to_json())

    def _repr_html_(self) -> str:
        return page.notebook(self.to_json())

    def write_page(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained HTML page with the pictures in it, atomically.

        Raises:
            UsageError: ``path`` is a file of another kind.
        """
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                if stream.read(15) != b"<!DOCTYPE html>":
                    raise UsageError(f"{path} exists and is no page.", remedy="Name another file.")
        text = page.html(self.to_json(), self.findings, self.dataset, self.source)
        files.write_text(path, text)

    def fix(self, folder: str | os.PathLike[str]) -> Path:
        """Writes a clean manifest: what is kept, one of each copy, with groups where there are any.

        The originals are not touched. Items that are not files of their own, or whose names are
        not text, are written below ``folder``.

        Returns:
            ``folder/manifest.csv``, which can be given as DATA. ``folder/left_out.csv`` says what
            is not in it, and why.

        Raises:
            UsageError: ``folder`` exists and is not empty, or lies inside the data.
        """
        check_outside(folder, self.dataset)
        target = Path(os.path.realpath(folder))
        if os.path.lexists(target):
            if not target.is_dir() or any(target.iterdir()):
                raise UsageError(f"{folder} exists.", remedy="Name a new or empty folder.")
            target.rmdir()
        first: dict[str, int] = {}
        for i, digest in enumerate(self.dataset.digests):
            first.setdefault(digest, i)
        named = {self.dataset.paths[i] for i in first.values()}
        absent = [one for one in self.findings if one.path and one.path not in named]
        groups, sizes = self.dataset.groups or (), Counter(self.dataset.groups)
        with files.atomic_folder(target) as building:
            rows = []
            for i in first.values():
                item, place = self.source.items[int(self.kept[i])], self._place(i, building, target)
                shared = item.group is not None or sizes[groups[i]] > 1
                rows.append((place, item.label, item.split or "", groups[i] if shared else ""))
            files.write_csv(building / "manifest.csv", ("path", "label", "split", "group"), rows)
            reasons = [(one.path, one.kind, one.reason) for one in absent]
            files.write_csv(building / "left_out.csv", ("path", "kind", "reason"), reasons)
        return target / "manifest.csv"

    def _place(self, i: int, folder: Path, target: Path) -> str:
        """Where an item is seen from ``target``, or where a copy of it is written."""
        data, path, place = self.dataset, self.dataset.paths[i], ""
        if self.source.locate is not None:
            file = self.source.locate(path).resolve()
            place = os.path.relpath(file, target).replace(os.sep, "/")
        if not place or place != readable(place):  # no file, or one whose name is not text
            formats = modality(data.modality).SUFFIXES.items()
            format, suffix = self.records[int(self.kept[i])].format, os.path.splitext(path)[1]
            suffix = suffix or next(suffix for suffix, known in formats if known == format)
            place = f"{modality(data.modality).NOUN}s/{data.digests[i]}{suffix}"
            (folder / place).parent.mkdir(exist_ok=True)
            (folder / place).write_bytes(data.read(i))
        return place


def left_out(dataset: Dataset) -> int:
    """How many files are not used."""
    return len({one.path for one in dataset.findings if one.path and one.action == LEFT_OUT})


def what_is_left_out(dataset: Dataset) -> str:
    """The same in words, empty where nothing is: rows that nobody has labelled are no fault."""
    rows = {one.path for one in dataset.findings if one.path and one.reason.endswith(BLANK)}
    files = left_out(dataset) - len(rows)
    words = [f"{files} left out, see keras-transfer inspect"] if files else []
    words += [f"{len(rows)} row{'s' * (len(rows) > 1)} without a label"] if rows else []
    return "; ".join(words)


def notes(dataset: Dataset) -> list[str]:
    """What is worth saying of a set as a whole before it is trained on, a sentence each."""
    train, val, test = (len(dataset.indices(split)) for split in SPLITS)
    what = (
        f"{len(dataset):,} {modality(dataset.modality).NOUN}s of {len(dataset.class_names)} classes"
    )
    counts = f"{train:,} to learn from, {val:,} to choose by, {test:,} to test on"
    summary = "; ".join(filter(None, [f"{what}: {counts}", what_is_left_out(dataset)])) + "."
    said = [one for one in dataset.findings if one.kind in NOTES and not one.path]
    return [summary, *(f"{one.reason[0].upper()}{one.reason[1:]}: {one.action}." for one in said)]


def untrainable(dataset: Dataset) -> DataError | None:
    """What keeps a set from being trained on, or None."""
    what, names = modality(dataset.modality).NOUN, dataset.class_names
    lost = f" (left out: {left_out(dataset)})" if left_out(dataset) else ""

    def error(problem: str, remedy: str) -> DataError:
        return DataError(f"{dataset.name}{problem}.", remedy=remedy)

    if not len(dataset):
        remedy = "Look at the findings of keras-transfer inspect."
        return error(f" has no {what} that can be used{lost}", remedy)
    if len(names) == 1:
        remedy = f"Add a folder of {what}s for each class; two are needed."
        if len({path.split("/")[1] for path in dataset.paths if path.count("/") > 1}) > 1:
            remedy += f" Or is DATA {dataset.name}/{names[0]}?"
        return error(f" has the single class {names[0]!r}{lost}", remedy)
    task = task_of(dataset.labels)
    counts = task.counts(dataset.labels, len(names))
    trained = task.counts(dataset.labels[dataset.indices("train")], len(names))
    for label, class_name in enumerate(names):
        if counts[label] == 1:
            remedy = f"Add {what}s to {class_name!r}, at least three, or take the class away."
            return error(f": the class {class_name!r} has a single {what}{lost}", remedy)
        if not trained[label]:
            remedy = f"Give it training {what}s, or take the class away."
            return error(f": the class {class_name!r} has no {what} in the training split", remedy)
    many = len(set(dataset.groups or dataset.digests))
    whole = "copies, and what is of one group, stay in one split"
    parted = f": its {len(dataset)} {what}s make {many} for the splits, since {whole}"
    for split in SPLITS:
        if not len(dataset.indices(split)):
            remedy = f"Add {what}s: three different ones of a class are the least."
            told = parted if many < len(dataset) else ""
            return error(f" has no {what} in the split {split!r}{told}", remedy)
    return None


def expected_accuracy(count: int, accuracy: float = 0.9) -> dict[str, Any]:
    """The 95 % interval of an accuracy measured on so many examples."""
    low, high = (round(bound, 4) for bound in wilson_interval(accuracy * count, count))
    return {"test_images": count, "accuracy": accuracy, "low": low, "high": high}
