"""Training by gradient above a cut, on whatever supplies the inputs at that cut."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transfer.base import files
from keras_transfer.base.compute import accelerators, out_of_memory
from keras_transfer.base.distribution import Distribution, place
from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.base.threads import prefetch
from keras_transfer.base.types import Inputs
from keras_transfer.fast.gradients import cheap_calls
from keras_transfer.fast.resident import Resident, free_room, resident
from keras_transfer.frozen.engine import Engine, keras_engine
from keras_transfer.learn import calibration
from keras_transfer.learn.batches import Examples, batches, epoch
from keras_transfer.schedule import Phase

# How long a killed run may have to do again: writing after every short epoch would cost more.
CHECKPOINT_SECONDS = 10.0


class Suffix(keras.Model):
    """The part of a classifier above a cut, with the textbook objective.

    Its first output is the logits, or they are the only one.

    ``loss = sum_i s_i l_i(w) / sum_i s_i + lambda R(w)`` over a batch, in the letters of
    ``schedule.py``. ``lambda`` is a variable, so that another value needs no new compilation.

    Attributes:
        inference_mode: whether Dropout and stochastic depth are off, and BatchNorm's statistics
            left alone, in training too.
        rounded: whether gradients may be rounded, see ``devices.Precision``.
        replicas: how many parts of a batch a step computes apart and adds up.
        compile_seconds: what the steps took that were traced, the steps themselves included.
        prepared: the parts of a batch, XLA and rounding that the step is compiled for, if it is.
        reported: the compilations, and their seconds, that a phase has reported already.
    """

    inference_mode = False
    rounded = False
    replicas = 1
    compile_seconds = 0.0
    reported = (0, 0.0)
    _traced = 0
    _calls: dict[int, Callable[..., Any]] | None = None
    penalty_strength: Any = None
    _penalty = ""
    prepared: tuple[int, bool, bool] | None = None
    _whole: tuple[Any, Callable[..., Any]] | None = None

    @property
    def compilations(self) -> int:
        """How often a step was traced."""
        return self._traced // self.replicas

    def train_step(self, *arguments: Any) -> Any:
        """Keras's own step; its Python runs when the step is traced, and only then."""
        self._traced += 1
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if on_tensorflow and not self.jit_compile and not accelerators():
            self._calls = cheap_calls(self, rounded=self.rounded)
        try:
            return super().train_step(*arguments)
        finally:
            self._calls = None

    def _run_through_graph(
        self, inputs: Any, operation_fn: Any = lambda operation: operation, call_fn: Any = None
    ) -> Any:
        """Keras's own walk through the layers; in a step some are called in a cheaper way."""
        calls = self._calls
        if not calls:
            return super()._run_through_graph(inputs, operation_fn, call_fn)

        def chosen(operation: Any) -> Any:
            return calls.get(id(operation)) or operation_fn(operation)

        return super()._run_through_graph(inputs, chosen, call_fn)

    def epoch_function(self, rate: int) -> Callable[..., Any]:
        """All steps of an epoch as one function for JAX, compiled once for a number of steps.

        Args:
            rate: place of the learning rate among the optimiser's variables.

        Returns:
            A function of the state that Keras's ``train_step`` takes, which it gives away, of the
            tensors of all images, and of rates, rows, targets and shares, ``[steps, ...]`` each;
            it returns the mean loss and the new state.
        """
        import jax

        if self._whole is None or self._whole[0] is not self.optimizer:

            def whole(state: Any, tensors: list[Any], batches: Any) -> tuple[Any, Any]:
                def one(state: Any, batch: Any) -> tuple[Any, Any]:
                    at, rows, y, shares = batch
                    state[2][rate] = at
                    x = [ops.take(tensor, rows, axis=0) for tensor in tensors]
                    logs, state = self.train_step(state, (x if len(x) > 1 else x[0], y, shares))
                    return tuple(map(list, state)), logs["loss"]

                state, losses = jax.lax.scan(one, state, batches)
                return losses[-1], state

            self._whole = self.optimizer, jax.jit(whole, donate_argnums=0)
        return self._whole[1]

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
        """The outputs for a batch of inputs at the cut."""
        if self.inference_mode:
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
        if penalty == self._penalty:
            self.penalty_strength.assign(strength)
            return
        self._penalty = penalty
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

    def prepare(self, make: Callable[[int], Any], parts: int, jit: bool) -> Any:
        """Compiles the step; one that is compiled starts again from a fresh optimiser's values.

        Args:
            make: makes an optimiser for a number of parts of a batch; of the same kind each time.
            parts: that number.
            jit: whether XLA compiles the step.

        Returns:
            The optimiser of the step.
        """
        fresh = make(parts)
        compiled = parts, jit, self.rounded
        if self.prepared == compiled:
            assign(self.optimizer.variables, values_of(fresh.variables))
            return self.optimizer
        self.compile(optimizer=fresh, jit_compile=jit)
        self.prepared = compiled
        return fresh

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Scalar loss of a batch, or of one replica's part of it.

        ``y`` are target distributions, ``y_pred`` the outputs, and ``sample_weight`` each image's
        share ``s_i / sum_i s_i`` of the whole batch's loss, so that parts add up.
        """
        logits = y_pred[0] if isinstance(y_pred, (list, tuple)) else y_pred
        losses = ops.categorical_crossentropy(y, ops.cast(logits, "float32"), from_logits=True)
        loss = ops.sum(losses * sample_weight)
        for variable, start in self.penalised:
            pulled = ops.sum(ops.square(variable - start))
            loss = loss + self.penalty_strength / self.replicas * pulled
        return loss


class Stepping:
    """The steps of an epoch, as a context; the weights are the model's again after its end.

    With JAX weights and optimiser stay in the device's memory as a step returned them, until the
    context ends: Keras's ``train_on_batch`` takes them apart and waits for the device in every
    step, which for a deep network is more Python than a step takes on a GPU.

    Args:
        suffix: a model that is compiled.

    Attributes:
        loss: mean loss of the steps, once the context has ended.
    """

    # Steps that are handed to a device before the first of them must be done: their inputs lie in
    # its memory.
    _AHEAD = 2

    def __init__(self, suffix: Suffix) -> None:
        self.suffix, self.loss = suffix, float("nan")
        self._held = keras.backend.backend() == "jax"
        self._losses: list[Any] = []
        self._variables: list[list[Any]] = []
        self._state: tuple[list[Any], ...] = ()
        self._rate = 0

    def __enter__(self) -> Stepping:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        # Where a step failed, JAX may have given the values away; the variables are as before.
        if kind is not None or not self._losses:
            return
        if self._held:
            # Keras's own mean over the steps since its metrics were reset.
            self.loss = float(self._losses[-1])
            for variables, values in zip(self._variables, self._state, strict=True):
                assign(variables, values)
        else:
            self.loss = float(np.mean(self._losses))

    def take(self, rate: float, x: Any, y: Any, shares: Any) -> None:
        """Takes one step, or a part of one, at a learning rate; see ``Suffix.compute_loss``."""
        suffix = self.suffix
        with self._timed():
            if self._held:
                self._hold((x, y, shares))
                suffix.make_train_function()
                self._state[2][self._rate] = ops.convert_to_tensor(rate, "float32")
                logs, self._state = suffix.train_function(self._state, iter([(x, y, shares)]))
                self._losses.append(logs["loss"])
                if len(self._losses) > self._AHEAD:
                    np.asarray(self._losses[-1 - self._AHEAD])
            else:
                suffix.optimizer.learning_rate.assign(rate)
                loss = suffix.train_on_batch(x, y, sample_weight=shares)
                self._losses.append(float(np.atleast_1d(loss)[0]))

    def take_all(
        self, view: Resident, rates: np.ndarray, rows: np.ndarray, y: np.ndarray, shares: np.ndarray
    ) -> None:
        """Takes all steps of an epoch in one call of the device; with JAX alone.

        Args:
            view: the inputs of all images.
            rates: the learning rates float32 ``[steps]``.
            rows: the images of each step int32 ``[steps, batch]``.
            y: their targets float32 ``[steps, batch, classes]``.
            shares: their shares float32 ``[steps, batch]``.
        """
        suffix, tensors = self.suffix, view.tensors
        with self._timed():
            few = [ops.take(tensor, rows[0], axis=0) for tensor in tensors]
            self._hold((few if len(few) > 1 else few[0], y[0], shares[0]))
            whole = suffix.epoch_function(self._rate)
            loss, self._state = whole(self._state, tensors, (rates, rows, y, shares))
            self._losses.append(loss)

    def wait(self) -> None:
        """Returns when the last step is done."""
        np.asarray(self._losses[-1])

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        suffix = self.suffix
        begun, traced = time.perf_counter(), suffix._traced
        yield
        if suffix._traced > traced:
            self.wait()
            suffix.compile_seconds += time.perf_counter() - begun

    def _hold(self, batch: tuple[Any, Any, Any]) -> None:
        """Takes the values over from the variables, once."""
        if self._variables:
            return
        suffix, optimizer = self.suffix, self.suffix.optimizer
        suffix._symbolic_build(data_batch=batch)
        suffix.reset_metrics()
        self._variables = [
            list(suffix.trainable_variables),
            list(suffix.non_trainable_variables),
            list(optimizer.variables),
            list(suffix.metrics_variables),
        ]
        self._state = tuple([one.value for one in group] for group in self._variables)
        self._rate = [one is optimizer.learning_rate for one in optimizer.variables].index(True)


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
        compilations: how often a step was traced, once for each shape of a batch.
        compile_seconds: what those steps took.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_nll: float = float("inf")
    best: list[np.ndarray] | None = None
    average: list[np.ndarray] | None = None
    current: list[np.ndarray] | None = None
    steps: int = 0
    compilations: int = 0
    compile_seconds: float = 0.0


def train_phase(
    suffix: Suffix,
    optimizer: Callable[[int], Any],
    phase: Phase,
    examples: Examples,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    deadline: float | None = None,
    jit: bool = False,
    distribution: Distribution | None = None,
) -> PhaseState:
    """Trains the suffix and leaves it at its last weights.

    A batch that does not fit the device's memory is halved, and halved again, and the gradients
    of its parts are added up before a step: the effective batch stays what the phase says.

    Args:
        suffix: the model above the cut; its trainable variables train.
        optimizer: makes the optimiser for a number of parts of a batch, as
            ``optimizers.build_optimizer`` does.
        phase: epochs, batch size, rates and the rest.
        examples: what it trains and is validated on.
        seed: order of the images and mixing; each epoch draws from its own stream, so that a
            resumed phase goes on as one never stopped.
        checkpoint: a file that receives the state after epochs, and from which a killed run goes
            on; None for none.
        progress: where to report.
        deadline: ``time.monotonic()`` after which no epoch is begun that would end later.
        jit: whether XLA compiles the step.
        distribution: the devices that the suffix lives on; None for one.

    Returns:
        The state after the last epoch.

    Raises:
        UsageError: fewer images in a batch than devices, or a single image does not fit.
    """
    with distribution.scope() if distribution else contextlib.nullcontext():
        suffix.regularise(phase.penalty, phase.penalty_strength)
        loop = _Loop(suffix, optimizer, phase, examples, seed, checkpoint, jit, distribution)
        return loop.run(progress or Progress(), deadline)


def trace_step(
    suffix: Suffix, optimizer: Callable[[int], Any], phase: Phase, examples: Examples
) -> None:
    """Traces what :func:`train_phase` will run on a CPU, its step and inference, beforehand.

    Tracing holds one core for seconds, so it is worth doing while something else holds the other:
    one step is taken at a rate of 0, and all that it changes is put back. A suffix whose step
    exists is left alone, and so is one for JAX, which compiles a whole epoch.

    Args:
        suffix: as in :func:`train_phase`, as the next three.
        optimizer: makes the optimiser.
        phase: what is compiled into the step.
        examples: of which a batch is taken.
    """
    on_cpu = keras.backend.backend() == "tensorflow" and not accelerators()
    if suffix.prepared or not on_cpu:
        return
    suffix.regularise(phase.penalty, phase.penalty_strength)
    suffix.prepare(optimizer, 1, jit=False)
    before = values_of(_changing(suffix))
    batch = next(batches(examples.views[0], examples, phase, [0, 0]))
    x, *rest = _divide(place(batch), 1)[0]
    try:
        with Stepping(suffix) as stepping:
            stepping.take(0.0, x, *rest)
        keras_engine(suffix).run(x)
    except Exception as error:
        # The phase itself will find smaller parts.
        if not out_of_memory(error):
            raise
    assign(_changing(suffix), before)


class _Loop:
    """A phase under way; the arguments are those of :func:`train_phase`."""

    def __init__(
        self,
        suffix: Suffix,
        optimizer: Callable[[int], Any],
        phase: Phase,
        examples: Examples,
        seed: int,
        checkpoint: Path | None,
        jit: bool,
        distribution: Distribution | None,
    ) -> None:
        self.suffix, self.phase, self.examples, self.seed = suffix, phase, examples, seed
        self.checkpoint, self.jit, self.distribution = checkpoint, jit, distribution
        self._make, self._parts = optimizer, 1
        devices = len(distribution) if distribution else 1
        if devices > phase.batch_size:
            raise UsageError(
                f"A batch of {phase.batch_size} images cannot be shared by {devices} devices.",
                remedy=f"Use --batch-size {devices} or more, or fewer --devices.",
            )
        suffix.replicas = distribution.replicas if distribution else 1
        mixed = phase.mixup or phase.cutmix
        room = 0 if mixed or distribution else free_room()
        self._views = resident(examples.views, room)
        self._begin()

    def _begin(self) -> None:
        """Makes the optimiser, and takes up the state of the checkpoint if there is one."""
        self.optimizer = self.suffix.prepare(self._make, self._parts, self.jit)
        self.state = PhaseState()
        if self.checkpoint:
            self.state = _restore(self.checkpoint, self.suffix, self.optimizer)

    def run(self, progress: Progress, deadline: float | None) -> PhaseState:
        phase, suffix = self.phase, self.suffix
        engine = keras_engine(suffix, self.distribution)
        saved = time.monotonic()
        with progress.step(phase.name.replace("_", "-"), phase.epochs) as advance:
            advance(self.state.epoch)
            fits = False
            while self.state.epoch < phase.epochs:
                start = time.monotonic()
                self._epoch() if fits else self._first_epoch(progress)
                fits = True
                state = self.state
                _validate(suffix, engine, phase, self.examples, state)
                seconds = time.monotonic() - start
                row = state.history[-1]
                row["seconds"] = round(seconds, 3)
                progress.row(row)
                advance(1, f"validation accuracy {row['validation_accuracy']:.3f}")
                due = time.monotonic() - saved > CHECKPOINT_SECONDS or state.epoch == phase.epochs
                if self.checkpoint and due:
                    _save(self.checkpoint, state, suffix, self.optimizer)
                    saved = time.monotonic()
                if phase.patience and state.epoch - state.best_epoch >= phase.patience:
                    break
                if deadline is not None and time.monotonic() + seconds > deadline:
                    progress.note(f"Out of time after epoch {state.epoch} of {phase.epochs}.")
                    break
        state = self.state
        state.current = values_of(suffix.learned)
        if phase.ema:
            # Keras writes the average into the weights; they are put back for the caller to choose.
            self.optimizer.finalize_variable_values(suffix.trainable_variables)
            state.average = values_of(suffix.learned)
            assign(suffix.learned, state.current)
        compilations, seconds = suffix.reported
        suffix.reported = suffix.compilations, suffix.compile_seconds
        state.compilations = suffix.compilations - compilations
        state.compile_seconds = suffix.compile_seconds - seconds
        return state

    def _first_epoch(self, progress: Progress) -> None:
        """An epoch whose batches are halved until they fit; all have one shape, so the rest do."""
        before = values_of(_changing(self.suffix))
        while True:
            try:
                return self._epoch()
            except Exception as error:
                if not out_of_memory(error):
                    raise
            size = self.phase.batch_size
            devices = len(self.distribution) if self.distribution else 1
            if -(-size // self._parts) <= devices or self.suffix.replicas > 1:
                raise UsageError(
                    f"The device's memory is too small for a step of {size} images"
                    f"{f' in {self._parts} parts' if self._parts > 1 else ''}.",
                    remedy="Use a smaller --batch-size, a smaller --image-size, or --unfreeze "
                    "fewer blocks.",
                )
            self._parts *= 2
            progress.note(
                f"Out of memory: batches of {size} are computed in {self._parts} parts of "
                f"{-(-size // self._parts)}, their gradients added up."
            )
            # JAX gives a step's inputs away, and with them the weights where it fails.
            assign(_changing(self.suffix), before)
            self._begin()

    def _epoch(self) -> None:
        phase, state, examples = self.phase, self.state, self.examples
        # The clean view comes last in the round: with fewer epochs than views, more is seen.
        view = self._views[(state.epoch + 1) % len(self._views)]
        seed = [self.seed, state.epoch]
        steps = -(-len(examples.targets) // phase.batch_size)
        rates = [phase.rate(state.steps + i, steps * phase.epochs) for i in range(steps)]
        begun = time.perf_counter()
        with Stepping(self.suffix) as stepping:
            if isinstance(view, Resident) and self._parts == 1:
                stepping.take_all(view, np.array(rates, np.float32), *epoch(examples, phase, seed))
                waited = 0.0
            else:
                waited = self._stream(stepping, view, rates, seed)
        state.steps += steps
        state.epoch += 1
        state.history.append(
            {
                "phase": phase.name,
                "epoch": state.epoch,
                "step": state.steps,
                "learning_rate": rates[-1],
                "train_loss": stepping.loss,
                "input_wait": round(waited / max(time.perf_counter() - begun, 1e-9), 4),
            }
        )

    def _stream(
        self, stepping: Stepping, view: Inputs, rates: list[float], seed: list[int]
    ) -> float:
        """Takes an epoch's steps on batches prepared meanwhile; the seconds that it waited."""
        send = self.distribution.place if self.distribution else place
        multiple = self._parts * (len(self.distribution) if self.distribution else 1)
        drawn = batches(view, self.examples, self.phase, seed, multiple)
        waited = 0.0
        ahead = prefetch(send(_divide(batch, self._parts)) for batch in drawn)
        with contextlib.closing(ahead):
            for rate in rates:
                asked = time.perf_counter()
                parts = next(ahead)
                waited += time.perf_counter() - asked
                for part in parts:
                    stepping.take(rate, *part)
        return waited


