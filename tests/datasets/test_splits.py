from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.base.types import Dataset
from keras_transfer.datasets import splits


def assign(labels, groups, **options):
    return splits.complete(labels, groups, [None] * len(labels), **options)


def digests(count: int, start: int = 0) -> list[str]:
    return [f"image {i}" for i in range(start, start + count)]


def dataset(labels: list[int], groups: list[str] | None = None) -> Dataset:
    names = digests(len(labels))
    chosen = [f"class {label}" for label in labels]
    return Dataset(
        name="made",
        paths=tuple(f"{label}/{i}.png" for i, label in enumerate(chosen)),
        labels=np.array(labels, np.int64),
        class_names=tuple(sorted(set(chosen))),
        splits=assign(chosen, groups or names),
        digests=tuple(names),
        findings=(),
        read=lambda i: str(i).encode(),
        examples=np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
        * np.ones((1, 2, 2, 3)),
        groups=None if groups is None else tuple(groups),
    )


@pytest.mark.parametrize("seed", range(5))
def test_each_class_gets_its_shares(seed):
    labels = ["a"] * 85 + ["b"] * 381 + ["c"] * 20
    placed = assign(labels, digests(486), seed=seed)
    for label, count in Counter(labels).items():
        here = Counter(placed[np.array(labels) == label].tolist())
        for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs(here[name] - share * count) <= 1


def test_seed_decides_and_order_does_not():
    labels, names = ["a", "b"] * 50, digests(100)
    placed = assign(labels, names, seed=1)
    order = np.random.default_rng(0).permutation(100)
    again = assign([labels[i] for i in order], [names[i] for i in order], seed=1)
    assert (again == placed[order]).all()
    assert (assign(labels, names, seed=2) != placed).sum() > 20


@pytest.mark.parametrize("added", [1, 10, 30])
def test_added_files_move_few_others_and_none_of_other_classes(added):
    labels = ["a"] * 200 + ["b"] * 200
    moved = []
    for seed in range(20):
        before = assign(labels, digests(400), seed=seed)
        after = assign(labels + ["a"] * added, digests(400 + added), seed=seed)
        assert (after[200:400] == before[200:]).all()
        moved.append((after[:200] != before[:200]).mean())
    assert np.mean(moved) < 0.03
    assert max(moved) < 0.07


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", range(3, 12))
def test_three_distinct_images_reach_every_split(count, seed):
    assert set(assign(["a"] * count, digests(count), seed=seed)) == {"train", "val", "test"}


def test_tiny_classes_follow_the_stated_rule():
    assert assign(["a"], ["x"]).tolist() == ["train"]
    assert set(assign(["a", "a"], ["x", "y"])) == {"train", "test"}
    assert assign(["a"] * 9, ["x"] * 9).tolist() == ["train"] * 9


def test_groups_stay_together_even_across_classes():
    random = np.random.default_rng(0)
    groups = [f"patient {i}" for i in random.integers(0, 30, 300)]
    labels = random.choice(["sick", "well"], 300).tolist()
    placed = assign(labels, groups)
    assert all(
        len({p for p, g in zip(placed, groups, strict=True) if g == one}) == 1
        for one in set(groups)
    )
    assert 0.6 < (placed == "train").mean() < 0.8


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)]
)
def test_shares_must_make_sense(shares):
    with pytest.raises(UsageError, match="shares"):
        assign(["a"] * 9, digests(9), split=shares)


def test_missing_splits_are_taken_from_training_only():
    given = ["train"] * 80 + ["test"] * 20
    placed = splits.complete(["a"] * 100, digests(100), given)
    assert (placed[80:] == "test").all()
    assert Counter(placed[:80].tolist())["val"] == round(80 * 0.15 / 0.85)
    given = [None] * 80 + ["val"] * 20
    placed = splits.complete(["a"] * 100, digests(100), given)
    assert (placed[80:] == "val").all()
    assert Counter(placed[:80].tolist())["test"] == round(80 * 0.15 / 0.85)


def test_given_splits_are_kept():
    given = ["train", "val", "test"] * 10
    assert splits.complete(["a"] * 30, digests(30), given).tolist() == given


