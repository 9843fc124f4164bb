"""What a phase asks of the host when a card computes it, counted by JAX on a processor.

    KERAS_BACKEND=jax python benchmarks/counted.py

The processor passes for a card with room for all views, or without. Trials of two batch sizes and
three rates run at one depth; counted is what an epoch after the first of a trial sends to the
device, how often the host waits for it, and what is compiled at all.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax._src.array as arrays
import numpy as np
from common import record

from keras_transfer import backbones
from keras_transfer.backbones.copying import working_copy
from keras_transfer.base import compute, distribution
from keras_transfer.base.types import LOGITS
from keras_transfer.fast import resident, steps
from keras_transfer.frozen.features import Array
from keras_transfer.learn import finetune, planner
from keras_transfer.learn.batches import Examples
from keras_transfer.learn.model import build_classifier, set_batch_norm
from keras_transfer.learn.suffix import Suffix, assign, values_of
from keras_transfer.recipe import Recipe

CLASSES = 10
GUARD = "jax_transfer_guard_host_to_device"
COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class Counts:
    """What happened, in its order.

    Attributes:
        events: ``begin`` (of an epoch), ``sent`` with bytes, ``read`` with bytes, ``compiled`` with
            seconds.
    """

    events: list[tuple[str, float]] = dataclasses.field(default_factory=list)

    def epochs(self) -> list[list[tuple[str, float]]]:
        """The events of each epoch, up to the beginning of the next."""
        begins = [at for at, (kind, _) in enumerate(self.events) if kind == "begin"]
        return [self.events[a:b] for a, b in zip(begins, [*begins[1:], None], strict=True)]


def total(events: list[tuple[str, float]], kind: str) -> float:
    """The sum of the figures of one kind of event."""
    return sum(figure for name, figure in events if name == kind)


def waits(events: list[tuple[str, float]]) -> int:
    """How often the host waits: several reads without work for the device between are one."""
    kinds = (kind for kind, _ in events if kind in ("read", "sent"))
    return sum(kind == "read" for kind, _ in itertools.groupby(kinds))


@contextlib.contextmanager
def counting(room: int, strict: bool = True) -> Iterator[Counts]:
    """Counts what phases within the block ask of the host.

    Args:
        room: bytes of the pretended card that views may take.
        strict: whether an epoch that sends anything past ``place``, which is counted, is an error.
    """
    counts, value, own = Counts(), arrays.ArrayImpl._value, distribution.place
    epoch, validate = finetune._epoch, finetune._validate

    def place(batch: Any) -> Any:
        counts.events.append(
            ("sent", sum(np.asarray(one).nbytes for one in jax.tree.leaves(batch)))
        )
        with jax.transfer_guard_host_to_device("allow"):
            return own(batch)

    def read(array: Any) -> Any:
        counts.events.append(("read", array.nbytes))
        return value.fget(array)

    def begun(*arguments: Any) -> Any:
        counts.events.append(("begin", 0))
        if strict and arguments[4].epoch:  # whose first epoch is done: it may have sent the views
            jax.config.update(GUARD, "disallow_explicit")
        return epoch(*arguments)

    def judged(*arguments: Any) -> Any:
        found = validate(*arguments)
        jax.config.update(GUARD, None)  # the end of a phase may put weights back
        return found

    def compiled(event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED:
            counts.events.append(("compiled", seconds))

    with contextlib.ExitStack() as restore:
        for module, name, new in (
            (steps, "place", place), (resident, "place", place), (compute, "place", place),
            (finetune, "_epoch", begun), (finetune, "_validate", judged),
            (finetune, "free_room", lambda: room), (arrays.ArrayImpl, "_value", property(read)),
        ):  # fmt: skip
            restore.callback(setattr, module, name, vars(module)[name])
            setattr(module, name, new)
        jax.monitoring.register_event_duration_secs_listener(compiled)
        restore.callback(jax.monitoring.unregister_event_duration_listener, compiled)
        restore.callback(jax.config.update, GUARD, None)
        yield counts


def problem(network: str, size: int, images: int) -> tuple[Suffix, Examples, int]:
    """The top quarter of a network, random activations at its cut, and the blocks that train."""
    backbone = backbones.build(network, image_size=size, weights="none")
    model, depth = (
        build_classifier(backbone, CLASSES),
        planner.resolve_depth(backbone.blocks, "25%"),
    )
    backbones.unfreeze(model, depth, backbone.blocks)
    set_batch_norm(model, trains=False)
    cut = planner.cut_below(backbone.blocks, depth)
    upper = backbones.split(model, cut, outputs=[LOGITS])[1]
    draw, shape = np.random.default_rng(0), upper.input.shape[1:]
    labels = draw.integers(0, CLASSES, images)
    views = [Array(draw.normal(size=(images, *shape)).astype(np.float16)) for _ in range(2)]
    judged = Array(draw.normal(size=(images // 4, *shape)).astype(np.float16))
    targets, weights = np.eye(CLASSES, dtype=np.float32)[labels], np.ones(images, np.float32)
    examples = Examples(views, targets, weights, judged, labels[: images // 4])
    return Suffix(upper.input, upper.output), examples, depth


def counted(network: str, size: int, images: int, room: int) -> dict[str, Any]:
    """A row of the table: trials of one depth."""
    suffix, examples, depth = problem(network, size, images)
    how = compute.Compute(dtype_policy="mixed_bfloat16", xla=True)
    working = working_copy(suffix, how)
    start = values_of(working.learned)
    phases = []
    with counting(room, strict=room > 0) as counts:
        for batch, rate in itertools.product((16, 32), (5e-5, 3e-5, 2e-5)):
            assign(working.learned, start)
            recipe = Recipe(fine_tune_epochs=3, batch_size=batch, fine_tune_lr=rate)
            phases.append(finetune.fine_tune(working, recipe, examples, compute=how))
    # The third epoch of each trial, which sends no view for the first time.
    steady = [events for number, events in enumerate(counts.epochs()) if number % 3 == 2]
    most = functools.partial(max, default=0)
    return {
        "network": f"{network}, {depth} blocks",
        "views": "on the card" if room else "streamed",
        "a view, MiB": round(resident.row_bytes(examples.views[0]) * images / 2**20, 1),
        "sent in an epoch, KiB": round(most(total(one, "sent") for one in steady) / 2**10, 1),
        "bytes an image": round(most(total(one, "sent") for one in steady) / images),
        "waits in an epoch": most(waits(one) for one in steady),
        "steps compiled": sum(phase.compilations for phase in phases),
        "to compile, s": round(sum(phase.compile_seconds for phase in phases), 1),
        "compiled in these epochs": sum(kind == "compiled" for one in steady for kind, _ in one),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="of an image, in pixels")
    options = parser.parse_args()
    rows = []
    for network, room in itertools.product(("ResNet50", "EfficientNetB0"), (10**12, 0)):
        rows.append(counted(network, options.size, options.images, room))
        print(rows[-1], flush=True)
    text = (
        f"{options.images} images of {options.size} px in two views, a quarter as many for "
        "validation, mixed_bfloat16; six trials of three epochs (batches of 16 and 32, three "
        "rates); the third epochs are shown. JAX refuses any transfer in them that is not counted, "
        "where views are on the card."
    )
    record("counted", "KERAS_BACKEND=jax python benchmarks/counted.py", rows, text)


if __name__ == "__main__":
    main()
