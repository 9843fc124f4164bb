"""Training by gradient above a cut, on whatever supplies the inputs at that cut."""

import contextlib
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer import fast
from keras_transfer.base import files
from keras_transfer.base.compute import PLAIN, Compute, accelerators, out_of_memory
from keras_transfer.base.distribution import place
from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.base.task import task_of
from keras_transfer.base.threads import prefetch
from keras_transfer.base.types import Inputs
from keras_transfer.fast.resident import Resident, free_room, predict_all, resident
from keras_transfer.fast.steps import HeldSteps, PlainSteps, begin_steps
from keras_transfer.frozen.engine import Engine, keras_engine
from keras_transfer.learn import calibration
from keras_transfer.learn.batches import Examples, batches, epoch
from keras_transfer.learn.optimizers import build_optimizer
from keras_transfer.learn.suffix import Suffix, assign, predict, values_of
from keras_transfer.recipe import Recipe

# How long a killed run may have to do again: writing after every short epoch would cost more.
CHECKPOINT_SECONDS = 10.0
SILENT = Progress()


@dataclasses.dataclass
class Trained:
    """Where a phase stands after a whole epoch; what a checkpoint holds.

    Attributes:
        epoch: epochs done.
        history: one row an epoch.
        best_epoch: the epoch with the lowest calibrated validation NLL, from 1; 0 before any.
        best_nll: that NLL.
        best: ``Suffix.learned`` at that epoch, as the next two.
        average: moving average of the weights, where the recipe keeps one.
        current: weights now.
        steps: optimiser steps done.
        compilations: how often a step was traced, once for each shape of a batch.
        compile_seconds: what those steps took.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_nll: float = float("inf")
    best: list[np.ndarray] | None = None
    average: list[np.ndarray] | None = None
    current: list[np.ndarray] | None = None
    steps: int = 0
    compilations: int = 0
    compile_seconds: float = 0.0

    def ends(self) -> dict[str, list[np.ndarray]]:
        """The weights worth choosing among, by name."""
        assert self.current is not None
        ends = {"last epoch": self.current}
        if self.best is not None and self.best_epoch != self.epoch:
            ends["best epoch"] = self.best
        if self.average is not None:
            ends["average"] = self.average
        return ends


def fine_tune(
    suffix: Suffix,
    recipe: Recipe,
    examples: Examples,
    *,
    name: str = "fine_tune",
    depths: dict[str, int] | None = None,
    compute: Compute = PLAIN,
    checkpoint: Path | None = None,
    progress: Progress = SILENT,
    deadline: float | None = None,
) -> Trained:
    """Trains the suffix for the epochs of a recipe and leaves it at its last weights.

    Where a batch does not fit the memory the gradients of its parts are added up before a step.
    For ``depths`` and ``compute`` see :func:`~keras_transfer.learn.optimizers.build_optimizer`.

    Args:
        suffix: the model above the cut; its trainable variables train by the recipe.
        recipe: epochs, batch size, rates and the rest.
        checkpoint: a file that receives the state, and from which a killed phase goes on.
        deadline: ``time.monotonic()`` after which no epoch is begun that would end later.
    """
    epochs, save_at, parts = recipe.fine_tune_epochs, time.monotonic() + CHECKPOINT_SECONDS, 1
    make = functools.partial(build_optimizer, recipe, suffix, depths or {}, compute=compute)
    examples = _held(examples, recipe, compute)  # refuses batches that cannot be shared
    engine = keras_engine(suffix, compute.here)
    with compute.scope(), progress.step(name.replace("_", "-"), epochs) as advance:
        suffix.regularise(recipe.penalty, recipe.penalty_strength)
        optimizer, done = _begin(suffix, make, parts, compute, checkpoint)
        before = values_of(_changing(suffix))
        advance(first := done.epoch)
        while done.epoch < epochs and not suffix.stop_training:
            start, view = time.monotonic(), examples.views[(done.epoch + 1) % len(examples.views)]
            try:
                row = {"phase": name} | _epoch(suffix, recipe, view, examples, done, parts, compute)
                row |= _validate(suffix, engine, examples, done)
                # JAX has only begun to compute it: now it is there, as what came after it is.
                row["train_loss"] = float(row["train_loss"])
            except Exception as error:
                # All batches have one shape: where the first epoch fits, the others do.
                if len(done.history) > first or not out_of_memory(error):
                    raise
                parts = _more_parts(parts, recipe.batch_size, compute, progress)
                # JAX gives a step's inputs away, and with them the weights where it fails.
                assign(_changing(suffix), before)
                optimizer, done = _begin(suffix, make, parts, compute, checkpoint)
                continue
            seconds = time.monotonic() - start
            done.history.append(row | {"seconds": round(seconds, 3)})
            progress.row(done.history[-1])
            advance(1, f"{row['validation_accuracy']:.1%} right on validation")
            late = deadline is not None and time.monotonic() + seconds > deadline
            if checkpoint and (late or done.epoch == epochs or time.monotonic() > save_at):
                _save(checkpoint, done, suffix, optimizer)
                save_at = time.monotonic() + CHECKPOINT_SECONDS
            if late:
                progress.note(f"Out of time after epoch {done.epoch} of {epochs}.")
                break
    return _ended(done, suffix, optimizer, recipe)


def _begin(
    suffix: Suffix, make: Any, parts: int, compute: Compute, checkpoint: Path | None
) -> tuple[Any, Trained]:
    """The optimiser of a step in so many parts, and the state from which the phase goes on."""
    suffix.replicas = compute.replicas
    optimizer = suffix.prepare(make, parts, compute.xla)
    return optimizer, _restore(checkpoint, suffix, optimizer)


def trace_ahead(suffix: Suffix, recipe: Recipe, examples: Examples, depths: dict[str, int]) -> None:
    """Traces what :func:`fine_tune` will run on a CPU, its step and inference, beforehand.

    Tracing holds one core for seconds, so it is worth doing while something else holds the other:
    one step is taken at a rate of 0, and all that it changes is put back. A suffix whose step
    exists is left alone, and so is one for JAX, which compiles a whole epoch.

    Args:
        suffix: as in :func:`fine_tune`, as are the others; of its examples a batch is taken.
    """
    on_cpu = keras.backend.backend() == "tensorflow" and not accelerators()
    if suffix.record.compiled or not on_cpu or not fast.enabled():
        return
    suffix.regularise(recipe.penalty, recipe.penalty_strength)
    suffix.prepare(functools.partial(build_optimizer, recipe, suffix, depths), 1, jit=False)
    before = values_of(_changing(suffix))
    batch = next(batches(examples.views[0], examples, recipe.batch_size, [0, 0]))
    x, *rest = _divide(place(batch), 1)[0]
    try:
        steps = begin_steps(suffix)
        steps.take(0.0, x, *rest)
        steps.end()
        keras_engine(suffix).run(x)
    except Exception as error:
        # The phase itself will find smaller parts.
        if not out_of_memory(error):
            raise
    assign(_changing(suffix), before)


def _held(examples: Examples, recipe: Recipe, compute: Compute) -> Examples:
    """The examples, on the device where all fit there; refuses batches too small to be shared."""
    if compute.share > recipe.batch_size:
        raise UsageError(
            f"A batch of {recipe.batch_size} examples cannot be shared by {compute.share} devices.",
            remedy=f"Use --batch-size {compute.share} or more, or fewer --devices.",
        )
    room = 0 if compute.distribution else free_room()
    *views, validation = resident([*examples.views, examples.validation], room)
    return dataclasses.replace(examples, views=views, validation=validation)


def _more_parts(parts: int, size: int, compute: Compute, progress: Progress) -> int:
    """Twice as many parts of a batch, if there is anything left to divide."""
    alone = compute.replicas == 1 and compute.here is compute
    if -(-size // parts) <= compute.share or not alone:
        raise UsageError(
            f"The device's memory is too small for a step of {size} examples"
            f"{f' in {parts} parts' if parts > 1 else ''}.",
            remedy="Use a smaller --batch-size or size of examples, or --unfreeze fewer blocks.",
        )
    progress.note(
        f"Out of memory: batches of {size} are computed in {2 * parts} parts of "
        f"{-(-size // (2 * parts))}, their gradients added up."
    )
    return 2 * parts


def _epoch(
    suffix: Suffix,
    recipe: Recipe,
    view: Inputs,
    examples: Examples,
    done: Trained,
    parts: int,
    compute: Compute,
) -> dict[str, Any]:
    """Takes the steps of the epoch after those done, counts them, and returns its row."""
    seed, size = [recipe.seed, done.epoch], recipe.batch_size
    steps = -(-len(examples.targets) // size)
    total = steps * recipe.fine_tune_epochs
    rates = [recipe.rate(done.steps + i, total) for i in range(steps)]
    begun, waited = time.perf_counter(), 0.0
    taken = begin_steps(suffix)
    if isinstance(view, Resident) and isinstance(taken, HeldSteps) and parts == 1:
        taken.take_all(view, np.array(rates, np.float32), *epoch(examples, size, seed))
    else:
        drawn = batches(view, examples, size, seed, parts * compute.share)
        waited = _stream(taken, rates, drawn, parts, compute)
    loss = taken.end()
    done.steps += steps
    done.epoch += 1
    return {
        "epoch": done.epoch,
        "step": done.steps,
        "learning_rate": rates[-1],
        "train_loss": loss,
        "input_wait": round(waited / max(time.perf_counter() - begun, 1e-9), 4),
    }


def _stream(
    steps: PlainSteps | HeldSteps, rates: list[float], drawn: Any, parts: int, compute: Compute
) -> float:
    """Takes an epoch's steps on batches prepared meanwhile; the seconds that it waited."""
    waited = 0.0
    ahead = prefetch(compute.place(_divide(batch, parts)) for batch in drawn)
    with contextlib.closing(ahead):
        for rate in rates:
            asked = time.perf_counter()
            batch = next(ahead)
            waited += time.perf_counter() - asked
            for part in batch:
                steps.take(rate, *part)
    return waited


