"""Writing to disk so that a reader never meets half a file."""

from __future__ import annotations

import contextlib
import contextvars
import csv
import hashlib
import json
import math
import os
import shutil
import types
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import platformdirs

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
    return target.with_name(f".{target.stem[:40]}-{mark}{target.suffix}")


def _beside(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """A target, its folder made, and a hidden name beside it that nothing else has."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target, temporary(target, uuid.uuid4().hex[:12])


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
    """
    target, temporary = _beside(path)
    if target.exists() and not replace:
        raise FileExistsError(target)
    retired = temporary.with_name(temporary.name + "-old")
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rename(retired)
        temporary.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes ``text`` as UTF-8, atomically.

    What Python holds for bytes of a path that are no UTF-8 is written as ``\\udcNN``, which JSON
    reads back as it was.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_csv(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a table as UTF-8 CSV, atomically."""
    lines: list[str] = []  # with the terminator for which csv quotes "\r" too
    csv.writer(types.SimpleNamespace(write=lines.append)).writerows([header, *rows])
    write_text(path, "".join(line[:-2] + "\n" for line in lines))


def check_unpacked(path: str | os.PathLike[str], size: int) -> None:
    """Refuses, as ValueError, what unpacks to ``size`` bytes only to fill a disk or the memory."""
    most = max(256 * 2**20, 100 * os.stat(path).st_size)
    if size > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes")


def write_bytes(path: str | os.PathLike[str], *pieces: bytes | memoryview) -> None:
    """Writes ``pieces``, one after the other, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        for piece in pieces:
            stream.write(piece)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically. NaN and infinity are written as null."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def read_csv(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a table by the names in its header."""
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


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
