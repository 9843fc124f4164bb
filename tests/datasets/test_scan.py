from __future__ import annotations

import os
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from zoo import encode, fill, photo

from keras_transfer.base import files
from keras_transfer.base.errors import DataError, ExampleError
from keras_transfer.base.types import Finding
from keras_transfer.datasets import load_dataset, scan
from keras_transfer.datasets.sources import Item, Source, label_by_folder
from keras_transfer.modalities import image


@pytest.fixture
def folder(tmp_path, pictures):
    return fill(tmp_path / "set", {"cat": 15, "dog": 15}, pictures)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the images that are decoded."""
    calls: list[int] = []
    examine = image.examine
    monkeypatch.setattr(
        image, "examine", lambda data, spec=None: calls.append(1) or examine(data, spec)
    )
    return calls


def stored() -> list[Path]:
    return sorted((files.cache_folder() / "examples").iterdir())


def test_pixels_are_those_of_the_decoder_at_any_length(folder):
    data = load_dataset(folder, image_size=(24, 40))
    assert data.examples.shape == (30, 24, 40, 3)
    for i, path in enumerate(data.paths):
        expected = image.decode((folder / path).read_bytes(), image.spec((24, 40)))
        assert np.array_equal(data.examples[i], expected)


def test_a_second_run_only_hashes(folder, decoded):
    first = load_dataset(folder, image_size=24)
    assert len(decoded) == 30
    again = load_dataset(folder, image_size=24)
    assert len(decoded) == 30
    assert np.array_equal(first.examples, again.examples)
    assert first.digests == again.digests
    assert first.findings == again.findings
    load_dataset(folder, image_size=32)
    load_dataset(folder)
    assert len(decoded) == 90


def test_large_sets_are_mapped(folder, monkeypatch):
    monkeypatch.setattr(scan, "IN_MEMORY", 1000)
    (folder / "cat" / "a-bad.jpg").write_bytes(b"")
    for _ in range(2):
        data = load_dataset(folder, image_size=24)
        assert isinstance(data.examples, np.memmap)
        assert not data.examples.flags.writeable
        expected = image.decode(data.read(20), image.spec(24))
        assert np.array_equal(data.examples[20], expected)


def test_without_the_cache_nothing_is_written(folder, decoded):
    for _ in range(2):
        data = load_dataset(folder, image_size=24, cache=False)
        assert data.examples.shape == (30, 24, 24, 3)
    assert len(decoded) == 60
    assert not files.cache_folder().joinpath("examples").exists()


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename", "swap"])
def test_any_change_is_noticed(folder, change, pictures):
    load_dataset(folder, image_size=24)
    first, second = folder / "cat/000.jpg", folder / "cat/001.jpg"
    if change == "edit":
        first.write_bytes(pictures[50])
    elif change == "add":
        (folder / "cat/0000.jpg").write_bytes(pictures[50])
    elif change == "remove":
        first.unlink()
    elif change == "rename":
        first.rename(folder / "cat/zzz.jpg")
    else:
        first.rename(folder / "spare")
        second.rename(first)
        (folder / "spare").rename(second)
    data = load_dataset(folder, image_size=24)
    for i, path in enumerate(data.paths):
        assert np.array_equal(
            data.examples[i], image.decode((folder / path).read_bytes(), image.spec(24))
        )
    assert len(stored()) == 2


@pytest.mark.parametrize("damage", ["index", "short", "long", "missing", "empty", "policy"])
def test_damaged_caches_are_made_again(folder, damage, decoded, monkeypatch):
    expected = load_dataset(folder, image_size=24).examples
    pixels, index = sorted(stored(), key=lambda path: path.suffix)
    assert (pixels.suffix, index.suffix) == (".examples", ".npz")
    if damage == "index":
        data = bytearray(index.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        index.write_bytes(data)
    elif damage == "short":
        os.truncate(pixels, 1000)
    elif damage == "long":
        os.truncate(pixels, 10**6)
    elif damage == "missing":
        pixels.unlink()
    elif damage == "empty":
        index.write_bytes(b"")
    else:
        monkeypatch.setattr(image, "VERSION", 999)
    with warnings.catch_warnings(action="ignore"):
        assert np.array_equal(load_dataset(folder, image_size=24).examples, expected)
    assert len(decoded) == 60


def test_an_interrupted_pass_leaves_nothing(folder, monkeypatch):
    def interrupted(data, spec=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(image, "examine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(folder, image_size=24)
    assert stored() == []


def test_lack_of_room_is_said_beforehand(folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(DataError, match=r"take 51,840 bytes; .* has 10,000 bytes free"):
        load_dataset(folder, image_size=24)
    with pytest.raises(DataError, match="10,000 bytes free"):
        load_dataset(folder, image_size=24, cache=False)


def test_files_that_vanish_or_change_meanwhile_cost_a_finding_each(pictures):
    half = pictures[7][: len(pictures[7]) * 3 // 4]
    broken = {"a/04.jpg": ExampleError("no such file"), "b/07.jpg": half}
    items = [Item(f"{'ab'[i % 2]}/{i:02d}.jpg", "ab"[i % 2]) for i in range(30)]

    def read(path: str) -> bytes:
        outcome = broken.get(path, pictures[int(path[2:4])])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    data = load_dataset(Source("made", items, read), image_size=16)
    assert len(data) == 28
    assert {one.path: one.kind for one in data.findings} == {
        "a/04.jpg": "unreadable",
        "b/07.jpg": "truncated",
    }


def test_a_file_that_changed_since_is_not_read_as_if_it_had_not(folder, pictures):
    data = load_dataset(folder)
    (folder / data.paths[3]).write_bytes(pictures[55])
    with pytest.raises(DataError, match=r"003\.jpg has changed"):
        data.read(3)
    (folder / data.paths[4]).unlink()
    with pytest.raises(DataError, match=r"004\.jpg: no such file"):
        data.read(4)


@pytest.mark.parametrize("cache", [True, False])
def test_one_bad_file_costs_one_row(tmp_path, pictures, cache):
    root = fill(tmp_path, {"cat": 10, "dog": 10}, pictures)
    (root / "cat" / "0005.jpg").write_bytes(encode(photo(), "JPEG")[:1000])
    data = load_dataset(root, image_size=16, cache=cache)
    assert len(data) == 20
    assert data.examples.shape[0] == 20
    for pixels, path in zip(data.examples, data.paths, strict=True):
        assert np.array_equal(pixels, image.decode((root / path).read_bytes(), image.spec(16)))
    assert [(one.path, one.kind) for one in data.findings] == [("cat/0005.jpg", "truncated")]


@pytest.mark.parametrize("mapped", [False, True])
def test_damaged_examples_are_named_and_decoded_again(folder, decoded, monkeypatch, mapped):
    if mapped:
        monkeypatch.setattr(scan, "IN_MEMORY", 1000)
    expected, size = np.array(load_dataset(folder, image_size=24).examples), 24 * 24 * 3
    path = next(path for path in stored() if path.suffix == ".examples")
    data = bytearray(path.read_bytes())
    data[2 * size : 3 * size] = bytes(size)
    data[7 * size + 5] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=f"{path} is damaged"):
        again = load_dataset(folder, image_size=24)
    assert np.array_equal(again.examples, expected)
    assert len(decoded) == 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_dataset(folder, image_size=24).examples, expected)


@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_left_out_takes_no_room(tmp_path, pictures, decoded, monkeypatch, mapped):
    root = fill(tmp_path, {"cat": 10, "dog": 10}, pictures)
    for name in ("cat/0005.jpg", "dog/0.jpg"):
        (root / name).write_bytes(b"")
    (root / "dog/000.jpg").write_bytes((root / "cat/000.jpg").read_bytes())  # two labels
    if mapped:
        monkeypatch.setattr(scan, "IN_MEMORY", 1000)
    for cache in (True, True, False):
        data = load_dataset(root, image_size=16, cache=cache)
        assert len(data) == len(data.examples) == 19
        for pixels, path in zip(data.examples, data.paths, strict=True):
            expected = image.decode((root / path).read_bytes(), image.spec(16))
            assert np.array_equal(pixels, expected)
    assert len(decoded) == 2 * 23


def test_one_byte_that_changes_later_is_noticed(folder):
    data = load_dataset(folder, image_size=24)
    path = folder / data.paths[3]
    encoded = path.read_bytes()
    assert data.read(3) == encoded
    path.write_bytes(encoded[:-1] + b"?")
    with pytest.raises(DataError, match="changed"):
        data.read(3)


def test_a_million_items_would_take_half_a_gibibyte():
    """What is held of an item besides its example, from a folder's way of listing on."""
    from io import BytesIO

    from PIL import Image

    def png(path: str) -> bytes:
        pixels = np.random.default_rng(int(path[-9:-4])).integers(0, 255, (32, 32, 3), np.uint8)
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, "png", compress_level=0)
        return stream.getvalue()

    def held(count: int) -> int:
        findings: list[Finding] = []
        tracemalloc.start(1)
        paths = (f"{('cat', 'dog')[i % 2]}/{i:05d}.png" for i in range(count))
        items, _ = label_by_folder(paths, findings)
        data = load_dataset(Source("many", items, png), image_size=32)
        now = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return now - data.examples.nbytes

    held(200)  # what is imported and made once
    assert (held(2200) - held(200)) / 2000 < 512
