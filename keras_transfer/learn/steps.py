"""Classifiers and their trainable parts, kept with their compiled steps for later runs.

Tracing and compiling a training step costs seconds. Rates, decay and penalties are variables of
the step, so runs that train the same part of the same backbone in the same way can share it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_transfer.backbones import split
from keras_transfer.base.types import LOGITS, POOL, Backbone
from keras_transfer.learn.finetune import Suffix, assign, values_of
from keras_transfer.learn.model import build_classifier, head_layers, set_temperature
from keras_transfer.schedule import HeadSpec, Phase


class Steps:
    """What runs of the same backbones share; one for as many runs as wish to.

    Attributes:
        known: see ``features.FrozenPart``.
    """

    def __init__(self) -> None:
        self._models: dict[Any, tuple[keras.Model, list[Any]]] = {}
        self._suffixes: dict[Any, Suffix] = {}
        self.known: dict[Any, str] = {}

    def classifier(
        self, backbone: Backbone, classes: int, head: HeadSpec, seed: int
    ) -> keras.Model:
        """A classifier as if newly built: its head at its first values, no temperature.

        Args:
            backbone: whose layers it shares; its weights are the caller's business.
            classes: how many there are.
            head: the classification head.
            seed: that of Keras when this was called, which the head's first values depend on.
        """
        key = (id(backbone.model), classes, head, seed)
        if key not in self._models:
            model = build_classifier(backbone, classes, head)
            self._models[key] = (model, values_of(_head_variables(model)))
        model, start = self._models[key]
        assign(_head_variables(model), start)
        set_temperature(model, 1.0)
        return model

    def suffix(self, model: keras.Model, cut: tuple[str, ...], phase: Phase) -> Suffix:
        """The part of a classifier above a cut, for a phase; it returns logits and pooled features.

        Args:
            model: from :meth:`classifier`.
            cut: the layers whose outputs feed it; empty for the whole model.
            phase: what is compiled into its step, such as the solver, must be equal for two
                phases to share one; rates and strengths may differ.
        """

        def build() -> Suffix:
            if not cut:
                return Suffix(
                    model.input, [model.get_layer(name).output for name in (LOGITS, POOL)]
                )
            upper = split(model, cut, outputs=[LOGITS, POOL])[1]
            return Suffix(upper.inputs if len(upper.inputs) > 1 else upper.input, upper.outputs)

        return self.keep(model, cut, phase, build)

    def keep(
        self, model: keras.Model, cut: tuple[str, ...], phase: Phase, build: Callable[[], Suffix]
    ) -> Suffix:
        """The part that ``build`` makes, made once; see :meth:`suffix`."""
        key = (
            id(model), cut, phase.name, phase.solver, phase.clip_norm, phase.ema, phase.penalty,
            phase.batch_norm, phase.dropout,
        )  # fmt: skip
        if key not in self._suffixes:
            self._suffixes[key] = build()
        return self._suffixes[key]


def _head_variables(model: keras.Model) -> list[Any]:
    return [variable for layer in head_layers(model) for variable in layer.variables]
