"""What may be sent to a chief: it refuses, goes on answering, and ends when it is told to.

A chief's server and loop in this process, with an oracle of made-up trials and no data.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from tuning import oracles, results, space, tuner, workers

HEADER = workers._HEADER
SPACE = '[fine_tune_lr]\nlow = 1e-4\nhigh = 2e-3\nscale = "log"\n'
SECONDS = 10


class Stop(Exception):
    """As Ctrl-C would end the chief's loop."""


class Chief(NamedTuple):
    address: str
    study: Path
    oracle: Any
    channel: Any
    thread: threading.Thread

    @property
    def secret(self) -> str:
        return (self.study / "secret").read_text()

    def call(self, method: str, data: bytes, *metadata: tuple[str, str]) -> bytes:
        """Sends bytes to a method, with the secret unless other metadata is given."""
        send = self.channel.unary_unary(method)
        given = metadata or ((HEADER, self.secret),)
        return bytes(send(data, metadata=given, timeout=SECONDS))

    def stub(self) -> Any:
        from keras_tuner.src import protos

        authorised = workers.authorised(self.channel, self.study)
        return protos.get_service_grpc().OracleStub(authorised)


def messages() -> Any:
    from keras_tuner.src import protos

    return protos.get_service()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chief]:
    """A chief that hands out trials and is stopped at the end as by an interruption."""
    study, found = tmp_path_factory.mktemp("study"), space.parse(SPACE)
    oracle = oracles.build("random", "nll", found, trials=1000, seed=0)
    about = {"tuner": "random", "objective": "nll"}
    served = tuner.open_tuner(lambda: oracle, study, found, None, about, Progress())  # type: ignore[arg-type]
    stop, ended, sleep = threading.Event(), [], time.sleep

    def pause(seconds: float) -> None:
        if stop.is_set():
            raise Stop
        sleep(min(seconds, 0.01))

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server, secret = workers.listen(address)

    def serve() -> None:
        try:
            workers.serve(served, server, secret, address)
        except Stop:
            ended.append(True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.time, "sleep", pause)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        workers.reach(address, Progress())
        with grpc.insecure_channel(address) as channel:
            yield Chief(address, study, oracle, channel, thread)
        stop.set()
        thread.join(20)
    assert ended == [True], "the chief has not ended, or by itself"


@pytest.fixture
def chief(running: Chief, caplog: pytest.LogCaptureFixture) -> Iterator[Chief]:
    """It; afterwards it still answers, and has logged no traceback."""
    yield running
    answer = running.stub().GetSpace(messages().GetSpaceRequest(), timeout=SECONDS)
    assert [one.name for one in answer.hyperparameters.space.float_space] == ["fine_tune_lr"]
    assert running.oracle.is_over() is False
    assert running.thread.is_alive()
    assert not [record for record in caplog.records if record.exc_info]


METHODS = ("GetSpace", "UpdateSpace", "CreateTrial", "UpdateTrial", "EndTrial", "GetBestTrials",
           "GetTrial")  # fmt: skip
SERVICE = "/keras_tuner.Oracle/"


@pytest.mark.parametrize("method", [*METHODS, "Nothing"])
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(("x", "y"), id="no secret"),
        pytest.param((HEADER, "0" * 64), id="another secret"),
        pytest.param((HEADER, ""), id="an empty secret"),
    ],
)
def test_a_stranger(method: str, metadata: tuple[str, str], chief: Chief) -> None:
    before = dict(chief.oracle.trials)
    with pytest.raises(grpc.RpcError) as refused:
        chief.call(SERVICE + method, b"", metadata)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert chief.oracle.trials == before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda secret: secret[:-1], id="all but a letter"),
        pytest.param(lambda secret: secret + "0", id="a letter more"),
        pytest.param(str.upper, id="capitals"),
        pytest.param(lambda secret: secret * 50, id="fifty times"),
    ],
)
def test_nearly_the_secret(change: Any, chief: Chief) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        chief.call(SERVICE + "CreateTrial", b"", (HEADER, change(chief.secret)))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_secret_last_of_two(chief: Chief) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        chief.call(SERVICE + "GetSpace", b"", (HEADER, chief.secret), (HEADER, "0" * 64))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        pytest.param(SERVICE + "Nothing", b"", "UNIMPLEMENTED", id="a method that is none"),
        pytest.param("/other.Service/Nothing", b"", "UNIMPLEMENTED", id="another service"),
        pytest.param("/", b"", "UNIMPLEMENTED", id="no method"),
        pytest.param(SERVICE + "CreateTrial/../Nothing", b"", "UNIMPLEMENTED", id="a path"),
        pytest.param(SERVICE + "x" * 4000, b"", "UNIMPLEMENTED", id="a long name"),
        *(
            pytest.param(SERVICE + method, bytes([255] * 40), "INTERNAL", id=f"noise to {method}")
            for method in METHODS if method != "GetSpace"
        ),
        pytest.param(SERVICE + "CreateTrial", b"\x0a\xff\xff\xff\xff\x0f", "INTERNAL",
                     id="a text of four thousand million letters"),
        pytest.param(SERVICE + "CreateTrial", b"\x0a\x02\xff\xfe", "INTERNAL",
                     id="a name that is no text"),
        pytest.param(SERVICE + "CreateTrial", bytes(5 * 2**20), "RESOURCE_EXHAUSTED",
                     id="five megabytes"),
        pytest.param(SERVICE + "EndTrial", b"", "UNKNOWN", id="the end of no trial"),
        pytest.param(SERVICE + "UpdateTrial", b"", "UNKNOWN", id="figures of no trial"),
        pytest.param(SERVICE + "GetTrial", b"", "UNKNOWN", id="a question about no trial"),
    ],
)  # fmt: skip
def test_a_message_that_is_none(method: str, data: bytes, code: str, chief: Chief) -> None:
    before = dict(chief.oracle.trials)
    with pytest.raises(grpc.RpcError) as refused:
        chief.call(method, data)
    assert refused.value.code().name == code, refused.value.details()
    assert chief.oracle.trials == before


