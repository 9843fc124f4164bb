"""The baseline that transfer must beat: the same network, from random weights, in the same time."""

from __future__ import annotations

import itertools
import math
import time

import keras
import numpy as np

from keras_transfer import backbones
from keras_transfer.base.compute import choose_compute
from keras_transfer.base.errors import DataError
from keras_transfer.base.types import LOGITS, Dataset
from keras_transfer.evaluation.metrics import evaluate
from keras_transfer.evaluation.probes import Baseline
from keras_transfer.learn import calibration
from keras_transfer.learn.model import build_classifier, set_batch_norm, start_statistics
from keras_transfer.modalities import modality


def train_from_scratch(
    dataset: Dataset,
    backbone: str,
    *,
    seconds: float,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    flip: bool = True,
) -> Baseline:
    """Trains a backbone and head from random weights until the time is up, and tests it.

    AdamW with a cosine decay over the given time, a fresh augmented view of every image each
    epoch, BatchNorm in training mode. The epoch with the best validation NLL is tested; where not
    one epoch fits, the weights at the end are. The temperature is fitted on validation.

    Args:
        dataset: with pixels at a size that the backbone accepts.
        backbone: its name in the registry.
        seconds: time for training, from the first step on, validation included.
        seed: of the weights, the order of images and the augmentation.
        batch_size: images in a step.
        learning_rate: at the start.
        flip: whether augmentation mirrors images.

    Raises:
        DataError: the data set was opened without pixels.
    """
    if dataset.examples is None:
        raise DataError(
            f"{dataset.name} was opened without pixels.", remedy="Open it with an image size."
        )
    keras.utils.set_random_seed(seed)
    pixels, labels = dataset.examples, dataset.labels
    train, val, test = (dataset.indices(split) for split in ("train", "val", "test"))
    built = backbones.build(backbone, image_size=pixels.shape[1:3], weights="none")
    model = build_classifier(built, len(dataset.class_names))
    network = keras.Model(model.input, model.get_layer(LOGITS).output)
    draw = modality(dataset.modality).view
    random = np.random.default_rng(seed)
    set_batch_norm(network, trains=True)
    start_statistics(network, pixels[np.sort(random.permutation(train)[:batch_size])])
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=1e-4, clipnorm=1.0)
    network.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=choose_compute().xla,
    )
    best: tuple[float, list[np.ndarray]] | None = None
    # Tracing is no training: the first step is taken before the clock starts.
    network.train_on_batch(pixels[train[:batch_size]], labels[train[:batch_size]])
    start = time.monotonic()
    for epoch in itertools.count(1):
        order = random.permutation(train)
        for at in range(0, len(order), batch_size):
            share = (time.monotonic() - start) / seconds
            if share >= 1.0:
                break
            optimizer.learning_rate = learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
            rows = np.sort(order[at : at + batch_size])
            digests = [dataset.digests[i] for i in rows]
            view = draw(pixels[rows], digests, epoch, seed=seed, flip=flip)
            network.train_on_batch(view, labels[rows])
        logits = network.predict(pixels[val], batch_size=batch_size, verbose=0)
        loss = calibration.nll(
            logits, labels[val], calibration.fit_temperature(logits, labels[val])
        )
        if best is None or loss < best[0]:
            best = loss, network.get_weights()
        if time.monotonic() - start >= seconds:
            break
    assert best is not None
    network.set_weights(best[1])
    temperature = calibration.fit_temperature(
        network.predict(pixels[val], batch_size=batch_size, verbose=0), labels[val]
    )
    logits = network.predict(pixels[test], batch_size=batch_size, verbose=0)
    return Baseline(
        name="training from scratch",
        predicted=logits.argmax(axis=1),
        evaluation=evaluate(
            calibration.softmax(logits / temperature), labels[test], dataset.class_names, seed=seed
        ),
        seconds=time.monotonic() - start,
    )
