"""The store of cached activations: frozen work is done once and shared.

On disk, under the store's folder, one folder a key:

    <key digest>/key.json            what the activations are, in clear
    <key digest>/<shard>.json        digests of the images, checksums; written last
    <key digest>/<shard>.<t>.npy     tensor t of the cut, rows in the order of the digests
    <key digest>/users/<host>-<pid>  one empty file for each process that reads the folder

A shard exists once its ``.json`` does, so no reader meets half of one. Anything that could change
a value is in the key or, for the image itself, in the row's digest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import io
import itertools
import json
import os
import shutil
import socket
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import psutil

from keras_transfer.base import files
from keras_transfer.base.errors import DataError

# Raised whenever the code that computes or augments changes the values of a row.
CODE_VERSION = 1
SHARD_BYTES = 32 * 2**20
# Share of the free disk that the store may take unless told otherwise.
DEFAULT_SHARE = 0.25
# Activations up to this many bytes in all are held in memory; larger ones are read row by row.
MEMORY_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class ActivationKey:
    """What a row of activations depends on besides its image's bytes.

    Attributes:
        backbone: name in the registry.
        weights: digest of the weights below the cut.
        cut: names of the layers whose outputs are stored.
        preprocessing: the registry's word for it.
        image_size: height and width in pixels.
        dtype: ``float16`` or ``float32``.
        precision: in which they were computed, ``float32``, ``bfloat16`` or ``float16``. Engines
            of one precision differ by less than float16 resolves and share their rows.
        view: 0 for the clean image, else the number of the augmented view.
        view_seed: seed of the augmentation; ignored, hence 0, for view 0.
        strength: strength of the augmentation; 0 for view 0.
        flip: whether the augmentation mirrors.
        version: version of the code that computes the activations.
    """

    backbone: str
    weights: str
    cut: tuple[str, ...]
    preprocessing: str
    image_size: tuple[int, int]
    dtype: str
    precision: str = "float32"
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


class Activations:
    """Activations of a list of images at one cut, in the order of that list.

    Args:
        tensors: one array ``[images, ...]`` for each tensor of the cut, or None when rows are read
            from disk.
        locate: for rows on disk, the shard and the row in it of every image.
        shards: for rows on disk, the files of every shard, one for each tensor.
    """

    held = True

    def __init__(
        self,
        tensors: list[np.ndarray] | None,
        locate: np.ndarray | None = None,
        shards: Sequence[Sequence[Path]] = (),
    ) -> None:
        self._tensors = tensors
        self._locate = locate
        self._maps = [[_RowFile(path) for path in shard] for shard in shards]

    def __len__(self) -> int:
        if self._tensors is not None:
            return len(self._tensors[0])
        assert self._locate is not None
        return len(self._locate)

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows asked for, one float array ``[rows, ...]`` for each tensor of the cut."""
        if self._tensors is not None:
            return [tensor[rows] for tensor in self._tensors]
        assert self._locate is not None
        places = self._locate[rows]
        found = []
        for number, first in enumerate(self._maps[0]):
            found.append(np.empty((len(rows), *first.shape), first.dtype))
            for position, (shard, row) in enumerate(places):
                self._maps[shard][number].read(row, found[-1][position : position + 1])
        return found


