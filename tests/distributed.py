"""Trains on virtual devices of one processor and prints what came of it as JSON.

Run by the tests in a process of its own, with ``frozen`` or ``normalised`` (BatchNorm in training
mode) and the numbers of devices as arguments: the processor must be divided before it is first
used, and TensorFlow groups devices once in a process. With ``hosts`` it is one of those that the
environment names.
"""

import dataclasses
import json
import os
import sys

import keras
import numpy as np

from keras_transfer.backbones.copying import working_copy
from keras_transfer.base import compute, distribution
from keras_transfer.base.errors import UsageError
from keras_transfer.base.hosts import hosts_of
from keras_transfer.frozen.engine import build_engine
from keras_transfer.frozen.features import Array
from keras_transfer.learn.batches import Examples
from keras_transfer.learn.finetune import fine_tune
from keras_transfer.learn.suffix import Suffix
from keras_transfer.recipe import Recipe

# A batch of 10 shared by 4, and a last batch of 4 images.
RECIPE = Recipe(fine_tune_epochs=3, batch_size=10, fine_tune_lr=0.01, penalty="l2-sp", seed=1,
                penalty_strength=1e-2, ema=0.9, clip_norm=0.5)  # fmt: skip


def problem(normalised: bool = False) -> tuple[Suffix, Examples]:
    """A small network, its BatchNorm frozen or in training mode, and images that it learns."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = keras.layers.BatchNormalization(trainable=normalised)(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    logits = keras.layers.Dense(3, name="logits", dtype="float32")(x)
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 34)
    images = draw.normal(size=(34, 8, 8, 3)).astype(np.float16)
    images[np.arange(34), :, :, labels] += 1
    weights = draw.uniform(0.5, 2, 34).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[labels]
    held = Array(images[:9])
    return Suffix(inputs, logits), Examples([Array(images)], targets, weights, held, labels[:9])


def train(count: int, recipe: Recipe, normalised: bool, hosts: bool = False) -> dict[str, object]:
    suffix, examples = problem(normalised)
    # Where JAX does not compile a step it runs it in Python, and there is nothing to count.
    shared = compute.Compute(
        xla=keras.backend.backend() == "jax",
        distribution=distribution.distribute(count, compute.hardware(), hosts),
    )
    extracted = build_engine(suffix, "keras", compute=shared.here)
    features = extracted.run(examples.views[0].gather(np.arange(7))[0])[0].tolist()
    working = working_copy(suffix, shared)
    done = fine_tune(working, recipe, examples, compute=shared)
    return {
        "curve": [[row["train_loss"], row["validation_loss"]] for row in done.history],
        "average": [float(np.abs(value).sum()) for value in done.average or []],
        "compilations": done.compilations,
        "features": features,
    }


def train_with_others() -> dict[str, object]:
    """As one of several hosts; what it says where they begin with different things."""
    hosts = hosts_of("on")
    distribution.meet()
    found = train(0, RECIPE, normalised=False, hosts=True)
    try:
        shared = distribution.distribute(0, compute.hardware(), hosts=True)
        shared.check_alike("the same")
        shared.check_alike(f"the data of host {hosts.number}")
    except UsageError as error:
        found["refused"] = error.message
    return found


def divide_processor() -> None:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
        )


if __name__ == "__main__":
    kind, *counts = sys.argv[1:]
    if kind == "hosts":
        print(json.dumps(train_with_others()))
        sys.exit()
    divide_processor()
    normalised = kind == "normalised"
    # What fills a batch up, so that it can be shared, has no weight in the loss but counts in
    # BatchNorm's statistics.
    recipe = dataclasses.replace(RECIPE, batch_size=8) if normalised else RECIPE
    found = {count: train(int(count), recipe, normalised) for count in counts}
    try:
        train(4, Recipe(fine_tune_epochs=1, batch_size=3), normalised=False)
    except UsageError as error:
        found["refused"] = {"message": error.message}
    print(json.dumps(found))
