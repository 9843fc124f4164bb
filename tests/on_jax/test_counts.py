"""What a card would be asked, counted on JAX's processor by `benchmarks/counted.py`."""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "jax" or importlib.util.find_spec("jax") is None:
    pytest.skip("needs KERAS_BACKEND=jax", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import distributed  # noqa: E402
import keras  # noqa: E402
from counted import counting, total, waits  # noqa: E402

from keras_transfer.backbones.copying import working_copy  # noqa: E402
from keras_transfer.base.compute import Compute  # noqa: E402
from keras_transfer.frozen import engine, features  # noqa: E402
from keras_transfer.learn.finetune import fine_tune  # noqa: E402
from keras_transfer.recipe import Recipe  # noqa: E402

ROOMY = 10**9


def trials(room, batches=(10,), rates=(0.01,)):
    """The examples, and the epochs and phases of trials that share one compiled step."""
    suffix, examples = distributed.problem()
    working = working_copy(suffix, how := Compute(xla=True))
    with counting(room, strict=room > 0) as counts:
        phases = [
            fine_tune(
                working, Recipe(fine_tune_epochs=3, batch_size=batch, fine_tune_lr=rate), examples,
                compute=how,
            )
            for batch, rate in itertools.product(batches, rates)
        ]  # fmt: skip
    return examples, counts.epochs(), phases


def test_views_that_fit_are_sent_once():
    examples, (first, *later), _ = trials(ROOMY)
    view = examples.views[0].gather(np.arange(34))[0].nbytes
    assert total(first, "sent") > view
    # Forty places of an epoch: a number, three targets and a share each, and the rates.
    assert [total(one, "sent") for one in later] == [40 * 4 * (1 + 3 + 1) + 4 * 4] * 2
    _, (_, *streamed), _ = trials(0)
    assert all(total(one, "sent") > view for one in streamed)


def test_the_host_waits_once_an_epoch():
    _, (_, *later), _ = trials(ROOMY)
    assert [waits(one) for one in later] == [1, 1]


def test_a_step_is_compiled_once_for_a_size_of_batch():
    for room in (ROOMY, 0):
        _, epochs, phases = trials(room, batches=(10, 17), rates=(0.01, 0.02, 0.03))
        assert [phase.compilations for phase in phases] == [1, 0, 0, 1, 0, 0]
        for number, events in enumerate(epochs):
            if number not in (0, 9):  # the first of each size
                assert not [kind for kind, _ in events if kind == "compiled"]


def test_a_device_computes_the_next_batch_while_one_is_fetched():
    suffix, examples = distributed.problem()
    made, order = engine.keras_engine(suffix), []
    begin = made.begin

    def noted(batch):
        order.append(f"begin {len(batch)}")
        fetch = begin(batch)
        return lambda: order.append(f"fetch {len(batch)}") or fetch()

    watched = engine.Engine("keras", made.run, begin=noted)
    images = examples.views[0].gather(np.arange(34))[0]
    found = watched.predict(images, batch_size=13)[0]
    assert order == ["begin 13", "begin 13", "fetch 13", "begin 8", "fetch 13", "fetch 8"]
    expected = keras.ops.convert_to_numpy(suffix(images, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert list(watched.results([])) == []


@pytest.mark.parametrize(("side", "rows"), [(32, 256), (224, 128), (600, 32), (1200, 32)])
def test_a_card_is_given_batches_by_their_bytes(side, rows, monkeypatch):
    few = np.broadcast_to(np.uint8(0), (1, side, side, 3))
    assert features.rows_at_once(few) == engine.BATCH
    monkeypatch.setattr(features, "accelerators", lambda: ["gpu:0"])
    assert features.rows_at_once(few) == rows


PROCESS = """
import sys
import jax, numpy as np
sys.path[:0] = sys.argv[1:3]
import distributed
from keras_transfer.backbones.copying import working_copy
from keras_transfer.base import compute
from keras_transfer.learn import finetune
from keras_transfer.recipe import Recipe

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
compute.accelerators = lambda: ["gpu:0"]
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
suffix, examples = distributed.problem()
working = working_copy(suffix, how := compute.Compute(xla=True))
finetune.free_room = lambda: 10**9
finetune.fine_tune(working, Recipe(fine_tune_epochs=2), examples, compute=how)
print(*(events.count(f"/jax/compilation_cache/cache_{what}") for what in ("hits", "misses")))
"""


def test_another_process_finds_what_was_compiled(tmp_path):
    environment = os.environ | {"KERAS_TRANSFER_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", PROCESS, str(ROOT / "tests"), str(ROOT)]
    counted = []
    for _ in range(2):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        counted.append([int(word) for word in done.stdout.split()])
    (_, compiled), (found, missed) = counted
    assert compiled > 0
    assert missed == 0
    assert found >= compiled
