"""The inputs of both phases: tensors at a cut, cached or computed again, view by view."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import mmap
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_transfer.backbones.graph import tensors
from keras_transfer.base import files
from keras_transfer.base.compute import PLAIN, Compute, accelerators
from keras_transfer.base.progress import Progress
from keras_transfer.base.rows import Spooled, Table
from keras_transfer.base.threads import prefetch
from keras_transfer.base.types import LEVELS, POOL, Backbone, Dataset, Inputs
from keras_transfer.frozen.engine import (
    BATCH,
    Engine,
    build_engine,
    choose_engine,
    computes_bfloat16,
    filled,
    seconds_per_image,
    worth_tracing,
)
from keras_transfer.frozen.store import ActivationKey, Activations, ActivationStore
from keras_transfer.modalities import modality

# Of so many images pooled features are held in memory; of more they stay on disk.
_HELD_ROWS = 8192
# Bytes of examples that an accelerator is given at a time: 128 of 224 x 224 pixels.
_ON_A_CARD = 32 << 20
# Beyond this float16 overflows; such a cut is stored in float32.
_FLOAT16_SAFE = 6e4
# How far bfloat16 may move an image's features, as a share of the way to its nearest neighbour.
# At 4 % nothing is lost on emoji; at 11 %, on digits, the second phase ends 0.02 nats worse.
_AGREEMENT = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Draws views of a data set's examples.

    Attributes:
        dataset: with examples.
        seed: of the augmentation.
        strength: of the augmentation.
        flip: whether it mirrors.
    """

    dataset: Dataset
    seed: int = 0
    strength: float = 1.0
    flip: bool = True

    @property
    def rule(self) -> str:
        """Name and version of what makes examples of bytes, and views of examples."""
        name, fit = self.dataset.modality, self.dataset.fit
        return f"{name} {modality(name).VERSION} {fit}".rstrip()

    def draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """Examples ``[rows, ...]``: view 0 is clean, the others are augmented."""
        assert self.dataset.examples is not None
        clean = self.dataset.examples[rows]
        _let_go(self.dataset.examples)
        if number == 0:
            return clean
        digests = [self.dataset.digests[row] for row in rows]
        return modality(self.dataset.modality).view(
            clean, digests, number, seed=self.seed, strength=self.strength, flip=self.flip
        )


Forward = Callable[[Engine, Views, np.ndarray, int], Iterator[list[np.ndarray]]]


def forward(
    engine: Engine, views: Views, rows: np.ndarray, number: int
) -> Iterator[list[np.ndarray]]:
    """Yields of a view of some examples, batch by batch, the engine's last output and the others.

    Args:
        engine: of a frozen part.
        views: draws the examples.
        rows: positions in the data set.
        number: the view's.
    """
    assert views.dataset.examples is not None
    size = rows_at_once(views.dataset.examples)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    drawn: Iterator[np.ndarray] = prefetch(views.draw(part, number) for part in parts)
    if engine.name == "keras":  # where the last digits of a row depend on how many come with it
        drawn = (filled([batch], size)[0] for batch in drawn)
    for part, outputs in zip(parts, engine.results(drawn), strict=True):
        *found, pooled = (tensor[: len(part)] for tensor in outputs)
        yield [pooled, *found]


def rows_at_once(examples: np.ndarray) -> int:
    """How many examples an engine is given at a time: an accelerator more, and fewer large ones."""
    if not accelerators():
        return BATCH
    fit = _ON_A_CARD // (examples.nbytes // max(1, len(examples)))
    return int(np.clip(2 ** int(np.log2(max(1, fit))), BATCH, 8 * BATCH))


