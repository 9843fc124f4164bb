"""Says before a run starts what it will do and why, and makes it fit a time budget.

The price of a fine-tuning step, with T the forward cost of the backbone and R that of its unfrozen
part: about T + 2R without a cache (one forward pass of everything, and a backward pass that costs
twice the unfrozen part's forward pass), and 3R with one. Where gradients are products in bfloat16,
which take half the time, a step with a cache costs about 2R.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_transfer.backbones import depth_of as resolve_depth
from keras_transfer.base.compute import Compute
from keras_transfer.base.rows import spooled_bytes, views_that_fit
from keras_transfer.base.types import Backbone, Block
from keras_transfer.frozen.engine import worth_converting
from keras_transfer.frozen.features import FrozenPart, stay_on_disk
from keras_transfer.recipe import Recipe

# What reading cached activations costs, seconds a byte: a conservative SSD.
READ_SECONDS = 1 / 500e6
# What augmenting costs, seconds an image of 128 x 128 pixels, on two cores.
_AUGMENT_SECONDS = 4e-4
# Solving the head, seconds for each training view and 1,280 features over the whole path.
_HEAD_SECONDS = 6e-4
# Rows of features on which the head is solved again: where images are few, several views of each.
_NEW_HEAD_ROWS = 1024
# Tracing and compiling a step, seconds a block that trains.
_TRACE_SECONDS = 0.35
# Passes over the validation images in the choice: four ends, three points between, a new head.
_CHOICES = 8
# How many times as fast a converted network is taken to be, before it has run.
_CONVERTED = 2
# Converting the network for its engine, and asking whether bfloat16 will do; more for each weight.
_CONVERT_SECONDS, _CONVERT_EACH = 2.0, 1.5e-7
# What takes as long whatever the data: starting and leaving Python, getting the test ready, saving,
# figures, Grad-CAM and the page. 1.5 to 3 s on two cores of an AMD EPYC.
_END_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is about to do.

    Attributes:
        unfreeze: number of blocks, from the top, that the second phase trains.
        blocks: their names, bottom to top.
        cut: names of the layers whose outputs feed the second phase; empty where it trains all.
        cached: whether the activations at the cut are stored.
        views: views of each training image.
        epochs: epochs of the second phase.
        rows: examples and views of them that the frozen part is run over.
        bytes: what the store will take, at most.
        seconds: expected duration of ``extract``, ``head``, ``fine_tune`` and in ``total``.
        stage_seconds: what a clock would show of these, and of ``evaluate`` and ``report``: with
            what each brings along, converting a network, say.
        epoch_seconds: expected for one epoch.
        reserve_seconds: expected for what follows the last epoch: choice, test, saving, page.
        needed_seconds: expected for everything from here on, the reserve included.
        step_ratio: predicted cost of an uncached over a cached step, ``(T + 2R) / 3R``.
        convert_seconds: expected for making its engine ready.
        engine: what runs the frozen part.
        notes: why, and what was rejected, a sentence each.
        spooled: bytes of temporary files, at most, see :func:`_spooled`.
    """

    unfreeze: int
    blocks: tuple[str, ...]
    cut: tuple[str, ...]
    cached: bool
    views: int
    epochs: int
    rows: int
    bytes: int
    seconds: dict[str, float]
    stage_seconds: dict[str, float]
    epoch_seconds: float
    reserve_seconds: float
    needed_seconds: float
    step_ratio: float
    convert_seconds: float
    engine: str
    notes: tuple[str, ...]
    spooled: int = 0

    def __str__(self) -> str:
        where = f"above {self.cut[0]}" if self.cut else "everything"
        tuned = (
            f"fine-tune {self.unfreeze} blocks ({where}) for {self.epochs} epochs"
            if self.epochs and self.unfreeze
            else "no second phase"
        )
        stored = f"cache {self.bytes / 2**20:.0f} MiB" if self.cached else "no cache"
        stored += f", {self.spooled / 2**20:.0f} MiB of temporary files" if self.spooled else ""
        steps = f"{self.views} views, solve the head, {tuned}; {stored}"
        seconds = f"about {self.seconds['total']:.0f} s in all"
        return "\n  ".join([f"Plan: {steps}; {seconds}.", *self.notes])


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a few batches showed.

    Attributes:
        forward: seconds an image of the whole backbone, where it would train.
        extract: seconds an image of the frozen part, on the engine that runs it.
        pixels: height times width of an image.
        features: number of pooled features.
        engine: name of that engine.
        reason: why that engine.
        step: forward passes of what trains that a training step above a cache costs.
    """

    forward: float
    extract: float
    pixels: int
    features: int
    engine: str
    reason: str
    step: float = 3.0


def measure(frozen: FrozenPart, backbone: Backbone, recipe: Recipe, compute: Compute) -> Measured:
    """Times the backbone on a few examples.

    Args:
        frozen: what never trains.
        backbone: the whole of it.
        recipe: which engine is asked for.
        compute: how Keras computes.
    """
    forward = frozen.native_rate()
    name, reason = recipe.engine, "asked for"
    if name == "auto" and (compute.share > 1 or compute.dtype_policy != "float32"):
        name, reason = "keras", "it alone shares a batch and computes in that type"
    if name == "auto":
        converted = worth_converting(frozen.images, sum(block.macs for block in backbone.blocks))
        name = "openvino" if converted else "keras"
        reason = "enough work to pay for a conversion" if converted else "little work"
    return Measured(
        forward=forward, extract=forward if name == "keras" else forward / _CONVERTED,
        pixels=int(np.prod(backbone.model.input_shape[1:3])), features=frozen.features,
        engine=name, reason=reason, step=2.0 if compute.rounded else 3.0,
    )  # fmt: skip


def new_head_views(images: int, views: int) -> int:
    """How many views of each training image the head is solved on again: one of a thousand."""
    return min(views, -(-_NEW_HEAD_ROWS // images))


def cut_below(blocks: Sequence[Block], depth: int) -> tuple[str, ...]:
    """The layers at which to cut so that ``depth`` top blocks stay above; empty for all of them."""
    return blocks[-depth - 1].cut if depth < len(blocks) else ()


def make_plan(
    blocks: Sequence[Block],
    recipe: Recipe,
    measured: Measured,
    *,
    train: int,
    validation: int,
    test: int,
    cache_bytes: int | None,
    time_left: float = math.inf,
    after: Plan | None = None,
) -> tuple[Plan, Recipe]:
    """Decides what to cache, and shortens the recipe until it fits the time.

    Args:
        blocks: the backbone's, bottom to top.
        recipe: what was asked for.
        measured: rates of this machine.
        train: number of training images.
        validation: number of validation images.
        test: number of test images.
        cache_bytes: what the store may take; None switches it off.
        time_left: seconds for everything from here on.
        after: the plan whose frozen part has been run: what remains is planned above its cut.

    Returns:
        The plan, and the recipe that it carries out.
    """
    notes: list[str] = []
    sizes = (train, validation, test, cache_bytes)
    plan = _price(blocks, recipe, measured, sizes, after)
    while plan.needed_seconds > time_left:
        shorter = _shorten(resolve_depth(blocks, recipe.unfreeze), recipe)
        if shorter is None:
            notes.append(
                "The budget is shorter than the least that can be done, which is done all the same."
            )
            break
        changes, said = shorter
        recipe = dataclasses.replace(recipe, **changes)
        notes.append(f"To fit the time: {said}.")
        plan = _price(blocks, recipe, measured, sizes, after)
    if time_left < math.inf:
        notes.append(
            f"{time_left:.0f} s of the budget are left, this needs {plan.needed_seconds:.0f} s, of "
            f"which {plan.reserve_seconds:.0f} s for the choice, the test and the report."
        )
    spooled = _spooled(plan, recipe, measured.features, train, validation)
    return dataclasses.replace(plan, notes=(*plan.notes, *notes), spooled=spooled), recipe


def _spooled(plan: Plan, recipe: Recipe, features: int, train: int, validation: int) -> int:
    """Bytes of temporary files: features that no store keeps, and those on which a head is solved
    that do not fit in memory.
    """
    parts = [train] * plan.views + [validation]
    kept = 0 if plan.cached else sum(4 * n * features for n in parts if stay_on_disk(n))
    if not recipe.head_is_solved:
        return kept
    solved_on = train * views_that_fit(train, features, plan.views)
    solved_on += validation if recipe.refit == "on" else 0
    return kept + spooled_bytes(solved_on, features) + spooled_bytes(validation, features)


def _price(
    blocks: Sequence[Block],
    recipe: Recipe,
    measured: Measured,
    sizes: tuple[int, int, int, int | None],
    after: Plan | None,
) -> Plan:
    train, validation, test, cache_bytes = sizes
    depth = resolve_depth(blocks, recipe.unfreeze)
    epochs = recipe.fine_tune_epochs if depth else 0
    # The frozen part that is run, or has been: more may lie above its cut than trains.
    views, held = (after.views, after.unfreeze) if after else (recipe.views, depth)
    macs = [block.macs for block in reversed(blocks)]
    share, above = (sum(macs[:count]) / sum(macs) for count in (depth, held))
    rows = train * views + validation
    row_bytes = blocks[-held - 1].cut_bytes if 0 < held < len(blocks) else 0
    row_bytes += 2 * measured.features
    why_not = _why_not_cached(measured, above, held, rows * row_bytes, row_bytes, cache_bytes)
    notes = [f"Frozen layers run on {measured.engine}: {measured.reason}.", why_not]
    cached = after.cached if after else not why_not
    frozen = row_bytes * READ_SECONDS if cached else (1 - above) * measured.extract
    between = (above - share) * measured.forward
    step = measured.step * share * measured.forward + between + frozen
    augment = _AUGMENT_SECONDS * measured.pixels / 128**2 * train * (views - 1)
    solve = measured.features / 1280 * _HEAD_SECONDS
    tuned = 1 if epochs else 0
    trace = tuned * depth * _TRACE_SECONDS  # while the head is solved
    passes = 2 if recipe.refit == "on" else 1  # for a new head, and for one of all examples
    looked = tuned * train * new_head_views(train, recipe.views)
    again = looked * passes * (above * measured.forward + solve)
    epoch = train * step + validation * above * measured.forward
    seconds = {
        "extract": rows * measured.extract + augment,
        "head": train * recipe.views * solve,
        "fine_tune": epochs * epoch + trace + again,
    }
    choice = tuned * _CHOICES * validation * above * measured.forward
    end = choice + test * (measured.extract + share * measured.forward) + _END_SECONDS
    convert = _CONVERT_SECONDS + _CONVERT_EACH * sum(block.parameters for block in blocks)
    ahead = 0.0 if after else seconds["extract"] + convert
    needed = ahead + seconds["head"] + seconds["fine_tune"] + end
    stages = {
        "extract": seconds["extract"] + convert,
        "head": seconds["head"] + trace,
        "fine_tune": epochs * epoch,
        "choose": again + choice,
        "evaluate": end - choice - _END_SECONDS,
        "report": _END_SECONDS,
    }
    seconds["total"] = sum(seconds.values())
    return Plan(
        unfreeze=depth, blocks=tuple(block.name for block in blocks[len(blocks) - depth :]),
        cut=cut_below(blocks, depth), cached=cached, views=recipe.views, epochs=epochs,
        rows=rows, bytes=rows * row_bytes if cached else 0, needed_seconds=round(needed, 2),
        seconds={name: round(value, 2) for name, value in seconds.items()}, stage_seconds=stages,
        epoch_seconds=round(epoch, 2), reserve_seconds=round(again + end, 2),
        step_ratio=round((1 + 2 * share) / (3 * share), 3) if share else 0.0,
        convert_seconds=convert, engine=measured.engine,
        notes=() if after else tuple(filter(None, notes)),
    )  # fmt: skip


def _why_not_cached(
    measured: Measured, share: float, depth: int, total: int, row: int, allowed: int | None
) -> str:
    """Why activations are not stored; empty where they are."""
    if allowed is None:
        return "Caching is switched off."
    if total > allowed:
        mebibytes = f"{total / 2**20:.0f} MiB do not fit the {allowed / 2**20:.0f} MiB allowed"
        return f"Not cached: {mebibytes}."
    if depth and share < 1 and row * READ_SECONDS > (1 - share) * measured.extract:
        return "Not cached: reading would take longer than computing again."
    return ""


def _shorten(depth: int, recipe: Recipe) -> tuple[dict[str, Any], str] | None:
    """What the next cheaper recipe changes: towards quick's numbers, and then the head alone."""
    # First epochs down to four, views down to two and blocks down to two, in that order; then two
    # epochs and the clean view; then no second phase.
    epochs, views = recipe.fine_tune_epochs if depth else 0, recipe.views
    fewer = max(4, epochs * 2 // 3) if epochs > 4 else 2
    steps: list[tuple[bool, dict[str, Any], str]] = [
        (epochs > 4, {"fine_tune_epochs": fewer}, f"{fewer} instead of {epochs} epochs"),
        (views > 2, {"views": views // 2}, f"{views // 2} instead of {views} views"),
        (depth > 2, {"unfreeze": depth // 2}, f"{depth // 2} instead of {depth} blocks"),
        (epochs > 2, {"fine_tune_epochs": 2}, f"2 instead of {epochs} epochs"),
        (views > 1, {"views": 1}, "one clean view"),
        (depth > 0, {"unfreeze": "none"}, "the head alone"),
    ]
    return next(((changes, said) for wanted, changes, said in steps if wanted), None)
