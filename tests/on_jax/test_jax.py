"""The whole training path on JAX. Skips elsewhere; `.ci/run` runs it without TensorFlow.

`TENSORFLOW_PYTHON`, where it is set, is a Python with TensorFlow and this package; the tests then
hold what the two backends make of the same images to each other.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "jax" or importlib.util.find_spec("jax") is None:
    pytest.skip("needs KERAS_BACKEND=jax", allow_module_level=True)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from test_devices import check_distributed, train  # noqa: E402

from keras_transfer import api, cli, runs  # noqa: E402

SETTINGS = {"image_size": 32, "effort": "quick", "seed": 3, "split": (0.6, 0.2, 0.2)}


@pytest.fixture(scope="session")
def jax_run(digits_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "jax"
    api.train(str(digits_folder), output=output, **SETTINGS)
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
    data = run.dataset()
    return data.pixels[data.indices("test")]


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
    found = api.predict_probabilities(jax_run.model(), pixels(jax_run))
    np.testing.assert_allclose(found, jax_run.array(runs.PROBABILITIES), atol=1e-4)


def test_openvino_without_tensorflow_is_refused_and_auto_goes_on(jax_run):
    from keras_transfer.engine import build_engine
    from keras_transfer.errors import UsageError

    if importlib.util.find_spec("tensorflow") is not None:
        pytest.skip("TensorFlow is installed")
    model, images = jax_run.model(), pixels(jax_run)[:4]
    with pytest.raises(UsageError, match="tensorflow"):
        build_engine(model, "openvino")
    chosen = build_engine(model, "auto", images=10**9, sample=images)
    assert chosen.name == "keras"
    assert "tensorflow" in chosen.reason


def test_export_asks_for_tensorflow(jax_run, tmp_path, capsys):
    assert cli.main(["export", str(jax_run.path), "--output", str(tmp_path / "made")]) == 2
    assert "Install TensorFlow" in capsys.readouterr().err


def test_features_are_those_of_tensorflow(other, jax_run):
    from keras_transfer import backbones
    from keras_transfer.engine import build_engine

    backbone = backbones.build("EfficientNetLite0", image_size=32)
    found = build_engine(backbone.model, "keras").run(pixels(jax_run)[:8])[0]
    expected = np.load(other / "features.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_runs_load_on_the_other_backend(other, jax_run):
    elsewhere = np.load(other / "jax-run.npy")
    np.testing.assert_allclose(elsewhere, jax_run.array(runs.PROBABILITIES), atol=1e-4)
    trained = runs.open_run(other / "run")
    here = api.predict_probabilities(trained.model(), pixels(trained))
    np.testing.assert_allclose(here, trained.array(runs.PROBABILITIES), atol=1e-4)


def test_accuracy_is_that_of_tensorflow(other, jax_run):
    theirs = runs.open_run(other / "run").metrics["test"]
    low, high = theirs["intervals"]["accuracy"]
    assert low <= jax_run.metrics["test"]["accuracy"] <= high


def test_parts_of_a_batch_add_up():
    class XlaRuntimeError(RuntimeError):
        """As jaxlib names it."""

    def spoil(working):
        step = working.train_on_batch

        def limited(x, y, sample_weight):
            if len(y) > 5:
                for variable in working.variables:  # a failed step has given them away
                    variable.value.delete()
                raise XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return step(x, y, sample_weight=sample_weight)

        working.train_on_batch = limited

    done, weights = train(spoil=spoil, jit=True)
    whole, expected = train(jit=True)
    for mine, theirs in zip([*weights, *done.average], [*expected, *whole.average], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)
    assert done.compilations == 1


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns_the_same(precision):
    mixed, exact = (
        [row["train_loss"] for row in train(precision=name, jit=True)[0].history]
        for name in (precision, "float32")
    )
    np.testing.assert_allclose(mixed, exact, rtol=0.02)
    assert mixed != exact


def test_several_devices_learn_as_one_does():
    check_distributed()
