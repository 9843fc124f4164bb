"""The run folder: everything that a training run leaves behind, and what it needs to go on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import shlex
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from keras_transfer import datasets, recipe
from keras_transfer.backbones import adoption
from keras_transfer.backbones.weight_files import load_model
from keras_transfer.base import files, types
from keras_transfer.base.errors import DataError, KerasTransferError, UsageError
from keras_transfer.base.files import Amount, Count, Number, Rate, Text
from keras_transfer.datasets import tables
from keras_transfer.datasets.sources import JOINT, check_outside, parts_of, prefix
from keras_transfer.evaluation.metrics import Evaluation, evaluate
from keras_transfer.learn.calibration import Threshold
from keras_transfer.modalities import KINDS
from keras_transfer.recipe import SETTINGS, Recipe, reads_arguments
from keras_transfer.runs import commands
from keras_transfer.runs.finished import Finished, Folder
from keras_transfer.runs.result import TransferResult

if TYPE_CHECKING:
    import keras

    from keras_transfer.learn.selection import Candidate

CONFIG, METRICS, MODEL, SPLITS = "config.json", "metrics.json", "model.keras", "splits.csv"
PREDICTIONS, HISTORY, STATE = "predictions.csv", "history.csv", "state"
PROBABILITIES = "test_probabilities.npy"
VALIDATION_LOGITS, VALIDATION_LABELS = "validation_logits.npy", "validation_labels.npy"
PAGE, LOCK, DATA = "report.html", f"{STATE}/lock", "data.csv"
BACKBONE = adoption.FILE
NEW = f"{STATE}/new"
"""Where a run is written until it is whole: a run that it replaces stays until then."""

_RUN = (
    CONFIG, MODEL, BACKBONE, DATA, SPLITS, PREDICTIONS, HISTORY, PROBABILITIES, VALIDATION_LOGITS,
    VALIDATION_LABELS, PAGE, "plots/history.svg", "plots/learning_curve.svg",
    "plots/confusion.svg", "plots/reliability.svg", "plots/examples/mistakes-[0-9][0-9].html",
    "plots/examples/doubts-[0-9][0-9].html", "plots/examples/suspects-[0-9][0-9].html",
    "tensorboard/head/events.out.tfevents.*", "tensorboard/fine_tune/events.out.tfevents.*",
    METRICS,
)  # fmt: skip
"""What a run may leave in its folder; metrics.json, which makes it a finished one, goes last."""

_UNFINISHED = (
    *(f"{NEW}/{name}" for name in _RUN),
    *(f"{STATE}/{name}" for name in ("decision.json", "head.npz", "head-phase.npz")),
    f"{STATE}/fine-tune.npz",
)
"""What a run that has not finished may leave; nothing else than these and _RUN is removed."""

_REMEDY = "Restore the file, or train the run again into another folder."

_CONFIG = files.table(
    {
        "data_path": Text, "author": Text, "weights_licence": Text, "modality": KINDS,
        "multi_label": Literal["off", "on"], "of_first_run": Count,
    },
    data=Text, class_names=list[Text], backbone=Text, weights=Text, temperature=Amount,
)  # fmt: skip
_PREDICTION = files.table(path=Text, label=Text, predicted=Text, probability=Rate, digest=Text)
_EPOCH = files.table({
    "phase": Text, "epoch": Count, "step": Count, "learning_rate": Amount, "train_loss": float,
    "validation_loss": float, "validation_calibrated_loss": float, "validation_accuracy": Rate,
    "input_wait": Amount, "seconds": Amount,
})  # fmt: skip
_TEST = files.table(
    images=Count, accuracy=Rate, top5=Rate, balanced_accuracy=Rate, macro_f1=Rate, nll=Amount,
    brier=Amount, ece=Rate, majority=dict[str, Amount], confusion=files.rows(count=Count),
    per_class=files.rows(name=Text, support=Count, recall=Rate | None),
    intervals=dict[str, tuple[Number, Number] | None],
)  # fmt: skip
_METRICS = files.table(
    {"files": dict[str, Text], "class_thresholds": dict[str, Rate]},
    test=_TEST, phases=files.rows(name=Text, details=dict[str, Any]), seconds=dict[str, Amount],
    cache=dict[str, Count], plan=dict[str, Any], threshold=dict[str, Number | None],
    temperature=Amount, environment=dict[str, Any],
)  # fmt: skip


def _model(run: Run) -> keras.Model:
    with files.reading(path := run.file(MODEL), _REMEDY):
        return load_model(path)


def _dataset(run: Run) -> types.Dataset:
    check_data(run)
    how = run.how | {"splits": run.file(SPLITS), "group": run.config.get("group")}
    found = datasets.load_dataset(run.data, **how)
    if found.class_names == run.class_names or {*found.class_names} != {*run.class_names}:
        return found
    cells = run.task.decode(found.labels, found.class_names)  # in an order that Python had said
    labels = run.task.encode(cells, run.class_names)
    return dataclasses.replace(found, labels=labels, class_names=run.class_names)


def check_data(run: Run) -> None:
    """Refuses a run whose data is nowhere, or has changed.

    Raises:
        DataError: it was in the memory of the process that trained.
        UsageError: its own table of it is not as the run wrote it.
    """
    if run.config.get("in_memory"):
        problem = f"{run.path} was trained on {run.config['data']} in memory, and no file has them."
        remedy = "Ask what train returned, in its own process: result.export(...). Or train on"
        raise DataError(problem, remedy=f"{remedy} files, or on a table of files or of texts.")
    if DATA in run.metrics.get("files", {}):
        run.file(DATA)


def _recipe(run: Run) -> Recipe:
    return Recipe(**{name: run.config[name] for name in SETTINGS if name in run.config})


def _predictions(run: Run) -> list[dict[str, Any]]:
    rows = files.read_csv(run.file(PREDICTIONS), _PREDICTION, _REMEDY)
    return [row | {"probability": float(row["probability"])} for row in rows]


def _history(run: Run) -> list[dict[str, Any]]:
    rows, whole = files.read_csv(run.file(HISTORY), _EPOCH, _REMEDY), ("epoch", "step")
    kinds: dict[str, Any] = {"phase": str, **dict.fromkeys(whole, int)}
    return [{key: kinds.get(key, float)(v) for key, v in row.items() if v} for row in rows]


def _array(run: Run, name: str) -> np.ndarray:
    with files.reading(path := run.file(name), _REMEDY):
        return np.load(path, allow_pickle=False)


def _evaluation(run: Run) -> Evaluation:
    return evaluate(
        run.test_probabilities, run.test_labels, run.class_names, thresholds=run.thresholds
    )


def _test_labels(run: Run) -> np.ndarray:
    return run.task.encode((row["label"] for row in run.predictions), run.class_names)


def _thresholds(run: Run) -> tuple[float, ...]:
    return tuple(run.metrics.get("class_thresholds", {}).values())


def _candidates(run: Run) -> tuple[Candidate, ...]:
    from keras_transfer.learn.selection import Candidate  # which loads Keras

    return tuple(Candidate(**row) for row in run.metrics["candidates"])


def _threshold(run: Run) -> Threshold:
    missing, held = {"threshold": math.inf}, dict[str, Any]()  # JSON has no infinity and no NaN
    for name, value in run.metrics["threshold"].items():
        held[name] = missing.get(name, math.nan) if value is None else value
    return Threshold(**held)


@dataclasses.dataclass(frozen=True, repr=False)
class Run(Finished):
    """A finished run on disk; what is asked of it is read once, when it is asked.

    Raises:
        UsageError: a file is missing or damaged.
        DataError: the data is gone, or differs from what the run saw.
    """

    path: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]

    model = functools.cached_property(_model)
    dataset = functools.cached_property(_dataset)
    recipe = functools.cached_property(_recipe)
    history = functools.cached_property(_history)
    predictions = functools.cached_property(_predictions)
    validation_logits = functools.cached_property(lambda run: _array(run, VALIDATION_LOGITS))
    validation_labels = functools.cached_property(lambda run: _array(run, VALIDATION_LABELS))
    test_probabilities = functools.cached_property(lambda run: _array(run, PROBABILITIES))
    test_labels = functools.cached_property(_test_labels)
    evaluation = functools.cached_property(_evaluation)
    thresholds = functools.cached_property(_thresholds)
    temperature = functools.cached_property(lambda run: float(run.config["temperature"]))
    candidates = functools.cached_property(_candidates)
    threshold = functools.cached_property(_threshold)
    phases = functools.cached_property(
        lambda run: tuple(types.PhaseReport(**row) for row in run.metrics["phases"])
    )
    seconds = functools.cached_property(lambda run: run.metrics["seconds"])

    @property
    def backbone(self) -> str:
        """The backbone's name, or the file of one of the user's own."""
        kept = self.path / BACKBONE
        return str(kept) if kept.exists() else str(self.config["backbone"])

    @property
    def data(self) -> str:
        """Where the data is: as the user named it if that exists from here, else in full; the run's
        own table of what came from Python, wherever the run is by now."""
        data, kept, own = str(self.config["data"]), self.path / DATA, list[str]()
        named, full = parts_of(data), parts_of(str(self.config.get("data_path", data)))
        if DATA in self.metrics.get("files", {}):
            here = Path(named[-1]).resolve() == kept.resolve()
            own = [named[-1] if here else str(kept)]
        given = slice(len(named) - len(own))
        here = all(":" in part or Path(part).exists() for part in named[given])
        return JOINT.join([*(named if here else full)[given], *own])

    def file(self, name: str) -> Path:
        """A file of the run, which must be as the run wrote it.

        Raises:
            UsageError: it is missing or has changed.
        """
        with files.reading(path := self.path / name, _REMEDY):
            if self.metrics.get("files", {}).get(name) not in (None, files.file_sha256(path)):
                raise ValueError("it was changed after the run had written it")
        return path


@reads_arguments
def open_run(path: Folder) -> Run:
    """Opens a finished run.

    Args:
        path: the folder given as ``--output`` or ``output=`` when it was trained.

    Returns:
        The run, from which model, metrics, predictions and data set are read when asked for.

    Raises:
        UsageError: the folder is no run, or one that has not finished; a file is missing or
            damaged, or lacks a field.
    """
    folder = Path(path)
    settle(folder)
    config, metrics = _config(folder / CONFIG), None
    if (folder / METRICS).exists():
        metrics = files.read_json(folder / METRICS, _METRICS, _REMEDY)
    else:
        config = config or _config(folder / NEW / CONFIG)
    if config is None:
        raise UsageError(
            f"{folder} is not a run folder: it has no {CONFIG} of ours.",
            remedy="Name the folder given to `keras-transfer train --output`.",
        )
    if metrics is None:
        problem = f"The run in {folder} has not finished: it has no {METRICS}."
        raise UsageError(problem, remedy=f"Continue it with `{_command(folder, config)}`.")
    lost = [name for name in (MODEL, SPLITS, PREDICTIONS, HISTORY) if not (folder / name).exists()]
    if lost:
        raise UsageError(f"The run in {folder} lacks {', '.join(lost)}.", remedy=_REMEDY)
    files.read_json(folder / CONFIG, _CONFIG, _REMEDY)
    names = [row["name"] for row in metrics["test"]["per_class"]]
    for name, value in (("class_names", names), ("temperature", metrics["temperature"])):
        if config[name] != value:
            what = f"{folder / CONFIG}: {name} is {config[name]!r}, in {METRICS} {value!r}."
            raise UsageError(what, remedy=_REMEDY)
    run = Run(folder, config, metrics)
    sized: dict[str, Any] = {run.modality.SIZE: Amount}
    files.read_json(folder / CONFIG, files.table(**sized), _REMEDY)
    return run


_written: weakref.WeakKeyDictionary[Finished, tempfile.TemporaryDirectory[str]]
_written = weakref.WeakKeyDictionary()


def on_disk(run: Finished | Folder) -> Run:
    """A run as a folder has it: a temporary one, where it was trained without any.

    Args:
        run: what ``train`` or ``open_run`` returned, or a run's folder.
    """
    if not isinstance(run, Finished):
        return open_run(run)
    if isinstance(run, Run):
        return run
    assert isinstance(run, TransferResult)
    if run.path and _holds(run.path, run):
        return _as_held(run.path, run)
    if run not in _written:
        _written[run] = tempfile.TemporaryDirectory(prefix="keras-transfer-")
        with begin(_place(run), run.config):
            return finish(_place(run), run)
    return _as_held(_place(run), run)


def in_folder(run: Finished | Folder) -> Run:
    """A run in a folder of its own, for what is made of it and lies beside it.

    Raises:
        UsageError: it was trained without one, or another run is there by now.
    """
    if isinstance(run, TransferResult) and not (run.path and _holds(run.path, run)):
        what = f"is not in {run.path} any more" if run.path else "has no folder"
        problem = f"The run on {run.config['data']} {what}."
        raise UsageError(problem, remedy="Train it with output=..., a folder for it alone.")
    return on_disk(run)


def _holds(folder: Path, result: TransferResult) -> bool:
    """Whether a folder has this run, and not another by now."""
    config = folder / CONFIG
    return config.is_file() and files.read_json(config) == files.plain(result.config)


def _as_held(folder: Path, result: TransferResult) -> Run:
    """A run's folder, with what of it is in memory already."""
    run = open_run(folder)
    vars(run).update(model=result.model, dataset=result.dataset)
    return run