class _RowFile:
    """Rows of an ``.npy`` file by explicit reads: a memory map would count every page touched."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.shape, self.dtype = mapped.shape[1:], mapped.dtype
        self._offset = mapped.offset
        self._bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._stream = open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as the reader

    def read(self, row: int, into: np.ndarray) -> None:
        """Fills ``into``, an array ``[rows, ...]``, from ``row`` on."""
        place, free = self._offset + int(row) * self._bytes, into.reshape(-1).view(np.uint8)
        while len(free):
            got = os.pread(self._stream.fileno(), len(free), place)
            if not got:
                raise OSError(errno.EIO, "ends before its last row", self._stream.name)
            free[: len(got)] = np.frombuffer(got, np.uint8)
            place, free = place + len(got), free[len(got) :]

    def __del__(self) -> None:
        stream = getattr(self, "_stream", None)
        if stream is not None:
            stream.close()


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

    def __init__(
        self,
        folder: str | os.PathLike[str],
        limit: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self.counts = StoreCounts()
        self._note: Callable[[str], None] = lambda text: None
        self._marked: set[Path] = set()
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
            DataError: the disk is full, or the folder cannot be written to. What was stored before
                stays valid.
        """
        folders = [self.folder / key.digest for key in keys]
        try:
            with contextlib.ExitStack() as stack:
                # One order for all processes, or two could wait for each other.
                for folder, key in sorted(
                    zip(folders, keys, strict=True), key=lambda pair: pair[0]
                ):
                    self._open_key(folder, key, stack)
                indices = [self._index(folder) for folder in folders]
                absent = [
                    i
                    for i, digest in enumerate(digests)
                    if any(digest not in index for index in indices)
                ]
                # One image may stand in a data set twice.
                once = {digests[i]: i for i in reversed(absent)}
                missing = np.array(sorted(once.values()), np.int64)
                self.counts.hits += len(digests) - len(missing)
                self.counts.misses += len(missing)
                if len(missing):
                    writers = [
                        _ShardWriter(self, folder, key, index)
                        for folder, key, index in zip(folders, keys, indices, strict=True)
                    ]
                    _extract(writers, [digests[i] for i in missing], compute(missing))
                    indices = [self._index(folder, verify=False) for folder in folders]
        except OSError as error:
            raise _disk_error(error, self.folder) from error
        self.prune()
        return [_load(index, digests) for index in indices]

    def holds(self, keys: Sequence[ActivationKey], digests: Sequence[str]) -> bool:
        """Whether nothing would have to be computed, sound shards taken for granted."""
        indices = [self._index(self.folder / key.digest, verify=False) for key in keys]
        return all(digest in index for index in indices for digest in digests)

    def _open_key(self, folder: Path, key: ActivationKey, stack: contextlib.ExitStack) -> None:
        (folder / "users").mkdir(parents=True, exist_ok=True)
        marker = folder / "users" / f"{socket.gethostname()}-{os.getpid()}"
        marker.touch()
        self._marked.add(marker)
        lock = filelock.FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            self._note(f"Waiting for another process that extracts the same ({folder.name[:8]}).")
            lock.acquire()
        stack.callback(lock.release)
        if not (folder / "key.json").exists():
            files.write_json(folder / "key.json", dataclasses.asdict(key))
        os.utime(folder / "key.json")

    def _index(self, folder: Path, verify: bool = True) -> dict[str, tuple[list[Path], int]]:
        """Where each image's row is; damaged shards are removed with a warning."""
        index: dict[str, tuple[list[Path], int]] = {}
        for record in sorted(folder.glob("shard-*.json")):
            try:
                entry = json.loads(record.read_text())
                paths = [folder / name for name in entry["files"]]
                pairs = zip(paths, entry["checksums"], strict=True)
                sound = not verify or all(self._is_sound(*pair) for pair in pairs)
            except (OSError, ValueError, KeyError):
                sound, paths = False, list(folder.glob(f"{record.stem}.*.npy"))
            if sound:
                index.update((digest, (paths, row)) for row, digest in enumerate(entry["digests"]))
                continue
            warnings.warn(f"{record} is damaged; its activations are computed again.", stacklevel=3)
            for path in [record, *paths]:
                path.unlink(missing_ok=True)
        return index

    def _is_sound(self, path: Path, checksum: int) -> bool:
        """Whether a file has its checksum; one that has not changed since is not read again."""
        status = path.stat()
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._sound.get(path) != mark:
            if _checksum(path) != checksum:
                return False
            self._sound[path] = mark
        return True

    def allowed_bytes(self) -> int:
        """What the store may take: its limit, or a share of the free disk."""
        if self.limit is not None:
            return self.limit
        existing = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        return int(DEFAULT_SHARE * shutil.disk_usage(existing).free)

    def size(self) -> int:
        """Bytes that the store takes."""
        return sum(entry["bytes"] for entry in self.entries())

    def entries(self) -> list[dict[str, Any]]:
        """One row for each key, most recently used first: key, bytes, images, used, in_use."""
        rows = []
        for record in self.folder.glob("*/key.json"):
            folder = record.parent
            try:
                sizes = [path.stat().st_size for path in folder.glob("shard-*")]
                rows.append(
                    {
                        "folder": folder,
                        "key": json.loads(record.read_text()),
                        "bytes": sum(sizes),
                        "shards": len(list(folder.glob("shard-*.json"))),
                        "used": record.stat().st_mtime,
                        "in_use": self._in_use(folder),
                    }
                )
            except (OSError, ValueError):
                continue  # another process is removing it
        return sorted(rows, key=lambda row: -row["used"])

    def prune(self, limit: int | None = None, room: int = 0) -> int:
        """Removes least recently used keys until the store fits; returns the bytes freed.

        Args:
            limit: bytes to fit into; the store's own limit by default. 0 removes all not in use.
            room: bytes about to be written, which must fit too.
        """
        if not self.folder.exists():
            return 0
        entries = self.entries()
        held = sum(entry["bytes"] for entry in entries)
        allowed = self.limit if limit is None else limit
        if allowed is None:
            allowed = held + int(DEFAULT_SHARE * shutil.disk_usage(self.folder).free)
        freed = 0
        for entry in reversed(entries):
            if held + room - freed <= allowed:
                break
            if entry["in_use"]:
                continue
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

    def _in_use(self, folder: Path) -> bool:
        here = socket.gethostname()
        for marker in (folder / "users").glob("*"):
            host, _, pid = marker.name.rpartition("-")
            if host == here and not psutil.pid_exists(int(pid)):
                marker.unlink(missing_ok=True)
            elif host == here or time.time() - marker.stat().st_mtime < 86400:
                # Whether a process on another machine lives cannot be asked: a day is long enough.
                return True
        return False


