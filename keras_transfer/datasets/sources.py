"""Where labelled images come from: a source lists its items and reads each item's bytes."""

from __future__ import annotations

import dataclasses
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from keras_transfer.base.errors import DataError, ImageError
from keras_transfer.base.types import Finding, Split

SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm"), "PPM"),
    **{".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".avif": "AVIF"},
    **dict.fromkeys((".heic", ".heif", ".svg", ".ico", ".jp2", ""), "other"),
}
"""Which files are looked at, by suffix, and the format that each suffix promises."""

MAX_FILE_BYTES = 256 * 2**20
"""A larger file is no image."""

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclasses.dataclass(frozen=True, slots=True)
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
    """What a new kind of source has to offer."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    @property
    def identity(self) -> str | None:
        """Names the place for the cache, such as an absolute path; None: nothing is cached."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """Every image on offer, in a fixed order, paths unique."""
        ...

    @property
    def findings(self) -> Sequence[Finding]:
        """What was noticed while listing."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """The classes in the order of the model's outputs; empty: sorted by name."""
        ...

    def read(self, path: str) -> bytes:
        """The encoded bytes of one item; called from several threads.

        Raises:
            ImageError: they cannot be had.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Listing:
    """The plain source: a list of items, and a function that reads one.

    Attributes:
        locate: the file on disk of an item, for sources that have one.
    """

    name: str
    identity: str | None
    items: Sequence[Item]
    read: Callable[[str], bytes]
    findings: Sequence[Finding] = ()
    locate: Callable[[str], Path] | None = None
    class_names: Sequence[str] = ()


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a regular file, and never blocks on a pipe or a device.

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
                raise ImageError(f"{status.st_size} bytes are too many", kind="bomb")
            return stream.read(status.st_size)
    except OSError as error:
        raise ImageError((error.strerror or str(error)).lower()) from None


def readable(path: str) -> str:
    """A file name as valid UTF-8: bytes that are not become ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def folder_source(root: Path, name: str) -> Listing:
    """Class folders (``root/CLASS/**/image``), or those within folders named after the splits.

    Links to files are followed, and so are class folders that link to elsewhere; links further
    down, and those that lead back into the set, are not.
    """
    findings: list[Finding] = []
    files: dict[str, str] = {}
    empty: list[str] = []
    for folder, children, names in _walk(root, findings):
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else inside.replace(os.sep, "/") + "/"
        for child in names:
            files[readable(prefix + child)] = os.path.join(folder, child)
        if prefix and not names and not children:
            empty.append(readable(inside))
    items = label_by_folder(files, findings)
    labels = {item.label for item in items}
    for inside in empty:
        if not is_hidden(inside) and _nfc(inside) not in labels:
            kind = "empty_folder" if "/" in inside else "empty_class"
            findings.append(Finding(inside, kind, "a folder without images", "left out"))
    if not items:
        raise DataError(
            f"{root} has no images in class folders.",
            remedy="Put the images into one folder for each class: DATA/CLASS/image.jpg.",
        )
    return Listing(
        name,
        str(root.resolve()),
        items,
        lambda path: read_file(files[path]),
        findings,
        lambda path: Path(files[path]),
    )


def _walk(
    root: Path, findings: list[Finding]
) -> Iterable[tuple[str, Sequence[str], Sequence[str]]]:
    """``os.walk`` that sorts, follows links of the first level only, and reports what it can't."""

    def denied(error: OSError) -> None:
        inside = readable(os.path.relpath(error.filename, root))
        findings.append(Finding(inside, "unreadable", (error.strerror or "").lower(), "left out"))

    home = root.resolve()
    for folder, children, names in os.walk(root, onerror=denied):
        top = os.path.samefile(folder, root)
        for child in sorted(children):
            path = Path(folder, child)
            if not path.is_symlink():
                continue
            children.remove(child)
            target = path.resolve()
            if (
                top
                and target.is_dir()
                and not (home.is_relative_to(target) or target.is_relative_to(home))
            ):
                for below, _, found in os.walk(path, onerror=denied):
                    yield below, (), sorted(found)
            else:
                inside = readable(os.path.relpath(path, root))
                reason = "a link to a folder is not followed here"
                findings.append(Finding(inside, "link", reason, "left out"))
        children.sort()
        yield folder, children, sorted(names)


def label_by_folder(paths: Iterable[str], findings: list[Finding]) -> list[Item]:
    """Labels images by the folder that they lie in.

    ``CLASS/**/image`` is labelled CLASS. Where a folder named after the training split holds
    folders of images, and another split's does too or nothing else is there, it is
    ``SPLIT/CLASS/**/image``.

    Args:
        paths: names with ``/`` between parts.
        findings: receives what is skipped.

    Returns:
        The images, sorted by path, labels in Unicode's composed form.
    """
    images = []
    for path in sorted(paths):
        if is_hidden(path):
            findings.append(Finding(path, "hidden", "a hidden or system file", "left out"))
        elif os.path.splitext(path)[1].lower() not in SUFFIXES:
            findings.append(Finding(path, "other_file", "not an image by its name", "left out"))
        elif "/" not in path:
            findings.append(Finding(path, "unlabelled", "in no class folder", "left out"))
        else:
            images.append(path)
    depth = _split_depth(images)
    items = []
    for path in images:
        parts = path.split("/")
        split = SPLIT_NAMES.get(parts[0].lower()) if depth else None
        if depth and (split is None or len(parts) < 3):
            reason = "beside the splits' class folders"
            findings.append(Finding(path, "unlabelled", reason, "left out"))
            continue
        items.append(Item(path, _nfc(parts[depth]), split))
    return items


def _split_depth(images: Sequence[str]) -> int:
    """1 where the first folder of each path is a split, 0 where it is the class."""
    deep: dict[str, list[bool]] = defaultdict(list)
    for path in images:
        top, _, rest = path.partition("/")
        deep[top].append("/" in rest)
    named = {top for top in deep if top.lower() in SPLIT_NAMES}
    splits = {top for top in named if 2 * sum(deep[top]) > len(deep[top])}
    if any(SPLIT_NAMES[top.lower()] == "train" for top in splits):
        return 1 if len(splits) > 1 or len(named) == len(deep) else 0
    if splits and len(splits) == len(deep):
        raise DataError(
            f"there are folders {', '.join(sorted(splits))} but none for training.",
            remedy="Add a folder named train beside them.",
        )
    return 0


def is_hidden(path: str) -> bool:
    """Whether a part of a path starts with a dot or belongs to an operating system."""
    system = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"}
    return any(part.startswith(".") or part in system for part in path.split("/"))


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def name_findings(items: Sequence[Item]) -> list[Finding]:
    """Classes, and files, whose names differ only by case or Unicode form."""
    findings = []
    for kind, names in (
        ("class_names", {item.label for item in items}),
        ("file_names", {item.path for item in items}),
    ):
        alike: Mapping[str, list[str]] = defaultdict(list)
        for name in names:
            alike[_nfc(name).casefold()].append(name)
        for same in alike.values():
            if len(same) > 1:
                listed = ", ".join(repr(name) for name in sorted(same))
                reason = f"names that differ only by case or Unicode form: {listed}"
                path = "" if kind == "class_names" else min(same)
                findings.append(Finding(path, kind, reason, "kept apart"))
    return findings
