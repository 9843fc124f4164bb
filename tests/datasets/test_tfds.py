from __future__ import annotations

import socket
import time
from typing import ClassVar

import numpy as np
import pytest
import zoo

from keras_transfer.base.errors import DataError
from keras_transfer.datasets import load_dataset, tfds

library = pytest.importorskip("tensorflow_datasets")


class LocalPhotos(library.core.GeneratorBasedBuilder):
    """A set made from the sample photos, as somebody's own builder would make it."""

    VERSION = library.core.Version("1.0.0")

    def _info(self):
        features = library.features.FeaturesDict(
            {
                "picture": library.features.Image(encoding_format="jpeg"),
                "kind": library.features.ClassLabel(names=["flower", "china"]),
                "note": library.features.Text(),
            }
        )
        return library.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(20)),
            "test": self._generate_examples(range(20, 26)),
            "extra": self._generate_examples(range(26, 28)),
        }

    def _generate_examples(self, seeds):
        for seed in seeds:
            label = ("flower", "china")[seed % 2]
            photo = zoo.photo(f"{label}.jpg", side=40, seed=seed)
            yield seed, {"picture": np.asarray(photo), "kind": label, "note": "hello"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    builder = LocalPhotos(data_dir=str(tmp_path_factory.mktemp("tfds")))
    builder.download_and_prepare()
    return str(builder.data_dir)


def test_a_prepared_folder_is_opened(folder):
    data = load_dataset(folder, image_size=40)
    assert data.class_names == ("flower", "china")
    assert len(data) == 26
    assert len(data.indices("test")) == 6
    assert len(data.indices("val")) == 4
    assert {one.kind for one in data.findings} == {"other_split", "split_off"}
    for i in range(len(data)):
        assert data.read(i).startswith(b"\xff\xd8\xff")
    for pixels, label in zip(data.examples, data.labels, strict=True):
        name = f"{data.class_names[label]}.jpg"
        photos = np.stack([zoo.photo(name, side=40, seed=seed) for seed in range(26)])
        assert np.abs(pixels - photos.astype(int)).mean(axis=(1, 2, 3)).min() < 12


def test_the_same_set_opens_by_name(folder, monkeypatch):
    monkeypatch.setattr(library, "builder", lambda name: library.builder_from_directory(folder))
    assert load_dataset("tfds:local_photos").digests == load_dataset(folder).digests


class LocalReviews(library.core.GeneratorBasedBuilder):
    """Texts, some of them without a label, as sets of reviews have them."""

    VERSION = library.core.Version("1.0.0")
    FEATURES: ClassVar = {
        "said": library.features.Text(),
        "stars": library.features.ClassLabel(names=["few", "many"]),
    }
    KEYS: ClassVar = ("said", "stars")

    def _info(self):
        features = library.features.FeaturesDict(self.FEATURES)
        return library.core.DatasetInfo(builder=self, features=features, supervised_keys=self.KEYS)

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(20)),
            "test": self._generate_examples(range(20, 26)),
            "unsupervised": self._generate_examples(range(26, 28)),
        }

    def _generate_examples(self, numbers):
        for i in numbers:
            row = {"said": f"Caf\u00e9 number {i}, {i * i} times", "stars": i % 2}
            yield i, {key: row.get(key, "more") for key in self.FEATURES}


def prepared(builder, place) -> str:
    made = builder(data_dir=str(place))
    made.download_and_prepare()
    return str(made.data_dir)


def test_texts_are_opened(tmp_path):
    data = load_dataset(prepared(LocalReviews, tmp_path), image_size=16)
    assert (data.modality, data.class_names) == ("text", ("few", "many"))
    assert {split: len(data.indices(split)) for split in ("train", "val", "test")} == {
        "train": 16, "val": 4, "test": 6,
    }  # fmt: skip
    assert {one.kind for one in data.findings} == {"other_split", "split_off"}
    said = {data.read(i).decode(): data.class_names[data.labels[i]] for i in range(len(data))}
    assert said == {
        f"Caf\u00e9 number {i}, {i * i} times": ("few", "many")[i % 2] for i in range(26)
    }


def test_texts_are_found_where_nothing_says_what_maps_to_what(tmp_path):
    class Silent(LocalReviews, skip_registration=True):
        KEYS = None

    assert load_dataset(prepared(Silent, tmp_path)).modality == "text"


@pytest.mark.parametrize("keys", [None, (("said", "also"), "stars")])
def test_two_texts_of_one_example_are_refused(tmp_path, keys):
    class Pairs(LocalReviews, skip_registration=True):
        FEATURES: ClassVar = {**LocalReviews.FEATURES, "also": library.features.Text()}
        KEYS = keys

    with pytest.raises(DataError, match="maps ") as caught:
        load_dataset(prepared(Pairs, tmp_path))
    assert "images or texts" in caught.value.remedy


def test_an_unknown_name_gets_suggestions():
    with pytest.raises(DataError, match=r"no set 'cifar1'.*cifar10"):
        load_dataset("tfds:cifar1")


def test_a_set_that_needs_the_network_fails_fast(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(tfds.urllib.request, "getproxies", dict)
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"www\.cs\.toronto\.edu.*no network") as caught:
        load_dataset("tfds:cifar10")
    assert time.perf_counter() - start < 20
    assert "folder" in caught.value.remedy


def test_a_set_without_classes_is_refused(tmp_path):
    class Plain(library.core.GeneratorBasedBuilder):
        VERSION = library.core.Version("1.0.0")

        def _info(self):
            features = library.features.FeaturesDict({"picture": library.features.Image()})
            return library.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"picture": np.zeros((9, 9, 3), np.uint8)}

    builder = Plain(data_dir=str(tmp_path))
    builder.download_and_prepare()
    with pytest.raises(DataError, match="maps Image; one Image or Text, and one ClassLabel"):
        load_dataset(str(builder.data_dir))


def test_a_damaged_folder_is_refused(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="no prepared TFDS set"):
        load_dataset(tmp_path)
