"""What a study leaves behind: a record a trial, ``trials.csv``, ``best.toml``, and a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.learn import calibration

STUDY, TRIALS, BEST, WINNER = "study.json", "trials.csv", "best.toml", "winner"
RECORD, LOGITS, LABELS = "record.json", "validation_logits.npy", "validation_labels.npy"
COMPLETED, FAILED = "completed", "failed"
# By the names of the command line: the field of a record, and whether less is better.
OBJECTIVES: dict[str, tuple[str, bool]] = {
    "nll": ("nll", True),
    "accuracy": ("accuracy", False),
    "f1": ("macro_f1", False),
}
_COLUMNS = (
    "trial", "status", "nll", "accuracy", "macro_f1", "kept", "epochs_done", "seconds",
    "extract_seconds", "head_seconds", "fine_tune_seconds", "compilations", "worker", "finished",
    "reason",
)  # fmt: skip
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Record:
    """A trial that has ended.

    Attributes:
        trial: its number, from 0.
        status: ``completed`` or ``failed``.
        values: what it was given, by the names of the space.
        settings: what ``keras-transfer train --config`` needs to repeat it.
        nll: validation NLL in nats after a temperature has been fitted; None where it failed, as
            with the next three.
        accuracy: validation accuracy.
        macro_f1: mean F1 over the classes, on validation.
        temperature: the temperature that was fitted.
        kept: which weights validation preferred, see ``selection.Candidate``.
        epochs_done: epochs of fine-tuning, those of an earlier rung included.
        seconds: how long it took.
        finished: when it ended, ISO 8601, UTC.
        reason: why it failed, in one sentence.
        extract_seconds: what of it went into frozen work that other trials share.
        head_seconds: what of it went into the head.
        fine_tune_seconds: what of it went into fine-tuning and choosing among weights.
        compilations: training steps that were traced and compiled for it.
        worker: which worker ran it, in a study of several.
    """

    trial: int
    status: str
    values: dict[str, Any]
    settings: dict[str, Any]
    nll: float | None = None
    accuracy: float | None = None
    macro_f1: float | None = None
    temperature: float | None = None
    kept: str = ""
    epochs_done: int = 0
    seconds: float = 0.0
    finished: str = ""
    reason: str = ""
    extract_seconds: float = 0.0
    head_seconds: float = 0.0
    fine_tune_seconds: float = 0.0
    compilations: int = 0
    worker: str = ""

    def metrics(self) -> dict[str, float]:
        """What the oracle is told of a trial."""
        held = {"nll": self.nll, "accuracy": self.accuracy, "macro_f1": self.macro_f1}
        return {name: float(value) for name, value in held.items() if value is not None}


def trial_folder(study: Path, trial: int) -> Path:
    """Where a trial's own files are."""
    return study / "trials" / f"{trial:04d}"


def write_record(study: Path, record: Record) -> None:
    """Writes a trial's record, atomically; from then on the trial has ended."""
    files.write_json(trial_folder(study, record.trial) / RECORD, dataclasses.asdict(record))


def read_record(study: Path, trial: int) -> Record | None:
    """The record of a trial, or None while there is none."""
    try:
        held = json.loads((trial_folder(study, trial) / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Record(**held)


def read_records(study: Path) -> list[Record]:
    """The records of all trials that have ended, in order."""
    numbers = sorted(int(path.parent.name) for path in study.glob(f"trials/*/{RECORD}"))
    records = [read_record(study, number) for number in numbers]
    return [record for record in records if record is not None]


def score(record: Record, objective: str) -> float:
    """What a trial is ranked by, less being better; infinite for one that failed."""
    field, less = OBJECTIVES[objective]
    value = getattr(record, field)
    if record.status != COMPLETED or value is None:
        return math.inf
    return value if less else -value


def best_of(records: Iterable[Record], objective: str) -> Record | None:
    """The best trial, the earlier one where two are equal; None if none has completed."""
    done = [record for record in records if record.status == COMPLETED]
    return min(done, key=lambda record: score(record, objective), default=None)


def write_trials(study: Path, records: Sequence[Record]) -> None:
    """Writes ``trials.csv``: a header, and one row a trial that has ended, atomically."""
    names = sorted({name for record in records for name in record.values})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*_COLUMNS, *names], restval="", lineterminator="\n")
    writer.writeheader()
    for record in records:
        held = dataclasses.asdict(record)
        row = {name: "" if held[name] is None else held[name] for name in _COLUMNS}
        writer.writerow(row | record.values)
    files.write_text(study / TRIALS, stream.getvalue())


def write_best(study: Path, record: Record) -> None:
    """Writes ``best.toml``, which ``keras-transfer train --config`` takes as it is."""
    heading = f"# Trial {record.trial}: validation NLL {record.nll:.4f}, "
    heading += f"accuracy {record.accuracy:.4f}.\n"
    files.write_text(study / BEST, heading + to_toml(record.settings))


