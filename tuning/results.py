"""What a study leaves behind: a record a trial, ``trials.csv``, ``best.toml``, and a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from keras_transfer import recipe
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.files import Amount, Count, Rate, Text
from keras_transfer.base.task import task_of

STUDY, TRIALS, BEST, WINNER = "study.json", "trials.csv", "best.toml", "winner"
SPLITS, PAGE = "splits.csv", "report.html"
RECORD, LOGITS, LABELS = "record.json", "validation_logits.npy", "validation_labels.npy"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
# By the names of the command line: the field of a record, and whether less is better.
OBJECTIVES = {"nll": ("nll", True), "accuracy": ("accuracy", False), "f1": ("macro_f1", False)}
_ABOUT = files.table(
    keras_transfer=Text, data=Text, data_digest=Text, own_splits=bool, setup=dict[str, Any],
    tuner=Literal["bayesian", "hyperband", "random"], objective=Literal["nll", "accuracy", "f1"],
    space=files.table(space=list[dict[str, Any]], values=dict[str, Any]),
)  # fmt: skip
_REMEDY = "Restore the file, or search again in another folder."
_COLUMNS = (
    "trial", "status", "nll", "accuracy", "macro_f1", "kept", "epochs_done", "seconds",
    "extract_seconds", "head_seconds", "fine_tune_seconds", "compilations", "worker", "finished",
    "reason",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial came to on validation.

    Attributes:
        nll: NLL in nats after a temperature has been fitted; None where the trial failed, as with
            the next three.
        accuracy: share of right answers.
        macro_f1: mean F1 over the classes.
        temperature: the temperature that was fitted.
        kept: which weights validation preferred, see ``selection.Candidate``.
        epochs_done: epochs of fine-tuning, those of an earlier rung included.
        extract_seconds: what went into frozen work that other trials share.
        head_seconds: what went into the head.
        fine_tune_seconds: what went into fine-tuning and choosing among weights.
        compilations: training steps that were traced and compiled.
    """

    nll: Amount | None = None
    accuracy: Rate | None = None
    macro_f1: Rate | None = None
    temperature: Amount | None = None
    kept: Text = ""
    epochs_done: Count = 0
    extract_seconds: Amount = 0.0
    head_seconds: Amount = 0.0
    fine_tune_seconds: Amount = 0.0
    compilations: Count = 0


@dataclasses.dataclass(frozen=True)
class Record(Outcome):
    """A trial that has ended.

    Attributes:
        trial: its number, from 0.
        status: ``completed`` or ``failed``.
        values: what it was given, by the names of the space.
        settings: what ``keras-transfer train --config`` needs to repeat it.
        seconds: how long it took.
        finished: when it ended, ISO 8601, UTC.
        reason: why it failed, in one sentence.
        worker: which worker ran it, in a study of several.
        answers: see :func:`answers_digest`.
    """

    trial: Count
    status: Literal["completed", "failed"]
    values: dict[str, Any]
    settings: dict[str, Any]
    seconds: Amount = 0.0
    finished: Text = ""
    reason: Text = ""
    worker: Text = ""
    answers: Text = ""

    @property
    def shared_seconds(self) -> float:
        """Seconds of work that other trials share."""
        return self.extract_seconds + self.head_seconds

    @property
    def other_seconds(self) -> float:
        """Seconds of neither shared work nor fine-tuning."""
        return max(0.0, self.seconds - self.shared_seconds - self.fine_tune_seconds)

    def metrics(self) -> dict[str, float]:
        """What the oracle is told of a trial."""
        held = {"nll": self.nll, "accuracy": self.accuracy, "macro_f1": self.macro_f1}
        return {name: float(value) for name, value in held.items() if value is not None}


def trial_folder(study: Path, trial: int) -> Path:
    """Where a trial's own files are."""
    return study / "trials" / f"{trial:04d}"


def answers_digest(study: Path, trial: int) -> str:
    """A digest of a trial's answers to the validation images and of their labels."""
    answers = (trial_folder(study, trial) / LOGITS).read_bytes()
    return files.sha256(answers + (study / LABELS).read_bytes())


def write_record(study: Path, record: Record) -> None:
    """Writes a trial's record, atomically; from then on the trial has ended."""
    held = files.sealed(dataclasses.asdict(record))
    files.write_json(trial_folder(study, record.trial) / RECORD, held)


