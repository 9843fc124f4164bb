"""Says before a run starts what it will do and why, and makes it fit a time budget.

The price of a fine-tuning step, with T the forward cost of the backbone and R that of its unfrozen
part: about T + 2R without a cache (one forward pass of everything, and a backward pass that costs
twice the unfrozen part's forward pass), and 3R with one. Where gradients are products in bfloat16,
which take half the time, a step with a cache costs about 2R.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_transfer import backbones
from keras_transfer.base.types import Block
from keras_transfer.schedule import Phase, Schedule

# What reading cached activations costs, seconds a byte: a conservative SSD.
_READ_SECONDS = 1 / 500e6
# What augmenting costs, seconds an image of 128 x 128 pixels, on two cores.
_AUGMENT_SECONDS = 4e-4
# Solving the head, seconds for each training view and 1,280 features over the whole path.
_HEAD_SECONDS = 6e-4
# Rows of features on which the head is solved again: where images are few, several views of each.
_NEW_HEAD_ROWS = 1024
# Tracing and compiling a step, seconds a block that trains.
_TRACE_SECONDS = 0.35


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
        bytes: what the store will take, at most.
        seconds: expected duration of ``extract``, ``head``, ``fine_tune`` and in ``total``.
        step_ratio: predicted cost of an uncached over a cached step, ``(T + 2R) / 3R``.
        engine: what runs the frozen part.
        notes: why, and what was rejected, a sentence each.
    """

    unfreeze: int
    blocks: tuple[str, ...]
    cut: tuple[str, ...]
    cached: bool
    views: int
    epochs: int
    bytes: int
    seconds: dict[str, float]
    step_ratio: float
    engine: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        where = f"above {self.cut[0]}" if self.cut else "everything"
        tuned = (
            f"fine-tune {self.unfreeze} blocks ({where}) for {self.epochs} epochs"
            if self.epochs and self.unfreeze
            else "no second phase"
        )
        stored = f"cache {self.bytes / 2**20:.0f} MiB" if self.cached else "no cache"
        lines = [
            f"Plan: {self.views} views, solve the head, {tuned}; {stored}; "
            f"about {self.seconds['total']:.0f} s in all."
        ]
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return dataclasses.asdict(self)


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


def resolve_depth(blocks: Sequence[Block], unfreeze: int | str) -> int:
    """The number of top blocks that an ``unfreeze`` setting means.

    Args:
        blocks: bottom to top.
        unfreeze: a number, ``all``, ``none``, the name of the lowest block that trains, or a share
            of the multiply-adds such as ``"25%"``: the fewest top blocks that reach it.

    Raises:
        UsageError: more blocks than there are, or an unknown name, with near ones.
    """
    text = str(unfreeze).strip()
    if text.endswith("%") and text[:-1].replace(".", "", 1).isdigit():
        return _depth_of_share(blocks, float(text[:-1]) / 100)
    return backbones.depth_of(blocks, unfreeze)


def _depth_of_share(blocks: Sequence[Block], share: float) -> int:
    total = sum(block.macs for block in blocks)
    reached = 0
    for depth, block in enumerate(reversed(blocks), start=1):
        reached += block.macs
        if reached >= share * total:
            return depth
    return len(blocks)


