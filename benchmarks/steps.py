"""What a training step costs with the gradients of `fast/gradients.py`, against Keras's own step.

    python benchmarks/steps.py [--repeats N]

Fine-tuning of 50 classes above two cuts of four backbones with random weights, 128 px, batches of
32, AdamW with clipping and averaging as in the default recipe. All three steps of a cut live in one
process and take turns; figures are medians over the turns. `exact` rounds nothing.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from typing import Any

import numpy as np
from common import record

BATCH, CLASSES, SIDE, STEPS = 32, 50, 128, 5
NETWORKS = ("EfficientNetLite0", "MobileNetV2", "ResNet50", "EfficientNetV2B0")
KINDS = ("Keras's own", "exact", "rounded")


def steps(name: str, share: str) -> tuple[str, list[Any]]:
    """The name of the cut, and for each kind a function that takes a step."""
    from keras_transfer import backbones
    from keras_transfer.fast import steps as fast_steps
    from keras_transfer.learn import model, planner
    from keras_transfer.learn.optimizers import build_optimizer
    from keras_transfer.learn.pool import ModelPool
    from keras_transfer.recipe import Recipe

    draw, made, cut = np.random.default_rng(0), [], ""
    own, recipe = fast_steps.cheap_calls, Recipe()
    for kind in KINDS:
        backbone = backbones.build(name, image_size=SIDE, weights="none")
        pool = ModelPool()
        classifier = pool.classifier(backbone, CLASSES, 0.0, 0)
        model.set_batch_norm(classifier, trains=False)
        depth = planner.resolve_depth(backbone.blocks, share)
        layers = planner.cut_below(backbone.blocks, depth)
        cut = ", ".join(layers)
        suffix = pool.suffix(classifier, layers, recipe)
        suffix.inference_mode, suffix.rounded = True, kind == "rounded"
        suffix.regularise("none", 0.0)
        make = functools.partial(build_optimizer, recipe, suffix, {})
        suffix.prepare(make, 1, False)
        inputs = draw.normal(size=(BATCH, *suffix.inputs[0].shape[1:])).astype(np.float32)
        targets = np.eye(CLASSES, dtype=np.float32)[draw.integers(0, CLASSES, BATCH)]
        shares = np.full(BATCH, 1 / BATCH, np.float32)
        if kind == "Keras's own":
            fast_steps.cheap_calls = lambda model, rounded: {}
        stepping = fast_steps.begin_steps(suffix)
        try:
            stepping.take(recipe.fine_tune_lr, inputs, targets, shares)
        finally:
            fast_steps.cheap_calls = own
        given = (recipe.fine_tune_lr, inputs, targets, shares)
        made.append(lambda s=stepping, g=given: s.take(*g))
    return cut, made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rows = []
    for name in NETWORKS:
        for share in ("35%", "70%"):
            cut, kinds = steps(name, share)
            times: list[list[float]] = [[] for _ in kinds]
            for _ in range(options.repeats):
                for taken, step in zip(times, kinds, strict=True):
                    begun = time.perf_counter()
                    for _ in range(STEPS):
                        step()
                    taken.append((time.perf_counter() - begun) / STEPS / BATCH * 1e3)
            own, exact, rounded = (statistics.median(taken) for taken in times)
            rows.append(
                {
                    "backbone": f"{name}, {SIDE} px",
                    "above": f"{cut} ({share})",
                    "Keras's own, ms an image": own,
                    "exact, times faster": own / exact,
                    "rounded, times faster": own / rounded,
                }
            )
            print(rows[-1], flush=True)
    record("steps", "python benchmarks/steps.py", rows)


if __name__ == "__main__":
    main()
