"""Several labels an example: a run against scikit-learn, one class against the rest.

    python benchmarks/several.py [--seeds 0 1 2] [--out rows.jsonl]

Photos of a report set are laid into the quarters of larger ones, each photo once and a quarter
empty with a chance of two in five, so that a picture shows up to four classes, or none. Beside the
run stands logistic regression of each class on the network's last features, its penalty and its
thresholds chosen on the same validation pictures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import SHARED, add_row, record, rows_of
from PIL import Image
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

import keras_transfer as kt
from keras_transfer.base.task import SEVERAL

SET, SIDE, SIZE, EMPTY = "photos-cifar-b", 32, 128, 0.4
EFFORTS = ("quick", "default")
METRICS = ("mean average precision", "micro F1", "all labels right", "NLL")


def composed(seed: int) -> kt.Dataset:
    """The pictures of a seed, with the classes that each shows."""
    random = np.random.default_rng(seed)
    photos = sorted((SHARED / SET).glob("*/*"))
    left = [photos[i] for i in random.permutation(len(photos))]
    pictures, labels = [], []
    while len(left) >= 4:
        picture = np.full((2 * SIDE, 2 * SIDE, 3), 127, np.uint8)
        shown = set[str]()
        for quarter in range(4):
            if random.random() < EMPTY:
                continue
            photo, top, start = left.pop(), SIDE * (quarter // 2), SIDE * (quarter % 2)
            picture[top : top + SIDE, start : start + SIDE] = Image.open(photo).convert("RGB")
            shown.add(photo.parent.name)
        pictures.append(picture)
        labels.append(sorted(shown))
    return kt.load_dataset((np.stack(pictures), labels), image_size=SIZE, seed=seed)


def measured(data: kt.Dataset, probabilities: np.ndarray, answers: np.ndarray) -> list[float]:
    """What ``METRICS`` names, by scikit-learn."""
    truth = data.labels[data.indices("test")]
    return [
        float(metrics.average_precision_score(truth, probabilities, average="macro")),
        float(metrics.f1_score(truth, answers, average="micro")),
        float(metrics.accuracy_score(truth, answers)),
        float(metrics.log_loss(truth.ravel(), probabilities.ravel())),
    ]


def one_against_the_rest(data: kt.Dataset) -> list[float]:
    """Logistic regression of each class, by scikit-learn."""
    assert data.examples is not None
    network = kt.build("EfficientNetLite0", image_size=SIZE).model
    pooled = keras.layers.GlobalAveragePooling2D()(network.output)
    features = keras.Model(network.input, pooled).predict(np.asarray(data.examples), verbose=0)
    train, val, test = (data.indices(split) for split in ("train", "val", "test"))
    features = StandardScaler().fit(features[train]).transform(features)
    found = []
    for strength in 10.0 ** np.arange(-4, 2):
        with warnings.catch_warnings(action="ignore"):
            one = LogisticRegression(C=strength, max_iter=2000)
            model = OneVsRestClassifier(one).fit(features[train], data.labels[train])
        on_val, on_test = (model.predict_proba(features[rows]) for rows in (val, test))
        loss = metrics.log_loss(data.labels[val].ravel(), on_val.ravel())
        found.append((loss, on_val, on_test))
    _, on_val, on_test = min(found, key=lambda one: one[0])
    thresholds = SEVERAL.thresholds(on_val, data.labels[val])
    return measured(data, on_test, SEVERAL.answers(on_test, thresholds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="keeps what is done; a stopped run goes on")
    options = parser.parse_args()
    rows = {(seed, name): values for seed, name, values in rows_of(options.out)}
    with tempfile.TemporaryDirectory() as cache:
        for seed in options.seeds:
            for name in ("one against the rest", *EFFORTS):
                if (seed, name) in rows:
                    continue
                data = composed(seed)
                if name in EFFORTS:
                    run = kt.train(data, seed=seed, effort=name, image_size=SIZE, cache=cache)
                    sure = run.test_probabilities.astype(np.float64)
                    values = measured(data, sure, SEVERAL.answers(sure, run.thresholds))
                else:
                    values = one_against_the_rest(data)
                rows[seed, name] = values
                add_row(options.out, [seed, name, values])
    table: list[dict[str, Any]] = []
    for name in ("one against the rest", *EFFORTS):
        of_name = [rows[seed, name] for seed in options.seeds]
        means = map(statistics.mean, zip(*of_name, strict=True))
        ahead = [
            100 * (rows[s, name][0] - rows[s, "one against the rest"][0]) for s in options.seeds
        ]
        table.append(
            {"method": name}
            | {metric: f"{mean:.3f}" for metric, mean in zip(METRICS, means, strict=True)}
            | {"points of precision ahead, by seed": " ".join(f"{one:+.1f}" for one in ahead)}
        )
    data = composed(options.seeds[0])
    text = (
        f"{len(data)} pictures a seed of photos from {SET}, {SIZE} px, "
        f"{data.labels.sum(axis=1).mean():.2f} of {len(data.class_names)} classes on each, "
        f"{len(data.indices('test'))} of them tested; means over {len(options.seeds)} seeds, each "
        "of which lays the photos anew. The run also sees the means of lower maps."
    )
    record("several", "python benchmarks/several.py", table, text)


if __name__ == "__main__":
    main()
