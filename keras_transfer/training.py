"""One run, from top to bottom: data, frozen part, head, fine-tuning, choice, judgement.

(A module named ``train`` would hide the function of that name in the package.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_transfer import backbones, datasets, evaluation
from keras_transfer._version import __version__
from keras_transfer.backbones.copying import working_copy
from keras_transfer.backbones.graph import tensors
from keras_transfer.base import files
from keras_transfer.base.clock import Clock
from keras_transfer.base.compute import Compute, choose_compute
from keras_transfer.base.errors import DataError, UsageError, require
from keras_transfer.base.events import EventLog
from keras_transfer.base.progress import Progress, in_notebook, progress_for
from keras_transfer.base.task import Task, task_of
from keras_transfer.base.types import (
    LOGITS,
    SPLITS,
    Backbone,
    BackboneSpec,
    Dataset,
    Inputs,
    Split,
)
from keras_transfer.datasets.sources import JOINT, parts_of
from keras_transfer.frozen.engine import (
    BATCH,
    Batch,
    Engine,
    build_engine,
    computes_bfloat16,
    predict_probabilities,
    worth_converting,
)
from keras_transfer.frozen.features import Array, Continued, FrozenPart, Recomputed, Views
from keras_transfer.frozen.store import ActivationStore, StoreCounts
from keras_transfer.learn import calibration, planner, race
from keras_transfer.learn.batches import Examples
from keras_transfer.learn.finetune import Trained, fine_tune, trace_ahead
from keras_transfer.learn.heads import FEW, Head, solve_head, solve_on_all
from keras_transfer.learn.model import (
    cut_blocks,
    head_inputs,
    head_layers,
    measure_statistics,
    optional_features,
    set_batch_norm,
    set_temperature,
    standardise,
)
from keras_transfer.learn.pool import ModelPool
from keras_transfer.learn.selection import Candidate, NewHead, choose
from keras_transfer.learn.suffix import Suffix, assign, between, predict, values_of
from keras_transfer.learn.watching import Watched, check_callbacks
from keras_transfer.modalities import MODALITIES, modality
from keras_transfer.recipe import (
    EFFORTS,
    LOCAL,
    SETTINGS,
    Recipe,
    check_names,
    read,
    read_file,
    reads_arguments,
    resolve,
    spelled_out,
)
from keras_transfer.runs import folder as runs
from keras_transfer.runs import report
from keras_transfer.runs.result import Fitted, PhaseReport, TransferResult

_ANEW = "Restore the file, or begin anew with --overwrite."
DECISION = "decision.json"  # what a run that was killed goes on with
# Features of more views than fit are left to the second phase; the head sees as many as do.
_HEAD_BYTES = 2**29
# Images that stand for all where BatchNorm's statistics are measured.
_FOR_STATISTICS = 1024


@dataclasses.dataclass(eq=False)
class Shared:
    """What several runs of the same data and backbones have in common.

    Attributes:
        pool: classifiers with their compiled steps.
        store: cached activations; None computes frozen work again in every run.
        measured: rates of this machine, as an earlier run measured them.
        base: a cut below that of the second phase (empty for the pixels) whose activations are
            stored instead, the layers between being computed anew in every epoch; None for the
            second phase's own.
        state: a folder for checkpoints; a run that was killed goes on from what is there.
    """

    pool: ModelPool
    store: ActivationStore | None = None
    measured: planner.Measured | None = None
    base: tuple[str, ...] | None = None
    state: Path | None = None


@spelled_out
@reads_arguments
def train(
    data: Any,
    *,
    output: str | PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    config: str | PathLike[str] | None = None,
    recipe: Recipe | None = None,
    backbone: str | Backbone | keras.Model | None = None,
    shared: Shared | None = None,
    judge: bool = True,
    progress: Progress | bool | None = None,
    began: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **settings: Any,
) -> Fitted:
    """Trains an image classifier on a data set and, with ``output``, writes a run folder.

    Args:
        data: a folder, manifest, archive, ``tfds:NAME``, ``builtin:digits`` or arrays, see
            ``datasets.load_dataset``; or a ``Dataset`` with examples.
        output: the run folder.
        resume: go on with a killed run in ``output``.
        overwrite: replace a run in ``output``.
        tensorboard: whether event files are written to ``output/tensorboard``, an epoch at a time.
        config: a TOML file of settings, or the ``config.json`` of an earlier run.
        recipe: all settings at once, instead of ``config`` and single ones.
        backbone: a name that ``backbones`` lists, a built one, or a functional ``keras.Model`` of
            images, also as a ``.keras`` file; what is given stays as it is.
        shared: what this run has in common with others.
        judge: False leaves the test split closed, to choose between recipes.
        progress: whether, or where, to tell of the work. By default a notebook, where somebody
            waits, shows a bar, and a script is silent, whose output is for whoever wrote it.
        began: ``time.monotonic()`` at which a time budget began; this call by default.
        callbacks: Keras's, for the second phase: they are told of its beginning, its epochs and
            its end. Not those that set the rate, which the recipe does, nor what a step does.
        settings: any field of ``Recipe`` by name, such as ``effort="quick"`` or
            ``fine_tune_lr=1e-4``; what is given beats ``config``, which beats the effort.

    Returns:
        ``TransferResult``: the model and the evidence; ``Fitted`` without a judgement.

    Raises:
        UsageError: a setting cannot be used as given (``DataError`` for the data, ``WeightsError``
            for the weights).
    """
    if not isinstance(progress, Progress):
        # What has something in common with others is a part of theirs.
        wanted = shared is None and in_notebook() if progress is None else progress
        with progress_for("info" if wanted else "warning") as telling:
            return train(
                data, output=output, resume=resume, overwrite=overwrite, tensorboard=tensorboard,
                config=config, recipe=recipe, backbone=backbone, shared=shared, judge=judge,
                progress=telling, began=began, callbacks=callbacks, **settings,
            )  # fmt: skip
    clock = Clock(progress.stage)

    # What is asked for ------------------------------------------------------------------------
    given = _given(backbone, settings.get("image_size"))
    name = given.spec.name if given else backbone
    ask = functools.partial(_asked, recipe, settings | {"backbone": name}, config, given)
    recipe, asked = ask(EFFORTS)  # what is wrong with it shows before any data is read
    if output is not None:
        of = data.update_of if isinstance(data, Dataset) else ""
        runs.check_output(output, resume=resume, overwrite=overwrite, data=data, update_of=of)
    check_callbacks(callbacks)
    if output is None and tensorboard:
        problem = "Event files for TensorBoard go to the run folder, and none is named."
        raise UsageError(problem, remedy="Pass output.")
    if tensorboard:
        require(["tensorboard"], "pip install tensorboard, or leave --tensorboard out.")

    with contextlib.ExitStack() as until_the_end:
        # The backbone and the data -------------------------------------------------------------
        place = None if recipe.cache in ("on", "off") else recipe.cache
        until_the_end.enter_context(files.cache_at(place))
        if not isinstance(data, Dataset):
            # Once: it may be unpacked.
            how_read: dict[str, Any] = {"group": recipe.group, "multi_label": recipe.multi_label}
            data = datasets.open_source(data, **how_read)
        form = modality(data.modality)
        recipe, asked = ask(form.EFFORTS)
        spec = given.spec if given else backbones.spec(recipe.backbone)
        size = size_of(recipe, data, spec, given)
        fitting = recipe.fit or (data.fit if isinstance(data, Dataset) else "")
        sized: dict[str, Any] = {form.SIZE: size}
        sized["fit"] = form.spec(size).fitted(fitting).fit or None
        sized["multi_label"] = _task(data, recipe).setting
        recipe = dataclasses.replace(recipe, **sized)
        with clock.stage("build"):  # what is wrong with it shows before an hour of decoding
            keras.utils.set_random_seed(recipe.seed)  # random weights must come back with resume
            named = str(recipe.weights)
            runs.settle(Path(named))
            built = given or backbones.build(spec.name, image_size=size, weights=named)
        if recipe.unfreeze != race.AUTO:
            planner.resolve_depth(built.blocks, recipe.unfreeze)  # refuses what there is not
        with clock.stage("decode"):
            dataset = data if isinstance(data, Dataset) else load(data, recipe)
        _check(dataset, built, recipe.fit, SPLITS if judge else SPLITS[:2])
        if shared is None:  # nobody else's: this run is the whole of it
            for said in datasets.notes(dataset):
                progress.note(said)
            # A race makes several classifiers of one backbone, and a given one is somebody's.
            shared = Shared(ModelPool(copies=given is not None or recipe.unfreeze == race.AUTO))
            if recipe.cache != "off":
                folder = files.cache_folder() / "activations"
                shared.store = ActivationStore(folder, limit=recipe.cache_limit)
                shared.store.on_note(progress.detail)
                until_the_end.enter_context(shared.store)
        train_rows, validation_rows, test_rows = map(dataset.indices, SPLITS)
        labels, validation_labels = dataset.labels[train_rows], dataset.labels[validation_rows]
        classes, task = len(dataset.class_names), task_of(dataset.labels)

        # The run folder and, where the depth is left to us, the race ---------------------------
        about = _about(dataset, built, recipe, asked)
        state = shared.state
        if output is not None:
            guarded = runs.begin(output, about, resume=resume, overwrite=overwrite)
            state = until_the_end.enter_context(guarded)
            if not built.spec.constructor:  # no name by which another process could build it
                runs.keep_backbone(output, built.model)
            if tensorboard:
                progress = EventLog(runs.events_folder(output), progress)
        budget = math.inf if recipe.time_budget is None else recipe.time_budget
        deadline = (clock.start if began is None else began) + budget
        decided = _decided(state)  # by a run that was killed, which goes on above the cut it stored
        base = shared.base if not decided or decided.get("base") is None else tuple(decided["base"])
        if decided is not None:
            recipe, about = Recipe(**decided["recipe"]), about | decided["about"]
        elif recipe.unfreeze == race.AUTO:
            with clock.stage("race"):
                fit = _racer(built, shared)
                winner, about["race"] = race.decide(dataset, recipe, fit, progress, deadline)
            recipe = dataclasses.replace(recipe, unfreeze=winner)

        # The classifier: a copy of the backbone with a new head --------------------------------
        random = built.weights == "none"
        model = shared.pool.classifier(built, classes, recipe.levels, recipe.seed, task)
        set_batch_norm(model, trains=False)
        blocks = cut_blocks(built.blocks, recipe.levels)
        logits_layer = model.get_layer(LOGITS)
        untrained_head = values_of(logits_layer.variables)
        compute = choose_compute(
            recipe.jit, recipe.precision, recipe.devices, multiplies_bfloat16=computes_bfloat16()
        )

        # The plan: what is cached, and what fits the time --------------------------------------
        assert dataset.examples is not None
        sample, engine = dataset.examples[train_rows[:BATCH]], recipe.engine

        def frozen_below(cut: tuple[str, ...], views: int) -> FrozenPart:
            to_run = len(train_rows) * views + len(validation_rows) + len(test_rows)
            return FrozenPart(
                model, built, cut, engine=engine, examples_count=to_run, sample=sample,
                compute=compute,
            )  # fmt: skip

        depth, views_asked = planner.resolve_depth(blocks, recipe.unfreeze), recipe.views
        frozen = frozen_below(base or planner.cut_below(blocks, depth), views_asked)
        measured = shared.measured or _measure(frozen, built, recipe, compute)
        plan_for = functools.partial(
            planner.make_plan, blocks,
            cache_bytes=shared.store.allowed_bytes() if shared.store else None,
            train=len(train_rows), validation=len(validation_rows), test=len(test_rows),
        )  # fmt: skip
        left = math.inf if decided else deadline - time.monotonic()
        epochs_asked = recipe.fine_tune_epochs
        plan, recipe = plan_for(recipe, measured, time_left=left)
        planned = plan
        _decide(state, recipe, about, base)
        # What lies at a base was stored to be read, whatever the plan says.
        store = shared.store if plan.cached or base is not None else None
        stored_cut = plan.cut if plan.unfreeze else ()
        stored_cut = base if stored_cut and base is not None else stored_cut
        if (stored_cut, recipe.views) != (frozen.cut, views_asked):
            frozen = frozen_below(stored_cut, recipe.views)
        for note in (str(plan), *compute.notes()):
            progress.detail(note)

        # The frozen part, once: features for the head, inputs for the second phase -------------
        with clock.stage("extract"):
            mirrored, why = mirrors(recipe, dataset)
            if why:
                progress.detail(why)
            views = Views(dataset, seed=recipe.view_seed, strength=recipe.strength, flip=mirrored)
            held = store is not None and frozen.held(views, train_rows, recipe.views, store)
            stages = {**plan.stage_seconds, "extract": 0.0} if held else plan.stage_seconds
            units = {"extract": plan.rows, "fine_tune": plan.epochs}
            progress.expect(clock.paced(stages), units)
            how: dict[str, Any] = {"store": store, "progress": progress}
            validation_features, validation_inputs = frozen.inputs(views, validation_rows, 0, **how)
            features, inputs = list[np.ndarray](), list[Inputs]()
            begun, known = time.monotonic(), store.counts.misses if store else 0
            for number in range(recipe.views):
                then = time.monotonic() + (time.monotonic() - begun) / max(1, number)
                if number and left < math.inf and then > deadline - plan.reserve_seconds:
                    break  # those that there are must do
                if number and random and plan.unfreeze and not stored_cut:
                    # All layers will train, on pixels: their features of today are worth nothing,
                    # but for those of one view, from which the head starts.
                    inputs.append(Recomputed(views, train_rows, number))
                    continue
                # Training images may come from bfloat16, what is judged by may not.
                found, at_cut = frozen.inputs(views, train_rows, number, exact=False, **how)
                features.append(found)
                inputs.append(at_cut)
            fresh = store.counts.misses - known if store else len(features) * len(train_rows)
            rate = (time.monotonic() - begun) / fresh if fresh else measured.extract

        # The rest of the plan again, by the seconds that are left of a budget ------------------
        if left < math.inf:
            plan, recipe = plan_for(
                dataclasses.replace(recipe, fine_tune_epochs=epochs_asked, views=len(inputs)),
                dataclasses.replace(measured, extract=rate),
                time_left=deadline - time.monotonic(), extracted=planned,
            )  # fmt: skip
            progress.detail(f"The frozen part is done. {plan}")
            stages = {**plan.stage_seconds, "extract": 0.0}
            progress.expect(clock.paced(stages), units)
            _decide(state, recipe, about, stored_cut if store else base)
            features, inputs = features[: recipe.views], inputs[: recipe.views]
        between = None
        if plan.unfreeze and plan.cut != stored_cut:
            between = _between(model, stored_cut, plan.cut)
            inputs = [Continued(one, between) for one in inputs]
            validation_inputs = Continued(validation_inputs, between)

        # The head, solved (or trained by gradient) ---------------------------------------------
        balance, validation_weights = recipe.class_weights == "balanced", None
        if balance:
            validation_weights = task.weights(validation_labels, classes, balance)
        examples = Examples(
            inputs, task.targets(labels, classes, recipe.label_smoothing),
            task.weights(labels, classes, balance),
            validation_inputs, validation_labels, validation_weights,
        )  # fmt: skip
        of_training: dict[str, Any] = {
            "depths": backbones.rate_groups(built.blocks), "compute": compute,
            "progress": progress, "deadline": deadline - plan.reserve_seconds,
        }  # fmt: skip
        few = task.counts(labels, classes).sum() <= FEW * classes
        # Here already: its step is traced while the head is solved.
        tunes = plan.unfreeze and recipe.fine_tune_epochs
        suffix = _suffix(shared.pool, model, plan.cut, recipe) if tunes else None
        trained = list[Trained]()
        details: dict[str, Any]
        with clock.stage("head"):
            begun = time.monotonic()
            standardise(model, features[0], few)
            seen_views = features[: max(1, _HEAD_BYTES // max(1, features[0].nbytes))]
            head_file = state / "head.npz" if state else None
            if recipe.head_is_solved and head_file and head_file.exists():
                epochs, seen, details = _read_head(head_file, model)
            elif recipe.head_is_solved:
                solve = _solver(model, labels, examples, seen_views, validation_features, few)
                with ThreadPoolExecutor(1) as aside:
                    # The solver and the tracing of a step hold one core each.
                    solving = aside.submit(solve)
                    if suffix and not random and compute.is_plain:
                        suffix.rounded = compute.rounded
                        trace_ahead(suffix, recipe, examples, of_training["depths"])
                    head = solving.result()
                logits_layer.set_weights([head.kernel, head.bias])
                progress.detail(f"Head: penalty {head.penalty:.2g}, {len(head.path)} tried.")
                for row in head.rows():
                    progress.row(row)
                epochs, details = head.iterations, head.details()
                seen = epochs * len(labels) * len(seen_views)
                if head_file:
                    _write_head(head_file, model, (epochs, seen, details))
            else:
                top = shared.pool.head(model, recipe.for_head())
                done = fine_tune(
                    _working(top, compute), recipe.for_head(),
                    dataclasses.replace(
                        examples, views=[Array(one) for one in features],
                        targets=task.targets(labels, classes),
                        validation=Array(validation_features),
                    ),
                    name="head", checkpoint=state / "head-phase.npz" if state else None,
                    **of_training,
                )  # fmt: skip
                if done.best is not None:
                    assign(top.learned, done.best)
                trained.append(done)
                epochs, seen = done.epoch, done.epoch * len(labels)
                details = {"best_epoch": done.best_epoch}
            seconds = time.monotonic() - begun
            speed = seen / max(seconds, 1e-9)
            phases = [PhaseReport("head", epochs, seconds, speed, True, details)]
            whole = None
            if recipe.head_is_solved and not random:
                whole = _on_all(model, dataset, recipe, examples, seen_views, validation_features)
            if whole is not None:
                details["few"] = whole.why
                progress.detail(whole.why)
            del features, seen_views
        late = time.monotonic() + plan.epoch_seconds > deadline - plan.reserve_seconds
        if suffix and late and decided is None:
            progress.note("Out of time before the second phase: the head alone.")
            suffix = None

        # The top blocks, and the choice between what they came to ------------------------------
        with clock.stage("fine_tune"):
            begun = time.monotonic()
            if suffix is None:  # no ends to choose among: the head alone is judged
                top_engine = build_engine(shared.pool.head(model, recipe), "keras")
                validation_logits = predict(top_engine, Array(validation_features))[0]
                if whole is not None:
                    logits_layer.set_weights([whole.head.kernel, whole.head.bias])
                    validation_logits = whole.logits
                _, candidates, _ = choose(
                    [], {}, lambda weights: validation_logits, validation_labels,
                    image_weights=validation_weights,
                    head=([], whole.logits, whole.temperature) if whole else None,
                )  # fmt: skip
            else:
                start = values_of(suffix.learned)
                if random:
                    # A head solved on random features misleads the layers that begin to learn.
                    assign(logits_layer.variables, untrained_head)
                    if recipe.batch_norm == "train":
                        measure_statistics(suffix, _some(inputs[0], recipe, recipe.batch_size))
                working = _working(suffix, compute)
                of_training["progress"] = Watched(callbacks, working, progress)
                done = fine_tune(
                    working, recipe, examples,
                    checkpoint=state / "fine-tune.npz" if state else None, **of_training,
                )  # fmt: skip
                trained.append(done)
                seconds = time.monotonic() - begun
                progress.stage("choose")
                # The weights are in what came back; the suffix is in float32 on one device.
                top_engine = build_engine(suffix, "keras")
                chosen, candidates, validation_logits = _choose(
                    model, suffix, top_engine, start, done, examples, labels, recipe, few, whole
                )
                assign(suffix.learned, chosen)
                details = {
                    "unfrozen": list(plan.blocks), "best_epoch": done.best_epoch,
                    "kept": candidates[0].name,
                    "candidates": [dataclasses.asdict(one) for one in candidates],
                }  # fmt: skip
                cached, seen = plan.cached and bool(stored_cut), done.epoch * len(labels)
                phases.append(PhaseReport(
                    "fine_tune", done.epoch, seconds, seen / max(seconds, 1e-9), cached, details
                ))  # fmt: skip
                progress.detail(_verdict(candidates))
        temperature = candidates[0].temperature if recipe.calibration != "none" else 1.0
        set_temperature(model, temperature)
        computed = compute.to_json()
        computed["jit"]["compilations"] = sum(one.compilations for one in trained)
        computed["jit"]["seconds"] = round(sum(one.compile_seconds for one in trained), 3)
        fitted = Fitted(
            model=model, dataset=dataset, recipe=recipe, plan=plan, measured=measured,
            history=tuple(row for one in trained for row in one.history), phases=tuple(phases),
            candidates=candidates, temperature=temperature, validation_logits=validation_logits,
            seconds=clock.report(), compute=computed,
            cache=dataclasses.replace(store.counts) if store else StoreCounts(),
        )  # fmt: skip
        if not judge:
            return fitted
        thresholds = fitted.thresholds

        # The judgement: the test split, opened once --------------------------------------------
        with clock.stage("evaluate"):
            test_examples, test_labels = dataset.examples[test_rows], dataset.labels[test_rows]
            apart = frozen.engine.name == "openvino" and between is None
            if apart and (frozen.cut or suffix is None):
                # What never trained runs on the engine that it ran on.
                *below, pooled = frozen.engine.predict(test_examples)
                logits = predict(top_engine, Array(*(below if suffix else [pooled])))[0]
                probabilities = task.probabilities(logits / temperature).astype(np.float32)
            else:
                probabilities = predict_probabilities(model, test_examples)
            sure = calibration.precision_threshold(
                task.probabilities(validation_logits / temperature), validation_labels,
                recipe.target_precision, thresholds,
            )  # fmt: skip
            judged = evaluation.evaluate(
                probabilities, test_labels, dataset.class_names, thresholds=thresholds
            )
            threshold = calibration.apply_threshold(
                probabilities, test_labels, sure.threshold, recipe.target_precision,
                sure.validation_images, thresholds,
            )  # fmt: skip
        result = TransferResult(
            **(vars(fitted) | {"seconds": clock.report()}),
            test_probabilities=probabilities, evaluation=judged, threshold=threshold, about=about,
            path=None if output is None else Path(output),
        )  # fmt: skip
        if output is not None:
            with clock.stage("report"):
                run = runs.finish(output, result)
                report.write_report(run)
            if recipe.cache != "off":
                clock.learn(stages)
        if budget < math.inf:
            taken = round(time.monotonic() - deadline + budget, 2)
            verdict = "kept" if taken <= budget else "overrun"
            progress.note(f"Time budget {verdict}: {taken:.1f} of {budget:g} s.")
            told = {"seconds": budget, "taken": taken, "planned": dataclasses.asdict(planned)}
            if output is not None:
                runs.add_to_metrics(run, {"budget": told})
        return result


def _given(backbone: Any, image_size: Any) -> Backbone | None:
    """The backbone where it is no name; a model, or the file of one, becomes one."""
    if backbone is None or isinstance(backbone, Backbone):
        return backbone
    if isinstance(backbone, keras.Model) or str(backbone).endswith(".keras"):
        size = None if image_size is None else read("image_size", image_size)
        named = backbone if isinstance(backbone, keras.Model) else str(backbone)
        return backbones.build(named, image_size=size)
    read("backbone", backbone)
    return None


def _asked(
    recipe: Recipe | None,
    settings: dict[str, Any],
    config: str | PathLike[str] | None,
    given: Backbone | None,
    efforts: Mapping[str, Mapping[str, Any]],
) -> tuple[Recipe, list[str]]:
    """The recipe, its weights named, and the names of the settings that were asked for."""
    typed = {name: value for name, value in settings.items() if value is not None}
    check_names(typed, "the call")
    if recipe is not None:
        if not isinstance(recipe, Recipe):
            problem = f"recipe is a {type(recipe).__name__}."
            raise UsageError(problem, remedy="Give a Recipe, or single settings.")
        if config is not None or set(typed) - {"backbone"}:
            raise UsageError(
                "A recipe was given, and settings beside it.", remedy="Put them into the recipe."
            )
        recipe = dataclasses.replace(recipe, **typed)
        weights = recipe.weights or _first_weights(recipe.backbone, given)
        usual = {"auto": "train" if weights == "none" else "frozen"}
        batch_norm = usual.get(recipe.batch_norm, recipe.batch_norm)
        asked = recipe.to_dict()
        names = [n for n, value in asked.items() if value not in (None, SETTINGS[n].default)]
        return dataclasses.replace(recipe, weights=weights, batch_norm=batch_norm), names
    file = read_file(config, typed) if config is not None else {}
    asked = {**file, **typed}
    if "weights" not in asked:
        effort = efforts[read("effort", asked.get("effort", "default"))]
        named = {"backbone": SETTINGS["backbone"].default, **effort, **asked}["backbone"]
        typed["weights"] = _first_weights(named, given)
    return resolve(typed, file, efforts), [name for name in asked if name not in LOCAL]


def _first_weights(backbone: str, given: Backbone | None) -> str:
    return given.weights if given else backbones.spec(backbone).weights[0]


def size_of(recipe: Recipe, data: Any, spec: BackboneSpec, given: Backbone | None = None) -> Any:
    """The size to train at: what is asked for, else that of a data set or backbone that is given,
    else what suits the data.

    Args:
        recipe: what is asked for.
        data: a source, or a data set.
        spec: the backbone's row.
        given: the backbone, where it is built.

    Raises:
        UsageError: the backbone is for other data, or the size of something else is asked for.
    """
    form = modality(data.modality)
    if spec.modality != form.NAME:
        takes = modality(spec.modality).NOUN
        problem = f"{spec.name} takes {takes}s, and {data.name} holds {form.NOUN}s."
        raise UsageError(problem, remedy="List the backbones with: keras-transfer backbones")
    for other in MODALITIES.values():
        if other.SIZE != form.SIZE and getattr(recipe, other.SIZE) is not None:
            problem = f"{other.SIZE} was given, and {data.name} holds {form.NOUN}s."
            raise UsageError(problem, remedy=f"Give {form.SIZE}, or leave it out.")
    asked = getattr(recipe, form.SIZE)
    if asked is not None:
        return asked
    if given is not None:
        return form.size_of(given.model.input_shape[1:])
    if isinstance(data, Dataset):
        return spec.size if data.examples is None else form.size_of(data.examples.shape[1:])
    sizes = datasets.natural_sizes(data, at_most=64)
    return max(spec.min_size, form.suited(sizes, spec.size)) if sizes else spec.size


def load(source: Any, recipe: Recipe) -> Dataset:
    """The data set of a recipe, at its size and in its splits."""
    how_read: dict[str, Any] = {"group": recipe.group, "multi_label": recipe.multi_label}
    source = datasets.open_source(source, **how_read)
    return datasets.load_dataset(
        source, image_size=getattr(recipe, modality(source.modality).SIZE), split=recipe.split,
        splits_file=recipe.splits, fold=recipe.fold, per_class=recipe.per_class,
        seed=recipe.drawn_by, cache=recipe.cache != "off", fit=recipe.fit,
        multi_label=source.task.setting,
    )  # fmt: skip


def _task(data: Any, recipe: Recipe) -> Task:
    """What the labels of a source or of a data set are."""
    task = task_of(data.labels) if isinstance(data, Dataset) else data.task
    if isinstance(data, Dataset) and recipe.multi_label not in ("auto", task.setting):
        problem = f"multi_label is {recipe.multi_label!r}, and the data set was opened otherwise."
        raise UsageError(problem, remedy="Open it with load_dataset(..., multi_label=...).")
    return task


def _check(dataset: Dataset, backbone: Backbone, fit: str | None, needed: Sequence[Split]) -> None:
    """Refuses a data set that the backbone cannot take, that was fitted otherwise, or of which a
    needed split is empty.
    """
    what, shape = modality(dataset.modality).NOUN, tuple(backbone.model.input_shape[1:])
    if dataset.examples is None or tuple(dataset.examples.shape[1:]) != shape:
        had = "none" if dataset.examples is None else f"some of shape {dataset.examples.shape[1:]}"
        problem = f"The backbone takes {what}s of shape {shape}; the data set has {had}."
        raise UsageError(problem, remedy=f"Open it with load_dataset(..., image_size={shape[0]}).")
    if dataset.fit not in ("", fit):
        problem = f"fit is {fit!r}, and the data set was opened with {dataset.fit!r}."
        raise UsageError(problem, remedy=f"Open it with load_dataset(..., fit={fit!r}).")
    for name in needed:
        if not (dataset.splits == name).any():
            problem = f"{dataset.name}: the {name} split holds no {what}s."
            raise DataError(problem, remedy=f"Add {what}s, or give other shares with --split.")


def _about(
    dataset: Dataset, backbone: Backbone, recipe: Recipe, asked: Sequence[str]
) -> dict[str, Any]:
    """What ``config.json`` holds before a run begins."""
    parts = [(part, Path(part).expanduser()) for part in parts_of(dataset.name)]
    places = (str(path.resolve()) if path.exists() else part for part, path in parts)
    return {
        "keras_transfer": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": dataset.name,
        "data_path": JOINT.join(places),
        "data_digest": files.sha256("".join(sorted(dataset.digests)).encode()),
        "class_names": list(dataset.class_names),
        "weights_digest": backbone.weights_digest,
        "weights_licence": backbone.spec.licence,
        "modality": dataset.modality,
        "input": modality(dataset.modality).INPUT,
        "asked": list(asked),
        **({"update_of": dataset.update_of} if dataset.update_of else {}),
        **recipe.to_dict(),
    }


def _decided(state: Path | None) -> dict[str, Any] | None:
    """What a killed run had decided: its plan must not be made twice, nor its race be run again."""
    path = state / DECISION if state else None
    return files.read_json(path, remedy=_ANEW) if path and path.exists() else None


def _decide(
    state: Path | None, recipe: Recipe, about: dict[str, Any], base: tuple[str, ...] | None
) -> None:
    if state is not None:
        raced = {"race": about["race"]} if "race" in about else {}
        decision = {"recipe": dataclasses.asdict(recipe), "about": raced, "base": base}
        files.write_json(state / DECISION, files.sealed(decision))


def _racer(backbone: Backbone, shared: Shared) -> Callable[[Dataset, Recipe], Fitted]:
    """Trains for the race: on the pool and the store of the run, from its own start."""
    of_race = Shared(shared.pool, shared.store)

    def fit(dataset: Dataset, recipe: Recipe) -> Fitted:
        done: Fitted = train(dataset, recipe=recipe, backbone=backbone, shared=of_race, judge=False)
        of_race.measured = done.measured
        return done

    return fit


def _measure(
    frozen: FrozenPart, backbone: Backbone, recipe: Recipe, compute: Compute
) -> planner.Measured:
    """Seconds an image where it would train, and on the engine of the frozen part."""
    forward = frozen.native_rate()
    name, reason = recipe.engine, "asked for"
    if name == "auto" and (compute.share > 1 or compute.dtype_policy != "float32"):
        name, reason = "keras", "it alone shares a batch and computes in that type"
    if name == "auto":
        converted = worth_converting(frozen.images, sum(block.macs for block in backbone.blocks))
        name = "openvino" if converted else "keras"
        reason = "enough work to pay for a conversion" if converted else "little work"
    return planner.Measured(
        forward=forward, extract=forward if name == "keras" else forward / 2,
        pixels=int(np.prod(backbone.model.input_shape[1:3])), features=frozen.features,
        engine=name, reason=reason, step=2.0 if compute.rounded else 3.0,
    )  # fmt: skip


def _between(model: keras.Model, base: tuple[str, ...], cut: tuple[str, ...]) -> Engine:
    """Runs the layers from a lower cut, or from the pixels, to an upper one."""
    if not base:
        return build_engine(keras.Model(model.input, tensors(model, cut)), "keras")
    new = [name for name in cut if name not in base]
    engine = build_engine(backbones.split(model, base, outputs=new)[1], "keras")

    def run(batch: Batch) -> list[np.ndarray]:
        # What is alive at both cuts passes by.
        held = dict(zip(base, batch if isinstance(batch, list) else [batch], strict=True))
        held |= zip(new, engine.run(batch), strict=True)
        return [held[name] for name in cut]

    return dataclasses.replace(engine, run=run)


def mirrors(recipe: Recipe, dataset: Dataset) -> tuple[bool, str]:
    """Whether augmentation mirrors, and why where the data decides."""
    if recipe.flip != "auto":
        return recipe.flip == "on", ""
    if recipe.views == 1 or not recipe.strength:
        return False, ""
    assert dataset.examples is not None
    kinds = task_of(dataset.labels).kinds(dataset.labels)
    return modality(dataset.modality).mirroring_is_safe(
        dataset.examples, kinds, dataset.indices("train"), dataset.indices("val")
    )


def _solver(
    model: keras.Model,
    labels: np.ndarray,
    examples: Examples,
    views: Sequence[np.ndarray],
    validation: np.ndarray,
    few: bool,
) -> Callable[[], Head]:
    """Solves the head of a classifier on the pooled features of some views, without the model.

    With and without the features that a head may do better without, as validation decides. The
    model is asked for what its head sees before another thread solves: a step may give its
    variables away meanwhile.
    """
    seen = head_inputs(model, np.concatenate(views) if len(views) > 1 else views[0])
    judged, classes = head_inputs(model, validation), int(model.output_shape[-1])
    ways = _ways(model)

    def without(first: int) -> Head:
        solved = solve_head(
            seen[:, first:], np.concatenate([labels] * len(views)), classes,
            judged[:, first:], examples.validation_labels,
            sample_weights=np.concatenate([examples.weights] * len(views)),
            validation_weights=examples.validation_weights, few=few,
        )  # fmt: skip
        return _for_all_features(solved, first)

    return lambda: min(map(without, ways), key=lambda head: head.validation_nll)


def _ways(model: keras.Model) -> list[int]:
    """How many of the first features heads are solved without, the best of which is kept."""
    return sorted({0, optional_features(model)})


def _for_all_features(head: Head, first: int) -> Head:
    """A head that was solved without the first features, as one that sees them."""
    return dataclasses.replace(head, kernel=np.pad(head.kernel, ((first, 0), (0, 0))))


class _OnAll(NamedTuple):
    """A head of few labels solved on all of them.

    Attributes:
        head: the head.
        logits: of the validation examples, by heads that had not seen them.
        temperature: fitted to such logits of all labelled examples.
        why: what was done and why, for people.
    """

    head: Head
    logits: np.ndarray
    temperature: float
    why: str


def _on_all(
    model: keras.Model,
    dataset: Dataset,
    recipe: Recipe,
    examples: Examples,
    views: Sequence[np.ndarray],
    validation: np.ndarray,
) -> _OnAll | None:
    """The head on training and validation examples; None where these are not few.

    Who asks for few training examples a class wants the others left out.
    """
    rows = np.concatenate([dataset.indices("train"), dataset.indices("val")])
    labels, classes = dataset.labels[rows], len(dataset.class_names)
    groups = [(dataset.groups or dataset.digests)[row] for row in rows]
    task = task_of(labels)
    found = task.counts(labels, classes).sum()
    are_few = classes < found <= FEW * classes and len(set(groups)) > 1
    if recipe.per_class is not None or not are_few:
        return None
    weights = task.weights(labels, classes)
    if examples.validation_weights is not None:
        weights = np.concatenate([examples.weights, examples.validation_weights])
    clean, *others = (head_inputs(model, one) for one in views)
    clean = np.concatenate([clean, head_inputs(model, validation)])

    def without(first: int) -> tuple[Head, np.ndarray]:
        fewer = [view[:, first:] for view in others]
        head, logits = solve_on_all(clean[:, first:], fewer, labels, weights, groups, classes)
        return _for_all_features(head, first), logits

    head, logits = min(map(without, _ways(model)), key=lambda solved: solved[0].validation_nll)
    why = (
        f"Few labels: the head alone is solved on all {len(rows)} of them, validation included, "
        f"with penalty {head.penalty:.2g}, the best in cross-validation (NLL "
        f"{head.validation_nll:.3f}). It is judged by answers to what had been left out."
    )
    temperature = calibration.fit_temperature(logits, labels, weights)
    return _OnAll(head, logits[-len(validation) :], temperature, why)


def _suffix(pool: ModelPool, model: keras.Model, cut: tuple[str, ...], recipe: Recipe) -> Suffix:
    """The part that the second phase trains, in the mode in which it trains."""
    suffix = pool.suffix(model, cut, recipe)
    suffix.inference_mode = recipe.batch_norm != "train"
    if recipe.batch_norm == "train":
        set_batch_norm(suffix, trains=True)
    return suffix


def _working(suffix: Suffix, compute: Compute) -> Suffix:
    """The suffix as it computes: itself, or a copy in another type, or that is shared."""
    working = working_copy(suffix, compute)
    working.inference_mode, working.rounded = suffix.inference_mode, compute.rounded
    return working


def _choose(
    model: keras.Model,
    suffix: Suffix,
    engine: Engine,
    start: list[np.ndarray],
    done: Trained,
    examples: Examples,
    labels: np.ndarray,
    recipe: Recipe,
    few: bool,
    whole: _OnAll | None,
) -> tuple[list[np.ndarray], tuple[Candidate, ...], np.ndarray]:
    """Judges what the second phase came to, a head solved again on its features included."""
    place_in_head = {id(v): number for number, v in enumerate(model.get_layer(LOGITS).variables)}

    def logits_of(values: Sequence[np.ndarray]) -> np.ndarray:
        assign(suffix.learned, values)
        return predict(engine, examples.validation)[0]

    def settled(values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Means of weights with statistics of their own, where BatchNorm has any to learn."""
        if recipe.batch_norm == "train":
            assign(suffix.learned, values)
            measure_statistics(suffix, _some(examples.views[0], recipe, _FOR_STATISTICS))
            values = values_of(suffix.learned)
        return list(values)

    def with_head(values: Sequence[np.ndarray], solved: Head) -> list[np.ndarray]:
        new = solved.kernel, solved.bias
        return [
            new[place_in_head[id(variable)]] if id(variable) in place_in_head else value
            for variable, value in zip(suffix.learned, values, strict=True)
        ]

    ends = done.ends()
    if "average" in ends:
        ends["average"] = settled(ends["average"])
    with ThreadPoolExecutor(1) as aside:

        def new_head(values: Sequence[np.ndarray]) -> Callable[[], NewHead]:
            assign(suffix.learned, values)
            views = planner.new_head_views(len(labels), len(examples.views))
            features = [predict(engine, inputs)[1] for inputs in examples.views[:views]]
            validation = predict(engine, examples.validation)[1]
            solve = _solver(model, labels, examples, features, validation, few)
            seen, solving = head_inputs(model, validation), aside.submit(solve)

            def wait() -> NewHead:
                solved = solving.result()
                return with_head(values, solved), solved.logits(seen)

            return wait

        return choose(
            start, ends, logits_of, examples.validation_labels,
            new_head if recipe.head_is_solved else None, examples.validation_weights,
            mix=lambda first, second, share: settled(between(first, second, share)),
            head=(with_head(start, whole.head), whole.logits, whole.temperature) if whole else None,
        )  # fmt: skip


