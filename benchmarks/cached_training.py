"""Training on cached activations against the bound that the block map predicts.

    python benchmarks/cached_training.py [--steps 24] [--repeats 3]

With T the multiply-adds of the whole backbone and R those above the cut, an uncached step costs
T + 2R and a cached one 3R. The bound is the measured uncached rate times (T + 2R) / 3R; the share
is what the measured cached rate makes of it. It exceeds 1 where a layer below the cut takes longer
for its multiply-adds than one above it. Both train the same layers with the same step; they take
turns, medians over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import keras
import numpy as np
from common import SHARED, record

from keras_transfer import backbones, datasets
from keras_transfer.base.types import LOGITS
from keras_transfer.learn.model import build_classifier, set_batch_norm
from keras_transfer.learn.optimizers import build_optimizer
from keras_transfer.learn.suffix import Suffix
from keras_transfer.recipe import Recipe

CASES = (("EfficientNetLite0", 128, "offline"), ("MobileNetV2", 128, "none"))
BATCH = 32


def ready(suffix: Suffix, depths: dict[str, int]) -> Suffix:
    """A suffix with its optimiser, compiled as a run compiles it."""
    suffix.regularise("none", 0.0)
    suffix.compile(optimizer=build_optimizer(Recipe(), suffix, depths), jit_compile=False)
    return suffix


def rate(suffix: Suffix, x: np.ndarray, targets: np.ndarray, steps: int) -> float:
    """Images a second over so many steps."""
    weight = np.ones(BATCH, np.float32)
    suffix.train_on_batch(x[:BATCH], targets[:BATCH], sample_weight=weight)
    begun = time.perf_counter()
    for step in range(steps):
        rows = slice(step % 8 * BATCH, (step % 8 + 1) * BATCH)
        suffix.train_on_batch(x[rows], targets[rows], sample_weight=weight)
    return steps * BATCH / (time.perf_counter() - begun)


def case(name: str, size: int, weights: str, share: float, options: Any) -> dict[str, Any]:
    """One line: the fewest top blocks that hold ``share`` of the multiply-adds train."""
    held = datasets.load_dataset(str(SHARED / "emoji-noto"), image_size=size)
    pixels = held.examples[: 8 * BATCH]
    targets = np.eye(len(held.class_names), dtype=np.float32)[held.labels[: 8 * BATCH]]
    backbone = backbones.build(name, image_size=size, weights=weights)
    total = sum(block.macs for block in backbone.blocks)
    count = next(
        n for n in range(1, len(backbone.blocks))
        if sum(block.macs for block in backbone.blocks[-n:]) >= share * total
    )  # fmt: skip
    above = backbone.blocks[-count:]
    cut = backbone.blocks[-count - 1].cut
    model = build_classifier(backbone, targets.shape[1])
    set_batch_norm(model, trains=False)
    prefix, upper = backbones.split(model, cut, outputs=[LOGITS])
    for layer in prefix.layers:
        layer.trainable = False
    cached_inputs = prefix.predict(pixels, verbose=0)
    cached = ready(Suffix(upper.input, upper.output), {})
    whole = ready(Suffix(model.input, model.get_layer(LOGITS).output), {})
    rates: dict[str, list[float]] = {"uncached": [], "cached": []}
    for _ in range(options.repeats):
        rates["uncached"].append(rate(whole, pixels, targets, options.steps))
        rates["cached"].append(rate(cached, cached_inputs, targets, options.steps))
    trained = sum(block.macs for block in above)
    bound = (total + 2 * trained) / (3 * trained)
    got = {key: statistics.median(values) for key, values in rates.items()}
    gained = got["cached"] / got["uncached"]
    return {
        "backbone": f"{name}, {size} px",
        "above": " + ".join(cut),
        "R / T": round(trained / total, 3),
        "uncached, images a second": round(got["uncached"], 1),
        "cached, images a second": round(got["cached"], 1),
        "cached over uncached": round(gained, 2),
        "bound (T + 2R) / 3R": round(bound, 2),
        "share of the bound": round(gained / bound, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    lines = []
    for which in CASES:
        for share in (0.12, 0.35):
            keras.utils.clear_session()
            lines.append(case(*which, share, options))
    record("cached_training", "python benchmarks/cached_training.py", lines)


if __name__ == "__main__":
    main()
