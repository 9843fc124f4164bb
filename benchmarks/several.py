"""Several labels an example: a run against scikit-learn, one class against the rest.

    python benchmarks/several.py [--seeds 0 1 2] [--out rows.jsonl]
    python benchmarks/several.py --write FOLDER [--seeds 0]

Photos of a report set are laid into the quarters of larger ones, each photo once and a quarter
empty with a chance of two in five, so that a picture shows up to four classes, or none. Runs are
made by the command line. Beside them stands logistic regression of each class on the network's last
features, its penalty and its thresholds chosen on the same validation pictures. ``--write`` leaves
the pictures of the first seed, and their table, and trains nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import SHARED, add_row, python, record, rows_of
from PIL import Image
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

import keras_transfer as kt
from keras_transfer.base import files
from keras_transfer.base.task import SEVERAL

SET, SIDE, SIZE, EMPTY = "photos-cifar-b", 32, 128, 0.4
LINEAR, EFFORTS = "one against the rest", ("quick", "default")
METRICS = ("mean average precision", "micro F1", "all labels right", "NLL")


def compose(folder: Path, seed: int) -> str:
    """Writes the pictures of a seed and a table of the classes that each shows; names the table."""
    random = np.random.default_rng(seed)
    photos = sorted((SHARED / SET).glob("*/*"))
    left = [photos[i] for i in random.permutation(len(photos))]
    folder.mkdir(parents=True, exist_ok=True)
    rows = list[tuple[str, str]]()
    while len(left) >= 4:
        picture = np.full((2 * SIDE, 2 * SIDE, 3), 127, np.uint8)
        shown = set[str]()
        for quarter in range(4):
            if random.random() < EMPTY:
                continue
            photo, top, start = left.pop(), SIDE * (quarter // 2), SIDE * (quarter % 2)
            pixels = np.asarray(Image.open(photo).convert("RGB"))
            picture[top : top + SIDE, start : start + SIDE] = pixels
            shown.add(photo.parent.name)
        name = f"{len(rows):03d}.png"
        Image.fromarray(picture).save(folder / name)
        rows.append((name, "|".join(sorted(shown)) or "|"))
    files.write_csv(folder / "labels.csv", ("path", "label"), rows)
    return str(folder / "labels.csv")


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


def trained(table: str, seed: int, effort: str) -> tuple[list[float], str]:
    """What a run comes to, and what the command prints."""
    words = ["train", table, "--image-size", str(SIZE), "--seed", str(seed), "--effort", effort]
    place = f"runs/{effort}-{seed}"
    said = python("-m", "keras_transfer", *words, "--output", place, "--overwrite", "--quiet")
    run = kt.open_run(place)
    sure = run.test_probabilities.astype(np.float64)
    return measured(run.dataset, sure, SEVERAL.answers(sure, run.thresholds)), said["output"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="keeps what is done; a stopped run goes on")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="only the pictures, there")
    options = parser.parse_args()
    if options.write:
        print(compose(options.write, options.seeds[0]))
        return
    out = options.out and options.out.resolve()
    rows = {(seed, name): (values, said) for seed, name, values, said in rows_of(out)}
    with tempfile.TemporaryDirectory() as place:
        os.environ["KERAS_TRANSFER_CACHE"] = f"{place}/cache"
        os.chdir(place)
        for seed in options.seeds:
            table = compose(Path(f"pictures-{seed}"), seed)
            data = kt.load_dataset(table, image_size=SIZE, seed=seed)
            for name in (LINEAR, *EFFORTS):
                if (seed, name) in rows:
                    continue
                if name in EFFORTS:
                    rows[seed, name] = trained(table, seed, name)
                else:
                    rows[seed, name] = one_against_the_rest(data), ""
                add_row(out, [seed, name, *rows[seed, name]])
        first = options.seeds[0]
        data = kt.load_dataset(f"pictures-{first}/labels.csv", image_size=SIZE, seed=first)
        os.chdir("/")
    lines: list[dict[str, Any]] = []
    for name in (LINEAR, *EFFORTS):
        of_name = [rows[seed, name][0] for seed in options.seeds]
        means = map(statistics.mean, zip(*of_name, strict=True))
        ahead = [100 * (rows[s, name][0][0] - rows[s, LINEAR][0][0]) for s in options.seeds]
        lines.append(
            {"method": name}
            | {metric: f"{mean:.3f}" for metric, mean in zip(METRICS, means, strict=True)}
            | {"points of precision ahead, by seed": " ".join(f"{one:+.1f}" for one in ahead)}
        )
    said = "\n".join(line.rstrip() for line in rows[first, "default"][1].splitlines())
    text = (
        f"Pictures of photos from {SET}, {SIZE} px; of the first seed {len(data)}, with "
        f"{data.labels.sum(axis=1).mean():.2f} of {len(data.class_names)} classes on each, "
        f"{len(data.indices('test'))} of them tested. Means over {len(options.seeds)} seeds, each "
        "of which lays the photos anew. The run also sees the means of lower maps. What the "
        f"command prints of the first seed:\n\n```\n{said}\n```"
    )
    record("several", "python benchmarks/several.py", lines, text)


if __name__ == "__main__":
    main()
