"""Texts: the efforts beside logistic regression on frozen features, TF-IDF, and the textbook.

    python benchmarks/text.py [--kind tuning|report] [--seeds 0 1 2] [--only NAME…] [--tasks NAME…]
                              [--out rows.jsonl]

Within a task and a seed all methods see the same texts and the same split. Rows are appended to a
file as they come; a stopped run goes on from there. Settings are chosen by tuning tasks alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import SHARED, record

SPLIT = (0.6, 0.15, 0.25)
TASKS: dict[str, tuple[str, str, int | None]] = {
    "reviews": ("tuning", "text-reviews", None),
    "reviews, 64 a class": ("tuning", "text-reviews", 64),
    "reviews, 8 a class": ("tuning", "text-reviews", 8),
    "newsgroups, 20 a class": ("tuning", "text-newsgroups", 20),
    "r8": ("report", "text-r8", None),
    "r8, 8 a class": ("report", "text-r8", 8),
    "glosses": ("report", "text-glosses", None),
    "glosses, 8 a class": ("report", "text-glosses", 8),
}
"""The kind of a task, its folder, and texts a class."""

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"effort": "quick"},
    "default": {},
    "high": {"effort": "high"},
    "head alone, no levels": {"effort": "quick", "levels": 0},
    "one block": {"unfreeze": 1},
    "two blocks": {"unfreeze": 2},
    "four blocks": {"unfreeze": 4},
    "rate 5e-5": {"fine_tune_lr": 5e-5},
    "rate 2e-4": {"fine_tune_lr": 2e-4},
    "two epochs": {"fine_tune_epochs": 2},
    "one view": {"views": 1},
}
PENALTIES = 10.0 ** np.arange(-3, 4)


def logistic_regression(features: Any, data: Any) -> tuple[float, float]:
    """Accuracy and NLL on test, the penalty chosen by NLL on validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    train, validation, test = (data.indices(name) for name in ("train", "val", "test"))
    classes = np.arange(len(data.class_names))

    def loss(model: Any, rows: np.ndarray) -> float:
        return float(
            log_loss(data.labels[rows], model.predict_proba(features[rows]), labels=classes)
        )

    fitted = [
        LogisticRegression(C=c, max_iter=2000).fit(features[train], data.labels[train])
        for c in PENALTIES
    ]
    best = min(fitted, key=lambda model: loss(model, validation))
    return float(best.score(features[test], data.labels[test])), loss(best, test)


def frozen(data: Any, store: Path, seed: int) -> tuple[float, float]:
    """Logistic regression on the mean of the last block's states."""
    import keras

    import keras_transfer as kt
    from keras_transfer.frozen.engine import build_engine
    from keras_transfer.learn.model import build_classifier

    model = build_classifier(kt.build("MiniLM-L6", image_size=data.examples.shape[1]), 2)
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    engine = build_engine(pooled, images=len(data))
    return logistic_regression(engine.predict(data.examples)[0], data)