def _divide(batch: tuple[list[np.ndarray], Any, Any], parts: int) -> list[tuple[Any, Any, Any]]:
    """Equal parts of a batch; a step takes the mean of their gradients, hence the factor."""
    tensors, targets, shares = batch
    size = len(targets) // parts

    def part(rows: slice) -> tuple[Any, Any, Any]:
        x = [tensor[rows] for tensor in tensors]
        return x if len(x) > 1 else x[0], targets[rows], shares[rows] * parts

    return [part(slice(i * size, (i + 1) * size)) for i in range(parts)]


def _validate(
    suffix: Suffix, engine: Engine, examples: Examples, done: Trained
) -> dict[str, float]:
    """Judges the weights on validation, and keeps them if they are the best so far."""
    labels, weights = examples.validation_labels, examples.validation_weights
    if isinstance(examples.validation, Resident):
        logits = predict_all(suffix, examples.validation)
    else:
        logits = predict(engine, examples.validation)
    temperature = calibration.fit_temperature(logits, labels, weights)
    calibrated = calibration.nll(logits, labels, temperature, weights)
    if calibrated < done.best_nll:
        done.best_nll, done.best_epoch = calibrated, done.epoch
        done.best = values_of(suffix.learned)
    return {
        "validation_loss": calibration.nll(logits, labels, weights=weights),
        "validation_calibrated_loss": calibrated,
        "validation_accuracy": float(task_of(labels).hits(logits, labels).mean()),
    }


