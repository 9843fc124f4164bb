"""Several labels an example, as tables and memory hold them."""

import numpy as np
import pytest

from keras_transfer import inspect, load_dataset
from keras_transfer.base.errors import DataError
from keras_transfer.datasets import write_splits

pd = pytest.importorskip("pandas")

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]
CELLS = ["dog|cat", "cat", "|", "dog", "cat|dog|owl"]


def table(tmp_path, cells, name="texts.csv"):
    path = tmp_path / name
    lines = [f"{WORDS[i % 5]} number {i},{cell}" for i, cell in enumerate(cells)]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


def test_a_cell_lists_classes(tmp_path):
    data = load_dataset(table(tmp_path, [*CELLS * 20, ""]))
    assert data.class_names == ("cat", "dog", "owl")
    assert data.labels[:5].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]]
    kinds = {one.kind: one.action for one in data.findings}
    assert kinds["unlabelled"] == "left out"
    assert "multi_label off" in kinds["several_labels"]
    assert [row["images"] for row in inspect(table(tmp_path, CELLS * 20)).to_json()["classes"]] == [
        60, 60, 20
    ]  # fmt: skip


def test_a_name_with_the_mark_can_be_had(tmp_path):
    data = load_dataset(table(tmp_path, ["a|b", "c"] * 20), multi_label="off")
    assert (data.class_names, data.labels.ndim) == (("a|b", "c"), 1)
    folder = tmp_path / "photos" / "a|b"  # a folder is one class unless it is said
    folder.mkdir(parents=True)
    (folder / "one.txt").write_text("words enough")
    assert inspect(tmp_path / "photos").dataset.class_names == ("a|b",)
    several = inspect(tmp_path / "photos", multi_label="on").dataset
    assert (several.class_names, several.labels.tolist()) == (("a", "b"), [[1, 1]])


def test_lists_and_matrices_are_the_same(tmp_path):
    texts = [f"{WORDS[i % 5]} number {i}" for i in range(100)]
    lists = [["cat", "dog"], ("cat",), [], {"dog"}, ["owl", "dog", "cat"]] * 20
    matrix = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]] * 20)
    names = ["cat", "dog", "owl"]
    frame = pd.DataFrame({"text": texts, "label": lists})
    lines = tmp_path / "a.jsonl"
    frame.assign(label=[sorted(one) for one in lists]).to_json(lines, orient="records", lines=True)
    found = [
        load_dataset(frame), load_dataset((texts, lists)), load_dataset(lines),
        load_dataset((texts, matrix), class_names=names),
    ]  # fmt: skip
    for data in found:
        assert data.class_names == ("cat", "dog", "owl")
        assert sorted(map(tuple, data.labels.tolist())) == sorted(map(tuple, matrix.tolist()))
    with pytest.raises(DataError, match="its labels are lists of classes"):
        load_dataset(frame, multi_label="off")
    with pytest.raises(DataError, match=r"'a\|b' is no name"):
        load_dataset(pd.DataFrame({"text": texts, "label": [["a|b"]] * 100}))
    with pytest.raises(DataError, match="3 columns, for 2 names"):
        load_dataset((texts, matrix), class_names=["x", "y"])


def test_rare_classes_reach_every_split_and_groups_stay_whole(tmp_path):
    cells = [("common|rare" if i % 12 == 0 else "common") for i in range(120)]
    cells[::7] = ["common|other"] * len(cells[::7])
    path = table(tmp_path, cells)
    rows = path.read_text().splitlines()
    grouped = [f"{row},g{i // 3}" for i, row in enumerate(rows[1:])]
    path.write_text("\n".join(["text,label,group", *grouped]) + "\n")
    data = load_dataset(path)
    for name in ("train", "val", "test"):
        assert (data.labels[data.splits == name].sum(axis=0) > 0).all()
    places = {}
    for path_, split in zip(data.paths, data.splits, strict=True):
        places.setdefault((int(path_[4:]) - 2) // 3, set()).add(split)
    assert all(len(one) == 1 for one in places.values())


def test_splits_go_there_and_back(tmp_path):
    path = table(tmp_path, CELLS * 20)
    data = load_dataset(path)
    write_splits(data, tmp_path / "splits.csv")
    assert ",cat|dog," in (tmp_path / "splits.csv").read_text()
    again = load_dataset(path, splits=tmp_path / "splits.csv", seed=5)
    assert (again.splits == data.splits).all()
    (tmp_path / "splits.csv").write_text(
        (tmp_path / "splits.csv").read_text().replace(",cat|dog,", ",cat,", 1)
    )
    with pytest.raises(DataError, match=r"cat\|dog"):
        load_dataset(path, splits=tmp_path / "splits.csv")


def test_a_class_without_training_examples_is_left_out(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"word {i},cat|dog,{s}" for i, s in enumerate(["train"] * 9 + ["val"] * 3)]
    rows += [f"other {i},cat,{s}" for i, s in enumerate(["train"] * 9 + ["test"] * 3)]
    path.write_text("\n".join(["text,label,split", *rows, "late,cat|owl,test"]) + "\n")
    data = load_dataset(path)
    assert data.class_names == ("cat", "dog")
    assert "class_without_training" in {one.kind for one in data.findings}
