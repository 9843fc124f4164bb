"""A study: KerasTuner's oracles choose the settings, trials share their work, all is on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from keras_transfer import api, datasets
from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError, UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.schedule import Schedule
from tuning import oracles, results
from tuning import study_page as page
from tuning.objective import Setup, Workbench, clear_state, data_digest, trial_schedule
from tuning.space import Space
from tuning.space_file import default_space
from tuning.trials import Runner, save_array

_DEFAULT_TRIALS = 20


def _in_this_process(tuner: oracles.Tuner) -> None:
    tuner.search(verbose=0)


def search(
    setup: Setup,
    output: str | os.PathLike[str],
    *,
    trials: int = _DEFAULT_TRIALS,
    max_time: float | None = None,
    tuner: str = "hyperband",
    objective: str = "nll",
    space: Space | None = None,
    resume: bool = False,
    cache: str | os.PathLike[str] | None = None,
    cache_limit: int | None = None,
    progress: Progress | None = None,
    serve: Callable[[oracles.Tuner], None] = _in_this_process,
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
        serve: carries out the trials that the tuner's oracle hands out and returns when all have
            ended; by default they run in this process, see ``workers.serve`` for others.

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
            one.carry_out(math.inf if max_time is None else begun + max_time, serve)
            one.crown()
            page.write_page(study)
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
    longest: int = 1

    def begin(self) -> None:
        """Writes down what the study is about, or checks that it is still about the same."""
        if self.tuner == "hyperband":
            self.longest = self._longest_rung()
            self.space = self.space.without("epochs")
        self.bench.check(self.space)
        for shared in self.bench.sharing.plan(self.space, self.trials):
            self.progress.note(str(shared))
        data = self.bench.dataset(self.bench.image_size(self.space.defaults()))
        about = {
            "keras_transfer": __version__,
            "data": data.name,
            "data_digest": data_digest(data),
            "own_splits": self.bench.setup.splits_file is not None,
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
        save_array(self.folder / results.LABELS, labels)
        results.write_trials(self.folder, [])
        files.write_json(self.folder / results.STUDY, about)

    def _longest_rung(self) -> int:
        epochs = self.space.get("epochs")
        if epochs is None:
            return int(trial_schedule({}).fine_tune.epochs)  # type: ignore[union-attr]
        return int(max(epochs.choices) if epochs.choices else epochs.high)

    def carry_out(self, deadline: float, serve: Callable[[oracles.Tuner], None]) -> None:
        """Runs trials until there are enough, the time is over or the space is exhausted."""
        oracle = oracles.build(
            self.tuner,
            self.objective,
            self.space,
            trials=self.trials,
            seed=self.bench.setup.seed,
            longest=self.longest,
        )
        oracle.deadline = deadline
        runner = Runner(
            self.folder, self.bench, self.tuner, self.objective, self.trials, self.progress
        )
        tuner = oracles.open_tuner(
            oracle, self.folder, self.space, runner.run, self.write_tables, self.progress
        )
        if self.tuner != "hyperband":
            self._clear()
        self.write_tables()
        serve(tuner)
        self._note_lost(oracle)
        self.write_tables()
        # A rung that a resumed study continues later is trained from its beginning: the same.
        self._clear()

    def _clear(self) -> None:
        for record in results.read_records(self.folder):
            clear_state(results.trial_folder(self.folder, record.trial))

    def _note_lost(self, oracle: Any) -> None:
        """Writes the record of a trial that none of its workers lived to end."""
        for trial in oracle.trials.values():
            number = int(trial.trial_id)
            if trial.status == "FAILED" and results.read_record(self.folder, number) is None:
                values = dict(trial.hyperparameters.values)
                reason = "Every worker that ran it was lost; it may need more memory than there is."
                lost = results.Record(number, results.FAILED, values, {}, reason=reason)
                results.write_record(self.folder, lost)

    def write_tables(self) -> None:
        """Writes ``trials.csv`` and ``best.toml``."""
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
        elif name in ("data_digest", "own_splits"):
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
