"""What exports cost and keep: latency, accuracy, and the verdicts over several networks.

python benchmarks/export.py latency      # minutes; wants a quiet machine
python benchmarks/export.py accuracy     # EfficientNet-Lite0 on emoji-noto, seeds 0 to 2
python benchmarks/export.py verdicts     # all formats for six networks on builtin:digits
python benchmarks/export.py verdicts --networks ConvNeXtTiny    # its row anew, the others kept
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from common import RESULTS, SHARED, record

FORMATS = ("saved_model", "tflite", "tflite-float16", "tflite-dynamic", "tflite-int8")
NETWORKS = {
    "EfficientNetLite0": "offline",
    "MobileNetV2": "none",
    "ResNet50": "none",
    "InceptionV3": "none",
    "EfficientNetV2B0": "none",
    "ConvNeXtTiny": "none",
}


def latency() -> None:
    """The exported graphs beside the bare backbone, timed in turns so that noise falls on all."""
    from keras_transfer import backbones, datasets
    from keras_transfer.export import convert, quantise
    from keras_transfer.learn import model

    backbone = backbones.build("EfficientNetLite0")
    size = backbone.spec.size
    classifier = model.build_classifier(backbone, 9)
    data = datasets.load_dataset(SHARED / "emoji-noto", image_size=size)
    assert data.examples is not None
    images = data.examples[data.indices("train")[:: len(data) // 60]]
    whole = convert.lite_bytes(classifier)
    seen = quantise.measure(whole, images)
    prefix, bare = backbones.split(backbone.model, ["preprocessing"])
    files = {
        "bare backbone, by hand": (_by_hand(bare), np.asarray(prefix(images[:1]))),
        "tflite": (whole, images[:1]),
        "tflite-float16": (quantise.float16(whole), images[:1]),
        "tflite-dynamic": (quantise.dynamic_range(whole, seen), images[:1]),
        "tflite-int8": (quantise.full_integer(whole, seen), images[:1]),
    }
    rows = []
    for threads in (1, 2):
        times = _in_turns(files, threads)
        for name, values in times.items():
            against = "tflite" if name.startswith("tflite-") else "bare backbone, by hand"
            rows.append(
                {
                    "threads": threads,
                    "file": name,
                    "median, ms": float(np.median(values)),
                    "p95, ms": float(np.quantile(values, 0.95)),
                    "to": against if name != against else "",
                    # Each turn against its own neighbour, so that slow moments cancel out.
                    "ratio": float(np.median(values / times[against])),
                }
            )
    text = (
        f"EfficientNet-Lite0 at {size} px with 9 classes, LiteRT with XNNPACK. Limits: tflite 1.05 "
        "of the bare backbone, int8 0.8 of tflite."
    )
    record("export_latency", "python benchmarks/export.py latency", rows, text)


def _by_hand(model) -> bytes:
    """What somebody without this package would do: no preprocessing, no head."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def _in_turns(
    files: dict[str, tuple[bytes, np.ndarray]], threads: int, turns: int = 300
) -> dict[str, np.ndarray]:
    """Milliseconds of each file, shape ``[turns]``, one run of each a turn."""
    from ai_edge_litert.interpreter import Interpreter

    running = {}
    for name, (content, image) in files.items():
        interpreter = Interpreter(model_content=content, num_threads=threads)
        entry = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(entry, image.shape)
        interpreter.allocate_tensors()
        running[name] = (interpreter, entry, image)
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(turns + 20):
        for name, (interpreter, entry, image) in running.items():
            started = time.perf_counter()
            interpreter.set_tensor(entry, image)
            interpreter.invoke()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: np.array(values[20:]) for name, values in times.items()}


def _trained(data: str, folder: Path, **options: object):
    """A run; a linear head on frozen features unless the options say otherwise."""
    import keras_transfer as kt
    from keras_transfer.runs import folder as runs

    kt.train(data, **{"unfreeze": "none", "effort": "quick", "output": folder, **options})
    return runs.open_run(folder)


def accuracy() -> None:
    from keras_transfer.export import export_run

    rows = []
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder:
            data = str(SHARED / "emoji-noto")
            run = _trained(data, Path(folder, "run"), image_size=128, seed=seed)
            started = time.perf_counter()
            report = export_run(run, FORMATS, Path(folder, "export"), allow_failing=True).parity
            seconds = time.perf_counter() - started
        for name, row in report["artefacts"].items():
            rows.append(
                {
                    "seed": seed,
                    "artefact": name,
                    "verdict": row["verdict"],
                    "agreement": row["agreement"],
                    "accuracy": row["accuracy"],
                    "trained model": row["reference_accuracy"],
                    "lost": row["lost"],
                    "gained": row["gained"],
                    "largest difference": row["largest_difference"],
                    "NLL change": row["nll_change"],
                    "MB": row["bytes"] / 1e6,
                    "export, s": round(seconds, 1),
                }
            )
    text = (
        "EfficientNet-Lite0 with its ImageNet weights and a linear head, 128 px, emoji-noto. "
        "`export, s` is the time in which all five were written and proven."
    )
    record("export_accuracy", "python benchmarks/export.py accuracy", rows, text)


def verdicts(networks: Sequence[str]) -> None:
    from keras_transfer import backbones
    from keras_transfer.export import FORMATS as every
    from keras_transfer.export import export_run

    kept = RESULTS / "export_verdicts.json"
    held = json.loads(kept.read_text())["rows"] if len(networks) < len(NETWORKS) else []
    rows = {row["network"]: row for row in held}
    for backbone in networks:
        weights = NETWORKS[backbone]
        with tempfile.TemporaryDirectory() as folder:
            run = _trained(
                "builtin:digits",
                Path(folder, "run"),
                backbone=backbone,
                weights=weights,
                image_size=max(32, backbones.spec(backbone).min_size),
                effort="default",
                unfreeze=None,
            )
            report = export_run(run, list(every), Path(folder, "export"), allow_failing=True).parity
        row: dict[str, object] = {
            "network": backbone,
            "weights": "from random" if weights == "none" else weights,
            "accuracy": report["reference"]["accuracy"],
        }
        for name, found in report["artefacts"].items():
            share = f" {100 * found['agreement']:.1f}" if "agreement" in found else ""
            row[name] = found["verdict"] + share
            if found["reason"]:
                print(f"{backbone}: {name}: {found['reason']}")
        rows[backbone] = row
    text = (
        "builtin:digits at the smallest size, 32 px or more, by the default recipe: the top blocks "
        "of pretrained weights train, or everything from random ones, where the published ones "
        "cannot be had without a download. Each cell: the verdict, and on how many percent of the "
        "test images the artefact gives the trained model's answer."
    )
    command = "python benchmarks/export.py verdicts"
    record("export_verdicts", command, [rows[name] for name in NETWORKS if name in rows], text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("latency", "accuracy", "verdicts"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    if options.what == "verdicts":
        verdicts(options.networks)
    else:
        {"latency": latency, "accuracy": accuracy}[options.what]()
