"""Carries out trials: settings from an oracle in, records on disk out."""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError
from keras_transfer.base.progress import Progress
from tuning import results
from tuning.bench import Workbench, clear_state
from tuning.results import COMPLETED, FAILED, Record


@dataclasses.dataclass
class Runner:
    """Runs the trials of one study in this process.

    Attributes:
        study: the study's folder.
        bench: what the trials share.
        tuner: ``bayesian``, ``hyperband`` or ``random``.
        objective: a key of ``results.OBJECTIVES``.
        trials: how many the study has in all, for messages; 0 where that is not known.
        progress: where to report.
        worker: this process's name in a study of several; empty otherwise.
    """

    study: Path
    bench: Workbench
    tuner: str
    objective: str
    trials: int
    progress: Progress
    worker: str = ""

    def run(self, trial: Any) -> dict[str, float]:
        """Runs a trial, unless it had ended before the study or its worker was killed.

        Raises:
            keras_tuner.errors.FailedTrialError: the trial has failed; the record says why.
        """
        number = int(trial.trial_id)
        record = results.read_record(self.study, number)
        if record is None:
            record = self._attempt(number, dict(trial.hyperparameters.values))
            results.write_record(self.study, record)
            # Hyperband's next rung goes on from a trial's last checkpoint.
            if self.tuner != "hyperband" or record.status == FAILED:
                clear_state(results.trial_folder(self.study, number))
            self._say(record)
        if record.status == FAILED:
            raise keras_tuner.errors.FailedTrialError(record.reason)
        return record.metrics()

    def _attempt(self, number: int, values: dict[str, Any]) -> Record:
        begun = time.monotonic()
        folder = results.trial_folder(self.study, number)
        past = values.get("tuner/trial_id")
        earlier = None if past is None else results.trial_folder(self.study, int(past))
        settings: dict[str, Any] = {}
        found: dict[str, Any]
        try:
            recipe = self.bench.trial_recipe(values)
            settings = recipe.to_dict()
            outcome = self.bench.run(recipe, folder, earlier)
            save_array(folder / results.LOGITS, outcome.validation_logits)
            found = {"status": COMPLETED, **dataclasses.asdict(outcome)}
            del found["validation_logits"]
            if not math.isfinite(outcome.nll):
                found = {"status": FAILED, "reason": "The validation NLL is not a number."}
        except KerasTransferError as error:
            found = {"status": FAILED, "reason": error.message}
        except Exception as error:
            # Whatever a trial's settings provoke in Keras or its backend is that trial's result.
            said = (str(error).strip() or "no message").splitlines()[0]
            found = {"status": FAILED, "reason": f"{type(error).__name__}: {said}"}
        return Record(
            trial=number,
            values=values,
            settings=settings,
            seconds=round(time.monotonic() - begun, 3),
            finished=now(),
            worker=self.worker,
            **found,
        )

    def _say(self, record: Record) -> None:
        values = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in record.values.items()
            if not name.startswith("tuner/") or name == "tuner/epochs"
        )
        of = f" of {self.trials}" if self.trials else ""
        head = f"Trial {record.trial}{of} ({record.seconds:.1f} s)"
        if record.status == FAILED:
            self.progress.note(f"{head} failed: {record.reason} With {values}.")
            return
        best = results.best_of(results.read_records(self.study), self.objective)
        assert best is not None
        leader = "the best so far" if best.trial == record.trial else f"best: trial {best.trial}"
        self.progress.note(
            f"{head}: NLL {record.nll:.4f}, accuracy {record.accuracy:.4f} ({leader}). {values}."
        )


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an array as ``.npy``, atomically."""
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
