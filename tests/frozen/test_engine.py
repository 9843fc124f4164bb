import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_transfer import backbones
from keras_transfer.backbones.multiply_adds import model_macs
from keras_transfer.base.errors import UsageError
from keras_transfer.frozen import engine
from keras_transfer.learn.model import build_classifier


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(images)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    y = keras.layers.Conv2D(16, 3, activation="relu")(x)
    z = keras.layers.GlobalAveragePooling2D()(y)
    return keras.Model(images, [x, z])


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("name", ["keras", "openvino"])
def test_engines_give_what_the_model_gives_in_float32(model, pixels, name):
    expected = [np.asarray(t) for t in model(pixels, training=False)]
    built = engine.build_engine(model, name)
    assert built.name == name
    found = built.predict(pixels)
    assert [f.dtype for f in found] == [np.float32] * 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_outputs_of_one_batch_survive_the_next(model, pixels):
    built = engine.build_engine(model, "openvino")
    first = built.run(pixels[:4])[1]
    kept = first.copy()
    built.run(pixels[4:8])
    np.testing.assert_array_equal(first, kept)


def test_a_model_of_several_inputs_takes_a_list(pixels):
    a, b = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([a, b], keras.layers.Add()([a, 2 * b]))
    one, two = np.ones((5, 4), np.float32), np.full((5, 4), 3, np.float32)
    for name in ("keras", "openvino"):
        (found,) = engine.build_engine(model, name).run([one, two])
        np.testing.assert_allclose(found, 7)


def test_auto_counts_the_work_and_looks_at_no_clock(model, monkeypatch):
    monkeypatch.setattr(engine, "seconds_per_image", None)
    built = engine.build_engine(model, "auto", images=10)
    assert built.name == "keras"
    assert "do not pay" in built.reason
    built = engine.build_engine(model, "auto", images=10**9)
    assert built.name == "openvino"
    assert "pay for a conversion" in built.reason
    enough = -(-50_000_000_000 // model_macs(model))
    names = [engine.choose_engine(model, images=images)[0] for images in (enough - 1, enough)]
    assert names == ["keras", "openvino"]


def test_auto_leaves_to_keras_what_openvino_cannot_run(model, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("no such operation\nat layer 3")

    monkeypatch.setattr(engine, "_openvino_engine", refuse)
    built = engine.build_engine(model, "auto", images=10**9)
    assert (built.name, built.reason) == (
        "keras", "OpenVINO cannot run this model: no such operation",
    )  # fmt: skip
    with pytest.raises(RuntimeError):
        engine.build_engine(model, "openvino")


@pytest.mark.parametrize("name", ["openvino", "openvino-bfloat16"])
def test_a_row_depends_on_nothing_but_its_image(name):
    """Not on how many come with it, nor on which other values of the network are asked for."""
    if name.endswith("bfloat16") and not engine.computes_bfloat16():
        pytest.skip("this processor has no instructions for bfloat16")
    backbone = backbones.build("MobileNetV3Small", image_size=64, weights="none")
    model, cuts = build_classifier(backbone, 3), [block.cut[0] for block in backbone.blocks]
    images = np.random.default_rng(0).integers(0, 256, (19, 64, 64, 3), np.uint8)

    def outputs(*names):
        part = keras.Model(model.input, [model.get_layer(one).output for one in names])
        return engine.build_engine(part, name)

    both = outputs(cuts[-3], "avg_pool")
    low, pooled = both.run(images)
    for rows in (1, 7, 13):
        for some, whole in zip(both.run(images[:rows]), (low, pooled), strict=True):
            np.testing.assert_array_equal(some, whole[:rows])
    np.testing.assert_array_equal(outputs("avg_pool").run(images)[0], pooled)
    several = outputs(cuts[0], cuts[3], cuts[-3], cuts[-2], "avg_pool").run(images)
    np.testing.assert_array_equal(several[2], low)
    np.testing.assert_array_equal(several[-1], pooled)


def test_work_is_counted_by_hand(model):
    # 8 filters of 3x3x3 at 15x15, then 16 of 3x3x8 at 13x13.
    assert model_macs(model) == 15 * 15 * 8 * 27 + 13 * 13 * 16 * 72


def test_unknown_engine_is_named_with_a_near_one(model):
    with pytest.raises(UsageError, match="openvino"):
        engine.build_engine(model, "openvno")


@pytest.mark.slow
def test_openvino_reports_nothing_to_anybody():
    # It would from a process of its own; in another Python, where nobody has imported it yet.
    script = (
        "import multiprocessing.process as processes\n"
        "processes.BaseProcess.start = lambda process: print('started', process)\n"
        "import keras\n"
        "from keras_transfer.frozen import engine\n"
        "model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(1, 2)])\n"
        "print(engine.build_engine(model, 'openvino').name)\n"
        "from concurrent.futures import thread\n"
        "thread._python_exit()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["openvino"]
