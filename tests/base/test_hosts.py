"""Several hosts, here processes that meet on the loopback, train one model; one of them writes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.base.errors import UsageError
from keras_transfer.base.hosts import Hosts, hosts_of

SCRIPT = Path(distributed.__file__)
VARIABLES = (
    "TF_CONFIG", "KERAS_DISTRIBUTION_NUM_PROCESSES", "KERAS_DISTRIBUTION_PROCESS_ID",
    "SLURM_NTASKS", "SLURM_PROCID",
)  # fmt: skip


def together(*command, count=2):
    """Runs a command on so many hosts; what each has printed."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    places = [f"127.0.0.1:{one.getsockname()[1]}" for one in held]
    for one in held:
        one.close()
    begun = []
    for number in range(count):
        task = {"cluster": {"worker": places}, "task": {"type": "worker", "index": number}}
        named = {
            "TF_CONFIG": json.dumps(task), "KERAS_DISTRIBUTION_JOB_ADDRESSES": places[0],
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
            "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
        }  # fmt: skip
        begun.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=os.environ | named,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    ended = [process.communicate() for process in begun]
    for process, (_, wrong) in zip(begun, ended, strict=True):
        assert process.returncode == 0, wrong
    return [said for said, _ in ended]


def check_hosts():
    """Holds two hosts to the curve of one."""
    alone = subprocess.run(
        [sys.executable, SCRIPT, "frozen", "1"], capture_output=True, text=True, check=True
    )
    one = json.loads(alone.stdout.splitlines()[-1])["1"]
    for said in together(SCRIPT, "hosts"):
        found = json.loads(said.splitlines()[-1])
        for name in ("curve", "average", "features"):
            np.testing.assert_allclose(found[name], one[name], rtol=1e-4, atol=1e-5)
        assert found["compilations"] == 1
        assert "other data, splits or settings" in found["refused"]
    assert one["curve"][-1][0] < one["curve"][0][0]


@pytest.mark.slow
def test_several_hosts_learn_as_one_does():
    check_hosts()


@pytest.mark.slow
def test_a_whole_run_on_two_hosts_is_written_by_the_first(tmp_path):
    words = [
        "-m", "keras_transfer", "train", "builtin:digits", "--per-class", "10", "--unfreeze", "1",
        "--backbone", "MobileNetV3Small", "--weights", "none", "--image-size", "32", "--cache",
        "off", "--fine-tune-epochs", "2", "--output",
    ]  # fmt: skip
    subprocess.run([sys.executable, *words, tmp_path / "one"], check=True, capture_output=True)
    first, second = together(*words, tmp_path / "two", "--hosts", "on")
    assert "right on the test" in first
    assert "right on the test" not in second
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    runs = [kt.open_run(tmp_path / name) for name in ("one", "two")]
    losses = [[float(row["train_loss"]) for row in run.history] for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    np.testing.assert_allclose(*(run.test_probabilities for run in runs), atol=1e-3)
    assert runs[1].metrics["compute"]["devices"] == ["cpu:0 of host 0", "cpu:0 of host 1"]


def named(monkeypatch, **values):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"TF_CONFIG": json.dumps({"cluster": CLUSTER, "task": task})}, found)
        for task, found in (
            ({"type": "chief", "index": 0}, Hosts(3, 0)),
            ({"type": "worker", "index": "1"}, Hosts(3, 2)),
        )
    ]
    + [({"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, Hosts(4, 3))],
)
def test_what_a_cluster_sets_says_which_host_this_is(monkeypatch, values, found):
    named(monkeypatch, **values)
    assert hosts_of("on") == found
    assert hosts_of("off") is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "Nothing in the environment names the hosts"),
        ({"TF_CONFIG": "{"}, "cannot be read"),
        ({"TF_CONFIG": "[]"}, "cannot be read"),
        ({"TF_CONFIG": json.dumps({"cluster": CLUSTER, "task": {"type": "ps", "index": 0}})},
         "cannot be read"),
        ({"SLURM_NTASKS": "4"}, "cannot be read"),
    ],
)  # fmt: skip
def test_hosts_that_are_not_named_are_refused_before_any_work(monkeypatch, values, said):
    named(monkeypatch, **values)
    with pytest.raises(UsageError, match=said):
        kt.train("no such data", hosts="on")


def test_what_hosts_cannot_do_is_refused(monkeypatch):
    named(monkeypatch, SLURM_NTASKS="2", SLURM_PROCID="1")
    for refused in ({"resume": True}, {"time_budget": "5m"}):
        with pytest.raises(UsageError, match="not resumed, and knows no time budget"):
            kt.train("no such data", hosts="on", **refused)
