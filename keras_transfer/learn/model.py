"""The deployable graph: uint8 RGB in, probabilities out, made of standard Keras layers only."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_transfer.backbones.graph import tensors
from keras_transfer.base.rows import Table, moments, sample, width
from keras_transfer.base.task import ONE, Task
from keras_transfer.base.types import (
    LEVELS,
    LOGITS,
    MASK,
    POOL,
    TEMPERATURE,
    TOPMOST,
    Backbone,
    Block,
)
from keras_transfer.learn.heads import steadied
from keras_transfer.recipe import reads_arguments

# The means of one map; those of all maps so far are named LEVELS.
_MEANS = f"{POOL}_"

_NORM, _NOTHING = "head_norm", 1e12  # the layer, and the variance of a feature that is left out


@reads_arguments
def build_classifier(
    backbone: Backbone, classes: int, levels: float = 0.0, task: Task = ONE
) -> keras.Model:
    """Puts a linear classification head on a backbone.

    Args:
        backbone: a built backbone; its layers and weights become part of the classifier.
        classes: number of classes, at least 2.
        levels: how many means of lower maps the head may see for each feature of the topmost one,
            in [0, 10]; see :func:`levels_of`.
        task: one label an example, or several (``base.task.SEVERAL``).

    Returns:
        One flat functional model. Input: uint8 (floats in 0..255 are cast) ``[batch, height,
        width, 3]`` RGB. Output: float32 ``[batch, classes]``, the probabilities. Its last layers
        are ``avg_pool``, ``logits``, ``temperature`` (the division by the fitted temperature, 1
        until :func:`set_temperature`) and ``probabilities``.

    A network's topmost features were made to tell ImageNet's classes apart. With ``levels``,
    ``avg_pool`` joins to them the means of lower maps, which know more of colours, strokes and
    textures (after Head2Toe, Evci et al., 2022, "Head2Toe: Utilizing intermediate representations
    for better transfer learning"). They differ in scale, so the head then sees them standardised,
    see :func:`standardise`.

    >>> from keras_transfer import build
    >>> model = build_classifier(build("MobileNetV3Small", weights="none"), 5)
    >>> model.input_shape, model.output_shape
    ((None, 224, 224, 3), (None, 5))
    """
    features = _pooled(backbone, levels_of(backbone.blocks, levels))
    if levels:
        features = keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=1e-12, trainable=False, dtype="float32",
            name=_NORM,
        )(features)  # fmt: skip
    logits = keras.layers.Dense(classes, name=LOGITS, dtype="float32")(features)
    scaled = keras.layers.Rescaling(1.0, name=TEMPERATURE, dtype="float32")(logits)
    return keras.Model(backbone.model.input, task.layer()(scaled), name="classifier")


def _pooled(backbone: Backbone, levels: Sequence[int]) -> Any:
    """The features that the head sees: the means of each level, then those of the topmost map."""
    model, top = backbone.model, backbone.model.output
    if not levels and len(top.shape) > 2:
        return _mean(model, top, POOL)
    if not levels:
        return keras.layers.Activation("linear", name=POOL)(top)
    below: Any = None
    blocks = [backbone.blocks[number] for number in levels]
    maps = tensors(model, [block.cut[0] for block in blocks])
    for block, level in zip(blocks, maps, strict=True):
        if below is None:
            below = _mean(model, level, LEVELS + block.name)
        else:
            # Joined one by one: a cut above has one tensor more, however many lie below.
            means = _mean(model, level, _MEANS + block.name)
            below = keras.layers.Concatenate(name=LEVELS + block.name)([below, means])
    topmost = _mean(model, top, TOPMOST) if len(top.shape) > 2 else top
    return keras.layers.Concatenate(name=POOL)([below, topmost])


def _mean(model: keras.Model, level: Any, name: str) -> Any:
    """The mean of a map over its positions; of a sequence over those that the mask leaves."""
    if len(level.shape) == 4:
        return keras.layers.GlobalAveragePooling2D(name=name)(level)
    if all(layer.name != MASK for layer in model.layers):
        return keras.layers.GlobalAveragePooling1D(name=name)(level)
    # The softmax of what is alike, masked: each position's share. One for each level, so that no
    # cut has to hand it on.
    mask = model.get_layer(MASK).output
    share = keras.layers.Softmax(name=f"{name}_share")(mask, mask=mask)
    return keras.layers.Dot(axes=1, name=name)([share, level])


def levels_of(blocks: Sequence[Block], share: float) -> list[int]:
    """The blocks below the top whose means a head with levels sees.

    All of them; or where that gives too many features, the last of each shape, of each size, or
    the upper ones of these; of sequences, which have one shape throughout, the upper ones. Maps of
    more than four times the topmost's side are left out: they have few channels, which tell
    little, and many positions, which cost time.

    Args:
        blocks: the backbone's, bottom to top.
        share: how many features they may have for each one of the topmost map.
    """
    shapes = [block.output_shapes[0] for block in blocks]
    axes, side, room = len(shapes[-1]), shapes[-1][0], share * shapes[-1][-1]
    fit = [len(shape) == axes > 1 and shape[0] <= 4 * side for shape in shapes]

    def features(levels: list[int]) -> int:
        return sum(shapes[number][-1] for number in levels)

    found: list[int] = []
    for kept in (0, 3, 2) if axes == 3 else (0,):
        found = [
            number
            for number, (shape, following) in enumerate(itertools.pairwise(shapes))
            if fit[number] and (not kept or shape[:kept] != following[:kept])
        ]
        if features(found) <= room:
            return found
    while features(found) > room:
        found = found[1:]
    return found


def cut_blocks(blocks: Sequence[Block], share: float) -> tuple[Block, ...]:
    """A backbone's blocks as a classifier has them: at its cuts the levels below are alive too."""
    levels = levels_of(blocks, share) if share else []
    held, features, found = "", 0, []
    for number, block in enumerate(blocks):
        if number in levels:
            held = LEVELS + block.name
            features += block.output_shapes[0][-1]
        if held and number < len(blocks) - 1:
            cut, shapes = (*block.cut, held), (*block.output_shapes, (features,))
            block = dataclasses.replace(block, cut=cut, output_shapes=shapes)
        found.append(block)
    return tuple(found)


def set_temperature(model: keras.Model, temperature: float) -> None:
    """Makes the shipped graph divide its logits by ``temperature`` (Guo et al., 2017).

    The order of the classes is unchanged. 1 switches calibration off.
    """
    model.get_layer(TEMPERATURE).scale = 1.0 / temperature
    # A function traced before would keep the old factor.
    model.predict_function = None


def standardise(model: keras.Model, features: Table, few: bool = False) -> None:
    """Sets the statistics by which a head with levels standardises what it sees.

    Otherwise a step of the same length in each weight would move the logits most by way of the
    features that happen to be large. Features that vary by less than 3 % of their mean are left
    out: what float16 and bfloat16 round away would be most of what they say.

    Args:
        model: a classifier; one whose head has no levels is left alone.
        features: float ``[images, features]``, the pooled features of training images.
        few: whether they are too few to tell how much each varies, see ``heads.steadied``.
    """
    if _norm(model) is None:
        return
    mean, variance = moments(features[sample(len(features), width(features))])
    said = variance > np.maximum(1e-3 * mean**2, 1e-12 * variance.max())
    if few:
        variance = steadied(np.where(said, variance, 0.0), len(features))
    _norm(model).set_weights([mean, np.where(said, variance, _NOTHING)])


def head_inputs(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """What makes of pooled features ``[images, features]`` what the head's first weights see,
    float32, as the model stands now.
    """
    if _norm(model) is None:
        return lambda features: features
    mean, variance = _norm(model).get_weights()
    return lambda features: (features.astype(np.float32) - mean) / np.sqrt(variance)


def optional_features(model: keras.Model) -> int:
    """How many of the pooled features, the first ones, a head may do better without.

    Those of a sequence's lower blocks: they help to tell what a text feels, and do harm where few
    texts are told by what they are about (``benchmarks/results/text_tuning.md``). Lower maps of
    images help throughout.
    """
    if not {MASK, TOPMOST} <= {layer.name for layer in model.layers}:
        return 0
    pooled, topmost = (model.get_layer(name).output.shape[-1] for name in (POOL, TOPMOST))
    return int(pooled - topmost)


def _norm(model: keras.Model) -> Any:
    return next((layer for layer in model.layers if layer.name == _NORM), None)


def head_variables(model: keras.Model) -> list[Any]:
    """Of the layers above the pooled features, bottom to top."""
    above = model.layers[[layer.name for layer in model.layers].index(POOL) + 1 :]
    return [variable for layer in above for variable in layer.variables]


def reseed(model: keras.Model, seed: int) -> None:
    """Restarts the random numbers of Dropout and stochastic depth from ``seed``.

    Layers draw their seeds when they are built, which for a backbone is before a run begins.
    """
    within = (part for layer in model.layers for part in layer._flatten_layers(include_self=False))
    for number, layer in enumerate([*model.layers, *within]):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign([(seed * 1_000_003 + number) % 2**31, 0])


def set_batch_norm(model: keras.Model, *, trains: bool) -> None:
    """Freezes the backbone's BatchNormalization, scale and offset too, or lets all of it train.

    In Keras a BatchNormalization with ``trainable=False`` uses its moving statistics even when
    called with ``training=True``; batches of a fine-tuning run are too small and too unlike
    ImageNet to replace them (Kumar et al., 2022). Random weights need them to train; statistics
    that average over a thousand batches, as some networks have them, never arrive in a short
    training, so the momentum is at most 0.9 then.
    """
    for layer in _batch_norms(model):
        layer.trainable = trains
        layer.momentum = min(layer.momentum, 0.9) if trains else layer.momentum


def measure_statistics(model: keras.Model, batches: Iterable[Any]) -> None:
    """Replaces BatchNorm's moving statistics by their mean over batches.

    Random weights: what a short training leaves of the initial 0 and 1 multiplies from layer to
    layer, until nothing comes out at the top. Averaged weights: nobody trained with them, so that
    the statistics at hand are those of others (Izmailov et al., 2018, "Averaging weights leads to
    wider optima and better generalization").

    Args:
        model: after :func:`set_batch_norm`; its weights stay as they are.
        batches: inputs of the model, at least a dozen rows that stand for all.
    """
    layers = _batch_norms(model)
    momenta = [layer.momentum for layer in layers]
    for seen, batch in enumerate(batches if layers else ()):
        for layer in layers:
            layer.momentum = seen / (seen + 1)
        model(batch, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    kind = keras.layers.BatchNormalization
    return [one for one in model.layers if isinstance(one, kind) and one.name != _NORM]
