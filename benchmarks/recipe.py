"""Settings of the second phase compared over tasks and seeds: where the default recipe is from.

    python benchmarks/recipe.py [--seeds 0 1 2] [--image-size 96] [--out rows.jsonl] [--only NAME…]

Every setting changes one thing of the default recipe. Within a task and a seed all settings see
the same images, split, cached views and head, so that differences are paired. Rows are appended
to a file as they come; a stopped run goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import SHARED, record

from keras_transfer.schedule import Phase, Schedule, recipe

TASKS: dict[str, tuple[str, int | None]] = {
    "noto": (str(SHARED / "emoji-noto"), None),
    "twemoji": (str(SHARED / "emoji-twemoji"), None),
    "digits": ("builtin:digits", None),
    "noto, 20 a class": (str(SHARED / "emoji-noto"), 20),
    "noto, 5 a class": (str(SHARED / "emoji-noto"), 5),
}


def second(**changes: Any) -> Callable[[Schedule], Schedule]:
    """A change to the default recipe's second phase."""

    def change(schedule: Schedule) -> Schedule:
        assert isinstance(schedule.fine_tune, Phase)
        return dataclasses.replace(
            schedule, fine_tune=dataclasses.replace(schedule.fine_tune, **changes)
        )

    return change


SETTINGS: dict[str, Callable[[Schedule], Schedule]] = {
    "default": second(),
    "head alone": lambda schedule: dataclasses.replace(schedule, fine_tune=None),
    "no stochastic depth": second(dropout="off"),
    "rate 1e-4": second(learning_rate=1e-4),
    "12 % unfrozen": second(unfreeze="12%"),
    "70 % unfrozen": second(unfreeze="70%"),
    "rate 1e-3": second(learning_rate=1e-3),
    "rates decay 0.8 a block": second(rate_decay=0.8),
}


def one(task: str, seed: int, size: int, names: list[str], store: Path) -> Any:
    """Yields a row for each setting of a task and a seed."""
    import keras

    from keras_transfer import activations, backbones, datasets, training

    data, few = TASKS[task]
    held = datasets.load_dataset(data, image_size=size, seed=seed, per_class=few)
    for name in names:
        keras.utils.clear_session()
        backbone = backbones.build("EfficientNetLite0", image_size=size, weights="offline")
        begun = time.perf_counter()
        result = training.train(
            held,
            backbone,
            SETTINGS[name](recipe("default")),
            seed=seed,
            store=activations.ActivationStore(store),
        )
        yield {
            "task": task,
            "seed": seed,
            "image_size": size,
            "setting": name,
            "test": result.evaluation.accuracy,
            "validation_nll": result.candidates[0].nll,
            "kept": result.candidates[0].name,
            "seconds": time.perf_counter() - begun,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "recipe.jsonl")
    options = parser.parse_args()
    rows = []
    if options.out.exists():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    key = ("task", "seed", "image_size", "setting")
    done = {tuple(row[k] for k in key) for row in rows}
    with tempfile.TemporaryDirectory() as store:
        for seed in options.seeds:
            for task in options.tasks:
                wanted = [
                    name
                    for name in options.only
                    if (task, seed, options.image_size, name) not in done
                ]
                for row in one(task, seed, options.image_size, wanted, Path(store)):
                    rows.append(row)
                    with open(options.out, "a") as stream:
                        stream.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    report([row for row in rows if row["image_size"] == options.image_size], options)


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Mean over seeds of each task, and the paired difference to the default over all."""
    found = {(r["task"], r["seed"], r["setting"]): r["test"] for r in rows}
    pairs = [(task, seed) for task in options.tasks for seed in options.seeds]
    lines = []
    for name in options.only:
        line: dict[str, Any] = {"setting": name}
        for task in options.tasks:
            got = [found[task, seed, name] for seed in options.seeds if (task, seed, name) in found]
            line[task] = f"{statistics.mean(got):.3f}" if got else ""
        gains = [
            100 * (found[*pair, name] - found[*pair, "default"])
            for pair in pairs
            if (*pair, name) in found and (*pair, "default") in found
        ]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        line["points over default"] = f"{statistics.mean(gains):+.2f} ± {error:.2f}"
        line["pairs"] = len(gains)
        lines.append(line)
    text = (
        f"Test accuracy at {options.image_size} px, mean over seeds "
        f"{', '.join(map(str, options.seeds))}. The last columns: mean paired difference to the "
        "default over tasks and seeds, with its standard error, and the number of pairs."
    )
    record("recipe", "python benchmarks/recipe.py", lines, text)


if __name__ == "__main__":
    main()
