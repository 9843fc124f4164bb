"""Class folders inside a zip or tar file, read in place: nothing is unpacked onto the disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from keras_transfer.base import files
from keras_transfer.base.errors import DataError, ExampleError
from keras_transfer.base.types import Finding
from keras_transfer.datasets import sources
from keras_transfer.datasets.sources import LEFT_OUT, Source

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# What unpacks a tar, by its first two bytes.
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}

# Names, whether each is a regular file, and how to read one; of two of a name, the last.
Members = tuple[list[tuple[str, bool]], Callable[[str], bytes]]


def archive_source(path: Path, name: str) -> Source:
    """The items of an archive, labelled by folder as on disk.

    Links, and names that are absolute or climb out with ``..``, are left out with a finding; of
    members of one name the last is read, as unpacking would leave it. A single folder that wraps
    everything is ignored.

    Raises:
        DataError: the archive is damaged, or too large.
    """
    try:
        with open(path, "rb") as stream:
            is_zip = stream.read(4) in (b"PK\3\4", b"PK\5\6")
        listed, read = (_open_zip if is_zip else _open_tar)(path)
    except Exception as error:  # a damaged archive may raise nearly anything
        problem = f"{path} is no archive that can be read: {error}."
        raise DataError(problem, remedy="Make it again, or unpack it into a folder.") from None
    findings: list[Finding] = []
    members: Counter[str] = Counter()
    for member, regular in listed:
        if not regular:
            findings.append(Finding(member, "link", "no regular file", LEFT_OUT))
        elif member[:1] == "/" or ".." in PurePosixPath(member).parts or ":" in member[:2]:
            findings.append(Finding(member, "unsafe_name", "leads outside", LEFT_OUT))
        else:
            members[member] += 1
    for member in (member for member, count in members.items() if count > 1):
        findings.append(Finding(member, "file_names", "comes again", "the last one is read"))
    prefix = _wrapper(members)
    inside = [member.removeprefix(prefix) for member in members]
    items, modality = sources.label_by_folder(inside, findings)
    return Source(
        name=name,
        items=items,
        read=lambda file: read(prefix + file),
        identity=str(path.resolve()),
        findings=findings,
        modality=modality,
    )


def _wrapper(members: Iterable[str]) -> str:
    """``folder/`` when everything lies in one folder, and in folders within that."""
    visible = [member.split("/") for member in members if not member.startswith(("__MACOSX", "."))]
    tops = {parts[0] for parts in visible}
    deep = [len(parts) > 2 for parts in visible]
    return f"{tops.pop()}/" if len(tops) == 1 and any(deep) else ""


def _open_zip(path: Path) -> Members:
    try:  # what does not say that it is UTF-8 often is; else it is what DOS had
        archive = zipfile.ZipFile(path, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        archive = zipfile.ZipFile(path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    files.check_unpacked(path, sum(info.file_size for info in infos))

    def read(member: str) -> bytes:
        sources.check_size(archive.getinfo(member).file_size)  # no more than that is unpacked
        try:
            return archive.read(member)
        except Exception as error:  # zlib and lzma have exceptions of their own
            raise ExampleError(f"cannot be unpacked: {error}") from None

    return [(info.filename, info.external_attr >> 28 != 0o12) for info in infos], read


def _open_tar(path: Path) -> Members:
    stream = _uncompressed(path)
    stretches, listed = sources.Stretches(stream), []
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            if info.size < 0:  # tarfile would read the same header for ever
                raise tarfile.ReadError(f"{info.name!r} has a negative size")
            if not info.isdir():
                name = sources.readable(info.name).removeprefix("./")
                stretches.places[name] = (info.offset_data, info.size)
                listed.append((name, info.isreg() and not info.issparse()))
    return listed, stretches.read


def _uncompressed(path: Path) -> IO[bytes]:
    """A seekable file: a compressed tar is unpacked into a nameless temporary file."""
    stream: IO[bytes] = open(path, "rb")  # noqa: SIM115 - read for as long as the source lives
    opener = OPENERS.get(stream.read(2))
    stream.seek(0)
    if opener is None:
        return stream
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - as above
    with stream, opener(stream, "rb") as source:
        while block := source.read(2**20):
            files.check_unpacked(path, unpacked.tell() + len(block))
            unpacked.write(block)
    unpacked.seek(0)
    return unpacked
