"""Training steps on an accelerator: precision, XLA and the cache; and a replica of Nautilus's FTU.

    KERAS_BACKEND=jax python benchmarks/gpu.py
    python benchmarks/gpu.py --tiny        # under a minute on a processor: it always runs

Needs TensorFlow or JAX with CUDA and no network: images and weights are random, which changes no
rate. Without a GPU nothing is recorded. FTU (Nautilus, SIGMOD 2022): ResNet-50 under 4 freeze
depths, 2 batch sizes and 3 rates, each trial by common practice (the frozen part is run again in
every epoch) against one extraction a depth into the shared store.
"""

from __future__ import annotations

import argparse
import contextlib
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

from keras_transfer import backbones
from keras_transfer.backbones.copying import working_copy
from keras_transfer.base import compute as devices
from keras_transfer.base.distribution import place
from keras_transfer.base.progress import Progress
from keras_transfer.base.threads import prefetch
from keras_transfer.base.types import LOGITS, Backbone, Dataset, Inputs
from keras_transfer.fast.resident import Resident
from keras_transfer.fast.steps import begin_steps
from keras_transfer.frozen.features import Array, FrozenPart, Views
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn import planner
from keras_transfer.learn.batches import Examples, batches, epoch
from keras_transfer.learn.finetune import fine_tune
from keras_transfer.learn.model import build_classifier, set_batch_norm
from keras_transfer.learn.optimizers import build_optimizer
from keras_transfer.learn.suffix import Suffix, assign, values_of
from keras_transfer.recipe import Recipe

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
    ftu_images: int


FULL = Size(("ResNet50", "EfficientNetB0"), 224, 2048, 64, 50, 8192, "25%",
            (1, 3, 6, 9), (16, 32), (5e-5, 3e-5, 2e-5), 5, 2048)  # fmt: skip
TINY = Size(("ResNet50",), 32, 16, 4, 2, 256, "1%", (1, 2), (8,), (5e-5,), 2, 16)


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
    set_batch_norm(model, trains=False)
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


def endless(source: Examples, batch: int) -> Iterator[Any]:
    epoch = 0
    while True:
        for tensors, *rest in batches(source.views[0], source, batch, [0, epoch]):
            yield place((tensors[0], *rest))
        epoch += 1


def steps(
    suffix: Suffix, source: Examples, size: Size, precision: str, jit: bool, feed: str
) -> dict[str, Any]:
    """Images a second of warm steps, what compiling took, and the share of time without input."""
    recipe = Recipe(batch_size=size.batch, fine_tune_lr=1e-4)
    how = devices.Compute(dtype_policy=precision, xla=jit)
    working = working_copy(suffix, how)
    working.regularise("none", 0.0)
    make = functools.partial(build_optimizer, recipe, working, {}, compute=how)
    working.prepare(make, 1, jit)
    waited, count = 0.0, size.steps if jit or keras.backend.backend() != "jax" else 3
    warm = begin_steps(working)
    with contextlib.closing(prefetch(endless(source, size.batch))) as ahead:
        if feed == "device":
            held, (rows, targets, shares) = (
                Resident(source.views[0]),
                epoch(source, size.batch, [0]),
            )
            whole = (held, np.full(len(rows), 1e-4, np.float32), rows, targets, shares)
            warm.take_all(*whole)
            epochs = -(-count // len(rows))
            begun, count = time.perf_counter(), epochs * len(rows)
            for _ in range(epochs):
                warm.take_all(*whole)
        else:
            warm.take(1e-4, *next(ahead))
            begun = time.perf_counter()
            for _ in range(count):
                asked = time.perf_counter()
                batch = next(ahead)
                waited += time.perf_counter() - asked
                warm.take(1e-4, *batch)
        warm.end()
        seconds = time.perf_counter() - begun
    return {
        "images a second": round(size.batch * count / seconds, 1),
        "to compile, s": round(working.record.seconds, 1),
        "waited for input": f"{waited / seconds:.0%}",
    }


def throughput(size: Size, tiny: bool) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """A row for each network, way, precision and compilation, and the card's own rates.

    Yields all rows so far: a lent card may be gone before the last.
    """
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (size.images, size.image, size.image, 3), np.uint8)
    labels = draw.integers(0, CLASSES, size.images)
    kinds = {"float32": "float32", "mixed_bfloat16": "bfloat16"}
    matrix = {name: matrix_rate(kind, size.matrix) for name, kind in kinds.items()}
    rates = [f"{2e-12 * rate:.1f} TFLOP/s in {name}" for name, rate in matrix.items()]
    text = (
        f"On {card()}, Keras on {keras.backend.backend()}. {size.image} px, batches of "
        f"{size.batch}, the top {size.depth} of the network. Products of {size.matrix} squared: "
        f"{', '.join(rates)}."
    )
    rows = []
    for network in size.networks:
        blocks = backbones.build(network, image_size=size.image, weights="none").blocks
        depth = planner.resolve_depth(blocks, size.depth)
        _, model, cut = made(network, size, depth)
        shape = model.get_layer(cut[0]).output.shape[1:]
        cached = Array(draw.normal(size=(size.images, *shape)).astype(np.float16))
        whole = sum(block.macs for block in blocks)
        above = sum(block.macs for block in blocks[len(blocks) - depth :])
        on_jax = keras.backend.backend() == "jax"
        for way, below, source, work, feed in (
            ("uncached", (), Array(pixels), whole + 2 * above, "host"),
            ("cached, streamed", cut, cached, 3 * above, "host"),
            ("cached, on the device", cut, cached, 3 * above, "device"),
        ):
            if feed == "device" and not on_jax:
                continue
            for precision in kinds:
                for jit in (False, True):
                    first = (network, way, precision) == (size.networks[0], "uncached", "float32")
                    if on_jax and not jit and not first:
                        continue  # every operation compiled by itself: measured once
                    if way == "cached, streamed" and precision == "float32" and not tiny:
                        continue
                    if tiny and way == "uncached" and (jit or precision != "float32"):
                        continue
                    suffix = part(model, below)
                    found = steps(suffix, examples(source, labels), size, precision, jit, feed)
                    share = found["images a second"] * work / matrix[precision]
                    rows.append(
                        {"network": network, "way": way, "precision": precision,
                         "XLA": "on" if jit else "off", **found,
                         "share of the matrix rate": f"{share:.1%}"}
                    )  # fmt: skip
                    print(rows[-1], flush=True)
                    yield rows, text


