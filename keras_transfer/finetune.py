"""Training by gradient above a cut, on whatever supplies the inputs at that cut."""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from keras_transfer import calibration, files
from keras_transfer.engine import Engine, build_engine
from keras_transfer.progress import Progress
from keras_transfer.schedule import Phase

# How long a killed run may have to do again: writing after every short epoch would cost more.
CHECKPOINT_SECONDS = 10.0


class Inputs(Protocol):
    """What a phase trains on: the tensors at the cut of any images, by position."""

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """One array ``[rows, ...]`` for each tensor of the cut."""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The images of a phase.

    Attributes:
        views: the training inputs, one entry a view; epoch e sees view ``e mod len(views)``, the
            clean view 0 last so that a single epoch is an augmented one where there are several.
        targets: float32 ``[images, classes]``, rows summing to 1.
        weights: float32 ``[images]``, the weight of each image in the loss.
        validation: the inputs of the clean validation images.
        validation_labels: int64 ``[validation images]``.
    """

    views: Sequence[Inputs]
    targets: np.ndarray
    weights: np.ndarray
    validation: Inputs
    validation_labels: np.ndarray


class Suffix(keras.Model):
    """The part of a classifier above a cut, logits out, with the textbook objective.

    ``loss = sum_i s_i l_i(w) / sum_i s_i + lambda R(w)`` over a batch, in the letters of
    ``schedule.py``. ``lambda`` is a variable, so that another value needs no new compilation.
    """

    def adapt_batch_norm(self) -> None:
        """Lets BatchNorm's scale and offset train; its statistics stay, as do all other layers'.

        The model then runs in inference mode throughout, Dropout and stochastic depth off: in
        Keras a trainable BatchNormalization would otherwise use the batch's statistics.
        """
        self.inference_mode = True
        for layer in self.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = True

    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        """The logits of a batch of inputs at the cut."""
        if getattr(self, "inference_mode", False):
            training = False
        return super().call(inputs, training=training, mask=mask, **kwargs)

    @property
    def learned(self) -> list[Any]:
        """What training changes: the trainable variables, and the statistics of BatchNorm."""
        moving = [
            statistic
            for layer in self.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            for statistic in (layer.moving_mean, layer.moving_variance)
        ]
        return [*self.trainable_variables, *moving]

    def regularise(self, penalty: str, strength: float) -> None:
        """Sets R(w) to ``l2``, ``l2-sp`` or ``none``, of kernels alone, and lambda."""
        self.penalty_strength = keras.Variable(strength, trainable=False, name="penalty_strength")
        self.penalised: list[tuple[Any, Any]] = []
        if penalty == "none":
            return
        for variable in self.trainable_variables:
            if "kernel" in variable.path.rsplit("/", 1)[-1]:
                # The head has no pretrained values worth keeping: plain L2.
                pulled = penalty == "l2-sp" and not variable.path.startswith("logits")
                start = ops.convert_to_numpy(variable) if pulled else np.float32(0)
                self.penalised.append((variable, start))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Scalar loss of a batch; ``y`` are target distributions and ``y_pred`` logits."""
        losses = ops.categorical_crossentropy(y, y_pred, from_logits=True)
        loss = ops.sum(losses * sample_weight) / ops.maximum(ops.sum(sample_weight), 1e-6)
        for variable, start in self.penalised:
            loss = loss + self.penalty_strength * ops.sum(ops.square(variable - start))
        return loss


class _BlockRates:
    """Mixin of an optimiser: a factor on the rate for each variable, and decoupled decay with it.

    Keras decays weights at one rate for all; a block that trains slower must decay slower too.
    """

    def set_rates(self, factors: Sequence[float], decayed: Sequence[bool], decay: float) -> None:
        self.factors = keras.Variable(
            np.asarray(factors, np.float32), trainable=False, name="rate_factors"
        )
        self.decayed = [bool(flag) for flag in decayed]
        self.decay = keras.Variable(float(decay), trainable=False, name="decoupled_decay")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        rate = ops.cast(learning_rate, "float32") * self.factors[index]
        if self.decayed[index]:
            shrink = ops.cast(rate * self.decay, variable.dtype)
            self.assign_sub(variable, variable * shrink)  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]


class _Adam(_BlockRates, keras.optimizers.Adam):
    pass


class _SGD(_BlockRates, keras.optimizers.SGD):
    pass


def build_optimizer(phase: Phase, suffix: keras.Model, depths: dict[str, int]) -> Any:
    """The optimiser of a phase, with a rate for each block.

    Args:
        phase: names the solver, the decay and the clipping.
        suffix: the model that trains.
        depths: for each layer its block's distance from the top, 0 for the head and the topmost
            block; a layer that is not named counts as 0.
    """
    common: dict[str, Any] = {
        "name": phase.solver,
        "learning_rate": phase.learning_rate,
        "global_clipnorm": phase.clip_norm or None,
        "use_ema": bool(phase.ema),
    }
    if phase.ema:
        common["ema_momentum"] = phase.ema
    if phase.solver == "sgd":
        optimizer: Any = _SGD(momentum=0.9, nesterov=True, **common)
    else:
        optimizer = _Adam(**common)
    variables = suffix.trainable_variables
    optimizer.set_rates(
        [phase.rate_decay ** depths.get(v.path.split("/")[0], 0) for v in variables],
        ["kernel" in v.path.rsplit("/", 1)[-1] for v in variables],
        phase.weight_decay,
    )
    optimizer.build(variables)
    return optimizer


