"""One run, from top to bottom: data, frozen part, head, fine-tuning, choice, judgement.

(A module named ``train`` would hide the function of that name in the package.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer import backbones, datasets, evaluation, preparation
from keras_transfer.base import files
from keras_transfer.base.clock import Clock
from keras_transfer.base.compute import Compute, choose_compute
from keras_transfer.base.distribution import meet
from keras_transfer.base.errors import UsageError, require
from keras_transfer.base.events import EventLog
from keras_transfer.base.hosts import hosts_of
from keras_transfer.base.progress import Progress, telling
from keras_transfer.base.task import task_of
from keras_transfer.base.types import LOGITS, SPLITS, Backbone, Dataset
from keras_transfer.datasets.sources import Data
from keras_transfer.frozen.engine import (
    BATCH,
    Engine,
    build_engine,
    computes_bfloat16,
)
from keras_transfer.frozen.extraction import Extracted, extract, layers_between
from keras_transfer.frozen.features import Array, FrozenPart, Views
from keras_transfer.frozen.machines import Machines, join
from keras_transfer.frozen.store import ActivationStore, StoreCounts
from keras_transfer.learn import calibration, head_phase, planner, second_phase
from keras_transfer.learn.batches import Examples
from keras_transfer.learn.finetune import Trained, trace_ahead
from keras_transfer.learn.heads import FEW
from keras_transfer.learn.model import cut_blocks, set_batch_norm, set_temperature, standardise
from keras_transfer.learn.pool import ModelPool
from keras_transfer.learn.second_phase import Outcome
from keras_transfer.learn.suffix import predict, values_of
from keras_transfer.learn.watching import check_callbacks
from keras_transfer.modalities import modality
from keras_transfer.recipe import EFFORTS, Recipe, reads_arguments, spelled_out
from keras_transfer.runs import folder as runs
from keras_transfer.runs import report
from keras_transfer.runs.result import Fitted, TransferResult, config_before

_AT_ONCE = 16 * BATCH  # test examples whose activations are held
DECISION = "decision.json"  # what a run that was killed goes on with


@dataclasses.dataclass(eq=False)
class Shared:
    """What several runs of the same data and backbones have in common.

    Attributes:
        pool: classifiers with their compiled steps.
        store: cached activations; None computes frozen work again in every run.
        measured: rates of this machine, as an earlier run measured them.
        base: the cut at which activations are stored, where that is not the second phase's own but
            one below (empty: at the examples): then every epoch computes the layers between anew.
        state: a folder for checkpoints; a run that was killed goes on from what is there.
        machines: others that run the frozen part; None for this one.
    """

    pool: ModelPool
    store: ActivationStore | None = None
    measured: planner.Measured | None = None
    base: tuple[str, ...] | None = None
    state: Path | None = None
    machines: Machines | None = None


@spelled_out
@reads_arguments
def train(
    data: Data,
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
    """Trains a classifier on a data set and, with ``output``, writes a run folder.

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
            images, token ids or samples, also as a ``.keras`` file; what is given stays as it is.
        shared: classifiers, activations and the like that other runs use as well, where this one is
            a part of a search, say.
        judge: False leaves the test split closed, to choose between recipes.
        progress: whether, or where, to tell of the work. By default a notebook, where somebody
            waits, shows a bar, and a script is silent, whose output is for whoever wrote it.
        began: ``time.monotonic()`` at which a time budget began; this call by default.
        callbacks: Keras's, for the second phase: they are told of its beginning, its epochs and
            its end, and not of steps. Those that set the rate, which the recipe does, are refused.
        settings: any field of ``Recipe`` by name, such as ``effort="quick"`` or
            ``fine_tune_lr=1e-4``; what is given beats ``config``, which beats the effort.

    Returns:
        ``TransferResult``: the model and the evidence; ``Fitted`` without a judgement.

    Raises:
        UsageError: a setting cannot be used as given (``DataError`` for the data, ``WeightsError``
            for the weights).
    """
    is_part = shared is not None  # of a search, which tells itself
    if progress is None and is_part:
        progress = False
    with contextlib.ExitStack() as until_the_end:
        progress = until_the_end.enter_context(telling(progress))
        clock = Clock(progress.stage)

        # What is asked for ---------------------------------------------------------------------
        given = preparation.given_backbone(backbone, settings)
        settings["backbone"] = given.spec.name if given else backbone
        ask = functools.partial(preparation.asked_recipe, recipe, settings, config, given)
        recipe, asked = ask(EFFORTS)  # what is wrong with it shows before any data is read
        if not _met(recipe, resume):  # another host writes the run
            output, tensorboard = None, False
        if output is not None:
            old = data.update_of if isinstance(data, Dataset) else ""
            runs.check_output(output, resume=resume, overwrite=overwrite, data=data, update_of=old)
        _check_reporting(output, tensorboard, callbacks)

        # The backbone and the data -------------------------------------------------------------
        place = None if recipe.cache in ("on", "off") else recipe.cache
        until_the_end.enter_context(files.cache_at(place))
        machines = shared.machines if shared else join(recipe.machines)
        source = data if isinstance(data, Dataset) else preparation.opened(data, recipe)
        recipe, asked = ask(modality(source.modality).EFFORTS)
        spec = given.spec if given else backbones.spec(recipe.backbone)
        recipe = preparation.settled(recipe, source, spec, given)
        with clock.stage("build"):  # what is wrong with it shows before an hour of decoding
            keras.utils.set_random_seed(recipe.seed)  # random weights must come back with resume
            built = preparation.build(spec, recipe, given)
        planner.resolve_depth(built.blocks, recipe.unfreeze)  # refuses a depth there is not
        with clock.stage("decode"):
            dataset = preparation.load(source, recipe)
        preparation.check(dataset, built, recipe.fit, SPLITS if judge else SPLITS[:2])
        if shared is None:
            for said in datasets.notes(dataset):
                progress.note(said)
            shared = until_the_end.enter_context(_alone(recipe, given, progress))
        train_rows, validation_rows, test_rows = map(dataset.indices, SPLITS)
        labels, validation_labels = dataset.labels[train_rows], dataset.labels[validation_rows]
        classes, task = len(dataset.class_names), task_of(dataset.labels)

        # The run folder ------------------------------------------------------------------------
        table = b""
        if output is not None:
            dataset, table = runs.kept_data(dataset, output, recipe)
        about = config_before(dataset, built, recipe, asked)
        state = shared.state
        if output is not None:
            guarded = runs.begin(output, about, resume=resume, overwrite=overwrite)
            state = until_the_end.enter_context(guarded)
            if not built.spec.constructor:  # no name by which another process could build it
                runs.keep_backbone(output, built.model)
            if table:
                runs.keep_data(output, table)
            if tensorboard:
                progress = EventLog(runs.events_folder(output), progress)
        budget = math.inf if recipe.time_budget is None else recipe.time_budget
        deadline = (clock.start if began is None else began) + budget
        decision, base = _read_decision(state), shared.base
        if decision is not None:  # of a killed run, which goes on above the cut that it stored
            recipe = Recipe(**decision["recipe"])
            base = tuple(decision["base"]) if decision.get("base") is not None else base

        # The classifier: a copy of the backbone with a new head --------------------------------
        untrained = built.weights == "none"
        model = shared.pool.classifier(built, classes, recipe.levels, recipe.seed, task)
        set_batch_norm(model, trains=False)
        blocks = cut_blocks(built.blocks, recipe.levels)
        first_head = values_of(model.get_layer(LOGITS).variables) if untrained else None
        compute = choose_compute(
            recipe.jit, recipe.precision, recipe.devices, hosts=recipe.hosts == "on",
            multiplies_bfloat16=computes_bfloat16(),
        )  # fmt: skip
        here = compute.here  # what never trains is not shared by several hosts
        if here is not compute and compute.distribution:
            compute.distribution.check_alike(_begun_with(dataset, about))

        # The plan: what is cached, and what fits the time --------------------------------------
        whole_recipe = recipe  # before anything is left out to fit the time
        frozen_below = functools.partial(
            _frozen_part, dataset, model, built, recipe, here, machines
        )
        depth = planner.resolve_depth(blocks, recipe.unfreeze)
        first_cut = planner.cut_below(blocks, depth) if base is None else base
        frozen = frozen_below(first_cut, recipe.views)  # timed, and kept if the plan keeps its cut
        measured = shared.measured or planner.measure(frozen, built, recipe, here)
        plan_for = functools.partial(
            planner.make_plan, blocks,
            cache_bytes=shared.store.allowed_bytes() if shared.store else None,
            train=len(train_rows), validation=len(validation_rows), test=len(test_rows),
        )  # fmt: skip
        # What was killed goes on with the plan that it had.
        budgeted = budget < math.inf and decision is None
        left = deadline - time.monotonic() if budgeted else math.inf
        plan, recipe = plan_for(recipe, measured, time_left=left)
        first_plan = plan
        _write_decision(state, recipe, base)
        store, stored_cut = _what_is_stored(plan, base, shared.store)
        if (stored_cut, recipe.views) != (frozen.cut, whole_recipe.views):
            frozen = frozen_below(stored_cut, recipe.views)
        if plan.spooled:
            remedy = "Set TMPDIR to a larger disk, or take fewer examples."
            files.check_room("the head's features", plan.spooled, tempfile.gettempdir(), remedy)
        for note in (str(plan), *compute.notes()):
            progress.detail(note)

        # The frozen part, once: features for the head, inputs for the second phase -------------
        with clock.stage("extract"):
            mirrored, why = mirrors(recipe, dataset)
            if why:
                progress.detail(why)
            views = Views(dataset, seed=recipe.view_seed, strength=recipe.strength, flip=mirrored)
            held = store is not None and frozen.held(views, train_rows, recipe.views, store)
            stages = _expect(progress, clock, plan, extracted=held, held=held)
            extracted = extract(
                frozen, views, train_rows, validation_rows, recipe.views,
                store=store, progress=progress,
                nothing_frozen=untrained and plan.unfreeze > 0 and not stored_cut,
                until=deadline - plan.reserve_seconds if budgeted else math.inf,
            )  # fmt: skip

        # The rest of the plan again, by the seconds that are left of a budget ------------------
        if budgeted:
            recipe = dataclasses.replace(
                recipe, fine_tune_epochs=whole_recipe.fine_tune_epochs, views=len(extracted.inputs)
            )
            each = extracted.seconds_each or measured.extract
            plan, recipe = plan_for(
                recipe, dataclasses.replace(measured, extract=each),
                time_left=deadline - time.monotonic(), after=first_plan,
            )  # fmt: skip
            progress.detail(f"The frozen part is done. {plan}")
            stages = _expect(progress, clock, plan, extracted=True, held=held)
            _write_decision(state, recipe, stored_cut if store else base)
            extracted = extracted.first(recipe.views)
        continued = plan.unfreeze > 0 and plan.cut != stored_cut
        if continued:
            extracted = extracted.above(layers_between(model, stored_cut, plan.cut))

        # The head, solved (or trained by gradient) ---------------------------------------------
        examples = _examples(extracted, labels, validation_labels, classes, recipe)
        training: dict[str, Any] = {  # of what trains by gradient
            "depths": backbones.rate_groups(built.blocks), "compute": compute,
            "deadline": deadline - plan.reserve_seconds,
        }  # fmt: skip
        few = task.counts(labels, classes).sum() <= FEW * classes
        suffix, on_all, again = None, None, None
        # Who asks for few training examples a class wants the others left out.
        on_validation_too = (
            recipe.refit == "on" and recipe.head_is_solved and not untrained
            and recipe.per_class is None
        )  # fmt: skip
        at_last = on_validation_too and (judge or not is_part)  # a trial is only compared
        if plan.unfreeze and recipe.fine_tune_epochs:
            # Made before its time: its step is traced while the head is solved.
            suffix = second_phase.part_that_trains(shared.pool, model, plan.cut, recipe)
        with clock.stage("head"):
            begun, validation_features = time.monotonic(), extracted.validation_features
            features = head_phase.as_many_as_fit(extracted.features)
            posed = head_phase.Posed(model, labels, examples, features, validation_features, few)
            standardise(model, features[0], few)
            if recipe.head_is_solved:

                def trace() -> None:
                    if suffix and not untrained and compute.is_plain:
                        suffix.rounded = compute.rounded
                        trace_ahead(suffix, recipe, examples, training["depths"])

                head = head_phase.solve(
                    posed, progress, trace, state / "head.npz" if state else None
                )
            else:
                head = head_phase.train(
                    model, labels, examples, extracted, recipe, shared.pool, progress=progress,
                    checkpoint=state / "head-phase.npz" if state else None, **training,
                )  # fmt: skip
            if on_validation_too:
                on_all = head_phase.solve_on_few(posed, dataset)
                if on_all is None and suffix is None and at_last:
                    again = head_phase.solve_again(posed, head.chosen)
            if on_all or again:
                head.details["on_all"] = on_all.why if on_all else head_phase.AGAIN
                progress.detail(head.details["on_all"])
            phases = [head.report(time.monotonic() - begun)]
            del extracted, features, posed  # the second phase needs the room of the features
        late = time.monotonic() + plan.epoch_seconds > deadline - plan.reserve_seconds
        if suffix and late and decision is None:
            progress.note("Out of time before the second phase: the head alone.")
            suffix = None

        # The top blocks, and the choice between what they came to ------------------------------
        with clock.stage("fine_tune"):
            if suffix is None:
                outcome = second_phase.keep_head(
                    model, shared.pool.head(model, recipe), validation_features, examples,
                    on_all, again,
                )  # fmt: skip
            else:
                outcome = second_phase.tune(
                    model, suffix, recipe, examples, labels, few=few, on_all=on_all,
                    solved=head.chosen if at_last else None, first_head=first_head,
                    callbacks=callbacks, progress=progress,
                    checkpoint=state / "fine-tune.npz" if state else None, **training,
                )  # fmt: skip
                cached = plan.cached and bool(stored_cut)
                phases.append(outcome.report(plan.blocks, len(labels), cached=cached))
                progress.detail(outcome.verdict)
        temperature = outcome.chosen.temperature if recipe.calibration != "none" else 1.0
        set_temperature(model, temperature)
        trained = [one for one in (head.trained, outcome.trained) if one is not None]
        fitted = Fitted(
            model=model, dataset=dataset, recipe=recipe, plan=plan, measured=measured,
            history=tuple(row for one in trained for row in one.history), phases=tuple(phases),
            candidates=outcome.candidates, temperature=temperature,
            validation_logits=outcome.validation_logits,
            seconds=clock.report(), compute=_computed(compute, trained),
            cache=dataclasses.replace(store.counts) if store else StoreCounts(),
        )  # fmt: skip
        if not judge:
            return fitted

        # The judgement: the test split, opened once --------------------------------------------
        with clock.stage("evaluate"):
            # What never trained ends where the rest begins: at the cut, or at the features.
            joins = not continued and (frozen.cut or suffix is None)
            probabilities = _probabilities(fitted, outcome, frozen.engine if joins else None)
            judged, threshold = _judged(fitted, probabilities)
        result = TransferResult(
            **(vars(fitted) | {"seconds": clock.report()}),
            test_probabilities=probabilities, evaluation=judged, threshold=threshold, about=about,
            path=None if output is None else Path(output),
        )  # fmt: skip
        if output is not None:
            with clock.stage("report"):
                run = runs.finish(output, result)
                if not dataset.update_of:  # else it is written with what the update has brought
                    report.write_report(run)
            if recipe.cache != "off" and decision is None:  # else a part of it was done before
                trained_for = {"fine_tune": outcome.seconds}
                chosen_for = {"choose": clock.seconds["fine_tune"] - outcome.seconds}
                clock.learn(stages, clock.seconds | trained_for | chosen_for)
        if budget < math.inf:
            taken = round(time.monotonic() - (deadline - budget), 2)
            kept = "kept" if taken <= budget else "overrun"
            progress.note(f"Time budget {kept}: {taken:.1f} of {budget:g} s.")
            told = {"seconds": budget, "taken": taken, "planned": dataclasses.asdict(first_plan)}
            if output is not None:
                runs.add_to_metrics(run, {"budget": told})
        return result


def _check_reporting(
    output: Any, tensorboard: bool, callbacks: Sequence[keras.callbacks.Callback]
) -> None:
    """Refuses callbacks that are none, and event files without a place."""
    check_callbacks(callbacks)
    if output is None and tensorboard:
        problem = "Event files for TensorBoard go to the run folder, and none is named."
        raise UsageError(problem, remedy="Pass output.")
    if tensorboard:
        require(["tensorboard"], "pip install tensorboard, or leave --tensorboard out.")


def _met(recipe: Recipe, resume: bool) -> bool:
    """Meets the other hosts of a run, where there are any; whether this one is to write it."""
    hosts = hosts_of(recipe.hosts)
    if hosts is None:
        return True
    if resume or recipe.time_budget is not None:
        problem = "A run on several hosts is not resumed, and knows no time budget."
        raise UsageError(problem, remedy="Leave these out, or --hosts.")
    meet()
    return hosts.number == 0


def _begun_with(dataset: Dataset, about: dict[str, Any]) -> str:
    """What hosts that train together must have in common."""
    own = {**about, "created": "", "data": "", "data_path": "", "in_memory": False}
    own |= {"digests": dataset.digests}
    own |= {"labels": dataset.labels, "splits": dataset.splits}
    return json.dumps(files.plain(own))


@contextlib.contextmanager
def _alone(recipe: Recipe, given: Backbone | None, progress: Progress) -> Iterator[Shared]:
    """For a run that is no part of another: classifiers of its own, and the cache's activations."""
    pool = ModelPool(copies=given is not None)  # which must not change
    if recipe.cache == "off":
        yield Shared(pool)
        return
    store = ActivationStore(files.cache_folder() / "activations", limit=recipe.cache_limit)
    store.on_note(progress.detail)
    with store:
        yield Shared(pool, store)


