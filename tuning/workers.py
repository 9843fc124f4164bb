"""One study on several machines: KerasTuner's gRPC oracle hands out trials, a folder is shared.

The chief runs the oracle and no trial. A worker asks it for trials, and writes their records into
the study's folder, which all machines see. Each worker also keeps a small file there that changes
every second or two; a worker whose file stands still is taken for lost, and its trial is handed out
again. Who asks the chief must know a secret, which lies in that folder; connections are not
encrypted, so use a network that you trust.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hmac
import itertools
import json
import logging
import os
import re
import secrets
import shlex
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import keras_tuner

from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.recipe import Recipe
from tuning import oracles, results
from tuning.bench import Workbench, data_digest
from tuning.space import Space, from_json
from tuning.tuner import Tuner

_BEATS = "workers"
_SECRET = "secret"
_HEADER = "keras-transfer-secret"
_BEAT_SECONDS = 1.5
# A worker that loads a library or swaps may stand still for a while.
LOST_AFTER = 60.0
_TRIES, _TRY_SECONDS = 6, 5.0
# Trials for which a worker plans its store; it does not know how many it will get.
_EXPECTED = 20


@dataclasses.dataclass
class Watch:
    """Tells which workers are lost, by the files that they keep changing.

    The chief's own clock decides, so that machines whose clocks differ agree.

    Attributes:
        folder: where the files are.
        lost_after: seconds without a change after which a worker is lost.
    """

    folder: Path
    lost_after: float
    _seen: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)

    def is_lost(self, worker: str) -> bool:
        """Whether a worker has stood still for too long, or taken its file away as it ended."""
        try:
            content = (self.folder / f"{worker}.json").read_text(encoding="utf-8")
        except (OSError, ValueError):  # a worker may call itself anything
            content = ""
        before, since = self._seen.get(worker, (None, 0.0))
        if before and not content:
            return True
        if content != before:
            since = time.monotonic()
            self._seen[worker] = (content, since)
        return time.monotonic() - since > self.lost_after


class _Guard(grpc.ServerInterceptor):
    """Lets nobody reach the oracle who does not send the secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._refusal = grpc.unary_unary_rpc_method_handler(
            lambda request, context: context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "it was not sent the secret of its study"
            )
        )

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Passes a call on, or refuses it."""
        sent = dict(handler_call_details.invocation_metadata).get(_HEADER, "")
        known = hmac.compare_digest(sent.encode(), self._secret)
        return continuation(handler_call_details) if known else self._refusal


class _Sender(grpc.UnaryUnaryClientInterceptor):
    """Sends the secret, read anew each time: a chief that is started again has another."""

    def __init__(self, study: Path) -> None:
        self._path = study / _SECRET

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Makes a call with the secret in its metadata."""
        sent = (_HEADER, self._path.read_text(encoding="utf-8"))
        return continuation(details._replace(metadata=[*(details.metadata or ()), sent]), request)


def authorised(channel: Any, study: Path) -> Any:
    """A channel to a study's chief whose calls carry the study's secret."""
    return grpc.intercept_channel(channel, _Sender(study))


def listen(address: str) -> tuple[Any, str]:
    """A gRPC server that has its port, to be taken before any work is done, and its secret.

    Raises:
        UsageError: the address cannot be listened at.
    """
    _parts(address)
    # What fails in a call is a line and no traceback: whoever knows the secret can cause it.
    logging.getLogger("grpc._server").addFilter(lambda it: not vars(it).update(exc_info=None))
    secret = secrets.token_hex(32)
    # Without the option a port is shared with another chief, and workers split between them.
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=4),
        interceptors=[_Guard(secret)],
        options=[("grpc.so_reuseport", 0)],
    )
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        problem = f"Cannot listen at {address}: another program does, or no such host is here."
        raise UsageError(problem, remedy="Choose another port or host with --address.") from None
    return server, secret


