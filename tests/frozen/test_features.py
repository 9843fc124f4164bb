"""What a stored row of activations depends on, and what it does not."""

import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_transfer import backbones, datasets
from keras_transfer.base.progress import Progress
from keras_transfer.frozen import engine
from keras_transfer.frozen.features import Continued, FrozenPart, Views
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.model import build_classifier
from keras_transfer.modalities import image


@pytest.fixture(scope="module")
def data():
    return datasets.load_dataset("builtin:digits", image_size=32, per_class=12)


@pytest.fixture(scope="module")
def backbone():
    return backbones.build("MobileNetV3Small", image_size=32, weights="none")


def part(backbone, data, **options):
    settings = {"engine": "keras", "examples_count": 100, "sample": data.examples[:8]} | options
    return FrozenPart(build_classifier(backbone, 10), backbone, backbone.blocks[-3].cut, **settings)


def computed(frozen, store, data, rows=range(5), number=0):
    """How many rows were missing."""
    before = store.counts.misses
    frozen.inputs(Views(data), np.array(rows), number, store=store, progress=Progress())
    return store.counts.misses - before


def test_rows_do_not_outlive_the_rule_that_made_their_pixels(backbone, data, tmp_path, monkeypatch):
    with ActivationStore(tmp_path) as store:
        assert computed(part(backbone, data), store, data) == 5
        assert computed(part(backbone, data), store, data) == 0
        monkeypatch.setattr(image, "VERSION", 999)
        assert computed(part(backbone, data), store, data) == 5


def test_rows_do_not_outlive_what_is_done_between_layers(data, tmp_path):
    """The same name and the same weights, and another network."""

    def built(operation):
        def layers(x):
            for block in (1, 2, 3):
                convolution = keras.layers.Conv2D(
                    4, 3, strides=2, kernel_initializer="ones", name=f"block{block}_conv"
                )
                x = keras.layers.Identity(name=f"block{block}_end")(operation(convolution(x), 0.1))
            return x

        backbones.register("Between", layers, image_size=32)
        return backbones.build("Between", weights="none")

    with ActivationStore(tmp_path) as store:
        assert computed(part(built(keras.ops.maximum), data), store, data) == 5
        # Keras gives operations new names; that says nothing.
        assert computed(part(built(keras.ops.maximum), data), store, data) == 0
        assert computed(part(built(keras.ops.minimum), data), store, data) == 5


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps here")
def test_what_was_read_of_a_mapped_file_is_let_go(data, tmp_path):
    """Or a set as large as the memory would be counted as used, and the process be ended for it."""
    path = tmp_path / "mapped.examples"
    np.tile(data.examples, (4000 // len(data) + 1, 1, 1, 1))[:4000].tofile(path)
    mapped = np.memmap(path, np.uint8, "r", shape=(4000, *data.examples.shape[1:]))

    def resident():
        about = Path("/proc/self/smaps").read_text().split(str(path))[1]
        return int(re.search(r"Rss: +(\d+) kB", about)[1])

    views = Views(dataclasses.replace(data, examples=mapped))
    drawn = [views.draw(np.arange(start, start + 100), 0) for start in range(0, 4000, 100)]
    assert np.array_equal(np.concatenate(drawn), mapped)
    assert resident() > mapped.nbytes / 2**11  # they were all compared
    views.draw(np.arange(3), 0)
    assert resident() < mapped.nbytes / 2**14


def test_rows_of_one_engine_are_none_of_anothers(backbone, data, tmp_path):
    with ActivationStore(tmp_path) as store:
        assert computed(part(backbone, data), store, data) == 5
        assert computed(part(backbone, data, engine="openvino"), store, data) == 5
        # One that Keras makes no graph of rounds in other places.
        assert computed(part(backbone, data, examples_count=1000), store, data) == 5
        # Left to us, the work decides, whatever is held.
        assert computed(part(backbone, data, engine="auto"), store, data) == 0
        many = part(backbone, data, engine="auto", examples_count=10**9)
        assert computed(many, store, data) == 0
        assert many.engine.name == "openvino"


def test_what_openvino_cannot_run_is_known_by_what_ran_it(backbone, data, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(engine, "_openvino_engine", refuse)
    with ActivationStore(tmp_path) as store:
        large = {"engine": "auto", "examples_count": 10**9}
        assert computed(part(backbone, data, **large), store, data) == 5
        assert computed(part(backbone, data, **large), store, data) == 0
        assert computed(part(backbone, data, examples_count=10**9), store, data) == 0
        monkeypatch.undo()
        assert computed(part(backbone, data, **large), store, data) == 5


def test_keras_sees_whole_batches_however_few_rows_are_missing(backbone, data, tmp_path):
    seen, frozen = [], part(backbone, data)
    own = frozen.engine

    def run(batch):
        seen.append(len(batch))
        return own.run(batch)

    vars(frozen)["engine"] = engine.Engine("keras", run)
    with ActivationStore(tmp_path) as store:
        assert computed(frozen, store, data, range(33)) == 33
        assert computed(frozen, store, data, range(34)) == 1
    assert seen == [engine.BATCH] * 3


def test_without_a_store_the_inputs_are_the_same(backbone, data, tmp_path):
    rows, frozen = np.arange(12, 20), part(backbone, data)
    with ActivationStore(tmp_path) as store:
        kept = frozen.inputs(Views(data), rows, 1, store=store, progress=Progress())
        again = frozen.inputs(Views(data), rows, 1, store=None, progress=Progress())
    assert kept[1].held
    assert not again[1].held
    np.testing.assert_allclose(kept[0], again[0], rtol=1e-3, atol=1e-4)
    some = np.array([3, 1])
    for one, other in zip(kept[1].gather(some), again[1].gather(some), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-3)


def test_inputs_go_on_from_a_lower_cut(backbone, data):
    rows = np.arange(6)
    low, high = backbone.blocks[-5].cut, backbone.blocks[-3].cut
    between = engine.build_engine(backbones.split(backbone.model, low, outputs=high)[1], "keras")
    below, whole = (
        FrozenPart(build_classifier(backbone, 10), backbone, cut, engine="keras",
                   examples_count=6, sample=data.examples[:8])
        .inputs(Views(data), rows, 0, store=None, progress=Progress())[1]
        for cut in (low, high)
    )  # fmt: skip
    continued = Continued(below, between)
    assert len(continued) == 6
    for one, other in zip(continued.gather(rows), whole.gather(rows), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
