import json
import subprocess
import sys
import threading
from pathlib import Path

import distributed
import keras
import numpy as np
import pytest
from recorder import Recorder

from keras_transfer import cli, training
from keras_transfer.backbones.copying import working_copy
from keras_transfer.base import compute
from keras_transfer.base.compute import Compute, choose_compute
from keras_transfer.base.errors import UsageError
from keras_transfer.frozen.engine import keras_engine
from keras_transfer.frozen.features import Array
from keras_transfer.learn import finetune
from keras_transfer.learn.finetune import fine_tune
from keras_transfer.learn.optimizers import build_optimizer
from keras_transfer.learn.suffix import values_of


def train(recipe=distributed.RECIPE, precision="float32", spoil=None, xla=False, **options):
    suffix, examples = distributed.problem()
    how = Compute(dtype_policy=precision, xla=xla)
    working = working_copy(suffix, how)
    if spoil:
        spoil(working)
    done = fine_tune(working, recipe, examples, compute=how, **options)
    return done, values_of(working.trainable_variables)


def curve(done):
    return [row["train_loss"] for row in done.history]


@pytest.fixture(scope="module")
def whole():
    return train()


def test_auto_compiles_on_accelerators_alone(monkeypatch):
    assert not choose_compute().xla
    assert "CPU" in choose_compute().xla_reason
    assert choose_compute("on").xla
    monkeypatch.setattr(compute, "accelerators", lambda: ["gpu:0"])
    monkeypatch.setattr(compute, "has_bfloat16", lambda device: True)
    assert choose_compute().xla
    assert not choose_compute("off").xla
    monkeypatch.setattr(compute, "distribute", lambda *_: "two of them")
    shared = choose_compute("on")
    assert not shared.xla
    assert "tf.distribute" in shared.xla_reason
    assert shared.distribution == "two of them"


def test_the_command_line_refuses_an_unknown_precision(tmp_path, capsys):
    arguments = ["train", "builtin:digits", "--output", str(tmp_path / "run")]
    assert cli.main([*arguments, "--precision", "mixed_flot16"]) == 2
    assert "mixed_float16" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_precision_follows_the_device(monkeypatch):
    assert choose_compute() == compute.PLAIN
    with pytest.warns(UserWarning, match="needs a GPU"):
        assert choose_compute(precision="mixed_float16").dtype_policy == "float32"
    assert choose_compute(precision="mixed_bfloat16").dtype_policy == "mixed_bfloat16"
    assert not choose_compute(precision="mixed_bfloat16", multiplies_bfloat16=True).rounded
    assert choose_compute(multiplies_bfloat16=True).rounded
    monkeypatch.setattr(compute, "accelerators", lambda: ["gpu:0"])
    for capable, name in ((True, "mixed_bfloat16"), (False, "mixed_float16")):
        monkeypatch.setattr(compute, "has_bfloat16", lambda device, is_so=capable: is_so)
        assert choose_compute(multiplies_bfloat16=True).dtype_policy == name
        assert not choose_compute(multiplies_bfloat16=True).rounded


@pytest.mark.parametrize("jit", [False, True])
def test_a_phase_compiles_once(jit, monkeypatch):
    done, _ = train(xla=jit)
    assert done.compilations == 1
    assert 0 < done.compile_seconds < 60


