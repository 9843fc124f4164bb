"""The store of cached activations: frozen work is done once and shared.

On disk, under the store's folder, one folder a key:

    <key digest>/key.json            what the activations are, in clear
    <key digest>/<shard>.json        digests of the images, checksums; written last
    <key digest>/<shard>.<t>.npy     tensor t of the cut, rows in the order of the digests
    <key digest>/users/<host>-<pid>  one empty file for each process that reads the folder
    answers/<question digest>.json   what was decided about a network, once for all runs

A shard exists once its ``.json`` does, so no reader meets half of one. Anything that could change
a value is in the key or, for the image itself, in the row's digest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import math
import os
import shutil
import socket
import time
import uuid
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np

from keras_transfer.base import files
from keras_transfer.base.rows import stretches
from keras_transfer.recipe import reads_arguments

Answer = TypeVar("Answer")

# Raised whenever the code that computes activations changes the values of a row.
CODE_VERSION = 2
SHARD_BYTES = 32 * 2**20
_ROWS = 2**32  # more than there are in a shard
# Share of the free disk that the store may take unless told otherwise.
DEFAULT_SHARE = 0.25
# Activations of a store that are in use are held in memory up to this many bytes in all; the others
# are read row by row.
MEMORY_BYTES = 2**29
# The folder of what was decided once, see ActivationStore.remember.
_ANSWERS = "answers"


@dataclasses.dataclass(frozen=True)
class ActivationKey:
    """What a row of activations depends on besides its image's bytes.

    Attributes:
        backbone: name in the registry.
        weights: digest of the weights below the cut.
        cut: names of the layers whose outputs are stored.
        preprocessing: the registry's word for it.
        rule: name and version of the rule that makes an example of an item's bytes, and views.
        shape: of one example.
        dtype: in which they are stored, ``float16`` or ``float32``.
        engine: what computed them, see ``FrozenPart.engine_key``.
        view: 0 for the clean example, else the number of the augmented view.
        view_seed: seed of the augmentation; ignored, hence 0, for view 0.
        strength: strength of the augmentation; 0 for view 0.
        flip: whether the augmentation mirrors.
        version: version of the code that computes the activations.
    """

    backbone: str
    weights: str
    cut: tuple[str, ...]
    preprocessing: str
    rule: str
    shape: tuple[int, ...]
    dtype: str
    engine: str
    view: int = 0
    view_seed: int = 0
    strength: float = 0.0
    flip: bool = False
    version: int = CODE_VERSION

    @property
    def digest(self) -> str:
        """The name of the key's folder."""
        plain = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return files.sha256(plain.encode())[:32]


class Index:
    """Where the rows of some images lie in the shards of a key.

    Args:
        count: of the images, of which none has a row yet.

    Attributes:
        shards: the files of each shard that has rows of them.
        places: int64 ``[images]``, the shard times ``_ROWS`` and the row in it, or -1.
    """

    def __init__(self, count: int) -> None:
        self.shards: list[list[Path]] = []
        self.places = np.full(count, -1)

    @property
    def absent(self) -> np.ndarray:
        """Bool ``[images]``: which have no row."""
        return self.places < 0

    def add(self, paths: list[Path], images: Sequence[int], rows: Sequence[int]) -> None:
        """Notes in which rows of one more shard some of the images lie."""
        if len(images):
            self.places[images] = len(self.shards) * _ROWS + np.asarray(rows)
            self.shards.append(paths)


