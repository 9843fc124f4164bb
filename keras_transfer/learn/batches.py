"""What a phase trains on, batch by batch: shuffled, mixed, of one shape, prepared ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from keras_transfer.base.types import Inputs
from keras_transfer.schedule import Phase


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The images of a phase.

    Attributes:
        views: the training inputs, one entry a view; epoch e sees view ``e mod len(views)``, the
            clean view 0 last so that a single epoch is an augmented one where there are several.
        targets: float32 ``[images, classes]``, rows summing to 1.
        weights: float32 ``[images]``, the weight of each image in the loss.
        validation: the inputs of the clean validation images.
        validation_labels: int64 ``[validation images]``.
    """

    views: Sequence[Inputs]
    targets: np.ndarray
    weights: np.ndarray
    validation: Inputs
    validation_labels: np.ndarray


def batches(
    view: Inputs, examples: Examples, phase: Phase, seed: list[int], multiple: int = 1
) -> Iterator[tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
    """Shuffled batches of one static shape: the last is filled up with images of weight zero.

    Args:
        view: the inputs.
        examples: targets and weights.
        phase: size of a batch, and mixing.
        seed: of the order and of the mixing.
        multiple: the number of rows is filled up to a multiple of this.

    Yields:
        The tensors of the cut, the targets, and the share of each row in the batch's loss, which
        add up to 1.
    """
    draw = np.random.default_rng(seed)
    filled = -(-phase.batch_size // multiple) * multiple
    for rows, shares in _drawn(draw, examples, phase):
        tensors, targets = view.gather(rows), examples.targets[rows]
        if phase.mixup or phase.cutmix:
            tensors, targets = _mix(draw, tensors, targets, phase)
        if filled > len(rows):
            more = np.arange(filled - len(rows)) % len(rows)
            tensors = [np.concatenate([tensor, tensor[more]]) for tensor in tensors]
            targets = np.concatenate([targets, targets[more]])
            shares = np.concatenate([shares, np.zeros(len(more), np.float32)])
        yield tensors, targets, shares


def epoch(
    examples: Examples, phase: Phase, seed: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What :func:`batches` yields without mixing, for all batches at once.

    Returns:
        The positions of the images int32 ``[batches, size]``, the targets
        ``[batches, size, classes]``, and the shares ``[batches, size]``.
    """
    drawn = list(_drawn(np.random.default_rng(seed), examples, phase))
    rows = np.stack([rows for rows, _ in drawn]).astype(np.int32)
    return rows, examples.targets[rows], np.stack([shares for _, shares in drawn])


def _drawn(
    draw: np.random.Generator, examples: Examples, phase: Phase
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the images of each full batch, and their shares in its loss."""
    order = draw.permutation(len(examples.targets))
    for start in range(0, len(order), phase.batch_size):
        rows = order[start : start + phase.batch_size]
        weight = examples.weights[rows].astype(np.float32)
        if len(rows) < phase.batch_size:
            # Mixing draws a partner for every row of a full batch.
            missing = phase.batch_size - len(rows)
            weight = np.concatenate([weight, np.zeros(missing, np.float32)])
            rows = np.concatenate([rows, np.resize(order, missing)])
        yield rows, weight / max(float(weight.sum()), 1e-6)


def _mix(
    draw: np.random.Generator, tensors: list[np.ndarray], targets: np.ndarray, phase: Phase
) -> tuple[list[np.ndarray], np.ndarray]:
    """MixUp or CutMix of a batch with a shuffled copy of itself."""
    partner = draw.permutation(len(targets))
    cut = phase.cutmix > 0 and (phase.mixup == 0 or draw.random() < 0.5)
    alpha = phase.cutmix if cut else phase.mixup
    share = float(draw.beta(alpha, alpha))

    def blend(tensor: np.ndarray) -> np.ndarray:
        whole = share * tensor.astype(np.float32) + (1 - share) * tensor[partner]
        return whole.astype(np.float32)

    if not cut or all(tensor.ndim != 4 for tensor in tensors):
        return [blend(one) for one in tensors], share * targets + (1 - share) * targets[partner]
    side = np.sqrt(1 - share)
    centre = draw.random(2)
    mixed = []
    for tensor in tensors:
        if tensor.ndim != 4:  # means of lower maps, of which a box covers the same share
            mixed.append(blend(tensor))
            continue
        height, width = tensor.shape[1:3]
        top, bottom = _span(centre[0], side, height)
        left, right = _span(centre[1], side, width)
        pasted = tensor.copy()
        pasted[:, top:bottom, left:right] = tensor[partner, top:bottom, left:right]
        mixed.append(pasted)
        # The share of the pixels, not of the draw: a box may hang over the edge.
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, (share * targets + (1 - share) * targets[partner]).astype(np.float32)


def _span(centre: float, side: float, length: int) -> tuple[int, int]:
    low = round((centre - side / 2) * length)
    high = round((centre + side / 2) * length)
    return max(0, low), min(length, high)
