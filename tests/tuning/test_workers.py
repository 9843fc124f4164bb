"""A chief and its workers: real processes on loopback, and the oracle's side alone."""

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import keras_tuner
import pytest
from recorder import Recorder
from studies import SPACE, rows_of

from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from tuning import oracles, results, search, space, tuner, workers
from tuning.__main__ import main
from tuning.results import Record

ABOUT = {"tuner": "random", "objective": "nll"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "tuning", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(check, seconds=240):
    limit = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < limit, "that took too long"
        time.sleep(0.05)
    return found


def running(study):
    """By worker: its process and the trial that it runs."""
    try:
        ongoing = json.loads((study / "oracle" / "oracle.json").read_text())["ongoing_trials"]
    except (OSError, ValueError):
        return {}
    found = {}
    for worker, trial in ongoing.items():
        beat = study / "workers" / f"{worker}.json"
        if beat.exists() and results.read_record(study, int(trial)) is None:
            found[worker] = (json.loads(beat.read_text())["process"], int(trial))
    return found


@pytest.mark.slow
def test_a_chief_and_four_workers_one_of_them_killed(digits_folder, tmp_path):
    (tmp_path / "space.toml").write_text(SPACE)
    study, address = tmp_path / "study", f"127.0.0.1:{free_port()}"
    chief = start(
        "chief", str(digits_folder), "--trials", "12", "--tuner", "random", "--image-size", "32",
        "--split", "0.6,0.2,0.2", "--space", str(tmp_path / "space.toml"), "--output", str(study),
        "--address", address, "--lost-after", "10s",
    )  # fmt: skip
    join = ("worker", str(study), "--chief", address)
    # All at once: one that comes late may find that the others have done everything.
    crew = [start(*join) for _ in range(4)]
    try:
        until(lambda: len({record.worker for record in results.read_records(study)}) == 3)
        victim, (process, trial) = until(lambda: running(study)).copy().popitem()
        os.kill(process, signal.SIGKILL)
        said = chief.communicate(timeout=400)[0]
        outputs = [worker.communicate(timeout=60)[0] for worker in crew]
    finally:
        for one in (chief, *crew):
            one.kill()
    assert chief.returncode == 0, said
    assert sorted(worker.returncode for worker in crew) == [-signal.SIGKILL, 0, 0, 0], outputs
    rows = rows_of(study)
    assert [row["trial"] for row in rows] == [str(number) for number in range(12)]
    assert {row["status"] for row in rows} == {"completed"}
    assert len({row["worker"] for row in rows}) >= 3
    assert rows[trial]["worker"] != victim
    assert f"{victim} is lost; its trial {trial} is handed out again" in " ".join(said.split())
    ran = [int(text.rsplit("ran ", 1)[1].split(".")[0]) for text in outputs if "no more" in text]
    assert sum(ran) <= 12
    assert (study / "winner" / "report.html").exists()


def test_a_chief_that_does_not_answer(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "_TRY_SECONDS", 0.05)
    assert main(["worker", str(tmp_path), "--chief", f"127.0.0.1:{free_port()}"]) == 2
    said = capsys.readouterr()
    assert "(try 1 of 6)" in said.out + said.err
    assert "it was tried 6 times" in said.err
    assert "Traceback" not in said.err
    assert main(["worker", str(tmp_path), "--chief", "nowhere"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_a_port_in_use(digits_folder, tmp_path, capsys):
    with socket.socket() as other:
        # As gRPC does, which would share the port silently.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        chief = ["chief", str(digits_folder), "--output", str(tmp_path / "study")]
        assert main([*chief, "--address", address]) == 2
    assert "another program does" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_chief_is_reached_from_its_own_machine_alone_unless_told_otherwise(tmp_path, monkeypatch):
    asked = []

    def listen(address):
        asked.append(address)
        raise UsageError("Enough was seen.", remedy="None is needed.")

    monkeypatch.setattr(workers, "listen", listen)
    for more in ((), ("--address", "0.0.0.0:80")):
        assert main(["chief", "builtin:digits", "--output", str(tmp_path / "study"), *more]) == 2
    hosts = [ipaddress.ip_address(address.rpartition(":")[0]) for address in asked]
    assert [host.is_loopback for host in hosts] == [True, False]


@pytest.fixture
def oracle(tmp_path):
    """An oracle of four trials, with its tuner's files in place."""
    found = space.parse(SPACE)
    made = oracles.build("random", "nll", found, trials=4, seed=0)
    tuner.open_tuner(lambda: made, tmp_path, found, None, ABOUT, Progress())
    return made


def finish(oracle, trial, nll=0.5):
    oracle.update_trial(trial.trial_id, {"nll": nll})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)


def test_a_lost_workers_trial_goes_to_the_next_that_asks(oracle):
    lost, other = oracle.create_trial("a"), oracle.create_trial("b")
    assert oracle.release("a").trial_id == lost.trial_id
    again = oracle.create_trial("c")
    assert again.trial_id == lost.trial_id
    assert again.hyperparameters.values == lost.hyperparameters.values
    finish(oracle, again)
    finish(oracle, other)
    # The one that was taken for lost was only slow.
    finish(oracle, lost, nll=0.1)
    assert oracle.end_order == [again.trial_id, other.trial_id]
    assert oracle.release("a") is None


def test_a_late_report_spares_the_second_run(oracle):
    lost = oracle.create_trial("a")
    oracle.release("a")
    finish(oracle, lost)
    assert oracle.create_trial("b").trial_id != lost.trial_id


def test_a_trial_that_kills_its_workers_fails(oracle):
    first = oracle.create_trial("a").trial_id
    statuses = []
    for worker in ("a", "b", "c"):
        assert oracle.create_trial(worker).trial_id == first
        statuses.append(oracle.release(worker).status)
    assert statuses == ["INVALID", "INVALID", "FAILED"]
    assert oracle.create_trial("d").trial_id != first


def test_workers_wait_while_a_trial_may_still_be_handed_on(oracle):
    begun = [oracle.create_trial(str(number)) for number in range(4)]
    waiting = oracle.create_trial("late")
    assert waiting.status == "IDLE"
    assert not oracle.is_over()
    oracle.release("0")
    assert oracle.create_trial("late").trial_id == begun[0].trial_id
    for trial in begun:
        finish(oracle, trial)
    assert oracle.create_trial("late").status == "STOPPED"
    assert oracle.is_over()


def answered(call, *arguments, **named):
    """What a call comes to on a thread of its own, as a server's would; fails if it hangs."""
    found = []

    def ask():
        try:
            found.append(call(*arguments, **named))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it hangs"
    return found[0]


def test_an_oracle_that_raises_goes_on(oracle, monkeypatch):
    assert isinstance(answered(oracle.update_trial, "9999", {"nll": 0.5}), KeyError)
    save = oracle.save

    def full():
        monkeypatch.setattr(oracle, "save", save)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(oracle, "save", full)
    assert isinstance(answered(oracle.create_trial, "a"), OSError)
    lost = answered(oracle.release, "a")
    trial = answered(oracle.create_trial, "b")
    assert trial.trial_id == lost.trial_id
    monkeypatch.setattr(oracle, "save", full)
    trial.status = "FAILED"
    assert isinstance(answered(oracle.end_trial, trial), OSError)
    answered(oracle.release, "b")
    assert not oracle.ongoing_trials
    assert answered(oracle.is_over) is False


def test_a_bad_message_wedges_no_chief(tmp_path, oracle, monkeypatch):
    from keras_tuner.src import protos

    class Stop(Exception):
        """As SIGINT would end the chief's loop."""

    stop, sleep, ended = threading.Event(), time.sleep, []

    def pause(seconds):
        if stop.is_set():
            raise Stop
        sleep(seconds)

    def serve():
        try:
            workers.serve(served, *workers.listen(address), address)
        except Stop:
            ended.append(True)

    served = tuner.Tuner(oracle, tmp_path, None, ABOUT, Progress())
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(workers.time, "sleep", pause)
    chief = threading.Thread(target=serve, daemon=True)
    chief.start()
    workers.reach(address, Progress())
    messages = protos.get_service()
    with grpc.insecure_channel(address) as channel:
        for metadata in ([], [("keras-transfer-secret", "0" * 64)]):
            stranger = protos.get_service_grpc().OracleStub(channel)
            asked = messages.CreateTrialRequest(tuner_id="stranger")
            with pytest.raises(grpc.RpcError) as refused:
                stranger.CreateTrial(asked, timeout=20, metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert not oracle.trials
        assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
        stub = protos.get_service_grpc().OracleStub(workers.authorised(channel, tmp_path))
        unknown = keras_tuner.engine.trial.Trial(oracle.get_space(), "9999", "COMPLETED")
        bad = messages.EndTrialRequest(trial=unknown.to_proto())
        with pytest.raises(grpc.RpcError):
            stub.EndTrial(bad, timeout=20)
        again = stub.CreateTrial(messages.CreateTrialRequest(tuner_id="a"), timeout=20)
    assert int(again.trial.trial_id) == 0
    # The server's thread may be the one that kept the lock; the chief's own is another.
    assert answered(oracle.is_over) is False
    stop.set()
    chief.join(20)
    assert ended


def test_a_worker_is_lost_once_its_file_stands_still(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    watch = workers.Watch(tmp_path, 10.0)
    beat = tmp_path / "w.json"
    beat.write_text("1")
    assert not watch.is_lost("w")
    now[0] += 9
    beat.write_text("2")
    assert not watch.is_lost("w")
    now[0] += 9
    assert not watch.is_lost("w")
    now[0] += 2
    assert watch.is_lost("w")
    beat.write_text("3")
    assert not watch.is_lost("w")
    beat.unlink()
    assert watch.is_lost("w")


def test_a_trial_without_a_survivor_has_a_record(tmp_path, oracle, digits_folder):
    for worker in ("a", "b", "c"):
        oracle.create_trial(worker)
        oracle.release(worker)
    search._note_lost(tmp_path, oracle)
    record = results.read_record(tmp_path, 0)
    assert isinstance(record, Record)
    assert record.status == "failed"
    assert "worker" in record.reason


def test_a_worker_says_which_trial_runs_and_not_of_how_many(tmp_path, oracle):
    class Refusing:
        """A workbench on which no trial can be run."""

        def trial_recipe(self, values):
            raise UsageError("No trial can be run here.", remedy="None is needed.")

    told = Recorder()
    worker = tuner.Tuner(oracle, tmp_path, Refusing(), ABOUT, told, "worker-1")
    with pytest.raises(keras_tuner.errors.FailedTrialError):
        worker.run_trial(oracle.create_trial("worker-1"))
    assert told.stages == ["Trial 0"]
    assert told.notes[0].startswith("Trial 0 (")


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "reach", lambda *arguments: None)
    (tmp_path / "study.json").write_text(
        json.dumps(
            {
                "keras_transfer": "0.0.1",
                "data": "d",
                "data_digest": "0",
                "own_splits": False,
                "setup": {},
                "tuner": "random",
                "objective": "nll",
                "space": {"space": [], "values": {}},
            }
        )
    )
    with pytest.raises(UsageError, match=r"The chief runs keras_transfer 0\.0\.1"):
        workers.work(tmp_path, "127.0.0.1:1")
