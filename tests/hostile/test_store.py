"""Whatever has happened to a file of the cache: it is named, made again, and the digits are equal.

A cache that cannot be used at all is done without, with a warning. Damage that is noticed by nobody
else but would change nothing (an answer that is asked again) needs no note.
"""

import contextlib
import io
import json
import os
import shutil
import warnings

import numpy as np
import pytest

from hostile.shim import READ, Shim, failing
from keras_transfer import backbones, datasets
from keras_transfer.base import files
from keras_transfer.base.progress import Progress
from keras_transfer.frozen.features import FrozenPart, Views
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.model import build_classifier

ROWS = np.arange(6)


# What is done to a file -------------------------------------------------------------------------


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    path.write_bytes(b"")


def lengthened(path):
    path.write_bytes(path.read_bytes() + b"more")


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def gone(path):
    path.unlink()


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_full_folder(path):
    a_folder(path)
    (path / "file").touch()


def a_dangling_link(path):
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def a_link_to_itself(path):
    path.unlink()
    path.symlink_to(path)


def a_device(path):
    path.unlink()
    path.symlink_to("/dev/zero" if path.suffix != ".json" else "/dev/null")


def of_objects(path):
    """Of a foreign kind: only unpickling, which runs code, would read it."""
    content = io.BytesIO()
    np.save(content, np.array([{"a": 1}], object), allow_pickle=True)
    path.write_bytes(content.getvalue())


def an_archive_of_objects(path):
    np.savez(path, records=np.array([{}], object), fingerprints=1, kept=2)


def of_another_version(path):
    np.savez(path, rows=np.zeros(3), kept=np.arange(3))


def json_of(value):
    def write(path):
        path.write_text(json.dumps(value), encoding="utf-8")

    return write


def without(field):
    def write(path):
        held = json.loads(path.read_text())
        del held[field]
        path.write_text(json.dumps(held))

    return write


def with_more_digests(path):
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"digests": [*held["digests"], "a" * 64]}))


def naming_another_file(path):
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"files": ["../../elsewhere.npy"] * len(held["files"])}))


# The decoded examples ---------------------------------------------------------------------------


@pytest.fixture
def pictures(digits_folder, tmp_path):
    """Two small sets in class folders."""
    for name, first in (("set", 0), ("other", 6)):
        for digit in range(2):
            (tmp_path / name / f"digit-{digit}").mkdir(parents=True)
            for number in range(first, first + 6):
                kept = f"digit-{digit}/{number:03d}.png"
                shutil.copyfile(digits_folder / kept, tmp_path / name / kept)
    return tmp_path / "set"


