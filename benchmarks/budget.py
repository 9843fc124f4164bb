"""How far `--time-budget` is kept: fresh processes with empty caches, from start to end.

    python benchmarks/budget.py [--quick]

Ten budgets on each of two tuning tasks at the default effort, geometrically spaced from a little
under what a quick run takes without one to a little over a default run, and three at high effort.
Nothing else may run meanwhile. --quick tries three small budgets on digits and writes no file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import SHARED, python, record, table

TASKS = {
    "emoji-noto": (str(SHARED / "emoji-noto"), "--image-size", "128"),
    "digits": ("builtin:digits",),
}
LESS, MORE = 0.9, 1.1
COUNT = 10
HIGH = {"emoji-noto": 1, "digits": 2}  # budgets at high effort, the longest of the ten


def train(words: Sequence[str]) -> tuple[float, dict[str, Any]]:
    """A run in a process of its own, on an empty cache: its seconds, and its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        done = python(
            "-m", "keras_transfer", "train", *words, "--output", str(output), "--quiet",
            KERAS_TRANSFER_CACHE=str(Path(folder) / "cache"),
        )  # fmt: skip
        return done["seconds"], json.loads((output / "metrics.json").read_text())


def spelt(plan: dict[str, Any], epochs: int | None = None) -> str:
    """Epochs, views and blocks of a plan, or of what was done of it."""
    return f"{plan['epochs'] if epochs is None else epochs} × {plan['views']} × {plan['unfreeze']}"


def measure(task: str, effort: str, budget: float) -> dict[str, Any]:
    """One run under a budget."""
    words = *TASKS[task], "--effort", effort, "--time-budget", f"{budget:.1f}"
    seconds, metrics = train(words)
    plan, told = metrics["plan"], metrics["budget"]
    tuned = [phase["epochs"] for phase in metrics["phases"] if phase["name"] == "fine_tune"]
    row = {
        "task": task,
        "effort": effort,
        "budget, s": round(budget, 1),
        "process, s": round(seconds, 1),
        "share": round(seconds / budget, 2),
        "planned: epochs × views × blocks": spelt(told["planned"]),
        "planned again": spelt(plan),
        "done": spelt(plan, sum(tuned)),
        "said, s": round(told["taken"], 1),
        "reserve, s": round(plan["reserve_seconds"], 1),
        "test accuracy": metrics["test"]["accuracy"],
    }
    print(row, flush=True)
    return row


def budgets(task: str) -> list[float]:
    """From a little less than a quick run takes to a little more than a default one."""
    quick, whole = (train((*TASKS[task], "--effort", effort))[0] for effort in ("quick", "default"))
    return [float(one) for one in np.geomspace(LESS * quick, MORE * whole, COUNT)]


def said(rows: Sequence[dict[str, Any]], effort: str) -> str:
    """In how many runs a budget was kept, and by how much it was not at worst."""
    over = [(row["process, s"] - row["budget, s"], row) for row in rows if row["effort"] == effort]
    worst, where = max(over, key=lambda one: one[0])
    kept = sum(seconds <= 0 for seconds, _ in over)
    missed = (
        f"the worst was {worst:.1f} s over {where['budget, s']:g} s ({where['task']})"
        if worst > 0
        else f"the closest ended {-worst:.1f} s before its time"
    )
    return f"At {effort} effort the budget was kept in {kept} of {len(over)} runs; {missed}."


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="try it: three budgets, no file")
    options = parser.parse_args()
    if options.quick:
        rows = [measure("digits", "default", budget) for budget in (10.0, 16.0, 25.0)]
        print(table(rows), said(rows, "default"), sep="\n\n")
        return
    rows = []
    for task, high in HIGH.items():
        planned = budgets(task)
        rows += [measure(task, "default", budget) for budget in planned]
        rows += [measure(task, "high", budget) for budget in planned[-high:]]
    text = "\n".join(said(rows, effort) for effort in ("default", "high"))
    record("budget", "python benchmarks/budget.py", rows, text)


if __name__ == "__main__":
    main()
