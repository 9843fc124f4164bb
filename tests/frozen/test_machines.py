"""The frozen part on a Ray cluster: the same rows as here, whoever dies; early refusals."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer import backbones, datasets
from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.frozen import machines
from keras_transfer.frozen.features import FrozenPart, Views
from keras_transfer.frozen.machines import BLOCK, join
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.model import build_classifier

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """Three machines of one core, each a process of its own that starts workers.

    They need more than a minute where other processes take the cores: these tests are slow ones.
    """
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    held = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    for _ in range(2):
        held.add_node(**machine)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield held.address
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()
    held.shutdown()


@pytest.fixture(scope="module")
def data():
    return datasets.load_dataset("builtin:digits", image_size=32)


@dataclass(frozen=True, eq=False)
class Deadly(Views):
    """Views of which the first that another process draws kills it."""

    marker: Path = Path()
    here: int = 0

    def draw(self, rows, number):
        if os.getpid() != self.here and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(rows, number)


@pytest.mark.slow
def test_a_killed_worker_costs_its_block_and_no_row_changes(cluster, data, tmp_path):
    backbone = backbones.build("EfficientNetLite0", image_size=32, weights="offline")
    rows, found = np.arange(5 * BLOCK + 7), {}
    views = Deadly(data, marker=tmp_path / "killed", here=os.getpid())
    for where in (None, cluster):
        for name in ("keras", "openvino"):
            frozen = FrozenPart(
                build_classifier(backbone, 10), backbone, backbone.blocks[-3].cut, engine=name,
                examples_count=len(rows), sample=data.examples[:8], machines=join(where),
            )  # fmt: skip
            with ActivationStore(tmp_path / str(where)) as store:
                options = {"store": store, "progress": Progress()}
                pooled, inputs = frozen.inputs(views, rows, 1, **options)
                assert store.counts.misses == len(rows)
                found[where, name] = [pooled, *inputs.gather(np.arange(len(rows)))]
    assert views.marker.exists()
    for name in ("keras", "openvino"):
        for here, there in zip(found[None, name], found[cluster, name], strict=True):
            assert len(here) == len(rows)
            np.testing.assert_array_equal(here, there)


@pytest.mark.slow
def test_a_run_on_machines_is_the_run_without(cluster, tmp_path):
    def run(name, **options):
        return kt.train(
            "builtin:digits", image_size=32, per_class=20, effort="quick", output=tmp_path / name,
            cache=tmp_path / f"cache-{name}", **options,
        )  # fmt: skip

    alone, together = run("alone"), run("together", machines=cluster)
    np.testing.assert_array_equal(alone.test_probabilities, together.test_probabilities)
    configs = [(tmp_path / name / "config.json").read_text() for name in ("alone", "together")]
    assert cluster not in configs[1]


@pytest.mark.slow
def test_machines_of_another_kind_are_refused(cluster, monkeypatch):
    monkeypatch.setattr(machines, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"has keras_transfer .*, this machine 99\.0"):
        join(cluster)


def test_what_cannot_be_joined_is_said_before_any_work(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        with pytest.raises(UsageError, match=f"The Ray cluster at {address} cannot be joined"):
            kt.train("no such data", machines=address)
    with pytest.raises(UsageError, match="machines must be ray://HOST:PORT"):
        kt.train("no such data", machines="somewhere")


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="ray is not installed") as said:
        kt.train("no such data", machines="auto")
    assert "keras-transfer[ray]" in said.value.remedy
