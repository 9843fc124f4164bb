"""The part of a classifier that trains: everything above a cut."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transfer.backbones.copying import working_copy
from keras_transfer.base.compute import Compute
from keras_transfer.base.task import ONE, Task
from keras_transfer.base.types import Inputs
from keras_transfer.fast.steps import StepModel
from keras_transfer.frozen.engine import Engine


class Suffix(StepModel):
    """The part of a classifier above a cut, with the textbook objective.

    Its first output is the logits, or they are the only one.

    ``loss = sum_i s_i l_i(w) / sum_i s_i + lambda R(w)`` over a batch, in the letters of
    ``recipe.py``. ``lambda`` is a variable, so that another value needs no new compilation.

    Attributes:
        inference_mode: whether Dropout and stochastic depth are off, and BatchNorm's statistics
            left alone, in training too.
        replicas: how many parts of a batch a step computes apart and adds up.
        task: whose loss it has.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.inference_mode = False
        self.replicas = 1
        self.task: Task = ONE
        self.penalty_strength = keras.Variable(0.0, trainable=False, name="penalty_strength")

    @property
    def compilations(self) -> int:
        """How often a step was traced."""
        return -(-self.record.traced // self.replicas)  # of several hosts, this one traces its own

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

    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        """The outputs for a batch of inputs at the cut."""
        if getattr(self, "inference_mode", False):
            training = False
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def regularise(self, penalty: str, strength: float) -> None:
        """Sets R(w) to ``l2``, ``l2-sp`` or ``none``, of kernels alone, and lambda.

        The first call decides on R(w), before anything has moved: a step is compiled with it.
        """
        self.penalty_strength.assign(strength)
        if penalty == "none" or self.record.penalised:
            return
        for variable in self.trainable_variables:
            if "kernel" in variable.path.rsplit("/", 1)[-1]:
                # The head has no pretrained values worth keeping: plain L2.
                pulled = penalty == "l2-sp" and not variable.path.startswith("logits")
                start = ops.convert_to_numpy(variable) if pulled else np.float32(0)
                self.record.penalised.append((variable, start))

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
        values = values_of(fresh.variables)
        if self.record.compiled != (parts, jit, self.rounded):
            self.compile(optimizer=fresh, jit_compile=jit)
            self.record.compiled = parts, jit, self.rounded
        # To a fresh one as well: JAX compiles again where the type of a value was "weak", as that
        # of Python's numbers is, and is not the next time.
        assign(self.optimizer.variables, values)
        return self.optimizer

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Scalar loss of a batch, or of one replica's part of it.

        ``y`` are the task's targets, ``y_pred`` the outputs, and ``sample_weight`` each image's
        share ``s_i / sum_i s_i`` of the whole batch's loss, so that parts add up.
        """
        logits = y_pred[0] if isinstance(y_pred, (list, tuple)) else y_pred
        loss = self.task.loss(y, ops.cast(logits, "float32"), sample_weight)
        for variable, start in self.record.penalised:
            pulled = ops.sum(ops.square(variable - start))
            loss = loss + self.penalty_strength / self.replicas * pulled
        return loss


def working(suffix: Suffix, compute: Compute) -> Suffix:
    """The suffix as it computes: itself, or a copy in another type, or that is shared."""
    copy = working_copy(suffix, compute)
    copy.inference_mode, copy.rounded = suffix.inference_mode, compute.rounded
    return copy


def predict(engine: Engine, inputs: Inputs, output: int = 0, batch_size: int = 64) -> np.ndarray:
    """One of the outputs, float32 ``[images, ...]``, for all inputs, in order."""
    rows = np.arange(len(inputs))
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = inputs.gather(rows[start : start + batch_size])
        parts.append(engine.run(batch if len(batch) > 1 else batch[0])[output])
    return np.concatenate(parts)


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
