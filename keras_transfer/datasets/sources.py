"""Where labelled images come from: a source lists its items and reads each item's bytes."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_transfer.errors import DataError, ImageError
from keras_transfer.types import Finding, Split

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".ppm", ".pgm", ".pbm", ".heic", ".heif", ".svg", ".ico", ".jp2"),
)
MAX_FILE_BYTES = 256 * 2**20
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclasses.dataclass(frozen=True)
class Item:
    """One labelled image that a source offers, not yet read.

    Attributes:
        path: its name within the source, with ``/`` between parts.
        label: the name of its class.
        split: the split that the source gives it, or None.
        group: images of one group stay in one split; None where the source names no group.
    """

    path: str
    label: str
    split: Split | None = None
    group: str | None = None


class Source(Protocol):
    """What a new kind of source has to offer.

    Attributes:
        name: what the user called it.
        identity: names the place for the cache, such as an absolute path; None: never cached.
        items: every image on offer, in a fixed order, paths unique.
        class_names: the classes in the order of the model's outputs.
        findings: what was noticed while listing.
    """

    name: str
    identity: str | None
    items: Sequence[Item]
    class_names: tuple[str, ...]
    findings: Sequence[Finding]

    def read(self, path: str) -> bytes:
        """The encoded bytes of one item. Raises ImageError where they cannot be had."""
        ...


@dataclasses.dataclass(frozen=True)
class Listing:
    """The plain source: a list of items and a function that reads one."""

    name: str
    identity: str | None
    items: Sequence[Item]
    class_names: tuple[str, ...]
    read: Callable[[str], bytes]
    findings: Sequence[Finding] = ()


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a regular file without ever blocking on a pipe or a device.

    Raises:
        ImageError: it is missing, forbidden, no regular file, or larger than ``MAX_FILE_BYTES``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb", buffering=0) as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file", kind="not_a_file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"{status.st_size} bytes are too many for an image", kind="bomb")
            return stream.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ImageError(error.strerror or str(error), kind="unreadable") from None


def folder_source(root: Path, name: str) -> Source:
    """Class folders (``root/CLASS/**/image``), or those within folders named after the splits."""
    children = sorted(entry for entry in root.iterdir() if entry.is_dir() and not _hidden(entry))
    named = {child: SPLIT_FOLDERS.get(child.name.lower()) for child in children}
    findings: list[Finding] = []
    items: list[Item] = []
    if children and all(named.values()):
        for folder, split in named.items():
            for child in sorted(folder.iterdir()):
                if child.is_dir() and not _hidden(child):
                    items += _walk(root, child, split, findings)
    else:
        for child in children:
            items += _walk(root, child, None, findings)
    if not items:
        raise DataError(
            f"{root} has no images in class folders.",
            remedy="Put the images into one folder for each class: DATA/CLASS/image.jpg.",
        )
    items.sort(key=lambda item: item.path)
    classes = tuple(sorted({item.label for item in items}))
    return Listing(
        name, str(root.resolve()), items, classes, lambda path: read_file(root / path), findings
    )


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _walk(root: Path, folder: Path, split: Split | None, findings: list[Finding]) -> list[Item]:
    """Every image file below one class folder."""
    items = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(child for child in folders if not child.startswith("."))
        for file in sorted(files):
            path = Path(parent, file)
            if _hidden(path):
                continue
            relative = path.relative_to(root).as_posix()
            if path.suffix.lower() not in SUFFIXES:
                findings.append(Finding(relative, "other_file", "not an image file", "left out"))
                continue
            items.append(Item(relative, unicodedata.normalize("NFC", folder.name), split))
    return items


def digits_source() -> Source:
    """scikit-learn's 1,797 handwritten digits as 8x8 PNG files made in memory."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    files: dict[str, np.ndarray] = {}
    items = []
    for i, label in enumerate(digits.target):
        path = f"{label}/{i:04d}.png"
        files[path] = pixels[i]
        items.append(Item(path, str(label)))
    items.sort(key=lambda item: item.path)
    names = tuple(str(digit) for digit in range(10))
    return Listing("builtin:digits", None, items, names, lambda path: encode_png(files[path]))


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless PNG bytes of one uint8 image, ``[h, w]``, ``[h, w, 1]`` or ``[h, w, 3 or 4]``."""
    from PIL import Image

    stream = io.BytesIO()
    image = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
