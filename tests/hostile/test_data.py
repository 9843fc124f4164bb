"""What is given as data, hostile or merely odd: read rightly, said to be left out, or refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import os
import re
import socket
import struct
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import zoo

from hostile.table import assert_refused, say
from keras_transfer import backbones, datasets
from keras_transfer.base.errors import DataError, WeightsError

CLASSES = ("china", "flower")
OTHER = ("\udcff", "\udcfe\udcfd")  # bytes that are no UTF-8, as Python holds them in a name


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """Twelve pictures of each of two classes, by their paths."""
    return {
        f"{label}/{i:02d}.jpg": zoo.encode(zoo.photo(f"{label}.jpg", side=32, seed=i), "JPEG")
        for label in CLASSES
        for i in range(12)
    }


@pytest.fixture(scope="module")
def spare() -> list[bytes]:
    """More pictures, none of which is like another."""
    return [zoo.encode(zoo.photo(CLASSES[i % 2] + ".jpg", side=32, seed=40 + i), "JPEG")
            for i in range(8)]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Relative paths, runs/ among them, are in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_TRANSFER_CACHE", str(tmp_path.parent / "cache-of-data"))


def lay(folder: Path, content: dict[str, bytes]) -> Path:
    """Writes files below a folder."""
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def held(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, to see whether it stays as it is."""
    found = {}
    for where, folders, files in os.walk(folder):  # which passes over what it cannot open
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(where, name))
                found[os.path.join(where, name)] = (status.st_mtime_ns, status.st_size)
    return found


def inspected(data) -> dict:
    """What ``inspect --json`` says of data that can be trained on."""
    said = say("inspect", data, "--json")
    assert (said.code, said.err) == (0, ""), said
    return json.loads(said.out)


def kinds(found: dict) -> dict[str, int]:
    """How many findings there are of each kind."""
    return dict(found["finding_counts"])


# DATA that is nothing --------------------------------------------------------------------------


def loop(folder):
    (folder / "loop").symlink_to("loop")


def pipe(name):
    return lambda folder: os.mkfifo(folder / name)


def bound_socket(folder):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("data.tar")


def made(name, content: bytes = b"x"):
    return lambda folder: (folder / name).write_bytes(content)


def folder_called(name):
    return lambda folder: (folder / name).mkdir()


NO_DATA = {
    "an empty word": ("", None, "must be a name or a path"),
    "a name with NUL": ("a\0b", None, "must be a name or a path"),
    "a folder's name with NUL": ("a\0b/c", None, "must be a name or a path"),
    "a name of 300 letters": ("n" * 300, None, "name too long"),
    "a path of 5,000 letters": ("n/" * 2500, None, "name too long"),
    "the home of nobody": ("~nobody-of-this-name/x", None, "no such file or folder"),
    "an absent name in rich's markup": ("set[/b]", None, "set[/b]: no such"),
    "an absent name that is no UTF-8": ("set" + OTHER[0], None, "set\\udcff: no such"),
    "an absent name with a line break": ("a\nb", None, "no such file or folder"),
    "a link to itself": ("loop", loop, "too many levels of symbolic links"),
    "a link to nothing": ("gone", lambda d: (d / "gone").symlink_to("away"), "no such file"),
    "a path through a file": ("file.csv/x", made("file.csv"), "not a folder"),
    "a pipe called .csv": ("data.csv", pipe("data.csv"), "'data.csv' is neither a folder"),
    "a pipe called .zip": ("data.zip", pipe("data.zip"), "'data.zip' is neither a folder"),
    "a pipe without suffix": ("data", pipe("data"), "'data' is neither a folder"),
    "a socket called .tar": ("data.tar", bound_socket, "'data.tar' is neither a folder"),
    "a device": ("/dev/null", None, "'/dev/null' is neither a folder"),
    "an endless device": ("/dev/zero", None, "'/dev/zero' is neither a folder"),
    "a file of another kind": ("data.rar", made("data.rar"), "'data.rar' is neither a folder"),
    "an empty folder": ("void", folder_called("void"), "void has no labelled images"),
    "an empty folder called .csv": ("l.csv", folder_called("l.csv"), "no labelled images"),
    "a folder of one picture, not in a class": (
        "flat",
        lambda d: lay(d, {"flat/a.jpg": b"x"}),
        "no labelled images",
    ),
    "a builtin that is none": ("builtin:letters", None, "builtin:letters: no such file"),
}


@pytest.mark.parametrize("command", ["inspect", "train"])
@pytest.mark.parametrize("case", NO_DATA)
def test_data_that_is_nothing_is_named(case, command, tmp_path):
    data, make, needle = NO_DATA[case]
    if make:
        make(tmp_path)
    before = held(tmp_path)
    said = say(command, data, *(["--output", "run"] if command == "train" else []))
    assert_refused(said, needle)
    assert held(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["set", "list.csv", "set.zip"])
def test_data_that_may_not_be_read_is_named(name, tmp_path, pictures):
    lay(tmp_path, {"list.csv": b"path,label", "set.zip": b"PK\3\4"})
    lay(tmp_path / "set", pictures)
    (tmp_path / name).chmod(0)
    assert_refused(say("inspect", name), name, "ermission denied")


# Manifests -------------------------------------------------------------------------------------

HEAD = b"path,label\n"
ROWS = b"".join(f"{c}/{i:02d}.jpg,{c}\n".encode() for c in CLASSES for i in range(12))

