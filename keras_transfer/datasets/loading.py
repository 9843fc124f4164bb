"""From whatever the user named to an ``Dataset``."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import DataError, ImageError, UsageError, closest
from keras_transfer.base.types import SPLITS, Dataset, Finding
from keras_transfer.datasets import archives, arrays, manifests, splits, tfds
from keras_transfer.datasets.checks import Records
from keras_transfer.datasets.scan import scan
from keras_transfer.datasets.sources import Source, folder_source
from keras_transfer.modalities.image import pipeline


def open_source(data: Any, *, class_names: Sequence[str] | None = None) -> Source:
    """Finds the source that ``data`` stands for; see ``load_dataset``.

    Raises:
        DataError: there is no such thing, or no image in it.
    """
    if isinstance(data, (str, os.PathLike)):
        return _open_named(os.fspath(data))
    if hasattr(data, "items") and hasattr(data, "read"):
        return data
    return arrays.arrays_source(data, class_names)


def _open_named(name: str) -> Source:
    path = Path(name).expanduser()
    if name.startswith("builtin:"):
        if name == "builtin:digits":
            return arrays.digits_source()
        near = closest(name, ["builtin:digits"])
        raise DataError(f"there is no set {name!r}.{near}", remedy="Use builtin:digits.")
    if name.startswith("tfds:"):
        return tfds.tfds_source(name)
    if path.is_dir():
        if (path / "dataset_info.json").is_file():
            return tfds.prepared_source(path, name)
        return folder_source(path, name)
    if not path.exists():
        beside = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"{name}: no such file or folder.{closest(path.name, beside)}",
            remedy="Give a folder of class folders, a .csv manifest, a .zip or .tar of class "
            "folders, tfds:NAME, or builtin:digits.",
        )
    if name.lower().endswith((".csv", ".tsv", ".txt")):
        return manifests.csv_source(path, name)
    if name.lower().endswith(archives.SUFFIXES):
        return archives.archive_source(path, name)
    raise DataError(
        f"{name} is neither a folder, a .csv manifest nor a .zip or .tar archive.",
        remedy="Put the images into one folder for each class and give the folder above them.",
    )


def load_dataset(
    data: Any,
    *,
    image_size: pipeline.Size | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    splits_file: str | os.PathLike[str] | None = None,
    fold: tuple[int, int] | None = None,
    seed: int = 0,
    cache: bool = True,
    per_class: int | None = None,
    class_names: Sequence[str] | None = None,
    for_training: bool = True,
) -> Dataset:
    """Reads, checks, decodes and splits a labelled set of images.

    Args:
        data: a folder (``DATA/CLASS/*``, or ``DATA/{train,val,test}/CLASS/*``), a ``.csv``
            manifest (path, label, and optionally split and group), a ``.zip`` or ``.tar`` of class
            folders, ``tfds:NAME[:CONFIG]``, a folder prepared by TFDS, ``builtin:digits``; or
            arrays ``(images, labels)``, a ``tf.data.Dataset`` of pairs, a mapping from splits to
            either (see ``arrays.arrays_source``); or an object like ``sources.Source``.
        image_size: decode to squares of this side, or to (height, width), in pixels; None keeps no
            pixels. See ``pipeline.decode_image``.
        split: shares of train, validation and test, for the splits that the source does not give.
            The default leaves enough to choose on and to test on even with few images.
        splits_file: a ``splits.csv`` as ``write_splits`` makes it, to repeat a split exactly.
            Images that it does not name are left out, each with a finding.
        fold: (i, k), to test on the i-th of k parts and validate on the next; see ``splits.kfold``.
            ``split`` then has no effect, nor have splits that the source gives.
        seed: of the split, of the folds and of ``per_class``.
        cache: whether decoded pixels are kept in the user's cache folder, so that a later run
            only reads and hashes.
        per_class: take at most so many training images of each class; see ``splits.few``.
        class_names: the names of integer labels in arrays.
        for_training: whether to insist on what training needs. False accepts any image at all.

    Returns:
        The set. ``findings`` says what was noticed, and which files were left out.

    Raises:
        DataError: nothing there, fewer than two classes, a class of one image, or a split without
            images; a ``splits_file`` that does not fit. The message names the class or file.
        UsageError: shares, folds or ``per_class`` that make no sense.
    """
    dataset, _ = load(
        data,
        image_size=image_size,
        split=split,
        splits_file=splits_file,
        seed=seed,
        cache=cache,
        class_names=class_names,
    )
    if for_training and (problem := untrainable(dataset)):
        raise problem
    if not len(dataset):
        raise DataError(
            f"{dataset.name} has no image that can be used{_left_out(dataset)}.",
            remedy="Look at the findings of keras-transfer inspect.",
        )
    if fold is not None:
        if splits_file is not None:
            raise UsageError(
                "a fold and a file of splits were given.", remedy="Give one or the other."
            )
        dataset = splits.kfold(dataset, fold[1], seed=seed)[fold[0] - 1]
    if per_class is not None:
        dataset = splits.take(dataset, splits.few(dataset, per_class, seed=seed))
    return dataset


@dataclasses.dataclass(frozen=True, eq=False)
class Details:
    """What the inspection shows beyond the data set.

    Attributes:
        source: where the images are.
        records: of all items of the source.
        kept: the positions of the data set's images among these, int64.
    """

    source: Source
    records: Records
    kept: np.ndarray


def load(
    data: Any,
    *,
    image_size: pipeline.Size | None,
    split: tuple[float, float, float],
    splits_file: str | os.PathLike[str] | None,
    seed: int,
    cache: bool,
    class_names: Sequence[str] | None = None,
) -> tuple[Dataset, Details]:
    """As ``load_dataset``, whether or not the set can be trained on."""
    splits.check_shares(split)
    source = open_source(data, class_names=class_names)
    records, verdict, pixels = scan(source, image_size, cache=cache)
    items = [source.items[i] for i in verdict.kept.tolist()]
    labels = [item.label for item in items]
    given = [item.split for item in items]
    findings = [*source.findings, *verdict.findings]
    present = {name for name in given if name}
    if present:
        for name in [name for name in SPLITS if name not in present]:
            reason = f"the source gives no split {name!r}"
            findings.append(Finding("", "split_off", reason, "taken from its training images"))
    digests = tuple(records.digests[i] for i in verdict.kept)
    known = [name for name in source.class_names or sorted(set(labels)) if name in set(labels)]
    index = {name: i for i, name in enumerate(known)}
    paths = tuple(item.path for item in items)
    dataset = Dataset(
        name=source.name,
        paths=paths,
        labels=np.array([index[label] for label in labels], np.int64),
        class_names=tuple(known),
        splits=splits.complete(labels, verdict.groups, given, split=split, seed=seed),
        digests=digests,
        findings=tuple(findings),
        read=_reader(source, paths, digests),
        examples=pixels,
        groups=verdict.groups,
    )
    kept = verdict.kept
    if splits_file is not None:
        dataset, rows = splits.apply(dataset, splits_file)
        kept = kept[rows]
    return dataset, Details(source, records, kept)


def _reader(source: Source, paths: Sequence[str], digests: Sequence[str]) -> Callable[[int], bytes]:
    """Reads images again later, and notices when they are no longer what was checked."""

    def read(i: int) -> bytes:
        try:
            encoded = source.read(paths[i])
        except ImageError as error:
            raise DataError(f"{paths[i]}: {error.message}", remedy="Open the set again.") from None
        if files.content_digest(encoded) != digests[i]:
            raise DataError(
                f"{paths[i]} has changed since the set was opened.", remedy="Open the set again."
            )
        return encoded

    return read


def untrainable(dataset: Dataset) -> DataError | None:
    """What keeps a set from being trained on, or None."""
    name, counts = dataset.name, Counter(dataset.labels.tolist())
    if not counts:
        return DataError(
            f"{name} has no image that can be used{_left_out(dataset)}.",
            remedy="Look at the findings of keras-transfer inspect.",
        )
    if len(counts) == 1:
        inside = sorted({path.split("/")[1] for path in dataset.paths if path.count("/") > 1})
        hint = f" Or is DATA {name}/{dataset.class_names[0]}?" if len(inside) > 1 else ""
        return DataError(
            f"{name} has the single class {dataset.class_names[0]!r}{_left_out(dataset)}.",
            remedy=f"Add a folder of images for each class; two are needed.{hint}",
        )
    train = Counter(dataset.labels[dataset.indices("train")].tolist())
    for label, class_name in enumerate(dataset.class_names):
        if counts[label] == 1:
            return DataError(
                f"{name}: the class {class_name!r} has a single image{_left_out(dataset)}.",
                remedy=f"Add images to {class_name!r}, at least three, or take the class away.",
            )
        if not train[label]:
            return DataError(
                f"{name}: the class {class_name!r} has no image in the training split.",
                remedy="Give it training images, or take the class away.",
            )
    for split in SPLITS:
        if not len(dataset.indices(split)):
            return DataError(
                f"{name} has no image in the split {split!r}.",
                remedy="Add images: three different ones of a class are the least.",
            )
    return None


def left_out(dataset: Dataset) -> int:
    """How many files are not used."""
    return len({one.path for one in dataset.findings if one.path and one.action == "left out"})


def _left_out(dataset: Dataset) -> str:
    """`` (files left out: 3)``, where some were."""
    count = left_out(dataset)
    return f" (files left out: {count})" if count else ""
