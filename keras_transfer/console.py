"""What the commands print at their end: short tables, and the next thing to type."""

from __future__ import annotations

import datetime
import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from keras_transfer import datasets
from keras_transfer.base.progress import WORDS
from keras_transfer.datasets.inspection_page import printable
from keras_transfer.evaluation.metrics import FEW_IMAGES
from keras_transfer.runs import summary as words
from keras_transfer.runs.folder import PAGE

if TYPE_CHECKING:
    from keras_transfer.evaluation import Evaluation, LearningCurve, Shift
    from keras_transfer.export import ExportResult
    from keras_transfer.runs.folder import Run
    from keras_transfer.runs.result import TransferResult


def run_json(run: Run) -> dict[str, Any]:
    """A run as plain values: where it is, the verdict, and what ``metrics.json`` holds."""
    said, kind = words.verdict(run.metrics, run.modality.NOUN)
    places = {"run": str(run.path), "report": str(run.path / PAGE)}
    return {**places, "decision": kind, "verdict": said, **run.metrics}


def summary(result: TransferResult, run: Run, detailed: bool = False) -> Group:
    """The end of a training run: whether to ship, how good it is, and what to type next.

    Args:
        result: what training came to.
        run: the same on disk.
        detailed: whether also what is for experts, and where the time went.
    """
    judged, sure, what = result.evaluation, result.threshold, run.modality.NOUN
    few, shown = words.undecided(run.metrics["test"]), words.interval
    ends = judged.intervals["accuracy"]
    right = f"{words.percent(judged.accuracy)} ({shown(ends)}, 95 % interval)"
    rows = [("right on the test", f"{shown(ends, 0)} of {judged.images}" if few else right)]
    if sure.answered and not few:
        least = f"from a confidence of {sure.threshold:.2f}"
        answers = f"{least} it answers {sure.coverage:.0%} of {what}s, {sure.precision:.1%} of them"
        rests = f"{sure.validation_images} validation {what}s"
        rows.append(("answers when sure", f"{answers} right (rests on {rests})"))
    elif math.isinf(sure.threshold):
        rows.append(("answers when sure", f"none: {words.no_threshold(run.metrics, what)}"))
    if left_out := datasets.what_is_left_out(result.dataset):
        rows.append(("left out", left_out))
    rows.append(("time", f"{result.seconds['total']:.0f} s"))
    rows += _for_experts(result) if detailed else []
    act, command = words.advice(run.metrics, what, str(run.path))[0]
    return Group(
        Text(words.verdict(run.metrics, what)[0]),
        _table(rows),
        Text(f"Report: {run.path / PAGE}"),
        Text(" ".join(filter(None, ("Next:", command or act)))),
    )


def _for_experts(result: TransferResult) -> list[tuple[str, str]]:
    """Further figures, and where the time went."""
    judged, kept, cache = result.evaluation, result.candidates[0], result.cache
    rows = [
        ("macro F1", _with_interval(judged, "macro_f1")),
        ("NLL, ECE", f"{judged.nll:.3f}, {judged.ece:.3f}"),
        _commonest(judged),
        ("kept on validation", f"{kept.name} (accuracy {kept.accuracy:.3f})"),
    ]
    for stage in filter(result.seconds.get, WORDS):
        share = result.seconds[stage] / max(result.seconds["total"], 1e-9)
        rows.append((WORDS[stage].lower(), f"{result.seconds[stage]:.1f} s, {share:.0%}"))
    rows.append(("frozen work", f"{cache.hits:,} rows from the cache, {cache.misses:,} computed"))
    return rows


def evaluation(judged: Evaluation, run: Run) -> Group:
    """Metrics with their intervals."""
    rows = [(name.replace("_", " "), _with_interval(judged, name)) for name in judged.shown]
    rows.append(_commonest(judged))
    notes = [Text(judged.note)] if judged.note else []
    return Group(_table(rows, title=f"{run.path}: {judged.images} {run.modality.NOUN}s"), *notes)


