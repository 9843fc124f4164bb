"""Settings of the second phase compared over tasks and seeds: where the default recipe is from.

    python benchmarks/recipe.py [--seeds 0 1 2] [--out rows.jsonl] [--only NAME…] [--tasks NAME…]

Most settings change one thing of the default recipe. Within a task and a seed all settings see
the same images, split, cached views and head, so that differences are paired; large test splits
make them less noisy. Rows are appended to a file as they come; a stopped run goes on from there.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import SHARED, add_row, record, rows_of

EMOJI, DIGITS = (0.6, 0.1, 0.3), (0.3, 0.1, 0.6)
TASKS: dict[str, tuple[str, int | None, int, tuple[float, float, float]]] = {
    "noto": (str(SHARED / "emoji-noto"), None, 96, EMOJI),
    "twemoji": (str(SHARED / "emoji-twemoji"), None, 96, EMOJI),
    "digits": ("builtin:digits", None, 64, DIGITS),
    "noto, 20 a class": (str(SHARED / "emoji-noto"), 20, 96, EMOJI),
    "noto, 5 a class": (str(SHARED / "emoji-noto"), 5, 96, EMOJI),
}
"""Data, images a class, side in pixels, and split."""


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "head alone": {"unfreeze": "none"},
    "no levels": {"levels": 0},
    "head alone, no levels": {"unfreeze": "none", "levels": 0},
    "one view": {"views": 1},
    "four views": {"views": 4},
    "four epochs": {"fine_tune_epochs": 4, "views": 2},
    "eight epochs": {"fine_tune_epochs": 8, "views": 2},
    "12 % unfrozen": {"unfreeze": "12%"},
    "five epochs of 70 %": {"unfreeze": "70%"},
    "depth by a race": {"unfreeze": "auto"},
    "rate 5e-4": {"fine_tune_lr": 5e-4},
    "rate 1e-3": {"fine_tune_lr": 1e-3},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "rates decay 0.8 a block": {"rate_decay": 0.8},
    "quick": {"effort": "quick"},
    "high": {"effort": "high"},
}


def one(task: str, seed: int, names: list[str], store: Path) -> Any:
    """Yields a row for each setting of a task and a seed."""
    import keras

    import keras_transfer as kt

    data, few, size, split = TASKS[task]
    held = kt.load_dataset(data, image_size=size, seed=seed, per_class=few, split=split)
    for name in names:
        keras.utils.clear_session()
        begun = time.perf_counter()
        result = kt.train(held, seed=seed, cache=store, **SETTINGS[name])
        yield {
            "task": task,
            "seed": seed,
            "setting": name,
            "test": result.evaluation.accuracy,
            "nll": result.evaluation.nll,
            "validation_nll": result.candidates[0].nll,
            "kept": result.candidates[0].name,
            "unfrozen": result.recipe.unfreeze,
            "seconds": time.perf_counter() - begun,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "recipe.jsonl")
    options = parser.parse_args()
    rows = rows_of(options.out)
    key = ("task", "seed", "setting")
    done = {tuple(row[k] for k in key) for row in rows}
    with tempfile.TemporaryDirectory() as store:
        for seed in options.seeds:
            for task in options.tasks:
                wanted = [name for name in options.only if (task, seed, name) not in done]
                for row in one(task, seed, wanted, Path(store)) if wanted else ():
                    rows.append(row)
                    add_row(options.out, row)
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
