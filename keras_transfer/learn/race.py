"""How much of a backbone fine-tunes, decided for the data at hand by a short race.

Every depth of ``DEPTHS`` trains for two epochs on half of the training images, on the store that
the run goes on with. Few steps favour shallow depths, since deep ones first lose what they later
gain more than back (measured on the built-in digits at 32 px: after forty steps 12 % of the work is
just ahead of its head, 35 and 70 % behind theirs; whole runs reach accuracies of 0.863, 0.922 and
0.959). So the deepest is taken unless another is better beyond doubt, by more than three standard
errors of the paired difference in calibrated validation NLL; and it is taken where it has not yet
passed its own head, which is too soon to judge it.

The default recipe's depth is the shallower of the two, which costs half as much to train; nothing
shallower takes part, since 12 % ends further behind (`benchmarks/results/recipe.md`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.base.types import Backbone, Dataset
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn import calibration, planner
from keras_transfer.learn.finetune import assign, values_of
from keras_transfer.learn.steps import Steps
from keras_transfer.schedule import Schedule

AUTO = "auto"
DEPTHS, DEEPEST = ("35%", "70%"), "70%"
_EPOCHS, _VIEWS = 2, 2
_SURE = 3.0


def decide(
    dataset: Dataset,
    backbone: Backbone,
    schedule: Schedule,
    *,
    fit: Callable[..., Any],
    store: ActivationStore | None,
    steps: Steps,
    progress: Progress,
    seed: int,
    **how: Any,
) -> tuple[Schedule, list[dict[str, Any]]]:
    """Races the depths and returns the schedule with the winner in it.

    Args:
        dataset: images with pixels; the test split is left alone.
        backbone: with pretrained weights, which are put back afterwards.
        schedule: its fine-tuning phase has ``unfreeze="auto"``.
        fit: ``training.fit``.
        store: where frozen work is kept.
        steps: where compiled steps are kept.
        progress: where to report.
        seed: as for ``training.fit``.
        how: the engine and the like, as for ``training.fit``.

    Returns:
        The schedule, and one row a depth: ``unfreeze``, ``nll`` of its best weights, ``head_nll``
        of the head alone, ``sure`` (by how many standard errors it is ahead of the deepest; 0 where
        that is still at its head), ``seconds``.

    Raises:
        UsageError: the backbone's weights are random.
    """
    phase = schedule.fine_tune
    assert phase is not None
    if backbone.weights == "none":
        raise UsageError(
            "Random weights train whole: there is no depth to decide.", remedy="Use --unfreeze all."
        )
    half = _half(dataset)
    model, rows = backbone.model, list[dict[str, Any]]()
    losses: dict[str, np.ndarray] = {}
    measured: planner.Measured | None = None
    pretrained, trains = values_of(model.variables), [layer.trainable for layer in model.layers]
    for depth in DEPTHS:
        lap = time.monotonic()
        short = dataclasses.replace(phase, unfreeze=depth, epochs=_EPOCHS)
        tried = dataclasses.replace(schedule, views=min(_VIEWS, schedule.views), fine_tune=short)
        done = fit(
            half, backbone, tried, store=store, steps=steps, seed=seed, measured=measured, **how
        )
        assign(model.variables, pretrained)
        for layer, flag in zip(model.layers, trains, strict=True):
            layer.trainable = flag
        measured = done.measured
        kept = done.candidates[0]
        head = next(c.nll for c in done.candidates if c.name == "head")
        if kept.name != "head":
            labels = half.labels[half.indices("val")]
            logarithms = calibration.log_softmax(done.validation_logits / done.temperature)
            losses[depth] = -logarithms[np.arange(len(labels)), labels]
        seconds = round(time.monotonic() - lap, 3)
        rows.append({"unfreeze": depth, "nll": kept.nll, "head_nll": head, "seconds": seconds})
        progress.note(f"Race: {depth} reaches NLL {kept.nll:.4f} (its head {head:.4f}).")
    for row in rows:
        row["sure"] = _ahead(losses.get(row["unfreeze"]), losses.get(DEEPEST))
    winner = _winner(rows)

    progress.note(f"Fine-tuning depth: {winner} of the work.")
    chosen = dataclasses.replace(phase, unfreeze=winner)
    return dataclasses.replace(schedule, fine_tune=chosen), rows


def _ahead(losses: np.ndarray | None, deepest: np.ndarray | None) -> float:
    """By how many standard errors of their paired difference the first are below the second."""
    if losses is None or deepest is None:
        return 0.0
    gained = deepest - losses
    error = float(gained.std(ddof=1)) / np.sqrt(len(gained))
    return round(float(gained.mean()) / error, 3) if error else 0.0


def _winner(rows: list[dict[str, Any]]) -> str:
    """The depth with the lowest NLL of those surely ahead of the deepest; else the deepest."""
    ahead = [row for row in rows if row["sure"] > _SURE]
    return str(min(ahead, key=lambda row: row["nll"])["unfreeze"]) if ahead else DEEPEST


def _half(dataset: Dataset) -> Dataset:
    """The data with every second training image of a class left out, by digest: no draw at all."""
    splits = dataset.splits.copy()
    train = dataset.indices("train")
    for label in np.unique(dataset.labels[train]):
        rows = sorted(train[dataset.labels[train] == label], key=lambda row: dataset.digests[row])
        splits[rows[1::2]] = ""
    return dataclasses.replace(dataset, splits=splits)
