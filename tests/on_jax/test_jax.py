"""The whole training path on JAX. Skips elsewhere; `.ci/run` runs it without TensorFlow.

`TENSORFLOW_PYTHON`, where it is set, is a Python with TensorFlow and this package; the tests then
hold what the two backends make of the same images to each other.
"""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "jax" or importlib.util.find_spec("jax") is None:
    pytest.skip("needs KERAS_BACKEND=jax", allow_module_level=True)

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "base")]

import jax  # noqa: E402
import keras  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402
from recorder import Recorder  # noqa: E402
from test_compute import check_distributed, train  # noqa: E402
from test_hosts import check_hosts  # noqa: E402

from keras_transfer import cli, training  # noqa: E402
from keras_transfer.backbones.copying import working_copy  # noqa: E402
from keras_transfer.base import compute  # noqa: E402
from keras_transfer.fast import steps  # noqa: E402
from keras_transfer.fast.resident import Resident, resident  # noqa: E402
from keras_transfer.frozen.engine import predict_probabilities  # noqa: E402
from keras_transfer.frozen.features import Array  # noqa: E402
from keras_transfer.learn import finetune, suffix  # noqa: E402
from keras_transfer.runs import folder as runs  # noqa: E402

SETTINGS = {"image_size": 32, "effort": "quick", "seed": 3, "split": (0.6, 0.2, 0.2)}


