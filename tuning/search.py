"""A study: KerasTuner's oracles choose the settings, trials share their work, all is on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import keras_tuner
import numpy as np
import threadpoolctl

from keras_transfer import api, datasets, files
from keras_transfer._version import __version__
from keras_transfer.activations import ActivationStore
from keras_transfer.errors import KerasTransferError, UsageError
from keras_transfer.progress import Progress
from keras_transfer.schedule import Schedule
from tuning import results
from tuning.objective import (
    Outcome,
    Setup,
    Workbench,
    clear_state,
    data_digest,
    trial_schedule,
)
from tuning.results import COMPLETED, FAILED, Record
from tuning.space import Space, default_space

TUNERS = ("bayesian", "hyperband", "random")
# KerasTuner's own folder within a study.
_ORACLE = "oracle"
_DEFAULT_TRIALS = 20


class _Choosing:
    """Mixin of an oracle: trial 0 is the default, and no trial begins after the deadline."""

    first: Mapping[str, Any]
    deadline: float = math.inf

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The settings of the next trial, or word that there is none."""
        if time.monotonic() >= self.deadline:
            return {"status": "STOPPED", "values": None}
        if not self.trials:  # type: ignore[attr-defined]
            return {"status": "RUNNING", "values": dict(self.first)}
        # The Gaussian process remarks on its own length scales, and is too small for threads.
        with warnings.catch_warnings(), threadpoolctl.threadpool_limits(limits=1):
            warnings.simplefilter("ignore")
            return super().populate_space(trial_id)  # type: ignore[misc]


class _Random(_Choosing, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_Choosing, keras_tuner.oracles.BayesianOptimizationOracle):
    pass


class _Hyperband(_Choosing, keras_tuner.oracles.HyperbandOracle):
    pass


class _Tuner(keras_tuner.Tuner):
    """Hands KerasTuner's trials to a function, and says when one has ended."""

    def __init__(
        self,
        oracle: Any,
        folder: Path,
        run: Callable[[Any], dict[str, float]],
        ended: Callable[[], None],
    ) -> None:
        self._run, self._ended = run, ended
        # KerasTuner prints where it reloads from.
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(oracle=oracle, directory=str(folder), project_name=_ORACLE)

    def run_trial(self, trial: Any, *arguments: Any, **named: Any) -> dict[str, float]:
        """The validation figures of a trial."""
        return self._run(trial)

    def on_trial_end(self, trial: Any) -> None:
        """Saves the oracle's state, then the study's tables."""
        super().on_trial_end(trial)
        self._ended()


