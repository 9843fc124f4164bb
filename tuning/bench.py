"""One trial: settings in, validation figures out, on data and frozen work that all trials share."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from keras_transfer import backbones, evaluation, preparation, training
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.base.task import task_of
from keras_transfer.base.types import Backbone, BackboneSpec, Dataset
from keras_transfer.frozen.engine import BATCH, keras_engine, seconds_per_image
from keras_transfer.frozen.features import FrozenPart, Views
from keras_transfer.frozen.machines import join
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn import planner
from keras_transfer.learn.model import cut_blocks
from keras_transfer.learn.pool import ModelPool
from keras_transfer.modalities import modality
from keras_transfer.recipe import Recipe
from keras_transfer.runs.result import Fitted
from tuning.plan import StorePlan, cuts_of, plan
from tuning.results import Outcome
from tuning.space import Space

_STATE, _HEAD, _FINE_TUNE = "state", "head.npz", "fine-tune.npz"
# What the solved head depends on, besides the data and the backbone.
_OF_HEAD = (
    "seed", "levels", "head_epochs", "head_lr", "batch_size", "views", "strength", "flip",
    "view_seed", "class_weights", "engine",
)  # fmt: skip

_Key = TypeVar("_Key")
_Made = TypeVar("_Made")


class Workbench:
    """Data sets, backbones, activations and solved heads, each made once for all trials.

    Every trial has the study's seed, so that trials differ in their settings alone and the best
    one is repeated by ``keras-transfer train`` as it was.

    Args:
        data: where the images are.
        recipe: what a trial has where the space says nothing.
        folder: where solved heads are kept.
        store: the activations; None computes frozen work again in every trial.
    """

    def __init__(
        self, data: Any, recipe: Recipe, folder: Path, store: ActivationStore | None
    ) -> None:
        if recipe.hosts == "on":
            problem = "A search shares trials among hosts, not a trial."
            raise UsageError(problem, remedy="Use `tuning chief` and `tuning worker`.")
        self._machines = join(recipe.machines)
        self.data = preparation.opened(data, recipe)
        self.recipe, self.store = recipe, store
        self._size = modality(self.data.modality).SIZE
        self._folder, self._pool = folder, ModelPool()
        self._datasets: dict[Any, Dataset] = {}
        self._backbones: dict[Any, Backbone] = {}
        self._given: dict[str, Backbone | None] = {}
        self._flips: dict[Any, Literal["auto", "on", "off"]] = {}
        self._measured: dict[Any, planner.Measured] = {}
        self.plans: dict[Any, StorePlan] = {}
        self._extracted: set[Any] = set()

    def trial_recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial; a Hyperband rung's rate does not fall before the bracket's last.

        A rung continues the one before, so the rate must not depend on where fine-tuning will end:
        it is constant after a warm-up of a tenth of an epoch, and the moving average of the weights
        stands in for its decay. In a bracket's last rung it falls to 0 as it always does, so that
        the trials which a study ends with are comparable with the default. Training by a rung's
        recipe from the beginning comes to the same weights.
        """
        own = {name: value for name, value in values.items() if not name.startswith("tuner/")}
        recipe = dataclasses.replace(self.recipe, **own)
        row, given = self._named(recipe)
        settled: dict[str, Any] = {self._size: preparation.size_of(recipe, self.data, row, given)}
        settled["weights"] = recipe.weights or row.weights[0]
        recipe = dataclasses.replace(recipe, **settled)
        epochs, before = values.get("tuner/epochs"), values.get("tuner/initial_epoch") or 0
        if epochs is None:
            return recipe
        last = bool(values.get("tuner/last"))
        recipe = dataclasses.replace(recipe, fine_tune_epochs=epochs)
        if last and not before:
            return recipe
        return dataclasses.replace(
            recipe, decay=recipe.decay if last else "constant",
            decay_from=before / epochs if last else 0.0, warmup=min(1.0, recipe.warmup / epochs),
        )  # fmt: skip

    def dataset(self, recipe: Recipe) -> Dataset:
        """The data at a recipe's size, decoded once; the splits are the same at every size."""
        size = getattr(recipe, self._size)
        return _once(self._datasets, size, lambda: preparation.load(self.data, recipe))

    def backbone(self, recipe: Recipe) -> Backbone:
        """A recipe's backbone with its pretrained weights; building one takes seconds."""
        row, given = self._named(recipe)
        return _once(self._backbones, _kind(recipe), lambda: preparation.build(row, recipe, given))

    def _named(self, recipe: Recipe) -> tuple[BackboneSpec, Backbone | None]:
        """The row of a recipe's backbone, and a model of one's own where its file is named."""
        given = _once(
            self._given, recipe.backbone,
            lambda: preparation.given_backbone(recipe.backbone, vars(self.recipe)),
        )  # fmt: skip
        return given.spec if given else backbones.spec(recipe.backbone), given

    def check(self, space: Space) -> None:
        """Builds every backbone of a space, and resolves every depth in it.

        Raises:
            UsageError: weights are missing, an image size does not fit, or a depth is beyond the
                backbone; the message names it.
        """
        for recipe in self._recipes(space):
            built = self.backbone(recipe)
            for depth in space.values("unfreeze"):
                try:
                    planner.resolve_depth(built.blocks, depth)
                except UsageError as error:
                    said = f"{space.source}, unfreeze: {built.spec.name}: {error.message}"
                    raise UsageError(said, remedy=error.remedy) from None

    def _recipes(self, space: Space) -> list[Recipe]:
        """A recipe for each backbone and image size of a space."""
        found = [space.defaults()]
        for name in ("backbone", self._size):
            if varied := space.values(name):
                found = [{**one, name: value} for one in found for value in varied]
        return [self.trial_recipe(values) for values in found]

    def plan(self, space: Space, trials: int) -> list[StorePlan]:
        """Plans which cuts are stored, over all depths of a space at once.

        Args:
            space: whose depths are planned together.
            trials: how many are expected.

        Returns:
            A plan for each backbone and image size of the space.
        """
        if self.store is None:
            return []
        recipes = self._recipes(space)
        epochs = np.mean(space.values("fine_tune_epochs") or [self.recipe.fine_tune_epochs])
        for recipe in recipes:
            data, built = self.dataset(recipe), self.backbone(recipe)
            train = data.indices("train")
            assert data.examples is not None
            batch = data.examples[np.resize(train, BATCH)]
            depths, passes = space.values("unfreeze"), trials * float(epochs) / len(recipes)
            blocks = cut_blocks(built.blocks, recipe.levels)
            self.plans[_kind(recipe)] = plan(
                cuts_of(blocks, depths or [recipe.unfreeze], passes),
                rows=len(train) * recipe.views + len(data.indices("val")),
                images=len(train),
                forward=seconds_per_image(keras_engine(built.model), batch),
                variants=len(space.values("strength")) or 1,
                budget=self.store.allowed_bytes(),
            )
        return list(self.plans.values())

    def run(self, recipe: Recipe, folder: Path, earlier: Path | None) -> tuple[Outcome, np.ndarray]:
        """Trains by a recipe and judges it on validation; the test split stays closed.

        Args:
            recipe: see :meth:`trial_recipe`.
            folder: the trial's own; a trial that was killed goes on from what is there.
            earlier: the folder of the trial whose fine-tuning this one continues, or None.

        Returns:
            The outcome, and the validation images' logits ``[images, classes]``.
        """
        data, built, state = self.dataset(recipe), self.backbone(recipe), folder / _STATE
        recipe = self._flip_decided(data, recipe)
        begun = time.monotonic()
        self._extract(built, data, recipe)
        shared_seconds = time.monotonic() - begun
        memo = self._folder / f"{_head_digest(built, data, recipe)}.npz"
        _bring(memo, state / _HEAD)
        if earlier is not None:
            _bring(earlier / _STATE / _FINE_TUNE, state / _FINE_TUNE)
        state.mkdir(parents=True, exist_ok=True)
        # The number of views decides how much work there is, and so the engine that is worth it.
        alike = *_kind(recipe), recipe.views
        shared = training.Shared(
            self._pool, self.store, measured=self._measured.get(alike),
            base=self._base(built, recipe), state=state, machines=self._machines,
        )  # fmt: skip
        done: Fitted = training.train(
            data, recipe=recipe, backbone=built, judge=False, shared=shared
        )
        self._measured[alike] = done.measured
        _bring(state / _HEAD, memo)
        return _outcome(done, data, shared_seconds), done.validation_logits

    def _flip_decided(self, data: Dataset, recipe: Recipe) -> Recipe:
        """The recipe with what the data says of mirroring, asked once for all trials."""
        if recipe.flip != "auto" or recipe.views == 1 or not recipe.strength:
            return recipe

        def decide() -> Literal["auto", "on", "off"]:
            return "on" if training.mirrors(recipe, data)[0] else "off"

        return dataclasses.replace(recipe, flip=_once(self._flips, _kind(recipe), decide))

    def _extract(self, built: Backbone, data: Dataset, recipe: Recipe) -> None:
        """One pass over a strength's views that stores every cut of the plan, done once."""
        planned = self.plans.get(_kind(recipe))
        key = *_kind(recipe), recipe.views, recipe.strength, recipe.levels
        if planned is None or len(planned.stored) < 2 or key in self._extracted:
            return
        assert data.examples is not None
        self._extracted.add(key)
        train, validation = data.indices("train"), data.indices("val")
        first, *others = (cut.layers for cut in planned.stored)
        frozen = FrozenPart(
            self._pool.classifier(
                built, len(data.class_names), recipe.levels, recipe.seed, task_of(data.labels)
            ),
            built, first, also=others, engine=recipe.engine, sample=data.examples[train[:BATCH]],
            examples_count=len(train) * recipe.views + len(data) - len(train),
            machines=self._machines,
        )  # fmt: skip
        views = Views(
            data, seed=recipe.view_seed, strength=recipe.strength, flip=recipe.flip == "on"
        )
        kept: dict[str, Any] = {"store": self.store, "progress": Progress()}
        frozen.inputs(views, validation, 0, **kept)
        for number in range(recipe.views):
            frozen.inputs(views, train, number, **kept, exact=False)

    def _base(self, built: Backbone, recipe: Recipe) -> tuple[str, ...] | None:
        """The stored cut from which a trial goes on; None where that is its own."""
        planned = self.plans.get(_kind(recipe))
        depth = planner.resolve_depth(built.blocks, recipe.unfreeze)
        if planned is None or not depth:
            return None
        blocks = cut_blocks(built.blocks, recipe.levels)
        return planned.goes_on_from(planner.cut_below(blocks, depth))


