"""What may happen to a file, each a function from its bytes to other bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Edit = Callable[[bytes], bytes]
FOLDER = object()
"""Stands for a folder in the place of a file."""


def twin(folder: Path, target: Path) -> Path:
    """A copy of a folder in no time: its files are the same ones until :func:`change` is called."""
    shutil.copytree(folder, target, copy_function=os.link)
    return target


def change(path: Path, edit: Any) -> None:
    """Gives a file other bytes and leaves those that it shared with a twin alone."""
    held = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if edit is FOLDER:
        path.mkdir()
    else:
        path.write_bytes(edit if isinstance(edit, bytes) else edit(held))


def put(*steps: Any) -> Edit:
    """Puts the last of ``steps`` where the others lead in a JSON file."""
    *way, last, value = steps

    def edit(data: bytes) -> bytes:
        held = found = json.loads(data)
        for step in way:
            found = found[step]
        found[last] = value(found[last]) if callable(value) else value
        return json.dumps(held).encode()

    return edit


def drop(*steps: Any) -> Edit:
    """Takes away what ``steps`` lead to in a JSON file."""
    *way, last = steps

    def edit(data: bytes) -> bytes:
        held = found = json.loads(data)
        for step in way:
            found = found[step]
        del found[last]
        return json.dumps(held).encode()

    return edit


def swap(old: str, new: str) -> Edit:
    """Replaces the first occurrence of a text that must be there."""

    def edit(data: bytes) -> bytes:
        assert old.encode() in data, old
        return data.replace(old.encode(), new.encode("utf-8", "surrogateescape"), 1)

    return edit


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Edit:
    """Changes the list of a file's lines."""
    return lambda data: b"".join(change(data.splitlines(keepends=True)))


def flip(place: float) -> Edit:
    """Changes one bit, at a share of the length."""

    def edit(data: bytes) -> bytes:
        at = int(place * len(data))
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return edit


def again(data: bytes) -> bytes:
    """The first field of a JSON file a second time."""
    name = next(iter(json.loads(data)))
    return data.replace(b"{", f'{{"{name}": "another", '.encode(), 1)


def pretty(data: bytes) -> bytes:
    """The same JSON, written otherwise."""
    return json.dumps(json.loads(data), sort_keys=True).encode()


DAMAGE: dict[str, Any] = {
    "is empty": b"",
    "is cut in half": lambda data: data[: len(data) // 2],
    "lacks its last byte but one": lambda data: data.rstrip()[:-1],
    "is not UTF-8": lambda data: data.replace(b'"', b'"\xff', 1),
    "holds a NUL": lambda data: data[:40] + b"\0" + data[40:],
    "is a folder": FOLDER,
    "is nested beyond reason": b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "names a field twice": again,
    "is a list": b"[]",
    "is a number": b"7",
    "is null": b"null",
    "holds NaN": lambda data: data.replace(b"{", b'{"more": NaN, ', 1),
    "holds a number beyond all": lambda data: data.replace(b"{", b'{"more": 1e999, ', 1),
    "holds half a surrogate": lambda data: data.replace(b"{", b'{"more": "\\ud800", ', 1),
    "ends in another table": lambda data: data + b"{}",
    "begins with a mark of UTF-16": lambda data: data.decode().encode("utf-16"),
}
"""What no JSON file of ours survives."""
