"""From a data set to a finished run, in one call."""

from __future__ import annotations

import dataclasses
import datetime
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer import backbones, datasets, evaluation
from keras_transfer import export as exporting
from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.compute import check_words
from keras_transfer.base.errors import UsageError
from keras_transfer.base.events import EventLog
from keras_transfer.base.progress import Progress
from keras_transfer.base.types import POOL, BackboneSpec, Dataset
from keras_transfer.frozen.engine import build_engine
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn import planner
from keras_transfer.learn import race as depth
from keras_transfer.learn.steps import Steps
from keras_transfer.runs import folder as runs
from keras_transfer.runs import report
from keras_transfer.schedule import Effort, Phase, Schedule, recipe, views_for
from keras_transfer.training import Clock, TransferResult, fit, predict_probabilities
from keras_transfer.training import train as run_schedule

DEFAULT_BACKBONE = "EfficientNetLite0"
# Enlarging helps networks that were trained on larger pictures, up to a point: small images are
# trained at twice their size, in steps of 32, but at no less than this.
_SMALLEST = 96


def train(
    data: Any,
    *,
    backbone: str = DEFAULT_BACKBONE,
    weights: str | None = None,
    image_size: int | None = None,
    unfreeze: int | str | None = None,
    effort: Effort = "default",
    schedule: Schedule | None = None,
    changes: Mapping[str, Any] | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    splits_file: str | os.PathLike[str] | None = None,
    fold: tuple[int, int] | None = None,
    per_class: int | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | bool = True,
    cache_limit: int | None = None,
    engine: str = "auto",
    jit: str = "auto",
    precision: str = "auto",
    devices: int | str = 1,
    time_budget: float | None = None,
    target_precision: float = 0.95,
    calibration: str = "temperature",
    tensorboard: bool = False,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TransferResult:
    """Trains an image classifier on a data set and, with ``output``, writes a run folder.

    Args:
        data: a folder, manifest, archive, ``tfds:NAME``, ``builtin:digits`` or arrays, see
            ``datasets.load_dataset``; or an ``Dataset`` with pixels.
        backbone: a name that ``backbones.names()`` lists.
        weights: ``imagenet``, ``offline``, ``none`` (random), a file, or the folder of an earlier
            run; by default what the backbone's row names first.
        image_size: height and width in pixels; by default the backbone's own size, or about twice
            that of the images where they are much smaller (see ``default_image_size``).
        unfreeze: depth of the second phase: blocks from the top, a block's name, a share of the
            multiply-adds such as ``"35%"``, ``"all"`` or ``"none"``; by default the effort's, and
            ``"all"`` for random weights. ``"auto"`` decides by a short race, see ``depth.decide``.
        effort: ``quick``, ``default`` or ``high``; numbers of the recipe, see ``schedule.recipe``.
        schedule: a whole schedule, instead of an effort.
        changes: single settings on top of it: ``head_epochs``, ``fine_tune_epochs``,
            ``batch_size``, ``head_lr``, ``fine_tune_lr``. A head epoch or rate makes the head train
            by gradient (AdamW) instead of being solved.
        split: shares of train, validation and test.
        splits_file: a ``splits.csv`` to apply instead.
        fold: (i, k) to test on the i-th of k parts instead, see ``datasets.load_dataset``.
        per_class: train on at most so many images of each class.
        seed: of the split, the order of images, Dropout and the like.
        cache: True keeps frozen work in the user's cache folder, a path there, False nowhere.
        cache_limit: bytes that cached activations may take; a quarter of the free disk by default.
        engine: what runs the frozen part: ``auto``, ``keras``, ``openvino``, ``openvino-bfloat16``.
        jit: XLA for training steps: ``auto``, ``on``, ``off``.
        precision: ``auto``, ``float32``, ``mixed_bfloat16`` or ``mixed_float16``: in which type
            layers compute while they train. The model that is saved is float32.
        devices: how many GPUs, or other devices that Keras lists, share every batch, or ``all``.
        time_budget: seconds in which the result must be there.
        target_precision: share of right answers that the confidence threshold is chosen for.
        calibration: ``temperature`` divides the model's logits by a number fitted on validation, so
            that its probabilities are honest; ``none`` leaves them as they are.
        tensorboard: whether event files are written to ``output/tensorboard``, an epoch at a time.
        output: the run folder.
        resume: go on with a killed run in ``output``.
        overwrite: replace a run in ``output``.
        progress: where to report; silent by default.

    Returns:
        The model and the evidence.

    Raises:
        UsageError: a setting cannot be used as given (``DataError`` for the data, ``WeightsError``
            for the weights).
    """
    clock = Clock()
    row = backbones.spec(backbone)
    check_words(jit=jit, precision=precision)
    if calibration not in ("temperature", "none"):
        raise UsageError(
            f"Unknown calibration. Received: {calibration!r}.", remedy="Give temperature or none."
        )
    if tensorboard and output is None:
        raise UsageError(
            "Event files for TensorBoard go to the run folder, and none is named.",
            remedy="Pass output.",
        )
    if output is not None:
        runs.check_output(output, resume=resume, overwrite=overwrite)
    weights = weights or row.weights[0]
    base = schedule or recipe(effort, pretrained=weights != "none")
    planned = change(base, unfreeze=unfreeze, **(changes or {}))
    place = None if isinstance(cache, bool) else cache
    with files.cache_at(place):
        if not isinstance(data, Dataset):
            data = datasets.open_source(data)  # once: it may have to be unpacked
            image_size = image_size or default_image_size(data, row)
        else:
            image_size = (
                image_size or int(data.examples.shape[1]) if data.examples is not None else 0
            )
        with clock.stage("build"):  # what is wrong with it shows before an hour of decoding
            keras.utils.set_random_seed(seed)  # random weights must come back with --resume
            built = backbones.build(row.name, image_size=image_size, weights=weights)
        if planned.fine_tune and planned.fine_tune.unfreeze != depth.AUTO:
            planner.resolve_depth(built.blocks, planned.fine_tune.unfreeze)
        if isinstance(data, Dataset):
            dataset = data
        else:
            with clock.stage("decode"):
                dataset = datasets.load_dataset(
                    data,
                    image_size=image_size,
                    split=split,
                    splits_file=splits_file,
                    fold=fold,
                    per_class=per_class,
                    seed=seed,
                    cache=bool(cache),
                )
        (progress or Progress()).note(repr(dataset))
        store = ActivationStore(files.cache_folder() / "activations", limit=cache_limit)
        store.on_note((progress or Progress()).note)
    config: dict[str, Any] = {
        "keras_transfer": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": dataset.name,
        "data_path": _full_path(dataset.name),
        "data_digest": files.sha256("".join(sorted(dataset.digests)).encode()),
        "class_names": list(dataset.class_names),
        "backbone": row.name,
        "weights": weights,
        "weights_digest": built.weights_digest,
        "weights_licence": row.licence,
        "image_size": image_size,
        "input": "uint8 RGB, 0..255, the whole image squashed to a square, bilinear",
        "requested_schedule": planned.to_dict(),
        "effort": effort if schedule is None else "custom",
        "split": list(split) if splits_file is None else None,
        "fold": None if fold is None else list(fold),
        "per_class": per_class,
        "seed": seed,
        "engine": engine,
        "jit": jit,
        "precision": precision,
        "devices": devices,
        "time_budget": time_budget,
        "target_precision": target_precision,
        "calibration": calibration,
    }
    state = None
    if output is not None:
        state = runs.begin(output, config, resume=resume, overwrite=overwrite)
        if tensorboard:
            progress = EventLog(Path(output) / "tensorboard", progress or Progress())
    steps = Steps()
    how: dict[str, Any] = {
        "seed": seed, "store": store if cache else None, "engine": engine, "jit": jit,
        "precision": precision, "devices": devices, "steps": steps,
    }  # fmt: skip
    with store:
        decided = state is not None and (state / "schedule.json").exists()
        if planned.fine_tune and planned.fine_tune.unfreeze == depth.AUTO and not decided:
            begun = time.monotonic()
            with clock.stage("race"):
                planned, config["race"] = depth.decide(
                    dataset, built, planned, fit=fit, progress=progress or Progress(), **how
                )
            if time_budget is not None:
                time_budget = max(0.0, time_budget - (time.monotonic() - begun))
        result = run_schedule(
            dataset,
            built,
            planned,
            **how,
            progress=progress,
            state=state,
            time_budget=time_budget,
            target_precision=target_precision,
            calibration=calibration,
            clock=clock,
        )
    if output is not None:
        run = runs.finish(output, result, config)
        report.write_report(run, dataset=dataset, model=result.model)
    return result


def export_run(
    run: runs.Run | str | os.PathLike[str],
    formats: str | Sequence[str] = ("saved_model", "tflite"),
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    allow_failing: bool = False,
) -> exporting.ExportResult:
    """Exports a finished run and proves every artefact on its own runtime.

    Args:
        run: a run, or its folder.
        formats: names of formats, see ``export.formats``.
        output: the export folder; ``saved_models/NAME`` by default.
        overwrite: replace an export that is there.
        allow_failing: leave failing artefacts in place instead of moving them to ``rejected/``.

    Returns:
        The export's folder, and what is in its ``parity.json``.

    Raises:
        UsageError: an unfinished run, an unknown format, or a folder that exists.
    """
    opened = run if isinstance(run, runs.Run) else runs.open_run(run)
    return exporting.export(
        opened, formats, output, overwrite=overwrite, allow_failing=allow_failing
    )


def evaluate_run(run: runs.Run) -> evaluation.Evaluation:
    """Evaluates a run's saved model on its test split again, from the image files.

    Raises:
        DataError: the data is gone or has changed.
    """
    data = run.dataset()
    test = data.indices("test")
    probabilities = predict_probabilities(run.model(), _pixels(data)[test])
    return evaluation.evaluate(probabilities, data.labels[test], run.class_names)


def evaluate_elsewhere(run: runs.Run, data: Any) -> evaluation.Shift:
    """Evaluates a run on other data, and against its own test split.

    Args:
        run: a finished run.
        data: as for :func:`train`; all its images are used, whatever their split. Classes are
            matched by name.

    Raises:
        DataError: no class in common.
    """
    home = run.dataset()
    other = datasets.load_dataset(data, image_size=run.image_size, for_training=False)
    model = run.model()
    test = home.indices("test")
    # One engine for all three sets, so that their features are of one kind.
    pooled = keras.Model(model.input, model.get_layer(POOL).output)
    features = [
        build_engine(pooled, "keras").predict(_pixels(part)[rows])[0]
        for part, rows in (
            (home, home.indices("train")),
            (home, test),
            (other, np.arange(len(other))),
        )
    ]
    return evaluation.measure_shift(
        run.class_names,
        predict_probabilities(model, _pixels(home)[test]),
        home.labels[test],
        predict_probabilities(model, _pixels(other)),
        other.labels,
        other.class_names,
        unlike=evaluation.unlikeness(*features),
    )


def _pixels(dataset: Dataset) -> np.ndarray:
    assert dataset.examples is not None
    return dataset.examples


def change(
    schedule: Schedule,
    *,
    unfreeze: int | str | None = None,
    head_epochs: int | None = None,
    fine_tune_epochs: int | None = None,
    batch_size: int | None = None,
    head_lr: float | None = None,
    fine_tune_lr: float | None = None,
) -> Schedule:
    """A schedule with single settings changed; None leaves one as it is.

    With the epochs changes the number of views, where it was the recipe's for these epochs.
    """
    head, tuned, views = schedule.head, schedule.fine_tune, schedule.views
    if fine_tune_epochs and tuned is not None and views == views_for(tuned.epochs):
        views = views_for(fine_tune_epochs)
    if head_epochs is not None or head_lr is not None:
        head = dataclasses.replace(
            head,
            solver="adamw" if head.solver == "lbfgs" else head.solver,
            epochs=head.epochs if head_epochs is None else head_epochs,
            learning_rate=1e-3 if head_lr is None else head_lr,
        )
    if tuned is None and (unfreeze not in (None, "none", 0) or fine_tune_epochs):
        tuned = Phase("fine_tune")
    given: dict[str, Any] = {
        "unfreeze": unfreeze,
        "epochs": fine_tune_epochs,
        "batch_size": batch_size,
        "learning_rate": fine_tune_lr,
    }
    if tuned is not None:
        tuned = dataclasses.replace(tuned, **{k: v for k, v in given.items() if v is not None})
    if batch_size is not None:
        head = dataclasses.replace(head, batch_size=batch_size)
    return dataclasses.replace(schedule, head=head, fine_tune=tuned, views=views)


def default_image_size(data: Any, row: BackboneSpec) -> int:
    """The size to train at when none is asked for.

    The backbone's own, unless the images are less than half as large: then twice the median of
    their shorter sides, in whole steps of 32 pixels, and at least 96. Enlarging further costs time
    and adds no detail.
    """
    if row.fixed_size:
        return row.image_size
    sides = datasets.image_sides(data, at_most=64)
    if not sides:
        return row.image_size
    enlarged = max(_SMALLEST, -(-2 * int(statistics.median(sides)) // 32) * 32)
    return max(row.min_size, min(row.image_size, enlarged))


def _full_path(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
