"""Where labelled items come from: a source lists them, and reads each one's bytes."""

from __future__ import annotations

import dataclasses
import os
import stat
import sys
import tempfile
import threading
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from keras_transfer.base.errors import DataError, ExampleError, UsageError
from keras_transfer.base.task import MARK, ONE, SEVERAL, Task
from keras_transfer.base.types import Dataset, Finding, Origin, Split
from keras_transfer.modalities import MODALITIES, modality_of_files

LEFT_OUT = "left out"
BLANK = "no label"
JOINT = " + "
MAX_FILE_BYTES = 256 * 2**20  # a larger file is no example

SPLIT_NAMES: dict[str, Split] = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
}

SYSTEM_FILES = frozenset(("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"))


def check_outside(place: str | os.PathLike[str], data: Any) -> None:
    """Refuses to write into a folder of data, of which it would become a class.

    Raises:
        UsageError: that is where ``place`` leads.
    """
    named = data.name if isinstance(data, Dataset) else data
    for part in parts_of(os.fspath(named)) if isinstance(named, (str, os.PathLike)) else ():
        source = os.path.realpath(os.path.expanduser(part))
        if os.path.isdir(source) and Path(source) in Path(os.path.realpath(place)).parents:
            said = f"{place} lies inside the data folder {source}"
            problem = f"{said}, of which it would become a class."
            raise UsageError(problem, remedy="Name a folder outside the data.")


def parts_of(name: str) -> list[str]:
    """The names that ``JOINT`` joins to one of several sets of data."""
    return [name] if os.path.exists(os.path.expanduser(name)) else name.split(JOINT)


def parts(data: Any) -> list[Any]:
    """The names of several sets of data that a name joins; what is no name as it is."""
    return parts_of(os.fspath(data)) if isinstance(data, (str, os.PathLike)) else [data]


def prefix(part: int) -> str:
    """What stands before the paths of a later part of data that was joined."""
    return f"+{part}/" if part else ""


class Item(NamedTuple):
    """One labelled item that a source offers, not yet read.

    Attributes:
        path: its name within the source, with ``/`` between parts.
        label: the name of its class, or several as ``Source.task`` joins them.
        split: the split that the source gives it, or None.
        group: items of one group stay in one split; None where the source names no group.
    """

    path: str
    label: str
    split: Split | None = None
    group: str | None = None


class Readable(Protocol):
    """As much of a :class:`Source` as what is given as data must have."""

    @property
    def items(self) -> Sequence[Item]:
        """As there."""

    @property
    def read(self) -> Callable[[str], bytes]:
        """As there."""


Data = str | os.PathLike[str] | Dataset | Readable | Iterable[Any]
"""A name, what is loaded or can be read, or what gives examples: lists, arrays, a DataFrame."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A list of items, and a function that reads one.

    Attributes:
        name: what the user called it.
        items: everything on offer, in a fixed order, paths unique.
        read: gives the bytes of the item at a path, from several threads, or raises
            :class:`ExampleError`.
        identity: names the place for the cache, such as an absolute path; None: nothing is cached.
        findings: what was noticed while listing.
        locate: the file on disk of an item, for sources that have one.
        class_names: the classes in the order of the model's outputs; empty: sorted by name.
        modality: what the bytes are.
        group: the column of a table that names the items' groups, or None.
        listed: whether labels came as lists of classes; None where a label may be one.
        task: what the labels are, see :func:`with_task`.
        origin: what brings it back, as in ``Dataset``.
    """

    name: str
    items: Sequence[Item]
    read: Callable[[str], bytes]
    identity: str | None = None
    findings: Sequence[Finding] = ()
    locate: Callable[[str], Path] | None = None
    class_names: Sequence[str] = ()
    modality: str = "image"
    group: str | None = None
    listed: bool | None = False
    task: Task = ONE
    origin: Origin = "name"


def with_task(source: Source, multi_label: str) -> Source:
    """A source whose labels are read as one class each, or as several with ``MARK`` between.

    Args:
        source: whose labels are as they were found.
        multi_label: the setting; ``auto`` takes several where a label that may be a list is one,
            which a finding says.

    Raises:
        DataError: labels that came as lists are to be one class each.
    """
    if source.listed and multi_label == "off":
        problem = f"{source.name}: its labels are lists of classes, and multi_label is off."
        raise DataError(problem, remedy="Leave multi_label out, or give each example one label.")
    marked = 0
    if multi_label == "auto" and source.task is ONE and source.listed is not False:
        marked = sum(MARK in item.label for item in source.items)
    if source.task is SEVERAL or not (marked or multi_label == "on"):
        return source
    items = [i._replace(label=SEVERAL.canonical(i.label)) for i in source.items]
    note = Finding(
        "", "several_labels", f"{marked:,} of {len(items):,} labels hold {MARK!r}, which parts "
        "several classes of one example", "read so; with multi_label off they are single names",
    )  # fmt: skip
    findings = [*source.findings, *([note] if marked and not source.listed else [])]
    return dataclasses.replace(source, items=items, findings=findings, task=SEVERAL)


