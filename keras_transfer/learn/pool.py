"""Classifiers and their trainable parts, kept with their compiled steps for later runs.

Tracing and compiling a training step costs seconds. Rates, decay and penalties are variables of
the step, so runs that train the same part of the same backbone in the same way can share it.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_transfer.backbones import split
from keras_transfer.backbones.copying import copy_of
from keras_transfer.base.task import ONE, Task, task_of_model
from keras_transfer.base.types import LOGITS, POOL, Backbone
from keras_transfer.learn.model import build_classifier, head_variables, reseed, set_temperature
from keras_transfer.learn.suffix import Suffix, assign, values_of
from keras_transfer.recipe import Recipe


class ModelPool:
    """What runs of the same backbones share; one for as many runs as wish to.

    Args:
        copies: whether classifiers are built on copies of the backbones, which then stay as they
            are; False where nobody else holds them.
    """

    def __init__(self, *, copies: bool = True) -> None:
        self._copies = copies
        self._classifiers: dict[Any, tuple[Backbone, Backbone, keras.Model, list[Any]]] = {}
        self._suffixes: dict[Any, Suffix] = {}

    def classifier(
        self, backbone: Backbone, classes: int, levels: float, seed: int, task: Task = ONE
    ) -> keras.Model:
        """A classifier as if newly built: pretrained weights, its head at its first values.

        Args:
            backbone: whose graph and weights it starts from.
            classes: how many there are.
            levels: see ``build_classifier``.
            seed: of the head's first values, of Dropout and of Keras from here on.
            task: see ``build_classifier``.
        """
        key = id(backbone.model), classes, levels, seed, task.setting
        if key not in self._classifiers:
            own = copy_of(backbone) if self._copies else backbone
            keras.utils.set_random_seed(seed)
            model = build_classifier(own, classes, levels, task)
            self._classifiers[key] = backbone, own, model, values_of(head_variables(model))
        _, own, model, start = self._classifiers[key]
        keras.utils.set_random_seed(seed)
        if own is not backbone:
            assign(own.model.variables, values_of(backbone.model.variables))
        for layer, given in zip(own.model.layers, backbone.model.layers, strict=True):
            layer.trainable = given.trainable
        assign(head_variables(model), start)
        set_temperature(model, 1.0)
        reseed(model, seed)
        return model

    def suffix(self, model: keras.Model, cut: tuple[str, ...], recipe: Recipe) -> Suffix:
        """The part of a classifier above a cut; it returns logits and pooled features.

        Args:
            model: from :meth:`classifier`.
            cut: the layers whose outputs feed it; empty for the whole model.
            recipe: what is compiled into its step, such as the penalty, must be equal for two runs
                to share one; rates and strengths may differ.
        """

        def build() -> Suffix:
            if not cut:
                outputs = [model.get_layer(name).output for name in (LOGITS, POOL)]
                return Suffix(model.input, outputs)
            upper = split(model, cut, outputs=[LOGITS, POOL])[1]
            return Suffix(upper.inputs if len(upper.inputs) > 1 else upper.input, upper.outputs)

        return self._kept(model, cut, recipe, build)

    def head(self, model: keras.Model, recipe: Recipe) -> Suffix:
        """The part of a classifier above the pooled features."""
        top, logits = (model.get_layer(name).output for name in (POOL, LOGITS))
        return self._kept(model, (POOL,), recipe, lambda: Suffix(top, logits))

    def _kept(
        self, model: keras.Model, cut: tuple[str, ...], recipe: Recipe, build: Callable[[], Suffix]
    ) -> Suffix:
        key = id(model), cut, recipe.clip_norm, recipe.ema, recipe.penalty, recipe.batch_norm
        if key not in self._suffixes:
            self._suffixes[key] = build()
            self._suffixes[key].task = task_of_model(model)
        return self._suffixes[key]