@dataclasses.dataclass
class PhaseState:
    """Where a phase stands after a whole epoch; what a checkpoint holds.

    Attributes:
        epoch: epochs done.
        history: one row an epoch.
        best_epoch: the epoch with the lowest calibrated validation NLL, from 1; 0 before any.
        best: ``Suffix.learned`` at that epoch, as the next two.
        average: moving average of the weights, where the phase keeps one.
        current: weights now.
        steps: optimiser steps done.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_nll: float = float("inf")
    best: list[np.ndarray] | None = None
    average: list[np.ndarray] | None = None
    current: list[np.ndarray] | None = None
    steps: int = 0


def train_phase(
    suffix: Suffix,
    optimizer: Any,
    phase: Phase,
    examples: Examples,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    deadline: float | None = None,
    jit: bool = False,
) -> PhaseState:
    """Trains the suffix and leaves it at its last weights.

    Args:
        suffix: the model above the cut; its trainable variables train.
        optimizer: from :func:`build_optimizer`.
        phase: epochs, batch size, rates and the rest.
        examples: what it trains and is validated on.
        seed: order of the images and mixing; each epoch draws from its own stream, so that a
            resumed phase goes on as one never stopped.
        checkpoint: a file that receives the state after epochs, and from which a killed run goes
            on; None for none.
        progress: where to report.
        deadline: ``time.monotonic()`` after which no epoch is begun that would end later.
        jit: whether XLA compiles the step.

    Returns:
        The state after the last epoch.
    """
    progress = progress or Progress()
    suffix.compile(optimizer=optimizer, jit_compile=jit)
    state = _restore(checkpoint, suffix, optimizer) if checkpoint else PhaseState()
    steps = -(-len(examples.targets) // phase.batch_size)
    engine = build_engine(suffix, "keras")
    saved = time.monotonic()
    with progress.step(phase.name.replace("_", "-"), phase.epochs) as advance:
        advance(state.epoch)
        while state.epoch < phase.epochs:
            start = time.monotonic()
            _train_epoch(suffix, optimizer, phase, examples, state, steps, seed)
            _validate(suffix, engine, phase, examples, state)
            seconds = time.monotonic() - start
            row = state.history[-1]
            row["seconds"] = round(seconds, 3)
            advance(1, f"validation accuracy {row['validation_accuracy']:.3f}")
            due = time.monotonic() - saved > CHECKPOINT_SECONDS or state.epoch == phase.epochs
            if checkpoint and due:
                _save(checkpoint, state, suffix, optimizer)
                saved = time.monotonic()
            if phase.patience and state.epoch - state.best_epoch >= phase.patience:
                break
            if deadline is not None and time.monotonic() + seconds > deadline:
                progress.note(f"Out of time after epoch {state.epoch} of {phase.epochs}.")
                break
    state.current = values_of(suffix.learned)
    if phase.ema:
        # Keras writes the average into the weights; they are put back for the caller to choose.
        optimizer.finalize_variable_values(suffix.trainable_variables)
        state.average = values_of(suffix.learned)
        assign(suffix.learned, state.current)
    return state


def _train_epoch(
    suffix: Suffix,
    optimizer: Any,
    phase: Phase,
    examples: Examples,
    state: PhaseState,
    steps: int,
    seed: int,
) -> None:
    # The clean view comes last in the round: with fewer epochs than views, more variety is seen.
    views = examples.views
    view = views[(state.epoch + 1) % len(views)]
    losses, rate = [], 0.0
    for x, y, weight in prefetch(_batches(view, examples, phase, [seed, state.epoch])):
        rate = phase.rate(state.steps, steps * phase.epochs)
        optimizer.learning_rate.assign(rate)
        losses.append(suffix.train_on_batch(x, y, sample_weight=weight))
        state.steps += 1
    state.epoch += 1
    loss = float(np.mean([np.atleast_1d(value)[0] for value in losses]))
    state.history.append(
        {
            "phase": phase.name,
            "epoch": state.epoch,
            "step": state.steps,
            "learning_rate": rate,
            "train_loss": loss,
        }
    )


def _validate(
    suffix: Suffix, engine: Engine, phase: Phase, examples: Examples, state: PhaseState
) -> None:
    logits = predict_logits(engine, examples.validation)
    labels = examples.validation_labels
    temperature = calibration.fit_temperature(logits, labels)
    calibrated = calibration.nll(logits, labels, temperature)
    state.history[-1] |= {
        "validation_loss": calibration.nll(logits, labels),
        "validation_calibrated_loss": calibrated,
        "validation_accuracy": float((logits.argmax(axis=1) == labels).mean()),
    }
    if calibrated < state.best_nll:
        state.best_nll, state.best_epoch = calibrated, state.epoch
        state.best = values_of(suffix.learned)


def predict_logits(engine: Engine, inputs: Inputs, batch_size: int = 64) -> np.ndarray:
    """Logits float32 ``[images, classes]`` of all inputs, in order."""
    rows = np.arange(len(inputs))
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = inputs.gather(rows[start : start + batch_size])
        parts.append(engine.run(batch if len(batch) > 1 else batch[0])[0])
    return np.concatenate(parts)


def _batches(
    view: Inputs, examples: Examples, phase: Phase, seed: list[int]
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Shuffled batches of one static shape: the last is filled up with images of weight zero."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(examples.targets))
    size = phase.batch_size
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        weight = examples.weights[rows].astype(np.float32)
        if len(rows) < size:
            weight = np.concatenate([weight, np.zeros(size - len(rows), np.float32)])
            rows = np.concatenate([rows, np.resize(order, size - len(rows))])
        tensors, targets = view.gather(rows), examples.targets[rows]
        if phase.mixup or phase.cutmix:
            tensors, targets = _mix(draw, tensors, targets, phase)
        yield (tensors if len(tensors) > 1 else tensors[0]), targets, weight


def _mix(
    draw: np.random.Generator, tensors: list[np.ndarray], targets: np.ndarray, phase: Phase
) -> tuple[list[np.ndarray], np.ndarray]:
    """MixUp or CutMix of a batch with a shuffled copy of itself."""
    partner = draw.permutation(len(targets))
    cut = phase.cutmix > 0 and (phase.mixup == 0 or draw.random() < 0.5)
    alpha = phase.cutmix if cut else phase.mixup
    share = float(draw.beta(alpha, alpha))
    if not cut or any(tensor.ndim != 4 for tensor in tensors):
        mixed = [
            (share * tensor.astype(np.float32) + (1 - share) * tensor[partner]).astype(np.float32)
            for tensor in tensors
        ]
        return mixed, share * targets + (1 - share) * targets[partner]
    side = np.sqrt(1 - share)
    centre = draw.random(2)
    mixed = []
    for tensor in tensors:
        height, width = tensor.shape[1:3]
        top, bottom = _span(centre[0], side, height)
        left, right = _span(centre[1], side, width)
        pasted = tensor.copy()
        pasted[:, top:bottom, left:right] = tensor[partner, top:bottom, left:right]
        mixed.append(pasted)
        # The share of the pixels, not of the draw: a box may hang over the edge.
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, (share * targets + (1 - share) * targets[partner]).astype(np.float32)


def _span(centre: float, side: float, length: int) -> tuple[int, int]:
    low = round((centre - side / 2) * length)
    high = round((centre + side / 2) * length)
    return max(0, low), min(length, high)


def prefetch(batches: Iterator[Any], depth: int = 2) -> Iterator[Any]:
    """Prepares the next batches in a thread while the step computes on the present one."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    end = object()

    def offer(item: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                offer(batch)
                if stop.is_set():
                    return
            offer(end)
        except BaseException as error:
            offer(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    """Copies of the variables' values."""
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Sets the variables to the values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def between(
    start: Sequence[np.ndarray], end: Sequence[np.ndarray], share: float
) -> list[np.ndarray]:
    """Weights on the line from ``start`` (share 0) to ``end`` (share 1)."""
    return [(1 - share) * a + share * b for a, b in zip(start, end, strict=True)]


def _everything(suffix: Suffix, optimizer: Any) -> list[Any]:
    """Every variable that a step changes, the seeds of Dropout among them."""
    held = {id(variable): variable for variable in [*suffix.variables, *optimizer.variables]}
    for layer in suffix._flatten_layers():
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            held[id(generator.state)] = generator.state
    return list(held.values())


def _save(path: Path, state: PhaseState, suffix: Suffix, optimizer: Any) -> None:
    arrays: dict[str, Any] = {
        f"variable-{i}": value for i, value in enumerate(values_of(_everything(suffix, optimizer)))
    }
    arrays |= {f"best-{i}": value for i, value in enumerate(state.best or [])}
    arrays["scalars"] = np.array([state.epoch, state.steps, state.best_epoch, state.best_nll])
    arrays["history"] = np.array(json.dumps(files.plain(state.history)))
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


def _restore(path: Path, suffix: Suffix, optimizer: Any) -> PhaseState:
    """The state of a checkpoint, its variables assigned; a fresh state where there is none."""
    if not path.exists():
        return PhaseState()
    with np.load(path, allow_pickle=False) as arrays:
        variables = _everything(suffix, optimizer)
        assign(variables, [arrays[f"variable-{i}"] for i in range(len(variables))])
        best = [arrays[f"best-{i}"] for i in range(len(suffix.learned))]
        epoch, steps, best_epoch, best_nll = arrays["scalars"]
        history = json.loads(str(arrays["history"]))
    return PhaseState(int(epoch), history, int(best_epoch), float(best_nll), best, steps=int(steps))
