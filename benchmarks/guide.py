"""The Keras transfer-learning guide's recipe, in plain Keras, written from its description.

    python benchmarks/guide.py DATA SPLITS SIZE OUTPUT [--seed 0] [--epochs 20 10] [--as-written]

Augmentation layers (flip, rotation) in front of a frozen backbone in inference mode, pooling,
Dropout 0.2 and a Dense layer: 20 epochs at 1e-3; then everything is unfrozen, BatchNorm still in
inference mode: 10 epochs at 1e-5. Batches of 32, Adam, no caching.

The guide asks for inference mode by calling the backbone with ``training=False``. In Keras 3.15
``fit`` replaces that in functional models by ``training=True``: stochastic depth comes alive at
once, and BatchNorm when everything is unfrozen. ``--as-written`` makes the guide's call and gets
what its readers get; without it the backbone truly stays in inference mode.

Nothing of keras_transfer takes part but the pretrained network and the reading of images.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_transfer import backbones, datasets


class Inference(keras.layers.Layer):
    """Runs a model in inference mode, which ``fit`` does not override."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def call(self, images: Any) -> Any:
        return self.model(images, training=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("data", "splits", "size", "output"):
        parser.add_argument(name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, nargs=2, default=[20, 10])
    parser.add_argument("--as-written", action="store_true")
    options = parser.parse_args()
    data, splits, size, seed = options.data, options.splits, options.size, options.seed
    keras.utils.set_random_seed(seed)
    held = datasets.load_dataset(data, image_size=int(size), splits=splits, cache=False)
    base = backbones.build("EfficientNetLite0", image_size=int(size), weights="offline").model

    def batches(split: str, shuffle: bool) -> tf.data.Dataset:
        rows = held.indices(split)
        made = tf.data.Dataset.from_tensor_slices((held.examples[rows], held.labels[rows]))
        if shuffle:
            made = made.shuffle(len(rows), seed=seed)
        return made.batch(32).prefetch(tf.data.AUTOTUNE)

    train, validation, test = batches("train", True), batches("val", False), batches("test", False)
    base.trainable = False
    images = keras.Input((int(size), int(size), 3), dtype="uint8")
    x = keras.layers.Rescaling(1.0)(images)
    x = keras.layers.RandomFlip("horizontal", seed=seed)(x)
    x = keras.layers.RandomRotation(0.1, seed=seed)(x)
    x = base(x, training=False) if options.as_written else Inference(base)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2, seed=seed)(x)
    model = keras.Model(images, keras.layers.Dense(len(held.class_names), activation="softmax")(x))

    report = {"seconds": {}, "test": {}, "validation": {}}
    for stage, rate, epochs in (
        ("head", 1e-3, options.epochs[0]),
        ("fine-tuned", 1e-5, options.epochs[1]),
    ):
        base.trainable = stage == "fine-tuned"
        model.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        marks = [time.perf_counter()]
        mark = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs, marks=marks: marks.append(time.perf_counter())
        )
        history = model.fit(
            train, validation_data=validation, epochs=epochs, verbose=0, callbacks=[mark]
        )
        report["seconds"][stage] = np.diff(marks).tolist()
        report["validation"][stage] = float(history.history["val_accuracy"][-1])
        predicted = np.argmax(model.predict(test, verbose=0), axis=1)
        report["test"][stage] = float(np.mean(predicted == held.labels[held.indices("test")]))
    with open(options.output, "w") as stream:
        json.dump(report, stream)


if __name__ == "__main__":
    main()