def test_kfold_tests_each_image_once_and_keeps_groups_whole():
    groups = [f"group {i // 2}" for i in range(80)]
    made = dataset([0] * 40 + [1] * 40, groups)
    tested = np.zeros(80, int)
    for fold in splits.kfold(made, 5):
        tested += fold.splits == "test"
        for name, count in (("test", 16), ("val", 16), ("train", 48)):
            assert (fold.splits == name).sum() == count
        sides = {
            group: {s for s, g in zip(fold.splits, groups, strict=True) if g == group}
            for group in groups
        }
        assert all(len(side) == 1 for side in sides.values())
    assert (tested == 1).all()


@pytest.mark.parametrize("folds", [2, 9])
def test_kfold_refuses_what_cannot_be(folds):
    with pytest.raises(UsageError, match="folds"):
        list(splits.kfold(dataset([0] * 20 + [1] * 8), folds))


def test_few_takes_nested_training_subsets_and_leaves_the_rest():
    made = dataset([0] * 40 + [1] * 60)
    held_out = set(np.flatnonzero(made.splits != "train").tolist())
    smaller: set[int] = set()
    for count in (1, 5, 20):
        rows = set(splits.few(made, count).tolist())
        assert rows >= held_out
        assert rows >= smaller
        chosen = sorted(rows - held_out)
        assert Counter(made.labels[chosen].tolist()) == {0: count, 1: count}
        smaller = rows
    assert len(splits.few(made, 1000)) == 100
    with pytest.raises(UsageError, match="positive"):
        splits.few(made, 0)


def test_take_keeps_everything_aligned():
    made = dataset([0, 1, 2, 0, 1, 2])
    part = splits.take(made, np.array([1, 2, 5]))
    assert part.class_names == ("class 1", "class 2")
    assert part.labels.tolist() == [0, 1, 1]
    assert part.digests == ("image 1", "image 2", "image 5")
    assert part.examples[:, 0, 0, 0].tolist() == [1, 2, 5]
    assert [part.read(i) for i in range(3)] == [b"1", b"2", b"5"]


def test_splits_go_through_a_file(tmp_path):
    made = dataset([0, 1] * 20)
    splits.write_splits(made, tmp_path / "splits.csv")
    assert (tmp_path / "splits.csv").read_text().splitlines()[0] == "path,label,split"
    other = dataset([0, 1] * 20)
    other.splits[:] = "train"
    again, rows = splits.apply(other, tmp_path / "splits.csv")
    assert (again.splits == made.splits).all()
    assert rows.tolist() == list(range(40))


def test_odd_names_survive_the_file(tmp_path):
    made = dataset([0, 1])
    names = (' a,"b"\r\nc.png', "caf\u00e9 \U0001f60e.png")
    object.__setattr__(made, "paths", names)
    splits.write_splits(made, tmp_path / "splits.csv")
    assert set(splits.read_splits(tmp_path / "splits.csv")) == set(names)


def test_files_that_do_not_fit_are_refused(tmp_path):
    made = dataset([0, 1] * 5)
    file = tmp_path / "splits.csv"
    file.write_text("path,label,split\nghost.png,class 0,train\n")
    with pytest.raises(DataError, match=r"ghost\.png"):
        splits.apply(made, file)
    file.write_text(f"path,label,split\n{made.paths[0]},class 1,train\n")
    with pytest.raises(DataError, match=r"'class 0'.*'class 1'"):
        splits.apply(made, file)
    file.write_text(f"path,label,split\n{made.paths[0]},class 0,dev\n")
    with pytest.raises(DataError, match=r"row 2.*'dev'"):
        splits.apply(made, file)
    for text in ("", "a,b\n1,2\n"):
        file.write_text(text)
        with pytest.raises(DataError, match="no column"):
            splits.read_splits(file)
    with pytest.raises(UsageError, match=r"none\.csv"):
        splits.read_splits(tmp_path / "none.csv")


def test_images_that_a_file_does_not_name_are_left_out(tmp_path):
    made = dataset([0, 1, 2, 0, 1, 2])
    splits.write_splits(splits.take(made, np.array([0, 1, 3, 4])), tmp_path / "splits.csv")
    part, rows = splits.apply(made, tmp_path / "splits.csv")
    assert rows.tolist() == [0, 1, 3, 4]
    assert part.class_names == ("class 0", "class 1")
    assert [(one.path, one.kind) for one in part.findings] == [
        (made.paths[2], "not_in_splits"),
        (made.paths[5], "not_in_splits"),
    ]