def ftu(size: Size, precision: str) -> list[dict[str, Any]]:
    """Seconds of all trials, by common practice and with one extraction a depth.

    Both compile a step once for a depth and a size of batch, as a search here does and common
    practice does not.
    """
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (size.ftu_images, size.image, size.image, 3), np.uint8)
    labels = draw.integers(0, CLASSES, len(pixels))
    names = tuple(map(str, range(len(pixels))))
    data = Dataset(
        "random", names, labels, tuple(map(str, range(CLASSES))), np.full(len(pixels), "train"),
        names, (), lambda row: b"", pixels,
    )  # fmt: skip
    jit = devices.choose_compute().xla
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = ActivationStore(Path(folder), limit=10**12)
        for depth in size.depths:
            backbone, model, cut = made("ResNet50", size, depth)
            begun = time.perf_counter()
            frozen = FrozenPart(model, backbone, cut, engine="keras",
                                examples_count=len(pixels), sample=pixels[:32],
                                compute=devices.Compute(precision))  # fmt: skip
            everything = np.arange(len(pixels))
            _, held = frozen.inputs(Views(data), everything, 0, store=store, progress=Progress())
            extraction = time.perf_counter() - begun
            common, common_compiling = trials(part(model, ()), Array(pixels), labels, size,
                                              precision, jit)  # fmt: skip
            cached, compiling = trials(part(model, cut), held, labels, size, precision, jit)
            rows.append(
                {
                    "unfrozen blocks": depth,
                    "common practice, s": round(common, 1),
                    "of that compiling": round(common_compiling, 1),
                    "extraction, s": round(extraction, 1),
                    "cached, s": round(cached, 1),
                    "of that compiling, s": round(compiling, 1),
                    "times faster": round(common / (extraction + cached), 2),
                    "without compiling": round(
                        (common - common_compiling) / (extraction + cached - compiling), 2
                    ),
                }
            )
            print(rows[-1], flush=True)
        print(f"{store.counts.bytes / 2**30:.2f} GiB stored")
    columns = [[row[name] for row in rows] for name in rows[0]]
    total = dict(zip(rows[0], [round(sum(column), 1) for column in columns], strict=True))
    common, common_compiling, extraction, cached, compiling = list(total.values())[1:6]
    total |= {
        "unfrozen blocks": "all",
        "times faster": round(common / (extraction + cached), 2),
        "without compiling": round(
            (common - common_compiling) / (extraction + cached - compiling), 2
        ),
    }
    return [*rows, total]


def trials(
    suffix: Suffix, source: Inputs, labels: np.ndarray, size: Size, precision: str, jit: bool
) -> tuple[float, float]:
    """Seconds of a trial for each size of batch and rate, and how many of them are compiling."""
    begun = time.perf_counter()
    how = devices.Compute(dtype_policy=precision, xla=jit)
    working = working_copy(suffix, how)
    start = values_of(working.learned)
    for batch in size.batches:
        for rate in size.rates:
            recipe = Recipe(fine_tune_epochs=size.epochs, batch_size=batch, fine_tune_lr=rate)
            assign(working.learned, start)
            fine_tune(working, recipe, examples(source, labels), compute=how)
    return time.perf_counter() - begun, working.record.seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=("rates", "ftu", "both"), default="both")
    parser.add_argument("--tiny", action="store_true", help="check that it runs; record nothing")
    options = parser.parse_args()
    size = TINY if options.tiny else FULL
    recorded = bool(devices.accelerators()) and not options.tiny
    backend = keras.backend.backend()
    if options.part != "ftu":
        for rows, text in throughput(size, options.tiny):
            if recorded:
                record(f"gpu_{backend}", "python benchmarks/gpu.py rates", rows, text)
        print(f"{table(rows)}\n\n{text}")
    if options.part != "rates":
        precision = devices.choose_compute().dtype_policy
        rows = ftu(size, precision)
        trials = len(size.batches) * len(size.rates)
        text = (
            f"On {card()}, Keras on {backend}, {precision}. ResNet50 at {size.image} px, "
            f"{size.ftu_images} images, {trials} trials of {size.epochs} epochs a depth; "
            "Nautilus's published factor is 2.83."
        )
        if recorded:
            record(f"gpu_ftu_{backend}", "python benchmarks/gpu.py ftu", rows, text)
        else:
            print(f"{table(rows)}\n\n{text}")


if __name__ == "__main__":
    main()
