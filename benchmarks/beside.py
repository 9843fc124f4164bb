"""Ours beside other ways to classify: the same examples, splits and seeds for all of them.

What the comparisons of texts and sounds share. Rows are appended to a file as they come; a stopped
run goes on from there.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from common import add_row, record, rows_of

EFFORTS = ("quick", "default", "high")
PENALTIES = 10.0 ** np.arange(-3, 4)


@threadpoolctl.threadpool_limits.wrap(limits=1, user_api="blas")
def logistic_regression(
    features: Any, data: Any, penalties: Sequence[float] = PENALTIES
) -> dict[str, float]:
    """Judges a linear model whose penalty, C, is chosen by NLL on validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    train, validation, test = (data.indices(name) for name in ("train", "val", "test"))
    classes = np.arange(len(data.class_names))

    def loss(model: Any, rows: np.ndarray) -> float:
        said = model.predict_proba(features[rows])
        return float(log_loss(data.labels[rows], said, labels=classes))

    fitted = [
        LogisticRegression(C=c, max_iter=2000).fit(features[train], data.labels[train])
        for c in penalties
    ]
    best = min(fitted, key=lambda model: loss(model, validation))
    right = float(best.score(features[test], data.labels[test]))
    return {"test": right, "nll": loss(best, test)}


def ours(data: Any, seed: int, settings: Mapping[str, Any], store: Path) -> dict[str, Any]:
    """Trains by settings, on what other settings have stored."""
    import keras_transfer as kt

    result = kt.train(data, seed=seed, cache=str(store), **settings)
    head = next(one for one in result.candidates if one.name == "head")
    return {
        "test": result.evaluation.accuracy,
        "nll": result.evaluation.nll,
        "kept": result.candidates[0].name,
        "validation": {"head": head.nll, "kept": result.candidates[0].nll},
        "stages": {name: round(value, 1) for name, value in result.seconds.items()},
    }


def measured(
    data: Any,
    seed: int,
    methods: Sequence[str],
    beside: Mapping[str, Callable[[Any, int], dict[str, Any]]],
    settings: Mapping[str, Mapping[str, Any]],
    store: Path,
) -> Iterator[dict[str, Any]]:
    """Yields what each method finds on a data set, and its time.

    Args:
        data: in its splits.
        seed: of the methods.
        methods: their names.
        beside: the methods that are not ours.
        settings: what ours are trained with.
        store: a folder for what ours share.
    """
    import keras

    for method in methods:
        keras.utils.clear_session()
        wall, used = time.perf_counter(), time.process_time()
        if method in beside:
            found = beside[method](data, seed)
        else:
            found = ours(data, seed, settings[method], store)
        spent = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - used}
        yield {"seed": seed, "method": method, **found, **spent}


def sizes(data: Any) -> list[int]:
    """How many examples there are to train, validate and test on."""
    return [len(data.indices(split)) for split in ("train", "val", "test")]


def compare(
    name: str,
    kinds: Mapping[str, str],
    methods: Mapping[str, Sequence[str]],
    one: Callable[[str, int, Sequence[str], Path], Iterator[dict[str, Any]]],
    said: Mapping[str, str],
    unit: str,
) -> None:
    """Runs what the command line asks for, and records the table.

    Args:
        name: of the benchmark, and its file without ``.py``.
        kinds: of each task, ``tuning`` or ``report``.
        methods: those of each kind of task.
        one: yields a row for each of some methods, of a task and a seed; the last argument is a
            folder for what is stored between them.
        said: what stands above the table of each kind.
        unit: the method whose time the others' are shares of.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["tuning", "report"], default="tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=methods["tuning"])
    parser.add_argument("--tasks", nargs="+", choices=list(kinds))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / f"{name}.jsonl")
    options = parser.parse_args()
    of_kind = [task for task, kind in kinds.items() if kind == options.kind]
    tasks, rows = options.tasks or of_kind, rows_of(options.out)
    wanted = options.only or methods[options.kind]
    done = {(row["task"], row["seed"], row["method"]) for row in rows}
    with tempfile.TemporaryDirectory() as store:
        for seed in options.seeds:
            for task in tasks:
                left = [method for method in wanted if (task, seed, method) not in done]
                for row in one(task, seed, left, Path(store)) if left else ():
                    rows.append(row)
                    add_row(options.out, row)
    given = ["--kind", options.kind, "--seeds", *map(str, options.seeds)]
    for option in ("tasks", "only"):
        given += [f"--{option}", *getattr(options, option)] if getattr(options, option) else []
    lines = _table([row for row in rows if row["seed"] in options.seeds], tasks, wanted, unit)
    command = shlex.join(["python", f"benchmarks/{name}.py", *given])
    record(f"{name}_{options.kind}", command, lines, said[options.kind])


def _table(
    rows: Sequence[Mapping[str, Any]], tasks: Sequence[str], methods: Sequence[str], unit: str
) -> list[dict[str, Any]]:
    """Mean over seeds of each task, and the mean over tasks of the points over P."""
    found = {(row["task"], row["method"], row["seed"]): row for row in rows}

    def beside(method: str, other: str, value: Callable[[Any, Any], float]) -> list[float]:
        """For each task that both have, the mean over seeds of what a pair of rows gives."""
        pairs = [
            [(row, found[task, other, key[2]]) for key, row in found.items()
             if key[:2] == (task, method) and (task, other, key[2]) in found]
            for task in tasks
        ]  # fmt: skip
        return [statistics.mean(value(*pair) for pair in of_task) for of_task in pairs if of_task]

    lines = []
    for method in methods:
        line: dict[str, Any] = {"method": method}
        for task in tasks:
            got = [row["test"] for key, row in found.items() if key[:2] == (task, method)]
            line[task] = f"{statistics.mean(got):.3f} ({len(got)})" if got else ""
        points = beside(method, "P", lambda a, b: 100 * (a["test"] - b["test"]))
        if not points:
            continue
        low, high = _interval(points)
        line["points over P"] = f"{statistics.mean(points):+.1f} ({low:+.1f} to {high:+.1f})"
        line["least"] = f"{min(points):+.1f}"
        losses = beside(method, "P", lambda a, b: a["nll"] - b["nll"])
        line["NLL over P"] = f"{statistics.mean(losses):+.3f}"
        if unit in methods:
            times = beside(method, unit, lambda a, b: a["cpu"] / b["cpu"])
            line[f"of the time of {unit}"] = f"{statistics.mean(times):.2f}"
        lines.append(line)
    return lines


def _interval(points: list[float]) -> list[float]:
    """95 % by a bootstrap of tasks."""
    drawn = np.random.default_rng(0).choice(points, (10_000, len(points))).mean(axis=1)
    return [float(end) for end in np.percentile(drawn, [2.5, 97.5])]
