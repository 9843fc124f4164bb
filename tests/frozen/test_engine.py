import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_transfer.backbones.multiply_adds import model_macs
from keras_transfer.base.errors import UsageError
from keras_transfer.frozen import engine


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


def test_auto_stays_with_keras_where_there_is_little_work(model, pixels):
    built = engine.build_engine(model, "auto", images=10, sample=pixels)
    assert built.name == "keras"
    assert "do not pay" in built.reason


@pytest.mark.parametrize(
    ("ratio", "chosen"), [(0.79, "keras"), (0.81, "openvino"), (3, "openvino")]
)
def test_auto_changes_unless_what_it_measured_is_clearly_slower(
    monkeypatch, model, pixels, ratio, chosen
):
    # Stated rates: a real clock's would lie on either side of the mark from one run to the next.
    rates = {"keras": 1.0, "openvino": 1.0 / ratio}
    monkeypatch.setattr(
        engine, "seconds_per_image", lambda built, batch, warm=False: rates[built.name]
    )
    built = engine.build_engine(model, "auto", images=10**9, sample=pixels)
    assert (built.name, built.seconds_per_image) == (chosen, rates[chosen])
    assert f"{ratio:.1f} times Keras's rate" in built.reason


def test_a_rate_that_another_process_spoilt_is_taken_again(model, pixels, monkeypatch):
    """Keras was timed on an idle machine, OpenVINO when others had come, then both beside them."""
    readings = {"openvino": iter([9.0, 4.0, 2.0]), "keras": iter([5.0, 6.0])}
    monkeypatch.setattr(
        engine,
        "seconds_per_image",
        lambda built, batch, warm=False: next(readings[built.name]),
    )
    built = engine.build_engine(model, "auto", images=10**9, sample=pixels, native_seconds=1.0)
    assert (built.name, built.seconds_per_image) == ("openvino", 4.0)
    assert next(readings["keras"]) == 6.0  # one more reading of each was enough


def test_auto_times_both_engines_itself(model, pixels):
    built = engine.build_engine(model, "auto", images=10**9, sample=pixels)
    assert built.seconds_per_image > 0
    assert "times Keras's rate" in built.reason


def test_work_is_counted_by_hand(model):
    # 8 filters of 3x3x3 at 15x15, then 16 of 3x3x8 at 13x13.
    assert model_macs(model) == 15 * 15 * 8 * 27 + 13 * 13 * 16 * 72


def test_unknown_engine_is_named_with_a_near_one(model):
    with pytest.raises(UsageError, match="openvino"):
        engine.build_engine(model, "openvno")


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