class Activations:
    """Activations of a list of images at one cut, in the order of that list.

    Args:
        index: where they lie.
        images: which of the index's they are, int64.
        room: bytes up to which they are held in memory, rather than read when they are asked for.
    """

    held = True

    def __init__(self, index: Index, images: np.ndarray, room: int) -> None:
        self._places = index.places[images]
        self._shards = [[_RowFile(path) for path in paths] for paths in index.shards]
        row = sum(one.dtype.itemsize * math.prod(one.shape) for one in self._shards[0])
        fits = row * len(images) <= room
        self._tensors = self._read(self._places) if fits else None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def bytes(self) -> int:
        """That they take in memory."""
        return sum(tensor.nbytes for tensor in self._tensors or ())

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows asked for, one float array ``[rows, ...]`` for each tensor of the cut."""
        if self._tensors is not None:
            return [tensor[rows] for tensor in self._tensors]
        return self._read(self._places[rows])

    def _read(self, places: np.ndarray) -> list[np.ndarray]:
        found = [np.empty((len(places), *one.shape), one.dtype) for one in self._shards[0]]
        for first, last in stretches(places):
            shard, row = divmod(int(places[first]), _ROWS)
            for whole, file in zip(found, self._shards[shard], strict=True):
                whole[first:last] = file.read(row, last - first)
        return found


class _RowFile:
    """Rows of an ``.npy`` file by explicit reads: a memory map would count every page touched."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.shape, self.dtype = mapped.shape[1:], mapped.dtype
        self._path, self._offset, self._items = path, mapped.offset, math.prod(self.shape)

    def read(self, row: int, count: int) -> np.ndarray:
        """``count`` rows from ``row`` on."""
        items, start = count * self._items, row * self._items * self.dtype.itemsize
        found = np.fromfile(self._path, self.dtype, items, offset=self._offset + start)
        if len(found) < items:
            raise OSError(errno.EIO, "ends before its last row", str(self._path))
        return found.reshape(count, *self.shape)


