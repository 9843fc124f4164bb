"""What the commands print at their end: short tables, and the next thing to type."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from keras_transfer import datasets

if TYPE_CHECKING:
    from keras_transfer.evaluation import Comparison, Evaluation, LearningCurve, Shift
    from keras_transfer.export import ExportResult
    from keras_transfer.runs.folder import Run
    from keras_transfer.runs.result import TransferResult

_STAGES = {
    "decode": "read and decode",
    "build": "build the backbone",
    "extract": "run the frozen part",
    "head": "solve the head",
    "fine_tune": "fine-tune and choose",
    "evaluate": "evaluate",
}


def summary(result: TransferResult, output: str) -> Group:
    """The end of a training run: how good, where the time went, what to type next."""
    judged, total = result.evaluation, result.seconds["total"]
    table = _table(f"{result.recipe.backbone} on {result.dataset.name}")
    table.add_row("test accuracy", _with_interval(judged, "accuracy"))
    table.add_row("macro F1", _with_interval(judged, "macro_f1"))
    table.add_row("NLL, ECE", f"{judged.nll:.3f}, {judged.ece:.3f}")
    table.add_row("always the commonest class", f"{judged.majority['accuracy']:.3f}")
    sure = result.threshold
    if sure.answered:
        table.add_row(
            "answers when sure",
            f"from a confidence of {sure.threshold:.2f} it answers {sure.coverage:.0%} of images, "
            f"{sure.precision:.1%} of them right",
        )
    kept = result.candidates[0]
    table.add_row("kept on validation", f"{kept.name} (accuracy {kept.accuracy:.3f})")
    table.add_row("time", f"{total:.1f} s")
    for stage, label in _STAGES.items():
        seconds = result.seconds.get(stage, 0.0)
        table.add_row(f"  {label}", f"{seconds:.1f} s, {seconds / max(total, 1e-9):.0%}")
    cache = result.cache
    table.add_row("frozen work", f"{cache.hits:,} rows from the cache, {cache.misses:,} computed")
    left_out = datasets.left_out(result.dataset)
    if left_out:
        table.add_row("files left out", f"{left_out} (see `keras-transfer inspect`)")
    lines = [
        f"Run folder: {output}; open {Path(output) / 'report.html'} in a browser.",
        f"Next: keras-transfer export {shlex.quote(output)} --formats saved_model,tflite",
    ]
    return Group(table, *[Text(line) for line in lines])


def evaluation(judged: Evaluation, run: Run) -> Group:
    """Metrics with their intervals."""
    table = _table(f"{run.path}: {judged.images} images")
    for name in ("accuracy", "top5", "balanced_accuracy", "macro_f1", "nll", "brier", "ece"):
        table.add_row(name.replace("_", " "), _with_interval(judged, name))
    table.add_row("always the commonest class", f"{judged.majority['accuracy']:.3f}")
    return Group(table, *([Text(judged.note)] if judged.note else []))


def shift(found: Shift) -> Group:
    """How a run does on other data, by class."""
    table = Table(box=box.SIMPLE)
    table.add_column("class")
    for column in ("recall at home", "recall there", "drop", "images"):
        table.add_column(column, justify="right")
    for row in found.per_class:
        drop = "" if row["drop"] is None else f"{row['drop']:+.3f}"
        table.add_row(
            Text(row["name"]),
            f"{row['home']:.3f}",
            f"{row['away']:.3f}",
            drop,
            str(row["images"]),
        )
    lines = [found.verdict]
    if found.unlikeness is not None:
        lines.append(
            f"{found.unlikeness.share:.0%} of these images are more unlike the training images "
            f"than 95 % of the run's own test images (AUROC {found.unlikeness.auroc:.2f})."
        )
    if found.left_out:
        unknown = ", ".join(found.unknown)
        lines.append(f"{found.left_out} images of classes unknown to the run: {unknown}.")
    return Group(table, *[Text(line) for line in lines])


def comparison(found: Comparison) -> str:
    """One sentence for each pair of runs."""
    return "\n".join(pair.verdict for pair in found.pairs)


def baselines(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Other methods on the same splits."""
    table = Table(box=box.SIMPLE)
    for column in ("baseline", "accuracy", "seconds"):
        table.add_column(column, justify="left" if column == "baseline" else "right")
    for row in rows:
        table.add_row(row["name"], f"{row['accuracy']:.3f}", f"{row['seconds']:.1f}")
    return Group(table, *[Text(row["verdict"]) for row in rows])


def predictions(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line an image."""
    lines = []
    for row in rows:
        if "error" in row:
            lines.append(f"{row['image']}: cannot be read: {row['error']}")
        else:
            named = ", ".join(f"{c['label']} {c['probability']:.3f}" for c in row["classes"])
            lines.append(f"{row['image']}: {named}")
    return "\n".join(lines)


def exported(result: ExportResult) -> str:
    """Where an export is and what to do with it."""
    where = shlex.quote(str(result.path))
    if result.passed:
        return f"Every artefact is proven. Repeat it with: keras-transfer verify {where}"
    return f"Not every artefact passed; see {Path(result.path) / 'parity.json'}."


def cache_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One key of the store as plain values."""
    used = datetime.datetime.fromtimestamp(row["used"], datetime.UTC)
    return {
        "key": row["key"],
        "bytes": row["bytes"],
        "shards": row["shards"],
        "used": used.isoformat(timespec="seconds"),
        "in_use": row["in_use"],
        "folder": str(row["folder"]),
    }


def cache(rows: Sequence[Mapping[str, Any]], folder: str | os.PathLike[str]) -> Any:
    """The store's keys, most recently used first."""
    total = sum(row["bytes"] for row in rows)
    if not rows:
        return f"{folder}: empty."
    table = Table(title=f"{folder}: {total / 2**20:.1f} MiB", box=box.SIMPLE, title_justify="left")
    for column in ("backbone", "cut", "size", "view", "MiB", "used"):
        table.add_column(column, justify="right" if column in ("size", "view", "MiB") else "left")
    for row in rows:
        key = row["key"]
        table.add_row(
            key["backbone"],
            ", ".join(key["cut"]),
            str(key.get("shape", ["?"])[0]),
            str(key["view"]),
            f"{row['bytes'] / 2**20:.1f}",
            cache_row(row)["used"] + (" (in use)" if row["in_use"] else ""),
        )
    return table


def _with_interval(judged: Evaluation, name: str) -> str:
    value, interval = getattr(judged, name), judged.intervals.get(name)
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f} (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"


def _table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(justify="left")
    return table


def curve(found: LearningCurve) -> str:
    """A learning curve, a line a size, and what follows from it."""
    rows = zip(found.sizes, found.accuracy, found.intervals, strict=True)
    lines = [
        f"{size:>8,} images: {x:.3f} ({low:.3f} to {high:.3f})" for size, x, (low, high) in rows
    ]
    return "\n".join([*lines, found.verdict])
