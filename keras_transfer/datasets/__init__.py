"""Labelled images from wherever they are, checked, decoded once, and split without leaks."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_transfer import files, pipeline
from keras_transfer.datasets import sources, splits
from keras_transfer.datasets.splits import read_splits, write_splits
from keras_transfer.errors import DataError, ImageError
from keras_transfer.types import Finding, ImageDataset

__all__ = ["load_dataset", "read_splits", "write_splits"]


def load_dataset(
    data: str | os.PathLike[str],
    *,
    image_size: pipeline.Size | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    splits_file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    cache: bool = True,
) -> ImageDataset:
    """Reads, checks, decodes and splits a labelled set of images.

    Args:
        data: a folder of class folders, or ``builtin:digits``.
        image_size: decode to squares of this side (or (height, width)); None: do not keep pixels.
        split: shares of train, validation and test.
        splits_file: a ``splits.csv`` to apply instead.
        seed: of the split.
        cache: whether decoded pixels may be kept in the user's cache folder.
    """
    if str(data) == "builtin:digits":
        source = sources.digits_source()
    elif Path(data).is_dir():
        source = sources.folder_source(Path(data), str(data))
    else:
        raise DataError(f"{data}: no such folder.", remedy="Give a folder of class folders.")

    def examine(item: sources.Item) -> tuple[str, np.ndarray | None] | Finding:
        try:
            encoded = source.read(item.path)
            pixels = pipeline.decode_image(encoded, image_size)
        except ImageError as error:
            return Finding(item.path, error.kind, error.message, "left out")
        return files.sha256(encoded), None if image_size is None else pixels

    with ThreadPoolExecutor(pipeline.threads()) as pool:
        examined = list(pool.map(examine, source.items))
    findings = [*source.findings, *(one for one in examined if isinstance(one, Finding))]
    kept = [
        (item, one)
        for item, one in zip(source.items, examined, strict=True)
        if not isinstance(one, Finding)
    ]
    digests = tuple(one[0] for _, one in kept)
    names = [item.label for item, _ in kept]
    class_names = tuple(name for name in source.class_names if name in set(names))
    _check_classes(str(data), Counter(names))
    if splits_file is not None:
        given = read_splits(splits_file)
        placed = np.array([given[item.path][1] for item, _ in kept], dtype="<U5")
    else:
        placed = splits.assign(names, digests, split=split, seed=seed)
    index = {name: i for i, name in enumerate(class_names)}
    pixels = [one[1] for _, one in kept if one[1] is not None]
    return ImageDataset(
        name=source.name,
        paths=tuple(item.path for item, _ in kept),
        labels=np.array([index[name] for name in names], np.int64),
        class_names=class_names,
        splits=placed,
        digests=digests,
        findings=tuple(findings),
        read=lambda i: source.read(kept[i][0].path),
        pixels=np.stack(pixels) if pixels else None,
    )


def _check_classes(name: str, counts: Counter[str]) -> None:
    if len(counts) < 2:
        raise DataError(
            f"{name} has {len(counts)} class with readable images; two are needed.",
            remedy="Add a folder of images for each class.",
        )
    for label, count in sorted(counts.items()):
        if count < 2:
            raise DataError(
                f"{name}: the class {label!r} has a single image.",
                remedy="Add images to the class or remove its folder.",
            )