@dataclasses.dataclass
class StoreCounts:
    """How a run used the store: rows found, rows computed, bytes it wrote."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0


class ActivationStore:
    """A folder of cached activations that several processes may share.

    Args:
        folder: where it lives; made when first written to.
        limit: bytes that it may take; the default is a quarter of the disk's free space (plus what
            it holds already). Least recently used keys go first, never one that a living process
            reads.
    """

    @reads_arguments
    def __init__(self, folder: str | os.PathLike[str], limit: int | None = None) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self.counts = StoreCounts()
        self._note: Callable[[str], None] = lambda text: None
        self._marked: set[Path] = set()
        self._in_use = weakref.WeakSet[Activations]()
        self._sound: dict[Path, tuple[int, ...]] = {}

    def on_note(self, note: Callable[[str], None]) -> None:
        """Sets what is called with a sentence when something worth saying happens."""
        self._note = note

    def ensure(
        self,
        keys: Sequence[ActivationKey],
        digests: Sequence[str],
        compute: Callable[[np.ndarray], Iterable[list[np.ndarray]]],
    ) -> list[Activations]:
        """Returns the activations of the images named by ``digests``, computing those missing.

        Args:
            keys: what is stored, one key for each cut; several cuts that one forward pass gives
                are computed together.
            digests: one content digest an image, in the order wanted.
            compute: given positions in ``digests``, yields batch by batch, in that order, the
                tensors of the first key's cut, then those of the second's, and so on.

        Returns:
            One :class:`Activations` a key.

        Raises:
            OSError: the disk is full, or the folder cannot be written to. What was stored before
                stays valid.
        """
        folders = {self.folder / key.digest: key for key in keys}
        with contextlib.ExitStack() as stack:
            # One order for all processes, or two could wait for each other.
            for folder in sorted(folders):
                self._open(folder, folders[folder], stack)
            known, images = _numbered(digests)
            indices = [self._index(folder, known) for folder in folders]
            lacking = np.flatnonzero(np.any([index.absent for index in indices], axis=0))
            self.counts.hits += len(digests) - len(lacking)
            self.counts.misses += len(lacking)
            if len(lacking):
                names = list(known)
                writers = [
                    _ShardWriter(self, folder, key, index, names)
                    for (folder, key), index in zip(folders.items(), indices, strict=True)
                ]
                missing = np.unique(images, return_index=True)[1][lacking]
                _extract(writers, lacking, compute(missing))
        self.prune()
        found = []
        for index in indices:
            room = MEMORY_BYTES - sum(one.bytes for one in self._in_use)
            found.append(Activations(index, images, room))
            self._in_use.add(found[-1])
        return found

    def holds(self, keys: Sequence[ActivationKey], digests: Sequence[str]) -> bool:
        """Whether nothing would have to be computed, sound shards taken for granted."""
        known, _ = _numbered(digests)
        indices = (self._index(self.folder / key.digest, known, verify=False) for key in keys)
        return not any(index.absent.any() for index in indices)

    def remember(self, question: str, answer: Callable[[], Answer]) -> Answer:
        """What was answered to a question once, for all who share the store.

        Args:
            question: everything that the answer depends on.
            answer: finds it, as plain values; called where nobody has asked before.
        """

        def sealed(answer: Any) -> list[Any]:
            return [answer, files.sha256(json.dumps([question, answer]).encode())]

        path = self.folder / _ANSWERS / f"{files.sha256(question.encode())[:32]}.json"
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            held = json.loads(path.read_text())
            if held == sealed(held[0]):
                return held[0]
        found = answer()
        with contextlib.suppress(OSError):  # then it is asked again
            files.write_json(path, sealed(found))
        return found

    def _open(self, folder: Path, key: ActivationKey, stack: contextlib.ExitStack) -> None:
        """Locks a key's folder until the stack ends, and marks it as read by this process."""
        marker = folder / "users" / f"{socket.gethostname()}-{os.getpid()}"
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        self._marked.add(marker)
        lock = filelock.FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            self._note(f"Waiting for another process that extracts the same ({folder.name[:8]}).")
            lock.acquire()
        stack.callback(lock.release)
        for path in folder.glob("*shard-*"):  # what a writer began that was killed or failed
            if not (folder / f"{path.name.split('.')[0]}.json").exists():
                path.unlink(missing_ok=True)
        if not (folder / "key.json").exists():
            files.write_json(folder / "key.json", dataclasses.asdict(key))
        os.utime(folder / "key.json")

    def _index(self, folder: Path, known: Mapping[str, int], verify: bool = True) -> Index:
        """Where the row of each image is, numbered by digest; damaged shards are removed with a
        warning.
        """
        index = Index(len(known))
        for record in sorted(folder.glob("shard-*.json")):
            try:
                entry = json.loads(record.read_text())
                paths = [folder / name for name in entry["files"]]
                pairs = zip(paths, entry["checksums"], strict=True)
                sound = not verify or all(self._is_sound(*pair) for pair in pairs)
                rows = [row for row, one in enumerate(entry["digests"]) if one in known]
                images = [known[entry["digests"][row]] for row in rows]
            except (OSError, ValueError, KeyError, TypeError):
                sound = False
            if sound:
                index.add(paths, images, rows)
            else:
                text = f"{record} is damaged; its activations are computed again."
                warnings.warn(text, stacklevel=3)
                for path in folder.glob(f"{record.stem}.*"):
                    path.unlink(missing_ok=True)
        return index

    def _is_sound(self, path: Path, checksum: int) -> bool:
        """Whether a file has its checksum; one that has not changed since is not read again."""
        status = path.stat()
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._sound.get(path) != mark:
            if zlib.crc32(path.read_bytes()) != checksum:
                return False
            self._sound[path] = mark
        return True

    def entries(self) -> list[dict[str, Any]]:
        """One row for each key, most recently used first: key, bytes, shards, used, in_use."""
        rows = []
        for record in self.folder.glob("*/key.json"):
            folder = record.parent
            # Another process may be removing it.
            with contextlib.suppress(OSError, ValueError):
                row = {
                    "folder": folder,
                    "key": json.loads(record.read_text()),
                    "bytes": sum(path.stat().st_size for path in folder.glob("shard-*")),
                    "shards": len(list(folder.glob("shard-*.json"))),
                    "used": record.stat().st_mtime,
                    "in_use": _in_use(folder),
                }
                rows.append(row)
        return sorted(rows, key=lambda row: -row["used"])

    def allowed_bytes(self) -> int:
        """What may be written: the limit, or a share of the disk's free space."""
        if self.limit is not None:
            return self.limit
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        return int(DEFAULT_SHARE * shutil.disk_usage(existing).free)

    def prune(self, limit: int | None = None, room: int = 0) -> int:
        """Removes least recently used keys until the store fits; returns the bytes freed.

        Args:
            limit: bytes to fit into; the store's own limit by default. 0 removes all not in use.
            room: bytes about to be written, which must fit too.
        """
        entries = self.entries()
        held = sum(entry["bytes"] for entry in entries)
        if limit is None:
            limit = self.allowed_bytes() + (held if self.limit is None else 0)
        if not limit:
            shutil.rmtree(self.folder / _ANSWERS, ignore_errors=True)
        freed = 0
        for entry in reversed(entries):
            if held + room - freed <= limit:
                break
            if not entry["in_use"]:
                shutil.rmtree(entry["folder"], ignore_errors=True)
                freed += entry["bytes"]
        return freed

    def release(self) -> None:
        """Says that this process reads no key any more, so that others may remove them."""
        for marker in self._marked:
            marker.unlink(missing_ok=True)
        self._marked.clear()

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def _numbered(digests: Sequence[str]) -> tuple[dict[str, int], np.ndarray]:
    """Numbers of distinct images, of which one may stand in a data set twice; and that of each."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(one, len(known)) for one in digests]
    return known, np.array(numbers, np.int64)


def _in_use(folder: Path) -> bool:
    """Whether a living process reads a key's folder; marks of dead ones are removed."""
    here, found = socket.gethostname(), False
    for marker in (folder / "users").glob("*"):
        host, _, pid = marker.name.rpartition("-")
        if host == here and not files.lives(int(pid)):
            marker.unlink(missing_ok=True)
        elif host == here or time.time() - marker.stat().st_mtime < 86400:
            # Whether a process on another machine lives cannot be asked: a day is long enough.
            found = True
    return found