def search(
    setup: Setup,
    output: str | os.PathLike[str],
    *,
    trials: int = _DEFAULT_TRIALS,
    max_time: float | None = None,
    tuner: str = "bayesian",
    objective: str = "nll",
    space: Space | None = None,
    resume: bool = False,
    cache: str | os.PathLike[str] | None = None,
    cache_limit: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Searches a space, trains the best trial again into ``output/winner``, and opens its test.

    The test split is opened there and nowhere else.

    Args:
        setup: the data, and what is the same in all trials.
        output: the study's folder.
        trials: how many trials the study has in all, those before a ``resume`` included.
        max_time: seconds after which no trial is begun.
        tuner: ``bayesian``, ``hyperband`` or ``random``.
        objective: ``nll`` (after a temperature has been fitted), ``accuracy`` or ``f1`` (macro), on
            validation.
        space: what is varied; ``space.default_space()`` by default.
        resume: go on with the study in ``output``; a trial that was killed is run again from its
            last checkpoint, and no other is repeated.
        cache: folder of cached work; the user's cache folder by default.
        cache_limit: bytes that cached activations may take.
        progress: where to report; silent by default.

    Returns:
        The study's folder.

    Raises:
        UsageError: the folder holds something else, another process is searching in it, or a
            setting cannot be used.
        KerasTransferError: no trial has succeeded.
    """
    study = Path(output)
    begun = time.monotonic()
    _check_folder(study, resume)
    with _locked(study), files.cache_at(cache):
        store = ActivationStore(files.cache_folder() / "activations", limit=cache_limit)
        with store:
            bench = Workbench(setup, study / "heads", store)
            wanted = space or default_space()
            one = _Study(study, bench, wanted, tuner, objective, trials, progress or Progress())
            one.begin()
            one.carry_out(math.inf if max_time is None else begun + max_time)
            one.crown()
    return study


def _check_folder(study: Path, resume: bool) -> None:
    """Refuses a folder that must not be written to, before any work is done."""
    if study.exists() and not study.is_dir():
        raise UsageError(f"{study} is a file.", remedy="Name a folder with --output.")
    held = (study / results.STUDY).exists()
    if held and not resume:
        raise UsageError(
            f"{study} already holds a study.",
            remedy="Pass --resume to go on with it, or name another --output.",
        )
    if not held and study.exists() and any(path.name != "lock" for path in study.iterdir()):
        raise UsageError(
            f"{study} holds files that are not a study of ours; they are left alone.",
            remedy="Name another folder with --output.",
        )


@contextlib.contextmanager
def _locked(study: Path) -> Iterator[None]:
    """One process at a time; the operating system frees the lock of one that dies."""
    study.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(study / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UsageError(
            f"Another process is searching in {study}.",
            remedy="Wait until it has ended, or name another --output.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@dataclasses.dataclass
class _Study:
    """One study; its methods are the steps, in order."""

    folder: Path
    bench: Workbench
    space: Space
    tuner: str
    objective: str
    trials: int
    progress: Progress

    def begin(self) -> None:
        """Writes down what the study is about, or checks that it is still about the same."""
        if self.tuner == "hyperband":
            self._longest = self._longest_rung()
            self.space = self.space.without("epochs")
        self.bench.check(self.space)
        data = self.bench.dataset(self.bench.image_size(self.space.defaults()))
        about = {
            "keras_transfer": __version__,
            "data": data.name,
            "data_digest": data_digest(data),
            "setup": {
                name: value
                for name, value in dataclasses.asdict(self.bench.setup).items()
                if name not in ("data", "splits_file")
            },
            "tuner": self.tuner,
            "objective": self.objective,
            "space": self.space.to_json(),
        }
        if (self.folder / results.STUDY).exists():
            _check_same(self.folder, results.read_study(self.folder), about)
            return
        datasets.write_splits(data, self.folder / "splits.csv")
        labels = data.labels[data.indices("val")]
        _save_array(self.folder / results.LABELS, labels)
        results.write_trials(self.folder, [])
        files.write_json(self.folder / results.STUDY, about)

    def _longest_rung(self) -> int:
        epochs = self.space.get("epochs")
        if epochs is None:
            return int(trial_schedule({}).fine_tune.epochs)  # type: ignore[union-attr]
        return int(max(epochs.choices) if epochs.choices else epochs.high)

    def carry_out(self, deadline: float) -> None:
        """Runs trials until there are enough, the time is over or the space is exhausted."""
        records = results.read_records(self.folder)
        sound = _is_sound(self.folder / _ORACLE, {record.trial for record in records})
        if not sound:
            # KerasTuner does not write its files in one piece; ours are.
            self.progress.note(
                f"The oracle's files in {self.folder / _ORACLE} are damaged; they are made again "
                f"from the records of {len(records)} trials."
            )
            shutil.rmtree(self.folder / _ORACLE, ignore_errors=True)
        oracle = self._oracle(deadline)
        tuner = _Tuner(oracle, self.folder, self._run, self._ended)
        if not sound:
            self._restore(oracle, records)
        if self.tuner != "hyperband":
            self._clear(records)
        # The number asked for may have grown, and KerasTuner's state brings the old one back.
        oracle.max_trials = self.trials
        self._ended()
        tuner.search(verbose=0)
        records = results.read_records(self.folder)
        results.write_trials(self.folder, records)
        # A rung that a resumed study continues later is trained from its beginning: the same.
        self._clear(records)

    def _clear(self, records: list[Record]) -> None:
        for record in records:
            clear_state(results.trial_folder(self.folder, record.trial))

    def _oracle(self, deadline: float) -> Any:
        field, less = results.OBJECTIVES[self.objective]
        common: dict[str, Any] = {
            "objective": keras_tuner.Objective(field, "min" if less else "max"),
            "hyperparameters": self.space.hyperparameters(),
            # KerasTuner takes 0 for no seed.
            "seed": self.bench.setup.seed + 1,
            # A trial that fails is recorded and ends nothing.
            "max_consecutive_failed_trials": 10**9,
        }
        if self.tuner == "hyperband":
            # As many rounds as it takes; the number of trials ends the search.
            oracle: Any = _Hyperband(max_epochs=self._longest, hyperband_iterations=10**6, **common)
        elif self.tuner == "bayesian":
            # By default three random trials a setting come first: more than most studies have.
            # Fewer than five make the Gaussian process degenerate, and very slow to fit.
            initial = min(10, max(5, self.trials // 3))
            oracle = _Bayesian(max_trials=self.trials, num_initial_points=initial, **common)
        else:
            oracle = _Random(max_trials=self.trials, **common)
        oracle.max_trials = self.trials
        oracle.first, oracle.deadline = self.space.defaults(), deadline
        return oracle

    def _restore(self, oracle: Any, records: list[Record]) -> None:
        """Fills a fresh oracle with the trials that have ended."""
        engine = keras_tuner.engine.trial
        for record in records:
            hp = self.space.hyperparameters()
            hp.values = dict(record.values)
            number = f"{record.trial:04d}"
            trial = engine.Trial(hyperparameters=hp, trial_id=number, status="FAILED")
            oracle.trials[number] = trial
            oracle.start_order.append(number)
            oracle.end_order.append(number)
            if record.status == COMPLETED:
                trial.status = "COMPLETED"
                oracle.update_trial(number, _metrics(record))
                oracle.score_trial(trial)
            else:
                trial.message = record.reason
            place = self.folder / _ORACLE / f"trial_{number}"
            place.mkdir(parents=True, exist_ok=True)
            trial.save(str(place / "trial.json"))
        state = oracle.get_state()
        # The stream of random settings goes on elsewhere, or it would offer the same ones again.
        state["seed_state"] = oracle.seed + 100_000 * (1 + len(records))
        oracle.set_state(state)
        oracle.save()

    def _run(self, trial: Any) -> dict[str, float]:
        """Runs a trial, unless it had ended before the study was killed."""
        number = int(trial.trial_id)
        record = results.read_record(self.folder, number)
        if record is None:
            record = self._attempt(number, dict(trial.hyperparameters.values))
            results.write_record(self.folder, record)
            if self.tuner != "hyperband" or record.status == FAILED:
                clear_state(results.trial_folder(self.folder, number))
            self._say(record)
        if record.status == FAILED:
            raise keras_tuner.errors.FailedTrialError(record.reason)
        return _metrics(record)

    def _attempt(self, number: int, values: dict[str, Any]) -> Record:
        begun = time.monotonic()
        folder = results.trial_folder(self.folder, number)
        settings: dict[str, Any] = {}
        found: dict[str, Any]
        try:
            schedule = trial_schedule(values)
            settings = self.bench.settings(values, schedule)
            outcome = self._train(values, schedule, folder)
            _save_array(folder / results.LOGITS, outcome.validation_logits)
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
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **found,
        )

    def _train(self, values: dict[str, Any], schedule: Schedule, folder: Path) -> Outcome:
        past = values.get("tuner/trial_id")
        earlier = None if past is None else results.trial_folder(self.folder, int(past))
        return self.bench.run(values, schedule, folder, earlier)

    def _say(self, record: Record) -> None:
        values = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in record.values.items()
            if not name.startswith("tuner/") or name == "tuner/epochs"
        )
        head = f"Trial {record.trial} of {self.trials} ({record.seconds:.1f} s)"
        if record.status == FAILED:
            self.progress.note(f"{head} failed: {record.reason} With {values}.")
            return
        best = results.best_of(results.read_records(self.folder), self.objective)
        assert best is not None
        leader = "the best so far" if best.trial == record.trial else f"best: trial {best.trial}"
        self.progress.note(
            f"{head}: NLL {record.nll:.4f}, accuracy {record.accuracy:.4f} ({leader}). {values}."
        )

    def _ended(self) -> None:
        records = results.read_records(self.folder)
        results.write_trials(self.folder, records)
        best = results.best_of(records, self.objective)
        if best is not None:
            results.write_best(self.folder, best)

    def crown(self) -> None:
        """Trains the best trial again as a run, with its one look at the test split."""
        records = results.read_records(self.folder)
        best = results.best_of(records, self.objective)
        if best is None:
            why = f" Trial 0: {records[0].reason}" if records else " The time was over before one."
            raise KerasTransferError(
                f"No trial in {self.folder} has succeeded.{why}",
                remedy="Mend that, and go on with --resume and more --trials.",
            )
        run, mark = self.folder / results.WINNER, self.folder / "winner.json"
        if mark.exists() and json.loads(mark.read_text())["trial"] == best.trial:
            return
        self.progress.note(f"Trial {best.trial} is the best; it is trained again with its test.")
        settings = dict(best.settings)
        setup = self.bench.setup
        api.train(
            self.bench.dataset(settings["image_size"]),
            backbone=settings["backbone"],
            weights=settings["weights"],
            schedule=Schedule.from_dict(settings["schedule"]),
            split=setup.split,
            splits_file=setup.splits_file,
            seed=setup.seed,
            engine=setup.engine,
            jit=setup.jit,
            cache=files.cache_folder(),
            output=run,
            overwrite=run.exists(),
        )
        files.write_json(mark, {"trial": best.trial})


def _is_sound(oracle: Path, ended: set[int]) -> bool:
    """Whether KerasTuner can go on from its files, given the trials that have ended.

    It writes several files, none of them atomically: a kill may leave half of one, or a trial that
    was created and that the oracle has not noted.
    """
    if not (oracle / "oracle.json").exists():
        return not ended and not any(oracle.glob("trial_*"))
    try:
        state = json.loads((oracle / "oracle.json").read_text())
        waiting = {*state["ongoing_trials"].values(), *state["retry_queue"]}
        known = set()
        for path in oracle.glob("trial_*"):
            trial = json.loads((path / "trial.json").read_text())
            known.add(int(trial["trial_id"]))
            if trial["status"] == "RUNNING" and trial["trial_id"] not in waiting:
                return False
        for path in oracle.glob("tuner*.json"):
            json.loads(path.read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return ended <= known


def _metrics(record: Record) -> dict[str, float]:
    """What the oracle is told of a trial."""
    held = {"nll": record.nll, "accuracy": record.accuracy, "macro_f1": record.macro_f1}
    return {name: float(value) for name, value in held.items() if value is not None}


def _check_same(study: Path, held: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Refuses to go on with a study of something else."""
    wanted = json.loads(json.dumps(files.plain(dict(about))))
    differing = [name for name in wanted if held.get(name) != wanted[name]]
    if not differing:
        return
    parts = []
    for name in differing:
        if name == "setup":
            parts.append(_changed(held.get(name) or {}, wanted[name]))
        elif name == "space":
            parts.append("the space")
        elif name == "data_digest":
            parts.append("the images or their splits")
        else:
            parts.append(f"{name} was {held.get(name)!r} and is {wanted[name]!r}")
    raise UsageError(
        f"The study in {study} is about something else: {'; '.join(parts)}.",
        remedy="Give the same settings to resume it, or name another --output.",
    )


def _changed(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} was {held.get(name)!r} and is {value!r}"
        for name, value in wanted.items()
        if held.get(name) != value
    )


def _save_array(path: Path, array: np.ndarray) -> None:
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)
