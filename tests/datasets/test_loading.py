from __future__ import annotations

import re
import shutil
from collections import Counter

import numpy as np
import pytest
import zoo
from zoo import fill, noise

from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.datasets import load_dataset, write_splits
from keras_transfer.datasets.checks import group_names


def of_kind(data, kind: str) -> list:
    return [finding for finding in data.findings if finding.kind == kind]


@pytest.fixture
def folder(tmp_path, pictures):
    return fill(tmp_path / "set", {"cat": 20, "dog": 30}, pictures)


def test_exact_copies_stay_in_one_split(folder):
    for i in range(10):
        copy = (folder / f"cat/{i:03d}.jpg").read_bytes()
        (folder / f"cat/copy-{i}.jpg").write_bytes(copy)
    for seed in range(5):
        data = load_dataset(folder, seed=seed)
        assert len(data) == 60
        places: dict[str, set[str]] = {}
        for digest, split in zip(data.digests, data.splits, strict=True):
            places.setdefault(digest, set()).add(split)
        assert all(len(place) == 1 for place in places.values())
    assert len(of_kind(data, "duplicate")) == 10
    assert of_kind(data, "duplicate")[0].other == "cat/000.jpg"


def test_near_copies_stay_in_one_split(tmp_path):
    for seed in range(16):
        for label in ("china", "flower"):
            (tmp_path / label).mkdir(exist_ok=True)
            photo = zoo.photo(f"{label}.jpg", side=200, seed=seed)
            (tmp_path / label / f"{seed:02d}.png").write_bytes(zoo.encode(photo, "PNG"))
            smaller = zoo.encode(photo.resize((120, 120)), "JPEG", quality=60)
            (tmp_path / label / f"{seed:02d}-small.jpg").write_bytes(smaller)
    for seed in range(5):
        data = load_dataset(tmp_path, seed=seed)
        places = dict(zip(data.paths, data.splits, strict=True))
        for path in data.paths:
            if path.endswith(".png"):
                assert places[path] == places[path.replace(".png", "-small.jpg")]
    assert len(of_kind(data, "near_duplicate")) >= 32


def test_copies_under_two_labels_are_left_out(folder):
    (folder / "dog/x.jpg").write_bytes((folder / "cat/000.jpg").read_bytes())
    data = load_dataset(folder)
    assert len(data) == 49
    found = of_kind(data, "conflicting_labels")
    assert {(one.path, one.other) for one in found} == {
        ("cat/000.jpg", "dog/x.jpg"),
        ("dog/x.jpg", "cat/000.jpg"),
    }
    assert "'cat' and 'dog'" in found[0].reason


def test_a_leak_between_given_splits_is_named_and_mended(tmp_path, pictures):
    fill(tmp_path, {"train/cat": 10, "train/dog": 10, "test/cat": 5, "test/dog": 5}, pictures)
    (tmp_path / "train/cat/leaked.jpg").write_bytes((tmp_path / "test/cat/020.jpg").read_bytes())
    photo = zoo.photo(side=200, seed=77)
    (tmp_path / "test/dog/big.png").write_bytes(zoo.encode(photo, "PNG"))
    (tmp_path / "train/dog/small.jpg").write_bytes(zoo.encode(photo.resize((90, 90)), "JPEG"))
    data = load_dataset(tmp_path)
    found = {one.path: one for one in of_kind(data, "leak")}
    assert set(found) == {"train/cat/leaked.jpg", "train/dog/small.jpg"}
    leak = found["train/cat/leaked.jpg"]
    assert leak.other == "test/cat/020.jpg"
    assert leak.reason == "the same content as test/cat/020.jpg, which is in test"
    assert leak.action == "left out"
    assert found["train/dog/small.jpg"].other == "test/dog/big.png"
    assert not set(found) & set(data.paths)
    assert Counter(data.splits.tolist())["test"] == 11
    assert Counter(data.splits.tolist())["val"] == 4