def _read_decision(state: Path | None) -> dict[str, Any] | None:
    """What a killed run had decided: its plan must not be made twice."""
    path = state / DECISION if state else None
    return files.read_json(path, remedy=head_phase.ANEW) if path and path.exists() else None


def _write_decision(state: Path | None, recipe: Recipe, base: tuple[str, ...] | None) -> None:
    if state is not None:
        decision = {"recipe": dataclasses.asdict(recipe), "base": base}
        files.write_json(state / DECISION, files.sealed(decision))


def _what_is_stored(
    plan: planner.Plan, base: tuple[str, ...] | None, store: ActivationStore | None
) -> tuple[ActivationStore | None, tuple[str, ...]]:
    """The store that a run uses, and the cut whose activations are its second phase's.

    That cut is the plan's, or a base below it, whose activations others have stored to be read,
    whatever the plan says of caching; it is at the examples where all layers train or none.
    """
    cut = (plan.cut if base is None else base) if plan.unfreeze and plan.cut else ()
    return store if plan.cached or base is not None else None, cut


def _expect(
    progress: Progress, clock: Clock, plan: planner.Plan, *, extracted: bool, held: bool
) -> dict[str, float]:
    """Tells how long the stages of a plan will take, and returns what they were planned to.

    Args:
        progress: who is told.
        clock: knows how long stages took on this machine.
        plan: of the run.
        extracted: whether the frozen part is done.
        held: whether all of it was found in the store: then its engine is made ready for the test.
    """
    stages = plan.stage_seconds | ({"extract": 0.0} if extracted else {})
    stages["evaluate"] += plan.convert_seconds if held else 0.0
    progress.expect(clock.paced(stages), {"extract": plan.rows, "fine_tune": plan.epochs})
    return stages