def test_compiled_inference_has_one_shape(monkeypatch):
    monkeypatch.setattr("keras_transfer.frozen.engine.accelerators", lambda: ["gpu:0"])
    suffix, examples = distributed.problem()
    traced = []
    call = suffix.call
    monkeypatch.setattr(suffix, "call", lambda *a, **k: traced.append(1) or call(*a, **k))
    engine, images = keras_engine(suffix), examples.views[0].gather(np.arange(34))[0]
    found = engine.predict(images, batch_size=16)[0]
    assert len(traced) == 1
    np.testing.assert_allclose(found, np.asarray(call(images)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns_the_same_with_a_float32_head(precision, whole, bfloat16):
    done, _ = train(precision=precision)
    np.testing.assert_allclose(curve(done), curve(whole[0]), rtol=0.02)
    # The comparison would pass if nothing were computed in fewer bits.
    assert curve(done) != curve(whole[0])
    working = working_copy(distributed.problem()[0], Compute(dtype_policy=precision))
    kinds = {layer.name: layer.compute_dtype for layer in working.layers}
    assert kinds["logits"] == kinds["avg_pool"] == "float32"
    assert precision.removeprefix("mixed_") in kinds.values()
    assert all(v.dtype == "float32" for v in working.variables)


def test_float16_has_its_loss_scaled():
    suffix, _ = distributed.problem()
    suffix.regularise("none", 0.0)
    made = build_optimizer(
        distributed.RECIPE, suffix, {}, compute=Compute(dtype_policy="mixed_float16")
    )
    assert float(made.scale_loss(1.0)) > 1000


def full_above(rows):
    """Makes a model fail as TensorFlow does where a batch has more rows than fit."""
    import tensorflow as tf

    def spoil(working):
        step = working.train_on_batch

        def limited(x, y, sample_weight):
            if len(y) > rows:
                # Half a step is done before memory runs out.
                working.trainable_variables[0].assign_add(
                    keras.ops.ones_like(working.trainable_variables[0])
                )
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return step(x, y, sample_weight=sample_weight)

        working.train_on_batch = limited

    return spoil


def test_a_batch_that_does_not_fit_is_added_up_from_parts(whole):
    said = Recorder()
    done, weights = train(spoil=full_above(3), progress=said)
    assert [note.split(":")[0] for note in said.notes] == ["Out of memory"] * 2
    assert "4 parts of 3" in said.notes[-1]
    np.testing.assert_allclose(curve(done), curve(whole[0]), rtol=1e-4)
    for mine, theirs in zip([*weights, *done.average], [*whole[1], *whole[0].average], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_parts_go_on_from_a_checkpoint_of_whole_batches(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(finetune, "CHECKPOINT_SECONDS", -1.0)
    path = tmp_path / "phase.npz"
    train(checkpoint=path, deadline=0.0)
    done, weights = train(checkpoint=path, spoil=full_above(5))
    assert len(done.history) == distributed.RECIPE.fine_tune_epochs
    for mine, theirs in zip(weights, whole[1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_one_image_that_does_not_fit_is_an_error():
    with pytest.raises(UsageError, match="memory is too small"):
        train(spoil=full_above(0))


def test_other_failures_pass_through():
    def spoil(working):
        def broken(*arguments, **options):
            raise ValueError("not about memory")

        working.train_on_batch = broken

    with pytest.raises(ValueError, match="not about memory"):
        train(spoil=spoil)


class Device:
    """Stands in for a fast device: its time passes without the processor."""

    def __init__(self, seconds):
        self.seconds, self.never = seconds, threading.Event()

    def spoil(self, working):
        working.train_on_batch = lambda *batch, **shares: self.never.wait(self.seconds) or 0.0


def test_a_fast_device_hardly_waits_for_cached_inputs():
    # 10 ms a batch of 10 are a thousand images a second.
    done, _ = train(spoil=Device(0.01).spoil)
    assert min(row["input_wait"] for row in done.history) < 0.1


def test_waiting_for_slow_inputs_is_seen():
    class Slow(Array):
        def gather(self, rows):
            threading.Event().wait(0.01)
            return super().gather(rows)

    suffix, examples = distributed.problem()
    Device(0.001).spoil(suffix)
    slow = Slow(examples.views[0].gather(np.arange(34))[0])
    spoilt = type(examples)([slow], *list(vars(examples).values())[1:])
    done = fine_tune(suffix, distributed.RECIPE, spoilt)
    assert min(row["input_wait"] for row in done.history) > 0.5


def test_more_devices_than_there_are():
    with pytest.raises(UsageError, match="Keras sees 1: cpu:0"):
        choose_compute(devices=3)
    assert choose_compute(devices="all").distribution is None


def check_distributed():
    """Holds several devices, in processes of their own, to the curve of one."""
    script = Path(__file__).parents[1] / "distributed.py"
    # BatchNorm in training mode normalises by the whole batch, not by a device's part of it.
    for kind, count in (("frozen", "2"), ("normalised", "4")):
        done = subprocess.run(
            [sys.executable, script, kind, "1", count], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        one, several = found["1"], found[count]
        for name in ("curve", "average", "features"):
            np.testing.assert_allclose(several[name], one[name], rtol=1e-4, atol=1e-5)
        assert several["compilations"] == 1
        assert one["curve"][-1][0] < one["curve"][0][0]
    assert "batch of 3 examples cannot be shared by 4 devices" in found["refused"]["message"]


@pytest.mark.slow
def test_several_devices_learn_as_one_does():
    check_distributed()


def test_a_run_in_bfloat16_leaves_a_float32_model(digits_folder, bfloat16):
    result = training.train(
        str(digits_folder), image_size=32, effort="quick", precision="mixed_bfloat16", cache=False,
        split=(0.4, 0.3, 0.3),
    )  # fmt: skip
    assert {layer.dtype_policy.name for layer in result.model.layers} == {"float32"}
    computed = result.metrics["compute"]
    assert computed["precision"] == {"name": "mixed_bfloat16", "reason": "asked for"}
    assert computed["jit"]["compilations"] == 1
    assert not computed["jit"]["compile"]
    assert 0 < computed["jit"]["seconds"] < result.seconds["total"]
    assert result.evaluation.accuracy > 0.6


@pytest.mark.slow
def test_a_whole_run_on_two_devices(digits_folder, tmp_path):
    program = (
        "import sys, distributed; distributed.divide_processor()\n"
        "from keras_transfer import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    accuracies = []
    for devices_asked in ("1", "2"):
        output = tmp_path / devices_asked
        done = subprocess.run(
            [sys.executable, "-c", program, "train", str(digits_folder), "--devices", devices_asked,
             "--engine", "keras", "--image-size", "32", "--effort", "quick", "--cache", "off",
             "--batch-size", "auto", "--output", str(output)],
            capture_output=True, text=True, check=False, cwd=Path(distributed.__file__).parent,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        metrics = json.loads((output / "metrics.json").read_text())
        assert len(metrics["compute"]["devices"]) == int(devices_asked)
        accuracies.append(metrics["test"]["accuracy"])
    # Dropout draws for each device apart.
    assert abs(accuracies[0] - accuracies[1]) < 0.1