def test_groups_join_copies_near_copies_and_the_sources_own():
    near = np.array([[4, 5]])
    names = group_names(
        ["a", "a", "b", "c", "d", "e", "f"], [None, None, "p", "p", None, "q", "q"], near
    )
    assert group_names([], [], np.empty((0, 2), np.int64)) == []
    assert names == ["image a", "image a", "group p", "group p", "group q", "group q", "group q"]


def test_groups_of_a_manifest_stay_together(folder):
    rows = ["path,label,group"]
    rows += [f"cat/{i:03d}.jpg,cat,owner {i // 4}" for i in range(20)]
    rows += [f"dog/{i:03d}.jpg,dog,owner {5 + i // 5}" for i in range(20, 50)]
    (folder / "list.csv").write_text("\n".join(rows))
    data = load_dataset(folder / "list.csv")
    assert data.groups[0] == "group owner 0"
    for group in set(data.groups):
        inside = [s for s, g in zip(data.splits, data.groups, strict=True) if g == group]
        assert len(set(inside)) == 1
    assert set(data.splits) == {"train", "val", "test"}


def test_a_group_in_two_given_splits_is_named(folder):
    rows = ["path,label,split,group"]
    rows += [f"cat/{i:03d}.jpg,cat,{('train', 'test')[i % 2]},anna" for i in range(20)]
    rows += [f"dog/{i:03d}.jpg,dog,{('train', 'test')[i % 2]}," for i in range(20, 50)]
    (folder / "list.csv").write_text("\n".join(rows))
    assert [one.reason for one in of_kind(load_dataset(folder / "list.csv"), "leak")] == [
        "group 'anna' is in test and train"
    ]


def test_a_splits_file_repeats_a_split_and_leaves_new_files_out(folder, tmp_path, pictures):
    first = load_dataset(folder, seed=3, image_size=16)
    write_splits(first, tmp_path / "splits.csv")
    (folder / "cat/new.jpg").write_bytes(pictures[58])
    again = load_dataset(folder, splits=tmp_path / "splits.csv", image_size=16)
    assert again.paths == first.paths
    assert (again.splits == first.splits).all()
    assert np.array_equal(again.examples, first.examples)
    assert [one.path for one in of_kind(again, "not_in_splits")] == ["cat/new.jpg"]
    (folder / "cat/000.jpg").unlink()
    with pytest.raises(DataError, match=r"cat/000\.jpg"):
        load_dataset(folder, splits=tmp_path / "splits.csv")


def test_a_file_gone_bad_since_is_a_finding_not_an_absence(folder, tmp_path):
    write_splits(load_dataset(folder), tmp_path / "splits.csv")
    (folder / "cat/000.jpg").write_bytes(b"oh")
    data = load_dataset(folder, splits=tmp_path / "splits.csv")
    assert len(data) == 49


def test_per_class_shrinks_training_alone(folder):
    whole, small = load_dataset(folder), load_dataset(folder, per_class=3, image_size=16)
    assert Counter(small.labels[small.indices("train")].tolist()) == {0: 3, 1: 3}
    for split in ("val", "test"):
        assert len(small.indices(split)) == len(whole.indices(split))
    assert len(small.examples) == len(small)


def test_folds_test_every_image_once(folder, tmp_path):
    tested = [
        path
        for i in (1, 2, 3, 4)
        for data in [load_dataset(folder, fold=(i, 4))]
        for path in np.array(data.paths)[data.indices("test")]
    ]
    assert sorted(tested) == sorted(load_dataset(folder).paths)
    small = load_dataset(folder, fold=(2, 4), per_class=3)
    assert len(small.indices("train")) == 6
    write_splits(small, tmp_path / "splits.csv")
    again = load_dataset(folder, splits=tmp_path / "splits.csv")
    assert again.paths == small.paths
    with pytest.raises(UsageError, match="21 folds"):
        load_dataset(folder, fold=(1, 21))
    with pytest.raises(UsageError, match="a fold and a file"):
        load_dataset(folder, fold=(1, 4), splits=tmp_path / "splits.csv")


