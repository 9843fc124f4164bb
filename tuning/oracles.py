"""KerasTuner's oracles, with what a study asks of them besides."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras_tuner
import threadpoolctl
from keras_tuner.src.engine.oracle import LOCKS, THREADS

from keras_transfer.base import files
from tuning import results
from tuning.results import Record
from tuning.space import Space

# KerasTuner's own folder within a study.
FOLDER = "oracle"
# Workers that a trial may outlive; then it counts as failed.
_LOST_WORKERS = 2

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _synchronized(method: _Method) -> _Method:
    """As ``keras_tuner.synchronized``, but the lock is free again whatever the method raises.

    In KerasTuner 1.4.8 (``wrapped_func`` of ``keras_tuner/src/engine/oracle.py``) an oracle's lock
    is taken, the method called and the lock released, without a ``try``: a method that raises
    keeps it for good, and every later call of any thread waits for ever. A message about an unknown
    trial is enough, or a full disk. The same function lets a thread pass that holds the lock
    already, so where it is held here, what is called inside can neither take nor lose it.
    """

    @functools.wraps(method)
    def guarded(self: Any, *arguments: Any, **named: Any) -> Any:
        thread = threading.current_thread().name
        if THREADS[self] == thread:
            return method(self, *arguments, **named)
        with LOCKS[self]:
            THREADS[self] = thread
            try:
                return method(self, *arguments, **named)
            finally:
                THREADS[self] = None

    return guarded  # type: ignore[return-value]


class _OfStudy(keras_tuner.Oracle):
    """Decides: which settings come next, which trial is handed out again, when the study is over.

    KerasTuner's oracles choose the settings. Here trial 0 is the default, no trial begins after the
    deadline, and the trial of a worker that was lost is handed to the next that asks. Trials are
    carried out by ``tuner.Tuner``, which sees nothing of this.

    Args:
        first: the values of trial 0.
        trials: how many there are in all.
        deadline: by ``time.monotonic``, after which none begins.
        named: what KerasTuner's own oracle takes.
    """

    def __init__(
        self, *, first: Mapping[str, Any], trials: int, deadline: float, **named: Any
    ) -> None:
        super().__init__(**named)
        self.first, self.deadline, self.max_trials = first, deadline, trials
        self.verbose = 0

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The settings of the next trial, or word that there is none."""
        if time.monotonic() >= self.deadline:
            return {"status": "STOPPED", "values": None}
        if not self.trials:
            return {"status": "RUNNING", "values": dict(self.first)}
        # The Gaussian process remarks on its own length scales, and is too small for threads.
        with warnings.catch_warnings(), threadpoolctl.threadpool_limits(limits=1):
            warnings.simplefilter("ignore")
            found: dict[str, Any] = super().populate_space(trial_id)
            return found

    @_synchronized
    def create_trial(self, tuner_id: str) -> Any:
        """The next trial; a worker waits while others run, since a trial may be handed on."""
        trial = super().create_trial(tuner_id)
        if trial.status == "STOPPED" and self.ongoing_trials:
            trial.status = "IDLE"
            self.tuner_ids.add(tuner_id)
        return trial

    @_synchronized
    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Any:
        """Notes a trial's figures."""
        return super().update_trial(trial_id, metrics, step)

    @_synchronized
    def end_trial(self, trial: Any) -> None:
        """Ends a trial once: a worker that was taken for lost may report after all."""
        if trial.trial_id not in self.end_order:
            if trial.trial_id in self._retry_queue:
                self._retry_queue.remove(trial.trial_id)
            # KerasTuner prints what it will try again.
            with contextlib.redirect_stdout(io.StringIO()):
                super().end_trial(trial)
        # KerasTuner leaves a trial that could not be saved among those that run.
        for tuner_id, running in list(self.ongoing_trials.items()):
            if running.trial_id == trial.trial_id:
                del self.ongoing_trials[tuner_id]

    @_synchronized
    def release(self, tuner_id: str) -> Any:
        """Takes a lost worker's trial back, to be handed out again; None if it had none."""
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.get(tuner_id)
        if trial is not None:
            trial.status, trial.message = "INVALID", "Its worker was lost."
            self.end_trial(trial)
        return trial

    def save(self) -> None:
        """Writes the state in one piece, as KerasTuner does not."""
        files.write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Any) -> None:
        place = Path(self._project_dir) / f"trial_{trial.trial_id}"
        files.write_json(place / "trial.json", trial.get_state())

    @_synchronized
    def is_over(self) -> bool:
        """Whether all trials have ended and no other will begin."""
        enough = len(self.trials) >= self.max_trials or time.monotonic() >= self.deadline
        return enough and not (self.ongoing_trials or self._retry_queue)