class Array:
    """Inputs that are there: one array ``[images, ...]`` for each tensor, or what is sliced so."""

    held = True

    def __init__(self, *tensors: Table) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._tensors[0])

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows of every tensor."""
        return [tensor[rows] for tensor in self._tensors]


class Pooled:
    """Features ``[images, features]``, float32, read when they are sliced.

    Args:
        held: where they are stored.
    """

    def __init__(self, held: Activations) -> None:
        self._held = held

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._held.gather(np.arange(len(self))[rows])[0].astype(np.float32)


class Recomputed:
    """Inputs computed when asked for: examples of a view, through the frozen part if there is one.

    Args:
        views: draws the examples.
        rows: positions in the data set.
        number: which view.
        engine: runs the part below the cut; None where the cut is at the examples.
    """

    held = False

    def __init__(
        self, views: Views, rows: np.ndarray, number: int, engine: Engine | None = None
    ) -> None:
        self._views, self._rows, self._number, self._engine = views, rows, number, engine

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """The tensors at the cut of the images at ``rows``."""
        examples = self._views.draw(self._rows[rows], self._number)
        return [examples] if self._engine is None else self._engine.run(examples)


class Continued:
    """Inputs at a cut, computed anew from inputs at a lower one.

    Args:
        below: the inputs at the lower cut.
        engine: runs the layers between.
    """

    held = False

    def __init__(self, below: Inputs, engine: Engine) -> None:
        self._below, self._engine = below, engine

    def __len__(self) -> int:
        return len(self._below)

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """The tensors at the upper cut of the images at ``rows``."""
        tensors = self._below.gather(rows)
        return self._engine.run(tensors if len(tensors) > 1 else tensors[0])


class FrozenPart:
    """Everything below a cut, with the pooled features beside it, run forward once an image.

    Args:
        model: the classifier.
        backbone: its backbone, for the key.
        cut: layers whose outputs feed the second phase; empty where it trains everything.
        engine: name of the engine, see ``engine.choose_engine``.
        examples_count: how many examples will be run, for the choice of the engine.
        sample: examples that stand for all, by which it is decided what may be rounded.
        also: further cuts that the same pass stores, for later runs.
        compute: how Keras computes, where it is the engine.
        machines: others that compute what is missing, see ``machines.join``; None for this one.

    Attributes:
        cut: as given.
    """

    def __init__(
        self,
        model: keras.Model,
        backbone: Backbone,
        cut: tuple[str, ...],
        *,
        engine: str = "auto",
        examples_count: int,
        sample: np.ndarray,
        also: Sequence[tuple[str, ...]] = (),
        compute: Compute = PLAIN,
        machines: Any = None,
    ) -> None:
        self.cut, self._machines = cut, machines
        self._cuts = [one for one in (cut, *also) if one]
        self._model, self._backbone = model, backbone
        self._asked: dict[str, Any] = {"name": engine, "images": examples_count}
        self._asked["compute"] = self._compute = compute
        self._sample, self._digests = sample, dict[tuple[str, ...], str]()

    @functools.cached_property
    def _network(self) -> keras.Model:
        # One object for all engines: its graph is traced once.
        names = [*itertools.chain(*self._cuts), POOL]
        return keras.Model(self._model.input, tensors(self._model, names))

    @property
    def _full_sample(self) -> np.ndarray:
        """The sample, as many as :func:`forward` takes: for another number it compiles again."""
        return filled([self._sample], rows_at_once(self._sample))[0]

    @functools.cached_property
    def _native(self) -> Engine:
        """As :attr:`engine`, by Keras in float32 on one device."""
        return build_engine(self._network, "keras")

    @functools.cached_property
    def engine(self) -> Engine:
        """Runs examples to the cuts' tensors and, last, the pooled features."""
        return build_engine(self._network, **self._asked)

    @functools.cached_property
    def rounded_engine(self) -> Engine:
        """As :attr:`engine`, in bfloat16 where it can."""
        return self.engine.rounded() if self.engine.rounded else self.engine

    @functools.cached_property
    def _forward(self) -> Forward:
        """Runs views through an engine, here or elsewhere, where the network goes once."""
        return self._machines.send(self._network, self._asked) if self._machines else forward

    @functools.cached_property
    def _at_cut(self) -> Engine:
        """Runs examples to the cut's tensors alone, in every epoch where nothing is stored."""
        below = keras.Model(self._model.input, tensors(self._model, self.cut))
        return build_engine(below, **self._asked | {"images": 10 * self._asked["images"]})

    @functools.cached_property
    def _chosen(self) -> str:
        """The engine's name, before it is built."""
        return choose_engine(self._network, **self._asked)[0]

    @property
    def images(self) -> int:
        """How many it is expected to see."""
        return int(self._asked["images"])

    @property
    def features(self) -> int:
        """The number of pooled features."""
        return int(self._model.get_layer(POOL).output.shape[-1])

    def native_rate(self) -> float:
        """Seconds an image of the network, in Keras."""
        return seconds_per_image(self._native, self._full_sample)

    def inputs(
        self,
        views: Views,
        rows: np.ndarray,
        number: int,
        *,
        store: ActivationStore | None,
        progress: Progress,
        exact: bool = True,
    ) -> tuple[Table, Inputs]:
        """Pooled features and the inputs at the cut of one view of some images.

        Args:
            views: draws the examples.
            rows: positions in the data set.
            number: the view's.
            store: where activations are kept; None to keep the pooled features alone, in memory.
            progress: where to report.
            exact: False for images to train on, which may come from bfloat16, see
                :meth:`_may_round`.

        Returns:
            float32 ``[rows, features]``, of which many are read only as they are sliced, and the
            inputs of the second phase for the same rows.
        """
        if store is not None:
            try:
                digests = [views.dataset.digests[row] for row in rows]
                rounds = not exact and self._may_round(store, progress)
                name = "openvino-bfloat16" if rounds else self._chosen
                keys = self.keys(views, number, name, store)
                if not store.holds(keys, digests):
                    # What cannot be converted runs in Keras, and is known by what it ran in.
                    name = (self.rounded_engine if rounds else self.engine).name
                    keys = self.keys(views, number, name, store)

                def missing(lacking: np.ndarray) -> Iterator[list[np.ndarray]]:
                    engine = self.rounded_engine if rounds else self.engine
                    return self._batches(engine, views, rows[lacking], number, progress)

                held = store.ensure(keys, digests, missing)
                pooled = Pooled(held[0])
                at_cut = held[1] if self.cut else Recomputed(views, rows, number)
                return pooled if stay_on_disk(len(rows)) else pooled[:], at_cut
            except OSError as error:
                warnings.warn(f"The activation store cannot be used: {error}", stacklevel=2)
        batches = self._batches(self.engine, views, rows, number, progress)
        found = (batch[0] for batch in batches)
        many = stay_on_disk(len(rows))
        computed: Table = Spooled(found) if many else np.concatenate(list(found))
        return computed, Recomputed(views, rows, number, self._at_cut if self.cut else None)

    def held(self, views: Views, rows: np.ndarray, count: int, store: ActivationStore) -> bool:
        """Whether so many views of some images are stored, of whichever engine."""
        digests = [views.dataset.digests[row] for row in rows]
        return any(
            all(
                store.holds(self.keys(views, number, engine, store), digests)
                for number in range(count)
            )
            for engine in {self._chosen, f"{self._chosen}-bfloat16"}
        )

    def _batches(
        self, engine: Engine, views: Views, rows: np.ndarray, number: int, progress: Progress
    ) -> Iterator[list[np.ndarray]]:
        """Yields batch by batch the pooled features and then the cuts' tensors."""
        named = f"extract view {number + 1}" if number else "extract"
        with progress.step(named, len(rows)) as advance:
            for tensors in self._forward(engine, views, rows, number):
                advance(len(tensors[0]))
                yield tensors

    def keys(
        self, views: Views, number: int, engine: str, store: ActivationStore
    ) -> list[ActivationKey]:
        """The store's keys of a view: the pooled features, and the cuts where there are any.

        Args:
            views: draws the examples.
            number: the view's.
            engine: the name of what computes them.
            store: remembers in which type each cut is kept.
        """
        if engine == "keras":
            where = "accelerator" if accelerators() else "cpu"
            how = "graph" if worth_tracing(self._asked["images"]) else "eager"
            engine += f" {keras.backend.backend()} {where} {how} {self._compute.dtype_policy}"
        cuts = [(POOL,), *self._cuts]
        dtypes = store.remember(self._question("dtypes", tuple(cuts)), self._dtypes)
        return [
            ActivationKey(
                backbone=self._backbone.spec.name,
                weights=self._weights_digest(cut),
                cut=cut,
                preprocessing=self._backbone.spec.preprocessing,
                rule=views.rule,
                shape=tuple(self._model.input_shape[1:]),
                dtype=dtype,
                engine=engine,
                view=number,
                view_seed=views.seed if number else 0,
                strength=views.strength if number else 0.0,
                flip=views.flip and number > 0,
            )
            for cut, dtype in zip(cuts, dtypes, strict=True)
        ]

    def _dtypes(self) -> list[str]:
        """float16 for each key, unless a sample of its activations comes near its range."""
        *found, pooled = self._native.run(self._full_sample)
        largest = iter([float(np.abs(tensor).max()) for tensor in (pooled, *found)])
        shares = [[next(largest) for _ in cut] for cut in [(POOL,), *self._cuts]]
        return ["float32" if max(share) > _FLOAT16_SAFE else "float16" for share in shares]

    def _may_round(self, store: ActivationStore, progress: Progress) -> bool:
        """Whether images to train on may come from bfloat16; decided once for all runs.

        They may where the engine was left to us and bfloat16 moves the features of the sample by
        less than ``_AGREEMENT`` of the distance between an image and its nearest neighbour, both as
        medians. A single image, or copies of one, say nothing, and float32 it is.
        """
        if self._asked["name"] != "auto" or self._chosen != "openvino" or not computes_bfloat16():
            return False

        def decide() -> bool:
            if self.engine.rounded is None:
                return False
            both = self.engine, self.rounded_engine
            share = _moved(*(one.run(self._sample)[-1] for one in both))
            rounds = share < _AGREEMENT
            which = "Training examples in bfloat16" if rounds else "All examples in float32"
            far = f"by {share:.0%} of the way to the nearest other one"
            progress.detail(f"{which}: bfloat16 moves features {far}.")
            return rounds

        return bool(store.remember(self._question("bfloat16", (POOL, _AGREEMENT)), decide))

    def _question(self, about: str, details: tuple[Any, ...]) -> str:
        """What a decision about this network and this sample depends on."""
        sample = files.sha256(self._sample.tobytes())
        return f"{about} {details} {self._weights_digest((POOL,))} {self._sample.shape} {sample}"

    def _weights_digest(self, cut: tuple[str, ...]) -> str:
        if cut in self._digests:
            return self._digests[cut]
        below = keras.Model(self._model.input, tensors(self._model, cut))
        # What has no weights of its own: which levels are joined, and what is done between layers,
        # by its kind, since the names that Keras gives it differ from one building to the next.
        joined = [layer.name for layer in below.layers if layer.name.startswith(LEVELS)]
        kinds = [type(operation).__name__ for operation in below.operations]
        hashed = hashlib.sha256(" ".join(joined + kinds).encode())
        for variable in below.weights:
            value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
            hashed.update(f"{value.shape}{value.dtype}".encode())
            hashed.update(value.tobytes())
        self._digests[cut] = hashed.hexdigest()
        return self._digests[cut]


def stay_on_disk(rows: int) -> bool:
    """Whether so many rows of pooled features are read when they are needed."""
    return rows > _HELD_ROWS


def _let_go(examples: np.ndarray) -> None:
    """Of a mapped file, what was read counts as ours no longer; it stays in the system's cache."""
    if isinstance(examples.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        examples.base.madvise(mmap.MADV_DONTNEED)


def _moved(here: np.ndarray, there: np.ndarray) -> float:
    """How far features ``[n, d]`` moved, as a share of the way to the nearest other, in medians."""
    apart = np.linalg.norm(here[:, None] - here[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    nearest = float(np.median(apart.min(axis=1)))
    moved = float(np.median(np.linalg.norm(here - there, axis=-1)))
    return moved / nearest if 0 < nearest < np.inf else np.inf