def to_toml(values: Mapping[str, Any], table: str = "") -> str:
    """Plain values as TOML; None is left out, since TOML has no word for it."""
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in values.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "\n".join([f"[{table}]"] * bool(table) + lines) + "\n"
    for key, value in values.items():
        if isinstance(value, Mapping):
            text += "\n" + to_toml(value, f"{table}.{key}" if table else key)
    return text


def read_study(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a study is about, as in its ``study.json``.

    Raises:
        UsageError: the folder is no study.
    """
    try:
        held = json.loads((Path(path) / STUDY).read_text(encoding="utf-8"))
        if isinstance(held, dict) and "space" in held and "objective" in held:
            return held
    except (OSError, ValueError):
        pass
    raise UsageError(
        f"{path} is not a study: it has no {STUDY} of ours.",
        remedy="Name the folder given to `python -m tuning search --output`.",
    )


def verdict(study: Path, records: Sequence[Record], objective: str) -> str:
    """Whether the best trial is better than trial 0 beyond chance, in one sentence.

    A paired bootstrap over the validation images: of the difference in NLL an image where NLL is
    the objective, else in accuracy. The best of many trials looks better than it is, since the same
    images chose it; the interval does not allow for that.
    """
    best = best_of(records, objective)
    if best is None:
        return "No trial has completed."
    if best.trial == 0:
        return "The default (trial 0) is the best so far."
    first = next((record for record in records if record.trial == 0), None)
    if first is None or first.status != COMPLETED:
        return f"Trial {best.trial} is the best; the default (trial 0) failed."
    labels = np.load(study / LABELS)
    merits = [_merit(study, record, labels, objective) for record in (best, first)]
    low, high = paired_interval(merits[0] - merits[1])
    gain = float((merits[0] - merits[1]).mean())
    what = "lower NLL by" if objective == "nll" else "higher accuracy by"
    said = f"{what} {gain:.3f} (95 % interval {low:.3f} to {high:.3f}) on {len(labels)} images"
    if low > 0:
        return f"Trial {best.trial} beats the default (trial 0) on validation: {said}."
    return (
        f"Trial {best.trial} is not distinguishable from the default (trial 0) on validation: "
        f"{said}."
    )


def paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of paired differences, float ``[n]``."""
    draw = np.random.default_rng(0)
    rows = draw.integers(len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _merit(study: Path, record: Record, labels: np.ndarray, objective: str) -> np.ndarray:
    """What each validation image adds to a trial's merit, more being better."""
    logits = np.load(trial_folder(study, record.trial) / LOGITS)
    if objective != "nll":
        return (logits.argmax(axis=1) == labels).astype(np.float64)
    probabilities = calibration.softmax(logits / record.temperature)
    return np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-30))


def render(path: str | os.PathLike[str]) -> Any:
    """A study as a table for the terminal, best trials first.

    Raises:
        UsageError: the folder is no study.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    study = Path(path)
    about, records = read_study(study), read_records(study)
    objective = about["objective"]
    ranked = sorted(records, key=lambda record: (score(record, objective), record.trial))
    names = list(dict.fromkeys(name for record in ranked for name in record.values))
    # What KerasTuner notes of its rungs is of no interest but for the epochs.
    names = [name for name in names if not name.startswith("tuner/") or name == "tuner/epochs"]
    shown = [name for name in names if len({str(r.values.get(name)) for r in ranked}) > 1]
    title = f"{study}: {about['data']}, {len(records)} trials, by validation {objective}"
    table = Table(title=Text(title), box=box.SIMPLE, title_justify="left")
    for column in ("trial", "NLL", "accuracy", "macro F1", "seconds", *shown):
        table.add_column(column.replace("tuner/", "").replace("_", " "), justify="right")
    for record in ranked:
        if record.status == COMPLETED:
            figures = [_short(record.nll), _short(record.accuracy), _short(record.macro_f1)]
        else:
            figures = ["failed", "", ""]
        row = [str(record.trial), *figures, f"{record.seconds:.1f}"]
        table.add_row(*row, *[_short(record.values.get(name)) for name in shown])
    lines = [f"Trial {r.trial} failed: {r.reason}" for r in records if r.status == FAILED]
    lines.append(verdict(study, records, objective))
    lines += _winner_lines(study)
    return Group(table, *[Text(line) for line in lines])


def _winner_lines(study: Path) -> list[str]:
    try:
        metrics = json.loads((study / WINNER / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    test = metrics["test"]
    return [
        f"The winner on the test split: accuracy {test['accuracy']:.3f}, NLL {test['nll']:.3f}; "
        f"its run folder is {study / WINNER}."
    ]


def to_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A study as plain values: what it is about, its trials, the best one and the verdict.

    Raises:
        UsageError: the folder is no study.
    """
    study = Path(path)
    about, records = read_study(study), read_records(study)
    best = best_of(records, about["objective"])
    return {
        "study": about,
        "trials": [dataclasses.asdict(record) for record in records],
        "best": None if best is None else best.trial,
        "verdict": verdict(study, records, about["objective"]),
    }


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
