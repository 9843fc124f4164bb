"""What runs frozen layers fastest, and what of it extraction keeps.

    python benchmarks/engines.py [--images 256] [--repeats 3] [--only engines | extraction]

First table: milliseconds an image of three backbones' pooled features, engines taking turns, median
over the repeats. Second table: extraction into an empty store, from pixels to shards on disk,
against the bare rate of the engine that it chose and against `model.predict`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import SHARED, record

from keras_transfer import backbones, datasets
from keras_transfer.base import progress
from keras_transfer.base.types import POOL
from keras_transfer.frozen import features
from keras_transfer.frozen import store as activations
from keras_transfer.frozen.engine import BATCH, build_engine
from keras_transfer.learn.model import build_classifier

BACKBONES = (("EfficientNetLite0", 224, "offline"), ("MobileNetV2", 224, "none"),
             ("ResNet50", 160, "none"))  # fmt: skip


def litert(model: keras.Model) -> Callable[[np.ndarray], Any]:
    """A runner of the same graph on LiteRT, two threads, one image at a time."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        model.export(str(path), format="litert", verbose=False)
        content = path.read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=2)
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]

    def run(images: np.ndarray) -> None:
        for image in images:
            interpreter.set_tensor(index, image[None])
            interpreter.invoke()

    return run


def predict(model: keras.Model) -> Callable[[np.ndarray], Any]:
    """Keras's own way: one call for all images, which it divides into batches."""
    return lambda images: model.predict(images, batch_size=BATCH, verbose=0)


def timed(run: Callable[[np.ndarray], Any], images: np.ndarray, batch: int = BATCH) -> float:
    """Milliseconds an image."""
    begun = time.perf_counter()
    for start in range(0, len(images), batch):
        run(images[start : start + batch])
    return 1000 * (time.perf_counter() - begun) / len(images)


def pooled_model(name: str, size: int, weights: str) -> tuple[Any, keras.Model]:
    """The backbone and its graph from pixels to pooled features."""
    backbone = backbones.build(name, image_size=size, weights=weights)
    model = build_classifier(backbone, 2)
    return backbone, keras.Model(model.input, model.get_layer(POOL).output)


def compare_engines(name: str, size: int, weights: str, options: Any) -> dict[str, Any]:
    """One line of the first table."""
    held = datasets.load_dataset(str(SHARED / "emoji-noto"), image_size=size)
    images = held.examples[: options.images]
    _, model = pooled_model(name, size, weights)
    runners: dict[str, Callable[[np.ndarray], Any]] = {}
    line: dict[str, Any] = {"backbone": f"{name}, {size} px"}
    runners["model.predict"] = predict(model)
    for engine in ("keras", "openvino", "openvino-bfloat16"):
        begun = time.perf_counter()
        runners[engine] = build_engine(model, engine).run
        converting = round(time.perf_counter() - begun, 1)
        line |= {"conversion, s": converting} if engine == "openvino" else {}
    try:
        runners["litert, batch 1"] = litert(model)
    except ImportError:
        print("LiteRT is not installed: its column is left out.")
    for run in runners.values():
        run(images[:BATCH])
    taken: dict[str, list[float]] = {key: [] for key in runners}
    for _ in range(options.repeats):
        for key, run in runners.items():
            whole = len(images) if key == "model.predict" else BATCH
            taken[key].append(timed(run, images, whole))
    return line | {key: round(statistics.median(values), 2) for key, values in taken.items()}


def extraction(name: str, size: int, weights: str, exact: bool, options: Any) -> dict[str, Any]:
    """One line of the second table: one clean view of the training images."""
    held = datasets.load_dataset(str(SHARED / "emoji-noto"), image_size=size)
    rows = held.indices("train")
    backbone = backbones.build(name, image_size=size, weights=weights)
    model = build_classifier(backbone, 2)
    cut = backbone.blocks[-4].cut
    frozen = features.FrozenPart(
        model, backbone, cut, examples_count=len(rows), sample=held.examples[:BATCH]
    )
    engine = frozen.engine if exact else frozen.rounded_engine
    same = keras.Model(model.input, [model.get_layer(layer).output for layer in (*cut, POOL)])
    rates: dict[str, list[float]] = {"store": [], "bare": [], "predict": []}
    pixels = held.examples[rows]
    predict(same)(pixels[:BATCH])
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            frozen.inputs(
                features.Views(held), rows, 0, store=activations.ActivationStore(folder),
                progress=progress.Progress(), exact=exact,
            )  # fmt: skip
            rates["store"].append(1000 * (time.perf_counter() - begun) / len(rows))
        rates["bare"].append(timed(engine.run, pixels))
        rates["predict"].append(timed(predict(same), pixels, len(pixels)))
    got = {key: statistics.median(values) for key, values in rates.items()}
    return {
        "backbone": f"{name}, {size} px, cut {' + '.join(cut)}",
        "engine": engine.name,
        "extraction, ms an image": round(got["store"], 2),
        "bare engine": round(got["bare"], 2),
        "model.predict": round(got["predict"], 2),
        "extraction over bare": round(got["store"] / got["bare"], 2),
        "model.predict over extraction": round(got["predict"] / got["store"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("engines", "extraction"), help="one of the two tables")
    options = parser.parse_args()
    command = " ".join(["python benchmarks/engines.py", *sys.argv[1:]])
    if options.only != "extraction":
        lines = [compare_engines(*which, options) for which in BACKBONES]
        record("engines", command, lines, "Milliseconds an image; batches of 32 but for LiteRT.")
        keras.utils.clear_session()
    if options.only != "engines":
        rows = [(*which, exact) for which in BACKBONES[:2] for exact in (True, False)]
        record(
            "extraction",
            command,
            [extraction(*row, options) for row in rows],
            "The engine of images to judge by, then that of images to train on.",
        )


if __name__ == "__main__":
    main()
