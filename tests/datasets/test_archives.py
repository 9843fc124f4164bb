from __future__ import annotations

import io
import tarfile
import zipfile

import numpy as np
import pytest
from zoo import fill

from keras_transfer.base.errors import DataError, ExampleError
from keras_transfer.datasets import load_dataset, sources
from keras_transfer.datasets.loading import open_source


@pytest.fixture
def folder(tmp_path, pictures):
    return fill(tmp_path / "set", {"cat": 12, "dog": 12}, pictures)


def pack(folder, path, prefix: str = ""):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*.jpg")):
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    else:
        packing = {".tar": "", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}[path.suffix]
        with tarfile.open(path, f"w:{packing}") as archive:
            archive.add(folder, prefix or ".")
    return path


@pytest.mark.parametrize("prefix", ["", "wrapped/"])
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_an_archive_is_the_same_set_as_its_folder(tmp_path, folder, name, prefix):
    packed = load_dataset(pack(folder, tmp_path / name, prefix), image_size=16)
    loose = load_dataset(folder, image_size=16)
    assert packed.paths == loose.paths
    assert packed.digests == loose.digests
    assert (packed.splits == loose.splits).all()
    assert np.array_equal(packed.examples, loose.examples)


def test_names_that_lead_outside_and_links_are_left_out(tmp_path, pictures):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        evil = ("../evil.jpg", "/etc/evil.jpg", "cat/../../evil.jpg", "C:/evil.jpg")
        for name in ("cat/1.jpg", *evil):
            archive.writestr(name, pictures[0])
        link = zipfile.ZipInfo("cat/link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    source = open_source(tmp_path / "a.zip")
    assert [item.path for item in source.items] == ["cat/1.jpg"]
    assert sorted(one.kind for one in source.findings) == ["link"] + ["unsafe_name"] * 4
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("cat/1.jpg", "../evil.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(pictures[0])
            archive.addfile(info, io.BytesIO(pictures[0]))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"cat/{kind!r}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    source = open_source(tmp_path / "a.tar")
    assert [item.path for item in source.items] == ["cat/1.jpg"]
    assert sorted(one.kind for one in source.findings) == ["link"] * 3 + ["unsafe_name"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.zip"]


def test_what_a_mac_adds_to_an_archive_is_hidden(tmp_path, folder):
    path = pack(folder, tmp_path / "a.zip", "wrapped/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/wrapped/cat/._000.jpg", b"junk")
    source = open_source(path)
    assert len(source.items) == 24
    assert [(one.path, one.kind) for one in source.findings] == [
        ("__MACOSX/wrapped/cat/._000.jpg", "hidden")
    ]


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_members_that_are_too_large_are_refused(tmp_path, folder, name, monkeypatch):
    source = open_source(pack(folder, tmp_path / name))
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100)
    with pytest.raises(ExampleError, match="too many"):
        source.read(source.items[0].path)


def test_a_damaged_member_costs_one_finding(tmp_path, folder):
    path = pack(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("cat/003.jpg")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 150] ^= 255
    path.write_bytes(data)
    made = load_dataset(path)
    assert len(made) == 23
    assert {one.path for one in made.findings if one.action == "left out"} == {"cat/003.jpg"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 nonsense", b"\x1f\x8b nonsense", b"\xfd7zXZ"]
)
def test_archives_that_cannot_be_read_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        open_source(tmp_path / name)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_half_an_archive_is_refused(tmp_path, folder, name):
    path = pack(folder, tmp_path / name)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=name):
        open_source(path)
