"""The second phase: the top blocks are unfrozen, and what they came to is chosen among."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_transfer.base.compute import Compute
from keras_transfer.base.progress import Progress
from keras_transfer.base.rows import Table, sample
from keras_transfer.base.types import LOGITS, POOL, Inputs, PhaseReport
from keras_transfer.frozen.engine import Batch, Engine, build_engine
from keras_transfer.frozen.features import Array
from keras_transfer.learn import planner
from keras_transfer.learn.batches import Examples
from keras_transfer.learn.finetune import Trained, fine_tune
from keras_transfer.learn.head_phase import AGAIN, Chosen, OnAll, Posed, solve_again, solver
from keras_transfer.learn.heads import Head
from keras_transfer.learn.model import head_inputs, measure_statistics, set_batch_norm
from keras_transfer.learn.pool import ModelPool
from keras_transfer.learn.selection import Candidate, NewHead, choose
from keras_transfer.learn.suffix import Suffix, assign, between, predict, values_of, working
from keras_transfer.learn.watching import Watched
from keras_transfer.recipe import Recipe

# Images that stand for all where BatchNorm's statistics are measured.
_FOR_STATISTICS = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What the weights of a run were chosen among, and how the chosen ones do.

    Attributes:
        candidates: the chosen one first; the model has its weights.
        validation_logits: float ``[validation images, classes]``, before any temperature.
        engine: runs the part that trained, or the head alone, in float32 on one device.
        trained: what training came to; None where there was no second phase.
        seconds: of training, without the choice.
        on_all: what was done at last with validation examples, for people.
    """

    candidates: tuple[Candidate, ...]
    validation_logits: np.ndarray
    engine: Engine
    trained: Trained | None = None
    seconds: float = 0.0
    on_all: str = ""

    @property
    def chosen(self) -> Candidate:
        """What the model's weights are."""
        return self.candidates[0]

    def report(self, blocks: Sequence[str], images: int, *, cached: bool) -> PhaseReport:
        """What the phase did, with these blocks and so many training images."""
        assert self.trained is not None
        done, seconds = self.trained, self.seconds
        details = {
            "unfrozen": list(blocks), "best_epoch": done.best_epoch, "kept": self.chosen.name,
            "candidates": [dataclasses.asdict(one) for one in self.candidates],
            "on_all": self.on_all,
        }  # fmt: skip
        speed = done.epoch * images / max(seconds, 1e-9)
        return PhaseReport("fine_tune", done.epoch, seconds, speed, cached, details)

    @property
    def verdict(self) -> str:
        """What was kept and why, for people."""
        kept = self.chosen
        head = next(candidate for candidate in self.candidates if candidate.name == "head")
        if kept is head and any(candidate.nll < head.nll for candidate in self.candidates):
            return "Kept the head alone: on so few labels fine-tuning is not surely better."
        if kept is head:
            return "Kept the head alone: fine-tuning did not help on validation."
        return (
            f"Kept {kept.name}: validation NLL {kept.nll:.3f} and accuracy {kept.accuracy:.3f}, "
            f"the head alone {head.nll:.3f} and {head.accuracy:.3f}."
        )


def keep_head(
    model: keras.Model,
    top: Suffix,
    features: Table,
    examples: Examples,
    on_all: OnAll | None,
    again: Head | None,
) -> Outcome:
    """The head alone, judged on validation.

    Args:
        model: the classifier, with its head.
        top: its part above the pooled features.
        features: of the validation images.
        examples: their labels and weights.
        on_all: the head of few labels, which the model gets.
        again: one solved on validation examples, too, which it gets unjudged.
    """
    engine = build_engine(top, "keras")
    logits = predict(engine, Array(features)) if on_all is None else on_all.logits
    if kept := on_all.head if on_all else again:
        model.get_layer(LOGITS).set_weights([kept.kernel, kept.bias])
    _, candidates, _ = choose(
        [], {}, lambda weights: logits, examples.validation_labels,
        image_weights=examples.validation_weights,
        head=([], on_all.logits, on_all.temperature) if on_all else None,
    )  # fmt: skip
    return Outcome(candidates, logits, engine)