def _once(held: dict[_Key, _Made], key: _Key, make: Callable[[], _Made]) -> _Made:
    if key not in held:
        held[key] = make()
    return held[key]


def _kind(recipe: Recipe) -> tuple[Any, ...]:
    """What trials that share a backbone agree in."""
    return recipe.backbone, recipe.image_size, recipe.max_length, recipe.clip_length


def _head_digest(built: Backbone, data: Dataset, recipe: Recipe) -> str:
    """Everything that the head depends on: trials that agree in it share one solution."""
    about = [recipe.to_dict(_OF_HEAD), built.weights_digest, built.model.input_shape[1:3]]
    return files.sha256(json.dumps([*about, data_digest(data)]).encode())[:32]


def _outcome(done: Fitted, data: Dataset, shared_seconds: float) -> Outcome:
    kept = done.candidates[0]
    labels = data.labels[data.indices("val")]
    scaled = done.validation_logits / done.temperature
    probabilities = task_of(labels).probabilities(scaled)
    judged = evaluation.evaluate(probabilities, labels, data.class_names)
    return Outcome(
        nll=kept.nll, accuracy=kept.accuracy, macro_f1=judged.macro_f1, kept=kept.name,
        temperature=done.temperature, compilations=done.compilations,
        epochs_done=sum(phase.epochs for phase in done.phases if phase.name == "fine_tune"),
        extract_seconds=round(done.seconds["extract"] + shared_seconds, 3),
        head_seconds=round(done.seconds["head"], 3),
        fine_tune_seconds=round(done.seconds["fine_tune"], 3),
    )  # fmt: skip


def data_digest(data: Dataset) -> str:
    """A digest of the images, their labels and their splits, whatever their size."""
    rows = sorted(zip(data.digests, data.labels.tolist(), data.splits.tolist(), strict=True))
    return files.sha256(json.dumps([rows, list(data.class_names)]).encode())


def clear_state(folder: Path) -> None:
    """Removes the checkpoints of a trial that nothing will continue."""
    for path in (folder / _STATE).glob("*"):
        path.unlink(missing_ok=True)


def _bring(source: Path, target: Path) -> None:
    """Copies a file where there is one and the target has none, atomically."""
    if source.exists() and not target.exists():
        files.write_bytes(target, source.read_bytes())
