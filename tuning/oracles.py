"""KerasTuner's oracles and tuner, with what a study asks of them besides."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import threadpoolctl

from keras_transfer.base.progress import Progress
from tuning import results
from tuning.results import COMPLETED, Record
from tuning.space import Space

# KerasTuner's own folder within a study.
FOLDER = "oracle"
# Workers that a trial may outlive; then it counts as failed.
_LOST_WORKERS = 2


class _OfStudy:
    """Mixin of an oracle: trial 0 is the default, the deadline holds, lost trials come again."""

    first: Mapping[str, Any]
    deadline: float = math.inf
    # KerasTuner's own, below.
    trials: dict[str, Any]
    ongoing_trials: dict[str, Any]
    tuner_ids: set[str]
    end_order: list[str]
    _retry_queue: list[str]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The settings of the next trial, or word that there is none."""
        if time.monotonic() >= self.deadline:
            return {"status": "STOPPED", "values": None}
        if not self.trials:
            return {"status": "RUNNING", "values": dict(self.first)}
        # The Gaussian process remarks on its own length scales, and is too small for threads.
        with warnings.catch_warnings(), threadpoolctl.threadpool_limits(limits=1):
            warnings.simplefilter("ignore")
            return super().populate_space(trial_id)  # type: ignore[misc]

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Any:
        """The next trial; a worker waits while others run, since a trial may be handed on."""
        trial = super().create_trial(tuner_id)  # type: ignore[misc]
        if trial.status == "STOPPED" and self.ongoing_trials:
            trial.status = "IDLE"
            self.tuner_ids.add(tuner_id)
        return trial

    @keras_tuner.synchronized
    def end_trial(self, trial: Any) -> None:
        """Ends a trial once: a worker that was taken for lost may report after all."""
        if trial.trial_id in self.end_order:
            return
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        # KerasTuner prints what it will try again.
        with contextlib.redirect_stdout(io.StringIO()):
            super().end_trial(trial)  # type: ignore[misc]

    @keras_tuner.synchronized
    def release(self, tuner_id: str) -> Any:
        """Takes a lost worker's trial back, to be handed out again; None if it had none."""
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.get(tuner_id)
        if trial is not None:
            trial.status, trial.message = "INVALID", "Its worker was lost."
            self.end_trial(trial)
        return trial

    @keras_tuner.synchronized
    def is_over(self) -> bool:
        """Whether all trials have ended and no other will begin."""
        enough = len(self.trials) >= self.max_trials  # type: ignore[attr-defined]
        begun = self.ongoing_trials or self._retry_queue
        return not begun and (enough or time.monotonic() >= self.deadline)


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