def _ended(done: Trained, suffix: Suffix, optimizer: Any, recipe: Recipe) -> Trained:
    """The state with the last weights and their average, and what was compiled for it."""
    done.current = values_of(suffix.learned)
    if recipe.ema:
        # Keras writes the average into the weights; they are put back for the caller to choose.
        optimizer.finalize_variable_values(suffix.trainable_variables)
        done.average = values_of(suffix.learned)
        assign(suffix.learned, done.current)
    compilations, seconds = suffix.record.reported
    suffix.record.reported = suffix.compilations, suffix.record.seconds
    done.compilations = suffix.compilations - compilations
    done.compile_seconds = suffix.record.seconds - seconds
    return done


def _changing(suffix: Suffix) -> list[Any]:
    """Every variable of the model that a step changes, the seeds of Dropout among them."""
    held = {id(variable): variable for variable in suffix.variables}
    for layer in suffix._flatten_layers():
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            held[id(generator.state)] = generator.state
    return list(held.values())


def _everything(suffix: Suffix, optimizer: Any) -> list[tuple[Any, int]]:
    """Every variable that a step changes, with what its value counts in."""
    # Sums of the parts of a batch are left out, being zero between batches, and the optimiser
    # counts its parts, of which there may be another number when a killed run goes on.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    sums = {id(variable) for variable in getattr(inner, "_accumulated_gradients", None) or ()}
    held = {id(variable): variable for variable in [*_changing(suffix), *optimizer.variables]}
    parts = inner.gradient_accumulation_steps or 1
    return [
        (variable, parts if variable is inner._iterations else 1)
        for key, variable in held.items()
        if key not in sums
    ]


def _save(path: Path, done: Trained, suffix: Suffix, optimizer: Any) -> None:
    arrays: dict[str, Any] = {
        f"variable-{i}": values_of([variable])[0] // unit if unit > 1 else values_of([variable])[0]
        for i, (variable, unit) in enumerate(_everything(suffix, optimizer))
    }
    arrays |= {f"best-{i}": value for i, value in enumerate(done.best or [])}
    arrays["scalars"] = np.array([done.epoch, done.steps, done.best_epoch, done.best_nll])
    arrays["history"] = np.array(json.dumps(files.plain(done.history)))
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


def _restore(path: Path | None, suffix: Suffix, optimizer: Any) -> Trained:
    """The state of a checkpoint, its variables assigned; a fresh state where there is none."""
    if path is None or not path.exists():
        return Trained()
    with files.reading(path, "Begin anew with --overwrite."), np.load(path) as arrays:
        for i, (variable, unit) in enumerate(_everything(suffix, optimizer)):
            variable.assign(arrays[f"variable-{i}"] * unit if unit > 1 else arrays[f"variable-{i}"])
        best = [arrays[f"best-{i}"] for i in range(len(suffix.learned))]
        epoch, steps, best_epoch, best_nll = arrays["scalars"]
        history = json.loads(str(arrays["history"]))
    return Trained(int(epoch), history, int(best_epoch), float(best_nll), best, steps=int(steps))