def _divide(batch: tuple[list[np.ndarray], Any, Any], parts: int) -> list[tuple[Any, Any, Any]]:
    """Equal parts of a batch; a step takes the mean of their gradients, hence the factor."""
    tensors, targets, shares = batch
    size = len(targets) // parts
    rows = [slice(i * size, (i + 1) * size) for i in range(parts)]
    return [
        (
            [tensor[r] for tensor in tensors] if len(tensors) > 1 else tensors[0][r],
            targets[r],
            shares[r] * parts,
        )
        for r in rows
    ]


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


def predict_logits(engine: Engine, inputs: Inputs) -> np.ndarray:
    """Logits float32 ``[images, classes]`` of all inputs, in order."""
    return predict(engine, inputs)[0]


def predict(engine: Engine, inputs: Inputs, batch_size: int = 64) -> list[np.ndarray]:
    """The outputs float32 ``[images, ...]`` for all inputs, in order."""
    rows = np.arange(len(inputs))
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = inputs.gather(rows[start : start + batch_size])
        parts.append(engine.run(batch if len(batch) > 1 else batch[0]))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


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


def _changing(suffix: Suffix) -> list[Any]:
    """Every variable of the model that a step changes, the seeds of Dropout among them."""
    held = {id(variable): variable for variable in suffix.variables}
    for layer in suffix._flatten_layers():
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            held[id(generator.state)] = generator.state
    return list(held.values())


