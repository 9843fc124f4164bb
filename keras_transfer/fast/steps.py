"""Training steps that call some layers in a cheaper way, or leave their state on the device."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transfer import fast
from keras_transfer.base.compute import accelerators
from keras_transfer.base.distribution import averaged, place
from keras_transfer.fast.gradients import cheap_calls
from keras_transfer.fast.resident import Resident


@dataclasses.dataclass
class StepRecord:
    """What a model's training step is compiled for, and what that has cost.

    Attributes:
        traced: how often Keras traced it, once for each replica.
        seconds: what the steps took that were traced, the steps themselves included.
        reported: the two as a phase has reported them already.
        compiled: the parts of a batch, XLA and rounding that it is compiled for, if it is.
        calls: while it is traced, what is called in place of layers, by their ``id``.
        epoch: the optimiser and the function of all steps of an epoch, see ``HeldSteps``.
        penalised: the weights in its penalty, each with the value that it is pulled to.
    """

    traced: int = 0
    seconds: float = 0.0
    reported: tuple[int, float] = (0, 0.0)
    compiled: tuple[int, bool, bool] | None = None
    calls: dict[int, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    epoch: tuple[Any, Callable[..., Any]] | None = None
    penalised: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)


class StepModel(keras.Model):
    """A functional model that counts how often its step is traced, and makes it cheaper.

    Attributes:
        rounded: whether gradients may be rounded, see ``gradients``.
        record: of its step.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.rounded = False
        self.record = StepRecord()

    def train_step(self, *arguments: Any) -> Any:
        """Keras's own step; its Python runs when the step is traced, and only then."""
        self.record.traced += 1
        on_tensorflow = keras.backend.backend() == "tensorflow"
        plain = self.jit_compile or accelerators() or not fast.enabled("Model._run_through_graph")
        if on_tensorflow and not plain:
            self.record.calls = cheap_calls(self, rounded=self.rounded)
        try:
            done = super().train_step(*arguments)
            return averaged(done) if on_tensorflow else done
        finally:
            self.record.calls = {}

    def _run_through_graph(
        self, inputs: Any, operation_fn: Any = lambda operation: operation, call_fn: Any = None
    ) -> Any:
        """Keras's own walk through the layers; in a step some are called in a cheaper way."""
        calls = self.record.calls if hasattr(self, "record") else {}

        def chosen(operation: Any) -> Any:
            return calls.get(id(operation)) or operation_fn(operation)

        return super()._run_through_graph(inputs, chosen if calls else operation_fn, call_fn)


class PlainSteps:
    """The steps of an epoch by Keras's ``train_on_batch``.

    Args:
        suffix: a model that is compiled.
    """

    def __init__(self, suffix: StepModel) -> None:
        self._suffix = suffix
        self._losses: list[Any] = []

    def take(self, rate: float, x: Any, y: Any, shares: Any) -> None:
        """Takes one step, or a part of one, at a learning rate; see ``Suffix.compute_loss``."""
        with _timed(self._suffix.record, lambda: None):
            self._suffix.optimizer.learning_rate.assign(rate)
            loss = self._suffix.train_on_batch(x, y, sample_weight=shares)
        self._losses.append(float(np.atleast_1d(loss)[0]))

    def end(self) -> float:
        """The mean loss of the steps taken."""
        return float(np.mean(self._losses)) if self._losses else float("nan")