@pytest.fixture(scope="session")
def jax_run(digits_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "jax"
    training.train(str(digits_folder), output=output, **SETTINGS)
    return runs.open_run(output)


@pytest.fixture(scope="session")
def other(jax_run, digits_folder, tmp_path_factory):
    """What TensorFlow makes of the same images, and of the run that JAX left."""
    python = os.environ.get("TENSORFLOW_PYTHON")
    if not python:
        pytest.skip("TENSORFLOW_PYTHON is not set")
    folder = tmp_path_factory.mktemp("tensorflow")
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [python, HERE / "on_tensorflow.py", digits_folder, jax_run.path, folder,
         json.dumps(SETTINGS)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def pixels(run):
    data = run.dataset
    return data.examples[data.indices("test")]


def test_a_run_needs_no_tensorflow(jax_run):
    assert jax_run.metrics["environment"]["backend"] == "jax"
    if importlib.util.find_spec("tensorflow") is None:
        assert "tensorflow" not in sys.modules
    assert jax_run.metrics["test"]["accuracy"] > 0.6
    assert (jax_run.path / "report.html").stat().st_size > 10_000
    compiled = jax_run.metrics["compute"]["jit"]
    assert compiled["compile"]
    assert compiled["compilations"] == 1


def test_a_saved_run_answers_as_it_did(jax_run):
    found = predict_probabilities(jax_run.model, pixels(jax_run))
    np.testing.assert_allclose(found, jax_run.test_probabilities, atol=1e-4)


def test_openvino_without_tensorflow_is_refused_and_auto_goes_on(jax_run):
    from keras_transfer.base.errors import UsageError
    from keras_transfer.frozen.engine import build_engine

    if importlib.util.find_spec("tensorflow") is not None:
        pytest.skip("TensorFlow is installed")
    model = jax_run.model
    with pytest.raises(UsageError, match="tensorflow"):
        build_engine(model, "openvino")
    chosen = build_engine(model, "auto", images=10**9)
    assert chosen.name == "keras"
    assert "tensorflow" in chosen.reason


def test_export_asks_for_tensorflow(jax_run, tmp_path, capsys):
    assert cli.main(["export", str(jax_run.path), "--output", str(tmp_path / "made")]) == 2
    assert "Install TensorFlow" in capsys.readouterr().err


def test_features_are_those_of_tensorflow(other, jax_run):
    from keras_transfer import backbones
    from keras_transfer.frozen.engine import build_engine

    backbone = backbones.build("EfficientNetLite0", image_size=32)
    found = build_engine(backbone.model, "keras").run(pixels(jax_run)[:8])[0]
    expected = np.load(other / "features.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_runs_load_on_the_other_backend(other, jax_run):
    elsewhere = np.load(other / "jax-run.npy")
    np.testing.assert_allclose(elsewhere, jax_run.test_probabilities, atol=1e-4)
    trained = runs.open_run(other / "run")
    here = predict_probabilities(trained.model, pixels(trained))
    np.testing.assert_allclose(here, trained.test_probabilities, atol=1e-4)


def test_accuracy_is_that_of_tensorflow(other, jax_run):
    theirs = runs.open_run(other / "run").metrics["test"]
    low, high = theirs["intervals"]["accuracy"]
    assert low <= jax_run.metrics["test"]["accuracy"] <= high


def same(one, other):
    done, weights = one
    whole, expected = other
    losses = [[row["train_loss"] for row in phase.history] for phase in (done, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for mine, theirs in zip([*weights, *done.average], [*expected, *whole.average], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_parts_of_a_batch_add_up():
    class XlaRuntimeError(RuntimeError):
        """As jaxlib names it."""

    def spoil(working):
        make = working.make_train_function

        def make_limited(force=False):
            make(force)
            step = working.train_function

            def limited(state, batches):
                batch = next(batches)
                if len(batch[1]) > 5:
                    for array in chain(*state):  # a failed step has given them away
                        array.delete()
                    raise XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
                return step(state, iter([batch]))

            working.train_function = limited

        working.make_train_function = make_limited

    said = Recorder()
    done, weights = train(spoil=spoil, xla=True, progress=said)
    assert any(note.startswith("Out of memory") for note in said.notes)
    same((done, weights), train(xla=True))
    assert done.compilations == 1


@pytest.fixture
def memory(monkeypatch):
    """Lets the CPU pass for an accelerator with room for all views."""
    monkeypatch.setattr(finetune, "free_room", lambda: 10**9)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_an_epoch_in_one_call_ends_where_its_steps_would(precision, monkeypatch):
    streamed = train(xla=True, precision=precision)
    calls = []
    monkeypatch.setattr(finetune, "free_room", lambda: 10**9)
    own = steps.HeldSteps.take_all
    monkeypatch.setattr(steps.HeldSteps, "take_all", lambda *given: calls.append(1) or own(*given))
    held = train(xla=True, precision=precision)
    assert len(calls) == len(held[0].history) > 1
    assert held[0].compilations == 1
    same(held, streamed)


def test_what_is_compiled_is_kept(tmp_path, monkeypatch):
    changed = "dir", "max_size"
    before = {name: getattr(jax.config, f"jax_compilation_cache_{name}") for name in changed}
    compute.keep_compiled(tmp_path)
    assert jax.config.jax_compilation_cache_dir == before["dir"]  # on a CPU nothing is kept
    monkeypatch.setattr(compute, "accelerators", lambda: ["gpu:0"])
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        compute.keep_compiled(tmp_path)
        jax.jit(lambda x: jax.numpy.sin(x) @ x)(np.eye(3, dtype=np.float32))
        assert list(tmp_path.glob("*cache*"))
        compute.keep_compiled(tmp_path / "other")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
        for name, value in before.items():
            jax.config.update(f"jax_compilation_cache_{name}", value)
        compilation_cache.reset_cache()


def test_the_original_of_a_copy_outlives_its_steps():
    inputs = keras.Input((4,))
    logits = keras.layers.Dense(3, name="logits")(keras.layers.Dropout(0.5)(inputs))
    original = suffix.Suffix(inputs, logits)
    copied = working_copy(original, compute.Compute(dtype_policy="mixed_bfloat16"))
    copied.regularise("none", 0.0)
    copied.prepare(lambda parts: keras.optimizers.Adam(), 1, jit=True)
    targets = np.eye(3, dtype=np.float32)
    taken = steps.begin_steps(copied)
    taken.take(1e-3, np.ones((3, 4)), targets, np.full(3, 1 / 3, np.float32))
    taken.end()
    working_copy(original, compute.Compute(dtype_policy="mixed_bfloat16"))
    for model in (original, copied):
        suffix.values_of(finetune._changing(model))


def test_an_epoch_that_does_not_fit_is_taken_in_parts(memory, monkeypatch):
    def failing(suffix, rate):
        def whole(state, *rest):
            for array in chain(*state):
                array.delete()
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

        return whole

    said = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(steps, "_epoch_function", failing)
        held = train(xla=True, progress=said)
    assert "2 parts of 5" in said.notes[-1]
    same(held, train(xla=True))


def test_views_without_room_stay_where_they_are():
    views = [Array(np.zeros((4, 2), np.float32))] * 2
    assert resident(views, 63) is views
    assert all(isinstance(view, Resident) for view in resident(views, 64))
    computed = Array(np.zeros((4, 2), np.float32))
    computed.held = False
    assert resident([*views, computed], 10**6)[0] is views[0]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns_the_same(precision):
    mixed, exact = (
        [row["train_loss"] for row in train(precision=name, xla=True)[0].history]
        for name in (precision, "float32")
    )
    np.testing.assert_allclose(mixed, exact, rtol=0.02)
    assert mixed != exact


def test_several_devices_learn_as_one_does():
    check_distributed()


def test_several_hosts_learn_as_one_does():
    check_hosts()
