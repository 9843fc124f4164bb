"""Writing to disk so that no reader meets half a file, and reading what may have been edited."""

import contextlib
import contextvars
import csv
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import socket
import tomllib
import types
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import platformdirs

from keras_transfer.base.errors import DataError, KerasTransferError, UsageError

Named = str | os.PathLike[str]

# What the fields of files may be, for their schemas; rounding takes rates beyond their ends.
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\0]*$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
Rate = Annotated[float, msgspec.Meta(ge=-1e-9, le=1 + 1e-9)]
Amount = Annotated[float, msgspec.Meta(ge=-1e-9, le=1e15)]
Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]


def table(maybe: Mapping[str, Any] | None = None, **kinds: Any) -> Any:
    """A schema: the fields that a table must have, and those it may have; others are free."""
    absent = [(name, kind, None) for name, kind in (maybe or {}).items()]
    return msgspec.defstruct("Table", [*kinds.items(), *absent])


def rows(**kinds: Any) -> Any:
    """A schema: a list of tables."""
    return list.__class_getitem__(table(**kinds))


SEAL = "sha256"
"""The field in which a file holds the digest of its others, see :func:`sealed`."""

# Where process numbers are the same, and how many files this process has begun: parts of temporary
# names.
_PLACE = socket.gethostname() + os.path.realpath("/proc/self/ns/pid")
_HOST, _COUNT = f"{zlib.crc32(_PLACE.encode()) % 2**16:04x}", itertools.count()
_CHOSEN: contextvars.ContextVar[Path | None] = contextvars.ContextVar("cache", default=None)


@contextlib.contextmanager
def cache_at(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Lets :func:`cache_folder` be ``path`` within the block; None changes nothing."""
    token = _CHOSEN.set(Path(path) if path is not None else _CHOSEN.get())
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def cache_folder() -> Path:
    """Where decoded pixels, activations and converted weights are kept.

    What :func:`cache_at` says, else the environment's ``KERAS_TRANSFER_CACHE``, else the user's
    cache folder for this package.
    """
    named = _CHOSEN.get() or os.environ.get("KERAS_TRANSFER_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("keras_transfer"))


def sha256(data: bytes) -> str:
    """The SHA-256 digest of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 digest of a file's bytes in hexadecimal, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def temporary(path: str | os.PathLike[str], mark: str = "[0-9a-f]" * 12) -> Path:
    """The hidden name under which a file is written; by default a pattern of all such names."""
    target = Path(path)
    stem = target.stem if len(target.stem) <= 40 else sha256(os.fsencode(target.stem))[:40]
    return target.with_name(f".{stem}-{mark}{target.suffix}")


def lives(pid: int) -> bool:
    """Whether a process of this machine lives; where that cannot be asked, it is taken to."""
    try:
        if os.name == "posix":  # elsewhere to ask would be to end it
            os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def settle(path: Named) -> list[Path]:
    """Brings back a folder whose replacement was killed between its two renamings.

    Returns what else processes of this machine that were killed have left beside ``path``.
    """
    target = Path(path)
    name = re.escape(str(temporary(target, "\0"))).replace("\0", _HOST + "([0-9a-f]{6})..")
    scraps = []
    for found in (re.fullmatch(name + "(-old)?", str(one)) for one in target.parent.glob(".*")):
        if found is None or lives(int(found[1], 16)):
            continue
        if found[2] and not target.exists():
            Path(found[0]).rename(target)
        else:
            scraps.append(Path(found[0]))
    return scraps


def _beside(path: Named) -> tuple[Path, Path]:
    """A target, its folder made and tidied, and a hidden name beside it that nothing else has."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for one in settle(target):
        shutil.rmtree(one) if one.is_dir() else one.unlink(missing_ok=True)
    return target, temporary(target, f"{_HOST}{os.getpid():06x}{next(_COUNT) % 256:02x}")


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names a file in errors of the operating system, which names none that is open."""
    try:
        yield
    except OSError as error:
        number, why = error.errno or errno.EIO, error.strerror or str(error)
        raise error if error.filename else OSError(number, why, str(path)) from error


def alone(lock: Path, doing: str, wait: float = 0) -> Any:
    """Keeps others out within the block; the operating system frees the lock of one that dies.

    Raises:
        UsageError: another process holds it for longer than ``wait`` seconds.
    """
    import filelock

    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        return filelock.FileLock(lock).acquire(timeout=wait)
    except filelock.Timeout:
        raise UsageError(
            f"Another process is {doing}.",
            remedy="Wait until it has ended, or name another --output.",
        ) from None


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, flush: bool = True) -> Iterator[Path]:
    """Yields a temporary sibling of ``path`` that takes its place when the block ends well.

    The temporary name keeps the suffix, since several writers choose their format by it.
    Nothing is left behind, and ``path`` is untouched, when the block raises.

    Args:
        path: the file to make.
        flush: whether it must outlive a power cut; needless where checksums will be verified.
    """
    target, temporary = _beside(path)
    try:
        with naming(target):
            # Inside, since Ctrl-C is often heard where a file is made.
            temporary.touch(exist_ok=False)
            yield temporary
            if flush:
                with open(temporary, "rb") as stream:
                    os.fsync(stream.fileno())
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder that becomes ``path`` when the block ends well.

    Args:
        path: the folder to make.
        replace: whether a folder already there is replaced; it stays until the new one is whole.

    Raises:
        FileExistsError: ``path`` exists and ``replace`` is false.
        UsageError: another process is writing it.
    """
    if Path(path).exists() and not replace:
        raise FileExistsError(path)
    lock = temporary(path, "lock")
    with alone(lock, f"writing {path}"):
        target, building = _beside(path)
        retired = building.with_name(building.name + "-old")
        try:
            with naming(target):
                building.mkdir()
                yield building
                if target.exists():
                    target.rename(retired)
                building.rename(target)
        finally:
            if retired.exists() and not target.exists():
                retired.rename(target)
            for one in (retired, building):
                shutil.rmtree(one, ignore_errors=True)
                if one.exists():
                    warnings.warn(f"cannot remove {one}; nothing needs it any more.", stacklevel=2)
            with contextlib.suppress(OSError):
                lock.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes ``text`` as UTF-8, atomically.

    What Python holds for bytes of a path that are no UTF-8 is written as ``\\udcNN``, which JSON
    reads back as it was.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_csv(path: Named, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as UTF-8 CSV, atomically."""
    write_bytes(path, csv_bytes(header, rows))


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as UTF-8 CSV."""
    lines: list[str] = []  # with the terminator for which csv quotes "\r" too
    csv.writer(types.SimpleNamespace(write=lines.append)).writerows([header, *rows])
    return "".join(line[:-2] + "\n" for line in lines).encode("utf-8", "backslashreplace")


def check_unpacked(path: str | os.PathLike[str], size: int) -> None:
    """Refuses, as ValueError, what unpacks to ``size`` bytes only to fill a disk or the memory."""
    most = max(256 * 2**20, 100 * os.stat(path).st_size)
    if size > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes")


def check_room(what: str, size: int, folder: Named, remedy: str) -> None:
    """Refuses to begin what will not fit on a disk.

    Raises:
        DataError: ``folder`` has fewer bytes free than ``size`` and a twentieth.
    """
    free = shutil.disk_usage(folder).free
    if size > 0.95 * free:
        problem = f"{what} take {size:,} bytes; {folder} has {free:,} bytes free."
        raise DataError(problem, remedy=remedy)


def write_bytes(path: str | os.PathLike[str], *pieces: bytes | memoryview) -> None:
    """Writes ``pieces``, one after the other, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        for piece in pieces:
            stream.write(piece)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically. NaN and infinity are written as null."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with a digest of itself, by which :func:`read_json` knows it when it was edited."""
    held = {key: item for key, item in plain(dict(value)).items() if key != SEAL}
    return {**held, SEAL: sha256(json.dumps(held, sort_keys=True).encode())}


