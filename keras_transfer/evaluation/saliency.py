"""Where in an example a classifier saw what it answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transfer.backbones.blocks import topmost
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import LEVELS, LOGITS
from keras_transfer.frozen.engine import keras_engine

_STEP = 0.02
"""Length of a finite difference relative to the feature map: far above float32's rounding, far
below what would bend a head that is not linear."""

_CHUNK = 2**24
"""Floats of perturbed feature maps that are held at a time (64 MiB)."""


def explain(
    model: keras.Model, examples: np.ndarray, classes: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Where a classifier saw a class, by what its layers have places for.

    Args:
        model: a classifier as this package builds it.
        examples: as it takes them, shape ``[examples, ...]``.
        classes: the class to explain for each.

    Returns:
        float32 weights in 0..1, of which the largest is 1: of maps ``[examples, height, width]``
        by :func:`grad_cam`, of token ids ``[examples, tokens]`` by :func:`gradient_times_input`.

    Raises:
        UsageError: the features have no places.
    """
    if len(topmost(model).shape) != 4 and _embedding(model) is not None:
        return gradient_times_input(model, examples, classes)
    return grad_cam(model, examples, classes)


def grad_cam(
    model: keras.Model,
    pixels: np.ndarray,
    classes: Sequence[int] | np.ndarray | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017) of each image, on any backend and without its gradients.

    With A the feature map, y the logit of a class and N the number of positions, Grad-CAM at
    position p is ``relu(sum_k a_k A[p, k])`` with ``a_k = 1/N sum_q dy/dA[q, k]``. That sum is
    1/N times the derivative of y in one direction: the features at p, added at every position.
    Two evaluations of the few layers above the map measure it, so that nothing here depends on
    how a backend differentiates; for average pooling and a linear head the result is exactly the
    class activation map (Zhou et al. 2016).

    Args:
        model: a classifier as this package builds it.
        pixels: uint8, shape ``[images, height, width, 3]``, RGB.
        classes: the class to explain for each image; None explains the predicted one.
        layer: the name of the layer whose output is the map; None takes the topmost map, below
            the pooling. It must be the only tensor alive at its place in the graph.
        batch_size: images that go through the backbone at a time.

    Returns:
        float32, shape ``[images, map height, map width]``, each map scaled to a maximum of 1, or
        all 0 where nothing in the image speaks for the class.

    Raises:
        UsageError: there is no map with height and width at ``layer``.
    """
    feature_map = model.get_layer(layer).output if layer else topmost(model)
    if len(feature_map.shape) != 4:
        raise UsageError(
            f"{layer or 'The backbone'} gives features of shape {tuple(feature_map.shape)}, "
            "without height and width.",
            remedy="Pass layer= with the name of a layer that gives [batch, height, width, "
            "channels].",
        )
    inputs, logits = _with_levels(model, feature_map)
    below = keras_engine(keras.Model(model.input, inputs), traced=False).run
    above = keras_engine(keras.Model(inputs, logits), traced=False).run
    maps = []
    for start in range(0, len(pixels), batch_size):
        part = slice(start, start + batch_size)
        levels = below(pixels[part])
        chosen = above(_one_or_all(levels))[0].argmax(axis=1) if classes is None else classes[part]
        for i, one in enumerate(chosen):
            maps.append(_importance(above, [level[i] for level in levels], one))
    height, width = feature_map.shape[1:3]
    return np.stack(maps) if maps else np.zeros((0, height or 0, width or 0), np.float32)


def gradient_times_input(
    model: keras.Model, ids: np.ndarray, classes: Sequence[int] | np.ndarray
) -> np.ndarray:
    """What each token adds to the logit of a class: the gradient at its embedding, times it.

    After Denil et al. (2014, "Extraction of salient sentences from labelled documents"). A training
    step differentiates, so that it runs on any backend.

    Args:
        model: a classifier as this package builds it, whose input goes to a layer of embeddings.
        ids: shape ``[texts, tokens]``.
        classes: the class to explain for each.

    Returns:
        float32, shape ``[texts, tokens]``, each text scaled to a maximum of 1; 0 where a token
        speaks against the class.
    """
    layer = _embedding(model)
    below = keras.Model(model.input, layer.output)
    above = keras.Model([layer.output, model.input], model.get_layer(LOGITS).output)
    above.supports_masking = True

    def scaled(ids: Any, factors: Any) -> Any:
        masks = [layer.compute_mask(ids, None), None]
        return above([below(ids, training=False) * factors, ids], training=False, mask=masks)

    probe = _Gains(scaled, ids.shape[1])
    probe.compile(keras.optimizers.SGD(1.0), _against, run_eagerly=True)
    slopes, targets = np.zeros(ids.shape, np.float32), np.eye(model.output_shape[-1])[classes]
    for row, target in enumerate(targets):
        probe.gains.assign(np.zeros(probe.gains.shape))
        probe.train_on_batch(ids[row : row + 1], target[None])
        slopes[row] = ops.convert_to_numpy(probe.gains)[:, 0]
    return np.maximum(slopes, 0.0) / np.maximum(slopes.max(axis=1, keepdims=True), 1e-30)


class _Gains(keras.Model):
    """An answer to factors by place, 1 plus gains that are 0 and are all there is to train.

    A step of length 1 leaves in them the slopes of what it was taken along.
    """

    def __init__(self, answer: Callable[[Any, Any], Any], places: int) -> None:
        super().__init__()
        self.gains = self.add_weight(shape=(places, 1), initializer="zeros")
        self.answer = answer  # a function hides its weights from Keras, which leaves them alone

    def call(self, examples: Any) -> Any:
        return self.answer(examples, 1.0 + self.gains)


def _against(targets: Any, logits: Any) -> Any:
    return -ops.sum(targets * logits, axis=-1)


def _embedding(model: keras.Model) -> Any:
    """The layer that gives each place of the input a vector, None if there is none."""
    given = model.input.shape
    after = [layer for layer in model.layers if layer.input is model.input]
    return next((one for one in after if one.output.shape[:-1] == given), None)


def _importance(
    above: Callable[..., list[np.ndarray]], levels: list[np.ndarray], chosen: int
) -> np.ndarray:
    """The map of one image, from its features ``[height, width, channels]``.

    Args:
        above: the layers above the map.
        levels: the features, and what lies below them and stays as it is.
        chosen: the class.
    """
    features, *held = levels
    *place, channels = features.shape
    directions = features.reshape(-1, channels)
    lengths = np.linalg.norm(directions, axis=1)
    steps = _STEP * np.sqrt(np.mean(lengths**2)) / np.maximum(lengths, 1e-12)
    slopes = np.zeros(len(directions), np.float32)
    rows = max(1, _CHUNK // (2 * features.size))
    for start in range(0, len(directions), rows):
        part = slice(start, start + rows)
        moves = (steps[part, None] * directions[part])[:, None, None, :]
        both = np.concatenate([features + moves, features - moves]).astype(features.dtype)
        beside = [np.repeat(level[None], len(both), axis=0) for level in held]
        scores = above(_one_or_all([both, *beside]))[0][:, chosen]
        ahead, behind = np.split(scores, 2)
        # A difference that rounding alone could leave is no evidence.
        rounding = 4.0 * np.finfo(np.float32).eps * np.abs(scores).max()
        gain = np.where(ahead - behind > rounding, ahead - behind, 0.0)
        slopes[part] = gain / np.maximum(2.0 * steps[part], 1e-30)
    return (slopes / (slopes.max() or 1.0)).reshape(place)


def _one_or_all(tensors: list[np.ndarray]) -> Any:
    """What an engine takes: the tensor itself where it is the only one."""
    return tensors if len(tensors) > 1 else tensors[0]


def _with_levels(model: keras.Model, feature_map: Any) -> tuple[Any, Any]:
    """The map, or a list of it and of the lower levels that the head sees; and the logits."""
    levels = [layer.output for layer in model.layers if layer.name.startswith(LEVELS)]
    logits = model.get_layer(LOGITS).output
    # The lowest that will do: a higher one would hide a part of the map's own influence.
    for inputs in (feature_map, *([feature_map, level] for level in levels)):
        try:
            keras.Model(inputs, logits)
        except ValueError:
            continue
        return inputs, logits
    problem = f"The map {feature_map.name!r} is not the only tensor alive at its place."
    raise UsageError(problem, remedy="Pass layer= with the name of a layer at which a block ends.")
