"""What to label next: the ranking of `keras-transfer label` beside labels at random.

    python benchmarks/label.py [--seeds 0 1 2]

Ten labels of each of the nine classes of emoji-noto, then 45 or 135 more of the pool, chosen by the
ranking, by the smallest margin alone, or at random: scikit-learn's logistic regression (C = 0.01)
on frozen features of EfficientNet-Lite0, on 500 examples kept for the test.
"""

from __future__ import annotations

import argparse
import statistics

import keras
import numpy as np
from common import SHARED, record
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_transfer as kt
from keras_transfer import datasets
from keras_transfer.base.types import POOL
from keras_transfer.frozen.engine import build_engine
from keras_transfer.labelling import ranking

LABELLED, TESTED, BUDGETS = 10, 500, (45, 135)


def fitted(features: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Pipeline:
    """A head on some labels."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return head.fit(features[rows], labels[rows])


def orders(
    scores: np.ndarray, features: np.ndarray, pool: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """The pool by each way to choose."""
    two = np.sort(scores, axis=1)[:, -2:]
    return {
        "ranking": pool[ranking(scores, features, max(BUDGETS), seed)],
        "margin": pool[np.argsort(two[:, 1] - two[:, 0], kind="stable")],
        "random": np.random.default_rng([seed, 1]).permutation(pool),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    data = datasets.load_dataset(str(SHARED / "emoji-noto"), image_size=128)
    model = kt.build_classifier(kt.build("EfficientNetLite0", image_size=128), 2)
    pooled = keras.Model(model.input, model.get_layer(POOL).output)
    features, labels = build_engine(pooled, images=len(data)).predict(data.examples)[0], data.labels
    found: dict[tuple[str, int], list[float]] = {}
    for seed in options.seeds:
        drawn = np.random.default_rng(seed).permutation(len(data))
        test, rest = drawn[:TESTED], drawn[TESTED:]
        of_class = [rest[labels[rest] == label] for label in range(len(data.class_names))]
        begun = np.concatenate([rows[:LABELLED] for rows in of_class])
        pool = np.sort(np.setdiff1d(rest, begun))
        head = fitted(features, labels, begun)
        found.setdefault(("no more", 0), []).append(head.score(features[test], labels[test]))
        scores = head.predict_proba(features[pool])
        for way, order in orders(scores, features[pool], pool, seed).items():
            for budget in BUDGETS:
                head = fitted(features, labels, np.concatenate([begun, order[:budget]]))
                accuracy = head.score(features[test], labels[test])
                found.setdefault((way, budget), []).append(accuracy)
                print(seed, way, budget, accuracy, flush=True)
    rows = [
        {
            "labels chosen by": way, "more labels": budget,
            "accuracy": f"{statistics.mean(values):.3f}",
            "points beside random": " ".join(
                f"{100 * (a - b):+.1f}"
                for a, b in zip(values, found.get(("random", budget), values), strict=True)
            ),
        }
        for (way, budget), values in sorted(found.items(), key=lambda item: item[0][1])
    ]  # fmt: skip
    text = (
        "Test accuracy of heads on EfficientNet-Lite0 at 128 px, means over seeds, on 500 test "
        "examples; in points, seed by seed, what each way differs from labels at random."
    )
    record("label", "python benchmarks/label.py", rows, text)


if __name__ == "__main__":
    main()