REFUSED_MANIFESTS = {
    "nothing": (b"", "no column 'path'"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "no column 'path'"),
    "blank lines alone": (b"\n\n\r\n", "no column 'path'"),
    "no header": (ROWS, "no column 'path'"),
    "no label column": (b"path,weight\na,b\n", "no column 'label'"),
    "a header alone": (HEAD, "no labelled images"),
    "rows of blanks": (HEAD + b" , \n,\n", "no labelled images"),
    "an unknown split": (b"path,label,split\na,b,holdout\n", "row 2: the split is 'holdout'"),
    "Latin-1": (HEAD + "caf\xe9.jpg,x\n".encode("latin-1"), "not UTF-8 at byte 14"),
    "UTF-16 that is cut": ((HEAD + ROWS).decode().encode("utf-16")[:-1], "not UTF-8 at byte"),
    "a picture": (None, "not UTF-8 at byte 0"),
    "a quote that never ends": (b'path,label,note\na.jpg,x,"oops\n' + ROWS, "unexpected end"),
    "a label's quote that never ends": (HEAD + b'a.jpg,"x\n' + ROWS, "unexpected end of data"),
    "text behind a quote": (HEAD + b'"a"b.jpg,x\n', "expected after '\"'"),
    "a cell of 10 MB": (HEAD + b'"' + b"x" * 10**7 + b'",y\n', "a cell has over 131,072 letters"),
    "a header of 1 MB": (b"a,b," * 250_000, "no column 'path'"),
    "a line break in a label": (HEAD + b'a.jpg,"x\ny"\n', "'x\\ny'"),
    "NUL in a label": (HEAD + b"a.jpg,x\0y\n", "'x\\x00y'"),
    "a line separator in a label": (HEAD + "a.jpg,x\u2028y\n".encode(), "no file of labels"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_MANIFESTS)
def test_manifests_that_cannot_be_used_are_refused(case, tmp_path, pictures):
    content, needle = REFUSED_MANIFESTS[case]
    lay(
        tmp_path, {**pictures, "list.csv": pictures["china/00.jpg"] if content is None else content}
    )
    said = say("inspect", "list.csv")
    assert_refused(said, "list.csv", needle)
    assert len(said.err) < 2_000


def odd(row: bytes) -> bytes:
    """A manifest with one odd row, at its end."""
    return HEAD + ROWS + row


READ_MANIFESTS = {
    "NUL in a path": (odd(b"x\0y.jpg,china\n"), 24, {"unreadable": 1}),
    "a path of 5,000 letters": (odd(b"n" * 5000 + b",china\n"), 24, {"unreadable": 1}),
    "an absent file": (odd(b"ghost.jpg,china\n"), 24, {"unreadable": 1}),
    "an absent file in rich's markup": (odd(b"[/b].jpg,china\n"), 24, {"unreadable": 1}),
    "a folder for a file": (odd(b"china,china\n"), 24, {"unreadable": 1}),
    "a pipe for a file": (odd(b"pipe.jpg,china\n"), 24, {"not_a_file": 1}),
    "a device for a file": (odd(b"/dev/zero,china\n"), 24, {"not_a_file": 1}),
    "the manifest itself": (odd(b"list.csv,china\n"), 24, {"not_an_image": 1}),
    "an address for a file": (odd(b"http://host/a.jpg,china\n"), 24, {"unreadable": 1}),
    "no label": (odd(b"china/00.jpg\n"), 24, {"unlabelled": 1}),
    "no path": (odd(b",china\n"), 24, {"unlabelled": 1}),
    "more cells than the header": (odd(b"a.jpg,big, cat\n"), 24, {"unlabelled": 1}),
    "empty cells beyond the header": (HEAD + ROWS.replace(b"\n", b",,,\n"), 24, {}),
    "a row twice": (odd(b"china/00.jpg,china\n"), 24, {"repeated_row": 1}),
    "a row twice, with two labels": (odd(b"china/00.jpg,flower\n"), 23, {"conflicting_labels": 1}),
    "blank rows between": (HEAD + b"\n,\n" + ROWS.replace(b"\n", b"\n\n"), 24, {}),
    "the separators of Windows": (HEAD + ROWS.replace(b"/", b"\\"), 24, {}),
    "line ends of Windows": (odd(b"").replace(b"\n", b"\r\n"), 24, {}),
    "line ends of old Macs": (odd(b"").replace(b"\n", b"\r"), 24, {}),
    "UTF-16": (odd(b"").decode().encode("utf-16"), 24, {}),
    "semicolons": (odd(b"").replace(b",", b";"), 24, {}),
    "tabs": (odd(b"").replace(b",", b"\t"), 24, {}),
    "quoted cells": (b'"path","label"\n' + ROWS.replace(b",", b'","').replace(b"\n", b'"\n')
                     .replace(b"china/", b'"china/').replace(b"flower/", b'"flower/'), 24, {}),
    "paths through the folder above": (HEAD + ROWS.replace(b"/", b"/../", 1)
                                       .replace(b"china/../", b"china/../china/"), 24, {}),
    "a label in rich's markup": (odd(b"").replace(b",china", b",[/red]"), 24, {}),
    "a row twice, its label in rich's markup": (
        HEAD + (ROWS + b"china/00.jpg,china\n").replace(b",china", b",[/red]"), 24,
        {"repeated_row": 1}),
    "a label that a terminal obeys": (odd(b"").replace(b",china", b",\x1b[2J"), 24, {}),
    "a label of emoji": (odd(b"").replace(b",china", ",\U0001f60e".encode()), 24, {}),
    "labels that differ by case": (HEAD + ROWS.replace(b",flower", b",China"), 24,
                                   {"class_names": 1}),
    "labels in two Unicode forms": (HEAD + ROWS.replace(b",flower", ",caf\u00e9".encode())
                                    .replace(b",china", ",cafe\u0301".encode()), 24,
                                    {"class_names": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", READ_MANIFESTS)
def test_manifests_are_read_rightly_or_their_odd_row_is_said(case, tmp_path, pictures):
    content, images, findings = READ_MANIFESTS[case]
    lay(tmp_path, {**pictures, "list.csv": content})
    os.mkfifo("pipe.jpg")
    found = inspected("list.csv")
    assert (found["images"], kinds(found)) == (images, findings)
    assert len(found["classes"]) == 2
    said = say("inspect", "list.csv", "--quiet")  # and as people read it
    assert (said.code, said.err) == (0, "")
    assert "\x1b[2J" not in said.out


# Archives --------------------------------------------------------------------------------------


def zipped(content: dict[str, bytes], change=None) -> bytes:
    """A zip file, whose bytes ``change`` may spoil."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    data = bytearray(stream.getvalue())
    if change:
        change(data)
    return bytes(data)


def each(data: bytearray, mark: bytes):
    """Where records of a zip file begin."""
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


LISTED, LOCAL = b"PK\1\2", b"PK\3\4"


def in_records(listed: int, local: int, value: int):
    """Sets a byte of each record, at its place in the directory and before the member."""

    def change(data: bytearray) -> None:
        for mark, offset in ((LISTED, listed), (LOCAL, local)):
            for at in each(data, mark):
                data[at + offset] = value

    return change


def in_first(offset: int, value: bytes):
    """Sets bytes of the directory's first record."""

    def change(data: bytearray) -> None:
        at = data.index(LISTED) + offset
        data[at : at + len(value)] = value

    return change


def declared(size: int):
    """Every member is said to unpack to so many bytes."""

    def change(data: bytearray) -> None:
        for at in each(data, LISTED):
            data[at + 24 : at + 28] = struct.pack("<I", size)

    return change


def tarred(content: dict[str, bytes], *more: tuple[tarfile.TarInfo, bytes], packing="") -> bytes:
    """A tar file; ``more`` are its last members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{packing}", errors="surrogateescape") as archive:
        for path, data in content.items():
            archive.addfile(*member(path, data))
        for info, data in more:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def member(path: str, data: bytes = b"", **about) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(path)
    info.size = len(data)
    for name, value in about.items():
        setattr(info, name, value)
    return info, io.BytesIO(data)


def header(path: str, **changed: tuple[int, bytes]) -> bytes:
    """One header of a tar file, some bytes of it changed, its sum right."""
    block = bytearray(tarfile.TarInfo(path).tobuf(tarfile.GNU_FORMAT))
    for offset, value in changed.values():
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**headers: str):
    """A member with a header of its own in PAX's words."""
    return (member("china/p.jpg", pax_headers=headers)[0], b"")


SPARSE = {"kind": (156, b"S"), "map": (386, b"nonsense!!!\0")}
NEGATIVE = {"size": (124, b"\xff" * 10 + b"\xfc\0")}  # -1,024: back to this very header
HUGE = {"size": (124, b"\x80" + b"\0" * 3 + b"\x40" + b"\0" * 7)}
LONG_NAMES = b"".join(
    header("././@LongLink", kind=(156, b"L"), size=(124, b"00000000001\0")) + b"a".ljust(512, b"\0")
    for _ in range(3000)
)

REFUSED_ARCHIVES = {
    "a zip of an unknown version.zip": (lambda p: zipped(p, in_first(6, b"\x63")), "version 9.9"),
    "a zip with names that are not the UTF-8 they say.zip": (
        lambda p: zipped(p, lambda d: (in_first(9, b"\x08")(d), in_first(46, b"\xff")(d))),
        "codec can't decode",
    ),
    "a zip without its directory.zip": (lambda p: zipped(p)[:-400], "not a zip file"),
    "a zip whose directory lies elsewhere.zip": (
        lambda p: zipped(p, lambda d: d.__setitem__(slice(-6, -2), b"\xff\xff\xff\x7f")),
        "left out: 24",
    ),
    "an empty zip.zip": (lambda p: zipped({}), "no labelled images"),
    "a zip that is encrypted.zip": (lambda p: zipped(p, in_records(8, 6, 1)), "left out: 24"),
    "a zip of an unknown method.zip": (lambda p: zipped(p, in_records(10, 8, 77)), "left out: 24"),
    "a zip whose members are other ones.zip": (
        lambda p: zipped(p, in_records(41, 34, ord("~"))),
        "left out: 24",
    ),
    "a zip of 24 members of 250 MB.zip": (
        lambda p: zipped(p, declared(250 * 10**6)),
        "unpacks to more than 268,435,456 bytes",
    ),
    "text called zip.zip": (lambda p: b"PK\3\4 and then words", "not a zip file"),
    "nothing.tar": (lambda p: b"", "archive that can be read"),
    "zeros.tar": (lambda p: bytes(10240), "no labelled images"),
    "a folder's listing.tar": (lambda p: b"china/00.jpg\n" * 500, "archive that can be read"),
    "a gzip that is cut.tar.gz": (lambda p: tarred(p, packing="gz")[:-3000], "ended before"),
    "a gzip that is damaged.tar.gz": (
        lambda p: tarred(p, packing="gz")[:400] + b"\xff" * 400 + tarred(p, packing="gz")[800:],
        "archive that can be read",
    ),
    "a gzip that is no deflate.tar.gz": (
        lambda p: gzip.compress(b"")[:10] + b"\xff" * 99,
        "archive that can be read",
    ),
    "an xz that is damaged.tar.xz": (
        lambda p: lzma.compress(tarred(p))[:500] + b"\0" * 500,
        "archive that can be read",
    ),
    "a bzip2 that is cut.tar.bz2": (lambda p: tarred(p, packing="bz2")[:900], "ended before"),
    "a gzip of a gzip.tar.gz": (
        lambda p: gzip.compress(tarred(p, packing="gz")),
        "archive that can be read",
    ),
    "a gzip of 257 MiB of zeros.tgz": (
        lambda p: gzip.compress(bytes(2**20)) * 257,
        "unpacks to more than 268,435,456 bytes",
    ),
    "a sparse member without a map.tar": (
        lambda p: header("china/s.jpg", **SPARSE) + tarred(p),
        "archive that can be read",
    ),
    "a sparse member in PAX without a map.tar": (
        lambda p: tarred(p, pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                   "GNU.sparse.name": "x", "GNU.sparse.realsize": "z"})),
        "archive that can be read",
    ),
    "a size below zero.tar": (
        lambda p: header("china/n.jpg", **NEGATIVE) + tarred(p),
        "'china/n.jpg' has a negative size",
    ),
    "a size below zero in PAX.tar": (lambda p: tarred(p, pax(size="-512")), "negative size"),
    "a size beyond every disk.tar": (
        lambda p: tarred(p)[:-10240] + header("china/h.jpg", **HUGE) + bytes(1024),
        "archive that can be read",
    ),
    "three thousand long names for one member.tar": (
        lambda p: LONG_NAMES + tarred(p),
        "archive that can be read",
    ),
    "a tar of links.tar": (
        lambda p: tarred({}, *((member(f"china/{k}.jpg", type=tarfile.SYMTYPE)[0], b"")
                               for k in "abc")),
        "no labelled images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_ARCHIVES)
def test_archives_that_cannot_be_used_are_refused(case, tmp_path, pictures):
    make, needle = REFUSED_ARCHIVES[case]
    name = "data." + case.split(".", 1)[1]
    lay(tmp_path, {name: make(pictures)})
    said = say("inspect", name)
    if said.out:  # a set that is read and then found wanting is shown first
        said = said._replace(out="")
    assert_refused(said, name, needle)
    assert os.listdir(tmp_path) == [name]


def links(kind: bytes):
    return (member(f"china/{kind!r}.jpg", type=kind, linkname="/etc/passwd")[0], b"")


def unflagged(data: bytearray) -> None:
    """Takes away the mark of names in UTF-8."""
    in_records(9, 7, 0)(data)


def twice(pictures: dict[str, bytes], first: bytes) -> bytes:
    stream = io.BytesIO(zipped({"china/00.jpg": first}))
    with zipfile.ZipFile(stream, "a") as archive:
        for path, data in pictures.items():
            if path != "china/00.jpg":
                archive.writestr(path, data)
        archive.writestr(zipfile.ZipInfo("china/00.jp_"), pictures["china/00.jpg"])
    return stream.getvalue().replace(b"00.jp_", b"00.jpg")


READ_ARCHIVES = {
    "a zip.zip": (zipped, 24, {}),
    "a tar.tar": (tarred, 24, {}),
    "a zip called tar.tar": (zipped, 24, {}),
    "a tar.gz called zip.zip": (lambda p: tarred(p, packing="gz"), 24, {}),
    "a tar whose last member is a zip.tar": (
        lambda p: tarred({**p, "more.zip": zipped({"a/x.jpg": b"", "b/y.jpg": b""})}),
        24,
        {"other_file": 1},
    ),
    "absolute names in a zip.zip": (
        lambda p: zipped({**p, "/china/a.jpg": b"x"}), 24, {"unsafe_name": 1}
    ),
    "absolute names in a tar.tar": (
        lambda p: tarred({**p, "/china/a.jpg": b"x"}), 24, {"unsafe_name": 1}
    ),
    "names that climb out of a zip.zip": (
        lambda p: zipped({**p, "china/../../a.jpg": b"x"}), 24, {"unsafe_name": 1}
    ),
    "names that climb out of a tar.tar": (
        lambda p: tarred({**p, "../a.jpg": b"x"}), 24, {"unsafe_name": 1}
    ),
    "names of a Windows drive.zip": (
        lambda p: zipped({**p, "C:/a.jpg": b"x"}), 24, {"unsafe_name": 1}
    ),
    "links and devices in a tar.tar": (
        lambda p: tarred(p, *map(links, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
                                         tarfile.CHRTYPE, tarfile.BLKTYPE))),
        24,
        {"link": 5},
    ),
    "a member of no size in a tar.tar": (lambda p: tarred({**p, "china/e.jpg": b""}), 24,
                                         {"empty": 1}),
    "a sparse member.tar": (
        lambda p: tarred(p, pax(**{"GNU.sparse.map": "0,0", "GNU.sparse.size": "9"})),
        24,
        {"link": 1},
    ),
    "a member that is said to be longer than it is.zip": (
        lambda p: zipped(p, in_first(24, b"\xff\xff")), 24, {}
    ),
    "a member that is said to be shorter than it is.zip": (
        lambda p: zipped(p, in_first(24, b"\x20\x00")), 23, {"unreadable": 1}
    ),
    "a member that is encrypted.zip": (lambda p: zipped(p, in_first(8, b"\1")), 23,
                                       {"unreadable": 1}),
    "a member whose sum is wrong.zip": (lambda p: zipped(p, in_first(16, b"\0\0\0\0")), 23,
                                        {"unreadable": 1}),
    "two members of one name.zip": (lambda p: twice(p, b"an older one"), 24, {"file_names": 1}),
    "two members of one name in a tar.tar": (
        lambda p: tarred({"china/00.jpg": b"an older one"}, *((member(n, d)[0], d)
                                                              for n, d in p.items())),
        24,
        {"file_names": 1},
    ),
    "UTF-8 names without their mark.zip": (
        lambda p: zipped({n.replace("china", "ch\u00efna"): d for n, d in p.items()}, unflagged),
        24,
        {},
    ),
    "names of DOS.zip": (
        lambda p: zipped(p, lambda d: d.__setitem__(slice(None), d.replace(b"china", b"ch\x8bna"))),
        24,
        {},
    ),
    "600 folders deep.zip": (
        lambda p: zipped({n.replace("/", "/" + "d/" * 600): d for n, d in p.items()}), 24, {}
    ),
    "600 folders deep in a tar.tar": (
        lambda p: tarred({n.replace("/", "/" + "d/" * 600): d for n, d in p.items()}), 24, {}
    ),
    "a file whose name is no UTF-8.tar": (
        lambda p: tarred(renamed(p, "china/00", f"china/{OTHER[0]}00")), 24, {}
    ),
    "a folder whose name is no UTF-8.tar.gz": (
        lambda p: tarred(renamed(p, "china", "ch" + OTHER[0]), packing="gz"), 24, {}
    ),
    "wrapped in one folder.tar": (lambda p: tarred({f"w/{n}": d for n, d in p.items()}), 24, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", READ_ARCHIVES)
def test_archives_are_read_rightly_or_what_is_odd_is_said(case, tmp_path, pictures):
    make, images, findings = READ_ARCHIVES[case]
    name = "data." + case.split(".", 1)[1]
    lay(tmp_path, {name: make(pictures)})
    found = inspected(name)
    assert (found["images"], kinds(found)) == (images, findings)
    labels = {row["name"] for row in found["classes"]} - {"flower"}
    assert labels in ({"china"}, {"ch\u00efna"}, {"ch\\xff"})
    assert say("inspect", name, "--page", "page.html").code == 0
    os.remove("page.html")
    assert os.listdir(tmp_path) == [name]
    split = datasets.load_dataset(name)
    assert {split.read(i) for i in range(images)} <= {*pictures.values()}
    assert len(set(split.digests)) == images
    datasets.write_splits(split, tmp_path.parent / "splits.csv")
    again = datasets.load_dataset(name, splits=tmp_path.parent / "splits.csv", seed=5)
    assert (again.paths, again.splits.tolist()) == (split.paths, split.splits.tolist())


# Folders ---------------------------------------------------------------------------------------


def renamed(pictures, old: str, new: str) -> dict[str, bytes]:
    return {path.replace(old, new): data for path, data in pictures.items()}


def deep(folder: Path, picture: bytes, name: str, depth: int) -> None:
    """A picture so many folders down, further than a path may be long."""
    here = os.getcwd()
    os.chdir(folder / "china")
    for _ in range(depth):
        os.mkdir(name)
        os.chdir(name)
    Path("deep.jpg").write_bytes(picture)
    os.chdir(here)


FOLDERS = {
    "a file whose name is no UTF-8": (
        lambda d, p, more: lay(d, {**p, f"china/{OTHER[0]}.jpg": more[0]}), 25, {}, CLASSES,
    ),
    "a class whose name is no UTF-8": (
        lambda d, p, more: lay(d, renamed(p, "china", "ch" + OTHER[0])),
        24, {}, ("ch\\xff", "flower"),
    ),
    "a name that is no UTF-8, and one that reads the same": (
        lambda d, p, more: lay(d, {**p, f"china/{OTHER[0]}.jpg": more[0],
                                   "china/\\xff.jpg": more[0]}),
        25, {"file_names": 1}, CLASSES,
    ),
    "a pipe": (
        lambda d, p, more: (lay(d, p), os.mkfifo(d / "china/pipe.jpg")),
        24, {"not_a_file": 1}, CLASSES,
    ),
    "a link to an endless device": (
        lambda d, p, more: (lay(d, p), (d / "china/zero.jpg").symlink_to("/dev/zero")),
        24, {"not_a_file": 1}, CLASSES,
    ),
    "a link to itself": (
        lambda d, p, more: (lay(d, p), (d / "china/loop.jpg").symlink_to("loop.jpg")),
        24, {"unreadable": 1}, CLASSES,
    ),
    "a class that is a link to the set": (
        lambda d, p, more: (lay(d, p), (d / "again").symlink_to(".")), 24, {"link": 1}, CLASSES,
    ),
    "a class that is a link to the folder above": (
        lambda d, p, more: (lay(d, p), (d / "again").symlink_to("..")), 24, {"link": 1}, CLASSES,
    ),
    "a class that is a link to another class": (
        lambda d, p, more: (lay(d, p), (d / "again").symlink_to("china")), 24, {"link": 1}, CLASSES,
    ),
    "the set as a link": (
        lambda d, p, more: (lay(d.with_name("real"), p), d.rmdir(), d.symlink_to("real")),
        24, {}, CLASSES,
    ),
    "600 folders deep": (
        lambda d, p, more: (lay(d, p), deep(d, more[0], "d", 600)), 25, {}, CLASSES,
    ),
    "deeper than a path may be long": (
        lambda d, p, more: (lay(d, p), deep(d, more[0], "d" * 200, 30)),
        24, {"unreadable": 1}, CLASSES,
    ),
    "classes that differ by case": (
        lambda d, p, more: lay(d, renamed(p, "flower", "China")),
        24, {"class_names": 1, "file_names": 12}, ("China", "china"),
    ),
    "one class in two Unicode forms": (
        lambda d, p, more: lay(d, {**renamed(p, "china", "caf\u00e9"),
                                   "cafe\u0301/x.jpg": more[0]}),
        25, {"class_names": 1}, ("caf\u00e9", "flower"),
    ),
    "a class in rich's markup": (
        lambda d, p, more: lay(d, renamed(p, "china", "[red]")), 24, {}, ("[red]", "flower"),
    ),
    "a class called like an emoji of rich's": (
        lambda d, p, more: lay(d, renamed(p, "china", ":cat:")), 24, {}, (":cat:", "flower"),
    ),
    "a class that a terminal obeys": (
        lambda d, p, more: lay(d, renamed(p, "china", "\x1b[2J")), 24, {}, ("\x1b[2J", "flower"),
    ),
    "a sparse file of a terabyte": (
        lambda d, p, more: (lay(d, {**p, "china/t.jpg": b""}),
                            os.truncate(d / "china/t.jpg", 2**40)),
        24, {"bomb": 1}, CLASSES,
    ),
    "a folder called dataset_info.json": (
        lambda d, p, more: (lay(d, p), (d / "dataset_info.json").mkdir()),
        24, {"empty_class": 1}, CLASSES,
    ),
    "a pipe called dataset_info.json": (
        lambda d, p, more: (lay(d, p), os.mkfifo(d / "dataset_info.json")),
        24, {"other_file": 1}, CLASSES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_are_read_rightly_or_what_is_odd_is_said(case, tmp_path, pictures, spare):
    make, images, findings, classes = FOLDERS[case]
    (tmp_path / "set").mkdir()
    make(tmp_path / "set", pictures, spare)
    before = held(tmp_path)
    found = inspected("set")
    assert (found["images"], kinds(found)) == (images, findings)
    assert tuple(row["name"] for row in found["classes"]) == classes
    said = say("inspect", "set", "--page", "page.html", "--fix", "clean", "--quiet")
    assert (said.code, said.err) == (0, "")
    assert "\x1b[2J" not in said.out
    assert all(name in said.out for name in classes if name.isprintable())
    assert {path: about for path, about in held(tmp_path).items() if path in before} == before
    data = datasets.load_dataset("set")  # and its splits find everything again
    datasets.write_splits(data, "splits.csv")
    again = datasets.load_dataset("set", splits="splits.csv", seed=5)
    assert (again.paths, again.splits.tolist()) == (data.paths, data.splits.tolist())
    assert inspected("clean/manifest.csv")["images"] == images


LINE_BREAKS = {"a line break": "a\nb", "a carriage return": "a\rb", "a line separator": "a\u2028b"}


@pytest.mark.parametrize("case", LINE_BREAKS)
def test_class_folders_that_no_file_of_labels_can_hold_are_refused(case, tmp_path, pictures):
    lay(tmp_path / "set", renamed(pictures, "china", LINE_BREAKS[case]))
    assert_refused(say("inspect", "set"), "set", repr(LINE_BREAKS[case]))


# One file among good ones ----------------------------------------------------------------------

ODD_IMAGES = (
    "trailing.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg", "rotated.jpg", "profile.jpg",
    "interlaced.png", "one-bit.png", "grey-alpha.png", "sixteen-bit.png", "sixteen-bit-rgb.png",
    "alpha.png", "palette-alpha.png", "keyed.png", "animated.webp", "animated.gif", "animated.png",
    "pages.tif", "float.tif", "lossless.webp", "bitmap.bmp", "pixmap.ppm", "modern.avif",
    "misnamed.jpg", "no-suffix", "UPPER.JPG", "panorama.jpg", "new\nline.png",
    "\U0001f60e caf\u00e9.png", "n" * 251 + ".png", "link.jpg", "not-utf8-\\xff\\xfe.jpg",
)  # fmt: skip
NO_IMAGES = {
    "text.png": "not_an_image", "login.jpg": "not_an_image", "drawing.svg": "not_an_image",
    "photo.heic": zoo.HEIC, "half.avif": "truncated",
    "paper.jpg": "not_an_image", "script.jpg": "not_an_image",
    "zeros.png": "not_an_image", "half.tif": "not_an_image", "magic.bmp": "not_an_image",
    "bomb.png": "bomb", "small-bomb.png": "bomb", "scan-bomb.jpg": "bomb", "huge.jpg": "bomb",
    "wrong-crc.png": "unreadable", "half.webp": "unreadable", "text-bomb.png": "unreadable",
    "dangling.jpg": "unreadable", "looping.jpg": "unreadable", "socket.jpg": "unreadable",
    "half.gif": "truncated", "pipe.jpg": "not_a_file", "empty.jpg": "empty",
    **{f"cut-{tenth}.jpg": "truncated" for tenth in range(1, 10)},
    **{f"cut-{tenth}.png": "truncated" for tenth in range(1, 10)},
}  # fmt: skip
NOT_FOR_TRAINING = {
    "one-pixel.png": "too_small", "thread.png": "too_small", "disputed.png": "conflicting_labels",
    "folder.jpg": "empty_folder", "round": "link", ".DS_Store": "hidden", "notes.txt": "other_file",
}  # fmt: skip


@pytest.fixture(scope="module")
def menagerie(tmp_path_factory) -> tuple[Path, dict[str, set[str]], set[str]]:
    """The zoo, the findings for which its files are left out, and what is known of any file."""
    root = tmp_path_factory.mktemp("zoo") / "data"
    zoo.build(root)
    found = inspected(root)
    out: dict[str, set[str]] = {}
    for one in found["findings"]:
        if one["action"] == "left out":
            out.setdefault(one["path"], set()).add(one["kind"])
    return root, out, {*datasets.load_dataset(root).paths}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_an_odd_image_is_one_all_the_same(name, menagerie):
    _, out, kept = menagerie
    assert f"flower/{name}" in kept
    assert f"flower/{name}" not in out


@pytest.mark.parametrize("name", [*NO_IMAGES, *NOT_FOR_TRAINING])
def test_a_file_that_is_no_image_is_left_out_for_its_reason(name, menagerie):
    _, out, kept = menagerie
    assert f"flower/{name}" not in kept
    assert out[f"flower/{name}"] == {(NO_IMAGES | NOT_FOR_TRAINING)[name]}


ELSEWHERE = {
    "an endless device": ("/dev/zero", "not a regular file"),
    "an absent file": ("absent.jpg", "no such file or directory"),
    "a name of 300 letters": ("n" * 300, "file name too long"),
    "an absent file whose name is no UTF-8": (OTHER[1] + ".jpg", "no such file or directory"),
    "a folder of other things": ("/proc/self/attr", "is a directory"),
}


@pytest.fixture(scope="module")
def predicted(menagerie, digits_run) -> dict[str, dict]:
    """What one ``predict --json`` says of every file, by its name."""
    home = menagerie[0] / "flower"
    names = {name: name.replace("\\xff\\xfe", "\udcff\udcfe") for name in (*ODD_IMAGES, *NO_IMAGES)}
    words = [home / name for name in names.values()] + [word for word, _ in ELSEWHERE.values()]
    said = say("predict", digits_run, *words, "--json")
    assert (said.code, said.err) == (2, "")
    rows = json.loads(said.out)
    assert [row["image"] for row in rows] == [str(word) for word in words]  # surrogates too
    return dict(zip([*names, *ELSEWHERE], rows, strict=True))


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_an_odd_image_is_classified(name, predicted):
    row = predicted[name]
    assert "error" not in row
    assert len(row["classes"]) == 3
    assert 0 < sum(one["probability"] for one in row["classes"]) <= 1 + 1e-6


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_said_and_the_others_are_classified(name, predicted):
    assert predicted[name].keys() == {"image", "error"}
    assert predicted[name]["error"]


@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_cannot_be_read_is_said_and_the_others_are_classified(case, predicted):
    assert predicted[case] == {"image": ELSEWHERE[case][0], "error": ELSEWHERE[case][1]}


# What is written -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["set/china/00.jpg", "list.csv", "set.zip", "mine.txt"])
def test_a_page_overwrites_nothing_but_a_page(name, tmp_path, pictures):
    lay(tmp_path / "set", pictures)
    lay(tmp_path, {"list.csv": HEAD + ROWS.replace(b"\n", b"\nset/", 23), "mine.txt": b"precious",
                   "set.zip": zipped(pictures)})  # fmt: skip
    data = name if name in ("list.csv", "set.zip") else "set"
    lay(tmp_path, {"list.csv": HEAD + b"".join(b"set/" + row for row in ROWS.splitlines(True))})
    before = held(tmp_path)
    assert_refused(say("inspect", data, "--page", name), name, "exists and is no page")
    assert held(tmp_path) == before
    assert say("inspect", data, "--page", "page.html").code == 0
    assert say("inspect", data, "--page", "page.html").code == 0  # which may be written again


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("inspect", "set", "--fix", "set/clean"), "inside the data folder"),
        (("inspect", "set", "--fix", "set"), "set exists"),
        (("inspect", "set", "--fix", "loop"), "loop exists"),
        (("inspect", "set", "--fix", "set/china/00.jpg/x"), "inside the data folder"),
        (("train", "set", "--output", "set/run"), "inside the data folder"),
        (("train", "set", "--output", "link/run"), "inside the data folder"),
        (("train", "link", "--output", "set/run"), "inside the data folder"),
        (("search", "set", "--output", "set/study"), "inside the data folder"),
        (("search", "set", "--output", "link/../set/study"), "inside the data folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_nothing_is_written_into_the_data(words, needle, tmp_path, pictures):
    lay(tmp_path / "set", pictures)
    (tmp_path / "link").symlink_to("set")
    (tmp_path / "loop").symlink_to("loop")
    before = held(tmp_path)
    assert_refused(say(*words), needle)
    assert held(tmp_path) == before


def test_an_export_is_not_written_into_the_data_of_its_run(digits_run, digits_folder):
    before = held(digits_folder)
    assert_refused(
        say("export", digits_run, "--output", digits_folder / "model"), "inside the data"
    )
    assert held(digits_folder) == before


def test_an_export_is_not_begun_where_tensorflow_cannot_write(digits_run):
    said = say("export", digits_run, "--output", "model" + OTHER[0])
    assert_refused(said, "model\\udcff is no UTF-8")
    assert os.listdir() == []


@pytest.mark.parametrize("name", ["set[/b]", "[red]set", "set :cat:", "set\x1b[2J"])
def test_the_name_of_data_is_no_markup(name, tmp_path, pictures):
    lay(tmp_path / name, pictures)
    said = say("inspect", name, "--quiet")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"{name}: 24 images".replace("\x1b", "\\x1b"))


def test_names_that_are_no_utf8_are_escaped_in_all_that_is_written(tmp_path, pictures):
    lay(tmp_path / f"set{OTHER[0]}", pictures)
    page, clean = f"page{OTHER[0]}.html", f"clean{OTHER[1]}"
    said = say("inspect", f"set{OTHER[0]}", "--page", page, "--fix", clean, "--quiet")
    assert (said.code, said.err) == (0, "")
    assert "page\\udcff.html" in said.out
    assert "<h1>set\\udcff</h1>" in Path(page).read_text("utf-8")
    assert inspected(f"{clean}/manifest.csv")["images"] == 24
    assert inspected(f"set{OTHER[0]}")["name"] == f"set{OTHER[0]}"  # as JSON it comes back


# Splits that are given -------------------------------------------------------------------------

SPLIT_HEAD = b"path,label,split\n"
SPLIT_ROWS = SPLIT_HEAD + ROWS.replace(b"\n", b",train\n")
REFUSED_SPLITS = {
    "nothing": (b"", "no column 'path'"),
    "no split column": (HEAD + ROWS, "no column 'split'"),
    "an unknown split": (SPLIT_HEAD + b"china/00.jpg,china,dev\n", "row 2: the split is 'dev'"),
    "a short row": (SPLIT_HEAD + b"china/00.jpg\n", "row 2: the split is ''"),
    "a row without path": (SPLIT_HEAD + b",china,train\n", "lacks"),
    "an absent image": (SPLIT_ROWS + b"ghost.jpg,china,test\n", "lacks: ghost.jpg"),
    "another label": (SPLIT_HEAD + b"china/00.jpg,flower,test\n", "but 'flower' in splits.csv"),
    "one image in two splits": (SPLIT_ROWS + b"china/00.jpg,china,test\n", "another label"),
    "a quote that never ends": (SPLIT_ROWS + b'"china/00.jpg', "unexpected end of data"),
    "a cell of 200,000 letters": (SPLIT_ROWS + b"x" * 200_000, "a cell has over 131,072 letters"),
    "Latin-1": (SPLIT_ROWS + b"caf\xe9.jpg,china,test\n", "not UTF-8"),
    "no test split": (SPLIT_ROWS, "no image in the split 'val'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_SPLITS)
def test_splits_that_do_not_fit_are_refused(case, tmp_path, pictures):
    content, needle = REFUSED_SPLITS[case]
    lay(tmp_path / "set", pictures)
    lay(tmp_path, {"splits.csv": content})
    with pytest.raises(DataError, match=re.escape(needle)) as refused:
        datasets.load_dataset("set", splits="splits.csv")
    assert refused.value.remedy


def test_splits_that_do_not_fit_are_refused_before_any_training(tmp_path, pictures):
    lay(tmp_path / "set", pictures)
    lay(tmp_path, {"splits.csv": SPLIT_ROWS + b"ghost.jpg,china,test\n"})
    said = say("train", "set", "--splits", "splits.csv", "--output", "run", "--quiet")
    assert_refused(said, "splits.csv names images that set lacks: ghost.jpg")
    assert not Path("run/metrics.json").exists()


@pytest.mark.parametrize("name", [" led by a blank", "a\rb", "a\r\nb", 'a,"b"', "\u2028", "a\tb",
                                  "\ufeffmark", "a;b;c"])  # fmt: skip
def test_splits_find_odd_names_again(name, tmp_path, pictures):
    lay(tmp_path / "set", {path.replace("/", f"/{name}"): data for path, data in pictures.items()})
    data = datasets.load_dataset("set")
    datasets.write_splits(data, "splits.csv")
    again = datasets.load_dataset("set", splits="splits.csv", seed=9)
    assert (again.paths, again.splits.tolist()) == (data.paths, data.splits.tolist())


# Weights that would fill the memory ------------------------------------------------------------


def keras_bomb(path: Path) -> None:
    content = {"config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}
    path.write_bytes(zipped(content, declared(270 * 10**6)))


def empty_giant(path: Path) -> None:
    """A weight of 4 TB that takes no room in its file."""
    with h5py.File(path, "w") as file:
        file.create_dataset("layer/vars/0", (10**6, 10**6), np.float32)


@pytest.mark.parametrize(
    ("name", "make"), [("bomb.keras", keras_bomb), ("giant.weights.h5", empty_giant)]
)
def test_weights_that_would_fill_the_memory_are_refused(name, make, tmp_path):
    make(tmp_path / name)
    with pytest.raises(WeightsError, match="unpacks to more than 268,435,456 bytes") as refused:
        backbones.build("EfficientNetLite0", image_size=64, weights=name)
    assert name in refused.value.message
    if name.endswith(".keras"):
        assert_refused(say("predict", name, "x.jpg"), name, "unpacks to more than")


@pytest.mark.slow
def test_names_that_are_no_utf8_cost_neither_a_run_nor_an_export(tmp_path, pictures):
    more = {path.replace("/", f"/{OTHER[1]}\r"): data for path, data in pictures.items()}
    data, run = "set" + OTHER[0], "run" + OTHER[0]
    lay(tmp_path / data, renamed(more, "china", "ch" + OTHER[0]))
    words = ("--effort", "quick", "--image-size", "64", "--quiet")
    assert say("train", data, "--output", run, *words).code == 0
    again = say("train", data, "--output", "again", "--splits", f"{run}/splits.csv", *words)
    assert again.code == 0
    first, second = Path(run, "splits.csv"), Path("again/splits.csv")
    assert first.read_bytes() == second.read_bytes()
    for command in ("evaluate", "report", "curve"):
        assert say(command, run).code == 0
    assert json.loads(Path(run, "config.json").read_text("utf-8"))["data"] == data
    assert say("export", run, "--output", "export", "--quiet").code == 0
    assert say("verify", "export").code == 0
    picture = next(iter(Path(data, "flower").iterdir()))
    assert "ch\\xff" in say("predict", "export", picture).out
