"""What several machines cost, on one: a search by a chief and workers, extraction on Ray.

    python benchmarks/machines.py [--workers 1 2 4 8] [--trials 16] [--idle-trials 200]

Workers share the cores of this machine, so nothing can become faster here; what counts is the time
that is not a trial or a batch: the chief's, the store's lock's, the transfers'. From these follows
where each of them would end the growth, were every worker a machine of its own.

Search: digits of 32 px, one store. The last row's trials cost nothing after the first: its workers
give the chief one result after the other. Extraction: EfficientNet-Lite0 on digits of 96 px on a
local Ray cluster of machines of one core each.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import record, table

# This folder has a file of the name of the package that it measures, and comes first.
sys.path.append(sys.path.pop(0))

SPACE = 'unfreeze = "1"\nviews = 1\nfine_tune_epochs = 1\n[fine_tune_lr]\nlow = 1e-4\nhigh = 2e-3\n'
# A worker whose trials, after its first, give that one's result at once.
IDLE = """
import sys
from tuning import bench, workers
real, kept = bench.Workbench.run, []
def run(*arguments):
    if not kept:
        kept.append(real(*arguments))
    return kept[0]
bench.Workbench.run = run
workers.work(sys.argv[1], sys.argv[2])
"""


def cpu_seconds(process: int) -> float:
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def started(*words: str) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen([sys.executable, *words], env=environment, **quiet)


def search(folder: Path, workers: int, trials: int, idle: bool = False) -> dict[str, Any]:
    """A study with so many workers, from the first trial that begins to the last that ends."""
    from tuning import results

    study, space = folder / f"study-{workers}-{idle}", folder / "space.toml"
    space.write_text(SPACE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    chief = started(
        "-m", "tuning", "chief", "builtin:digits", "--trials", str(trials), "--tuner", "random",
        "--image-size", "32", "--per-class", "30", "--space", str(space), "--output", str(study),
        "--address", address,
    )  # fmt: skip
    way = ("-c", IDLE, str(study), address)
    if not idle:
        way = ("-m", "tuning", "worker", str(study), "--chief", address)
    while not (study / "secret").exists():
        time.sleep(0.1)
        assert chief.poll() is None
    crew, before = [started(*way) for _ in range(workers)], cpu_seconds(chief.pid)
    while len(list(study.glob("trials/*/record.json"))) < trials:
        time.sleep(0.05)
        assert any(one.poll() is None for one in crew)
    spent = cpu_seconds(chief.pid) - before
    for one in crew:
        one.wait()
    chief.kill()  # what is left is the winner's training
    chief.wait()
    records = results.read_records(study)
    written = [(study / "trials" / f"{one.trial:04d}" / "record.json") for one in records]
    ends = [path.stat().st_mtime for path in written]
    wall = max(ends) - min(end - one.seconds for end, one in zip(ends, records, strict=True))
    within = sum(one.seconds for one in records)
    took = len({one.worker for one in records})
    return {
        "workers": workers, "trials": f"{trials}, no work" if idle else trials,
        "trials a minute": round(60 * trials / wall, 1),
        "a trial, s": round(within / trials, 2),
        "of the workers' time in trials": f"{within / (took * wall):.0%}",
        "chief, ms of CPU a trial": round(1000 * spent / trials, 1),
    }  # fmt: skip


def lock(folder: Path, rows: int = 20_000, width: int = 4_700) -> dict[str, float]:
    """Seconds for which a reader holds the lock of 179 MiB, as 20,000 images of 128 px fill it."""
    from keras_transfer.frozen.store import ActivationKey, ActivationStore

    key = ActivationKey("n", "w", ("cut",), "p", "r", (width,), "float16", "openvino")
    digests = [f"{number:064x}" for number in range(rows)]
    draw = np.random.default_rng(0)

    def compute(lacking: np.ndarray) -> Any:
        for start in range(0, len(lacking), 1000):
            yield [draw.random((len(lacking[start : start + 1000]), width), np.float32)]

    def taken(store: Any) -> float:
        begun = time.perf_counter()
        store.ensure([key], digests, compute)
        return time.perf_counter() - begun

    with ActivationStore(folder / "lock", limit=2**40) as store:
        taken(store)
    with ActivationStore(folder / "lock", limit=2**40) as store:
        return {"first": taken(store), "again": min(taken(store) for _ in range(3))}


def extraction(machines: int, images: int = 1792) -> dict[str, Any]:
    """Extracts on so many machines, or here where there are none."""
    from keras_transfer import backbones, datasets
    from keras_transfer.frozen import features
    from keras_transfer.frozen.engine import build_engine
    from keras_transfer.frozen.machines import BLOCK, join

    data = datasets.load_dataset("builtin:digits", image_size=96)
    backbone = backbones.build("EfficientNetLite0", image_size=96, weights="offline")
    top = backbone.model.get_layer("block6c_add").output
    import keras

    pooled = keras.layers.GlobalAveragePooling2D()(backbone.model.output)
    network = keras.Model(backbone.model.input, [top, pooled])
    engine = build_engine(network, "openvino")
    views, rows = features.Views(data), np.arange(images)
    run, cluster = features.forward, None
    if machines:
        import ray
        from ray.cluster_utils import Cluster

        one = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**one, "include_dashboard": False})
        for _ in range(machines - 1):
            cluster.add_node(**one)
        joined = join(cluster.address)
        assert joined is not None
        assert joined.count == machines
        from keras_transfer.base.compute import PLAIN

        run = joined.send(network, {"images": images, "compute": PLAIN})
        for _ in run(engine, views, rows[: 3 * machines * BLOCK], 1):
            pass  # every worker has its engine
    begun, spent, back = time.perf_counter(), time.process_time(), 0
    for tensors in run(engine, views, rows, 1):
        back += sum(tensor.nbytes for tensor in tensors)
    seconds, spent = time.perf_counter() - begun, time.process_time() - spent
    if cluster is not None:
        ray.shutdown()
        cluster.shutdown()
    assert data.examples is not None
    return {
        "machines": machines or "none", "images a second": round(images / seconds, 1),
        "chief, ms of CPU an image": round(1000 * spent / images, 3),
        "KiB out an image": round(data.examples[0].nbytes / 1024, 1),
        "KiB back an image": round(back / images / 1024, 1),
    }  # fmt: skip


def alone(what: str, *arguments: Any) -> dict[str, Any]:
    """One of the above in a process of its own."""
    words = [sys.executable, __file__, "--one", json.dumps([what, *arguments])]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    print(done.stdout.splitlines()[-1], flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def judged(
    rows: list[dict[str, Any]], held: dict[str, float], extracted: list[dict[str, Any]]
) -> str:
    """What the page says below its table: the other figures, and what follows from all."""
    trial = rows[-1]["chief, ms of CPU a trial"] / 1000
    image = extracted[-1]["chief, ms of CPU an image"] / 1000
    sent, back = (extracted[-1][f"KiB {way} an image"] for way in ("out", "back"))
    here, wire = max(row["images a second"] for row in extracted), 125e6 / 1024 / (sent + back)
    first, again = held["first"], held["again"]
    few, many = rows[0], rows[-1]
    within = float(many["of the workers' time in trials"].rstrip("%")) / 100
    grown = " to ".join(str(row["chief, ms of CPU a trial"]) for row in (few, many))
    apart = many["a trial, s"] * (1 / within - 1)
    return f"""\