def part_that_trains(
    pool: ModelPool, model: keras.Model, cut: tuple[str, ...], recipe: Recipe
) -> Suffix:
    """The part that the second phase trains, in the mode in which it trains."""
    suffix = pool.suffix(model, cut, recipe)
    suffix.inference_mode = recipe.batch_norm != "train"
    if recipe.batch_norm == "train":
        set_batch_norm(suffix, trains=True)
    return suffix


def tune(
    model: keras.Model,
    suffix: Suffix,
    recipe: Recipe,
    examples: Examples,
    labels: np.ndarray,
    *,
    few: bool,
    on_all: OnAll | None,
    solved: Chosen | None,
    progress: Progress,
    compute: Compute,
    first_head: Sequence[np.ndarray] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **how: Any,
) -> Outcome:
    """Trains the part above the cut, and gives the model the best of what it came to.

    Args:
        model: the classifier, its head solved.
        suffix: from :func:`part_that_trains`.
        recipe: of the run.
        examples: what it trains and is validated on.
        labels: of the training examples.
        few: see :func:`~keras_transfer.learn.heads.solve_head`.
        on_all: the head of few labels, which must surely be beaten.
        solved: what was chosen of the solved head, where the head of what is kept is to be solved
            at last on validation examples, too; else None.
        progress: where to report.
        compute: how steps are computed.
        first_head: values that the head begins with instead, where all weights are random: one that
            was solved on random features misleads the layers that begin to learn.
        callbacks: Keras's, see :class:`~keras_transfer.learn.watching.Watched`.
        how: the rest of what :func:`~keras_transfer.learn.finetune.fine_tune` takes.
    """
    begun, start = time.monotonic(), values_of(suffix.learned)
    if first_head is not None:
        assign(model.get_layer(LOGITS).variables, first_head)
        if recipe.batch_norm == "train":
            measure_statistics(suffix, _some(examples.views[0], recipe, recipe.batch_size))
    computing = working(suffix, compute)
    done = fine_tune(
        computing, recipe, examples,
        compute=compute, progress=Watched(callbacks, computing, progress), **how,
    )  # fmt: skip
    seconds = time.monotonic() - begun
    progress.stage("choose")
    # The weights are in what came back; the suffix is in float32 on one device.
    width = model.get_layer(POOL).output.shape[-1]
    rows, judged = sample(len(labels), width), sample(len(examples.validation_labels), 2 * width)
    some = examples.some(rows, judged)
    part = _Part(model, suffix, build_engine(suffix, "keras"), examples, some, labels[rows], few)
    chosen, candidates, logits, renewed = _choose(part, start, done, recipe, on_all)
    kept, said = candidates[0].name, ""
    # A head of a sample would be one of fewer examples than trained, not of more.
    if solved and isinstance(rows, slice) and not (on_all and kept == "head"):
        progress.detail(said := AGAIN)
        chosen = part.at_last(kept, chosen, solved, renewed)
    assign(suffix.learned, chosen)
    return Outcome(candidates, logits, part.engine, done, seconds, said)