class _ShardWriter:
    """Collects the rows that a key lacks and writes them shard by shard.

    Args:
        store: whose folder it is.
        folder: of the key.
        key: what is written.
        index: what is there, and receives what is written.
        digests: of the index's images.
    """

    def __init__(
        self,
        store: ActivationStore,
        folder: Path,
        key: ActivationKey,
        index: Index,
        digests: Sequence[str],
    ) -> None:
        self.tensors = len(key.cut)
        self._store, self._folder, self._dtype = store, folder, key.dtype
        self._index, self._names = index, digests
        self._parts: list[list[np.ndarray]] = []
        self._images: list[int] = []

    def add(self, images: np.ndarray, tensors: list[np.ndarray]) -> None:
        """Takes the rows of some images."""
        rows = np.flatnonzero(self._index.places[images] < 0)
        if not len(rows):
            return
        chosen = tensors if len(rows) == len(images) else [tensor[rows] for tensor in tensors]
        most = np.finfo(self._dtype).max
        # Not a number is no smaller than any.
        if not all(tensor.max() <= most and tensor.min() >= -most for tensor in chosen):
            raise FloatingPointError(
                f"Activations at {self._folder.name} are not finite in {self._dtype}."
            )
        self._parts.append([np.ascontiguousarray(_cast(one, self._dtype)) for one in chosen])
        self._images += images[rows].tolist()
        if sum(tensor.nbytes for part in self._parts for tensor in part) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what was collected as one shard, its record last."""
        if not self._parts:
            return
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        self._store.prune(room=sum(column.nbytes for column in columns))
        stem = f"shard-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        digests = [self._names[image] for image in self._images]
        record: dict[str, list[Any]] = {"files": [], "checksums": [], "digests": digests}
        for number, column in enumerate(columns):
            # NumPy's own writing to a file hides why it failed.
            content = io.BytesIO()
            np.save(content, column)
            path = self._folder / f"{stem}.{number}.npy"
            files.write_bytes(path, content.getbuffer())
            record["files"].append(path.name)
            record["checksums"].append(zlib.crc32(content.getbuffer()))
            self._store.counts.bytes += len(content.getbuffer())
        files.write_text(self._folder / f"{stem}.json", json.dumps(record))
        paths = [self._folder / name for name in record["files"]]
        self._index.add(paths, self._images, range(len(self._images)))
        self._parts.clear()
        self._images.clear()


def _cast(tensor: np.ndarray, dtype: str) -> np.ndarray:
    """The tensor in another type, by the backend: NumPy takes many times as long.

    In float16 what is below 6e-5 has fewer digits, and NumPy's own cast raises a flag for each.
    """
    if tensor.dtype == dtype:
        return tensor
    from keras import ops

    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, dtype)))


def _extract(
    writers: list[_ShardWriter], images: np.ndarray, batches: Iterable[list[np.ndarray]]
) -> None:
    def add(some: np.ndarray, outputs: list[np.ndarray]) -> None:
        tensors = iter(outputs)
        for writer in writers:
            writer.add(some, list(itertools.islice(tensors, writer.tensors)))

    done, written = 0, None
    # What a batch gave is converted and written while the engine computes the next one.
    with ThreadPoolExecutor(1) as pool:
        for outputs in batches:
            if written is not None:
                written.result()
            some = images[done : done + len(outputs[0])]
            done += len(some)
            written = pool.submit(add, some, outputs)
        if written is not None:
            written.result()
    for writer in writers:
        writer.flush()