RESTORE = "Restore the file, or make it again."


@contextlib.contextmanager
def reading(path: Named, remedy: str = RESTORE) -> Iterator[None]:
    """Within the block, whatever cannot be read of a file is an error that names it.

    Raises:
        UsageError: anything was raised but an error of ours.
    """
    try:
        yield
    except KerasTransferError:
        raise
    except Exception as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        why = said.splitlines()[0].rstrip(".")
        raise UsageError(f"Cannot read {path}: {why}.", remedy=remedy) from error


def read_json(path: Named, schema: Any = dict[str, Any], remedy: str = RESTORE) -> Any:
    """The plain values of a JSON file, all of them.

    Args:
        path: the file.
        schema: the type that they must fit, such as a :func:`table` or a dataclass.
        remedy: what to do where they do not.

    Raises:
        UsageError: the file is missing or damaged, was edited although it is :func:`sealed`, or a
            field does not fit, which is named.
    """
    with reading(path, remedy):
        data = Path(path).read_bytes()
        msgspec.json.decode(data, type=schema)
        held = json.loads(data, object_pairs_hook=once)
        if SEAL in held and held != sealed(held):
            raise ValueError("it was changed after it had been written")
        return held


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of names that may stand there once; a ``ValueError`` names one that does not."""
    held, names = dict(pairs), [name for name, _ in pairs]
    if len(held) < len(names):
        raise ValueError(f"{max(names, key=names.count)!r} stands there twice")
    return held


def read_toml(path: Named, remedy: str = RESTORE) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        UsageError: the file is missing or damaged.
    """
    with reading(path, remedy):
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))


def read_csv(path: Named, schema: Any, remedy: str = RESTORE) -> list[dict[str, str]]:
    """The rows of a table by the names in its header.

    Args:
        path: the file.
        schema: the :func:`table` that each row must fit; its empty cells count as missing.
        remedy: what to do where one does not.

    Raises:
        UsageError: the file is missing or damaged, or a cell does not fit, which is named.
    """
    with reading(path, remedy), open(path, newline="", encoding="utf-8-sig") as stream:
        header, *cells = list(filter(None, csv.reader(stream, strict=True))) or [[]]
        if lost := sorted({*schema.__struct_fields__} - {*header}):
            raise ValueError(f"it lacks the column {lost[0]}")
        rows = [once([*zip(header, row, strict=True)]) for row in cells]
        for line, row in enumerate(rows, start=2):
            with reading(f"{path}, line {line}", remedy):
                full = {name: cell for name, cell in row.items() if cell}
                msgspec.convert(full, schema, strict=False)
        return rows


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numpy becomes Python, NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
