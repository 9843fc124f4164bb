"""How well half of the data foresees all of it.

    python benchmarks/curve.py [--seeds 16]

For each task and split the learning curve of half of the training images says what twice as many
would bring, and where that gain would lie; then the head is solved on all of them. Features are
those of the offline backbone at 96 px (digits at 64), or raw digits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from common import SHARED, record
from sklearn.datasets import load_digits

from keras_transfer import backbones, datasets, evaluation
from keras_transfer.base.types import Dataset

Task = tuple[str, np.ndarray, np.ndarray]


def features_of(data: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of the offline backbone, and labels."""
    held = datasets.load_dataset(data, image_size=size)
    backbone = backbones.build("EfficientNetLite0", image_size=size, weights="offline").model
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    model = keras.Model(backbone.input, pooled)
    return model.predict(held.examples, batch_size=64, verbose=0), held.labels


def tasks() -> Iterator[Task]:
    """Names, features and labels."""
    for name in ("emoji-noto", "emoji-twemoji"):
        features, labels = features_of(str(SHARED / name), 96)
        yield name, features, labels
        few = np.argsort(-np.bincount(labels))[:4]
        rows = np.flatnonzero(np.isin(labels, few))
        yield (
            f"{name}, four largest classes",
            features[rows],
            np.unique(labels[rows], False, True)[1],
        )
    yield "digits", *features_of("builtin:digits", 64)
    yield "digits, raw", load_digits().data.astype(np.float32), load_digits().target


def foresee(
    features: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[float, float, bool, float]:
    """The gain foreseen, the gain measured, whether the interval holds it, and its width."""
    order = np.random.default_rng(seed).permutation(len(labels))
    train, val, test = np.split(order, [len(order) // 2, 3 * len(order) // 4])
    splits = np.full(len(labels), "unused")
    splits[val], splits[test], splits[train[::2]] = "val", "test", "train"
    names = tuple(map(str, range(len(labels))))
    data = Dataset(
        "", names, labels, names[: labels.max() + 1], splits, names, (), read=lambda i: b""
    )
    half = evaluation.learning_curve(data, features)
    splits[train] = "train"
    _, full = evaluation.baselines(data, features)
    gain = full.evaluation.accuracy - half.accuracy[-1]
    low, high = half.gain_interval
    return half.gain, gain, low <= gain <= high, high - low


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=16)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, features, labels in tasks():
        found = [foresee(features, labels, seed) for seed in range(options.seeds)]
        said, came, held, width = (np.array(column, float) for column in zip(*found, strict=True))
        rows.append(
            {
                "task": name,
                "gain, points": round(100 * came.mean(), 1),
                "foreseen": round(100 * said.mean(), 1),
                "off by, root mean square": round(100 * np.sqrt(((said - came) ** 2).mean()), 1),
                "interval, points": round(100 * width.mean(), 1),
                "holds it, %": round(100 * held.mean()),
            }
        )
        print(rows[-1], flush=True)
    mean = {
        key: round(float(np.mean([row[key] for row in rows])), 1)
        for key in rows[0]
        if key != "task"
    }
    rows.append({"task": "mean", **mean})
    command = " ".join(["python benchmarks/curve.py", *sys.argv[1:]])
    record("curve", command, rows, f"{options.seeds} splits a task; intervals are 95 %.")


if __name__ == "__main__":
    main()
