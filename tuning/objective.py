"""One trial: settings in, validation figures out, on data and frozen work that all trials share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer import api, backbones, datasets, evaluation, training
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Backbone, Dataset
from keras_transfer.frozen.features import mirroring_is_safe
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn import planner
from keras_transfer.learn.finetune import assign, values_of
from keras_transfer.learn.steps import Steps
from keras_transfer.schedule import Schedule
from tuning.sharing import Sharing
from tuning.space import Space, schedule_of

_STATE = "state"
_HEAD, _FINE_TUNE = "head.npz", "fine-tune.npz"


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is the same in all trials of a study; names and defaults are those of ``api.train``."""

    data: str
    backbone: str = api.DEFAULT_BACKBONE
    weights: str | None = None
    image_size: int | None = None
    split: tuple[float, float, float] = (0.7, 0.15, 0.15)
    splits_file: str | None = None
    seed: int = 0
    engine: str = "auto"
    jit: str = "auto"


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a trial came to on validation; see ``results.Record`` for the fields."""

    nll: float
    accuracy: float
    macro_f1: float
    temperature: float
    kept: str
    epochs_done: int
    validation_logits: np.ndarray
    extract_seconds: float = 0.0
    head_seconds: float = 0.0
    fine_tune_seconds: float = 0.0
    compilations: int = 0


class Workbench:
    """Data sets, backbones, activations and solved heads, each made once for all trials.

    Every trial has the study's seed, so that trials differ in their settings alone and the best
    one is repeated by ``keras-transfer train`` as it was.

    Args:
        setup: what is the same in all trials.
        folder: where solved heads are kept.
        store: the activations; None computes frozen work again in every trial.
    """

    def __init__(self, setup: Setup, folder: Path, store: ActivationStore | None) -> None:
        self.setup = setup
        self._folder, self.store = folder, store
        self._datasets: dict[int, Dataset] = {}
        self._backbones: dict[tuple[str, int], tuple[Backbone, list[np.ndarray], list[bool]]] = {}
        self.steps = Steps()
        self.sharing = Sharing(self)
        self._mirrors: dict[int, bool] = {}
        self._measured: dict[tuple[str, int, int], planner.Measured] = {}

    def backbone_name(self, values: Mapping[str, Any]) -> str:
        """A trial's backbone: its own, or the study's."""
        return str(values.get("backbone", self.setup.backbone))

    def image_size(self, values: Mapping[str, Any]) -> int:
        """The size at which a trial trains: its own, the study's, or what suits the images."""
        row = backbones.spec(self.backbone_name(values))
        asked = values.get("image_size", self.setup.image_size)
        if asked is None:
            asked = api.default_image_size(self.setup.data, row)
        if asked < row.min_size or (row.fixed_size and asked != row.image_size):
            wanted = f"{row.image_size}" if row.fixed_size else f"at least {row.min_size}"
            raise UsageError(
                f"{row.name} needs images of {wanted} px. Received: {asked}.",
                remedy="Change image_size or backbone.",
            )
        return int(asked)

    def dataset(self, image_size: int) -> Dataset:
        """The data at a size, decoded once; the splits are the same at every size."""
        if image_size not in self._datasets:
            self._datasets[image_size] = datasets.load_dataset(
                self.setup.data,
                image_size=image_size,
                split=self.setup.split,
                splits_file=self.setup.splits_file,
                seed=self.setup.seed,
            )
        return self._datasets[image_size]

    def weights(self, values: Mapping[str, Any]) -> str:
        """The source of a trial's weights: the study's, or the first that its backbone has."""
        row = backbones.spec(self.backbone_name(values))
        return self.setup.weights or row.weights[0]

    @contextmanager
    def backbone(self, values: Mapping[str, Any]) -> Iterator[Backbone]:
        """A backbone with its pretrained weights, which are put back afterwards.

        Building one takes seconds; putting its weights back takes milliseconds.
        """
        name = self.backbone_name(values)
        size = self.image_size(values)
        if (name, size) not in self._backbones:
            built = backbones.build(name, image_size=size, weights=self.weights(values))
            trains = [layer.trainable for layer in built.model.layers]
            self._backbones[name, size] = (built, values_of(built.model.variables), trains)
        built, pretrained, trains = self._backbones[name, size]
        try:
            yield built
        finally:
            assign(built.model.variables, pretrained)
            for layer, flag in zip(built.model.layers, trains, strict=True):
                layer.trainable = flag

    def check(self, space: Space) -> None:
        """Builds every backbone of a space, and resolves every depth in it.

        Raises:
            UsageError: weights are missing, an image size does not fit, or a depth is beyond the
                backbone; the message names the line of the space.
        """
        named, sizes = space.get("backbone"), space.get("image_size")
        depths = space.get("unfreeze")
        where = f"{space.source}, line {depths.line}" if depths else ""
        for name in named.choices if named else (self.setup.backbone,):
            for size in sizes.choices if sizes else (None,):
                values = {"backbone": name} | ({} if size is None else {"image_size": size})
                with self.backbone(values) as built:
                    for depth in depths.choices if depths else ():
                        self._check_depth(built, depth, where)

    @staticmethod
    def _check_depth(built: Backbone, depth: Any, where: str) -> None:
        try:
            planner.resolve_depth(built.blocks, depth)
        except UsageError as error:
            raise UsageError(
                f"{where}: {built.spec.name}: {error.message}", remedy=error.remedy
            ) from None

    def _settled(self, data: Dataset, schedule: Schedule) -> Schedule:
        """The schedule with what the data says of mirroring, asked once for all trials."""
        if schedule.flip != "auto" or schedule.views == 1 or not schedule.strength:
            return schedule
        size = data.examples.shape[1] if data.examples is not None else 0
        if size not in self._mirrors:
            train, validation = data.indices("train"), data.indices("val")
            assert data.examples is not None
            self._mirrors[size], _ = mirroring_is_safe(
                data.examples[train], data.labels[train],
                data.examples[validation], data.labels[validation],
            )  # fmt: skip
        return dataclasses.replace(schedule, flip="on" if self._mirrors[size] else "off")

    def settings(self, values: Mapping[str, Any], schedule: Schedule) -> dict[str, Any]:
        """What ``keras-transfer train --config`` needs to repeat a trial."""
        setup = self.setup
        return {
            "backbone": self.backbone_name(values),
            "weights": self.weights(values),
            "image_size": self.image_size(values),
            "split": list(setup.split) if setup.splits_file is None else None,
            "seed": setup.seed,
            "engine": setup.engine,
            "jit": setup.jit,
            "schedule": schedule.to_dict(),
        }

    def run(
        self, values: Mapping[str, Any], schedule: Schedule, folder: Path, earlier: Path | None
    ) -> Outcome:
        """Trains by a schedule and judges it on validation; the test split stays closed.

        Args:
            values: of the trial, for the backbone and the image size.
            schedule: see :func:`trial_schedule`.
            folder: the trial's own; a trial that was killed goes on from what is there.
            earlier: the folder of the trial whose fine-tuning this one continues, or None.
        """
        data = self.dataset(self.image_size(values))
        state = folder / _STATE
        # The number of views decides how much work there is, and so the engine that is worth it.
        alike = (self.backbone_name(values), self.image_size(values), schedule.views)
        clock = training.Clock()
        schedule = self._settled(data, schedule)
        with self.backbone(values) as built:
            with clock.stage("extract"):
                self.sharing.extract(built, data, schedule)
            memo = self._folder / f"{self._head_digest(built, data, schedule)}.npz"
            _bring(memo, state / _HEAD)
            if earlier is not None:
                _bring(earlier / _STATE / _FINE_TUNE, state / _FINE_TUNE)
            fitted = training.fit(
                data,
                built,
                schedule,
                seed=self.setup.seed,
                store=self.store,
                engine=self.setup.engine,
                jit=self.setup.jit,
                state=state,
                measured=self._measured.get(alike),
                clock=clock,
                steps=self.steps,
                base=self.sharing.base(built, schedule),
            )
        self._measured[alike] = fitted.measured
        _bring(state / _HEAD, memo)
        labels = data.labels[data.indices("val")]
        kept = fitted.candidates[0]
        probabilities = keras.ops.softmax(fitted.validation_logits / fitted.temperature)
        judged = evaluation.evaluate(
            keras.ops.convert_to_numpy(probabilities), labels, data.class_names
        )
        epochs = [phase.epochs for phase in fitted.phases if phase.name == "fine_tune"]
        return Outcome(
            nll=kept.nll,
            accuracy=kept.accuracy,
            macro_f1=judged.macro_f1,
            temperature=fitted.temperature,
            kept=kept.name,
            epochs_done=sum(epochs),
            validation_logits=fitted.validation_logits,
            compilations=fitted.compilations,
            extract_seconds=round(clock.seconds["extract"], 3),
            head_seconds=round(clock.seconds["head"], 3),
            fine_tune_seconds=round(clock.seconds["fine_tune"], 3),
        )

    def _head_digest(self, built: Backbone, data: Dataset, schedule: Schedule) -> str:
        """Everything that the head depends on: trials that agree in it share one solution."""
        plain = schedule.to_dict()
        plain.pop("fine_tune")
        about = [plain, built.weights_digest, built.model.input_shape[1:3], self.setup.seed]
        about += [data_digest(data), self.setup.engine]
        return files.sha256(json.dumps(about, sort_keys=True).encode())[:32]


def trial_schedule(values: Mapping[str, Any]) -> Schedule:
    """The schedule of a trial; a Hyperband rung's rate does not fall before the bracket's last.

    A rung continues the one before, so the rate must not depend on where fine-tuning will end: it
    is constant after a warm-up of a tenth of an epoch, and the moving average of the weights stands
    in for its decay. In a bracket's last rung it falls to 0 as it always does, so that the trials
    which a study ends with are comparable with the default. Training by a rung's schedule from the
    beginning comes to the same weights.
    """
    schedule = schedule_of(values)
    if values.get("tuner/epochs") is None or schedule.fine_tune is None:
        return schedule
    epochs, before = int(values["tuner/epochs"]), int(values.get("tuner/initial_epoch") or 0)
    last = bool(values.get("tuner/last"))
    phase = dataclasses.replace(schedule.fine_tune, epochs=epochs)
    if before or not last:
        phase = dataclasses.replace(
            phase,
            decay=phase.decay if last else "constant",
            decay_from=before / epochs if last else 0.0,
            warmup=min(1.0, phase.warmup / epochs),
        )
    return dataclasses.replace(schedule, fine_tune=phase)


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
