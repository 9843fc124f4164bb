"""The frozen part on a Ray cluster: blocks of examples go to machines, their rows come back.

Ray hands the blocks out, and once more where a worker dies. A machine runs one block at a time on
all its cores, as it would alone, in the same batches on the same engine: so the rows are the same.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.metadata
import importlib.util
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer._version import __version__
from keras_transfer.backbones.weight_files import load_model
from keras_transfer.base import files
from keras_transfer.base.compute import Compute, accelerators
from keras_transfer.base.errors import KerasTransferError, UsageError, require
from keras_transfer.frozen.engine import BATCH, Engine, build_engine, computes_bfloat16
from keras_transfer.frozen.features import Forward, Views, forward

BLOCK = 4 * BATCH
# Blocks that are sent for each machine before the first of them must be back.
_AHEAD = 3
# Within these a port must answer, and a machine say what it has; the first time it imports Keras.
_REACH_SECONDS, _ANSWER_SECONDS = 5.0, 120.0
_TRIES = 3
_ALONE = "or leave --machines out."


@dataclasses.dataclass(frozen=True)
class Network:
    """What a worker makes an engine of, and keeps it by.

    Attributes:
        digest: of the content.
        engine: the engine's name.
        images: how many examples it is made for.
        compute: how Keras computes, where it is the engine.
        content: a ``.keras`` file as uint8 ``[bytes]``.
    """

    digest: str
    engine: str
    images: int
    compute: Compute
    content: np.ndarray = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Machines:
    """A cluster that this process has joined.

    Attributes:
        count: how many blocks it runs at a time.
        asks: what one of them asks of Ray: all that the smallest machine has.
    """

    count: int
    asks: Mapping[str, Any]

    def send(self, network: keras.Model, asked: Mapping[str, Any]) -> Forward:
        """Gives the cluster a network; returns what runs it as :func:`features.forward` would.

        Args:
            network: from examples to the cuts' tensors and, last, the pooled features.
            asked: the engine's ``images`` and ``compute``, see ``engine.build_engine``.

        Raises:
            KerasTransferError: the function returned has lost the cluster, or a block has failed.
        """
        import ray

        with tempfile.TemporaryDirectory() as folder:
            network.save(path := Path(folder) / "network.keras")
            content = path.read_bytes()
        sent = ray.put(np.frombuffer(content, np.uint8))
        about = {
            "digest": files.sha256(content),
            "images": asked["images"],
            "compute": dataclasses.replace(asked["compute"], distribution=None),
        }
        run = ray.remote(_run).options(**self.asks, max_retries=_TRIES)

        def elsewhere(
            engine: Engine, views: Views, rows: np.ndarray, number: int
        ) -> Iterator[list[np.ndarray]]:
            waiting: collections.deque[Any] = collections.deque()
            named = about | {"engine": engine.name}
            try:
                for start in range(0, len(rows), BLOCK):
                    block = _only(views, rows[start : start + BLOCK])
                    waiting.append(run.remote(sent, named, block, number))
                    if len(waiting) >= _AHEAD * self.count:
                        yield from ray.get(waiting.popleft())
                while waiting:
                    yield from ray.get(waiting.popleft())
            except (ray.exceptions.RayError, ConnectionError) as error:
                why = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
                raise KerasTransferError(
                    f"The cluster has not computed a block of examples: {why}",
                    remedy=f"See Ray's logs, and go on with --resume, {_ALONE}",
                ) from error

        return elsewhere


def join(address: str | None) -> Machines | None:
    """Joins the Ray cluster at an address, once a process; None where there is none to join.

    Args:
        address: ``auto`` for the cluster that this machine is a part of, ``local`` for one that is
            started here, ``ray://HOST:PORT`` or ``HOST:PORT``; a process that has joined one
            already stays there.

    Raises:
        UsageError: Ray is missing, the cluster cannot be reached, or one of its machines has not
            what this one has.
    """
    if address is None:
        return None
    require(["ray"], f'pip install "keras-transfer[ray]", {_ALONE}')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if not ray.is_initialized():
        host, _, port = address.removeprefix("ray://").rpartition(":")
        where: dict[str, Any] = {} if address == "local" else {"address": address}
        try:
            if host:  # Ray would try for minutes, and then end the process
                socket.create_connection((host, int(port)), _REACH_SECONDS).close()
            ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            problem = f"The Ray cluster at {address} cannot be joined: {str(error).strip()}"
            remedy = f"Start it with `ray start --head`, see that its port can be reached, {_ALONE}"
            raise UsageError(problem, remedy=remedy) from None
    nodes = [one for one in ray.nodes() if one["Alive"] and one["Resources"].get("CPU")]
    cpus = min(one["Resources"]["CPU"] for one in nodes)
    asks = {
        "num_cpus": cpus,
        "num_gpus": min(one["Resources"].get("GPU", 0) for one in nodes),
        "runtime_env": {"env_vars": {"KERAS_BACKEND": keras.backend.backend()}},
    }
    _check_alike(nodes, asks)
    return Machines(sum(int(one["Resources"]["CPU"] // cpus) for one in nodes), asks)


def kind() -> dict[str, Any]:
    """What a row depends on besides the network and the processor: versions, and the hardware."""
    openvino = importlib.util.find_spec("openvino") and importlib.metadata.version("openvino")
    backend = keras.backend.backend()
    return {
        "keras_transfer": __version__,
        "keras": keras.__version__,
        backend: sys.modules[backend].__version__,
        "openvino": openvino,
        "bfloat16": computes_bfloat16(),
        "accelerators": bool(accelerators()),
    }


def _check_alike(nodes: list[dict[str, Any]], asks: Mapping[str, Any]) -> None:
    """Refuses a cluster of which a machine has not what this one has."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def tell() -> dict[str, Any]:  # sent as it stands, since there may be no keras_transfer there
        try:
            from keras_transfer.frozen.machines import kind
        except ImportError as error:
            return {"keras_transfer": f"none ({error})"}
        return kind()

    asked = [
        ray.remote(tell)
        .options(**asks, scheduling_strategy=NodeAffinitySchedulingStrategy(one["NodeID"], False))
        .remote()
        for one in nodes
    ]
    try:
        found = ray.get(asked, timeout=_ANSWER_SECONDS)
    except (ray.exceptions.RayError, ConnectionError) as error:
        problem = f"A machine of the cluster does not say what it has: {error}"
        raise UsageError(problem, remedy=f"Let it end what it does, {_ALONE}") from None
    for node, theirs in zip(nodes, found, strict=True):
        for name, ours in kind().items():
            if theirs.get(name) != ours:
                raise UsageError(
                    f"{node['NodeManagerHostname']} in the cluster has {name} {theirs.get(name)}, "
                    f"this machine {ours}.",
                    remedy=f"Install the same versions on machines of one kind, {_ALONE}",
                )


def _only(views: Views, rows: np.ndarray) -> Views:
    """The same views of some examples, with nothing else of their data set."""
    held = views.dataset
    few = dataclasses.replace(
        held, paths=tuple(held.paths[row] for row in rows), labels=held.labels[rows],
        splits=held.splits[rows], digests=tuple(held.digests[row] for row in rows),
        examples=views.draw(rows, 0), findings=(), groups=None, read=bytes,
    )  # fmt: skip
    return dataclasses.replace(views, dataset=few)


def _run(
    content: np.ndarray, about: Mapping[str, Any], views: Views, number: int
) -> list[list[np.ndarray]]:
    """On a worker: what the batches of a block give."""
    engine = _engine(Network(content=content, **about))
    return list(forward(engine, views, np.arange(len(views.dataset)), number))


@functools.lru_cache(maxsize=2)
def _engine(network: Network) -> Engine:
    """The engine of a network; building one takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        path.write_bytes(network.content.tobytes())
        model = load_model(path)
    return build_engine(model, network.engine, images=network.images, compute=network.compute)
