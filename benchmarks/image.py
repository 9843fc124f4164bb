"""Images: the efforts and single settings beside logistic regression on frozen features.

    python benchmarks/image.py [--kind tuning|report] [--seeds 0 1 2] [--only NAME…] [--tasks NAME…]
                               [--out rows.jsonl]

Within a task and a seed all methods see the same images, split and cached views. Rows are appended
to a file as they come; a stopped run goes on from there. Settings are chosen by tuning tasks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from beside import EFFORTS, compare, logistic_regression, measured, sizes
from common import SHARED

SPLIT = (0.6, 0.15, 0.25)


class Task(NamedTuple):
    """Images to tell apart.

    Attributes:
        kind: what it is for.
        data: a folder beside the repository, or what ``load_dataset`` takes.
        size: side in pixels.
        per_class: images of each class to train on, or None for all.
    """

    kind: str
    data: str
    size: int
    per_class: int | None = None


TASKS = {
    "noto": Task("tuning", "emoji-noto", 128),
    "twemoji": Task("tuning", "emoji-twemoji", 128),
    "digits": Task("tuning", "builtin:digits", 96),
    "cifar a": Task("tuning", "photos-cifar-a", 128),
    "cifar a, 96 px": Task("tuning", "photos-cifar-a", 96),
    "noto, 40 a class": Task("tuning", "emoji-noto", 128, 40),
    "cifar a, 40 a class": Task("tuning", "photos-cifar-a", 128, 40),
    "cifar b": Task("report", "photos-cifar-b", 128),
    "signs": Task("report", "photos-signs", 128),
    "cifar b, 40 a class": Task("report", "photos-cifar-b", 128, 40),
    "signs, 40 a class": Task("report", "photos-signs", 128, 40),
    "cifar b, 10 a class": Task("report", "photos-cifar-b", 128, 10),
    "signs, 10 a class": Task("report", "photos-signs", 128, 10),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"effort": "quick"},
    "default": {},
    "high": {"effort": "high"},
    "no refit": {"refit": "off"},
    "head alone": {"unfreeze": "none"},
    "no levels": {"levels": 0},
    "one view": {"views": 1},
    "four views": {"views": 4},
    "eight epochs": {"fine_tune_epochs": 8, "views": 2},
    "70 % unfrozen": {"unfreeze": "70%"},
    "rate 5e-4": {"fine_tune_lr": 5e-4},
    "rate 1e-3": {"fine_tune_lr": 1e-3},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "rates decay 0.8 a block": {"rate_decay": 0.8},
}
"""Those that are no effort change one thing of the default."""


def frozen(data: Any, seed: int) -> dict[str, float]:
    """Logistic regression on the means of the last maps, standardised, of one clean view."""
    import keras
    from sklearn.preprocessing import StandardScaler

    import keras_transfer as kt
    from keras_transfer.frozen.engine import build_engine
    from keras_transfer.learn.model import build_classifier

    backbone = kt.build("EfficientNetLite0", image_size=data.examples.shape[1])
    model = build_classifier(backbone, len(data.class_names), 0.0)
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    features = build_engine(pooled, images=len(data)).predict(data.examples)[0]
    scaler = StandardScaler().fit(features[data.indices("train")])
    return logistic_regression(scaler.transform(features), data, np.logspace(-4, 0, 9))


BESIDE: dict[str, Callable[[Any, int], dict[str, Any]]] = {"P": frozen}
METHODS = (*BESIDE, *SETTINGS)
OF_KIND = {"tuning": METHODS, "report": ("P", *EFFORTS)}


def one(name: str, seed: int, methods: Sequence[str], store: Path) -> Iterator[dict[str, Any]]:
    """Yields a row for each method of a task and a seed."""
    import keras_transfer as kt

    task = TASKS[name]
    source = task.data if ":" in task.data else str(SHARED / task.data)
    data = kt.load_dataset(
        source, image_size=task.size, seed=seed, per_class=task.per_class, split=SPLIT
    )
    for row in measured(data, seed, methods, BESIDE, SETTINGS, store):
        yield {"task": name, **row, "images": sizes(data)}


COLUMNS = (
    "Test accuracy, mean over seeds (their number in brackets). Points over P (logistic regression "
    "on the standardised means of EfficientNet-Lite0's last maps, one clean view, penalty by "
    "validation) are "
    "paired by task and seed: the mean over tasks with a 95 % interval by a bootstrap of tasks, "
    "and the task where they are fewest; then the difference of NLL, ours after its temperature. "
    "Time is the processor's, on a store that the methods before have filled, as a share of the "
    "default's. All tasks have 15 % of the images for validation and 25 % for test."
)
SAID = {
    "tuning": "Settings not named are those of the default. How the numbers of the efforts were "
    "chosen says `recipe.md`, by a script that this one has replaced; this table, why the head is "
    "solved at last on validation examples, too (`no refit` leaves that out), and why photos of 32 "
    "pixels are trained at 128 and no more at 96.",
    "report": "Run once, after the settings were chosen, whatever came out, beside other "
    "processes. There are two sets to report on, so that an interval over tasks says little. The "
    "tasks with so many a class, which share the test images of their set, were not run.",
}


if __name__ == "__main__":
    kinds = {name: task.kind for name, task in TASKS.items()}
    said = {kind: f"{COLUMNS}\n\n{about}" for kind, about in SAID.items()}
    compare("image", kinds, OF_KIND, one, said, "default")
