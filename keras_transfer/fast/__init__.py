"""What only makes steps faster: without it results stay within rounding.

``KERAS_TRANSFER_FAST=off`` turns all of it off. Each module says what it does; the private parts of
Keras that they lean on are named in ``PRIVATE``, and where one is gone the plain way is taken.
"""

import functools
import os
import warnings
from typing import Any

import keras

PRIVATE = {
    "Model._run_through_graph": "walks through the layers of a step (Keras 3.15)",
    "Model._symbolic_build": "builds a model's optimiser and metrics before a step (Keras 3.15)",
    "Optimizer._get_variable_index": "finds Adam's momenta of a weight (Keras 3.15)",
    "Adam._momentums": "Adam's first momenta, made by its ``build`` (Keras 3.15)",
}
"""Private parts of Keras that this folder uses, why, and the version in which they were read."""


@functools.cache
def _is_there(name: str) -> bool:
    kind, attribute = name.split(".")
    if kind == "Model":
        # Without weights: a step that is being traced must not meet new ones.
        inputs = keras.Input((1,))
        made: Any = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    else:
        made = keras.optimizers.Adam()
        made.build([keras.Variable(0.0)])
    if not hasattr(made, attribute):
        warnings.warn(f"This Keras has no {name}: steps are taken in the plain way.", stacklevel=3)
        return False
    return True


def enabled(*private: str) -> bool:
    """Whether the faster way is on, and the private parts of Keras that it needs are there."""
    return os.environ.get("KERAS_TRANSFER_FAST") != "off" and all(map(_is_there, private))
