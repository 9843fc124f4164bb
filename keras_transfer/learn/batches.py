"""What a phase trains on, batch by batch: shuffled, of one shape."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from keras_transfer.base.types import Inputs


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The images of a phase.

    Attributes:
        views: the training inputs, one entry a view; epoch e sees view ``e mod len(views)``, the
            clean view 0 last so that a single epoch is an augmented one where there are several.
        targets: float32 ``[images, classes]``, see ``Task.targets``.
        weights: float32 ``[images, ...]``, the weight of each image in the loss, see
            ``Task.weights``.
        validation: the inputs of the clean validation images.
        validation_labels: of these, of either task.
        validation_weights: the weight of each in what is chosen by, or None for 1.
    """

    views: Sequence[Inputs]
    targets: np.ndarray
    weights: np.ndarray
    validation: Inputs
    validation_labels: np.ndarray
    validation_weights: np.ndarray | None = None

    def some(self, rows: np.ndarray | slice, judged: np.ndarray | slice) -> "Examples":
        """Those at some positions, of training and of validation."""
        weights = self.validation_weights
        return Examples(
            [Subset(view, rows) for view in self.views], self.targets[rows], self.weights[rows],
            Subset(self.validation, judged), self.validation_labels[judged],
            None if weights is None else weights[judged],
        )  # fmt: skip


class Subset:
    """Some of other inputs.

    Args:
        inputs: those.
        rows: positions in them.
    """

    def __init__(self, inputs: Inputs, rows: np.ndarray | slice) -> None:
        self._inputs, self.held = inputs, inputs.held
        self._rows = np.arange(len(inputs))[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """The tensors of the images at ``rows``."""
        return self._inputs.gather(self._rows[rows])


def batches(
    view: Inputs, examples: Examples, size: int, seed: list[int], multiple: int = 1
) -> Iterator[tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
    """Shuffled batches of one static shape: the last is filled up with images of weight zero.

    BatchNorm in training mode sees these as well.

    Args:
        view: the inputs.
        examples: targets and weights.
        size: images in a batch.
        seed: of the order.
        multiple: the number of rows is filled up to a multiple of this.

    Yields:
        The tensors of the cut, the targets, and the share of each row in the batch's loss. A
        batch's shares add up to its images' mean weight over that of all images: each class has
        its part of an epoch's loss, whichever batches it is in.
    """
    filled = -(-size // multiple) * multiple
    for rows, shares in _drawn(examples, size, seed):
        padded = np.resize(rows, filled) if filled > len(rows) else rows
        shares = _filled(shares, len(padded) - len(rows))
        yield view.gather(padded), examples.targets[padded], shares


def epoch(
    examples: Examples, size: int, seed: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What :func:`batches` yields, for all batches at once.

    Returns:
        The positions of the images int32 ``[batches, size]``, the targets
        ``[batches, size, classes]``, and the shares ``[batches, size]``.
    """
    rows, shares = map(np.stack, zip(*_drawn(examples, size, seed), strict=True))
    return rows.astype(np.int32), examples.targets[rows], shares


def _drawn(
    examples: Examples, size: int, seed: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the images of each full batch, and their shares in its loss."""
    order = np.random.default_rng(seed).permutation(len(examples.targets))
    mean = float(examples.weights.mean(dtype=np.float64))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        missing = size - len(rows)
        weight = _filled(examples.weights[rows], missing)
        shares = weight / max(mean * len(rows), 1e-6)
        rows = np.concatenate([rows, np.resize(order, missing)]) if missing else rows
        yield rows, shares


def _filled(weights: np.ndarray, missing: int) -> np.ndarray:
    """With so many rows of zeros behind, float32."""
    rest = np.zeros((missing, *weights.shape[1:]))
    return np.concatenate([weights, rest]).astype(np.float32)
