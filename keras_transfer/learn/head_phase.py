"""The first phase: the head alone, on features that were computed once."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_transfer.base import files
from keras_transfer.base.compute import Compute
from keras_transfer.base.progress import Progress
from keras_transfer.base.rows import Rows, Table, views_that_fit, width
from keras_transfer.base.task import task_of
from keras_transfer.base.types import LOGITS, Dataset, PhaseReport
from keras_transfer.frozen.extraction import Extracted
from keras_transfer.frozen.features import Array
from keras_transfer.learn import calibration
from keras_transfer.learn.batches import Examples
from keras_transfer.learn.finetune import Trained, fine_tune
from keras_transfer.learn.heads import FEW, Head, solve_head, solve_on_all
from keras_transfer.learn.model import head_inputs, head_variables, optional_features
from keras_transfer.learn.pool import ModelPool
from keras_transfer.learn.suffix import assign, values_of, working
from keras_transfer.recipe import Recipe

AGAIN = "At last the head was solved once more, on training and validation examples alike."
ANEW = "Restore the file, or begin anew with --overwrite."


class Chosen(NamedTuple):
    """What validation chose of a head: its penalty, and how many first features it ignores."""

    penalty: float
    ignored: int = 0


class Posed(NamedTuple):
    """What a head is solved on.

    Attributes:
        model: the classifier whose head it is.
        labels: of the training examples.
        examples: their weights, and the labels of validation.
        views: float ``[n, features]``, the pooled features of each view.
        validation: float ``[m, features]``.
        few: see :func:`~keras_transfer.learn.heads.solve_head`.
    """

    model: keras.Model
    labels: np.ndarray
    examples: Examples
    views: Sequence[Table]
    validation: Table
    few: bool


class Done(NamedTuple):
    """What is reported of the phase.

    Attributes:
        epochs: or iterations of a solver.
        seen: images, in all of them.
        details: what else there is to say.
        trained: what training came to; None where the head was solved.
    """

    epochs: int
    seen: int
    details: dict[str, Any]
    trained: Trained | None = None

    @property
    def chosen(self) -> Chosen:
        """Of a head that was solved."""
        return Chosen(self.details["penalty"], self.details.get("ignored", 0))

    def report(self, seconds: float) -> PhaseReport:
        """What it did in so many seconds."""
        speed = self.seen / max(seconds, 1e-9)
        return PhaseReport("head", self.epochs, seconds, speed, True, self.details)


def solve(
    posed: Posed, progress: Progress, meanwhile: Callable[[], None], checkpoint: Path | None
) -> Done:
    """Solves the model's head on pooled features, or takes what a killed run had solved.

    Args:
        posed: what it is solved on; the model gets it.
        progress: where to report.
        meanwhile: what else is to be done; the solver holds one core, and this may hold another.
        checkpoint: a file for the solved head, or None.
    """
    if checkpoint and checkpoint.exists():
        return read_head(checkpoint, posed.model)
    solving = solver(posed)
    with ThreadPoolExecutor(1) as aside:
        solved = aside.submit(solving)
        meanwhile()
        head = solved.result()
    posed.model.get_layer(LOGITS).set_weights([head.kernel, head.bias])
    progress.detail(f"Head: penalty {head.penalty:.2g}, {len(head.path)} tried.")
    for row in head.rows():
        progress.row(row)
    images = len(posed.labels) * len(posed.views)
    done = Done(head.iterations, head.iterations * images, head.details())
    if checkpoint:
        _write_head(checkpoint, posed.model, done)
    return done


def train(
    model: keras.Model,
    labels: np.ndarray,
    examples: Examples,
    extracted: Extracted,
    recipe: Recipe,
    pool: ModelPool,
    *,
    compute: Compute,
    **how: Any,
) -> Done:
    """Trains the model's head by gradient on pooled features, and gives it its best weights.

    Args:
        model: the classifier.
        labels: of the training examples.
        examples: their weights, and the labels of validation.
        extracted: the features.
        recipe: of the run.
        pool: where the head's compiled step is kept.
        compute: how it is computed.
        how: the rest of what :func:`~keras_transfer.learn.finetune.fine_tune` takes.
    """
    recipe, top = recipe.for_head(), pool.head(model, recipe.for_head())
    on_features = dataclasses.replace(
        examples, views=[Array(one) for one in extracted.features],
        targets=task_of(labels).targets(labels, int(model.output_shape[-1])),
        validation=Array(extracted.validation_features),
    )  # fmt: skip
    done = fine_tune(
        working(top, compute), recipe, on_features, name="head", compute=compute, **how
    )
    if done.best is not None:
        assign(top.learned, done.best)
    details = {"best_epoch": done.best_epoch}
    return Done(done.epoch, done.epoch * len(labels), details, done)


def as_many_as_fit(features: Sequence[Table]) -> Sequence[Table]:
    """The features of the first views, so many that the head can be solved in memory, or of one.

    Those of more views are left to the second phase.
    """
    return features[: views_that_fit(len(features[0]), width(features[0]), len(features))]


def solver(posed: Posed) -> Callable[[], Head]:
    """Solves the head of a classifier on the pooled features of some views, without the model.

    With and without the features that a head may do better without, as validation decides. The
    model is asked for what its head sees before another thread solves: a step may give its
    variables away meanwhile.
    """
    model, labels, examples, views, validation, few = posed
    seen, classes, ways = head_inputs(model), int(model.output_shape[-1]), _ways(model)

    def without(first: int) -> Head:
        def change(rows: np.ndarray) -> np.ndarray:
            return seen(rows)[:, first:]

        solved = solve_head(
            Rows(views, change), np.concatenate([labels] * len(views)), classes,
            Rows([validation], change), examples.validation_labels,
            sample_weights=np.concatenate([examples.weights] * len(views)),
            validation_weights=examples.validation_weights, few=few,
        )  # fmt: skip
        return solved.seeing(first)

    return lambda: min(map(without, ways), key=lambda head: head.validation_nll)


def _ways(model: keras.Model) -> list[int]:
    """How many of the first features heads are solved without, the best of which is kept."""
    return sorted({0, optional_features(model)})


def solve_again(posed: Posed, chosen: Chosen) -> Head:
    """A head on training and validation examples, by what these chose of one that had not seen
    them, and from the one on that the model has; every example counts once, however many views
    there are of it.
    """
    model, labels, examples, views, validation, few = posed
    seen, task, judged = head_inputs(model), task_of(labels), examples.validation_labels

    def change(rows: np.ndarray) -> np.ndarray:
        return seen(rows)[:, chosen.ignored :]

    shares, classes = [examples.weights / len(views)] * len(views), int(model.output_shape[-1])
    of_judged = examples.validation_weights
    kernel, bias = model.get_layer(LOGITS).get_weights()
    shares.append(task.weights(judged, classes) if of_judged is None else of_judged)
    return solve_head(
        Rows([*views, validation], change), np.concatenate([labels] * len(views) + [judged]),
        classes, Rows([validation], change), judged,
        sample_weights=np.concatenate(shares), penalties=[chosen.penalty], few=few,
        start=(kernel[chosen.ignored :], bias),
    ).seeing(chosen.ignored)  # fmt: skip


class OnAll(NamedTuple):
    """A head of few labels solved on all of them.

    Attributes:
        head: the head.
        logits: of the validation examples, by heads that had not seen them.
        temperature: fitted to such logits of all labelled examples.
        why: what was done and why, for people.
    """

    head: Head
    logits: np.ndarray
    temperature: float
    why: str


def solve_on_few(posed: Posed, dataset: Dataset) -> OnAll | None:
    """The head on training and validation examples, judged by cross-validation; None where these
    are not few.
    """
    model, _, examples, views, validation, _ = posed
    rows = np.concatenate([dataset.indices("train"), dataset.indices("val")])
    labels, classes = dataset.labels[rows], len(dataset.class_names)
    groups = [(dataset.groups or dataset.digests)[row] for row in rows]
    task = task_of(labels)
    found = task.counts(labels, classes).sum()
    are_few = classes < found <= FEW * classes and len(set(groups)) > 1
    if not are_few:
        return None
    weights = task.weights(labels, classes)
    if examples.validation_weights is not None:
        weights = np.concatenate([examples.weights, examples.validation_weights])
    seen = head_inputs(model)
    clean, *others = (seen(one[:]) for one in views)
    clean = np.concatenate([clean, seen(validation[:])])

    def without(first: int) -> tuple[Head, np.ndarray]:
        fewer = [view[:, first:] for view in others]
        head, logits = solve_on_all(clean[:, first:], fewer, labels, weights, groups, classes)
        return head.seeing(first), logits

    head, logits = min(map(without, _ways(model)), key=lambda solved: solved[0].validation_nll)
    why = (
        f"Few labels: the head alone is solved on all {len(rows)} of them, validation included, "
        f"with penalty {head.penalty:.2g}, the best in cross-validation (NLL "
        f"{head.validation_nll:.3f}). It is judged by answers to what had been left out."
    )
    temperature = calibration.fit_temperature(logits, labels, weights)
    return OnAll(head, logits[-len(validation) :], temperature, why)


def read_head(path: Path, model: keras.Model) -> Done:
    """Gives the model the head of a killed run; returns what there was to report of it.

    Raises:
        UsageError: the file cannot be read.
    """
    with files.reading(path, ANEW), np.load(path) as arrays:
        values = sorted(name for name in arrays.files if name != "report")
        assign(head_variables(model), [arrays[name] for name in values])
        return Done(*json.loads(str(arrays["report"])))


def _write_head(path: Path, model: keras.Model, done: Done) -> None:
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        values = values_of(head_variables(model))
        named: dict[str, Any] = {f"value-{i:03d}": value for i, value in enumerate(values)}
        np.savez(stream, report=json.dumps(files.plain(done[:3])), **named)
