"""The frozen part, run once: features for the head, inputs for the second phase, view by view."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_transfer import backbones
from keras_transfer.backbones.graph import tensors
from keras_transfer.base.progress import Progress
from keras_transfer.base.rows import Table
from keras_transfer.base.types import Inputs
from keras_transfer.frozen.engine import Batch, Engine, build_engine
from keras_transfer.frozen.features import Continued, FrozenPart, Recomputed, Views
from keras_transfer.frozen.store import ActivationStore


@dataclasses.dataclass(frozen=True, eq=False)
class Extracted:
    """What comes out of the frozen part.

    Attributes:
        features: of the training examples, float ``[n, features]`` for each view.
        inputs: of the second phase, one entry a view.
        validation_features: float ``[m, features]``, of clean views.
        validation_inputs: of these.
        seconds_each: that a training example took which was computed; None where none was.
    """

    features: Sequence[Table]
    inputs: Sequence[Inputs]
    validation_features: Table
    validation_inputs: Inputs
    seconds_each: float | None

    def first(self, views: int) -> Extracted:
        """So many views of it."""
        fewer = self.features[:views], self.inputs[:views]
        return dataclasses.replace(self, features=fewer[0], inputs=fewer[1])

    def above(self, between: Engine) -> Extracted:
        """Its inputs continued to a higher cut, by the layers between."""
        return dataclasses.replace(
            self,
            inputs=[Continued(one, between) for one in self.inputs],
            validation_inputs=Continued(self.validation_inputs, between),
        )


def extract(
    frozen: FrozenPart,
    views: Views,
    training: np.ndarray,
    validation: np.ndarray,
    count: int,
    *,
    store: ActivationStore | None,
    progress: Progress,
    nothing_frozen: bool = False,
    until: float = math.inf,
) -> Extracted:
    """Runs the frozen part over so many views of the training examples, and over validation.

    Args:
        frozen: the part.
        views: draws the examples.
        training: positions in the data set.
        validation: likewise; they are computed in float32, since they are judged by.
        count: views, at least 1.
        store: what was computed before, and is kept for later; None to keep nothing.
        progress: where to report.
        nothing_frozen: whether all layers will train from random weights. Features of today are
            worth nothing then, but for those of one view, from which the head starts.
        until: ``time.monotonic()`` after which no view is begun that would end later; those that
            there are must do.
    """
    how: dict[str, Any] = {"store": store, "progress": progress}
    validation_features, validation_inputs = frozen.inputs(views, validation, 0, **how)
    features, inputs = list[Table](), list[Inputs]()
    begun, known = time.monotonic(), store.counts.misses if store else 0
    for number in range(count):
        ends = time.monotonic() + (time.monotonic() - begun) / max(1, number)
        if number and ends > until:
            break
        if number and nothing_frozen:
            inputs.append(Recomputed(views, training, number))
            continue
        # Training images may come from bfloat16, what is judged by may not.
        found, at_cut = frozen.inputs(views, training, number, exact=False, **how)
        features.append(found)
        inputs.append(at_cut)
    fresh = store.counts.misses - known if store else len(features) * len(training)
    seconds = (time.monotonic() - begun) / fresh if fresh else None
    return Extracted(features, inputs, validation_features, validation_inputs, seconds)


def layers_between(model: keras.Model, base: tuple[str, ...], cut: tuple[str, ...]) -> Engine:
    """Runs the layers from a lower cut, or from the pixels, to an upper one."""
    if not base:
        return build_engine(keras.Model(model.input, tensors(model, cut)), "keras")
    new = [name for name in cut if name not in base]
    engine = build_engine(backbones.split(model, base, outputs=new)[1], "keras")

    def run(batch: Batch) -> list[np.ndarray]:
        # What is alive at both cuts passes by.
        held = dict(zip(base, batch if isinstance(batch, list) else [batch], strict=True))
        held |= zip(new, engine.run(batch), strict=True)
        return [held[name] for name in cut]

    return dataclasses.replace(engine, run=run)