def read_record(study: Path, trial: int) -> Record | None:
    """The record of a trial, or None while there is none.

    Raises:
        UsageError: it is damaged or was edited.
    """
    path = trial_folder(study, trial) / RECORD
    if not path.exists():
        return None
    with files.reading(path, _REMEDY):
        record = msgspec.convert(files.read_json(path, Record, _REMEDY), Record)
        recipe.check(record.settings, str(path))
        if record.trial != trial or (record.status == COMPLETED) > len(record.metrics()) // 3:
            raise ValueError("it is of another trial, or lacks a figure")
    return record


def read_records(study: Path) -> list[Record]:
    """The records of all trials that have ended, in order."""
    places = study.glob(f"trials/[0-9][0-9][0-9][0-9]*/{RECORD}")
    found = [read_record(study, number) for number in sorted(int(p.parent.name) for p in places)]
    return [record for record in found if record is not None]


def completed(records: Iterable[Record]) -> list[Record]:
    """The trials that did not fail."""
    return [record for record in records if record.status == COMPLETED]


def varied(records: Sequence[Record]) -> list[str]:
    """The settings that differ between trials."""
    names = dict.fromkeys(name for r in records for name in r.values if is_setting(name))
    return [name for name in names if len({str(r.values.get(name)) for r in records}) > 1]


def is_setting(name: str) -> bool:
    """Whether a value of a trial is of interest: of its rung, KerasTuner notes more than that."""
    return not name.startswith("tuner/") or name == "tuner/epochs"


def score(record: Record, objective: str) -> float:
    """What a trial is ranked by, less being better; infinite for one that failed."""
    field, less = OBJECTIVES[objective]
    value = getattr(record, field)
    if record.status != COMPLETED or value is None:
        return math.inf
    return float(value if less else -value)


def ranked(records: Iterable[Record], objective: str) -> list[Record]:
    """The trials best first, the earlier one where two are equal; those that failed come last."""
    return sorted(records, key=lambda record: (score(record, objective), record.trial))


def best_of(records: Iterable[Record], objective: str) -> Record | None:
    """The best trial; None if none has completed."""
    return next(iter(ranked(completed(records), objective)), None)


def write_tables(study: Path, objective: str) -> None:
    """Writes ``trials.csv``, a row a trial that has ended, and ``best.toml``, both atomically."""
    records = read_records(study)
    names = sorted({name for record in records for name in record.values})
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, [*_COLUMNS, *names], restval="", extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(dataclasses.asdict(record) | record.values for record in records)
    files.write_text(study / TRIALS, stream.getvalue())
    best = best_of(records, objective)
    if best is not None:
        files.write_text(study / BEST, best_toml(best))


def best_toml(best: Record) -> str:
    """A trial's settings as ``train --config`` takes them."""
    said = f"# Trial {best.trial}: validation NLL {best.nll:.4f}, accuracy {best.accuracy:.4f}."
    # Settings are words, numbers and lists of these, which JSON and TOML write alike.
    held = [(name, value) for name, value in best.settings.items() if value is not None]
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in held]
    return "\n".join([said, *lines]) + "\n"


