"""How much of a backbone fine-tunes, decided for the data at hand by a short race.

Every depth of ``DEPTHS`` trains for two epochs on half of the training images, on the store that
the run goes on with. Few steps favour shallow depths, since deep ones first lose what they later
gain more than back. So the deepest is taken unless another is better beyond doubt, by more than
three standard errors of the paired difference in calibrated validation NLL; and it is taken where
it has not yet passed its own head, which is too soon to judge it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.base.task import task_of
from keras_transfer.base.types import Dataset
from keras_transfer.learn import calibration
from keras_transfer.recipe import Recipe

AUTO = "auto"
DEPTHS, DEEPEST = ("35%", "70%"), "70%"
_EPOCHS, _VIEWS = 2, 2
_SURE = 3.0
_SHARE = 0.25


def decide(
    dataset: Dataset,
    recipe: Recipe,
    fit: Callable[[Dataset, Recipe], Any],
    progress: Progress,
    deadline: float = math.inf,
) -> tuple[str, list[dict[str, Any]]]:
    """Races the depths.

    Args:
        dataset: images with pixels; the test split is left alone.
        recipe: with pretrained weights.
        fit: trains by a recipe without looking at the test split, as ``training.train`` does.
        progress: where to report.
        deadline: by ``time.monotonic``, when the run that follows must have ended. A depth takes a
            quarter of the time until then at most; one that would take longer ends the race, and
            the shallowest is taken.

    Returns:
        The depth that won, and one row a depth that was raced: ``unfreeze``, ``nll`` of its best
        weights, ``head_nll`` of the head alone, ``sure`` (by how many standard errors it is ahead
        of the deepest; 0 where that is still at its head), ``seconds``.

    Raises:
        UsageError: the backbone's weights are random.
    """
    if recipe.weights == "none":
        raise UsageError(
            "Random weights train whole: there is no depth to decide.", remedy="Use --unfreeze all."
        )
    half, rows, losses = _half(dataset), list[dict[str, Any]](), dict[str, np.ndarray]()
    for depth in DEPTHS:
        begun, views = time.monotonic(), min(_VIEWS, recipe.views)
        budget = None if deadline == math.inf else max(_SHARE * (deadline - begun), 1e-3)
        done = fit(
            half,
            dataclasses.replace(
                recipe, unfreeze=depth, fine_tune_epochs=_EPOCHS, views=views, time_budget=budget
            ),
        )
        # One that was shortened could not be compared.
        if budget and sum(one.epochs for one in done.phases if one.name == "fine_tune") < _EPOCHS:
            progress.note(f"No time to race {depth}.")
            break
        kept = done.candidates[0]
        head = next(one.nll for one in done.candidates if one.name == "head")
        if kept.name != "head":
            losses[depth] = _losses(done, half, recipe.class_weights == "balanced")
        seconds = round(time.monotonic() - begun, 3)
        rows.append({"unfreeze": depth, "nll": kept.nll, "head_nll": head, "seconds": seconds})
        progress.detail(f"Race: {depth} reaches NLL {kept.nll:.4f} (its head {head:.4f}).")
    for row in rows:
        row["sure"] = _ahead(losses.get(row["unfreeze"]), losses.get(DEEPEST))
    winner = _winner(rows) if len(rows) == len(DEPTHS) else DEPTHS[0]
    progress.note(f"Fine-tuning depth: {winner} of the work.")
    return winner, rows


def _losses(done: Any, dataset: Dataset, balance: bool) -> np.ndarray:
    """The calibrated negative log-likelihood of each validation image."""
    labels = dataset.labels[dataset.indices("val")]
    task = task_of(labels)
    weights = task.weights(labels, len(dataset.class_names), balance)
    return task.losses(done.validation_logits, labels, done.temperature, weights)


def _ahead(losses: np.ndarray | None, deepest: np.ndarray | None) -> float:
    """By how many standard errors of their paired difference the first are below the second."""
    if losses is None or deepest is None:
        return 0.0
    return round(calibration.ahead(losses, deepest), 3)


def _winner(rows: list[dict[str, Any]]) -> str:
    """The depth with the lowest NLL of those surely ahead of the deepest; else the deepest."""
    ahead = [row for row in rows if row["sure"] > _SURE]
    return str(min(ahead, key=lambda row: row["nll"])["unfreeze"]) if ahead else DEEPEST


def _half(dataset: Dataset) -> Dataset:
    """The data with every second training image of a class left out, by digest: no draw at all."""
    splits = dataset.splits.copy()
    train = dataset.indices("train")
    strata = task_of(dataset.labels).strata(dataset.labels)[train]
    for label in np.unique(strata):
        rows = sorted(train[strata == label], key=lambda row: dataset.digests[row])
        splits[rows[1::2]] = ""
    return dataclasses.replace(dataset, splits=splits)