def test_classes_without_training_images_are_left_out(tmp_path, pictures):
    fill(tmp_path, {"train/a": 8, "train/b": 8, "test/a": 3, "test/c": 3}, pictures)
    data = load_dataset(tmp_path)
    assert data.class_names == ("a", "b")
    assert len(of_kind(data, "class_without_training")) == 3


def test_small_and_uneven_classes_are_reported(tmp_path, pictures):
    fill(tmp_path, {"big": 40, "small": 3}, pictures)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/x.jpg").write_bytes(b"")
    data = load_dataset(tmp_path)
    assert data.class_names == ("big", "small")
    assert "'small' has 3 images" in of_kind(data, "small_class")[0].reason
    assert "40 images of 'big', but 3 of 'small'" in of_kind(data, "imbalance")[0].reason
    assert "'gone'" in of_kind(data, "empty_class")[0].reason


@pytest.mark.parametrize(
    ("counts", "message", "remedy"),
    [
        ({"cat": 9}, "single class 'cat'", "two are needed"),
        ({"set/cat": 9, "set/dog": 9}, "single class 'set'", "Or is DATA .*/set?"),
        ({"cat": 9, "dog": 1}, "class 'dog' has a single image", "at least three"),
        ({"cat": 2, "dog": 2}, "no image in the split 'val'", "three different ones"),
    ],
)
def test_sets_that_cannot_be_trained_on_say_why(tmp_path, pictures, counts, message, remedy):
    fill(tmp_path, counts, pictures)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(tmp_path)
    assert caught.value.exit_code == 2
    assert re.search(remedy, caught.value.remedy)
    assert len(load_dataset(tmp_path, for_training=False)) == sum(counts.values())


def test_nothing_but_bad_files_is_an_error(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/x.jpg").write_bytes(b"")
    for training in (True, False):
        with pytest.raises(DataError, match=r"no image that can be used \(left out: 1\)"):
            load_dataset(tmp_path, for_training=training)


def test_real_emoji_split_by_class(emoji_noto):
    data = load_dataset(emoji_noto)
    assert len(data) == 1892
    for label in range(9):
        here = Counter(data.splits[data.labels == label].tolist())
        total = here.total()
        for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs(here[name] - share * total) <= 2
    assert not [one for one in data.findings if one.action == "left out"]
    assert {one.kind for one in data.findings} == {"near_duplicate"}


def test_a_source_of_ones_own_will_do(pictures):
    class Mine:
        name = "mine"
        identity = None
        findings = ()
        class_names = ("dog", "cat")

        def __init__(self) -> None:
            from keras_transfer.datasets.sources import Item

            self.items = [Item(f"{i}", ("cat", "dog")[i % 2]) for i in range(40)]

        def read(self, path: str) -> bytes:
            return pictures[int(path)]

    data = load_dataset(Mine(), image_size=16)
    assert data.class_names == ("dog", "cat")
    assert len(data) == 40


@pytest.mark.parametrize("end", [*"\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\0"])
def test_a_class_that_no_file_of_labels_can_hold_is_refused(end):
    labels = [f"red{end}fox", "cat"] * 12
    with pytest.raises(DataError, match="no file of labels can hold") as caught:
        load_dataset((noise(24), labels), for_training=False)
    assert repr(f"red{end}fox") in caught.value.message
    assert "one line" in caught.value.remedy
    assert load_dataset((noise(24), ["red fox\t\u00e9", "cat"] * 12)).class_names[0] == "cat"


def test_wherever_a_label_comes_from_it_is_one_line(folder, tmp_path):
    rows = [f"{file.relative_to(folder)},cat" for file in sorted(folder.glob("cat/*"))]
    rows += [f'{file.relative_to(folder)},"big\ndog"' for file in sorted(folder.glob("dog/*"))]
    (folder / "list.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError, match=r"list\.csv: the class 'big\\ndog' \(of 'dog/020"):
        load_dataset(folder / "list.csv")
    (folder / "dog").rename(folder / "big\u2028dog")
    (folder / "list.csv").unlink()
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    for source in (folder, tmp_path / "packed.zip"):
        with pytest.raises(DataError, match=r"the class 'big\\u2028dog'"):
            load_dataset(source)
