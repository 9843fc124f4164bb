"""Which cuts a study stores under a disk budget, planned over all its depths at once.

The cuts of a backbone form a chain, lowest first. One pass over the images computes them all; a
depth whose cut is not stored goes on from the nearest stored cut below it, or from the pixels,
and computes the layers between anew in every epoch. Which cuts are worth their bytes is found by
dynamic programming along the chain: what a cut costs depends on the nearest stored one below it
and on nothing else that was decided before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_transfer.base.types import Block
from keras_transfer.learn import planner

# What reading a stored row costs, seconds a byte: a conservative SSD, as for a single run.
_READ_SECONDS = 1 / 500e6


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
    whole = sum(block.macs for block in blocks)
    found: dict[int, float] = {}
    for depth in depths:
        resolved = planner.resolve_depth(blocks, depth)
        if 0 < resolved < len(blocks):
            found[resolved] = found.get(resolved, 0.0) + passes / len(depths)
    cuts = []
    for depth in sorted(found, reverse=True):
        below = sum(block.macs for block in blocks[: len(blocks) - depth])
        top = blocks[-depth - 1]
        cuts.append(Cut(top.cut, below / whole, top.cut_bytes, found[depth]))
    return cuts


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
    # For every choice of the nearest stored cut below: its undominated (bytes, seconds, choices).
    states: dict[int, list[tuple[int, float, tuple[int, ...]]]] = {-1: [(0, 0.0, ())]}
    for index, cut in enumerate(cuts):
        taken = rows * variants * cut.row_bytes
        read = cut.passes * images * cut.row_bytes * _READ_SECONDS
        kept: list[tuple[int, float, tuple[int, ...]]] = []
        for last, options in states.items():
            start = cuts[last] if last >= 0 else None
            anew = cut.passes * images * forward * (cut.below - (start.below if start else 0.0))
            anew += 0.0 if start is None else cut.passes * images * start.row_bytes * _READ_SECONDS
            kept += [
                (size + taken, seconds + read, (*chosen, index))
                for size, seconds, chosen in options
                if size + taken <= budget
            ]
            states[last] = [
                (size, seconds + anew, (*chosen, last)) for size, seconds, chosen in options
            ]
        states[index] = _undominated(kept)
    everything = [option for options in states.values() for option in options]
    size, seconds, chosen = min(everything, key=lambda option: (option[1], option[0]))
    once = rows * variants * forward
    all_read = sum(c.passes * images * c.row_bytes * _READ_SECONDS for c in cuts)
    return StorePlan(
        cuts=tuple(cuts),
        base=tuple(cuts[index] if index >= 0 else None for index in chosen),
        bytes=size,
        seconds=once + seconds,
        apart=max(1, len(cuts)) * once + all_read,
        uncached=once + sum(c.passes * images * forward * c.below for c in cuts),
    )


def _undominated(
    options: list[tuple[int, float, tuple[int, ...]]],
) -> list[tuple[int, float, tuple[int, ...]]]:
    """Those that no other beats in both bytes and seconds."""
    best: list[tuple[int, float, tuple[int, ...]]] = []
    for option in sorted(options, key=lambda one: (one[0], one[1])):
        if not best or option[1] < best[-1][1]:
            best.append(option)
    return best
