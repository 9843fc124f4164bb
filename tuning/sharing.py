"""Frozen work that all trials of a study share: planned over its depths, done in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer import training
from keras_transfer.base.progress import Progress
from keras_transfer.base.types import Backbone, Dataset
from keras_transfer.frozen.engine import BATCH, keras_engine, seconds_per_image
from keras_transfer.frozen.features import FrozenPart, features_of_view, views_for
from keras_transfer.learn import planner
from keras_transfer.learn.model import cut_blocks
from keras_transfer.schedule import Schedule
from tuning.plan import StorePlan, cuts_of, plan
from tuning.space import Space, schedule_of

if TYPE_CHECKING:
    from tuning.objective import Workbench


class Sharing:
    """Plans and carries out what a workbench stores.

    Args:
        bench: whose data, backbones and store are used.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._plans: dict[tuple[str, int], StorePlan] = {}
        self._extracted: set[tuple[Any, ...]] = set()

    def plan(self, space: Space, trials: int) -> list[StorePlan]:
        """Plans which cuts are stored, over all depths of a space at once.

        Args:
            space: whose depths are planned together.
            trials: how many are expected.

        Returns:
            A plan for each backbone and image size of the space.
        """
        phase = schedule_of(space.defaults()).fine_tune
        depths, epochs, strengths, named, sizes = (
            space.get(name) for name in ("unfreeze", "epochs", "strength", "backbone", "image_size")
        )
        assert phase is not None
        mean = float(phase.epochs)
        if epochs is not None:
            mean = float(np.mean(epochs.choices or (epochs.low, epochs.high)))  # type: ignore[arg-type]
        if sizes is not None and not sizes.choices:
            return []
        kinds = [
            ({"backbone": name} if name else {}) | ({"image_size": size} if size else {})
            for name in (named.choices if named else ("",))
            for size in (sizes.choices if sizes else (0,))
        ]
        for kind in kinds:
            values = space.defaults() | kind
            self._add(
                values,
                depths.choices if depths and depths.choices else (phase.unfreeze,),
                passes=trials * mean / len(kinds),
                variants=len(strengths.choices or (0, 1)) if strengths else 1,
            )
        return list(self._plans.values())

    def _add(
        self, values: Mapping[str, Any], depths: Sequence[Any], passes: float, variants: int
    ) -> None:
        """Plans the cuts of one backbone at one size."""
        bench = self._bench
        if bench.store is None:
            return
        data, schedule = bench.dataset(bench.image_size(values)), schedule_of(values)
        train = data.indices("train")
        assert data.examples is not None
        with bench.backbone(values) as built:
            sample = np.resize(data.examples[train[:BATCH]], (BATCH, *data.examples.shape[1:]))
            forward = seconds_per_image(keras_engine(built.model), sample)
            blocks = cut_blocks(built.blocks, schedule.head_spec)
            cuts = cuts_of(blocks, [str(depth) for depth in depths], passes)
        self._plans[bench.backbone_name(values), bench.image_size(values)] = plan(
            cuts,
            rows=len(train) * schedule.views + len(data.indices("val")),
            images=len(train),
            forward=forward,
            variants=variants,
            budget=training.allowed_bytes(bench.store),
        )

    def extract(self, built: Backbone, data: Dataset, schedule: Schedule) -> None:
        """One pass over a strength's views that stores every cut of the plan, done once.

        Args:
            built: with pretrained weights.
            data: at its size.
            schedule: of a trial, with ``flip`` decided.
        """
        bench, planned = self._bench, self._plan_of(built)
        key = (built.spec.name, built.model.input_shape[1], schedule.views, schedule.strength)
        if planned is None or bench.store is None or key in self._extracted:
            return
        self._extracted.add(key)
        if len(planned.stored) < 2:
            return
        train, validation = data.indices("train"), data.indices("val")
        assert data.examples is not None
        model = bench.steps.classifier(
            built, len(data.class_names), schedule.head_spec, bench.setup.seed
        )
        first, *others = (cut.layers for cut in planned.stored)
        frozen = FrozenPart(
            model,
            built,
            first,
            also=others,
            engine=bench.setup.engine,
            images=len(train) * schedule.views + len(validation),
            sample=data.examples[train[:BATCH]],
        )
        drawn = views_for(data, schedule, schedule.flip == "on")
        features_of_view(frozen, bench.store, drawn, validation, 0, Progress())
        for view in range(schedule.views):
            features_of_view(frozen, bench.store, drawn, train, view, Progress(), exact=False)

    def base(self, built: Backbone, schedule: Schedule) -> tuple[str, ...] | None:
        """The stored cut from which a trial goes on; None where that is its own."""
        planned = self._plan_of(built)
        if planned is None or schedule.fine_tune is None:
            return None
        depth = planner.resolve_depth(built.blocks, schedule.fine_tune.unfreeze)
        blocks = cut_blocks(built.blocks, schedule.head_spec)
        wanted = planner.cut_below(blocks, depth) if depth else ()
        for cut, base in zip(planned.cuts, planned.base, strict=True):
            if cut.layers == wanted and base is not cut:
                return base.layers if base is not None else ()
        return None

    def _plan_of(self, built: Backbone) -> StorePlan | None:
        return self._plans.get((built.spec.name, int(built.model.input_shape[1])))
