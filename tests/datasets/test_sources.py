from __future__ import annotations

import os
import unicodedata

import pytest
from zoo import fill

from keras_transfer.base.errors import DataError, ExampleError
from keras_transfer.base.types import Finding
from keras_transfer.datasets.loading import open_source
from keras_transfer.datasets.sources import label_by_folder, name_findings


def kinds(findings) -> dict[str, str]:
    return {finding.path: finding.kind for finding in findings}


def test_class_folders_with_folders_inside(tmp_path, pictures):
    fill(tmp_path, {"cat": 2, "dog/old": 1, "dog/young/tiny": 1}, pictures)
    source = open_source(tmp_path)
    assert [(item.path, item.label, item.split) for item in source.items] == [
        ("cat/000.jpg", "cat", None),
        ("cat/001.jpg", "cat", None),
        ("dog/old/002.jpg", "dog", None),
        ("dog/young/tiny/003.jpg", "dog", None),
    ]
    assert source.read("cat/001.jpg") == pictures[1]


def test_folders_named_after_splits(tmp_path, pictures):
    fill(tmp_path, {"train/cat": 1, "Valid/cat": 1, "testing/dog": 1, "notes/x": 1}, pictures)
    source = open_source(str(tmp_path))
    assert [(item.path, item.label, item.split) for item in source.items] == [
        ("Valid/cat/001.jpg", "cat", "val"),
        ("testing/dog/002.jpg", "dog", "test"),
        ("train/cat/000.jpg", "cat", "train"),
    ]
    assert kinds(source.findings) == {"notes/x/003.jpg": "unlabelled"}


def test_a_class_may_be_called_train(tmp_path, pictures):
    fill(tmp_path, {"train": 2, "bus/red": 2, "tram": 2}, pictures)
    assert {item.label for item in open_source(tmp_path).items} == {"train", "bus", "tram"}


def test_an_unlabelled_test_folder_is_not_a_class(tmp_path, pictures):
    fill(tmp_path, {"train/cat": 2, "train/dog": 2, "test": 2}, pictures)
    source = open_source(tmp_path)
    assert {item.label for item in source.items} == {"cat", "dog"}
    assert kinds(source.findings)["test/004.jpg"] == "unlabelled"


def test_splits_without_training_are_refused(tmp_path, pictures):
    fill(tmp_path, {"val/cat": 1, "test/cat": 1}, pictures)
    with pytest.raises(DataError, match="none for training"):
        open_source(tmp_path)


def test_hidden_and_other_files_are_said_to_be_left_out(tmp_path, pictures):
    fill(tmp_path, {"cat": 1, ".git": 1, "cat/__MACOSX": 1}, pictures)
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    (tmp_path / "cat" / ".DS_Store").write_text("")
    (tmp_path / "top.jpg").write_bytes(pictures[0])
    (tmp_path / "empty").mkdir()
    source = open_source(tmp_path)
    assert [item.path for item in source.items] == ["cat/000.jpg"]
    assert kinds(source.findings) == {
        ".git/001.jpg": "hidden",
        "cat/__MACOSX/002.jpg": "hidden",
        "cat/.DS_Store": "hidden",
        "cat/notes.txt": "other_file",
        "top.jpg": "unlabelled",
        "empty": "empty_class",
    }


def test_links_lead_neither_round_nor_back(tmp_path, pictures):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    fill(data, {"cat": 1}, pictures)
    fill(elsewhere, {"dogs": 2}, pictures)
    (data / "dog").symlink_to(elsewhere / "dogs")
    (data / "round").symlink_to(data)
    (data / "up").symlink_to(tmp_path)
    (data / "cat" / "deep").symlink_to(elsewhere)
    source = open_source(data)
    assert [item.path for item in source.items] == ["cat/000.jpg", "dog/000.jpg", "dog/001.jpg"]
    assert kinds(source.findings) == {"round": "link", "up": "link", "cat/deep": "link"}
    assert source.read("dog/001.jpg") == pictures[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_folder_is_a_finding(tmp_path, pictures):
    fill(tmp_path, {"cat": 1, "secret": 1}, pictures)
    (tmp_path / "secret").chmod(0)
    assert kinds(open_source(tmp_path).findings)["secret"] == "unreadable"


def test_a_file_that_vanishes_is_an_error_of_its_own(tmp_path, pictures):
    source = open_source(fill(tmp_path, {"cat": 1}, pictures))
    (tmp_path / "cat/000.jpg").unlink()
    with pytest.raises(ExampleError, match="no such file"):
        source.read("cat/000.jpg")


def test_names_that_look_alike_are_found():
    composed = "caf\u00e9"
    decomposed = unicodedata.normalize("NFD", composed)
    findings: list[Finding] = []
    items, modality = label_by_folder(
        [f"{composed}/a.jpg", f"{decomposed}/b.jpg", "Cat/c.jpg", "cat/C.jpg", "cat/c.jpg"],
        findings,
    )
    assert {item.label for item in items} == {composed, "Cat", "cat"}
    assert modality == "image"
    assert [(one.kind, one.action) for one in findings] == [("class_names", "read as one class")]
    found = {(one.kind, one.path) for one in name_findings(items)}
    assert found == {("class_names", ""), ("file_names", "Cat/c.jpg")}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("builtin:digit", "Did you mean builtin:digits"),
        ("{tmp}/empty", "no labelled images"),
        ("{tmp}/flat", "no labelled images"),
        ("{tmp}/flat/000.jpg", "neither a folder"),
        ("{tmp}/flag", r"Did you mean .*flat"),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path, pictures, data, message):
    fill(tmp_path, {"flat": 2}, pictures)
    (tmp_path / "empty").mkdir()
    data = data.format(tmp=tmp_path)
    if data.endswith("flat"):
        data = str(tmp_path / "flat")
    with pytest.raises(DataError, match=message) as caught:
        open_source(data)
    assert data.split("/")[-1] in str(caught.value)
    assert caught.value.remedy
