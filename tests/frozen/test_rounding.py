"""bfloat16 for training images alone, and only where it agrees."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from recorder import Recorder

from keras_transfer import backbones, datasets
from keras_transfer.base.progress import Progress
from keras_transfer.frozen import engine, features
from keras_transfer.frozen.features import FrozenPart, Views
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.model import build_classifier

pytestmark = pytest.mark.skipif(
    not engine.computes_bfloat16(), reason="this processor has no instructions for bfloat16"
)


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    """Digits are so alike that bfloat16 would never do for them."""
    monkeypatch.setattr(features, "_AGREEMENT", 0.5)


@pytest.fixture(scope="module")
def data():
    return datasets.load_dataset("builtin:digits", image_size=64, per_class=12)


@pytest.fixture(scope="module")
def backbone():
    return backbones.build("EfficientNetLite0", image_size=64, weights="offline")


def part(backbone, data, name="auto", sample=None, also=()):
    sample = data.examples[data.indices("train")[:32]] if sample is None else sample
    return FrozenPart(
        build_classifier(backbone, 10), backbone, ("block6d_add",), engine=name,
        examples_count=10**9, sample=sample, also=also,
    )  # fmt: skip


def extracted(frozen, store, data, **options):
    options = {"store": store, "progress": Progress()} | options
    return frozen.inputs(Views(data), data.indices("train"), 0, **options)[0]


def stored(store):
    found = (json.loads(path.read_text())["engine"] for path in store.folder.glob("*/key.json"))
    return sorted(found)


def test_training_images_alone_are_rounded(backbone, data, tmp_path):
    notes = Recorder()
    with ActivationStore(tmp_path) as store:
        frozen = part(backbone, data)
        rounded = extracted(frozen, store, data, exact=False, progress=notes)
        assert stored(store) == ["openvino-bfloat16"] * 2
        exact = extracted(frozen, store, data)
        assert stored(store) == ["openvino"] * 2 + ["openvino-bfloat16"] * 2
    off = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-3 < off < 0.1
    (said,) = notes.notes
    share = float(said.split(" by ")[1].split("%")[0]) / 100
    # Of the sample's 32 images, which are those that come first.
    first, other = exact[:32].astype(np.float64), rounded[:32].astype(np.float64)
    apart = [np.linalg.norm(np.delete(first, i, 0) - first[i], axis=1).min() for i in range(32)]
    moved = np.linalg.norm(first - other, axis=1)
    assert share == pytest.approx(np.median(moved) / np.median(apart), abs=0.02)


def test_what_disagrees_stays_in_float32(backbone, data, tmp_path, monkeypatch):
    monkeypatch.undo()
    notes = Recorder()
    with ActivationStore(tmp_path) as store:
        extracted(part(backbone, data), store, data, exact=False, progress=notes)
        assert stored(store) == ["openvino"] * 2
    assert notes.notes[0].startswith("All examples in float32")


@pytest.mark.parametrize("rows", [[0], [0] * 32])
def test_a_sample_that_says_nothing_is_no_agreement(backbone, data, rows, tmp_path):
    with ActivationStore(tmp_path) as store:
        frozen = part(backbone, data, sample=data.examples[rows])
        extracted(frozen, store, data, exact=False)
        assert stored(store) == ["openvino"] * 2


def test_an_engine_that_is_named_is_what_runs(backbone, data, tmp_path):
    with ActivationStore(tmp_path) as store:
        extracted(part(backbone, data, "openvino"), store, data, exact=False)
        assert stored(store) == ["openvino"] * 2


@pytest.mark.parametrize("agreement", [0.5, 0.0])
def test_what_the_store_holds_decides_nothing(backbone, data, tmp_path, monkeypatch, agreement):
    """Not where rows of the other kind are there already, nor other cuts of the same network."""
    monkeypatch.setattr(features, "_AGREEMENT", agreement)
    with ActivationStore(tmp_path / "empty") as store:
        fresh = extracted(part(backbone, data), store, data, exact=False)
    with ActivationStore(tmp_path / "full") as store:
        extracted(part(backbone, data), store, data)
        monkeypatch.setattr(features, "_AGREEMENT", 0.5 - agreement)
        more = part(backbone, data, also=(("block4b_add",), ("block2b_add",)))
        extracted(more, store, data, exact=False)
        monkeypatch.setattr(features, "_AGREEMENT", agreement)
        again = extracted(part(backbone, data), store, data, exact=False)
    np.testing.assert_array_equal(again, fresh)


def test_rows_do_not_depend_on_the_cuts_stored_beside_them(backbone, data, tmp_path):
    found = []
    for name, also in (("one", ()), ("three", (("block4b_add",), ("stem_activation",)))):
        with ActivationStore(tmp_path / name) as store:
            frozen = part(backbone, data, also=also)
            options = {"store": store, "progress": Progress(), "exact": False}
            pooled, cut = frozen.inputs(Views(data), data.indices("train"), 0, **options)
            found.append((pooled, cut.gather(np.arange(len(pooled)))[0]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("agreement", [0.5, 0.0])
def test_a_second_run_makes_no_engine_ready(backbone, data, tmp_path, monkeypatch, agreement):
    monkeypatch.setattr(features, "_AGREEMENT", agreement)
    with ActivationStore(tmp_path) as store:
        before = extracted(part(backbone, data), store, data, exact=False)
        monkeypatch.setattr(features, "build_engine", None)
        again = part(backbone, data)
        np.testing.assert_array_equal(before, extracted(again, store, data, exact=False))
        assert "engine" not in vars(again)


def test_damaged_rows_are_computed_again_as_they_were(backbone, data, tmp_path):
    with ActivationStore(tmp_path) as store:
        once = extracted(part(backbone, data), store, data, exact=False)
    for path in tmp_path.glob("*/*.npy"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with ActivationStore(tmp_path) as store:
        with pytest.warns(UserWarning, match="damaged"):
            again = extracted(part(backbone, data), store, data, exact=False)
        assert store.counts.misses == len(again)
        assert stored(store) == ["openvino-bfloat16"] * 2
    np.testing.assert_array_equal(again, once)


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_a_processor_that_was_told_to_know_no_bfloat16_computes_in_float32(
    digits_folder, tmp_path, isa
):
    command = [
        sys.executable, "-m", "keras_transfer", "train", str(digits_folder), "--effort", "quick",
        "--image-size", "32", "--per-class", "6", "--quiet", "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "bfloat16" not in json.dumps(metrics["compute"])
