"""Where in an example a classifier saw what it answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transfer.backbones.blocks import topmost
from keras_transfer.base.errors import UsageError
from keras_transfer.base.task import task_of_model
from keras_transfer.base.types import LEVELS, LOGITS
from keras_transfer.recipe import reads_arguments


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
        and sequences ``[examples, places]`` by :func:`contrastive_map`, of token ids
        ``[examples, tokens]`` by :func:`gradient_times_input`.

    Raises:
        UsageError: the features have no places.
    """
    axes = len(topmost(model).shape)
    if axes != 4 and _embedding(model) is not None:
        return gradient_times_input(model, examples, classes)
    if axes < 3:
        _map_of(model)  # which says what is wrong
    return contrastive_map(model, examples, classes)


_SIDE = 6
"""Rows of the map that tells places apart."""


@reads_arguments
def grad_cam(
    model: keras.Model,
    pixels: np.ndarray,
    classes: Sequence[int] | np.ndarray | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017) of each image, on any backend.

    With A the feature map, y the logit of a class and N the number of positions, Grad-CAM at
    position p is ``relu(sum_k a_k A[p, k])`` with ``a_k = 1/N sum_q dy/dA[q, k]``. For average
    pooling and a linear head it is the class activation map (Zhou et al. 2016).

    Args:
        model: a classifier as this package builds it.
        pixels: uint8, shape ``[images, height, width, 3]``, RGB.
        classes: the class to explain for each image; None explains the predicted one.
        layer: the name of the layer whose output is the map; None takes the topmost map, below
            the pooling. It must be the only tensor alive at its place in the graph.
        batch_size: images that go through the network at a time.

    Returns:
        float32, shape ``[images, map height, map width]``, each map scaled to a maximum of 1, or
        all 0 where nothing in the image speaks for the class.

    Raises:
        UsageError: there is no map with height and width at ``layer``.
    """
    feature_map = _map_of(model, layer)
    if not len(pixels):
        return np.zeros((0, *(side or 0 for side in feature_map.shape[1:3])), np.float32)
    parts = _with_levels(model, feature_map)

    def weighed(features: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        return np.einsum("nhwk,nk->nhw", features, slopes.mean(axis=(1, 2)))

    return _maps(parts, pixels, classes, weighed, batch_size=batch_size)


def _map_of(model: keras.Model, layer: str | None = None) -> Any:
    found = model.get_layer(layer).output if layer else topmost(model)
    if len(found.shape) != 4:
        problem = f"{layer or 'The backbone'} gives features of shape {tuple(found.shape)}, "
        remedy = "Pass layer= with the name of a layer that gives [batch, height, width, channels]."
        raise UsageError(f"{problem}without height and width.", remedy=remedy)
    return found


def contrastive_map(
    model: keras.Model, pixels: np.ndarray, classes: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Where an image speaks for a class rather than for others, on a map of ``_SIDE`` rows or more.

    The topmost map of a small image has a place or four, and what each has seen is nearly all of
    it. On a finer map below, places are not alike, so that gradients are not averaged over
    them: what each feature adds, where it adds anything, summed at each place (LayerCAM, Jiang et
    al. 2021; with features that may be negative, their product with the gradient is kept where it
    is positive). What is explained is the odds of the class, its logit against those of the others
    by their shares (contrast, Gu et al. 2018). ``benchmarks/pointing.py`` counts how often the
    brightest place lies on the object. A sequence is explained on its topmost states.

    Args:
        model: a classifier as this package builds it.
        pixels: as for :func:`grad_cam`.
        classes: the class to explain for each image.

    Returns:
        As :func:`grad_cam`.
    """

    def added(features: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        return np.maximum(features * slopes, 0.0).sum(axis=-1)

    return _maps(_finer(model), pixels, classes, added, task_of_model(model).contrast)


def gradient_times_input(
    model: keras.Model, ids: np.ndarray, classes: Sequence[int] | np.ndarray
) -> np.ndarray:
    """What each token adds to the logit of a class: the gradient at its embedding, times it.

    After Denil et al. (2014, "Extraction of salient sentences from labelled documents").

    Args:
        model: a classifier as this package builds it, whose input goes to a layer of embeddings.
        ids: shape ``[texts, tokens]``.
        classes: the class to explain for each.

    Returns:
        float32, shape ``[texts, tokens]``, each text scaled to a maximum of 1; 0 where a token
        speaks against the class.
    """
    layer = _embedding(model)
    below = keras.Model(model.input, [layer.output, model.input])
    above = keras.Model([layer.output, model.input], model.get_layer(LOGITS).output)
    above.supports_masking = True

    def answer(levels: Any) -> Any:
        return above(levels, training=False, mask=[layer.compute_mask(levels[1], None), None])

    def added(features: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        return (features * slopes).sum(axis=-1)

    return _maps((below, answer), ids, classes, added)


Parts = tuple[Callable[..., Any], Callable[[Any], Any]]
"""What lies below a map, which gives it and other tensors that are alive, and what lies above."""


def _maps(
    parts: Parts,
    examples: np.ndarray,
    classes: Sequence[int] | np.ndarray | None,
    reduce: Callable[[np.ndarray, np.ndarray], np.ndarray],
    targets: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda logits, own: own,
    batch_size: int = 16,
) -> np.ndarray:
    """Maps of evidence, each scaled to a maximum of 1.

    Args:
        parts: the network in two.
        examples: what its lower part takes.
        classes: of each the class; None for the one that is answered.
        reduce: from features and gradients, ``[n, ..., channels]``, to evidence ``[n, ...]``.
        targets: from the logits and 1 for the class, 0 for others, the weights of the logits in
            what is explained; the logit of the class by default.
        batch_size: examples at a time.
    """
    below, above = parts
    found = []
    for start in range(0, len(examples), batch_size):
        part = slice(start, start + batch_size)
        alive = below(examples[part], training=False)  # Keras gives one tensor without its list
        levels = [*map(ops.convert_to_numpy, alive if isinstance(alive, list) else [alive])]
        logits = ops.convert_to_numpy(above([ops.convert_to_tensor(one) for one in levels]))
        chosen = logits.argmax(axis=1) if classes is None else np.asarray(classes[part], int)
        own = np.eye(logits.shape[1])[chosen]
        slopes = _slopes(above, levels, targets(logits, own))
        evidence = np.maximum(reduce(levels[0], slopes), 0.0).astype(np.float32)
        largest = evidence.reshape(len(evidence), -1).max(axis=1, initial=0.0)
        found.append(
            evidence / np.where(largest, largest, 1.0).reshape(-1, *[1] * (evidence.ndim - 1))
        )
    return np.concatenate(found)


def _slopes(
    above: Callable[[Any], Any], levels: list[np.ndarray], targets: np.ndarray
) -> np.ndarray:
    """The gradient of the logits, weighed by ``targets``, at the first of some tensors."""
    # A training step differentiates, so that it runs on any backend: of length 1, it leaves the
    # gradients in what is added to the tensor, and is all that there is to train.
    probe = _Probe(above, levels[0].shape)
    probe.compile(keras.optimizers.SGD(1.0), _against, run_eagerly=True)
    probe.train_on_batch(levels, targets)
    return len(targets) * ops.convert_to_numpy(probe.added)


class _Probe(keras.Model):
    """An answer to tensors, to the first of which zeros are added."""

    def __init__(self, answer: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.added = self.add_weight(shape=shape, initializer="zeros", dtype="float32")
        self.answer = answer  # a function hides its weights from Keras, which leaves them alone

    def call(self, levels: Any) -> Any:
        first, *held = levels
        # A product, since the answer itself may carry a mask of places, which the loss would take.
        return 1.0 * self.answer([first + ops.cast(self.added, first.dtype), *held])


def _against(targets: Any, logits: Any) -> Any:
    return -ops.sum(targets * logits, axis=-1)


def _embedding(model: keras.Model) -> Any:
    """The layer that gives each place of the input a vector, None if there is none."""
    given = model.input.shape
    read = [one for one in model.layers if getattr(one.input, "dtype", "") == model.input.dtype]
    found = [one for one in read if one.output.shape[:-1] == given == one.input.shape]
    return max(found, key=lambda layer: layer.count_params(), default=None)


def _finer(model: keras.Model) -> Parts:
    """The network parted at the topmost map that is alone at its place and has ``_SIDE`` rows, or
    at the topmost states of a sequence.
    """
    for layer in reversed(model.layers if len(topmost(model).shape) == 4 else []):
        shape = [side or 0 for side in getattr(layer.output, "shape", ())]
        padded = isinstance(layer, keras.layers.ZeroPadding2D)  # its places lie beside the image's
        if len(shape) == 4 and min(shape[1:3]) >= _SIDE and not padded:
            with contextlib.suppress(UsageError):
                return _with_levels(model, layer.output)
    return _with_levels(model, topmost(model))


def _with_levels(model: keras.Model, feature_map: Any) -> Parts:
    """The network parted at a map; lower levels that the head sees are held beside it."""
    levels = [layer.output for layer in model.layers if layer.name.startswith(LEVELS)]
    logits = model.get_layer(LOGITS).output
    # The lowest that will do: a higher one would hide a part of the map's own influence.
    for inputs in ([feature_map], *([feature_map, level] for level in levels)):
        try:
            above = keras.Model(inputs, logits)
        except ValueError:
            continue
        return keras.Model(model.input, inputs), lambda tensors, above=above: above(
            tensors, training=False
        )
    problem = f"The map {feature_map.name!r} is not the only tensor alive at its place."
    raise UsageError(problem, remedy="Pass layer= with the name of a layer at which a block ends.")
