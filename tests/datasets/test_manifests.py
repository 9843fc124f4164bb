from __future__ import annotations

import pytest
from zoo import fill

from keras_transfer.base.errors import DataError
from keras_transfer.datasets import load_dataset
from keras_transfer.datasets.loading import open_source


@pytest.fixture
def folder(tmp_path, pictures):
    return fill(tmp_path, {"images": 6}, pictures)


def rows(folder, text: str, encoding: str = "utf-8", name: str = "list.csv"):
    file = folder / name
    file.write_bytes(text.encode(encoding))
    source = open_source(file)
    return [(i.path, i.label, i.split, i.group) for i in source.items], source


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_spreadsheet_can_have_written_it(folder, encoding, end, separator):
    lines = [
        "Filename,Class",
        'images/000.jpg,"chat, noir"',
        "images/001.jpg,\u00e9l\u00e9phant",
        "",
    ]
    if separator != ",":
        lines = [line.replace(",", separator, 1) for line in lines]
    found, source = rows(folder, end.join(lines), encoding)
    assert [row[:2] for row in found] == [
        ("images/000.jpg", "chat, noir"),
        ("images/001.jpg", "\u00e9l\u00e9phant"),
    ]
    assert source.read("images/000.jpg") == (folder / "images/000.jpg").read_bytes()


def test_splits_and_groups_are_taken(folder):
    found, _ = rows(
        folder,
        "group,split,label,path\n"
        "anna,TRAIN,a,images/000.jpg\n,validation,a,images/001.jpg\nben,,b,images/002.jpg\n",
    )
    assert found == [
        ("images/000.jpg", "a", "train", "anna"),
        ("images/001.jpg", "a", "val", None),
        ("images/002.jpg", "b", None, "ben"),
    ]


def test_windows_separators_are_understood(folder):
    found, _ = rows(folder, "path,label\nimages\\000.jpg,a\nimages/001.jpg,b\n")
    assert [row[0] for row in found] == ["images/000.jpg", "images/001.jpg"]


def test_rows_that_say_too_little_or_too_much_are_findings(folder):
    found, source = rows(
        folder,
        "path,label\nimages/000.jpg,a\nimages/000.jpg,a\nimages/001.jpg,a\nimages/001.jpg,b\n"
        "images/002.jpg,\n,b\n\nimages/003.jpg\n",
    )
    assert [row[0] for row in found] == ["images/000.jpg"]
    assert [(one.path, one.kind, one.action) for one in source.findings] == [
        ("images/000.jpg", "repeated_row", "kept as 'a'"),
        ("images/001.jpg", "conflicting_labels", "left out"),
        ("images/002.jpg", "unlabelled", "left out"),
        ("", "unlabelled", "left out"),
        ("images/003.jpg", "unlabelled", "left out"),
    ]


def test_missing_files_are_findings_of_the_set(folder):
    text = "path,label\n" + "".join(f"images/{i:03d}.jpg,{'ab'[i % 2]}\n" for i in range(6))
    (folder / "list.csv").write_text(text + "images/ghost.jpg,a\n")
    data = load_dataset(folder / "list.csv")
    assert len(data) == 6
    assert [(one.path, one.kind) for one in data.findings if one.path == "images/ghost.jpg"] == [
        ("images/ghost.jpg", "unreadable")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column 'path'"),
        (b"name,label\nx,y\n", "no column 'path'.*name, label"),
        (b"path,weight\nx,y\n", "no column 'label'"),
        (b"path,label\n", "no labelled images"),
        (b"path,label,split\nx,y,holdout\n", "row 2.*'holdout'"),
        (b"path,label\n\xff\xfex,y\n", "not UTF-8 at byte 11"),
        (b"path,label\nx\0,y\n", "no labelled images|cannot be read|NUL"),
        (b'path,label\nx,y\n"' + b"x" * 200_000 + b",y\n", "line 3: unexpected end of data"),
    ],
)
def test_manifests_that_cannot_be_used_are_refused(tmp_path, content, message):
    file = tmp_path / "list.csv"
    file.write_bytes(content)
    if b"\0" in content:
        assert open_source(file).items[0].path == "x\0"
        return
    with pytest.raises(DataError, match=message):
        open_source(file)
