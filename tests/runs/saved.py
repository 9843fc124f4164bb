"""Runs on disk for the page's tests: real digits, a small real classifier, chosen answers."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from keras_transfer import evaluation
from keras_transfer.base import errors, files
from keras_transfer.base.task import ONE
from keras_transfer.base.types import Dataset, Finding
from keras_transfer.learn import calibration
from keras_transfer.modalities import image
from keras_transfer.runs.folder import Run

ODD_NAMES = (
    "<script>window.hacked = 1</script>",
    "قطط \"سوداء\" 'صغيرة'",
    "猫とねずみ",
    "n" * 300,
    "$x^2$ & co",
    "plain",
)


@dataclasses.dataclass(frozen=True, repr=False)
class Saved(Run):
    """What the page reads of a run, with data and model that can be taken away."""

    pictures: Dataset | None
    classifier: Any

    @property
    def model(self):
        if self.classifier is None:
            raise errors.UsageError("Cannot load model.keras: no such file", remedy="-")
        return self.classifier()

    @property
    def dataset(self):
        if self.pictures is None:
            raise errors.DataError("The folder digits is gone", remedy="-")
        return self.pictures


def classifier(classes: int):
    """A tiny network with the layer names of a real one; its weights are random."""
    import keras

    keras.utils.set_random_seed(0)
    pixels = keras.Input((32, 32, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(12, 5, strides=4, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    x = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(pixels, keras.layers.Softmax(name="probabilities")(x))


def images(count: int, class_names, labels, names=None) -> Dataset:
    """Digits, 32 px, all of them in the test split."""
    digits = (load_digits().images * 15.9).astype(np.uint8)
    small = digits[np.arange(count) % len(digits)].repeat(4, axis=1).repeat(4, axis=2)
    pixels = np.repeat(small[..., None], 3, axis=-1)
    return Dataset(
        name="digits",
        paths=tuple(names or (f"{labels[i]}/{i}.png" for i in range(count))),
        labels=labels,
        class_names=tuple(class_names),
        splits=np.full(count, "test"),
        digests=tuple(f"{i:064x}" for i in range(count)),
        findings=(Finding("<b>bad</b>.png", "truncated", "it ends early", "left out"),),
        read=lambda i: image.encode(small[i]),
        examples=pixels,
    )


def save(
    folder: Path, class_names, count: int = 200, *, skill: float = 4.0, seed: int = 0, names=None
) -> Saved:
    """Writes a run folder with ``count`` test images and answers of a given skill."""
    random = np.random.default_rng(seed)
    classes = len(class_names)
    labels = np.arange(count) % classes
    # Where the truth gets a bonus of 0 the answer is a guess.
    logits = 2.5 * random.normal(size=(count, classes))
    logits[np.arange(count), labels] += skill * random.random(count) * 2
    temperature = calibration.fit_temperature(logits, labels)
    probabilities = ONE.probabilities(logits / temperature).astype(np.float32)
    data = images(count, class_names, labels, names)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "test_probabilities.npy", probabilities)
    best = probabilities.argmax(1)
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "predicted", "probability", "digest"])
        for i in range(count):
            row = [data.paths[i], class_names[labels[i]], class_names[best[i]]]
            writer.writerow([*row, probabilities[i, best[i]], data.digests[i]])
    (folder / "history.csv").write_text(
        "phase,epoch,step,learning_rate,train_loss,validation_loss,validation_calibrated_loss,"
        "validation_accuracy,input_wait,seconds\n"
        "fine_tune,1,4,,0.9,0.8,,0.7,,\nfine_tune,2,8,,0.5,0.6,,0.8,,\n"
    )
    (folder / "splits.csv").write_text("path,label,split\n")
    metrics = {
        "test": evaluation.evaluate(probabilities, labels, class_names).to_json(),
        "kept": "average",
        "phases": [{"name": "head", "details": {
            "penalty": 0.1, "validation_nll": 0.9, "path": [[1.0, 1.2, 9], [0.1, 0.9, 12]],
        }}],
        "seconds": {"extract": 3.0, "total": 5.0},
        "plan": {"seconds": {"extract": 2.5, "total": 4.0}, "bytes": 2**20},
        "cache": {"hits": 3, "misses": 4, "bytes": 2**21},
        "findings": 1,
        "threshold": {"answered": 0, "validation_images": 0, "target": 0.95},
        "environment": {"python": "3.11"},
    }  # fmt: skip
    config = {
        "keras_transfer": "0",
        "data": "digits",
        "backbone": "EfficientNetLite0",
        "image_size": 32,
        "class_names": list(class_names),
        "temperature": temperature,
        "seed": 3,
        "effort": "default",
    }
    plain = json.loads(json.dumps(files.plain(metrics)))
    return Saved(folder, config, plain, data, lambda: classifier(classes))