def _everything(suffix: Suffix, optimizer: Any) -> list[tuple[Any, int]]:
    """Every variable that a step changes, with what its value counts in.

    Sums of the parts of a batch are left out, being zero between batches, and the optimiser counts
    its parts, of which there may be another number when a killed run goes on.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    sums = {id(variable) for variable in getattr(inner, "_accumulated_gradients", None) or ()}
    held = {id(variable): variable for variable in [*_changing(suffix), *optimizer.variables]}
    parts = inner.gradient_accumulation_steps or 1
    return [
        (variable, parts if variable is inner._iterations else 1)
        for key, variable in held.items()
        if key not in sums
    ]


def _save(path: Path, state: PhaseState, suffix: Suffix, optimizer: Any) -> None:
    arrays: dict[str, Any] = {
        f"variable-{i}": values_of([variable])[0] // unit if unit > 1 else values_of([variable])[0]
        for i, (variable, unit) in enumerate(_everything(suffix, optimizer))
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
        for i, (variable, unit) in enumerate(_everything(suffix, optimizer)):
            variable.assign(arrays[f"variable-{i}"] * unit if unit > 1 else arrays[f"variable-{i}"])
        best = [arrays[f"best-{i}"] for i in range(len(suffix.learned))]
        epoch, steps, best_epoch, best_nll = arrays["scalars"]
        history = json.loads(str(arrays["history"]))
    return PhaseState(int(epoch), history, int(best_epoch), float(best_nll), best, steps=int(steps))
