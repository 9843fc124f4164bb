"""Scikit-learn's logistic regression on frozen features of one clean view: the figure P.

    python benchmarks/probe.py DATA SPLITS SIZE OUTPUT

Features come from `model.predict` of the whole backbone, its penalty from validation accuracy.
"""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from keras_transfer import backbones, datasets


def main() -> None:
    data, splits, size, output = sys.argv[1:5]
    held = datasets.load_dataset(data, image_size=int(size), splits=splits, cache=False)
    base = backbones.build("EfficientNetLite0", image_size=int(size), weights="offline").model
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    features = keras.Model(base.input, pooled).predict(held.examples, batch_size=32, verbose=0)
    rows = {split: held.indices(split) for split in ("train", "val", "test")}
    scaler = StandardScaler().fit(features[rows["train"]])
    scaled = {split: scaler.transform(features[index]) for split, index in rows.items()}
    best = (-1.0, 0.0)
    for strength in np.logspace(-4, 0, 9):
        model = LogisticRegression(C=strength, max_iter=2000)
        model.fit(scaled["train"], held.labels[rows["train"]])
        accuracy = {s: float(model.score(scaled[s], held.labels[rows[s]])) for s in ("val", "test")}
        best = max(best, (accuracy["val"], accuracy["test"]))
    with open(output, "w") as stream:
        json.dump({"validation": best[0], "test": best[1]}, stream)


if __name__ == "__main__":
    main()