def _place(run: TransferResult) -> Path:
    return Path(_written[run].name) / (Path(str(run.config["data"])).stem.strip(".") or "run")


def settle(folder: Path) -> None:
    """Lets a run that is whole take its place where a kill in the last moment kept it from that."""
    if (folder / NEW / METRICS).exists():
        with _locked(folder, wait=60):
            _put_in_place(folder)


@contextlib.contextmanager
def begin(
    path: Folder, config: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[Path]:
    """Keeps a run's folder for this process, and yields the folder for its checkpoints.

    A finished run that is there stays as it is until :func:`finish`.

    Args:
        path: the run folder.
        config: what the run is about to do.
        resume: go on from the checkpoints of a run with the same settings.
        overwrite: replace a run that is there.

    Raises:
        UsageError: the folder holds something else, a run that was not to be replaced, or one
            with other settings than those to be resumed; another process writes to it.
    """
    folder = Path(path)
    of = config.get("update_of", "")
    check_output(folder, resume=resume, overwrite=overwrite, update_of=of)
    with _locked(folder):
        held = _held(folder, resume, overwrite, of)  # another run may have ended meanwhile
        if held is None or not resume:
            replaced = (folder / METRICS).exists()
            _remove(folder, _UNFINISHED if replaced else (*_UNFINISHED, *_RUN))
        else:
            for name in sorted(config.keys() - {"created", "keras_transfer", "asked"}):
                if (had := held.get(name)) != files.plain(config[name]):
                    raise UsageError(
                        f"The run in {folder} had {name}={had!r}; received {config[name]!r}.",
                        remedy="Give the same settings to resume it, or --overwrite to begin anew.",
                    )
        # What writers that were killed had begun.
        _remove(folder, [str(files.temporary(name)) for name in (*_RUN, *_UNFINISHED)])
        files.write_json(folder / NEW / CONFIG, dict(config))
        try:
            yield folder / STATE
        except KerasTransferError:
            # What failed at its start would fail again: the folder is free, unless work is in it.
            if not any((folder / STATE).glob("*.npz")):
                replaced = (folder / METRICS).exists()
                _remove(folder, _UNFINISHED if replaced else (*_UNFINISHED, *_RUN))
            raise


def keep_backbone(path: Folder, model: keras.Model) -> None:
    """Leaves a backbone of the user's own, as it was before the run, in a folder that begins."""
    with files.atomic_path(Path(path) / NEW / BACKBONE) as temporary:
        model.save(temporary)


def data_name(dataset: types.Dataset, path: Folder) -> str:
    """What the run in a folder calls its data: files and texts that came from Python by the table
    of them that it keeps, see :func:`kept_data`."""
    *others, last = parts_of(dataset.name)
    own = dataset.origin in ("files", "texts") or _is_kept(last, path)
    return JOINT.join([*others, str(Path(path) / DATA)]) if own else dataset.name


def kept_data(dataset: types.Dataset, path: Folder, recipe: Recipe) -> tuple[types.Dataset, bytes]:
    """A data set as the run in a folder calls it, and what :func:`keep_data` is to leave there:
    nothing of data that a name brings back."""
    *others, last = parts_of(dataset.name)
    if dataset.origin in ("files", "texts"):
        named = tables.named(recipe.group, recipe.columns)
        table = files.csv_bytes(*datasets.table_of(dataset, prefix(len(others)), named))
    elif _is_kept(last, path):  # the run is begun again with it
        table = Path(last).read_bytes()
    else:
        return dataset, b""
    return dataclasses.replace(dataset, name=data_name(dataset, path), origin="name"), table


def _is_kept(name: str, path: Folder) -> bool:
    """Whether a name of data is the table that the run in a folder keeps, or keeps until it is
    whole."""
    places = (Path(path) / place for place in (DATA, f"{NEW}/{DATA}"))
    return Path(name).resolve() in [place.resolve() for place in places]


def keep_data(path: Folder, table: bytes) -> None:
    """Leaves the table of :func:`kept_data` in a folder that begins."""
    files.write_bytes(Path(path) / NEW / DATA, table)


def begun(path: Folder) -> bool:
    """Whether a run that was interrupted has left something to go on with."""
    folder = Path(path)
    left = (folder / NEW / CONFIG).exists() or not (folder / PAGE).exists()
    return folder.exists() and (left or only_trained(folder))


def only_trained(path: Folder) -> bool:
    """Whether the run that an update made is whole, and was not yet compared with the old one."""
    folder = Path(path)
    if (folder / NEW / CONFIG).exists() or not (folder / METRICS).exists():
        return False
    of_update = "update_of" in (_config(folder / CONFIG) or {})
    return of_update and "update" not in files.read_json(folder / METRICS, remedy=_REMEDY)


def beside(run: Path, what: str) -> Path:
    """The folder for what is made of a run: its own name, a dash, and a word."""
    run = run if run.name.strip(".") else run.resolve()
    return run.with_name(f"{run.name}-{what}")


def add_to_metrics(run: Run, found: Mapping[str, Any]) -> Run:
    """Adds entries to the ``metrics.json`` of a finished run, atomically; returns it as it is then,
    with what of it had been read."""
    files.write_json(run.path / METRICS, files.sealed({**run.metrics, **found}))
    again = open_run(run.path)
    vars(again).update(vars(run) | {"metrics": again.metrics})
    return again


def events_folder(path: Folder) -> Path:
    """Where a run that has begun leaves event files: not among those of a run it replaces."""
    folder = Path(path)
    return (folder / NEW if (folder / METRICS).exists() else folder) / "tensorboard"


def check_output(
    path: Folder, *, resume: bool, overwrite: bool, data: Any = None, update_of: str = ""
) -> None:
    """Refuses a folder that a run must not be written to, before any work is done.

    Args:
        path: the run folder.
        resume: see :func:`begin`.
        overwrite: see :func:`begin`.
        data: what is trained on.
        update_of: the run that is updated, see ``Dataset``; empty where none is.

    Raises:
        UsageError: see :func:`begin`; or the folder would be part of the data, or is that run's.
    """
    folder = Path(path)
    if update_of and folder.resolve() == Path(update_of).resolve():
        raise UsageError(f"{folder} is the run itself.", remedy="Name another folder.")
    check_outside(folder, data)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", remedy="Name a folder with --output.")
    for link in _ours(folder, (*_RUN, *_UNFINISHED, LOCK)):
        if link.is_symlink():
            raise UsageError(
                f"{link} is a link; a run is written to its own folder alone.",
                remedy="Remove the link, or name another folder with --output.",
            )
    if (folder / LOCK).exists() or (folder / NEW / METRICS).exists():
        with _locked(folder):
            _put_in_place(folder)
    _held(folder, resume, overwrite, update_of)


def _held(folder: Path, resume: bool, overwrite: bool, update_of: str) -> dict[str, Any] | None:
    """The ``config.json`` of the run that is in a folder, None where there is nothing."""
    held = _config(folder / NEW / CONFIG)
    finished = held is None and (folder / METRICS).exists()
    held = held or _config(folder / CONFIG)
    if held is None:
        scraps = set(_ours(folder, (*_UNFINISHED, LOCK)))
        if any(path not in scraps for path in folder.rglob("*")):
            problem = f"{folder} holds files that are not a run of ours; they are left alone."
            raise UsageError(problem, remedy="Name another folder with --output.")
        return None
    whole = finished and not only_trained(folder)
    if resume and not whole and held.get("update_of", "") != update_of:
        problem = f"The run in {folder} was begun by another command."
        raise UsageError(problem, remedy=f"Go on with `{_command(folder, held)}`.")
    if resume and whole:
        if not (folder / PAGE).exists():
            raise UsageError(
                f"The run in {folder} has finished; only its page is missing.",
                remedy=f"Write the page with `keras-transfer report {shlex.quote(str(folder))}`.",
            )
        raise UsageError(
            f"The run in {folder} has finished; there is nothing to resume.",
            remedy="Look at it with `keras-transfer evaluate`, or pass --overwrite.",
        )
    if not resume and not overwrite:
        what = "already holds a run" if whole else "holds a run that has not finished"
        go_on = "" if whole else "--resume to go on, "
        remedy = f"Pass {go_on}--overwrite to replace it, or name another --output."
        raise UsageError(f"{folder} {what}.", remedy=remedy)
    return held


def _command(folder: Path, config: Mapping[str, Any]) -> str:
    """The command that goes on with a run that was killed."""
    parts, kept = parts_of(str(config.get("data", "DATA"))), folder / NEW
    parts[-1:] = [str(kept / DATA)] if (kept / DATA).exists() else parts[-1:]
    if of := config.get("update_of"):
        old = parts_of(str((_config(Path(str(of)) / CONFIG) or {}).get("data", "")))
        words = ["update", str(of), JOINT.join(parts[len(old) :])]
        return shlex.join(["keras-transfer", *words, "--output", str(folder), "--resume"])
    classes = config.get("class_names", [])
    if (kept / DATA).exists() and classes != sorted(classes):  # an order that no table knows
        config = {**config, "in_memory": True}
    if (kept / BACKBONE).exists():
        config = {**config, "backbone": str(kept / BACKBONE)}
    data, splits = JOINT.join(parts), config.get("splits_from")
    return commands.training(config, data, splits=splits, output=str(folder), resume=True)


@contextlib.contextmanager
def _locked(folder: Path, wait: float = 0) -> Iterator[None]:
    with files.alone(folder / LOCK, f"writing a run to {folder}", wait):
        try:
            yield
        finally:
            _remove(folder, [LOCK])


def _put_in_place(folder: Path) -> None:
    """Lets a new run that is whole take the old one's place.

    It may be killed anywhere and called again: nothing is moved before the old run's
    ``metrics.json`` is gone, and the new one's is moved last.
    """
    new = folder / NEW
    if not (new / METRICS).exists():
        return
    if (folder / METRICS).exists():
        _remove(folder, _RUN)
    for name in _RUN:
        for path in new.glob(name):
            target = folder / path.relative_to(new)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    _remove(folder, _UNFINISHED)


def _ours(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """The files that match, those half written, and the folders that they may lie in."""
    for pattern in patterns:
        yield folder / pattern
        yield from folder.glob(pattern)
        yield from folder.glob(str(files.temporary(pattern)))
        yield from (folder / parent for parent in Path(pattern).parents[:-1])


def _remove(folder: Path, patterns: Sequence[str]) -> None:
    """Removes the files that match, and the folders that this leaves empty."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            if not path.is_dir():
                path.unlink(missing_ok=True)
    parents = {parent for pattern in patterns for parent in Path(pattern).parents[:-1]}
    for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            (folder / parent).rmdir()


def finish(path: Folder, result: TransferResult) -> Run:
    """Writes what came of a run, and lets it take the place of what was there.

    Args:
        path: the run folder, kept by :func:`begin`.
        result: from ``training.train``.
    """
    folder = Path(path)
    new = folder / NEW
    with files.atomic_path(new / MODEL) as temporary:
        result.model.save(temporary)
    datasets.write_splits(result.dataset, new / SPLITS)
    rows = [row | {"probability": f"{row['probability']:.6f}"} for row in result.predictions]
    for name, table, kind in ((PREDICTIONS, rows, _PREDICTION), (HISTORY, result.history, _EPOCH)):
        columns = kind.__struct_fields__
        cells = [[row.get(column, "") for column in columns] for row in table]
        files.write_csv(new / name, columns, cells)
    for name, array in (
        (PROBABILITIES, result.test_probabilities),
        (VALIDATION_LOGITS, result.validation_logits),
        (VALIDATION_LABELS, result.validation_labels),
    ):
        with files.atomic_path(new / name) as temporary, open(temporary, "wb") as stream:
            np.save(stream, array)
    files.write_json(new / CONFIG, result.config)
    # Of what nobody has a reason to edit: what has changed is never taken for the run's own.
    digests = {file.name: files.file_sha256(file) for file in new.glob("*.[!j]*")}
    files.write_json(new / METRICS, files.sealed({**result.metrics, "files": digests}))
    _put_in_place(folder)
    return _as_held(folder, result)


def _config(path: Path) -> dict[str, Any] | None:
    """What a run's ``config.json`` holds; None where there is none of ours."""
    if path.exists() and "keras_transfer" in (held := files.read_json(path, remedy=_REMEDY)):
        recipe.read_file(path)
        return held
    return None
