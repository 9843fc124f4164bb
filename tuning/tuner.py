"""Carries out trials: settings from an oracle in, records on disk out."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.src import config

from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError
from keras_transfer.base.progress import Progress
from tuning import oracles, results
from tuning.bench import Workbench, clear_state
from tuning.results import COMPLETED, FAILED, Outcome, Record
from tuning.space import Space

# KerasTuner prints a traceback of every trial that fails; its reason is in the record.
config.DEBUG = False


class DiskError(OSError, keras_tuner.errors.FatalError):
    """No trial's fault: it ends the search, where KerasTuner would try the trial again."""


class Tuner(keras_tuner.Tuner):
    """Carries out: asks the oracle for a trial, trains it, and reports how it came out.

    The loop is ``search`` of KerasTuner's ``BaseTuner``, and calls the methods below in their
    order. A trial ends when its record is written; what came before a kill is not done again. What
    is tried next, and for how long, is the oracle's business, see ``oracles``.

    Args:
        oracle: from ``oracles.build``; a worker's is replaced by KerasTuner's client of the chief.
        study: the study's folder.
        bench: what the trials share.
        about: the study's ``tuner`` and ``objective``, as in ``study.json``.
        progress: where to report.
        worker: this process's name in a study of several; empty otherwise.
        reach: called before the oracle is asked or told anything.
    """

    def __init__(
        self,
        oracle: Any,
        study: Path,
        bench: Workbench,
        about: Mapping[str, Any],
        progress: Progress,
        worker: str = "",
        reach: Callable[[], None] = lambda: None,
    ) -> None:
        self.study, self.bench, self.progress, self.worker = study, bench, progress, worker
        self.objective, self._continues = about["objective"], about["tuner"] == "hyperband"
        self._idle, self._reach = threading.Event(), reach
        # KerasTuner prints where it reloads from.
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(oracle=oracle, directory=str(study), project_name=oracles.FOLDER)

    def pre_create_trial(self) -> None:
        """Waits a little where there was no trial just before."""
        if self._idle.is_set():
            time.sleep(0.5)
        self._idle.set()
        self._reach()

    def on_trial_begin(self, trial: Any) -> None:
        """Notes that there is a trial."""
        self._idle.clear()

    def run_trial(self, trial: Any, *arguments: Any, **named: Any) -> dict[str, float]:
        """Runs a trial, unless it had ended before the study or its worker was killed.

        Raises:
            keras_tuner.errors.FailedTrialError: the trial has failed; the record says why.
            DiskError: something could not be read or written.
        """
        number = int(trial.trial_id)
        try:
            record = results.read_record(self.study, number)
            if record is None:
                self._foresee(number)
                record = self._attempt(number, dict(trial.hyperparameters.values))
                results.write_record(self.study, record)
                # Hyperband's next rung goes on from a trial's last checkpoint.
                if record.status == FAILED or not self._continues:
                    clear_state(results.trial_folder(self.study, number))
                self._say(record)
        except OSError as error:
            raise DiskError(error.errno, error.strerror, error.filename) from error
        self._reach()
        if record.status == FAILED:
            raise keras_tuner.errors.FailedTrialError(record.reason)
        return record.metrics()

    def save(self) -> None:
        """Writes the state in one piece, as KerasTuner does not."""
        if not self._is_worker():
            self.oracle.save()
        files.write_json(self._get_tuner_fname(), self.get_state())

    def on_trial_end(self, trial: Any) -> None:
        """Ends the trial, and writes the study's tables unless a chief does."""
        super().on_trial_end(trial)
        if not self.worker:
            results.write_tables(self.study, self.objective)

    def _attempt(self, number: int, values: dict[str, Any]) -> Record:
        begun, folder = time.monotonic(), results.trial_folder(self.study, number)
        past = values.get("tuner/trial_id")
        earlier = None if past is None else results.trial_folder(self.study, int(past))
        settings, outcome, reason, answers = dict[str, Any](), Outcome(), "", ""
        try:
            recipe = self.bench.trial_recipe(values)
            settings = recipe.to_dict()
            found, logits = self.bench.run(recipe, folder, earlier)
            save_array(folder / results.LOGITS, logits)
            answers = results.answers_digest(self.study, number)
            if found.nll is not None and math.isfinite(found.nll):
                outcome = found
            else:
                reason = "The validation NLL is not a number."
        except OSError:
            raise
        except KerasTransferError as error:
            reason = error.message
        except Exception as error:
            # Whatever a trial's settings provoke in Keras or its backend is that trial's result.
            said = (str(error).strip() or "no message").splitlines()[0]
            reason = f"{type(error).__name__}: {said}"
        return Record(
            number, FAILED if reason else COMPLETED, values, settings,
            seconds=round(time.monotonic() - begun, 3),
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            reason=reason, worker=self.worker, answers=answers, **dataclasses.asdict(outcome),
        )  # fmt: skip

    def _foresee(self, number: int) -> None:
        """Tells which trial runs, and how long all may take: each as those before."""
        said, name = results.read_records(self.study), self._called(number)
        if said and not self.worker:
            usual = sum(record.seconds for record in said) / len(said)
            others = max(0, self.oracle.max_trials - len(said) - 1) * usual
            again = {"others": others, "Training the best again": said[0].seconds}
            self.progress.expect({name: usual} | again)
        self.progress.stage(name)

    def _called(self, number: int) -> str:
        """A trial, and of how many it is, which a worker does not know."""
        return f"Trial {number}" + ("" if self.worker else f" of {self.oracle.max_trials}")

    def _say(self, record: Record) -> None:
        shown = (name for name in record.values if results.is_setting(name))
        values = ", ".join(f"{name} {results.short(record.values[name])}" for name in shown)
        head = f"{self._called(record.trial)} ({record.seconds:.1f} s)"
        best = results.best_of(results.read_records(self.study), self.objective)
        if record.status == FAILED or best is None:
            self.progress.note(f"{head} failed: {record.reason} With {values}.")
            return
        leader = "the best so far" if best.trial == record.trial else f"best: trial {best.trial}"
        self.progress.note(
            f"{head}: {record.accuracy:.1%} right on validation, NLL {record.nll:.3f} ({leader})."
        )
        self.progress.detail(f"  {values}.")


def open_tuner(
    make: Callable[[], Any],
    study: Path,
    space: Space,
    bench: Workbench,
    about: Mapping[str, Any],
    progress: Progress,
) -> Tuner:
    """A tuner over an oracle's state on disk, made again from the records where it is damaged."""
    records, folder = results.read_records(study), study / oracles.FOLDER
    folder.mkdir(parents=True, exist_ok=True)  # KerasTuner's own way has errors of its own
    try:
        oracles.check(folder, records)
        tuner = Tuner(make(), study, bench, about, progress)
    except Exception:  # KerasTuner may raise anything where its files were edited
        progress.note(
            f"The oracle's files in {folder} are damaged; they are made again "
            f"from the records of {len(records)} trials."
        )
        shutil.rmtree(folder, ignore_errors=True)
        # What was begun of other settings under the same number must not be gone on with.
        for place in study.glob("trials/*"):
            clear_state(place)
        folder.mkdir()
        tuner = Tuner(make(), study, bench, about, progress)
        oracles.restore(tuner.oracle, space, records)
    # Without its own file KerasTuner would not read the oracle's after a kill.
    tuner.save()
    return tuner


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an array as ``.npy``, atomically."""
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)