The last row's trials, after the first, give that one's result at once: what is left is the sharing.
{apart:.1f} s lie between two trials of a worker there. The chief reads all records again whenever a
trial ends, so that what it spends grows with them, from {grown} ms.

{table(extracted)}

A reader holds the lock of a key of 20,000 rows (179 MiB) for {first:.2f} s the first time, in which
it checks every row, and for {again:.2f} s again. Without machines the chief computes, too.

By arithmetic, were each worker a machine of its own, at the best rate above:

- **Chief of a search.** {1000 * trial:.1f} ms of CPU a trial are {1 / trial:.0f} trials a second
  on one core. 100 workers keep it busy for {100 * trial / 60:.1%} of the time with trials of a
  minute (100 / 60 s * {1000 * trial:.1f} ms), for {100 * trial / 10:.1%} with trials of 10 s; it
  ends the growth at {60 / trial:.0f} workers with trials of a minute, at {10 / trial:.0f} with such
  of 10 s.
- **Lock of the store.** Of 100 workers that start at once the last waits {100 * first:.0f} s
  (100 * {first:.2f} s). Later trials of a minute, which read all rows of one view each, hold it for
  {100 * again / 60:.0%} of the time (100 / 60 s * {again:.2f} s): it ends the growth at
  {60 / again:.0f} workers, with trials of 10 s at {10 / again:.0f}.
- **Extraction on Ray.** {1000 * image:.3f} ms of the chief's CPU an image: one core of it serves
  {1 / image:.0f} images a second, {1 / image / here:.0f} machines of {here:.0f} images a second.
  {sent + back:.0f} KiB an image cross the network: of a gigabit a second, {wire:.0f} images,
  {wire / here:.0f} machines.

Other programs used the same cores: times of the clock say less than times of CPU.
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--idle-trials", type=int, default=200)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, *arguments = json.loads(options.one)
        print(json.dumps({"extraction": extraction}[what](*arguments)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KERAS_TRANSFER_CACHE"] = str(folder / "cache")
        held = lock(folder)
        print(held, flush=True)
        extracted = [alone("extraction", count) for count in (0, 1, 2, 3)]
        rows = []
        for count in options.workers:
            rows.append(search(folder, count, options.trials))
            print(rows[-1], flush=True)
        rows.append(search(folder, 2, options.idle_trials, idle=True))
        print(rows[-1], flush=True)
    text = judged(rows, held, extracted)
    record("machines", "python benchmarks/machines.py", rows, text, lock=held, extraction=extracted)


if __name__ == "__main__":
    main()