def read_study(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a study is about, as in its ``study.json``.

    Raises:
        UsageError: the folder is no study, or the file is damaged or was edited.
    """
    if not (file := Path(path) / STUDY).exists():
        raise UsageError(
            f"{path} is not a study: it has no {STUDY} of ours.",
            remedy="Name the folder given to `python -m tuning search --output`.",
        )
    about: dict[str, Any] = files.read_json(file, _ABOUT, _REMEDY)
    recipe.check(about["setup"], str(file))
    return about


def winners_test(study: Path) -> dict[str, Any] | None:
    """The winner's figures on the test split; None while there is no winner."""
    path = study / WINNER / "metrics.json"
    test = files.table(images=Count, accuracy=Rate, nll=Amount)
    return files.read_json(path, files.table(test=test))["test"] if path.exists() else None


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
    first = next((record for record in completed(records) if record.trial == 0), None)
    if first is None:
        return f"Trial {best.trial} is the best; the default (trial 0) failed."
    with files.reading(study / LABELS, _REMEDY):
        labels = np.load(study / LABELS)
    gains = np.subtract(*(_merit(study, record, labels, objective) for record in (best, first)))
    low, high = paired_interval(gains)
    what = "lower NLL by" if objective == "nll" else "higher accuracy by"
    beats = "beats" if low > 0 else "is not distinguishable from"
    return (
        f"Trial {best.trial} {beats} the default (trial 0) on validation: {what} "
        f"{gains.mean():.3f} (95 % interval {low:.3f} to {high:.3f}) on {len(labels)} examples."
    )


def paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of paired differences, float ``[n]``."""
    from scipy import stats

    if len(differences) < 2:
        return -math.inf, math.inf
    found = stats.bootstrap(
        (differences,), np.mean, n_resamples=2000, batch=100, method="percentile", rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _merit(study: Path, record: Record, labels: np.ndarray, objective: str) -> np.ndarray:
    """What each validation image adds to a trial's merit, more being better."""
    path = trial_folder(study, record.trial) / LOGITS
    with files.reading(path, _REMEDY):
        if record.answers not in ("", answers_digest(study, record.trial)):
            raise ValueError(f"it or {LABELS} was changed after it had been written")
        logits = np.load(path)
        if objective != "nll":
            return task_of(labels).hits(logits, labels).astype(np.float64)
        losses = task_of(labels).losses(logits / record.temperature, labels)
        return np.maximum(-losses, -69.0)


NARROW, TOP = 4, 20
"""How many settings and how many trials a table for the terminal has unless it is wide."""


def render(path: str | os.PathLike[str], wide: bool = False) -> Any:
    """A study as a table for the terminal, best trials first.

    Args:
        path: the study's folder.
        wide: whether all trials, figures and settings are shown, however wide that is; otherwise
            the best trials, and the settings that come first in the space.

    Raises:
        UsageError: the folder is no study.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    study = Path(path)
    about, records = read_study(study), read_records(study)
    objective, names = about["objective"], varied(records)
    shown, best = names[: None if wide else NARROW], ranked(records, objective)
    title = f"{study}: {about['data']}, {len(records)} trials, by validation {objective}"
    table = Table(title=Text(title), box=box.SIMPLE, title_justify="left")
    figures = ("NLL", "right", *(["macro F1"] if wide else []), "seconds")
    for column in ("trial", *figures, *map(words, shown)):
        table.add_column(column, justify="right", no_wrap=wide)
    for record in best[: None if wide else TOP]:
        failed = record.status == FAILED
        row = ["failed", ""] if failed else [f"{record.nll:.3f}", f"{record.accuracy:.1%}"]
        row += [short(record.macro_f1)] if wide else []
        values = [(short if wide else _brief)(record.values.get(name)) for name in shown]
        table.add_row(str(record.trial), *row, f"{record.seconds:.0f}", *values)
    left = len(names) - len(shown), max(0, len(best) - TOP)
    named = zip(left, ("settings", "trials"), strict=True)
    more = [f"{count} more {what}" for count, what in named if count]
    lines = [f"{' and '.join(more)}: --wide"] if more and not wide else []
    lines += [f"Trial {r.trial} failed: {r.reason}" for r in records if r.status == FAILED]
    lines.append(verdict(study, records, objective))
    lines += [f"The winner on the test split: {said}" for said in _of_winner(study)]
    return Group(table, *map(Text, lines))


def _of_winner(study: Path) -> Iterator[str]:
    """What its test says, where there is a winner, and where it is."""
    from keras_transfer.evaluation.metrics import FEW_IMAGES

    if test := winners_test(study):
        few = ""
        if test["images"] < FEW_IMAGES:
            few = f" Only {test['images']} test examples: too few to tell."
        right = f"{test['accuracy']:.1%} right, NLL {test['nll']:.3f}"
        yield f"{right}; its run folder is {study / WINNER}.{few}"


def _brief(value: Any) -> str:
    """A setting in a table: two digits are enough to compare by."""
    return f"{value:.2g}" if isinstance(value, float) else short(value)


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


def command(study: Path, about: Mapping[str, Any]) -> str:
    """What trains the best trial's settings again, in a folder of its own."""
    best = best_of(read_records(study), about["objective"])
    backbone = str(best.settings.get("backbone")) if best else ""
    own = ["--backbone", backbone] if backbone.endswith(".keras") else []  # to be handed over
    own += ["--splits", str(study / SPLITS)] if about["own_splits"] else []
    words = ["keras-transfer", "train", about["data"], "--config", str(study / BEST), *own]
    return shlex.join([*words, "--output", f"{study}-best"])


def words(name: str) -> str:
    """A setting's name as words."""
    return name.replace("tuner/", "").replace("_", " ")


def short(value: Any) -> str:
    """A value in few digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