def serve(
    tuner: Tuner,
    server: Any,
    secret: str,
    address: str,
    lost_after: float = LOST_AFTER,
    progress: Progress | None = None,
) -> None:
    """Hands out a study's trials to workers until all have ended.

    Args:
        tuner: its oracle is served.
        server: from :func:`listen`.
        secret: the server's, put into the study's folder for the workers of the same user.
        address: where it listens, for those who start workers.
        lost_after: seconds after which a silent worker's trial is handed out again.
        progress: where to report.
    """
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    progress, oracle = progress or Progress(), tuner.oracle
    servicer = OracleServicer(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    with files.atomic_path(tuner.study / _SECRET) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(secret, encoding="utf-8")
    server.start()
    where = shlex.quote(str(tuner.study))
    progress.note(f"Waiting for workers: python -m tuning worker {where} --chief {address}")
    progress.stage("Handing out trials")
    watch, ended = Watch(tuner.study / _BEATS, lost_after), len(oracle.end_order)
    try:
        # At the end every worker that lives asks once more, and hears that nothing is left.
        while oracle.tuner_ids or not (
            oracle.is_over() or (servicer.stop_triggered and not oracle.ongoing_trials)
        ):
            time.sleep(0.2)
            # A disk that is full for a moment ends no study: the next time round tries again.
            with contextlib.suppress(OSError):
                _take_back(oracle, watch, progress)
                if (count := len(oracle.end_order)) != ended:
                    results.write_tables(tuner.study, tuner.objective)
                    ended = count
                    progress.note(f"{ended} of {oracle.max_trials} trials have ended.")
    finally:
        server.stop(grace=2.0).wait()
        tuner.save()


def _take_back(oracle: Any, watch: Watch, progress: Progress) -> None:
    # A chief that was started again knows the workers of before by their trials alone.
    for worker in filter(watch.is_lost, {*oracle.tuner_ids, *oracle.ongoing_trials}):
        trial = oracle.release(worker)
        if trial is not None:
            again = "has failed" if trial.status == "FAILED" else "is handed out again"
            progress.note(f"{worker} is lost; its trial {int(trial.trial_id)} {again}.")


def work(
    study: str | os.PathLike[str],
    chief: str,
    *,
    data: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_limit: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Runs trials that a chief hands out, until it has no more; returns how many.

    Args:
        study: the study's folder, as this machine sees it.
        chief: the chief's ``HOST:PORT``.
        data: where the data is on this machine, if not where the chief has it.
        cache: folder of cached work; the user's cache folder by default.
        cache_limit: bytes that cached activations may take.
        progress: where to report.

    Raises:
        UsageError: the chief cannot be reached, or the folder or the data is not the chief's.
    """
    progress, folder = progress or Progress(), Path(study)
    # KerasTuner's client would wait an hour for a chief that is gone.
    check = functools.partial(reach, chief, progress)
    check()
    about = results.read_study(folder)
    if about["keras_transfer"] != __version__:
        raise UsageError(
            f"The chief runs keras_transfer {about['keras_transfer']}, this worker {__version__}.",
            remedy="Install the same version on all machines.",
        )
    splits = str(folder / results.SPLITS) if about["own_splits"] else None
    recipe = Recipe(**about["setup"], splits=splits)
    name = f"worker-{uuid.uuid4().hex[:8]}"
    # KerasTuner learns from the environment that it is a worker.
    host, port = _parts(chief)
    os.environ["KERASTUNER_ORACLE_IP"], os.environ["KERASTUNER_ORACLE_PORT"] = host, str(port)
    os.environ["KERASTUNER_TUNER_ID"] = name
    with (
        files.cache_at(cache),
        ActivationStore(files.cache_folder() / "activations", limit=cache_limit) as store,
        _beating(folder / _BEATS / f"{name}.json"),
    ):
        bench = Workbench(data or about["data"], recipe, folder / "heads", store)
        if data_digest(bench.dataset(bench.trial_recipe({}))) != about["data_digest"]:
            problem = f"{bench.data.name} holds other data or splits than the chief's data."
            raise UsageError(problem, remedy="Name the same data with --data.")
        bench.plan(from_json(about["space"], str(folder)), _EXPECTED)
        oracle = oracles.build(
            "random", about["objective"], Space(keras_tuner.HyperParameters()), trials=1, seed=0
        )
        tuner = Tuner(oracle, folder, bench, about, progress, name, check)
        with _asking(chief, tuner):
            tuner.search(verbose=0)
    return sum(record.worker == name for record in results.read_records(folder))


@contextlib.contextmanager
def _asking(chief: str, tuner: Tuner) -> Iterator[None]:
    """Lets a worker's tuner send the study's secret; says of what fails which chief it was."""
    from keras_tuner.src import protos

    try:
        with grpc.insecure_channel(chief) as channel:
            # The channel of KerasTuner's client knows no secret.
            stub = protos.get_service_grpc().OracleStub(authorised(channel, tuner.study))
            tuner.oracle.stub = stub
            yield
    except grpc.RpcError as error:
        raise UsageError(
            f"The chief at {chief} has failed: {error.details()}.",
            remedy="See what it printed, and start it again with --resume.",
        ) from None


class ChiefGone(UsageError, keras_tuner.errors.FatalError):
    """No chief answers. KerasTuner takes all other errors for a failure of the trial."""


@contextlib.contextmanager
def _beating(path: Path) -> Iterator[None]:
    """Keeps changing a file while the block runs, as a sign of life."""
    stop = threading.Event()

    def beat() -> None:
        for count in itertools.count():
            about = {"beat": count, "host": socket.gethostname(), "process": os.getpid()}
            # A disk that is full for a moment must not look like a death.
            with contextlib.suppress(OSError):
                files.write_text(path, json.dumps(about))
            if stop.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)


def reach(chief: str, progress: Progress) -> None:
    """Waits until a chief answers.

    Raises:
        ChiefGone: it does not, however often it is tried.
    """
    _parts(chief)
    for attempt in range(1, _TRIES + 1):
        with grpc.insecure_channel(chief) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=_TRY_SECONDS)
                return
            except grpc.FutureTimeoutError:
                progress.note(f"No chief answers at {chief} (try {attempt} of {_TRIES}).")
    raise ChiefGone(
        f"No chief answers at {chief}; it was tried {_TRIES} times.",
        remedy="Start it with `python -m tuning chief`, and check the address and the firewall.",
    )


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise UsageError(
            f"An address is HOST:PORT. Received: {address!r}.", remedy="Write it as 10.0.0.5:8440."
        )
    return host, int(port)
