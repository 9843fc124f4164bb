"""The optimiser of a phase: a rate for each block, on one device or several."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transfer import fast
from keras_transfer.base.compute import PLAIN, Compute
from keras_transfer.base.distribution import Distribution, add_up
from keras_transfer.fast.adam import FusedAdam
from keras_transfer.recipe import Recipe


class BlockAdam(FusedAdam):
    """AdamW with a factor on the rate for each variable.

    Keras decays weights at one rate for all; a block that trains slower must decay slower too.

    Args:
        factors: on the rate, one a variable.
        decayed: whether each variable decays.
        decay: decoupled weight decay.
        distribution: what shares every batch.
        settings: as for ``keras.optimizers.Adam``.
    """

    def __init__(
        self,
        factors: Sequence[float],
        decayed: Sequence[bool],
        decay: float,
        distribution: Distribution | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.factors = keras.Variable(
            np.asarray(factors, np.float32), trainable=False, name="rate_factors"
        )
        self.decayed = list(decayed)
        self.decay = keras.Variable(float(decay), trainable=False, name="decoupled_decay")
        self.distribution = distribution

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Decays a weight and updates it by its gradient, both at its own rate."""
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, "float32") * self.factors[index]
        if self.decayed[index]:
            shrink = ops.cast(rate * self.decay, variable.dtype)
            self.assign_sub(variable, variable * shrink)
        super().update_step(gradient, variable, rate)

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        """Clips the gradient of the whole batch; Keras would clip each replica's part of it."""
        grads = super()._clip_gradients(add_up(grads, self.distribution))
        if self.distribution is None or self.distribution.replicas == 1:
            return list(grads)
        # Keras adds the replicas' gradients up afterwards, which are equal by now.
        return [gradient / self.distribution.replicas for gradient in grads]

    def _update_model_variables_moving_average(self, variables: list[Any]) -> None:
        """Averages after whole batches, with momentum (t - 1) / (t + 2) up to a bound."""
        # Keras would do so after every part of a batch, and at one momentum: after forty steps at
        # 0.98 nearly half of the average would still be the weights after the first (polynomial
        # decay, Shamir and Zhang, 2013, "Stochastic gradient descent for non-smooth optimization").
        parts = self.gradient_accumulation_steps or 1
        number = self._iterations + 1
        step = ops.cast(number // parts, "float32")
        momentum = ops.minimum(self.ema_momentum, (step - 1.0) / (step + 2.0))
        if parts > 1:
            momentum = ops.where(ops.equal(number % parts, 0), momentum, 1.0)
        averages = self._model_variables_moving_average
        for variable, average in zip(variables, averages, strict=True):
            average.assign(momentum * average + (1.0 - momentum) * variable)


def build_optimizer(
    recipe: Recipe,
    suffix: keras.Model,
    depths: dict[str, int],
    parts: int = 1,
    *,
    compute: Compute = PLAIN,
) -> Any:
    """The optimiser of a phase.

    Args:
        recipe: for the rates, the decay, the clipping and the average.
        suffix: the model that trains.
        depths: for each layer its block's distance from the top, 0 for the head and the topmost
            block; a layer that is not named counts as 0.
        parts: over how many calls it takes the mean of the gradients before it takes a step.
        compute: how the suffix computes; in ``mixed_float16`` the loss is scaled, since small
            gradients vanish.
    """
    variables = suffix.trainable_variables
    alone = keras.backend.backend() == "tensorflow" and compute.share == 1
    private = "Optimizer._get_variable_index", "Adam._momentums"
    with compute.scope():
        optimizer: Any = BlockAdam(
            [recipe.rate_decay ** depths.get(v.path.split("/")[0], 0) for v in variables],
            ["kernel" in v.path.rsplit("/", 1)[-1] for v in variables],
            recipe.weight_decay,
            compute.distribution,
            fused=alone and fast.enabled(*private),
            name="adamw",
            learning_rate=recipe.fine_tune_lr,
            global_clipnorm=recipe.clip_norm or None,
            use_ema=bool(recipe.ema),
            ema_momentum=recipe.ema or 0.99,
            gradient_accumulation_steps=parts if parts > 1 else None,
        )
        if compute.dtype_policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(variables)
    return optimizer
