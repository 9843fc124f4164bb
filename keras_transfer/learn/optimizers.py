"""Optimisers with a rate for each block, for one device or several, whole batches or parts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transfer.base.distribution import Distribution, add_up
from keras_transfer.schedule import Phase


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
        self.distribution: Distribution | None = None

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        rate = ops.cast(learning_rate, "float32") * self.factors[index]
        if self.decayed[index]:
            shrink = ops.cast(rate * self.decay, variable.dtype)
            self.assign_sub(variable, variable * shrink)  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        """Clips the gradient of the whole batch; Keras would clip each replica's part of it."""
        grads = super()._clip_gradients(add_up(grads, self.distribution))  # type: ignore[misc]
        if self.distribution is None or self.distribution.replicas == 1:
            return list(grads)
        # Keras adds the replicas' gradients up afterwards, which are equal by now.
        return [gradient / self.distribution.replicas for gradient in grads]

    def _update_model_variables_moving_average(self, variables: list[Any]) -> None:
        """Averages after whole batches, as ``Phase.ema`` says.

        Keras would do so after every part of a batch, and at one momentum: after forty steps at
        0.98 nearly half of the average would still be the weights after the first.
        """
        parts = self.gradient_accumulation_steps or 1  # type: ignore[attr-defined]
        number = self._iterations + 1  # type: ignore[attr-defined]
        step = ops.cast(number // parts, "float32")
        bound = self.ema_momentum  # type: ignore[attr-defined]
        momentum = ops.minimum(bound, (step - 1.0) / (step + 2.0))
        if parts > 1:
            momentum = ops.where(ops.equal(number % parts, 0), momentum, 1.0)
        averages = self._model_variables_moving_average  # type: ignore[attr-defined]
        for variable, average in zip(variables, averages, strict=True):
            average.assign(momentum * average + (1.0 - momentum) * variable)


class _FusedAdam(keras.optimizers.Adam):
    """Adam whose update is one pass over the weights where TensorFlow has a kernel for that.

    Keras's own is a dozen passes over arrays that no cache holds, and on a CPU takes a third longer
    with clipping and averaging included. The formula is the same.
    """

    fused = False

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if not self.fused:
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        index = self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=ops.power(self.beta_1, step),
            beta2_power=ops.power(self.beta_2, step),
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class _Adam(_BlockRates, _FusedAdam):
    pass


class _SGD(_BlockRates, keras.optimizers.SGD):
    pass


def build_optimizer(
    phase: Phase,
    suffix: keras.Model,
    depths: dict[str, int],
    parts: int = 1,
    *,
    precision: str = "float32",
    distribution: Distribution | None = None,
) -> Any:
    """The optimiser of a phase, with a rate for each block.

    Args:
        phase: names the solver, the decay and the clipping.
        suffix: the model that trains.
        depths: for each layer its block's distance from the top, 0 for the head and the topmost
            block; a layer that is not named counts as 0.
        parts: over how many calls it takes the mean of the gradients before it takes a step.
        precision: ``mixed_float16`` has the loss scaled, since small gradients vanish in it.
        distribution: the devices that the suffix lives on.
    """
    common: dict[str, Any] = {
        "name": phase.solver,
        "learning_rate": phase.learning_rate,
        "global_clipnorm": phase.clip_norm or None,
        "use_ema": bool(phase.ema),
        "gradient_accumulation_steps": parts if parts > 1 else None,
    }
    if phase.ema:
        common["ema_momentum"] = phase.ema
    variables = suffix.trainable_variables
    with distribution.scope() if distribution else contextlib.nullcontext():
        if phase.solver == "sgd":
            optimizer: Any = _SGD(momentum=0.9, nesterov=True, **common)
        else:
            optimizer = _Adam(**common)
            optimizer.fused = keras.backend.backend() == "tensorflow" and distribution is None
        optimizer.set_rates(
            [phase.rate_decay ** depths.get(v.path.split("/")[0], 0) for v in variables],
            ["kernel" in v.path.rsplit("/", 1)[-1] for v in variables],
            phase.weight_decay,
        )
        optimizer.distribution = distribution
        if precision == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(variables)
    return optimizer