def _some(inputs: Inputs, recipe: Recipe, number: int) -> Iterator[Batch]:
    """Batches of so many images, or of all where there are fewer, drawn without return."""
    drawn = np.random.default_rng(recipe.seed).permutation(len(inputs))[:number]
    for start in range(0, len(drawn), recipe.batch_size):
        batch = inputs.gather(drawn[start : start + recipe.batch_size])
        yield batch if len(batch) > 1 else batch[0]


def _read_head(path: Path, model: keras.Model) -> tuple[int, int, dict[str, Any]]:
    """Gives the model the head of a killed run; returns what there was to report of it."""
    with files.reading(path, _ANEW), np.load(path) as arrays:
        values = sorted(name for name in arrays.files if name != "report")
        assign(_head_variables(model), [arrays[name] for name in values])
        epochs, seen, details = json.loads(str(arrays["report"]))
    return epochs, seen, details


def _write_head(path: Path, model: keras.Model, report: tuple[int, int, dict[str, Any]]) -> None:
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        values = values_of(_head_variables(model))
        named: dict[str, Any] = {f"value-{i:03d}": value for i, value in enumerate(values)}
        np.savez(stream, report=json.dumps(files.plain(report)), **named)


def _head_variables(model: keras.Model) -> list[Any]:
    return [variable for layer in head_layers(model) for variable in layer.variables]


def _verdict(candidates: tuple[Candidate, ...]) -> str:
    kept = candidates[0]
    head = next(candidate for candidate in candidates if candidate.name == "head")
    if kept is head and any(candidate.nll < head.nll for candidate in candidates):
        return "Kept the head alone: on so few labels fine-tuning is not surely better."
    if kept is head:
        return "Kept the head alone: fine-tuning did not help on validation."
    return (
        f"Kept {kept.name}: validation NLL {kept.nll:.3f} and accuracy {kept.accuracy:.3f}, "
        f"the head alone {head.nll:.3f} and {head.accuracy:.3f}."
    )
