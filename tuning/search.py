"""A study: KerasTuner's oracles choose the settings, trials share their work, all is on disk."""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from keras_transfer import datasets, preparation, training
from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError, UsageError
from keras_transfer.base.progress import Progress, telling
from keras_transfer.datasets.sources import Data, check_outside
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.modalities import modality
from keras_transfer.recipe import LOCAL, Recipe, reads_arguments, resolve
from tuning import oracles, results, study_page
from tuning.bench import Workbench, clear_state, data_digest
from tuning.space import Space, default_space, read_space
from tuning.tuner import Tuner, open_tuner, save_array


def _in_this_process(tuner: Tuner, progress: Progress) -> None:
    # What workers of an earlier chief had begun is nobody's now.
    for worker in {*tuner.oracle.ongoing_trials} - {tuner.tuner_id}:
        tuner.oracle.release(worker)
    tuner.search(verbose=0)


@reads_arguments
def search(
    data: Data,
    output: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    trials: int = 20,
    max_time: float | str | None = None,
    tuner: Literal["bayesian", "hyperband", "random"] = "hyperband",
    objective: Literal["nll", "accuracy", "f1"] = "nll",
    space: Space | str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    serve: Callable[[Tuner, Progress], None] = _in_this_process,
) -> Path:
    """Searches a space and trains the best trial again into ``output/winner``; returns ``output``.

    The test split is opened for the winner and nowhere else.

    Args:
        data: a folder and the like, as for ``keras_transfer.train``.
        output: the study's folder; one in which every trial has failed is begun again.
        settings: what a trial has where the space says nothing; fields of ``Recipe`` by name.
        trials: how many trials the study has in all, those before a ``resume`` included.
        max_time: seconds, or a word such as ``20m``, after which no trial is begun.
        tuner: ``bayesian``, ``hyperband`` or ``random``.
        objective: ``nll`` (of a fitted temperature), ``accuracy`` or ``f1`` (macro) of validation.
        space: what is varied, or a TOML file of it; by default ``space.default_space(settings)``.
        resume: go on with the study in ``output``; a trial that was killed is run again from its
            last checkpoint, and no other is repeated.
        progress: whether, or where, to tell of it, as for ``train``.
        serve: returns when all trials have ended; by default they run in this process, see
            ``workers.serve`` for others.

    Raises:
        UsageError: the folder holds something else, another process is searching in it, or a
            setting cannot be used.
        KerasTransferError: no trial has succeeded.
    """
    recipe, study = resolve(settings or {}), Path(output)
    deadline = math.inf if max_time is None else time.monotonic() + float(max_time)
    if space is not None and not isinstance(space, Space):
        space = read_space(space, settings)
    check_outside(study, data)
    _check_folder(study, resume)
    with telling(progress) as told, files.alone(study / "lock", f"searching in {study}"):
        with (
            files.cache_at(None if recipe.cache in ("on", "off") else recipe.cache),
            ActivationStore(files.cache_folder() / "activations", recipe.cache_limit) as store,
        ):
            source = preparation.opened(data, recipe)
            recipe = resolve(settings or {}, efforts=modality(source.modality).EFFORTS)
            bench = Workbench(source, recipe, study / "heads", store)
            space = space or default_space(settings, source.modality)
            _run(
                study, bench, space, told, serve,
                tuner=tuner, objective=objective, trials=trials, deadline=deadline, resume=resume,
            )  # fmt: skip
        # Nothing is read from the store any more: killed here, no mark of a reader is left in it.
        study_page.write_page(study)
    return study


def _run(
    study: Path, bench: Workbench, space: Space, progress: Progress,
    serve: Callable[[Tuner, Progress], None], *, tuner: str, objective: str, trials: int,
    deadline: float, resume: bool,
) -> None:  # fmt: skip
    """A study from its plan to its winner."""
    longest = max(space.values("fine_tune_epochs") or [bench.recipe.fine_tune_epochs])
    if tuner == "hyperband":
        space = space.without("fine_tune_epochs")
    progress.stage("decode")
    bench.check(space)
    for shared in bench.plan(space, trials):
        progress.detail(str(shared))
    about = _begin(study, bench, space, tuner, objective, resume)
    oracle = functools.partial(
        oracles.build, tuner, objective, space,
        trials=trials, seed=bench.recipe.seed, longest=longest, deadline=deadline,
    )  # fmt: skip
    handing_out = open_tuner(oracle, study, space, bench, about, progress)
    if tuner != "hyperband":
        _clear(study)
    results.write_tables(study, objective)
    serve(handing_out, progress)
    _note_lost(study, handing_out.oracle)
    results.write_tables(study, objective)
    # A rung that a resumed study continues later is trained from its beginning: the same.
    _clear(study)
    _crown(study, bench, objective, progress)