class Tuner(keras_tuner.Tuner):
    """Hands KerasTuner's trials to a function.

    Args:
        oracle: from :func:`build`; a worker's is replaced by KerasTuner's client of the chief.
        study: the study's folder.
        run: trains a trial and returns its validation figures.
        before: called before the oracle is asked for anything.
        ended: called when a trial has ended.
    """

    def __init__(
        self,
        oracle: Any,
        study: Path,
        run: Callable[[Any], dict[str, float]],
        *,
        before: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._before, self._waiting = run, before, False
        self.ended = ended
        # KerasTuner prints where it reloads from.
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(oracle=oracle, directory=str(study), project_name=FOLDER)

    def pre_create_trial(self) -> None:
        """Called before a trial is asked for; waits a little where there was none just before."""
        if self._waiting:
            time.sleep(0.5)
        self._waiting = True
        self._before()

    def on_trial_begin(self, trial: Any) -> None:
        """Called when there is a trial to run."""
        self._waiting = False

    def run_trial(self, trial: Any, *arguments: Any, **named: Any) -> dict[str, float]:
        """The validation figures of a trial."""
        found = self._run(trial)
        self._before()
        return found

    def on_trial_end(self, trial: Any) -> None:
        """Saves the oracle's state, then the study's tables."""
        self._before()
        super().on_trial_end(trial)
        self.ended()


def build(
    tuner: str, objective: str, space: Space, *, trials: int, seed: int, longest: int = 1
) -> Any:
    """An oracle.

    Args:
        tuner: ``bayesian``, ``hyperband`` or ``random``.
        objective: a key of ``results.OBJECTIVES``.
        space: what is varied.
        trials: how many trials the study has in all.
        seed: of what the oracle draws.
        longest: epochs of Hyperband's longest rung.
    """
    field, less = results.OBJECTIVES[objective]
    common: dict[str, Any] = {
        "objective": keras_tuner.Objective(field, "min" if less else "max"),
        "hyperparameters": space.hyperparameters(),
        # KerasTuner takes 0 for no seed.
        "seed": seed + 1,
        "max_retries_per_trial": _LOST_WORKERS,
        # A trial that fails is recorded and ends nothing.
        "max_consecutive_failed_trials": 10**9,
    }
    if tuner == "hyperband":
        # As many rounds as it takes; the number of trials ends the search.
        oracle: Any = _Hyperband(max_epochs=longest, hyperband_iterations=10**6, **common)
    elif tuner == "bayesian":
        # By default three random trials a setting come first: more than most studies have.
        # Fewer than five make the Gaussian process degenerate, and very slow to fit.
        initial = min(10, max(5, trials // 3))
        oracle = _Bayesian(max_trials=trials, num_initial_points=initial, **common)
    else:
        oracle = _Random(max_trials=trials, **common)
    oracle.max_trials, oracle.first = trials, space.defaults()
    return oracle


def open_tuner(
    oracle: Any,
    study: Path,
    space: Space,
    run: Callable[[Any], dict[str, float]],
    ended: Callable[[], None],
    progress: Progress,
) -> Tuner:
    """A tuner over the oracle's state on disk, which is made again where it is damaged.

    KerasTuner does not write its files in one piece; the records of trials are.
    """
    records, trials = results.read_records(study), oracle.max_trials
    sound = _is_sound(study / FOLDER, {record.trial for record in records})
    if not sound:
        progress.note(
            f"The oracle's files in {study / FOLDER} are damaged; they are made again "
            f"from the records of {len(records)} trials."
        )
        shutil.rmtree(study / FOLDER, ignore_errors=True)
    tuner = Tuner(oracle, study, run, ended=ended)
    if not sound:
        _restore(oracle, study, space, records)
    # The number asked for may have grown, and KerasTuner's state brings the old one back.
    oracle.max_trials = trials
    # Without its own file KerasTuner would not read the oracle's after a kill.
    tuner.save()
    return tuner


def _restore(oracle: Any, study: Path, space: Space, records: list[Record]) -> None:
    """Fills a fresh oracle with the trials that have ended."""
    for record in records:
        hp = space.hyperparameters()
        hp.values = dict(record.values)
        number = f"{record.trial:04d}"
        trial = keras_tuner.engine.trial.Trial(hyperparameters=hp, trial_id=number, status="FAILED")
        oracle.trials[number] = trial
        oracle.start_order.append(number)
        oracle.end_order.append(number)
        if record.status == COMPLETED:
            trial.status = "COMPLETED"
            oracle.update_trial(number, record.metrics())
            oracle.score_trial(trial)
        else:
            trial.message = record.reason
        place = study / FOLDER / f"trial_{number}"
        place.mkdir(parents=True, exist_ok=True)
        trial.save(str(place / "trial.json"))
    state = oracle.get_state()
    # The stream of random settings goes on elsewhere, or it would offer the same ones again.
    state["seed_state"] = oracle.seed + 100_000 * (1 + len(records))
    oracle.set_state(state)
    oracle.save()


def _is_sound(folder: Path, ended: set[int]) -> bool:
    """Whether KerasTuner can go on from its files, given the trials that have ended.

    It writes several files, none of them atomically: a kill may leave half of one, or a trial that
    was created and that the oracle has not noted.
    """
    if not (folder / "oracle.json").exists():
        return not ended and not any(folder.glob("trial_*"))
    try:
        state = json.loads((folder / "oracle.json").read_text())
        waiting = {*state["ongoing_trials"].values(), *state["retry_queue"]}
        known = set()
        for path in folder.glob("trial_*"):
            trial = json.loads((path / "trial.json").read_text())
            known.add(int(trial["trial_id"]))
            if trial["status"] == "RUNNING" and trial["trial_id"] not in waiting:
                return False
        json.loads((folder / "tuner0.json").read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return ended <= known