def classes_of(items: Iterable[Item], task: Task) -> set[str]:
    """The names of all classes that some items have."""
    return {name for label in {item.label for item in items} for name in task.names(label)}


class Stretches:
    """Named stretches of one file, read from any thread.

    Args:
        stream: the file; a nameless temporary one by default.
    """

    def __init__(self, stream: IO[bytes] | None = None) -> None:
        self._stream = stream or tempfile.TemporaryFile()  # noqa: SIM115 - lives as long
        self._lock = threading.Lock()
        self.places: dict[str, tuple[int, int]] = {}

    def append(self, path: str, data: bytes) -> None:
        """Keeps ``data`` under ``path``, behind what was kept before."""
        self.places[path] = (self._stream.tell(), len(data))
        self._stream.write(data)

    def read(self, path: str) -> bytes:
        """What lies under ``path``."""
        offset, size = self.places[path]
        check_size(size)
        with self._lock:
            self._stream.seek(offset)
            return self._stream.read(size)


def check_size(size: int) -> None:
    """Refuses what is too large to be one example."""
    if size > MAX_FILE_BYTES:
        raise ExampleError(f"{size} bytes are too many", kind="bomb")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a regular file, and never blocks on a pipe or a device.

    Raises:
        ExampleError: it is missing, forbidden, no regular file, or larger than ``MAX_FILE_BYTES``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb", buffering=0) as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ExampleError("not a regular file", kind="not_a_file")
            check_size(status.st_size)
            return stream.read(status.st_size)
    except (OSError, ValueError) as error:  # the latter of a name with NUL in it
        raise ExampleError(reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, as the operating system says it."""
    return str(getattr(error, "strerror", None) or error).lower()


def readable(path: str) -> str:
    """A file name as text: bytes that are no UTF-8 become ``\\xNN``.

    So it is from where a source lists it to all that is written, and found again through it.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def folder_source(root: Path, name: str) -> Source:
    """Class folders (``root/CLASS/**/item``), or those within folders named after the splits.

    Links to files are followed, and so are class folders that link to elsewhere; links further
    down, and those that lead back into the set, are not.
    """
    findings: list[Finding] = []
    paths: set[str] = set()
    odd: dict[str, str] = {}  # where a name is not as it is read
    for path, place in _walk(root, findings):
        if path in paths:
            findings.append(Finding(path, "file_names", "two names read so", LEFT_OUT))
        elif place != os.path.join(root, path):
            odd[path] = place
        paths.add(path)
    items, modality = label_by_folder(paths, findings)

    def place_of(path: str) -> str:
        return odd.get(path) or os.path.join(root, path)

    return Source(
        name,
        items,
        lambda path: read_file(place_of(path)),
        str(root.resolve()),
        findings,
        lambda path: Path(place_of(path)),
        modality=modality,
    )


def joined(parts: Sequence[Source], name: str) -> Source:
    """Several sources as one. Items of later ones lie in folders of their own, ``+1`` and so on.

    Raises:
        DataError: they hold different kinds of examples.
    """
    first, homes = parts[0], [prefix(number) for number in range(len(parts))]
    for part in parts:
        if part.modality != first.modality:
            kinds = [f"{MODALITIES[one.modality].NOUN}s" for one in (first, part)]
            problem = f"{first.name} holds {kinds[0]}, and {part.name} {kinds[1]}."
            raise DataError(problem, remedy="Join data of one kind.")

    def of(path: str) -> tuple[Source, str]:
        number = max(i for i, home in enumerate(homes) if path.startswith(home))
        return parts[number], path.removeprefix(homes[number])

    def read(path: str) -> bytes:
        part, inside = of(path)
        return part.read(inside)

    names = dict.fromkeys(name for part in parts for name in part.class_names)
    return Source(
        name,
        [
            i._replace(path=home + i.path)
            for home, p in zip(homes, parts, strict=True)
            for i in p.items
        ],
        read,
        "\n".join(map(str, (part.identity for part in parts)))
        if all(p.identity for p in parts)
        else None,
        [
            dataclasses.replace(f, path=f.path and home + f.path)
            for home, p in zip(homes, parts, strict=True)
            for f in p.findings
        ],
        class_names=list(names) if all(part.class_names for part in parts) else (),
        modality=first.modality,
        group=next((part.group for part in parts if part.group), None),
        listed=any(part.listed for part in parts)
        or (None if any(part.listed is None for part in parts) else False),
        origin=parts[-1].origin,
    )


def _walk(root: Path, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    """Yields files below a folder: the name within it, and where."""
    home, waiting = root.resolve(), [str(root)]
    while waiting:
        folder = waiting.pop()
        inside = readable(os.path.relpath(folder, root)).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        try:
            with os.scandir(folder) as entries:
                children = list(entries)
        except OSError as error:
            if inside == ".":
                problem = f"{root} cannot be read: {reason_of(error)}."
                raise DataError(problem, remedy="Change its permissions.") from None
            findings.append(Finding(inside, "unreadable", reason_of(error), LEFT_OUT))
            continue
        if prefix and not children and not is_hidden(inside):
            kind = "empty_folder" if "/" in inside else "empty_class"
            findings.append(Finding(inside, kind, "an empty folder", LEFT_OUT))
        for child in children:
            name = prefix + readable(child.name)
            is_link = child.is_symlink()
            if not (os.path.isdir(child) if is_link else child.is_dir()):
                yield name, child.path
            elif not is_link or (not prefix and _is_apart(Path(child.path), home)):
                waiting.append(child.path)
            else:
                reason = "a link to a folder is not followed here"
                findings.append(Finding(name, "link", reason, LEFT_OUT))


def _is_apart(link: Path, home: Path) -> bool:
    """Whether a link leads neither into a folder nor to one that holds it."""
    target = link.resolve()
    return not (home.is_relative_to(target) or target.is_relative_to(home))


def label_by_folder(paths: Iterable[str], findings: list[Finding]) -> tuple[list[Item], str]:
    """Labels items by the folder that they lie in.

    ``CLASS/**/item`` is labelled CLASS. Where a folder named after the training split holds
    folders of items, and another split's does too or nothing else is there, it is
    ``SPLIT/CLASS/**/item``.

    Args:
        paths: names with ``/`` between parts.
        findings: receives what is skipped.

    Returns:
        The items, sorted by path, labels in Unicode's composed form; and what they are.
    """
    paths = sorted(paths)
    # What lies beside the class folders is no item, such as a README.
    modality = modality_of_files([path for path in paths if "/" in path] or paths)
    what, suffixes = MODALITIES[modality].NOUN, MODALITIES[modality].SUFFIXES

    def skip(path: str, kind: str, reason: str) -> None:
        findings.append(Finding(path, kind, reason, LEFT_OUT))

    named = []
    for path in paths:
        if is_hidden(path):
            skip(path, "hidden", "a hidden or system file")
        elif os.path.splitext(path)[1].lower() not in suffixes:
            skip(path, "other_file", f"no {what} by its name")
        elif "/" not in path:
            skip(path, "unlabelled", "in no class folder")
        else:
            named.append(path)
    depth = _split_depth(named)
    items = []
    spelt: dict[str, set[str]] = defaultdict(set)
    for path in named:
        parts = path.split("/")
        split = SPLIT_NAMES.get(parts[0].lower()) if depth else None
        if depth and (split is None or len(parts) < 3):
            skip(path, "unlabelled", "beside the splits' class folders")
        else:
            # One string for all of a class, which may be many.
            items.append(Item(path, sys.intern(_composed(parts[depth])), split))
            spelt[items[-1].label].add(parts[depth])
    for label in sorted(label for label, forms in spelt.items() if len(forms) > 1):
        reason = f"folders in several Unicode forms of {label!r}"
        findings.append(Finding("", "class_names", reason, "read as one class"))
    return items, modality


def _split_depth(paths: Sequence[str]) -> int:
    """1 where the first folder of each path is a split, 0 where it is the class."""
    deep: dict[str, list[bool]] = defaultdict(list)
    for path in paths:
        top, _, rest = path.partition("/")
        deep[top].append("/" in rest)
    named = {top for top in deep if top.lower() in SPLIT_NAMES}
    splits = {top for top in named if 2 * sum(deep[top]) > len(deep[top])}
    if any(SPLIT_NAMES[top.lower()] == "train" for top in splits):
        return 1 if len(splits) > 1 or len(named) == len(deep) else 0
    if splits and len(splits) == len(deep):
        problem = f"there are folders {', '.join(sorted(splits))} but none for training."
        raise DataError(problem, remedy="Add a folder named train beside them.")
    return 0


def is_hidden(path: str) -> bool:
    """Whether a part of a path starts with a dot or belongs to an operating system."""
    return any(part.startswith(".") or part in SYSTEM_FILES for part in path.split("/"))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def repeated(values: Iterable[Any]) -> list[int]:
    """The positions, ascending, of what is there more than once, and rarely of something else.

    Of a million values this takes tens of bytes each, where a dictionary takes hundreds.
    """
    hashes = np.fromiter(map(hash, values), np.int64)
    _, which, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[which] > 1).tolist()


def name_findings(items: Sequence[Item], task: Task = ONE) -> list[Finding]:
    """Classes, and files, whose names differ only by case or Unicode form."""
    findings = []
    labels, paths = sorted(classes_of(items, task)), sorted({item.path for item in items})
    for kind, names in (("class_names", labels), ("file_names", paths)):
        alike: dict[str, list[str]] = defaultdict(list)
        for i in repeated(_composed(name).casefold() for name in names):
            alike[_composed(names[i]).casefold()].append(names[i])
        for same in alike.values():
            if len(same) > 1:
                listed = ", ".join(map(repr, same))
                reason = f"names that differ only by case or Unicode form: {listed}"
                path = same[0] if kind == "file_names" else ""
                findings.append(Finding(path, kind, reason, "kept apart"))
    return findings