def shift(found: Shift, what: str) -> Group:
    """How a run does on other data, by class; ``what`` its examples are called."""
    lines = [found.verdict]
    if found.unlikeness is not None:
        lines.append(
            f"{found.unlikeness.share:.0%} of these {what}s are more unlike the training {what}s "
            f"than 95 % of the run's own test {what}s (AUROC {found.unlikeness.auroc:.2f})."
        )
    if found.unknown:
        unknown = ", ".join(found.unknown)
        lines.append(f"Classes unknown to the run: {unknown}; {found.left_out} {what}s left out.")
    rows = []
    for row in found.per_class:
        drop = "" if row["drop"] is None else f"{row['drop']:+.3f}"
        recalls = f"{row['home']:.3f}", f"{row['away']:.3f}"
        rows.append((row["name"], *recalls, drop, str(row["images"])))
    columns = ["recall at home", "recall there", "drop", f"{what}s"]
    return Group(_table(rows, ["class"], columns), *map(Text, lines))


def curve(found: LearningCurve, what: str) -> str:
    """A learning curve, a line a size, and what follows from it."""
    rows = zip(found.sizes, found.accuracy, found.intervals, strict=True)
    lines = [
        f"{size:>8,} {what}s: {x:.3f} ({low:.3f} to {high:.3f})" for size, x, (low, high) in rows
    ]
    return "\n".join([*lines, found.verdict])


def baselines(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Other methods on the same splits."""
    cells = [(row["name"], f"{row['accuracy']:.3f}", f"{row['seconds']:.1f}") for row in rows]
    verdicts = [Text(row["verdict"]) for row in rows]
    return Group(_table(cells, ["baseline"], ["accuracy", "seconds"]), *verdicts)


def predictions(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line an item, which stands first in its row."""
    lines = []
    for row in rows:
        said = [f"{one['label']} {one['probability']:.3f}" for one in row.get("classes", ())]
        if "labels" in row:
            said = [f"[{' '.join(row['labels'])}]", *said]
        said += ["unsure"] * row.get("unsure", False)
        if "error" in row:
            said = [f"cannot be read: {row['error']}"]
        lines.append(f"{printable(next(iter(row.values())))}: {', '.join(said)}")
    return "\n".join(lines)


def exported(result: ExportResult) -> str:
    """Where an export is and what to do with it."""
    where, images = shlex.quote(str(result.path)), result.parity["images"]
    if result.passed and images < FEW_IMAGES:
        few = f"{images} test examples are all there are: that says little of others"
        return f"Every artefact answers as the model does, but {few}."
    if result.passed:
        return f"Every artefact is proven. Repeat it with: keras-transfer verify {where}"
    return f"Not every artefact passed; see {Path(result.path) / 'parity.json'}."


def cache_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One key of the store as plain values."""
    used = datetime.datetime.fromtimestamp(row["used"], datetime.UTC).isoformat(timespec="seconds")
    return {**row, "used": used, "folder": str(row["folder"])}


def cache(rows: Sequence[Mapping[str, Any]], folder: str | os.PathLike[str]) -> Any:
    """The store's keys, most recently used first."""
    if not rows:
        return f"{folder}: empty."
    cells = []
    for row in rows:
        key, used = row["key"], cache_row(row)["used"] + (" (in use)" if row["in_use"] else "")
        size = str(key.get("shape", ["?"])[0])
        about = key["backbone"], ", ".join(key["cut"]), size, str(key["view"])
        cells.append((*about, f"{row['bytes'] / 2**20:.1f}", used))
    total = sum(row["bytes"] for row in rows)
    title = f"{folder}: {total / 2**20:.1f} MiB"
    return _table(cells, ["backbone", "cut"], ["size", "view", "MiB"], ["used"], title=title)


def _commonest(judged: Evaluation) -> tuple[str, str]:
    """How often what is commonest would be right."""
    always = words.words(judged.to_json()).commonest
    return f"always the {always}", f"{judged.majority['accuracy']:.3f}"


def _with_interval(judged: Evaluation, name: str) -> str:
    value, interval = getattr(judged, name), judged.intervals.get(name)
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f} (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"


def _table(
    rows: Iterable[Sequence[str]],
    left: Sequence[str] = ("", ""),
    right: Sequence[str] = (),
    last: Sequence[str] = (),
    *,
    title: str | None = None,
) -> Table:
    """A table whose cells are text and no markup: names to the left, figures to the right.

    Without names of columns a row is a fact: what it is called, in one piece, and what it is.
    """
    names = [*left, *right, *last]
    headed = any(names)
    table = Table(title=title, box=box.SIMPLE, title_justify="left", show_header=headed)
    for i, name in enumerate(names):
        table.add_column(
            name, justify="right" if name in right else "left", no_wrap=not headed and i == 0
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table
