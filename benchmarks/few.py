"""Few labels: a run beside the nearest mean on the same frozen features.

    python benchmarks/few.py --label NAME [--sets NAME…] [--labels 2 5 8 16] [--seeds 0 1 2]
    python benchmarks/few.py --report

So many labels of each class are all that there are: a run takes its validation examples from among
them. What is left is for the test. Rows are appended to a file under a label, such as that of a
revision (`PYTHONPATH` of another working tree), and a stopped run goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import SHARED, record
from sklearn.neighbors import NearestCentroid

import keras_transfer as kt
from keras_transfer import backbones, datasets
from keras_transfer.base.types import POOL, Dataset
from keras_transfer.datasets import splits
from keras_transfer.frozen.engine import build_engine
from keras_transfer.learn.model import build_classifier
from keras_transfer.modalities import modality
from keras_transfer.recipe import resolve
from keras_transfer.training import size_of

SETS = {
    "emoji-noto": str(SHARED / "emoji-noto"),
    "digits": "builtin:digits",
    "text-reviews": str(SHARED / "text-reviews" / "texts.csv"),
    "text-newsgroups": str(SHARED / "text-newsgroups" / "texts.csv"),
}
TESTED = 500
ROWS = Path(tempfile.gettempdir()) / "few.jsonl"


def opened(name: str) -> Dataset:
    """A set at the size at which a run would train."""
    source = datasets.open_source(SETS[name])
    recipe = resolve({}, {}, modality(source.modality).EFFORTS)
    size = size_of(recipe, source, backbones.spec(recipe.backbone))
    return datasets.load_dataset(source, image_size=size)


def thinned(data: Dataset, labels: int, seed: int) -> Dataset:
    """So many examples of each class to learn from, groups whole, and others for the test."""
    drawn = np.random.default_rng([seed, labels]).permutation(len(data))
    groups = np.array(data.groups or data.digests)
    learnt = np.concatenate(
        [drawn[data.labels[drawn] == label][:labels] for label in range(len(data.class_names))]
    )
    left = drawn[~np.isin(groups[drawn], groups[learnt])][:TESTED]
    given = np.full(len(data), "", "<U5")
    given[learnt], given[left] = "train", "test"
    rows = np.sort(np.concatenate([learnt, left]))
    names = [data.class_names[data.labels[i]] for i in rows]
    placed = splits.complete(names, groups[rows].tolist(), given[rows].tolist(), seed=seed)
    return dataclasses.replace(splits.take(data, rows), splits=placed)


def nearest_mean(data: Dataset, features: np.ndarray) -> float:
    """Accuracy of scikit-learn's on the topmost features, all labels in use."""
    known, test = data.splits != "test", data.splits == "test"
    found = NearestCentroid().fit(features[known], data.labels[known])
    return float((found.predict(features[test]) == data.labels[test]).mean())


def topmost(data: Dataset) -> np.ndarray:
    """The topmost features of the backbone that a run would take."""
    name = resolve({}, {}, modality(data.modality).EFFORTS).backbone
    built = kt.build(name, image_size=data.examples.shape[1])
    model = build_classifier(built, 2)
    engine = build_engine(keras.Model(model.input, model.get_layer(POOL).output), images=10**6)
    return engine.predict(data.examples)[0]


def measured(options: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """A row for each set, number of labels and seed that is not there yet."""
    with tempfile.TemporaryDirectory() as store:
        for name in options.sets:
            data = opened(name)
            for labels in options.labels:
                for seed in options.seeds:
                    if (options.label, name, labels, seed) in done:
                        continue
                    keras.utils.clear_session()
                    thin, begun = thinned(data, labels, seed), time.perf_counter()
                    epochs = options.fine_tune_epochs
                    result = kt.train(thin, seed=seed, cache=store, fine_tune_epochs=epochs)
                    seconds = time.perf_counter() - begun
                    kept = result.candidates[0]
                    yield {
                        "label": options.label, "set": name, "labels": labels, "seed": seed,
                        "test": result.evaluation.accuracy, "nll": result.evaluation.nll,
                        "kept": kept.name, "said": kept.accuracy, "said nll": kept.nll,
                        "nearest mean": nearest_mean(thin, topmost(thin)), "seconds": seconds,
                    }  # fmt: skip


def report(rows: list[dict[str, Any]], note: str) -> None:
    """Means over seeds, a line for each set and number of labels."""
    names = list(dict.fromkeys(row["label"] for row in rows))
    lines = []
    for task in sorted({(row["set"], row["labels"]) for row in rows}):
        line: dict[str, Any] = {"set": task[0], "labels a class": task[1]}
        mine = [row for row in rows if (row["set"], row["labels"]) == task]
        line["nearest mean"] = f"{statistics.mean(row['nearest mean'] for row in mine):.3f}"
        for name in names:
            got = [row for row in mine if row["label"] == name]
            for key, told in (("test", ""), ("nll", " NLL"), ("said", " on validation")):
                mean = f"{statistics.mean(row[key] for row in got):.3f}" if got else ""
                line[f"{name}{told}"] = mean
            line[f"{name}, head kept"] = f"{sum(r['kept'] == 'head' for r in got)} of {len(got)}"
        lines.append(line)
    text = (
        "Test accuracy of default runs, mean over seeds 0, 1 and 2 and up to 500 test examples; "
        "NLL on test; the validation accuracy that the run says; in how many of its seeds the head "
        "alone was kept. Nearest mean: scikit-learn's, on the topmost features, all labels in use."
    )
    record("few", "python benchmarks/few.py --report", lines, f"{text} {note}".strip())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--label")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--note", default="", help="what else to say under the table")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 5, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fine-tune-epochs", type=int, help="as of a run")
    parser.add_argument("--out", type=Path, default=ROWS)
    options = parser.parse_args()
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    rows = [json.loads(line) for line in lines]
    if options.label:
        done = {(row["label"], row["set"], row["labels"], row["seed"]) for row in rows}
        for row in measured(options, done):
            rows.append(row)
            with open(options.out, "a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    if options.report:
        report(rows, options.note)


if __name__ == "__main__":
    main()
