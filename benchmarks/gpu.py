"""Training steps on an accelerator: precision, XLA and the cache; and a replica of Nautilus's FTU.

    KERAS_BACKEND=jax python benchmarks/gpu.py
    python benchmarks/gpu.py --tiny        # seconds on a processor, so that it always runs

Needs TensorFlow or JAX with CUDA and no network: images and weights are random, which changes no
rate. Without a GPU nothing is recorded. FTU (Nautilus, SIGMOD 2022): ResNet-50 under 4 freeze
depths, 2 batch sizes and 3 rates, each trial by common practice (the frozen part is run again in
every epoch) against one extraction a depth into the shared store.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import record, table

from keras_transfer import backbones, devices, planner
from keras_transfer.activations import ActivationStore
from keras_transfer.batches import Examples, Inputs, batches, prefetch
from keras_transfer.distribution import place
from keras_transfer.features import Array, FrozenPart, Views, features_of_view
from keras_transfer.finetune import Suffix, train_phase
from keras_transfer.model import LOGITS, build_classifier, freeze_batch_norm, working_copy
from keras_transfer.optimizers import build_optimizer
from keras_transfer.progress import Progress
from keras_transfer.schedule import Phase
from keras_transfer.types import Backbone, ImageDataset

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    networks: tuple[str, ...]
    image: int
    images: int
    batch: int
    steps: int
    matrix: int
    depth: str
    depths: tuple[int, ...]
    batches: tuple[int, ...]
    rates: tuple[float, ...]
    epochs: int


FULL = Size(("ResNet50", "EfficientNetB0"), 224, 2048, 64, 50, 8192, "25%",
            (1, 3, 6, 9), (16, 32), (5e-5, 3e-5, 2e-5), 5)  # fmt: skip
TINY = Size(("ResNet50",), 32, 16, 4, 2, 256, "1%", (1, 2), (8,), (5e-5,), 2)


def card() -> str:
    """The name of the accelerator, or of what stands in for it."""
    if not devices.accelerators():
        return "no accelerator"
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    import tensorflow as tf

    first = tf.config.list_physical_devices("GPU")[0]
    return str(tf.config.experimental.get_device_details(first).get("device_name", first.name))


def matrix_rate(kind: str, side: int) -> float:
    """Multiply-adds a second of products of square matrices, the best of three."""
    left = keras.ops.cast(keras.random.normal((side, side)), kind)
    best = 0.0
    for _ in range(4):  # the first one compiles
        begun = time.perf_counter()
        product = left
        for _ in range(10):
            product = keras.ops.matmul(product, left)
        keras.ops.convert_to_numpy(keras.ops.cast(product[0, 0], "float32"))
        best = max(best, 10 * side**3 / (time.perf_counter() - begun))
    return best


def made(network: str, size: Size, depth: int) -> tuple[Backbone, keras.Model, tuple[str, ...]]:
    """A classifier whose top blocks train, and the cut below them."""
    backbone = backbones.build(network, image_size=size.image, weights="none")
    model = build_classifier(backbone, CLASSES)
    backbones.unfreeze(model, depth, backbone.blocks)
    freeze_batch_norm(model)
    return backbone, model, planner.cut_below(backbone.blocks, depth)


def part(model: keras.Model, cut: tuple[str, ...]) -> Suffix:
    """What trains: all from the pixels on, or the part above a cut."""
    if not cut:
        return Suffix(model.input, model.get_layer(LOGITS).output)
    upper = backbones.split(model, cut, outputs=[LOGITS])[1]
    return Suffix(upper.input, upper.output)


def examples(inputs: Inputs, labels: np.ndarray) -> Examples:
    targets = np.eye(CLASSES, dtype=np.float32)[labels]
    few = np.arange(min(len(labels), 32))
    held = Array(*inputs.gather(few))
    return Examples([inputs], targets, np.ones(len(labels), np.float32), held, labels[few])


def endless(source: Examples, phase: Phase) -> Iterator[Any]:
    epoch = 0
    while True:
        for tensors, *rest in batches(source.views[0], source, phase, [0, epoch]):
            yield place((tensors[0], *rest))
        epoch += 1


def steps(suffix: Suffix, source: Examples, size: Size, precision: str, jit: bool) -> dict:
    """Images a second of warm steps, what compiling took, and the share of time without input."""
    phase = Phase("fine_tune", batch_size=size.batch, learning_rate=1e-4)
    working = working_copy(suffix, precision)
    working.regularise("none", 0.0)
    optimizer = build_optimizer(phase, working, {}, precision=precision)
    working.compile(optimizer=optimizer, jit_compile=jit)
    ahead = prefetch(endless(source, phase))
    working.step(*next(ahead))
    waited, begun = 0.0, time.perf_counter()
    for _ in range(size.steps):
        asked = time.perf_counter()
        batch = next(ahead)
        waited += time.perf_counter() - asked
        working.step(*batch)
    seconds = time.perf_counter() - begun
    ahead.close()
    return {
        "images a second": round(size.batch * size.steps / seconds, 1),
        "to compile, s": round(working.compile_seconds, 1),
        "waited for input": f"{waited / seconds:.0%}",
        "compilations": working.compilations,
    }


def throughput(size: Size, tiny: bool) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (size.images, size.image, size.image, 3), np.uint8)
    labels = draw.integers(0, CLASSES, size.images)
    kinds = {"float32": "float32", "mixed_bfloat16": "bfloat16"}
    matrix = {name: matrix_rate(kind, size.matrix) for name, kind in kinds.items()}
    rows = []
    for network in size.networks:
        blocks = backbones.build(network, image_size=size.image, weights="none").blocks
        depth = planner.resolve_depth(blocks, size.depth)
        _, model, cut = made(network, size, depth)
        shape = model.get_layer(cut[0]).output.shape[1:]
        cached = Array(draw.normal(size=(size.images, *shape)).astype(np.float16))
        whole = sum(block.macs for block in blocks)
        above = sum(block.macs for block in blocks[len(blocks) - depth :])
        for way, below, source, work in (
            ("uncached", (), Array(pixels), whole + 2 * above),
            ("cached", cut, cached, 3 * above),
        ):
            for precision in kinds:
                for jit in (False, True):
                    if keras.backend.backend() == "jax" and not jit:
                        continue  # with JAX everything is XLA
                    if tiny and way == "uncached" and (jit or precision != "float32"):
                        continue
                    suffix = part(model, below)
                    found = steps(suffix, examples(source, labels), size, precision, jit)
                    share = found["images a second"] * work / matrix[precision]
                    rows.append(
                        {"network": network, "way": way, "precision": precision,
                         "XLA": "on" if jit else "off", **found,
                         "share of the matrix rate": f"{share:.1%}"}
                    )  # fmt: skip
                    print(rows[-1], flush=True)
    for name, rate in matrix.items():
        print(f"{name}: {2e-12 * rate:.1f} TFLOP/s in products of {size.matrix} squared")
    return rows


def ftu(size: Size, precision: str) -> dict[str, Any]:
    """Seconds of all trials, by common practice and with one extraction a depth."""
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (size.images, size.image, size.image, 3), np.uint8)
    labels = draw.integers(0, CLASSES, size.images)
    names = tuple(str(number) for number in range(size.images))
    data = ImageDataset(
        "random", names, labels, tuple(map(str, range(CLASSES))), np.full(size.images, "train"),
        names, (), lambda row: b"", pixels,
    )  # fmt: skip
    jit = devices.jit_policy().compile
    seconds = {"common practice": 0.0, "extraction": 0.0, "cached": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        store = ActivationStore(Path(folder), limit=10**12)
        for depth in size.depths:
            backbone, model, cut = made("ResNet50", size, depth)
            begun = time.perf_counter()
            frozen = FrozenPart(model, backbone, cut, engine="keras", images=size.images,
                                sample=pixels[:32], precision=precision)  # fmt: skip
            rows = np.arange(size.images)
            _, held = features_of_view(frozen, store, Views(data), rows, 0, Progress())
            seconds["extraction"] += time.perf_counter() - begun
            for way, below, source in (
                ("common practice", (), Array(pixels)),
                ("cached", cut, held),
            ):
                for batch in size.batches:
                    for rate in size.rates:
                        begun = time.perf_counter()
                        suffix = part(model, below)
                        trial(suffix, examples(source, labels), batch, rate, size, precision, jit)
                        seconds[way] += time.perf_counter() - begun
        stored = store.counts.bytes
    ours = seconds["extraction"] + seconds["cached"]
    trials = len(size.depths) * len(size.batches) * len(size.rates)
    return {
        "trials": trials,
        "epochs": size.epochs,
        "precision": precision,
        "common practice, s": round(seconds["common practice"], 1),
        "with the store, s": round(ours, 1),
        "of that extraction, s": round(seconds["extraction"], 1),
        "stored, GiB": round(stored / 2**30, 2),
        "times faster": round(seconds["common practice"] / ours, 2),
    }


def trial(
    suffix: Suffix, source: Examples, batch: int, rate: float, size: Size, precision: str, jit: bool
) -> None:
    phase = Phase(
        "fine_tune", epochs=size.epochs, batch_size=batch, learning_rate=rate, penalty="none"
    )
    working = working_copy(suffix, precision)
    make = functools.partial(build_optimizer, phase, working, {}, precision=precision)
    train_phase(working, make, phase, source, seed=0, jit=jit)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true", help="check that it runs; record nothing")
    options = parser.parse_args()
    size = TINY if options.tiny else FULL
    rows = throughput(size, options.tiny)
    replica = ftu(size, devices.precision_policy().name)
    backend = f"{card()}, Keras on {keras.backend.backend()}"
    text = f"On {backend}. The FTU workload of Nautilus (published: 2.83 times):\n\n" + table(
        [replica]
    )
    if options.tiny or not devices.accelerators():
        print(f"{table(rows)}\n\n{text}")
    else:
        record(f"gpu_{keras.backend.backend()}", "python benchmarks/gpu.py", rows, text)


if __name__ == "__main__":
    main()