class HeldSteps:
    """The steps of an epoch with JAX: weights and optimiser stay in the device's memory.

    Keras's ``train_on_batch`` takes them apart and waits for the device in every step, which for a
    deep network is more Python than a step takes on a GPU. They are the model's again at the end.

    Args:
        suffix: a model that is compiled.
    """

    # Steps that are handed to a device before the first of them must be done: their inputs lie in
    # its memory.
    _AHEAD = 2

    def __init__(self, suffix: StepModel) -> None:
        self._suffix = suffix
        self._losses: list[Any] = []
        self._variables: list[list[Any]] = []
        self._state: list[list[Any]] = []

    def take(self, rate: float, x: Any, y: Any, shares: Any) -> None:
        """As :meth:`PlainSteps.take`."""
        suffix = self._suffix
        with _timed(suffix.record, self._wait):
            if not self._losses:
                suffix.reset_metrics()
            place_of_rate = self._hold((x, y, shares))
            suffix.make_train_function()
            self._state[2][place_of_rate] = ops.convert_to_tensor(rate, "float32")
            logs, state = suffix.train_function(tuple(self._state), iter([(x, y, shares)]))
            self._state[:] = state
            self._losses.append(logs["loss"])
            if len(self._losses) > self._AHEAD:
                np.asarray(self._losses[-1 - self._AHEAD])

    def take_all(
        self, view: Resident, rates: np.ndarray, rows: np.ndarray, y: np.ndarray, shares: np.ndarray
    ) -> None:
        """Takes all steps of an epoch in one call of the device.

        Args:
            view: the inputs of all images.
            rates: the learning rates float32 ``[steps]``.
            rows: the images of each step int32 ``[steps, batch]``.
            y: their targets float32 ``[steps, batch, classes]``.
            shares: their shares float32 ``[steps, batch]``.
        """
        with _timed(self._suffix.record, self._wait):
            few = [
                keras.KerasTensor((rows.shape[1], *tensor.shape[1:]), str(tensor.dtype))
                for tensor in view.tensors
            ]
            rate = self._hold((few if len(few) > 1 else few[0], y[0], shares[0]))
            whole = _epoch_function(self._suffix, rate)
            sent = place((rates, rows, y, shares))
            loss, state = whole(tuple(self._state), view.tensors, sent)
            self._state[:] = state
            self._losses.append(loss)

    def end(self) -> Any:
        """Gives the values back, and the mean loss over the steps since Keras's metrics began.

        The device may still be computing them; whoever makes a float of the loss waits for it.
        """
        if not self._losses:
            return float("nan")
        for variables, values in zip(self._variables, self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return self._losses[-1]

    def _wait(self) -> None:
        np.asarray(self._losses[-1])

    def _hold(self, batch: tuple[Any, Any, Any]) -> int:
        """Takes the values over, once; the place of the rate among the optimiser's variables."""
        suffix, optimizer = self._suffix, self._suffix.optimizer
        if not self._variables:
            suffix._symbolic_build(data_batch=batch)
            weights = suffix.trainable_variables, suffix.non_trainable_variables
            self._variables += map(list, (*weights, optimizer.variables, suffix.metrics_variables))
            self._state += [[one.value for one in group] for group in self._variables]
        return [one is optimizer.learning_rate for one in optimizer.variables].index(True)


def begin_steps(suffix: StepModel) -> PlainSteps | HeldSteps:
    """Begins the steps of an epoch in the cheapest way for the backend."""
    on_jax = keras.backend.backend() == "jax"
    held = on_jax and fast.enabled("Model._symbolic_build")
    return HeldSteps(suffix) if held else PlainSteps(suffix)


def _epoch_function(suffix: StepModel, rate: int) -> Callable[..., Any]:
    """All steps of an epoch as one function for JAX, compiled once for a number of steps.

    Args:
        suffix: whose steps they are.
        rate: place of the learning rate among the optimiser's variables.

    Returns:
        A function of the state that Keras's ``train_step`` takes, which it gives away, of the
        tensors of all images, and of rates, rows, targets and shares, ``[steps, ...]`` each; it
        returns the mean loss and the new state.
    """
    import jax

    if suffix.record.epoch is None or suffix.record.epoch[0] is not suffix.optimizer:

        def whole(state: Any, tensors: Sequence[Any], batches: Any) -> tuple[Any, Any]:
            def one(state: Any, batch: Any) -> tuple[Any, Any]:
                at, rows, y, shares = batch
                state[2][rate] = at
                x = [ops.take(tensor, rows, axis=0) for tensor in tensors]
                logs, state = suffix.train_step(state, (x if len(x) > 1 else x[0], y, shares))
                return tuple(map(list, state)), logs["loss"]

            *learned, figures = state
            state = *learned, list(map(ops.zeros_like, figures))  # the loss is this epoch's mean
            state, losses = jax.lax.scan(one, state, batches)
            return losses[-1], state

        suffix.record.epoch = suffix.optimizer, jax.jit(whole, donate_argnums=0)
    return suffix.record.epoch[1]


@contextlib.contextmanager
def _timed(record: StepRecord, wait: Callable[[], None]) -> Iterator[None]:
    begun, traced = time.perf_counter(), record.traced
    yield
    if record.traced > traced:
        wait()
        record.seconds += time.perf_counter() - begun