def _frozen_part(
    dataset: Dataset,
    model: keras.Model,
    backbone: Backbone,
    recipe: Recipe,
    compute: Compute,
    machines: Machines | None,
    cut: tuple[str, ...],
    views: int,
) -> FrozenPart:
    """What is below a cut, for so many views of the training examples and for the others.

    Of an update as for the examples of the run with which updates began, whatever the number by
    now: another engine, or another sample, and nothing that is stored of these would fit.
    """
    assert dataset.examples is not None
    counted = dataset.of_first_run or len(dataset)
    train_rows, *others = (rows[rows < counted] for rows in map(dataset.indices, SPLITS))
    count = len(train_rows) * views + sum(map(len, others))
    sample = dataset.examples[train_rows[:BATCH]]
    return FrozenPart(
        model, backbone, cut, engine=recipe.engine, examples_count=count, sample=sample,
        compute=compute, machines=machines,
    )  # fmt: skip


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


def _examples(
    extracted: Extracted,
    labels: np.ndarray,
    validation_labels: np.ndarray,
    classes: int,
    recipe: Recipe,
) -> Examples:
    """What the phases train and are validated on, the classes weighed as the recipe wants them."""
    task, balance = task_of(labels), recipe.class_weights == "balanced"
    return Examples(
        extracted.inputs, task.targets(labels, classes, recipe.label_smoothing),
        task.weights(labels, classes, balance), extracted.validation_inputs, validation_labels,
        task.weights(validation_labels, classes, balance) if balance else None,
    )  # fmt: skip


