"""Runs a schedule: the head on frozen features, the top blocks, then the choice between them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import html
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_transfer import evaluation
from keras_transfer.backbones import rate_groups, split
from keras_transfer.backbones.copying import working_copy
from keras_transfer.backbones.graph import tensors
from keras_transfer.base import files
from keras_transfer.base.compute import devices as list_devices
from keras_transfer.base.compute import jit_policy, precision_policy
from keras_transfer.base.distribution import distribute
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.base.types import LOGITS, POOL, Backbone, Dataset, Inputs
from keras_transfer.evaluation import plots
from keras_transfer.frozen.engine import (
    BATCH,
    Batch,
    Engine,
    build_engine,
    computes_bfloat16,
    worth_converting,
)
from keras_transfer.frozen.features import (
    Array,
    FrozenPart,
    Raised,
    Recomputed,
    Views,
    features_of_view,
    mirroring_is_safe,
    stack_views,
    views_for,
)
from keras_transfer.frozen.store import DEFAULT_SHARE, ActivationStore, StoreCounts
from keras_transfer.learn import calibration, heads, planner
from keras_transfer.learn.batches import Examples
from keras_transfer.learn.finetune import (
    PhaseState,
    Suffix,
    assign,
    predict,
    predict_logits,
    trace_step,
    train_phase,
    values_of,
)
from keras_transfer.learn.model import (
    cut_blocks,
    freeze_batch_norm,
    head_inputs,
    head_layers,
    reseed,
    set_temperature,
    standardise,
    start_statistics,
    train_batch_norm,
)
from keras_transfer.learn.optimizers import build_optimizer
from keras_transfer.learn.selection import Candidate, NewHead, choose
from keras_transfer.learn.steps import Steps
from keras_transfer.schedule import Phase, Schedule, recipe, settle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Features of more views than fit are left to the second phase; the head sees as many as do.
_HEAD_BYTES = 2**29


@dataclasses.dataclass(frozen=True)
class PhaseReport:
    """What a phase did: the entries of ``phases`` in ``metrics.json``."""

    name: str
    epochs: int
    seconds: float
    images_per_second: float
    cached: bool
    details: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class TransferResult:
    """A trained classifier with everything that was learnt on the way.

    Attributes:
        model: the deployable graph, see ``model.build_classifier``; its temperature is fitted.
        dataset: what it was trained on.
        backbone: the backbone's name, ``weights`` where its weights came from.
        image_size: height and width in pixels.
        schedule: what was carried out, after any shortening.
        plan: what was expected.
        seed: of the order of images, of Dropout and of the head's initialisation.
        history: one row an epoch.
        phases: one report a phase.
        candidates: what the returned weights were chosen among, the chosen one first.
        temperature: by which the model divides its logits.
        test_probabilities: float32 ``[test images, classes]``.
        evaluation: on the test split.
        threshold: the confidence at which answers reach the wanted precision on validation, and
            what it comes to on the test split.
        validation_logits: float32 ``[validation images, classes]``, before the temperature.
        seconds: durations by stage.
        cache: rows found and computed, bytes written.
        compute: ``jit``, ``precision`` and ``devices``, each with its reason, and of the compiled
            steps their number and seconds.
    """

    model: keras.Model
    dataset: Dataset
    backbone: str
    weights: str
    image_size: tuple[int, int]
    schedule: Schedule
    plan: planner.Plan
    seed: int
    history: tuple[dict[str, Any], ...]
    phases: tuple[PhaseReport, ...]
    candidates: tuple[Candidate, ...]
    temperature: float
    test_probabilities: np.ndarray
    evaluation: evaluation.Evaluation
    threshold: calibration.Threshold
    validation_logits: np.ndarray
    seconds: dict[str, float]
    cache: StoreCounts
    compute: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the model's outputs."""
        return self.dataset.class_names

    def plot_history(self) -> Figure:
        """Accuracy and loss over both phases, the unfreezing marked."""
        phases = [phase.to_json() for phase in self.phases]
        return plots.history(plots.with_head(self.history, phases))

    def plot_confusion(self) -> Figure:
        """Which class is taken for which on the test split."""
        return self.evaluation.plot_confusion()

    def plot_reliability(self) -> Figure:
        """How often the model was right on the test split, by how sure it said it was."""
        return self.evaluation.plot_reliability()

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.evaluation._repr_html_()}"

    def __repr__(self) -> str:
        return (
            f"TransferResult({self.backbone} on {self.dataset.name!r}: test accuracy "
            f"{self.evaluation.accuracy:.3f}, {self.candidates[0].name} kept, "
            f"{self.seconds['total']:.0f} s)"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A trained classifier of which the test split knows nothing yet.

    Attributes:
        model: the deployable graph; its temperature is fitted.
        phases: one report a phase.
        candidates: what the weights were chosen among, the chosen one first.
        temperature: by which the model divides its logits.
        validation_logits: float32 ``[validation images, classes]``, before the temperature.
        measured: the rates of this machine, for the next run of the same backbone and data.
        compilations: training steps that were traced and compiled.
    """

    model: keras.Model
    phases: tuple[PhaseReport, ...]
    candidates: tuple[Candidate, ...]
    temperature: float
    validation_logits: np.ndarray
    measured: planner.Measured
    compilations: int = 0


class Clock:
    """Adds up where the time goes."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.seconds: dict[str, float] = dict.fromkeys(
            ("decode", "extract", "head", "fine_tune", "evaluate"), 0.0
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the duration of the block to a stage."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun

    def report(self, before: float = 0.0) -> dict[str, float]:
        """All stages and the total, in seconds, with what went ``before`` the clock started."""
        total = time.monotonic() - self.start + before
        return {name: round(value, 3) for name, value in (self.seconds | {"total": total}).items()}


def train(
    dataset: Dataset,
    backbone: Backbone,
    schedule: Schedule | None = None,
    *,
    seed: int = 0,
    store: ActivationStore | None = None,
    engine: str = "auto",
    jit: str = "auto",
    precision: str = "auto",
    devices: int | str = 1,
    progress: Progress | None = None,
    state: Path | None = None,
    time_budget: float | None = None,
    target_precision: float = 0.95,
    calibration: str = "temperature",
    clock: Clock | None = None,
    steps: Steps | None = None,
) -> TransferResult:
    """Trains a classifier by a two-phase schedule.

    Args:
        dataset: images with pixels at the backbone's size; train fits, validation chooses, test is
            used once, at the end.
        backbone: from ``backbones.build``; its weights are changed by the second phase.
        schedule: what to do; ``schedule.recipe()`` by default.
        seed: of the order of images, of Dropout and of a head trained by gradient.
        store: where frozen work is kept; None computes it again each time.
        engine: what runs the frozen part, see ``engine.build_engine``.
        jit: XLA for training steps, see ``devices.jit_policy``.
        precision: in which type layers compute, see ``devices.precision_policy``. The model that
            is returned, and what is said of it, are float32.
        devices: how many devices share every batch, or ``all``.
        progress: where to report; silent by default.
        state: a folder for checkpoints; a run that was killed goes on from what is there.
        time_budget: seconds after which the result must be there; the schedule is shortened to
            fit, and stopped in time.
        target_precision: share of right answers that the confidence threshold is chosen for.
        calibration: ``temperature`` divides the logits by a number fitted on validation, ``none``
            leaves them as they are.
        clock: where durations are added up; one of its own by default.
        steps: where compiled steps are kept for other runs of the same backbone.

    Returns:
        The model and the evidence.

    Raises:
        UsageError: the schedule does not fit the backbone or the data set.
    """
    run = _Run(
        dataset=dataset,
        backbone=backbone,
        schedule=schedule or recipe(),
        seed=seed,
        store=store,
        engine=engine,
        jit=jit,
        precision=precision,
        devices=devices,
        progress=progress or Progress(),
        state=state,
        deadline=None if time_budget is None else time.monotonic() + time_budget,
        clock=clock or Clock(),
        target_precision=target_precision,
        calibrated=calibration != "none",
        steps=steps or Steps(),
    )
    _check(dataset, backbone)
    return run.carry_out()


def fit(
    dataset: Dataset,
    backbone: Backbone,
    schedule: Schedule,
    *,
    seed: int = 0,
    store: ActivationStore | None = None,
    engine: str = "auto",
    jit: str = "auto",
    precision: str = "auto",
    devices: int | str = 1,
    progress: Progress | None = None,
    state: Path | None = None,
    measured: planner.Measured | None = None,
    clock: Clock | None = None,
    steps: Steps | None = None,
    base: tuple[str, ...] | None = None,
) -> Fitted:
    """Trains as :func:`train` does and leaves the test split closed, to choose between schedules.

    The arguments are those of :func:`train`, and ``measured`` from an earlier call, which saves
    measuring again; ``steps``, which saves compiling again what earlier calls have compiled; and
    ``base``, a cut below that of the second phase (empty for the pixels) whose activations are
    stored instead, the layers between being computed anew in every epoch.

    Raises:
        UsageError: the schedule does not fit the backbone or the data set.
    """
    _check(dataset, backbone)
    return _Run(
        dataset=dataset,
        backbone=backbone,
        schedule=schedule,
        seed=seed,
        store=store,
        engine=engine,
        jit=jit,
        precision=precision,
        devices=devices,
        progress=progress or Progress(),
        state=state,
        deadline=None,
        clock=clock or Clock(),
        target_precision=0.95,
        measured=measured,
        steps=steps or Steps(),
        base=base,
    ).fit()


def predict_probabilities(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Probabilities float32 ``[n, classes]`` of uint8 images ``[n, height, width, 3]``.

    Runs on whatever is fastest for that many images, in float32.
    """
    runner = build_engine(model, "auto", images=len(pixels), sample=pixels[:BATCH])
    return runner.predict(pixels)[0]


def allowed_bytes(store: ActivationStore) -> int:
    """What a store may take: its limit, or a share of the free disk."""
    if store.limit is not None:
        return store.limit
    import shutil

    existing = next(p for p in (store.folder, *store.folder.parents) if p.exists())
    return int(DEFAULT_SHARE * shutil.disk_usage(existing).free)


def _check(dataset: Dataset, backbone: Backbone) -> None:
    size = tuple(backbone.model.input_shape[1:3])
    if dataset.examples is None or tuple(dataset.examples.shape[1:3]) != size:
        had = "no pixels" if dataset.examples is None else f"{dataset.examples.shape[1:3]} px"
        raise UsageError(
            f"The backbone takes images of {size[0]} by {size[1]} px; the data set has {had}.",
            remedy=f"Open it with load_dataset(..., image_size={size[0]}).",
        )
    for name in ("train", "val", "test"):
        if not (dataset.splits == name).any():
            raise DataError(
                f"{dataset.name}: the {name} split holds no images.",
                remedy="Add images, or give other shares with --split.",
            )


@dataclasses.dataclass
class _Run:
    """One run of a schedule; its methods are the steps, in order."""

    dataset: Dataset
    backbone: Backbone
    schedule: Schedule
    seed: int
    store: ActivationStore | None
    engine: str
    jit: str
    precision: str
    devices: int | str
    progress: Progress
    state: Path | None
    deadline: float | None
    clock: Clock
    target_precision: float
    measured: planner.Measured | None = None
    calibrated: bool = True
    steps: Steps = dataclasses.field(default_factory=Steps)
    base: tuple[str, ...] | None = None

    def fit(self) -> Fitted:
        """Everything that needs training and validation images alone."""
        keras.utils.set_random_seed(self.seed)
        data = self.dataset
        self.labels = {split: data.labels[data.indices(split)] for split in ("train", "val")}
        self.model = self.steps.classifier(
            self.backbone, len(data.class_names), self.schedule.head_spec, self.seed
        )
        self.random = self.backbone.weights == "none"
        self.schedule = settle(self.schedule, pretrained=not self.random)
        self.untrained_head = values_of(self._head_variables())
        freeze_batch_norm(self.model)
        reseed(self.model, self.seed)
        self.distribution = distribute(self.devices, list_devices())
        self.policy = jit_policy(self.jit, distributed=self.distribution is not None)
        self.computing = precision_policy(self.precision, multiplies_bfloat16=computes_bfloat16())
        self.compiled: list[PhaseState] = []
        self._plan()
        with self.clock.stage("extract"):
            self._extract()
        with self.clock.stage("head"):
            head = self._head()
        with self.clock.stage("fine_tune"):
            tuned, candidates, logits = self._fine_tune()
        temperature = 1.0
        if self.calibrated:
            temperature = calibration.fit_temperature(logits, self.labels["val"])
        set_temperature(self.model, temperature)
        phases = tuple(report for report in (head, tuned) if report is not None)
        assert self.measured is not None
        compilations = sum(state.compilations for state in self.compiled)
        return Fitted(
            self.model, phases, candidates, temperature, logits, self.measured, compilations
        )

    def carry_out(self) -> TransferResult:
        """Trains, then opens the test split."""
        fitted, data = self.fit(), self.dataset
        logits, temperature = fitted.validation_logits, fitted.temperature
        least = calibration.precision_threshold(
            calibration.softmax(logits / temperature), self.labels["val"], self.target_precision
        ).threshold
        with self.clock.stage("evaluate"):
            test = data.indices("test")
            assert data.examples is not None
            probabilities = self._probabilities(data.examples[test], temperature)
            judged = evaluation.evaluate(probabilities, data.labels[test], data.class_names)
        size = self.model.input_shape[1:3]
        return TransferResult(
            model=self.model,
            dataset=data,
            backbone=self.backbone.spec.name,
            weights=self.backbone.weights,
            image_size=(int(size[0]), int(size[1])),
            schedule=self.schedule,
            plan=self.plan,
            seed=self.seed,
            history=tuple(self.history),
            phases=fitted.phases,
            candidates=fitted.candidates,
            temperature=temperature,
            test_probabilities=probabilities,
            evaluation=judged,
            threshold=calibration.apply_threshold(
                probabilities, data.labels[test], least, self.target_precision
            ),
            validation_logits=logits,
            seconds=self.clock.report(),
            cache=self.store.counts if self.store else StoreCounts(),
            compute=self._compute(),
        )

    def _probabilities(self, pixels: np.ndarray, temperature: float) -> np.ndarray:
        """What the trained model answers, the part that never trained on the engine it ran on.

        Where that is Keras, or rounds to bfloat16, or everything trained, the whole model is asked.
        """
        whole = self.plan.unfreeze and not self.frozen.cut
        if whole or self.frozen.engine.name != "openvino":
            return predict_probabilities(self.model, pixels)
        *tensors, pooled = self.frozen.engine.predict(pixels)
        logits = predict_logits(self.top, Array(*(tensors if self.plan.unfreeze else [pooled])))
        return calibration.softmax(logits / temperature).astype(np.float32)

    def _compute(self) -> dict[str, Any]:
        names = self.distribution.devices if self.distribution else list_devices()[:1]
        return {
            "jit": dataclasses.asdict(self.policy)
            | {
                "compilations": sum(state.compilations for state in self.compiled),
                "seconds": round(sum(state.compile_seconds for state in self.compiled), 3),
            },
            "precision": {"name": self.computing.name, "reason": self.computing.reason},
            "devices": list(names),
        }

    def _plan(self) -> None:
        """Measures a few batches, decides, and says so."""
        blocks = cut_blocks(self.backbone.blocks, self.schedule.head_spec)
        self.history: list[dict[str, Any]] = []
        self.sample = self._sample()
        phase = self.schedule.fine_tune
        depth = planner.resolve_depth(blocks, phase.unfreeze) if phase else 0
        self.frozen = self._frozen_part(self.base or planner.cut_below(blocks, depth))
        asked = self.frozen.cut, self._images()
        self.measured = self.measured or self._measure()
        allowed = None if self.store is None else allowed_bytes(self.store)
        left = None if self.deadline is None else self.deadline - time.monotonic()
        self.plan, self.schedule = planner.make_plan(
            blocks,
            self._kept_schedule() or self.schedule,
            self.measured,
            train=len(self.labels["train"]),
            validation=len(self.labels["val"]),
            cache_bytes=allowed,
            time_budget=None if self._kept_schedule() else left,
        )
        self._keep_schedule()
        if not self.plan.cached and self.base is None:
            self.store = None
        self.progress.note(str(self.plan))
        self.progress.note(f"XLA: {'on' if self.policy.compile else 'off'} ({self.policy.reason}).")
        self.progress.note(f"Precision: {self.computing.name} ({self.computing.reason}).")
        if self.distribution:
            self.progress.note(f"Each batch is shared by {', '.join(self.distribution.devices)}.")
        cut = self.plan.cut if self.plan.unfreeze else ()
        self.raised = self._between(self.base, cut) if self.base is not None and cut else None
        cut = cut if self.raised is None else self.base or ()
        if asked != (cut, self._images()):
            self.frozen = self._frozen_part(cut)
        self.frozen.native_seconds = self.measured.forward

    def _sample(self) -> np.ndarray:
        assert self.dataset.examples is not None
        return self.dataset.examples[self.dataset.indices("train")[:BATCH]]

    def _frozen_part(self, cut: tuple[str, ...]) -> FrozenPart:
        return FrozenPart(
            self.model,
            self.backbone,
            cut,
            engine=self.engine,
            images=self._images(),
            sample=self.sample,
            precision=self.computing.name,
            distribution=self.distribution,
            known=self.steps.known,
        )

    def _measure(self) -> planner.Measured:
        """Seconds an image where it would train, and on the engine of the frozen part."""
        forward = self.frozen.native_rate()
        name, reason = self.engine, "asked for"
        if name == "auto" and (self.distribution or self.computing.name != "float32"):
            name, reason = "keras", "asked for with the precision or the devices"
        if name == "auto":
            whole = sum(block.macs for block in self.backbone.blocks)
            converted = worth_converting(self._images(), whole)
            name = "openvino" if converted else "keras"
            reason = "enough work to pay for a conversion" if converted else "little work"
        return planner.Measured(
            forward=forward,
            extract=forward if name == "keras" else forward / 2,
            pixels=int(np.prod(self.model.input_shape[1:3])),
            features=int(self.model.get_layer(POOL).output.shape[-1]),
            engine=name,
            reason=reason,
            step=2.0 if self.computing.rounded else 3.0,
        )

    def _images(self) -> int:
        """How many images the frozen part sees."""
        asked = (self.dataset.splits != "train").sum()
        return len(self.labels["train"]) * self.schedule.views + int(asked)

    def _kept_schedule(self) -> Schedule | None:
        """What a killed run had decided: its time budget must not be applied twice."""
        path = self.state / "schedule.json" if self.state else None
        if path is None or not path.exists():
            return None
        import json

        return Schedule.from_dict(json.loads(path.read_text()))

    def _keep_schedule(self) -> None:
        if self.state:
            files.write_json(self.state / "schedule.json", self.schedule.to_dict())

    def _extract(self) -> None:
        """All views of the training images and the clean validation images, up to the cut."""
        data, schedule = self.dataset, self.schedule
        train, validation = data.indices("train"), data.indices("val")
        # Thumbnails and the conversion for an engine hold one core each.
        with ThreadPoolExecutor(1) as aside:
            mirroring = aside.submit(self._may_mirror)
            clean = Views(data)
            self.validation_features, self.validation_inputs = self._view(clean, validation, 0)
            mirror, said = mirroring.result()
        if said:
            self.progress.note(said)
        views = views_for(data, schedule, mirror)
        self.features: list[np.ndarray] = []
        self.inputs: list[Inputs] = []
        for view in range(schedule.views):
            if view and self.random and self.plan.unfreeze and not self.frozen.cut:
                # Features of random weights are not worth a pass over every view.
                self.inputs.append(Recomputed(views, train, view, None))
                continue
            features, inputs = self._view(views, train, view, exact=False)
            self.features.append(features)
            self.inputs.append(inputs)

    def _view(
        self, views: Views, rows: np.ndarray, view: int, *, exact: bool = True
    ) -> tuple[np.ndarray, Inputs]:
        features, inputs = features_of_view(
            self.frozen, self.store, views, rows, view, self.progress, exact=exact
        )
        return features, inputs if self.raised is None else Raised(inputs, self.raised)

    def _between(self, base: tuple[str, ...], cut: tuple[str, ...]) -> Engine:
        """Runs the layers from a lower cut, or from the pixels, to an upper one."""
        if not base:
            return build_engine(keras.Model(self.model.input, tensors(self.model, cut)), "keras")
        new = [name for name in cut if name not in base]
        engine = build_engine(split(self.model, base, outputs=new)[1], "keras")

        def run(batch: Batch) -> list[np.ndarray]:
            # What is alive at both cuts passes by.
            held = dict(zip(base, batch if isinstance(batch, list) else [batch], strict=True))
            held |= zip(new, engine.run(batch), strict=True)
            return [held[name] for name in cut]

        return dataclasses.replace(engine, run=run)

    def _may_mirror(self) -> tuple[bool, str]:
        """Whether augmentation mirrors, and why where the data decides."""
        data, schedule = self.dataset, self.schedule
        if schedule.flip != "auto":
            return schedule.flip == "on", ""
        if schedule.views == 1 or not schedule.strength:
            return False, ""
        assert data.examples is not None
        train, validation = data.indices("train"), data.indices("val")
        return mirroring_is_safe(
            data.examples[train],
            self.labels["train"],
            data.examples[validation],
            self.labels["val"],
        )

    def _class_weights(self) -> np.ndarray:
        labels = self.labels["train"]
        if self.schedule.class_weights == "none":
            return np.ones(len(labels), np.float32)
        counts = np.bincount(labels, minlength=len(self.dataset.class_names))
        return (len(labels) / (len(counts) * counts[labels])).astype(np.float32)

    def _targets(self, phase: Phase) -> np.ndarray:
        labels, classes = self.labels["train"], len(self.dataset.class_names)
        targets = np.full((len(labels), classes), phase.label_smoothing / classes, np.float32)
        targets[np.arange(len(labels)), labels] += 1 - phase.label_smoothing
        return targets

    def _head(self) -> PhaseReport:
        """Solves the head, or trains it by gradient where it is not linear."""
        begun = time.monotonic()
        phase = self.schedule.head
        kept = self.state / "head.npz" if self.state else None
        row_bytes = self.features[0].nbytes
        views = max(1, min(len(self.features), _HEAD_BYTES // max(1, row_bytes)))
        standardise(self.model, self.features[0])
        if kept and kept.exists():
            with np.load(kept) as arrays:
                assign(self._head_variables(), [arrays[name] for name in sorted(arrays.files)])
            details: dict[str, Any] = {"resumed": True}
            epochs = 0
        elif phase.solver == "lbfgs":
            # The solver and the tracing of a step hold one core each.
            with ThreadPoolExecutor(1) as aside:
                solving = aside.submit(
                    self._solve_head, self.features[:views], self.validation_features
                )
                self._trace_fine_tuning()
                details, epochs = self._keep_head(solving.result())
        else:
            details, epochs = self._train_head(phase)
        if kept and not kept.exists():
            values = values_of(self._head_variables())
            with files.atomic_path(kept) as temporary, open(temporary, "wb") as stream:
                named: dict[str, Any] = {f"value-{i:03d}": v for i, v in enumerate(values)}
                np.savez(stream, **named)
        seconds = time.monotonic() - begun
        seen = epochs * len(self.labels["train"]) * (views if phase.solver == "lbfgs" else 1)
        self.features = []
        return PhaseReport("head", epochs, seconds, seen / max(seconds, 1e-9), True, details)

    def _head_variables(self) -> list[Any]:
        return [variable for layer in head_layers(self.model) for variable in layer.variables]

    def _solve_head(self, views: list[np.ndarray], validation: np.ndarray) -> heads.LinearHead:
        return heads.solve_linear_head(
            head_inputs(self.model, stack_views(views)),
            np.tile(self.labels["train"], len(views)),
            len(self.dataset.class_names),
            head_inputs(self.model, validation),
            self.labels["val"],
            sample_weights=np.tile(self._class_weights(), len(views)),
            label_smoothing=self.schedule.head.label_smoothing,
        )

    def _keep_head(self, solved: heads.LinearHead) -> tuple[dict[str, Any], int]:
        self.model.get_layer(LOGITS).set_weights([solved.kernel, solved.bias])
        self.progress.note(f"Head: penalty {solved.penalty:.2g}, {len(solved.path)} tried.")
        for number, (penalty, loss, _) in enumerate(solved.path, 1):
            row = {"phase": "head", "epoch": number, "validation_loss": loss, "penalty": penalty}
            self.progress.row(row)
        iterations = sum(step[2] for step in solved.path)
        details = {
            "penalty": solved.penalty,
            "validation_nll": solved.validation_nll,
            "path": [list(step) for step in solved.path],
        }
        return details, iterations

    def _train_head(self, phase: Phase) -> tuple[dict[str, Any], int]:
        top, logits = (self.model.get_layer(name).output for name in (POOL, LOGITS))
        suffix = self.steps.keep(self.model, (POOL,), phase, lambda: Suffix(top, logits))
        examples = self._examples(
            phase, [Array(part) for part in self.features], Array(self.validation_features)
        )
        done = self._gradient_phase(suffix, phase, examples, "head-phase.npz")
        if done.best is not None:
            assign(suffix.trainable_variables, done.best)
        return {"best_epoch": done.best_epoch}, done.epoch

    def _examples(self, phase: Phase, views: list[Any], validation: Inputs) -> Examples:
        return Examples(
            views=views,
            targets=self._targets(phase),
            weights=self._class_weights(),
            validation=validation,
            validation_labels=self.labels["val"],
        )

    def _gradient_phase(
        self, suffix: Suffix, phase: Phase, examples: Examples, checkpoint: str
    ) -> PhaseState:
        working = working_copy(suffix, self.computing.name, self.distribution)
        working.inference_mode = suffix.inference_mode
        working.rounded = self.computing.rounded
        done = train_phase(
            working,
            self._optimizer(working, phase),
            phase,
            examples,
            seed=self.seed,
            checkpoint=self.state / checkpoint if self.state else None,
            progress=self.progress,
            deadline=self.deadline,
            jit=self.policy.compile,
            distribution=self.distribution,
        )
        self.compiled.append(done)
        self.history += done.history
        return done

    def _optimizer(self, suffix: Suffix, phase: Phase) -> Callable[[int], Any]:
        return functools.partial(
            build_optimizer,
            phase,
            suffix,
            rate_groups(self.backbone.blocks),
            precision=self.computing.name,
            distribution=self.distribution,
        )

    def _suffix(self, phase: Phase) -> Suffix:
        """The part that the second phase trains, in the mode in which it trains."""
        suffix = self.steps.suffix(self.model, self.plan.cut, phase)
        suffix.inference_mode = phase.dropout == "off"
        if phase.batch_norm == "adapt":
            suffix.adapt_batch_norm()
        if phase.batch_norm == "train":
            train_batch_norm(suffix)
        return suffix

    def _trace_fine_tuning(self) -> None:
        """Traces the step of the second phase where it is to be the model's own, uncompiled."""
        phase = self.schedule.fine_tune
        copied = self.computing.name != "float32" or self.distribution is not None
        if phase is None or not self.plan.unfreeze or not phase.epochs:
            return
        if copied or self.policy.compile or self.random:
            return
        suffix = self._suffix(phase)
        suffix.rounded = self.computing.rounded
        examples = self._examples(phase, self.inputs, self.validation_inputs)
        trace_step(suffix, self._optimizer(suffix, phase), phase, examples)

    def _fine_tune(self) -> tuple[PhaseReport | None, tuple[Candidate, ...], np.ndarray]:
        """Trains the top blocks and keeps what validation prefers."""
        phase = self.schedule.fine_tune
        if phase is None or not self.plan.unfreeze or not phase.epochs:
            suffix = Suffix(self.model.get_layer(POOL).output, self.model.get_layer(LOGITS).output)
            self.top = build_engine(suffix, "keras")
            logits = predict_logits(self.top, Array(self.validation_features))
            _, candidates, _ = choose([], {}, lambda weights: logits, self.labels["val"])
            return None, candidates, logits
        begun = time.monotonic()
        suffix = self._suffix(phase)
        start = values_of(suffix.learned)
        if self.random:
            # A head solved on random features misleads the layers that begin to learn.
            assign(self._head_variables(), self.untrained_head)
        examples = self._examples(phase, self.inputs, self.validation_inputs)
        if self.random and phase.batch_norm == "train":
            some = np.random.default_rng(self.seed).permutation(len(self.labels["train"]))
            batch = self.inputs[0].gather(some[: phase.batch_size])
            start_statistics(suffix, batch if len(batch) > 1 else batch[0])
        done = self._gradient_phase(suffix, phase, examples, "fine-tune.npz")
        seconds = time.monotonic() - begun
        weights, candidates, logits = self._choose(suffix, start, done)
        assign(suffix.learned, weights)
        images = done.epoch * len(self.labels["train"])
        report = PhaseReport(
            "fine_tune",
            done.epoch,
            seconds,
            images / max(seconds, 1e-9),
            self.plan.cached and bool(self.plan.cut),
            {
                "unfrozen": list(self.plan.blocks),
                "best_epoch": done.best_epoch,
                "kept": candidates[0].name,
                "candidates": [dataclasses.asdict(candidate) for candidate in candidates],
            },
        )
        self.progress.note(_verdict(candidates))
        return report, candidates, logits

    def _choose(
        self, suffix: Suffix, start: list[np.ndarray], done: PhaseState
    ) -> tuple[list[np.ndarray], tuple[Candidate, ...], np.ndarray]:
        self.top = build_engine(suffix, "keras")
        ends: dict[str, Any] = {"last epoch": done.current}
        if done.best is not None and done.best_epoch != done.epoch:
            ends["best epoch"] = done.best
        if done.average is not None:
            ends["average"] = done.average

        def logits_of(weights: Any) -> np.ndarray:
            assign(suffix.learned, weights)
            return predict_logits(self.top, self.validation_inputs)

        with ThreadPoolExecutor(1) as aside:
            linear = self.schedule.head.solver == "lbfgs"
            new_head = functools.partial(self._new_head, suffix, aside) if linear else None
            return choose(start, ends, logits_of, self.labels["val"], new_head)

    def _new_head(
        self, suffix: Suffix, aside: ThreadPoolExecutor, weights: Sequence[np.ndarray]
    ) -> Callable[[], NewHead]:
        """Begins to solve the head again on the features of fine-tuned weights."""
        assign(suffix.learned, weights)
        views = planner.new_head_views(len(self.labels["train"]), len(self.inputs))
        features = [predict(self.top, inputs)[1] for inputs in self.inputs[:views]]
        validation = predict(self.top, self.validation_inputs)[1]
        solving = aside.submit(self._solve_head, features, validation)

        def wait() -> NewHead:
            solved = solving.result()
            head = self.model.get_layer(LOGITS).variables
            new = dict(zip(map(id, head), (solved.kernel, solved.bias), strict=True))
            replaced = [
                new.get(id(variable), value)
                for variable, value in zip(suffix.learned, weights, strict=True)
            ]
            return replaced, solved.logits(head_inputs(self.model, validation))

        return wait


def _verdict(candidates: tuple[Candidate, ...]) -> str:
    kept = candidates[0]
    head = next(candidate for candidate in candidates if candidate.name == "head")
    if kept is head:
        return "Kept the head alone: fine-tuning did not help on validation."
    return (
        f"Kept {kept.name}: validation NLL {kept.nll:.3f} and accuracy {kept.accuracy:.3f}, "
        f"the head alone {head.nll:.3f} and {head.accuracy:.3f}."
    )
