"""Shows people their data before they train: counts, findings, pictures, a clean manifest."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.base.types import SPLITS, Dataset, Finding
from keras_transfer.datasets.loading import Details, left_out, load, untrainable
from keras_transfer.datasets.sources import readable
from keras_transfer.modalities.image import pipeline

if TYPE_CHECKING:
    from rich.console import Group

TITLES = {
    "leak": "In two splits at once",
    "conflicting_labels": "The same image under different labels",
    "truncated": "Truncated files",
    "unreadable": "Files that cannot be read",
    "empty": "Empty files",
    "not_an_image": "Not images at all",
    "not_a_file": "Not regular files",
    "bomb": "Too many pixels or bytes",
    "too_small": "Too small",
    "unlabelled": "Without a label",
    "unsafe_name": "Names that lead outside",
    "link": "Links that are not followed",
    "class_without_training": "Classes without training images",
    "empty_class": "Empty classes",
    "empty_folder": "Folders without images",
    "small_class": "Small classes",
    "imbalance": "Imbalance",
    "class_names": "Class names that look alike",
    "file_names": "File names that look alike",
    "misnamed": "Named as another format",
    "duplicate": "Exact copies",
    "near_duplicate": "Near copies",
    "repeated_row": "Repeated rows",
    "not_in_splits": "Not named by the splits file",
    "other_file": "Other files",
    "other_split": "Other splits",
    "split_off": "Splits that were missing",
    "hidden": "Hidden and system files",
}
"""Every kind of finding, the gravest first, as a heading."""

NOTES = frozenset(("hidden", "split_off"))
"""Kinds that ask for nothing: they are no problem under ``--strict``."""

SIZE_EDGES = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """What ``inspect`` found.

    Attributes:
        dataset: the images that would be trained on, with their splits.
        details: where they come from and what is known of each item.
        problem: what keeps the set from being trained on, or None.
    """

    dataset: Dataset
    details: Details
    problem: DataError | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything noticed, the gravest kinds first."""
        order = {kind: i for i, kind in enumerate(TITLES)}
        return tuple(
            sorted(self.dataset.findings, key=lambda one: (order.get(one.kind, 0), one.path))
        )

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that ``--strict`` counts as errors."""
        return tuple(finding for finding in self.findings if finding.kind not in NOTES)

    @property
    def left_out(self) -> int:
        """How many files are not used."""
        return left_out(self.dataset)

    def __repr__(self) -> str:
        state = "can be trained on" if self.problem is None else self.problem.message
        return (
            f"Inspection({self.dataset.name!r}: {len(self.dataset)} images, "
            f"{len(self.dataset.class_names)} classes, {len(self.findings)} findings; {state})"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values.

        ``classes`` has the images of each split; ``sizes`` counts images by their longer side;
        ``expected_accuracy`` is the 95 % interval that a measured accuracy of 0.9 would have.
        """
        sizes = self.details.records.sizes[self.details.kept]
        return {
            "name": self.dataset.name,
            "images": len(self.dataset),
            "left_out": self.left_out,
            "trainable": self.problem is None,
            "problem": None if self.problem is None else str(self.problem),
            "classes": class_counts(self.dataset),
            "splits": {name: len(self.dataset.indices(name)) for name in SPLITS},
            "sizes": size_counts(sizes),
            "formats": dict(
                Counter(self.details.records.formats[i] for i in self.details.kept).most_common()
            ),
            "expected_accuracy": expected_accuracy(len(self.dataset.indices("test"))),
            "finding_counts": dict(Counter(finding.kind for finding in self.findings)),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def render(self) -> Group:
        """The same as tables for a terminal."""
        from keras_transfer.datasets import inspection_page as page

        return page.terminal(self)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(str(row['name']))}"
            + "".join(f"<td>{row[key]}" for key in ("images", *SPLITS))
            for row in class_counts(self.dataset)
        )
        kinds = Counter(TITLES.get(one.kind, one.kind) for one in self.findings)
        findings = ", ".join(f"{html.escape(kind)}: {count}" for kind, count in kinds.items())
        caption = f"{html.escape(self.dataset.name)}. Findings: {findings or 'none'}."
        return (
            f"<table><caption>{caption}</caption><tr><th>Class<th>Images<th>Train<th>Validation"
            f"<th>Test{rows}</table>"
        )

    def write_page(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained HTML page with the pictures in it, atomically."""
        from keras_transfer.datasets import inspection_page as page

        files.write_text(path, page.html(self))

    def fix(self, folder: str | os.PathLike[str]) -> Path:
        """Writes a clean manifest: what is kept, one of each copy, with groups where there are any.

        The originals are not touched. Images that are not files of their own, or whose names are
        not text, are written below ``folder``.

        Returns:
            ``folder/manifest.csv``, which can be given as DATA. ``folder/left_out.csv`` says what
            is not in it, and why.

        Raises:
            UsageError: ``folder`` exists and is not empty, or lies inside the data.
        """
        target = Path(folder).resolve()
        source = self.details.source
        home = Path(source.identity) if source.identity else None
        if home is not None and home.is_dir() and target.is_relative_to(home):
            raise UsageError(
                f"{folder} lies inside the data.", remedy="Name a folder outside of it."
            )
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{folder} exists.", remedy="Name a new or empty folder.")
        first: dict[str, int] = {}
        for i, digest in enumerate(self.dataset.digests):
            first.setdefault(digest, i)
        if target.exists():
            target.rmdir()
        with files.atomic_folder(target) as folder_:
            rows = [self._manifest_row(i, folder_, target) for i in first.values()]
            _write_csv(folder_ / "manifest.csv", ("path", "label", "split", "group"), rows)
            left_out = [(one.path, one.kind, one.reason) for one in self._absent(first)]
            _write_csv(folder_ / "left_out.csv", ("path", "kind", "reason"), left_out)
        return target / "manifest.csv"

    def _manifest_row(self, i: int, folder: Path, target: Path) -> tuple[str, str, str, str]:
        """One image: where it is seen from ``target``, or where a copy of it is written."""
        data, source = self.dataset, self.details.source
        item = source.items[int(self.details.kept[i])]
        locate = getattr(source, "locate", None)
        place = ""
        if locate is not None:
            place = os.path.relpath(locate(item.path).resolve(), target).replace(os.sep, "/")
        if not place or place != readable(place):  # no file, or one whose name is not text
            place = f"images/{data.digests[i]}{os.path.splitext(item.path)[1]}"
            (folder / "images").mkdir(exist_ok=True)
            (folder / place).write_bytes(data.read(i))
        groups = data.groups or ()
        group = groups[i] if item.group is not None or groups.count(groups[i]) > 1 else ""
        return place, item.label, item.split or "", group

    def _absent(self, first: dict[str, int]) -> list[Finding]:
        """The findings of everything that the manifest does not name."""
        named = {self.dataset.paths[i] for i in first.values()}
        return [one for one in self.findings if one.path and one.path not in named]


def inspect(
    data: Any,
    *,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    splits_file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    image_size: pipeline.Size | None = None,
    cache: bool = True,
    class_names: Sequence[str] | None = None,
) -> Inspection:
    """Reads and checks every image of a set, and reports.

    Args:
        data: as for ``load_dataset``; so are ``split``, ``splits_file``, ``seed``, ``cache`` and
            ``class_names``.
        image_size: None, unless the pixels are wanted afterwards.

    Returns:
        The set as training would see it, and everything that was noticed.

    Raises:
        DataError: there is nothing to inspect. A set that can be read but not trained on raises
            nothing: see ``Inspection.problem``.
    """
    dataset, details = load(
        data,
        image_size=image_size,
        split=split,
        splits_file=splits_file,
        seed=seed,
        cache=cache,
        class_names=class_names,
    )
    return Inspection(dataset, details, untrainable(dataset))


def class_counts(dataset: Dataset) -> list[dict[str, Any]]:
    """Images of each class, in all and in each split."""
    counts = {name: Counter(dataset.labels[dataset.indices(name)].tolist()) for name in SPLITS}
    return [
        {
            "name": class_name,
            "images": sum(counts[name][label] for name in SPLITS),
            **{name: counts[name][label] for name in SPLITS},
        }
        for label, class_name in enumerate(dataset.class_names)
    ]


def size_counts(sizes: np.ndarray) -> list[dict[str, Any]]:
    """Images by their longer side in pixels; ``to`` is None for the last, open range.

    Args:
        sizes: int, shape ``[images, 2]``.
    """
    longer = sizes.max(axis=1) if len(sizes) else np.empty(0, int)
    counts = np.histogram(longer, [*SIZE_EDGES, np.inf])[0].tolist()
    ends = [*SIZE_EDGES[1:], None]
    return [
        {"from": start, "to": end, "images": count}
        for start, end, count in zip(SIZE_EDGES, ends, counts, strict=True)
        if count
    ]


def expected_accuracy(images: int, accuracy: float = 0.9) -> dict[str, Any]:
    """The 95 % interval (E. B. Wilson, 1927) of an accuracy measured on so many images."""
    if images == 0:
        return {"test_images": 0, "accuracy": accuracy, "low": 0.0, "high": 1.0}
    z = 1.959964
    scale = 1 + z * z / images
    centre = (accuracy + z * z / (2 * images)) / scale
    half = z / scale * math.sqrt(accuracy * (1 - accuracy) / images + z * z / (4 * images**2))
    return {
        "test_images": images,
        "accuracy": accuracy,
        "low": round(centre - half, 4),
        "high": round(centre + half, 4),
    }


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(text.getvalue(), "utf-8")
