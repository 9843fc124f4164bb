"""Settings of the second phase compared over tasks and seeds: where the default recipe is from.

    python benchmarks/recipe.py [--seeds 0 1 2] [--out rows.jsonl] [--only NAME…] [--tasks NAME…]

Most settings change one thing of the default recipe. Within a task and a seed all settings see
the same images, split, cached views and head, so that differences are paired; large test splits
make them less noisy. Rows are appended to a file as they come; a stopped run goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import SHARED, record

from keras_transfer.schedule import HeadSpec, Phase, Schedule, recipe

EMOJI, DIGITS = (0.6, 0.1, 0.3), (0.3, 0.1, 0.6)
TASKS: dict[str, tuple[str, int | None, int, tuple[float, float, float]]] = {
    "noto": (str(SHARED / "emoji-noto"), None, 96, EMOJI),
    "twemoji": (str(SHARED / "emoji-twemoji"), None, 96, EMOJI),
    "digits": ("builtin:digits", None, 64, DIGITS),
    "noto, 20 a class": (str(SHARED / "emoji-noto"), 20, 96, EMOJI),
    "noto, 5 a class": (str(SHARED / "emoji-noto"), 5, 96, EMOJI),
}
"""Data, images a class, side in pixels, and split."""


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
    "no levels": lambda schedule: dataclasses.replace(schedule, head_spec=HeadSpec()),
    "head alone, no levels": lambda schedule: dataclasses.replace(
        schedule, fine_tune=None, head_spec=HeadSpec()
    ),
    "one view": lambda schedule: dataclasses.replace(schedule, views=1),
    "four views": lambda schedule: dataclasses.replace(schedule, views=4),
    "four epochs": second(epochs=4),
    "eight epochs": second(epochs=8),
    "12 % unfrozen": second(unfreeze="12%"),
    "five epochs of 70 %": second(unfreeze="70%"),
    "depth by a race": second(unfreeze="auto"),
    "rate 5e-4": second(learning_rate=5e-4),
    "rate 1e-3": second(learning_rate=1e-3),
    "stochastic depth": second(dropout="on"),
    "label smoothing 0.1": second(label_smoothing=0.1),
    "rates decay 0.8 a block": second(rate_decay=0.8),
    "quick": lambda schedule: recipe("quick"),
    "high": lambda schedule: recipe("high"),
}


def one(task: str, seed: int, names: list[str], store: Path) -> Any:
    """Yields a row for each setting of a task and a seed."""
    import keras

    from keras_transfer import backbones, datasets, training
    from keras_transfer.base.progress import Progress
    from keras_transfer.frozen import store as activations
    from keras_transfer.learn import race as depth
    from keras_transfer.learn.steps import Steps

    data, few, size, split = TASKS[task]
    held = datasets.load_dataset(data, image_size=size, seed=seed, per_class=few, split=split)
    for name in names:
        keras.utils.clear_session()
        backbone = backbones.build("EfficientNetLite0", image_size=size, weights="offline")
        begun = time.perf_counter()
        schedule, shared = SETTINGS[name](recipe("default")), Steps()
        held_rows = activations.ActivationStore(store)
        if schedule.fine_tune and schedule.fine_tune.unfreeze == depth.AUTO:
            schedule, _ = depth.decide(
                held, backbone, schedule, fit=training.fit, store=held_rows, steps=shared,
                progress=Progress(), seed=seed,
            )  # fmt: skip
        result = training.train(
            held, backbone, schedule, seed=seed, store=held_rows, steps=shared
        )  # fmt: skip
        yield {
            "task": task,
            "seed": seed,
            "setting": name,
            "test": result.evaluation.accuracy,
            "nll": result.evaluation.nll,
            "validation_nll": result.candidates[0].nll,
            "kept": result.candidates[0].name,
            "unfrozen": schedule.fine_tune.unfreeze if schedule.fine_tune else "none",
            "seconds": time.perf_counter() - begun,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "recipe.jsonl")
    options = parser.parse_args()
    rows = []
    if options.out.exists():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    key = ("task", "seed", "setting")
    done = {tuple(row[k] for k in key) for row in rows}
    with tempfile.TemporaryDirectory() as store:
        for seed in options.seeds:
            for task in options.tasks:
                wanted = [name for name in options.only if (task, seed, name) not in done]
                for row in one(task, seed, wanted, Path(store)) if wanted else ():
                    rows.append(row)
                    with open(options.out, "a") as stream:
                        stream.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    report(rows, options)


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Mean over seeds of each task, and the paired difference to the default over all."""
    found = {(row["task"], row["seed"], row["setting"]): row for row in rows}
    lines = []
    for name in options.only:
        line: dict[str, Any] = {"setting": name}
        for task in options.tasks:
            got = [one["test"] for key, one in found.items() if (key[0], key[2]) == (task, name)]
            line[task] = f"{statistics.mean(got):.3f} ({len(got)})" if got else ""
        pairs = [
            (one, found[*key[:2], "default"])
            for key, one in found.items()
            if key[2] == name and (*key[:2], "default") in found
        ]
        if not pairs:
            continue
        line["points over default"] = _spread([100 * (a["test"] - b["test"]) for a, b in pairs], 1)
        line["NLL over default"] = _spread([a["nll"] - b["nll"] for a, b in pairs], 3)
        line["seconds to default"] = statistics.median(
            a["seconds"] / b["seconds"] for a, b in pairs
        )
        line["pairs"] = len(pairs)
        lines.append(line)
    text = (
        "Test accuracy, mean over seeds (their number in brackets). Then the mean paired "
        "difference to the default over tasks and seeds, with its standard error, in accuracy and "
        "in NLL; the time with a store that other settings have filled; and the number of pairs."
    )
    command = ["python", "benchmarks/recipe.py"]
    if options.only != list(SETTINGS):
        command += ["--only", *options.only]
    record("recipe", shlex.join(command), lines, text)


def _spread(values: list[float], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):+.{digits}f} ± {error:.{digits}f}"


if __name__ == "__main__":
    main()
