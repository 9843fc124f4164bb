"""Class folders inside a zip or tar file, read in place: nothing is unpacked onto the disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from keras_transfer.base.errors import DataError, ImageError
from keras_transfer.base.types import Finding
from keras_transfer.datasets.sources import MAX_FILE_BYTES, Listing, label_by_folder

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_TAR_BYTES = 64 * 2**30
"""A compressed tar that unpacks to more than this is refused."""


def archive_source(path: Path, name: str) -> Listing:
    """The images of an archive, labelled by folder as on disk.

    Links, and names that are absolute or climb out with ``..``, are left out with a finding. A
    single folder that wraps everything is ignored.

    Raises:
        DataError: the archive is damaged, too large, or holds no images in class folders.
    """
    findings: list[Finding] = []
    try:
        is_zip = zipfile.is_zipfile(path)
        members, read = _open_zip(path, findings) if is_zip else _open_tar(path, findings)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, lzma.LZMAError) as error:
        raise DataError(
            f"{path} is no archive that can be read: {error}", remedy="Make or copy it again."
        ) from None
    for member in sorted(members):
        if member.startswith("/") or ".." in PurePosixPath(member).parts or ":" in member[:2]:
            findings.append(Finding(member, "unsafe_name", "leads outside", "left out"))
            members.remove(member)
    prefix = _wrapper(members)
    items = label_by_folder([member.removeprefix(prefix) for member in members], findings)
    if not items:
        raise DataError(
            f"{path} has no images in class folders.",
            remedy="Pack one folder for each class: CLASS/image.jpg.",
        )
    return Listing(name, str(path.resolve()), items, lambda file: read(prefix + file), findings)


def _wrapper(members: set[str]) -> str:
    """``folder/`` when everything lies in one folder, and in folders within that."""
    visible = [member.split("/") for member in members if not member.startswith(("__MACOSX", "."))]
    tops = {parts[0] for parts in visible}
    deep = [len(parts) > 2 for parts in visible]
    return f"{tops.pop()}/" if len(tops) == 1 and any(deep) else ""


def _open_zip(path: Path, findings: list[Finding]) -> tuple[set[str], Callable[[str], bytes]]:
    archive = zipfile.ZipFile(path)
    members = set()
    for info in archive.infolist():
        if info.is_dir():
            continue
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            findings.append(Finding(info.filename, "link", "a link", "left out"))
        else:
            members.add(info.filename)

    def read(member: str) -> bytes:
        try:
            with archive.open(member) as stream:
                return _bounded(stream)
        except (OSError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile) as error:
            raise ImageError(str(error) or "damaged member") from None
        except Exception as error:  # zlib and lzma have exceptions of their own
            raise ImageError(f"damaged member: {error}") from None

    return members, read


def _open_tar(path: Path, findings: list[Finding]) -> tuple[set[str], Callable[[str], bytes]]:
    stream, lock = _uncompressed(path), threading.Lock()
    places: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            if info.isreg():
                places[info.name.removeprefix("./")] = (info.offset_data, info.size)
            elif not info.isdir():
                findings.append(Finding(info.name, "link", "no regular file", "left out"))

    def read(member: str) -> bytes:
        offset, size = places[member]
        if size > MAX_FILE_BYTES:
            raise ImageError(f"{size} bytes are too many", kind="bomb")
        with lock:
            stream.seek(offset)
            return stream.read(size)

    return set(places), read


def _bounded(stream: IO[bytes]) -> bytes:
    data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"over {MAX_FILE_BYTES} bytes are too many", kind="bomb")
    return data


def _uncompressed(path: Path) -> IO[bytes]:
    """A seekable file: a compressed tar is unpacked into a nameless temporary file."""
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    stream: IO[bytes] = open(path, "rb")  # noqa: SIM115 - read for as long as the source lives
    opener = openers.get(stream.read(2))
    stream.seek(0)
    if opener is None:
        return stream
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - as above
    bound = min(MAX_TAR_BYTES, int(0.9 * shutil.disk_usage(tempfile.gettempdir()).free))
    with stream, opener(stream, "rb") as source:
        while block := source.read(2**20):
            if unpacked.tell() + len(block) > bound:
                raise DataError(
                    f"{path} unpacks to more than {bound} bytes.", remedy="Unpack it into a folder."
                )
            unpacked.write(block)
    unpacked.seek(0)
    return unpacked
