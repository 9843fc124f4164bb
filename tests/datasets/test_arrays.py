from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from zoo import noise

from keras_transfer.base.errors import DataError
from keras_transfer.datasets import load_dataset


def test_arrays_become_a_set_without_any_loss():
    images, labels = noise(60), np.arange(60) % 3
    data = load_dataset((images, labels), image_size=16, class_names=["zoo", "ant", "cat"])
    assert data.class_names == ("zoo", "ant", "cat")
    order = [int(path.split("/")[1].split(".")[0]) for path in data.paths]
    assert np.array_equal(data.examples, images[order])
    assert data.labels.tolist() == labels[order].tolist()
    assert len(data.indices("test")) == 9


def test_integer_labels_sort_as_numbers():
    data = load_dataset((noise(36), [8, 9, 10] * 12))
    assert data.class_names == ("08", "09", "10")


@pytest.mark.parametrize("labels", [["b", "a"] * 12, np.array([b"b", b"a"] * 12)])
def test_labels_may_be_strings(labels):
    assert load_dataset((noise(24), labels)).class_names == ("a", "b")


def test_grey_floats_and_lists_are_taken():
    grey = noise(24)[..., 0].astype(np.float32)
    data = load_dataset((list(grey), [0, 1] * 12), image_size=16)
    order = [int(path.split("/")[1].split(".")[0]) for path in data.paths]
    assert np.array_equal(data.examples[..., 1], grey[order])
    column = load_dataset((noise(24), np.array([[0], [1]] * 12)))
    assert column.class_names == ("0", "1")


def test_given_splits_of_arrays_are_kept():
    images = noise(60)
    data = load_dataset(
        {"train": (images[:40], [0, 1] * 20), "test": (images[40:], [0, 1] * 10)}, image_size=16
    )
    assert len(data.indices("test")) == 20
    assert len(data.indices("val")) == 8
    assert [one.kind for one in data.findings] == ["split_off"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((noise(4), [0, 1]), "4 images come with 2 labels"),
        ((noise(4) / 255.0, [0, 1] * 2), "levels from 0 to 1"),
        ((noise(4).astype(int) * 3, [0, 1] * 2), "int64 with levels"),
        ((noise(4)[..., :2], [0, 1] * 2), r"shape \(16, 16, 2\)"),
        ((noise(4), np.full((4, 2), 0.5)), "labels are float64 of shape"),
        ((noise(4), ["a", None, "b", "a"]), "label 1 is None, a NoneType"),
        ((noise(4), np.array(["a", "b", np.nan, "a"], object)), "label 2 is nan, a float"),
        ((noise(4) * np.nan, [0, 1] * 2), "levels from nan to nan"),
        ((["a.png", None, "b.png", "c.png"], ["a", "b"] * 2), "path 1 is None"),
        (([None] * 4, [0, 1] * 2), "image 0 is None, a NoneType"),
        (noise(4), "ndarray is no data"),
        (5, "int is no data"),
        ((5, [0]), "tuple is no data"),
        ((noise(4), [0.5] * 4), "labels are float64"),
        ({"train": (noise(4), [0] * 4), "more": (noise(4), [0] * 4)}, "no split 'more'"),
        ((noise(1)[:0], []), "no labelled images"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        load_dataset(data)


def test_names_must_cover_the_labels():
    with pytest.raises(DataError, match="for 2 names"):
        load_dataset((noise(24), [0, 1, 2] * 8), class_names=["a", "b"])


@pytest.mark.parametrize("batched", [False, True])
def test_tf_data_is_taken_as_it_is(batched):
    tensorflow = pytest.importorskip("tensorflow")
    images, labels = noise(24), [0, 1] * 12
    pairs = tensorflow.data.Dataset.from_tensor_slices((images.astype("float32"), labels))
    if batched:
        pairs = pairs.batch(7)
    data = load_dataset(pairs, image_size=16)
    expected = load_dataset((images, labels), image_size=16)
    assert data.digests == expected.digests
    assert np.array_equal(data.examples, expected.examples)


def test_tf_data_of_one_hot_labels_and_of_unknown_length():
    tensorflow = pytest.importorskip("tensorflow")
    images, labels = noise(24), [0, 1, 2] * 8
    pairs = tensorflow.data.Dataset.from_tensor_slices((images, np.eye(3)[labels]))
    data = load_dataset(pairs.filter(lambda image, label: True).batch(5), image_size=16)
    assert data.digests == load_dataset((images, labels), image_size=16).digests
    assert np.array_equal(data.labels, np.sort(labels))
    with pytest.raises(DataError, match="has no end"):
        load_dataset(pairs.repeat())


def test_paths_and_their_labels(tmp_path):
    paths = []
    for i, image in enumerate(noise(24)):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    names = [("ant", "bee")[i % 2] for i in range(24)]
    rows = "".join(f"{path},{name}\n" for path, name in zip(paths, names, strict=True))
    (tmp_path / "table.csv").write_text(f"path,label\n{rows}")
    expected = load_dataset(tmp_path / "table.csv")
    for given in (paths, list(map(str, paths)), np.array(list(map(str, paths)))):
        data = load_dataset((given, names))
        assert data.paths == expected.paths
        assert np.array_equal(data.labels, expected.labels)
        assert (data.modality, data.class_names) == ("image", ("ant", "bee"))
    split = {"train": (paths[:16], names[:16]), "test": (paths[16:], names[16:])}
    assert len(load_dataset(split).indices("test")) == 8
    numbers = load_dataset((paths, [i % 2 for i in range(24)]), class_names=["bee", "ant"])
    assert numbers.class_names == ("bee", "ant")
    with pytest.raises(DataError, match="24 images come with 25 labels"):
        load_dataset((paths, [*names, "ant"]))
    absent = load_dataset(([*paths, "gone.png"], [*names, "ant"]))
    assert [one.path for one in absent.findings if one.kind == "unreadable"] == ["gone.png"]


def test_tf_data_must_yield_pairs():
    tensorflow = pytest.importorskip("tensorflow")
    with pytest.raises(DataError, match="pairs of an example and a label"):
        load_dataset(tensorflow.data.Dataset.from_tensor_slices(noise(4)))


def test_digits_are_the_same_bytes_everywhere():
    first, again = load_dataset("builtin:digits"), load_dataset("builtin:digits", seed=1)
    assert len(first) == 1797
    assert first.class_names == tuple("0123456789")
    assert first.digests == again.digests
    assert first.digests[0].startswith("db8eb7474a3095a6")
    pixels = np.asarray(Image.open(io.BytesIO(first.read(0))))
    assert pixels.shape == (8, 8)
    assert pixels.max() == 239  # fifteen sixteenths