def _check_folder(study: Path, resume: bool) -> None:
    """Refuses a folder that must not be written to, before any work is done."""
    if study.exists() and not study.is_dir():
        raise UsageError(f"{study} is a file.", remedy="Name a folder with --output.")
    held = (study / results.STUDY).exists()
    if held and not resume and not _has_failed(study):
        raise UsageError(
            f"{study} already holds a study.",
            remedy="Pass --resume to go on with it, or name another --output.",
        )
    if held:  # what is damaged is said before any work
        results.read_records(study)
        results.read_study(study)
    ours = ("lock", str(files.temporary(results.STUDY)))
    if not held and any(not any(map(path.match, ours)) for path in study.glob("*")):
        problem = f"{study} holds files that are not a study of ours; they are left alone."
        raise UsageError(problem, remedy="Name another folder with --output.")


def _has_failed(study: Path) -> bool:
    """Whether there are trials, and none has succeeded."""
    records = results.read_records(study)
    return bool(records) and not results.completed(records)


def _begin(
    study: Path, bench: Workbench, space: Space, tuner: str, objective: str, resume: bool
) -> dict[str, Any]:
    """Writes down what the study is about, or checks that it is still about the same."""
    data = bench.dataset(bench.trial_recipe(space.defaults()))
    about = {
        "keras_transfer": __version__,
        "data": data.name,
        "data_digest": data_digest(data),
        "own_splits": bench.recipe.splits is not None,
        "setup": bench.recipe.to_dict(),
        "tuner": tuner,
        "objective": objective,
        "space": space.to_json(),
    }
    if resume and (study / results.STUDY).exists():
        _check_same(study, results.read_study(study), files.plain(about))
    else:
        for failed in ("trials", oracles.FOLDER):  # of a study that is begun again
            shutil.rmtree(study / failed, ignore_errors=True)
        files.write_json(study / results.STUDY, files.sealed(about))
    # Of a study that was killed here there is no more than the first.
    datasets.write_splits(data, study / results.SPLITS)
    save_array(study / results.LABELS, data.labels[data.indices("val")])
    return about


def _check_same(study: Path, held: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Refuses to go on with a study of something else."""
    what = "the data or its splits"
    known = {"data_digest": what, "own_splits": what, "space": "the space"}
    before, wanted = ({**one, **(one.get("setup") or {}), "setup": None} for one in (held, about))
    changed = {
        known.get(name, f"{name} was {before.get(name)!r} and is {value!r}"): None
        for name, value in wanted.items()
        if before.get(name) != value
    }
    if changed:
        raise UsageError(
            f"The study in {study} is about something else: {'; '.join(changed)}.",
            remedy="Give the same settings to resume it, or name another --output.",
        )


def _clear(study: Path) -> None:
    for record in results.read_records(study):
        clear_state(results.trial_folder(study, record.trial))


def _note_lost(study: Path, oracle: Any) -> None:
    """Writes the record of a trial that none of its workers lived to end."""
    for trial in oracle.trials.values():
        number, values = int(trial.trial_id), dict(trial.hyperparameters.values)
        if trial.status == "FAILED" and results.read_record(study, number) is None:
            reason = "Every worker that ran it was lost; it may need more memory than there is."
            lost = results.Record(number, results.FAILED, values, {}, reason=reason)
            results.write_record(study, lost)


def _crown(study: Path, bench: Workbench, objective: str, progress: Progress) -> None:
    """Trains the best trial again as a run, with its one look at the test split."""
    records = results.read_records(study)
    best = results.best_of(records, objective)
    if best is None:
        why = f" Trial 0: {records[0].reason}" if records else " The time was over before one."
        raise KerasTransferError(
            f"No trial in {study} has succeeded.{why}",
            remedy="Mend that, and begin again; or go on with --resume and more --trials.",
        )
    run, mark = study / results.WINNER, study / "winner.json"
    crowned = files.read_json(mark, files.table(trial=int)) if mark.exists() else {}
    if crowned.get("trial") == best.trial:
        return
    progress.stage("Training the best again")
    local = {name: getattr(bench.recipe, name) for name in LOCAL}
    recipe = Recipe(**best.settings, **{k: v for k, v in local.items() if v is not None})
    where: dict[str, Any] = {"output": run, "overwrite": run.exists(), "progress": progress}
    training.train(bench.dataset(recipe), recipe=recipe, backbone=recipe.backbone, **where)
    files.write_json(mark, files.sealed({"trial": best.trial}))
