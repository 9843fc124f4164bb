"""The baseline that transfer must beat: the same network, from random weights, in the same time."""

import itertools
import math
import time
from typing import Any

import keras
import numpy as np

from keras_transfer import backbones
from keras_transfer.backbones.adoption import OWN
from keras_transfer.backbones.naming import constant
from keras_transfer.base.compute import choose_compute
from keras_transfer.base.errors import DataError
from keras_transfer.base.task import Task, task_of
from keras_transfer.base.types import LOGITS, Dataset
from keras_transfer.evaluation.probes import Baseline, judge
from keras_transfer.learn import calibration
from keras_transfer.learn.model import build_classifier, measure_statistics, set_batch_norm
from keras_transfer.modalities import modality

BATCH, RATE, DECAY = 32, 1e-3, 1e-4
"""Images in a step, the learning rate at the start, the weight decay."""


def train_from_scratch(dataset: Dataset, backbone: str, *, seconds: float) -> Baseline:
    """Trains a backbone and head from random weights until the time is up, and tests it.

    AdamW with a cosine decay over the given time, a fresh augmented view of every image each
    epoch, BatchNorm in training mode. The epoch with the best validation NLL is tested; where not
    one epoch fits, the weights at the end are. The temperature is fitted on validation.

    Args:
        dataset: with pixels at a size that the backbone accepts.
        backbone: its name in the registry, or the ``.keras`` file of one of the user's own, whose
            weights are drawn anew as its layers say, those of preprocessing excepted.
        seconds: time for training, from the first step on, validation included.

    Raises:
        DataError: the data set was opened without pixels.
    """
    if dataset.examples is None:
        raise DataError(f"{dataset.name} was opened without a size.", remedy="Open it with one.")
    keras.utils.set_random_seed(0)
    random, pixels, labels = np.random.default_rng(0), dataset.examples, dataset.labels
    train, val = dataset.indices("train"), dataset.indices("val")
    sample = np.sort(random.permutation(train)[:BATCH])
    classes = len(dataset.class_names)
    network = _random_network(backbone, classes, pixels[sample], task_of(labels))
    # Tracing is no training: the first step is taken before the clock starts.
    network.train_on_batch(pixels[train[:BATCH]], labels[train[:BATCH]])
    start, draw = time.monotonic(), modality(dataset.modality).view

    def logits_of(rows: np.ndarray) -> np.ndarray:
        return network.predict(pixels[rows], batch_size=BATCH, verbose=0)

    def train_epoch(number: int) -> None:
        order = random.permutation(train)
        for rows in map(np.sort, np.split(order, range(BATCH, len(order), BATCH))):
            share = (time.monotonic() - start) / seconds
            if share >= 1.0:
                return
            network.optimizer.learning_rate = RATE * 0.5 * (1.0 + math.cos(math.pi * share))
            digests = [dataset.digests[i] for i in rows]
            network.train_on_batch(draw(pixels[rows], digests, number), labels[rows])

    lowest, best = math.inf, network.get_weights()
    for epoch in itertools.count(1):
        train_epoch(epoch)
        logits = logits_of(val)
        temperature = calibration.fit_temperature(logits, labels[val])
        loss = calibration.nll(logits, labels[val], temperature)
        if loss < lowest:
            lowest, best = loss, network.get_weights()
        if time.monotonic() - start >= seconds:
            break
    network.set_weights(best)
    return judge("training from scratch", start, logits_of, dataset)


def _random_network(backbone: str, classes: int, sample: np.ndarray, task: Task) -> keras.Model:
    """The backbone and a head of random weights, compiled, from pixels to logits."""
    size = sample.shape[1:3] if sample.ndim == 4 else sample.shape[1]
    built = backbones.build(backbone, image_size=size, weights="none")
    model = build_classifier(built, classes)
    network = keras.Model(model.input, model.get_layer(LOGITS).output)
    if built.weights == OWN:
        network = _drawn_anew(network)
    set_batch_norm(network, trains=True)
    measure_statistics(network, [sample])
    network.compile(
        keras.optimizers.AdamW(RATE, weight_decay=DECAY, clipnorm=1.0),
        task.compiled_loss(),
        jit_compile=choose_compute().xla,
    )
    return network


def _drawn_anew(network: keras.Model) -> keras.Model:
    """The same layers with random weights, all of which train; but statistics of the data stay."""

    def anew(layer: Any) -> Any:
        if constant(layer) or isinstance(layer, keras.layers.Normalization):
            return layer
        made = type(layer).from_config(layer.get_config())
        made.trainable = True
        return made

    return keras.models.clone_model(network, clone_function=anew)
