"""Class folders inside a zip or tar file, read in place: nothing is unpacked onto the disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from keras_transfer.base.errors import DataError, ExampleError
from keras_transfer.base.types import Finding
from keras_transfer.datasets.sources import LEFT_OUT, Source, Stretches, check_size, label_by_folder

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
"""What unpacks a tar, by its first two bytes."""

MAX_TAR_BYTES = 64 * 2**30
"""A compressed tar that unpacks to more than this is refused."""

Members = tuple[set[str], set[str], Callable[[str], bytes]]  # files, links, how to read a file


def archive_source(path: Path, name: str) -> Source:
    """The items of an archive, labelled by folder as on disk.

    Links, and names that are absolute or climb out with ``..``, are left out with a finding. A
    single folder that wraps everything is ignored.

    Raises:
        DataError: the archive is damaged, or too large.
    """
    try:
        members, links, read = (_open_zip if zipfile.is_zipfile(path) else _open_tar)(path)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, lzma.LZMAError) as error:
        raise DataError(
            f"{path} is no archive that can be read: {error}", remedy="Make or copy it again."
        ) from None
    unsafe = {
        member
        for member in members
        if member.startswith("/") or ".." in PurePosixPath(member).parts or ":" in member[:2]
    }
    members -= unsafe
    findings = [Finding(one, "link", "no regular file", LEFT_OUT) for one in sorted(links)]
    findings += [Finding(one, "unsafe_name", "leads outside", LEFT_OUT) for one in sorted(unsafe)]
    prefix = _wrapper(members)
    inside = [member.removeprefix(prefix) for member in members]
    items, modality = label_by_folder(inside, findings)
    return Source(
        name=name,
        items=items,
        read=lambda file: read(prefix + file),
        identity=str(path.resolve()),
        findings=findings,
        modality=modality,
    )


def _wrapper(members: set[str]) -> str:
    """``folder/`` when everything lies in one folder, and in folders within that."""
    visible = [member.split("/") for member in members if not member.startswith(("__MACOSX", "."))]
    tops = {parts[0] for parts in visible}
    deep = [len(parts) > 2 for parts in visible]
    return f"{tops.pop()}/" if len(tops) == 1 and any(deep) else ""


def _open_zip(path: Path) -> Members:
    archive = zipfile.ZipFile(path)
    files = [info for info in archive.infolist() if not info.is_dir()]
    links = {info.filename for info in files if info.external_attr >> 28 == 0o12}

    def read(member: str) -> bytes:
        check_size(archive.getinfo(member).file_size)  # no more than that is unpacked
        try:
            return archive.read(member)
        except Exception as error:  # zlib and lzma have exceptions of their own
            raise ExampleError(f"cannot be unpacked: {error}") from None

    return {info.filename for info in files} - links, links, read


def _open_tar(path: Path) -> Members:
    stream = _uncompressed(path)
    stretches, links = Stretches(stream), set()
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            if info.isreg():
                stretches.places[info.name.removeprefix("./")] = (info.offset_data, info.size)
            elif not info.isdir():
                links.add(info.name)
    return set(stretches.places), links, stretches.read


def _uncompressed(path: Path) -> IO[bytes]:
    """A seekable file: a compressed tar is unpacked into a nameless temporary file."""
    stream: IO[bytes] = open(path, "rb")  # noqa: SIM115 - read for as long as the source lives
    opener = OPENERS.get(stream.read(2))
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