class _ShardWriter:
    """Collects the rows that a key lacks and writes them shard by shard."""

    def __init__(
        self,
        store: ActivationStore,
        folder: Path,
        key: ActivationKey,
        index: dict[str, tuple[list[Path], int]],
    ) -> None:
        self.tensors = len(key.cut)
        self._store, self._folder, self._dtype, self._index = store, folder, key.dtype, index
        self._parts: list[list[np.ndarray]] = []
        self._digests: list[str] = []

    def add(self, digests: list[str], tensors: list[np.ndarray]) -> None:
        rows = [i for i, digest in enumerate(digests) if digest not in self._index]
        if not rows:
            return
        chosen = tensors if len(rows) == len(digests) else [tensor[rows] for tensor in tensors]
        most = np.finfo(self._dtype).max
        # Not a number is no smaller than any.
        if not all(tensor.max() <= most and tensor.min() >= -most for tensor in chosen):
            raise FloatingPointError(
                f"Activations at {self._folder.name} are not finite in {self._dtype}."
            )
        self._parts.append([np.ascontiguousarray(_cast(one, self._dtype)) for one in chosen])
        self._digests += [digests[i] for i in rows]
        if sum(tensor.nbytes for part in self._parts for tensor in part) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._parts:
            return
        name = f"shard-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        self._store.prune(room=sum(tensor.nbytes for part in self._parts for tensor in part))
        written: list[Path] = []
        checksums = []
        try:
            for number, column in enumerate(zip(*self._parts, strict=True)):
                path = self._folder / f"{name}.{number}.npy"
                # Piece by piece, and not by NumPy, whose writing to a file hides why it failed.
                pieces = [_header(column), *(part.data for part in column)]
                files.write_bytes(path, *pieces)
                written.append(path)
                checksums.append(functools.reduce(lambda sum, one: zlib.crc32(one, sum), pieces, 0))
            record = {
                "files": [path.name for path in written],
                "checksums": checksums,
                "digests": self._digests,
            }
            files.write_text(self._folder / f"{name}.json", json.dumps(record))
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        self._store.counts.bytes += sum(path.stat().st_size for path in written)
        self._parts, self._digests = [], []


def _header(column: Sequence[np.ndarray]) -> bytes:
    """What stands in an ``.npy`` file before the rows of all of ``column``."""
    rows = sum(len(part) for part in column)
    form = np.lib.format.header_data_from_array_1_0(column[0])
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, form | {"shape": (rows, *column[0].shape[1:])})
    return buffer.getvalue()


def _cast(tensor: np.ndarray, dtype: str) -> np.ndarray:
    """The tensor in another type, by the backend: NumPy takes many times as long.

    In float16 what is below 6e-5 has fewer digits, and NumPy's own cast raises a flag for each.
    """
    if tensor.dtype == dtype:
        return tensor
    from keras import ops

    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, dtype)))


def _extract(
    writers: list[_ShardWriter], digests: list[str], batches: Iterable[list[np.ndarray]]
) -> None:
    def add(names: list[str], outputs: list[np.ndarray]) -> None:
        start = 0
        for writer in writers:
            writer.add(names, outputs[start : start + writer.tensors])
            start += writer.tensors

    done, written = 0, None
    # What a batch gave is converted and written while the engine computes the next one.
    with ThreadPoolExecutor(1) as pool:
        for outputs in batches:
            if written is not None:
                written.result()
            names = digests[done : done + len(outputs[0])]
            done += len(names)
            written = pool.submit(add, names, outputs)
        if written is not None:
            written.result()
    for writer in writers:
        writer.flush()


def _load(index: dict[str, tuple[list[Path], int]], digests: Sequence[str]) -> Activations:
    used: dict[tuple[Path, ...], int] = {}
    locate = np.empty((len(digests), 2), np.int64)
    for position, digest in enumerate(digests):
        paths, row = index[digest]
        locate[position] = used.setdefault(tuple(paths), len(used)), row
    shards = list(used)
    total = sum(path.stat().st_size for paths in shards for path in paths)
    if total > MEMORY_BYTES:
        return Activations(None, locate, shards)
    # Rows that lie one after the other in a shard are read at once.
    steps = np.flatnonzero((np.diff(locate, axis=0) != (0, 1)).any(axis=1)) + 1
    runs = np.concatenate([[0], steps, [len(digests)]])
    tensors = []
    for number in range(len(shards[0])):
        held = [_RowFile(paths[number]) for paths in shards]
        whole = np.empty((len(digests), *held[0].shape), held[0].dtype)
        for first, last in itertools.pairwise(runs):
            shard, row = locate[first]
            held[shard].read(row, whole[first:last])
        tensors.append(whole)
    return Activations(tensors)


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            value = zlib.crc32(block, value)
    return value


def _disk_error(error: OSError, folder: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"The disk that holds the activation store is full: {folder}.",
            remedy="Free some space, name another place with --cache DIR, or use --cache off.",
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return DataError(
            f"The activation store cannot be written: {error}.",
            remedy="Name a folder that you may write with --cache DIR, or use --cache off.",
        )
    return error


def iterate(values: Sequence[int] | np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cuts positions into consecutive batches of at most ``size``."""
    array = np.asarray(values)
    for start in range(0, len(array), size):
        yield array[start : start + size]