class _Random(_OfStudy, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_OfStudy, keras_tuner.oracles.BayesianOptimizationOracle):
    pass


class _Hyperband(_OfStudy, keras_tuner.oracles.HyperbandOracle):
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The settings of the next rung, with word whether it is the last of its trial."""
        found = super().populate_space(trial_id)
        values = found.get("values") or {}
        if "tuner/epochs" in values:
            values["tuner/last"] = values["tuner/epochs"] == self.max_epochs
        return found


def build(
    tuner: str,
    objective: str,
    space: Space,
    *,
    trials: int,
    seed: int,
    longest: int = 1,
    deadline: float = math.inf,
) -> Any:
    """An oracle.

    Args:
        tuner: ``bayesian``, ``hyperband`` or ``random``.
        objective: a key of ``results.OBJECTIVES``.
        space: what is varied.
        trials: how many trials the study has in all.
        seed: of what the oracle draws.
        longest: epochs of Hyperband's longest rung.
        deadline: by ``time.monotonic``, after which no trial begins.
    """
    field, less = results.OBJECTIVES[objective]
    kind, own = {
        "random": (_Random, {}),
        # By default three random trials a setting come first: more than most studies have.
        # Fewer than five make the Gaussian process degenerate, and very slow to fit.
        "bayesian": (_Bayesian, {"num_initial_points": min(10, max(5, trials // 3))}),
        # As many rounds as it takes; the number of trials ends the search.
        "hyperband": (_Hyperband, {"max_epochs": longest, "hyperband_iterations": 10**6}),
    }[tuner]
    return kind(
        first=space.defaults(),
        trials=trials,
        deadline=deadline,
        objective=keras_tuner.Objective(field, "min" if less else "max"),
        hyperparameters=space.hp.copy(),
        seed=seed + 1,  # KerasTuner takes 0 for no seed
        max_retries_per_trial=_LOST_WORKERS,
        max_consecutive_failed_trials=10**9,  # a trial that fails is recorded and ends nothing
        **own,
    )


def restore(oracle: Any, space: Space, records: Sequence[Record]) -> None:
    """Fills a fresh oracle with the trials that have ended."""
    for record in records:
        hp, number = space.hp.copy(), f"{record.trial:04d}"
        hp.values = dict(record.values)
        trial = keras_tuner.engine.trial.Trial(hyperparameters=hp, trial_id=number, status="FAILED")
        oracle.trials[number], trial.message = trial, record.reason
        oracle.start_order.append(number)
        oracle.end_order.append(number)
        if record.status == results.COMPLETED:
            trial.status = "COMPLETED"
            oracle.update_trial(number, record.metrics())
            oracle.score_trial(trial)
        oracle._save_trial(trial)
    # The stream of random settings goes on elsewhere, or it would offer the same ones again.
    elsewhere = oracle.seed + 100_000 * len(records)
    oracle.set_state(oracle.get_state() | {"seed_state": elsewhere})
    oracle.save()


def check(folder: Path, records: Sequence[Record]) -> None:
    """Makes sure that KerasTuner can go on from its files, given the trials that have ended.

    A trial that was created before a kill and that the oracle has not noted is removed, since the
    oracle will create the same one.

    Raises:
        Exception: a file is damaged, or tells otherwise of a trial than its record.
    """
    if not (records or any(folder.glob("trial_*")) or (folder / "oracle.json").exists()):
        return
    state = files.read_json(folder / "oracle.json")
    files.read_json(folder / "tuner0.json")
    for place in folder.glob("trial_*"):
        if place.name.removeprefix("trial_") not in state["start_order"]:
            shutil.rmtree(place)
    trials = [files.read_json(path) for path in folder.glob("trial_*/trial.json")]
    known = {int(t["trial_id"]): (t["hyperparameters"]["values"], t["score"]) for t in trials}
    for record in records:
        values, score = known[record.trial]
        if values != record.values or score not in (None, *record.metrics().values()):
            raise ValueError(f"it is not what the record of trial {record.trial} says")
    waiting = {*state["ongoing_trials"].values(), *state["retry_queue"]}
    running = {trial["trial_id"] for trial in trials if trial["status"] == "RUNNING"}
    if {*known} != {*map(int, state["start_order"])} or not running <= waiting:
        raise ValueError("it does not know of every trial")