class _Part(NamedTuple):
    """What trained, and what it is asked with whatever weights; they stay in it.

    Attributes:
        model: the classifier.
        suffix: its part above the cut.
        engine: runs the suffix.
        examples: what it trained and is validated on.
        some: of these as many as new heads are solved on, in memory.
        labels: of the training examples among them.
        few: see :func:`~keras_transfer.learn.heads.solve_head`.
    """

    model: keras.Model
    suffix: Suffix
    engine: Engine
    examples: Examples
    some: Examples
    labels: np.ndarray
    few: bool

    def logits(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Of the validation examples."""
        assign(self.suffix.learned, values)
        return predict(self.engine, self.examples.validation)

    def posed(self, values: Sequence[np.ndarray]) -> Posed:
        """What a new head is solved on: pooled features of some, of the first views and of the
        validation examples.
        """
        assign(self.suffix.learned, values)
        views = planner.new_head_views(len(self.labels), len(self.some.views))
        features = [predict(self.engine, inputs, 1) for inputs in self.some.views[:views]]
        validation = predict(self.engine, self.some.validation, 1)
        return Posed(self.model, self.labels, self.some, features, validation, self.few)

    def with_head(self, values: Sequence[np.ndarray], head: Head) -> list[np.ndarray]:
        """The weights with another head."""
        place = {id(v): number for number, v in enumerate(self.model.get_layer(LOGITS).variables)}
        new = head.kernel, head.bias
        return [
            new[place[id(variable)]] if id(variable) in place else value
            for variable, value in zip(self.suffix.learned, values, strict=True)
        ]

    def at_last(
        self, kept: str, values: Sequence[np.ndarray], solved: Chosen, renewed: "_Renewed | None"
    ) -> list[np.ndarray]:
        """The weights that were kept, by this name, with a head of all examples, or, where training
        changed their features and a new head of these was chosen, with the mean of theirs and that.
        """
        if kept == "head":
            renewed = None
        if renewed is not None and kept.endswith("new head"):
            assign(self.suffix.learned, values)
            posed = renewed.posed  # only the head is another
        else:
            posed = self.posed(values)
        if renewed is not None:
            solved = Chosen(renewed.head.penalty, renewed.head.ignored)
        again = self.with_head(values, solve_again(posed, solved))
        # Features that were fitted to most of these examples make a head that is too sure.
        return again if renewed is None else between(values, again, 0.5)


class _Renewed(NamedTuple):
    """A head solved on the features of what trained, and these, see :meth:`_Part.posed`."""

    head: Head
    posed: Posed


def _choose(
    part: _Part, start: list[np.ndarray], done: Trained, recipe: Recipe, on_all: OnAll | None
) -> tuple[list[np.ndarray], tuple[Candidate, ...], np.ndarray, _Renewed | None]:
    """Judges what the second phase came to, a head solved again on its features included, which is
    returned last.
    """
    examples = part.examples

    def settled(values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Means of weights with statistics of their own, where BatchNorm has any to learn."""
        if recipe.batch_norm == "train":
            assign(part.suffix.learned, values)
            measure_statistics(part.suffix, _some(examples.views[0], recipe, _FOR_STATISTICS))
            values = values_of(part.suffix.learned)
        return list(values)

    ends = done.ends()
    if "average" in ends:
        ends["average"] = settled(ends["average"])
    renewing: list[Future[_Renewed]] = []
    with ThreadPoolExecutor(1) as aside:

        def new_head(values: Sequence[np.ndarray]) -> Callable[[], NewHead]:
            posed = part.posed(values)
            solve = solver(posed)
            renewing.append(aside.submit(lambda: _Renewed(solve(), posed)))
            seen = head_inputs(part.model)

            def wait() -> NewHead:
                head = renewing[0].result().head
                renewed = part.with_head(values, head)
                if len(posed.validation) < len(examples.validation_labels):  # a sample
                    return renewed, part.logits(renewed)
                return renewed, head.logits(seen(posed.validation[:]))

            return wait

        head = on_all and (part.with_head(start, on_all.head), on_all.logits, on_all.temperature)
        chosen = choose(
            start, ends, part.logits, examples.validation_labels,
            new_head if recipe.head_is_solved else None, examples.validation_weights,
            mix=lambda first, second, share: settled(between(first, second, share)), head=head,
        )  # fmt: skip
    return *chosen, renewing[0].result() if renewing else None


def _some(inputs: Inputs, recipe: Recipe, number: int) -> Iterator[Batch]:
    """Batches of so many images, or of all where there are fewer, drawn without return."""
    drawn = np.random.default_rng(recipe.seed).permutation(len(inputs))[:number]
    for start in range(0, len(drawn), recipe.batch_size):
        batch = inputs.gather(drawn[start : start + recipe.batch_size])
        yield batch if len(batch) > 1 else batch[0]