def new_head_views(images: int, views: int) -> int:
    """How many views of each training image the head is solved on again: one of a thousand."""
    return min(views, -(-_NEW_HEAD_ROWS // images))


def cut_below(blocks: Sequence[Block], depth: int) -> tuple[str, ...]:
    """The layers at which to cut so that ``depth`` top blocks stay above; empty for all of them."""
    return blocks[-depth - 1].cut if depth < len(blocks) else ()


def make_plan(
    blocks: Sequence[Block],
    schedule: Schedule,
    measured: Measured,
    *,
    train: int,
    validation: int,
    cache_bytes: int | None,
    time_budget: float | None = None,
) -> tuple[Plan, Schedule]:
    """Decides what to cache, and shortens the schedule until it fits the time budget.

    Args:
        blocks: the backbone's, bottom to top.
        schedule: what was asked for.
        measured: rates of this machine.
        train: number of training images.
        validation: number of validation images.
        cache_bytes: what the store may take; None switches it off.
        time_budget: seconds left for everything, or None.

    Returns:
        The plan, and the schedule that it carries out.
    """
    notes: list[str] = []
    sizes = (train, validation, cache_bytes)
    plan = _price(blocks, schedule, measured, sizes)
    while time_budget is not None and plan.seconds["total"] > time_budget:
        shorter = _shorten(blocks, schedule)
        if shorter is None:
            notes.append("The budget is shorter than the least that can be done.")
            break
        schedule, said = shorter
        notes.append(said)
        plan = _price(blocks, schedule, measured, sizes)
    return dataclasses.replace(plan, notes=(*plan.notes, *notes)), schedule


def _price(
    blocks: Sequence[Block],
    schedule: Schedule,
    measured: Measured,
    sizes: tuple[int, int, int | None],
) -> Plan:
    train, validation, cache_bytes = sizes
    phase = schedule.fine_tune
    depth = resolve_depth(blocks, phase.unfreeze) if phase else 0
    epochs = phase.epochs if phase and depth else 0
    whole = sum(block.macs for block in blocks)
    above = sum(block.macs for block in blocks[len(blocks) - depth :]) if depth else 0
    share = above / whole
    rows = train * schedule.views + validation
    row_bytes = 0 if depth == len(blocks) else blocks[-depth - 1].cut_bytes if depth else 0
    row_bytes += 2 * measured.features
    notes = [f"Frozen layers run on {measured.engine}: {measured.reason}."]
    cached = _decide_cache(measured, share, depth, rows * row_bytes, row_bytes, cache_bytes, notes)
    frozen = (1 - share) * measured.extract
    step = measured.step * share * measured.forward + (
        row_bytes * _READ_SECONDS if cached else frozen
    )
    augment = _AUGMENT_SECONDS * measured.pixels / 128**2 * train * (schedule.views - 1)
    solve = measured.features / 1280 * _HEAD_SECONDS
    seconds = {
        "extract": rows * measured.extract + augment,
        "head": train * schedule.views * solve,
        "fine_tune": epochs * (train * step + validation * share * measured.forward),
    }
    if epochs:
        again = train * new_head_views(train, schedule.views)
        seconds["fine_tune"] += depth * _TRACE_SECONDS
        seconds["fine_tune"] += again * (share * measured.forward + solve)
    seconds["total"] = sum(seconds.values())
    return Plan(
        unfreeze=depth,
        blocks=tuple(block.name for block in blocks[len(blocks) - depth :]) if depth else (),
        cut=cut_below(blocks, depth),
        cached=cached,
        views=schedule.views,
        epochs=epochs,
        bytes=rows * row_bytes if cached else 0,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        step_ratio=round((1 + 2 * share) / (3 * share), 3) if share else 0.0,
        engine=measured.engine,
        notes=tuple(notes),
    )


def _decide_cache(
    measured: Measured,
    share: float,
    depth: int,
    total: int,
    row: int,
    allowed: int | None,
    notes: list[str],
) -> bool:
    if allowed is None:
        notes.append("Caching is switched off.")
        return False
    if total > allowed:
        notes.append(
            f"Not cached: {total / 2**20:.0f} MiB do not fit the {allowed / 2**20:.0f} MiB allowed."
        )
        return False
    recompute = (1 - share) * measured.extract
    if depth and share < 1 and row * _READ_SECONDS > recompute:
        notes.append("Not cached: reading would take longer than computing again.")
        return False
    return True


def _shorten(blocks: Sequence[Block], schedule: Schedule) -> tuple[Schedule, str] | None:
    """The next cheaper schedule: towards quick's numbers, and then the head alone.

    First epochs down to four, views down to two and blocks down to two, in that order; then two
    epochs and the clean view; then no second phase.
    """
    phase = schedule.fine_tune

    def trained_for(phase: Phase, epochs: int) -> tuple[Schedule, str]:
        fewer = dataclasses.replace(phase, epochs=epochs)
        said = f"To fit the time: {epochs} instead of {phase.epochs} epochs."
        return dataclasses.replace(schedule, fine_tune=fewer), said

    if phase is not None and phase.epochs > 4:
        return trained_for(phase, max(4, phase.epochs * 2 // 3))
    if schedule.views > 2:
        views = schedule.views // 2
        said = f"To fit the time: {views} instead of {schedule.views} views."
        return dataclasses.replace(schedule, views=views), said
    if phase is not None:
        depth = resolve_depth(blocks, phase.unfreeze)
        if depth > 2:
            said = f"To fit the time: {depth // 2} instead of {depth} blocks."
            shallower = dataclasses.replace(phase, unfreeze=depth // 2)
            return dataclasses.replace(schedule, fine_tune=shallower), said
        if phase.epochs > 2:
            return trained_for(phase, 2)
    if schedule.views > 1:
        return dataclasses.replace(schedule, views=1), "To fit the time: one clean view."
    if phase is not None:
        return dataclasses.replace(schedule, fine_tune=None), "To fit the time: the head alone."
    return None
