"""Adam in one pass over the weights."""

from typing import Any

import keras
from keras import ops


class FusedAdam(keras.optimizers.Adam):
    """Adam whose update is one pass over the weights where TensorFlow has a kernel for that.

    Keras's own is a dozen passes over arrays that no cache holds. The formula is the same.

    Args:
        fused: whether TensorFlow's kernel is used.
        settings: as for ``keras.optimizers.Adam``.
    """

    def __init__(self, *, fused: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.fused = fused

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates a weight by its gradient."""
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
