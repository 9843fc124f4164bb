"""Which cuts a study stores under a disk budget, planned over all its depths at once.

The cuts of a backbone form a chain, lowest first. One pass over the images computes them all; a
depth whose cut is not stored goes on from the nearest stored cut below it, or from the pixels,
and computes the layers between anew in every epoch. Which cuts are worth their bytes is found by
dynamic programming along the chain: what a cut costs depends on the nearest stored one below it
and on nothing else that was decided before.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from keras_transfer.base.types import Block
from keras_transfer.learn import planner


@dataclasses.dataclass(frozen=True)
class Cut:
    """A cut that some depths of a study train above.

    Attributes:
        layers: the layers whose outputs are alive there.
        below: share of the backbone's multiply-adds that lies below it, in [0, 1].
        row_bytes: what one image takes there.
        passes: how often the study is expected to go through the training images there.
    """

    layers: tuple[str, ...]
    below: float
    row_bytes: int
    passes: float


@dataclasses.dataclass(frozen=True)
class StorePlan:
    """What a study stores, and what that is expected to cost.

    Attributes:
        cuts: all that are used, lowest first.
        base: for each of them the stored cut that its inputs come from: itself where it is stored,
            the nearest stored one below, or None for the pixels.
        bytes: what the stored cuts take.
        seconds: expected cost of extraction, of reading and of what is computed anew.
        apart: the same where every depth extracts for itself, as single runs would.
        uncached: the same where nothing is stored.
    """

    cuts: tuple[Cut, ...]
    base: tuple[Cut | None, ...]
    bytes: int
    seconds: float
    apart: float
    uncached: float

    @property
    def stored(self) -> tuple[Cut, ...]:
        """The cuts that are stored, lowest first."""
        pairs = zip(self.cuts, self.base, strict=True)
        return tuple(cut for cut, base in pairs if base is cut)

    def goes_on_from(self, cut: tuple[str, ...]) -> tuple[str, ...] | None:
        """The stored cut that a depth goes on from, empty for the pixels; None for its own."""
        for one, base in zip(self.cuts, self.base, strict=True):
            if one.layers == cut and one is not base:
                return base.layers if base else ()
        return None

    def __str__(self) -> str:
        lines = [
            f"Frozen work: one pass stores {len(self.stored)} of {len(self.cuts)} cuts "
            f"({self.bytes / 2**20:.0f} MiB); with reading about {self.seconds:.0f} s over the "
            f"study, {self.apart:.0f} s if every depth extracted for itself, "
            f"{self.uncached:.0f} s without a store."
        ]
        for cut, base in zip(self.cuts, self.base, strict=True):
            where = f"above {cut.layers[0]}"
            if base is not cut:
                start = "the pixels" if base is None else base.layers[0]
                lines.append(f"  {where}: not stored, computed anew from {start}.")
        return "\n".join(lines)


def cuts_of(blocks: Sequence[Block], depths: Sequence[int | str], passes: float) -> list[Cut]:
    """The cuts of a space's depths, lowest first, equal ones once.

    Args:
        blocks: the backbone's, bottom to top.
        depths: as ``planner.resolve_depth`` takes them, equally likely.
        passes: how often the study is expected to go through the training images in all.
    """
    times = collections.Counter(planner.resolve_depth(blocks, depth) for depth in depths)
    below = [0, *itertools.accumulate(block.macs for block in blocks)]
    return [
        Cut(
            blocks[-depth - 1].cut,
            below[len(blocks) - depth] / below[-1],
            blocks[-depth - 1].cut_bytes,
            passes * times[depth] / len(depths),
        )
        for depth in sorted(times, reverse=True)
        if 0 < depth < len(blocks)
    ]


def plan(
    cuts: Sequence[Cut], *, rows: int, images: int, forward: float, variants: int, budget: int
) -> StorePlan:
    """The cheapest choice of cuts to store.

    Args:
        cuts: from :func:`cuts_of`.
        rows: rows of a cut in the store for one strength of augmentation: training images times
            views, and validation images.
        images: training images, hence rows that one epoch reads.
        forward: seconds that one image takes through the whole backbone.
        variants: how many strengths of augmentation there are; each takes its own rows.
        budget: bytes that the store may take.
    """

    def use(cut: Cut, base: Cut | None) -> float:
        """Seconds in which the study goes through the images at a cut, from what is stored."""
        below, row = (base.below, base.row_bytes) if base else (0.0, 0)
        anew = forward * (cut.below - below)
        return cut.passes * images * (row * planner.READ_SECONDS + anew)

    choices = [_Choice(0, 0.0, ())]
    for cut in cuts:
        longer = []
        for size, seconds, bases in choices:
            last = bases[-1] if bases else None
            longer.append(_Choice(size, seconds + use(cut, last), (*bases, last)))
            size += rows * variants * cut.row_bytes
            if size <= budget:
                longer.append(_Choice(size, seconds + use(cut, cut), (*bases, cut)))
        choices = _undominated(longer)
    best = min(choices, key=lambda choice: (choice.seconds, choice.bytes))
    once = rows * variants * forward
    return StorePlan(
        cuts=tuple(cuts),
        base=best.bases,
        bytes=best.bytes,
        seconds=once + best.seconds,
        apart=max(1, len(cuts)) * once + sum(use(cut, cut) for cut in cuts),
        uncached=once + sum(use(cut, None) for cut in cuts),
    )


class _Choice(NamedTuple):
    """What is stored of the lower cuts: its bytes, its seconds, and the base of each of them."""

    bytes: int
    seconds: float
    bases: tuple[Cut | None, ...]


def _undominated(choices: list[_Choice]) -> list[_Choice]:
    """Those that no other with the same topmost stored cut beats in both bytes and seconds."""
    fastest: dict[Cut | None, float] = {}
    kept = []
    for choice in sorted(choices, key=lambda one: one[:2]):
        if choice.seconds < fastest.get(choice.bases[-1], math.inf):
            fastest[choice.bases[-1]] = choice.seconds
            kept.append(choice)
    return kept
