"""A disk that fails: the nth operation on files under given folders goes wrong, or kills.

Python's own operations are seen: every opening, making, renaming and removing (by an audit hook),
each write that leaves a file object's buffer, and ``os.fsync``. What native code writes after it
has a file open is not: NumPy's rows of ``np.save`` into a plain file, a SavedModel by TensorFlow,
``os.sendfile`` in ``shutil.copyfile``. Of these the opening, the flush and the renaming are tried.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

READ, CREATE, WRITE, FSYNC, RENAME, REMOVE = "read", "create", "write", "fsync", "rename", "remove"
KILL = "kill"
FAULTS = {
    "ENOSPC": (CREATE, WRITE, FSYNC, RENAME),
    "EIO": (READ, WRITE, FSYNC, RENAME),
    "EACCES": (READ, CREATE, RENAME, REMOVE),
    KILL: (CREATE, WRITE, FSYNC, RENAME, REMOVE),
}
"""What may happen, and to which operations. To be killed at a reading is to be killed before it."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Point(NamedTuple):
    """An operation on a file."""

    kind: str
    path: str


class Shim:
    """Counts operations under some folders, and fails one of them.

    Args:
        folders: what counts; all else is left alone.
        fault: a key of ``FAULTS``.
        at: which of the operations that the fault concerns, from 1; 0 lets all pass.
        kinds: of operations, instead of those that the fault concerns.
        lasts: whether all of them fail from there on, as on a full disk.

    Attributes:
        points: the operations that the fault concerns, in their order.
    """

    def __init__(
        self,
        folders: Iterable[Any],
        fault: str,
        at: int = 0,
        *,
        kinds: Iterable[str] = (),
        lasts: bool = False,
    ) -> None:
        self._folders = tuple(os.path.join(os.path.realpath(one), "") for one in folders)
        self._fault, self._at, self._lasts = fault, at, lasts
        self._kinds = tuple(kinds) or FAULTS[fault]
        self._lock = threading.Lock()
        self.points: list[Point] = []

    def due(self, kind: str, path: str) -> bool:
        """Counts an operation; whether it is the one to fail."""
        if kind not in self._kinds or not path.startswith(self._folders):
            return False
        with self._lock:
            self.points.append(Point(kind, path))
            count = len(self.points)
        return bool(self._at) and (count == self._at or (self._lasts and count > self._at))

    def fail(self, path: str | None = None) -> None:
        """Fails in the way of the operating system, which names no file for what is open."""
        if self._fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self._fault)
        raise OSError(number, os.strerror(number), *([] if path is None else [path]))


_active: list[Shim] = []
_open, _fsync = io.open, os.fsync


@contextlib.contextmanager
def failing(shim: Shim) -> Iterator[Shim]:
    """Lets a shim see what happens within the block, in all threads."""
    if not _hooked:
        _hooked.append(sys.addaudithook(_heard))
    _active.append(shim)
    builtins.open = io.open = _opened  # type: ignore[assignment]
    os.fsync = _synced
    try:
        yield shim
    finally:
        builtins.open = io.open = _open
        os.fsync = _fsync
        _active.remove(shim)


_hooked: list[Any] = []


def _full(path: Any, folder: int | None = -1) -> str:
    """The path of an operation, also where it is given from an open folder on."""
    named = os.fsdecode(path)
    within = f"/proc/self/fd/{folder}" if folder is not None and folder >= 0 else "."
    real = os.path.realpath(os.path.join(os.path.realpath(within), os.path.dirname(named)))
    return os.path.join(real, os.path.basename(named))


def _heard(event: str, words: tuple[Any, ...]) -> None:
    if not _active or event not in _EVENTS:
        return
    shim = _active[-1]
    if event == "open":
        path, _, flags = words
        if isinstance(path, int):
            return
        kind, place = CREATE if flags & _WRITES else READ, _full(path)
    elif event == "os.rename":
        path, kind, place = words[0], RENAME, _full(words[1], words[3])
    else:
        path, kind = words[0], CREATE if event == "os.mkdir" else REMOVE
        place = _full(path, words[-1])
    if _happens(kind, event, place) and shim.due(kind, place):
        shim.fail(os.fsdecode(path))


def _happens(kind: str, event: str, place: str) -> bool:
    """Whether it would do anything: to read or remove what is not there fails by itself."""
    if kind == READ:
        return os.path.exists(place)
    if event == "os.mkdir":
        return not os.path.lexists(place) and os.path.isdir(os.path.dirname(place))
    if event == "os.remove":
        return os.path.lexists(place)
    return event != "os.rmdir" or (os.path.isdir(place) and not os.listdir(place))


_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}


class _Raw(io.FileIO):
    """A file whose writes are counted; the one that fails is done by half."""

    def write(self, data: Any) -> int:
        place = "" if isinstance(self.name, int) else _full(self.name)
        if _active and place and _active[-1].due(WRITE, place):
            super().write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
            _active[-1].fail()
        return super().write(data)


def _opened(file: Any, mode: str = "r", buffering: int = -1, *words: Any, **named: Any) -> Any:
    named |= zip(("encoding", "errors", "newline"), words[:3], strict=False)
    more = named.keys() - {"encoding", "errors", "newline"} or words[3:]
    if more or buffering == 0 or isinstance(file, int) or not set(mode) & set("wax+"):
        return _open(file, mode, buffering, *words[3:], **named)
    raw = _Raw(file, mode.replace("b", "").replace("t", ""))
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, **named)


def _synced(handle: Any) -> None:
    number = handle if isinstance(handle, int) else handle.fileno()
    if _active and _active[-1].due(FSYNC, os.path.realpath(f"/proc/self/fd/{number}")):
        _active[-1].fail()
    _fsync(handle)