def opened(folder):
    """A data set as the cache gives it, and the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        data = datasets.load_dataset(folder, image_size=16, split=(0.5, 0.25, 0.25))
    return data, [str(one.message) for one in said]


def assert_equal(data, expected):
    assert np.array_equal(data.examples, expected.examples)
    assert data.digests == expected.digests
    assert data.paths == expected.paths
    assert np.array_equal(data.labels, expected.labels)


def swapped(path):
    """With the file of another set, of the same kind and length."""
    here = set(path.parent.iterdir())
    opened(path.parents[2] / "other")
    (other,) = (one for one in set(path.parent.iterdir()) - here if one.suffix == path.suffix)
    path.write_bytes(other.read_bytes())


# What is damaged, how, and words that must be in a warning: none where nothing is lost but time.
EXAMPLES = {
    "an index of zeros": (".npz", zeroed, "is damaged"),
    "an index cut in half": (".npz", cut, "is damaged"),
    "an empty index": (".npz", emptied, "is damaged"),
    "an index that is gone": (".npz", gone, ""),
    "an index with a bit flipped": (".npz", flipped, None),
    "an index of another set": (".npz", swapped, ""),
    "an index that is JSON": (".npz", json_of([1, 2]), "is damaged"),
    "an index of pickled objects": (".npz", an_archive_of_objects, "is damaged"),
    "an index of another version": (".npz", of_another_version, "is damaged"),
    "a folder where the index is meant": (".npz", a_folder, "cache of examples cannot be used"),
    "a link to nowhere as the index": (".npz", a_dangling_link, ""),
    "a link to itself as the index": (".npz", a_link_to_itself, "is damaged"),
    "examples of zeros": (".examples", zeroed, "is damaged"),
    "examples cut in half": (".examples", cut, ""),
    "examples with something after them": (".examples", lengthened, ""),
    "examples with a bit flipped": (".examples", flipped, "is damaged"),
    "examples of another set": (".examples", swapped, "is damaged"),
    "examples that are gone": (".examples", gone, ""),
    "a folder where the examples are meant": (".examples", a_folder, "cannot be used"),
    "a full folder where the examples are meant": (".examples", a_full_folder, "cannot be used"),
    "a link to nowhere as the examples": (".examples", a_dangling_link, ""),
    "a link to itself as the examples": (".examples", a_link_to_itself, ""),
    "a device as the examples": (".examples", a_device, ""),
}


@pytest.fixture
def own_cache(tmp_path):
    with files.cache_at(tmp_path / "cache"):
        yield tmp_path / "cache"


@pytest.mark.parametrize("case", EXAMPLES)
def test_examples(case, pictures, own_cache):
    suffix, damage, needle = EXAMPLES[case]
    expected, said = opened(pictures)
    assert said == []
    (path,) = (one for one in (own_cache / "examples").iterdir() if one.suffix == suffix)
    damage(path)
    data, said = opened(pictures)
    assert_equal(data, expected)
    if needle is not None:
        assert bool(said) == bool(needle), said
        assert needle in "".join(said)
    if said:
        assert path.name in said[0]
    if "folder" not in case:  # which somebody else must take away
        data, said = opened(pictures)
        assert_equal(data, expected)
        assert said == []


@pytest.mark.parametrize("fault", ["EACCES", "EIO"])
@pytest.mark.parametrize("full", [True, False], ids=["a full cache", "an empty cache"])
def test_a_cache_of_examples_that_can_be_neither_read_nor_written(fault, full, pictures, own_cache):
    expected, _ = opened(pictures)
    if not full:
        shutil.rmtree(own_cache)
    own_cache.mkdir(exist_ok=True)
    with failing(Shim([own_cache], fault, 1, lasts=True)):
        data, said = opened(pictures)
    assert_equal(data, expected)
    assert said
    assert all(str(own_cache) in one for one in said)


def test_a_full_cache_that_cannot_be_written_is_read(pictures, own_cache):
    expected, _ = opened(pictures)
    with failing(Shim([own_cache], "ENOSPC", 1, lasts=True)):
        data, said = opened(pictures)
    assert_equal(data, expected)
    assert said == []


@pytest.mark.parametrize("place", ["", "examples"], ids=["the cache", "its examples"])
def test_a_file_where_the_folder_is_meant_of(place, pictures, own_cache):
    expected, _ = opened(pictures)
    shutil.rmtree(own_cache)
    (own_cache / place).parent.mkdir(parents=True, exist_ok=True)
    (own_cache / place).write_text("mine")
    data, said = opened(pictures)
    assert_equal(data, expected)
    assert str(own_cache) in "".join(said)
    assert (own_cache / place).read_text() == "mine"


# The activations --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen():
    """The default network with its weights, below a cut, on some digits."""
    data = datasets.load_dataset("builtin:digits", image_size=32, per_class=8)
    backbone = backbones.build("EfficientNetLite0", image_size=32)
    part = FrozenPart(
        build_classifier(backbone, 10), backbone, backbone.blocks[-3].cut,
        engine="openvino", examples_count=100, sample=data.examples[:8],
    )  # fmt: skip
    return part, Views(data)


def found(frozen, folder):
    """The pooled features and the tensors at the cut, the rows computed, and the warnings."""
    part, views = frozen
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with ActivationStore(folder) if folder else contextlib.nullcontext() as store:
            features, inputs = part.inputs(views, ROWS, 0, store=store, progress=Progress())
            values = [features, *inputs.gather(ROWS)]
            misses = store.counts.misses if store else len(ROWS)
    return values, misses, [str(one.message) for one in said]


@pytest.fixture(scope="module")
def kept(frozen, tmp_path_factory):
    """A store that holds the rows, and what they are from the store and without."""
    folder = tmp_path_factory.mktemp("kept") / "activations"
    found(frozen, folder)
    stored, misses, said = found(frozen, folder)
    assert (misses, said) == (0, [])
    assert all(len({row.tobytes() for row in tensor}) == len(ROWS) for tensor in stored)
    return folder, stored, found(frozen, None)[0]


def assert_same(values, *expected):
    """Equal to the last digit to one of the ways of computing them."""
    assert any(all(map(np.array_equal, values, one)) for one in expected)


RECORD, SHARD, KEY = "*/shard-*.json", "*/shard-*.0.npy", "*/key.json"
DAMAGED, UNUSED, NOTHING = "is damaged", "store cannot be used", ""
# Which files are damaged, how, and words that must be in a warning.
ACTIVATIONS = {
    "shards of zeros": (SHARD, zeroed, DAMAGED),
    "shards cut in half": (SHARD, cut, DAMAGED),
    "empty shards": (SHARD, emptied, DAMAGED),
    "shards with something after them": (SHARD, lengthened, DAMAGED),
    "shards with a bit flipped": (SHARD, flipped, DAMAGED),
    "shards of pickled objects": (SHARD, of_objects, DAMAGED),
    "shards that are gone": (SHARD, gone, DAMAGED),
    "folders where shards are meant": (SHARD, a_folder, UNUSED),
    "links to nowhere as shards": (SHARD, a_dangling_link, DAMAGED),
    "links to themselves as shards": (SHARD, a_link_to_itself, DAMAGED),
    "records of zeros": (RECORD, zeroed, DAMAGED),
    "records cut in half": (RECORD, cut, DAMAGED),
    "empty records": (RECORD, emptied, DAMAGED),
    "records that are gone": (RECORD, gone, NOTHING),
    "records that are lists": (RECORD, json_of([]), DAMAGED),
    "records that are numbers": (RECORD, json_of(3), DAMAGED),
    "records of nothing": (RECORD, json_of({}), DAMAGED),
    "records without checksums": (RECORD, without("checksums"), DAMAGED),
    "records without digests": (RECORD, without("digests"), DAMAGED),
    "records with numbers for names": (
        RECORD, json_of({"files": [1], "checksums": [2], "digests": [3]}), DAMAGED,
    ),
    "records of more rows than there are": (RECORD, with_more_digests, NOTHING),
    "records that name another file": (RECORD, naming_another_file, DAMAGED),
    "folders where records are meant": (RECORD, a_folder, UNUSED),
    "links to nowhere as records": (RECORD, a_dangling_link, DAMAGED),
    "devices as records": (RECORD, a_device, DAMAGED),
    "keys of zeros": (KEY, zeroed, NOTHING),
    "keys that are gone": (KEY, gone, NOTHING),
    "folders where keys are meant": (KEY, a_folder, NOTHING),
    "answers of zeros": ("answers/*.json", zeroed, NOTHING),
    "answers cut in half": ("answers/*.json", cut, NOTHING),
    "folders where answers are meant": ("answers/*.json", a_folder, NOTHING),
    "links to themselves as answers": ("answers/*.json", a_link_to_itself, NOTHING),
    "answers to something else": ("answers/*.json", json_of({"a": 1}), NOTHING),
    "locks that are links to nowhere": ("*/lock", a_dangling_link, UNUSED),
    "folders where locks are meant": ("*/lock", a_folder, UNUSED),
}  # fmt: skip


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations(case, frozen, kept, tmp_path):
    pattern, damage, needle = ACTIVATIONS[case]
    folder = shutil.copytree(kept[0], tmp_path / "activations", symlinks=True)
    damaged = sorted(folder.glob(pattern))
    assert damaged
    for path in damaged:
        damage(path)
    values, _, said = found(frozen, folder)
    assert_same(values, *kept[1:])
    if needle is not None:
        assert bool(said) == bool(needle), said
        assert needle in "".join(said)
    assert all(str(folder) in one for one in said)
    if needle != UNUSED:  # it has been made again
        values, misses, said = found(frozen, folder)
        assert_same(values, kept[1])
        assert (misses, said) == (0, [])


@pytest.mark.parametrize(
    "place", ["", "answers", "KEY", "KEY/users"], ids=["store", "answers", "key", "marks"]
)
def test_a_file_where_a_folder_of_the_store_is_meant(place, frozen, kept, tmp_path):
    folder = shutil.copytree(kept[0], tmp_path / "activations")
    names = [path.parent.name for path in folder.glob(KEY)] if "KEY" in place else [""]
    for name in names:
        one = folder / place.replace("KEY", name)
        shutil.rmtree(one)
        one.write_text("mine")
    values, _, said = found(frozen, folder)
    assert_same(values, *kept[1:])
    assert bool(said) == (place != "answers")


@pytest.mark.parametrize("fault", ["EACCES", "EIO", "ENOSPC"])
def test_a_store_that_fails_is_done_without(fault, frozen, kept, tmp_path):
    (tmp_path / "activations").mkdir()
    with failing(Shim([tmp_path], fault, 1, lasts=True)):
        values, _, said = found(frozen, tmp_path / "activations")
    assert_same(values, kept[2])
    assert str(tmp_path) in "".join(said)
    values, misses, said = found(frozen, tmp_path / "activations")
    assert_same(values, kept[1])
    assert (misses, said) == (len(ROWS), [])


def test_rows_that_cannot_be_read_once_are_computed_again(frozen, kept, tmp_path):
    folder = shutil.copytree(kept[0], tmp_path / "activations")
    counted = Shim([folder], "EIO", kinds=[READ])
    with failing(counted):
        found(frozen, folder)
    for at in range(1, len(counted.points) + 1):
        shutil.rmtree(folder)
        shutil.copytree(kept[0], folder)
        with failing(Shim([folder], "EIO", at, kinds=[READ])):
            values, _, _ = found(frozen, folder)
        assert_same(values, *kept[1:])
        values, misses, said = found(frozen, folder)
        assert_same(values, kept[1])
        assert (misses, said) == (0, [])