# Who knows the secret, and means no good or has no luck.


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="no name"),
        pytest.param("../study", id="a path"),
        pytest.param("/etc/passwd", id="a whole path"),
        pytest.param("a\0b", id="a zero byte"),
        pytest.param("x" * 300, id="three hundred letters"),
        pytest.param("x" * 10**6, id="a million letters"),
        pytest.param("<script>", id="markup"),
        pytest.param("\u202e\x1b[2J\n", id="letters that move others"),
        pytest.param("é雪𝄞", id="letters of the world"),
    ],
)
def test_a_worker_of_any_name(name: str, chief: Chief) -> None:
    asked = messages().CreateTrialRequest(tuner_id=name)
    first = chief.stub().CreateTrial(asked, timeout=SECONDS).trial
    assert chief.stub().CreateTrial(asked, timeout=SECONDS).trial.trial_id == first.trial_id
    watch = workers.Watch(chief.study / "workers", 60.0)
    assert watch.is_lost(name) is False
    assert chief.oracle.release(name).trial_id == first.trial_id


def test_a_worker_whose_file_is_no_text(chief: Chief) -> None:
    folder = chief.study / "workers"
    folder.mkdir(exist_ok=True)
    (folder / "noise.json").write_bytes(bytes([255] * 40))
    assert workers.Watch(folder, 60.0).is_lost("noise") is False


def ended(chief: Chief, worker: str, **fields: Any) -> Any:
    """Begins a trial, and ends it as told."""
    stub = chief.stub()
    trial = stub.CreateTrial(messages().CreateTrialRequest(tuner_id=worker), timeout=SECONDS).trial
    for name, value in fields.items():
        setattr(trial, name, value)
    return stub.EndTrial(messages().EndTrialRequest(trial=trial), timeout=SECONDS)


@pytest.mark.parametrize(
    ("fields", "needle"),
    [
        pytest.param({"trial_id": "9999"}, "'9999'", id="another trial"),
        pytest.param({"trial_id": "../../x"}, "'../../x'", id="a path as a trial"),
        pytest.param({"trial_id": ""}, "''", id="no trial"),
        pytest.param({"status": 99}, "Unknown status 99", id="a status that is none"),
        pytest.param({"status": 5}, "nll", id="success without a figure"),
    ],
)
def test_an_end_that_cannot_be(fields: dict[str, Any], needle: str, chief: Chief) -> None:
    before = list(chief.oracle.end_order)
    with pytest.raises(grpc.RpcError) as refused:
        ended(chief, "bad", **fields)
    assert refused.value.code() is grpc.StatusCode.UNKNOWN
    assert needle in refused.value.details()
    assert chief.oracle.end_order == before
    chief.oracle.release("bad")


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308])
def test_a_figure_that_is_none(value: float, chief: Chief) -> None:
    trial = chief.oracle.create_trial("odd")
    sent = messages().UpdateTrialRequest(trial_id=trial.trial_id, metrics={"nll": value})
    chief.stub().UpdateTrial(sent, timeout=SECONDS)
    chief.oracle.release("odd")


@pytest.mark.parametrize("number", [-(2**31), -1, 0, 2**31 - 1])
def test_how_many_trials_are_best(number: int, chief: Chief) -> None:
    asked = messages().GetBestTrialsRequest(num_trials=number)
    assert len(chief.stub().GetBestTrials(asked, timeout=SECONDS).trials) <= 1000


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "error", [FULL, MemoryError("no memory"), RuntimeError("broken"), KeyError("x")], ids=repr
)
@pytest.mark.parametrize("method", ["save", "populate_space"])
def test_an_oracle_that_fails(
    method: str, error: Exception, chief: Chief, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise error

    asked = messages().CreateTrialRequest(tuner_id=f"{method} {error!r}")
    with monkeypatch.context() as patch:
        # What is to be handed out again would need nothing new.
        patch.setattr(chief.oracle, "_retry_queue", [])
        patch.setattr(chief.oracle, method, fails)
        with pytest.raises(grpc.RpcError) as failed:
            chief.stub().CreateTrial(asked, timeout=SECONDS)
        assert str(error) in failed.value.details()
    again = chief.stub().CreateTrial(asked, timeout=SECONDS).trial
    assert chief.oracle.release(asked.tuner_id).trial_id == again.trial_id


def test_a_disk_that_is_full_for_a_moment(chief: Chief, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, write = threading.Event(), results.write_tables

    def full(*arguments: Any) -> None:
        tried.set()
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_tables", full)
        trial = chief.oracle.create_trial("honest")
        chief.oracle.update_trial(trial.trial_id, {"nll": 0.5})
        trial.status = "COMPLETED"
        chief.oracle.end_trial(trial)
        assert tried.wait(SECONDS)
    written = threading.Event()
    monkeypatch.setattr(results, "write_tables", lambda *them: (write(*them), written.set()))
    assert written.wait(SECONDS), "the tables are not tried again"


@pytest.mark.parametrize(
    "address",
    ["", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:8e3", "host:²",
     "host:٨٠", "host:" + "9" * 5000, "host:80:", "8440", "host: 80", "host:80 "],
)  # fmt: skip
def test_an_address_that_is_none(address: str) -> None:
    for use in (workers.listen, lambda it: workers.reach(it, Progress())):
        with pytest.raises(UsageError, match="An address is HOST:PORT") as refused:
            use(address)
        assert repr(address) in refused.value.message