def _computed(compute: Compute, trained: Sequence[Trained]) -> dict[str, Any]:
    """How steps were computed, and what compiling them took."""
    computed = compute.to_json()
    computed["jit"]["compilations"] = sum(one.compilations for one in trained)
    computed["jit"]["seconds"] = round(sum(one.compile_seconds for one in trained), 3)
    return computed


def _probabilities(fitted: Fitted, outcome: Outcome, below: Engine | None) -> np.ndarray:
    """Of the test examples: float32 ``[n, classes]``.

    Args:
        fitted: the classifier.
        outcome: with the engine of what trained.
        below: that of the rest, whose outputs it takes; None where the model runs as a whole.
    """
    views, rows = Views(fitted.dataset), fitted.dataset.indices("test")
    drawn = (
        views.draw(rows[start : start + _AT_ONCE], 0) for start in range(0, len(rows), _AT_ONCE)
    )
    if below is None or below.name != "openvino":
        engine = build_engine(fitted.model, images=len(rows))
        return np.concatenate([engine.predict(examples)[0] for examples in drawn])
    logits = []
    for examples in drawn:
        # What never trained runs on the engine that it ran on.
        *at_cut, pooled = below.predict(examples)
        inputs = [pooled] if outcome.trained is None else at_cut
        logits.append(predict(outcome.engine, Array(*inputs)))
    probabilities = task_of(fitted.dataset.labels).probabilities
    return probabilities(np.concatenate(logits) / fitted.temperature).astype(np.float32)


def _judged(
    fitted: Fitted, probabilities: np.ndarray
) -> tuple[evaluation.Evaluation, calibration.Threshold]:
    """Test metrics, and what the confidence that validation asks for comes to there."""
    data, recipe, thresholds = fitted.dataset, fitted.recipe, fitted.thresholds
    labels, validation_labels = (data.labels[data.indices(split)] for split in ("test", "val"))
    on_validation = task_of(labels).probabilities(fitted.validation_logits / fitted.temperature)
    sure = calibration.precision_threshold(
        on_validation, validation_labels, recipe.target_precision, thresholds
    )
    judged = evaluation.evaluate(probabilities, labels, data.class_names, thresholds=thresholds)
    threshold = calibration.apply_threshold(
        probabilities, labels, sure.threshold, recipe.target_precision, sure.validation_images,
        thresholds,
    )  # fmt: skip
    return judged, threshold