def tf_idf(data: Any, store: Path, seed: int) -> tuple[float, float]:
    """Logistic regression on words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [data.read(i).decode() for i in range(len(data))]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    words.fit([texts[i] for i in data.indices("train")])
    return logistic_regression(words.transform(texts), data)


def textbook(data: Any, store: Path, seed: int) -> tuple[float, float]:
    """Keras's ``fit`` of the whole network: three epochs at 5e-5, batches of 32."""
    import keras

    import keras_transfer as kt
    from keras_transfer.learn.model import build_classifier

    keras.utils.set_random_seed(seed)
    model = build_classifier(
        kt.build("MiniLM-L6", image_size=data.examples.shape[1]), len(data.class_names)
    )
    train, test = data.indices("train"), data.indices("test")
    model.compile(keras.optimizers.AdamW(5e-5), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(data.examples[train], data.labels[train], batch_size=32, epochs=3, verbose=0)
    said = model.predict(data.examples[test], verbose=0)
    right = said[np.arange(len(test)), data.labels[test]]
    accuracy = float((said.argmax(axis=1) == data.labels[test]).mean())
    return accuracy, float(-np.log(np.maximum(right, 1e-7)).mean())


BESIDE: dict[str, Callable[[Any, Path, int], tuple[float, float]]] = {
    "P": frozen, "TF-IDF": tf_idf, "textbook": textbook,
}  # fmt: skip
METHODS = (*BESIDE, *SETTINGS)


def one(task: str, seed: int, names: list[str], store: Path) -> Any:
    """Yields a row for each method of a task and a seed."""
    import keras

    import keras_transfer as kt

    _, folder, few = TASKS[task]
    source = str(SHARED / folder / "texts.csv")
    size = kt.modalities.modality("text").suited(kt.datasets.natural_sizes(source), 256)
    data = kt.load_dataset(source, image_size=size, seed=seed, per_class=few, split=SPLIT)
    for name in names:
        keras.utils.clear_session()
        begun, row = time.perf_counter(), {"task": task, "seed": seed, "method": name}
        if name in BESIDE:
            accuracy, nll = BESIDE[name](data, store, seed)
        else:
            result = kt.train(data, seed=seed, cache=str(store), **SETTINGS[name])
            accuracy, nll = result.evaluation.accuracy, result.evaluation.nll
            row["kept"] = result.candidates[0].name
        yield row | {
            "test": accuracy, "nll": nll, "tokens": size, "seconds": time.perf_counter() - begun,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["tuning", "report"], default="tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "text.jsonl")
    options = parser.parse_args()
    of_kind = [name for name, (kind, *_) in TASKS.items() if kind == options.kind]
    tasks = options.tasks or of_kind
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["task"], row["seed"], row["method"]) for row in rows}
    with tempfile.TemporaryDirectory() as store:
        for seed in options.seeds:
            for task in tasks:
                wanted = [name for name in options.only if (task, seed, name) not in done]
                for row in one(task, seed, wanted, Path(store)) if wanted else ():
                    rows.append(row)
                    with open(options.out, "a") as stream:
                        stream.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    report(rows, tasks, options)


def report(rows: list[dict[str, Any]], tasks: list[str], options: argparse.Namespace) -> None:
    """Mean over seeds of each task, and the mean over tasks of the points over P."""
    found = {(row["task"], row["seed"], row["method"]): row for row in rows}
    lines = []
    for name in options.only:
        line: dict[str, Any] = {"method": name}
        points, times = [], []
        for task in tasks:
            got = [row for key, row in found.items() if (key[0], key[2]) == (task, name)]
            line[task] = f"{statistics.mean(row['test'] for row in got):.3f}" if got else ""
            pairs = [
                (row, found[task, row["seed"], "P"])
                for row in got
                if (task, row["seed"], "P") in found
            ]
            if pairs:
                points.append(statistics.mean(100 * (a["test"] - b["test"]) for a, b in pairs))
                times.append(statistics.mean(a["seconds"] for a, _ in pairs))
        if points:
            low, high = _interval(points)
            line["points over P"] = f"{statistics.mean(points):+.1f} ({low:+.1f} to {high:+.1f})"
            line["least"] = f"{min(points):+.1f}"
            line["seconds"] = round(statistics.mean(times), 1)
        lines.append(line)
    command = ["python", "benchmarks/text.py", "--kind", options.kind]
    text = (
        f"Tasks for {options.kind}. Test accuracy, mean over seeds "
        f"{', '.join(map(str, options.seeds))}; points over P (frozen MiniLM-L6, logistic "
        "regression on the last block's mean), mean over tasks with a 95 % interval by a bootstrap "
        "of tasks, and the task where they are fewest; seconds of training in a store that other "
        "methods have filled."
    )
    record(f"text_{options.kind}", shlex.join(command), lines, text)


def _interval(points: list[float]) -> tuple[float, float]:
    drawn = np.random.default_rng(0).choice(points, (10_000, len(points))).mean(axis=1)
    return tuple(np.percentile(drawn, [2.5, 97.5]))


if __name__ == "__main__":
    main()
