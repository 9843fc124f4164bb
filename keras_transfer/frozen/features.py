"""The inputs of both phases: tensors at a cut, cached or computed again, view by view."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_transfer.backbones.graph import tensors
from keras_transfer.base.distribution import Distribution
from keras_transfer.base.progress import Progress
from keras_transfer.base.threads import prefetch
from keras_transfer.base.types import LEVELS, POOL, Backbone, Dataset, Inputs
from keras_transfer.frozen.engine import (
    BATCH,
    Engine,
    build_engine,
    computes_bfloat16,
    seconds_per_image,
)
from keras_transfer.frozen.store import ActivationKey, ActivationStore, iterate
from keras_transfer.modalities.image import pipeline

# Beyond this float16 overflows; such a cut is stored in float32.
_FLOAT16_SAFE = 6e4
# How far bfloat16 may move an image's features, as a share of the way to its nearest neighbour.
# At 4 % nothing is lost on emoji; at 11 %, on digits, the second phase ends 0.02 nats worse.
_AGREEMENT = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Draws views of a data set's images.

    Attributes:
        dataset: with pixels.
        seed: of the augmentation.
        strength: of the augmentation.
        flip: whether it mirrors.
    """

    dataset: Dataset
    seed: int = 0
    strength: float = 1.0
    flip: bool = True

    def pixels(self, rows: np.ndarray, view: int) -> np.ndarray:
        """uint8 ``[rows, height, width, 3]``: view 0 is clean, the others are augmented."""
        assert self.dataset.examples is not None
        clean = self.dataset.examples[rows]
        if view == 0:
            return clean
        digests = [self.dataset.digests[row] for row in rows]
        return pipeline.augment(
            clean, digests, view=view, seed=self.seed, strength=self.strength, flip=self.flip
        )


class Array:
    """Inputs held in memory: one array ``[images, ...]`` for each tensor."""

    held = True

    def __init__(self, *tensors: np.ndarray) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._tensors[0])

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows of every tensor."""
        return [tensor[rows] for tensor in self._tensors]


class Recomputed:
    """Inputs computed when asked for: pixels of a view, through the frozen part if there is one.

    Args:
        views: draws the pixels.
        rows: positions in the data set.
        view: which view.
        frozen: runs the part below the cut; None where the cut is at the pixels.
    """

    held = False

    def __init__(self, views: Views, rows: np.ndarray, view: int, frozen: Engine | None) -> None:
        self._views, self._rows, self._view, self._frozen = views, rows, view, frozen

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """The tensors at the cut of the images at ``rows``."""
        pixels = self._views.pixels(self._rows[rows], self._view)
        return [pixels] if self._frozen is None else self._frozen.run(pixels)


class Raised:
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
        engine: name of the engine, see ``engine.build_engine``.
        images: how many images will be run, for the choice of the engine.
        sample: uint8 pixels to measure on.
        also: further cuts that the same pass stores, for later runs.
        precision: a Keras dtype policy, for Keras as the engine.
        distribution: devices that share every batch, for Keras as the engine.
        known: types of activations found before, by their weights; more are added.

    Attributes:
        native_seconds: what an image takes in Keras, once that is known; 0 before.
    """

    def __init__(
        self,
        model: keras.Model,
        backbone: Backbone,
        cut: tuple[str, ...],
        *,
        engine: str,
        images: int,
        sample: np.ndarray,
        also: Sequence[tuple[str, ...]] = (),
        precision: str = "float32",
        distribution: Distribution | None = None,
        known: dict[Any, str] | None = None,
    ) -> None:
        self.cut = cut
        self._cuts = [one for one in (cut, *also) if one]
        self._names = [layer for one in self._cuts for layer in one]
        self._computing: dict[str, Any] = {"precision": precision, "distribution": distribution}
        self._model, self._backbone = model, backbone
        self._request = (engine, images, sample)
        self.native_seconds = 0.0
        self._digests: dict[tuple[str, ...], str] = {}
        self._known = {} if known is None else known

    @functools.cached_property
    def _network(self) -> keras.Model:
        # One object for all engines: its graph is traced once.
        return keras.Model(self._model.input, tensors(self._model, (*self._names, POOL)))

    @functools.cached_property
    def native(self) -> Engine:
        """As :attr:`engine`, by Keras in float32 on one device."""
        return build_engine(self._network, "keras")

    @functools.cached_property
    def engine(self) -> Engine:
        """Runs uint8 pixels to the cuts' tensors and, last, the pooled features."""
        name, images, sample = self._request
        return build_engine(
            self._network,
            name,
            images=images,
            sample=sample,
            native_seconds=self.native_seconds,
            **self._computing,
        )

    @functools.cached_property
    def rapid(self) -> Engine:
        """Runs training images: in bfloat16 where the engine was left to us and it agrees.

        It does if it moves the features of the sample by less than ``_AGREEMENT`` of the distance
        between an image and its nearest neighbour, both as medians. A single image, or copies of
        one, say nothing, and float32 it is.
        """
        exact = self.engine
        if self._request[0] != "auto" or exact.rounded is None:
            return exact
        other, sample = exact.rounded(), self._request[2]
        here, there = (one.run(sample)[-1] for one in (exact, other))
        apart = np.linalg.norm(here[:, None] - here[None], axis=-1)
        np.fill_diagonal(apart, np.inf)
        moved = float(np.median(np.linalg.norm(here - there, axis=-1)))
        nearest = float(np.median(apart.min(axis=1)))
        share = moved / nearest if 0 < nearest < np.inf else np.inf
        said = f"bfloat16 moves features by {share:.0%} of the way to the nearest other image"
        if share < _AGREEMENT:
            return dataclasses.replace(other, reason=f"Training images in bfloat16: {said}.")
        return dataclasses.replace(exact, reason=f"All images in float32: {said}.")

    @property
    def may_round(self) -> bool:
        """Whether training images may come from bfloat16."""
        alone = self._computing["distribution"] is None
        float32 = self._computing["precision"] == "float32"
        return self._request[0] == "auto" and alone and float32 and computes_bfloat16()

    @functools.cached_property
    def at_cut(self) -> Engine:
        """Runs uint8 pixels to the cut's tensors alone, for training without a cache."""
        name, images, sample = self._request
        outputs = tensors(self._model, self.cut)
        return build_engine(
            keras.Model(self._model.input, outputs),
            name,
            images=10 * images,
            sample=sample,
            **self._computing,
        )

    def keys(
        self, view: int, schedule_views: Views, precision: str | None = None
    ) -> list[ActivationKey]:
        """The store's keys of a view: the pooled features, and the cuts where there are any."""
        drawn = view > 0
        cuts = [(POOL,), *self._cuts]
        size = self._model.input_shape[1:3]
        return [
            ActivationKey(
                backbone=self._backbone.spec.name,
                weights=self._weights_digest(cut),
                cut=cut,
                preprocessing=self._backbone.spec.preprocessing,
                image_size=(int(size[0]), int(size[1])),
                dtype=self._dtype,
                precision=precision or self._precision,
                view=view,
                view_seed=schedule_views.seed if drawn else 0,
                strength=schedule_views.strength if drawn else 0.0,
                flip=schedule_views.flip if drawn else False,
            )
            for cut in cuts
        ]

    @property
    def _precision(self) -> str:
        """The type in which the engine computes."""
        if self._request[0].startswith("openvino"):
            return "bfloat16" if self._request[0].endswith("bfloat16") else "float32"
        return str(self._computing["precision"]).removeprefix("mixed_")

    @functools.cached_property
    def _dtype(self) -> str:
        """float16, unless a sample of the activations comes near its range."""
        key = (self._model.input_shape, tuple(self._names), self._weights_digest((POOL,)))
        if key not in self._known:
            self._known[key] = "float32" if self._largest > _FLOAT16_SAFE else "float16"
        return self._known[key]

    @functools.cached_property
    def _batch(self) -> np.ndarray:
        sample = self._request[2]
        return np.resize(sample, (BATCH, *sample.shape[1:]))

    @functools.cached_property
    def _largest(self) -> float:
        """The largest magnitude of a batch's activations; Keras's first run of the network."""
        return max(float(np.abs(value).max()) for value in self.native.run(self._batch))

    @property
    def images(self) -> int:
        """How many it is expected to see."""
        return self._request[1]

    @property
    def features(self) -> int:
        """The number of pooled features."""
        return int(self._model.get_layer(POOL).output.shape[-1])

    def native_rate(self) -> float:
        """Seconds an image of the network, in Keras."""
        _ = self._largest  # what has to run once runs before it is timed
        return seconds_per_image(self.native, self._batch, warm=True)

    def _weights_digest(self, cut: tuple[str, ...]) -> str:
        if cut in self._digests:
            return self._digests[cut]
        outputs = tensors(self._model, cut)
        below = keras.Model(self._model.input, outputs)
        hashed = hashlib.sha256()
        # Which levels were joined has no weights of its own, and the last one's name says not all.
        joined = [layer.name for layer in below.layers if layer.name.startswith(LEVELS)]
        hashed.update(" ".join(joined).encode())
        for variable in below.weights:
            value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
            hashed.update(f"{value.shape}{value.dtype}".encode())
            hashed.update(value.tobytes())
        self._digests[cut] = hashed.hexdigest()
        return self._digests[cut]

    def compute(
        self,
        views: Views,
        rows: np.ndarray,
        view: int,
        progress: Progress,
        name: str,
        engine: Engine | None = None,
    ) -> Iterator[list[np.ndarray]]:
        """Yields batch by batch the pooled features and then the cut's tensors."""
        run = (engine or self.engine).run
        batches = prefetch(views.pixels(part, view) for part in iterate(rows, BATCH))
        with progress.step(name, len(rows)) as advance:
            for batch in batches:
                *tensors, pooled = run(batch)
                advance(len(batch))
                yield [pooled, *tensors]


def features_of_view(
    frozen: FrozenPart,
    store: ActivationStore | None,
    views: Views,
    rows: np.ndarray,
    view: int,
    progress: Progress,
    *,
    exact: bool = True,
) -> tuple[np.ndarray, Inputs]:
    """Pooled features and the inputs at the cut of one view of some images.

    Args:
        frozen: the frozen part.
        store: where activations are kept; None to keep the pooled features alone, in memory.
        views: draws the pixels.
        rows: positions in the data set.
        view: the view's number.
        progress: where to report.
        exact: False for images to train on, which may come from bfloat16, see
            :attr:`FrozenPart.rapid`.

    Returns:
        float32 ``[rows, features]``, and the inputs of the second phase for the same rows.
    """
    name = f"extract view {view}" if view else "extract"
    if store is None:
        parts = [batch[0] for batch in frozen.compute(views, rows, view, progress, name)]
        below = frozen.at_cut if frozen.cut else None
        return np.concatenate(parts), Recomputed(views, rows, view, below)
    digests = [views.dataset.digests[row] for row in rows]
    keys, rapid = frozen.keys(view, views), False
    if not exact and frozen.may_round:
        rounded = frozen.keys(view, views, "bfloat16")
        # What is held was found to agree, or not to, when it was computed.
        if store.holds(rounded, digests):
            keys, rapid = rounded, True
        elif not store.holds(keys, digests):
            first, rapid = "rapid" not in vars(frozen), True
            keys = rounded if frozen.rapid.name.endswith("bfloat16") else keys
            if first and frozen.engine.rounded is not None:
                progress.note(frozen.rapid.reason)

    def compute(missing: np.ndarray) -> Iterator[list[np.ndarray]]:
        # Rows that are held may prove damaged, and are then computed as they were before.
        engine = frozen.rapid if rapid else None
        return frozen.compute(views, rows[missing], view, progress, name, engine)

    held = store.ensure(keys, digests, compute)
    pooled = held[0].gather(np.arange(len(rows)))[0].astype(np.float32)
    return pooled, held[1] if frozen.cut else Recomputed(views, rows, view, None)


def mirroring_is_safe(
    train: np.ndarray, labels: np.ndarray, validation: np.ndarray, validation_labels: np.ndarray
) -> tuple[bool, str]:
    """Whether a mirrored image still shows its class, as far as the data itself tells.

    Classifies validation images and their mirror images by the nearest training image, compared as
    gray thumbnails of 16 by 16 pixels. Left and right are part of the class where mirroring loses
    over a quarter of the right answers, and significantly many (McNemar: the loss is over two
    standard deviations). Measured: of the built-in digits a mirror image loses 63 %, of two sets of
    emoji 6 to 10 %. Features of a pretrained network cannot tell, since it was trained on mirrored
    images.

    Args:
        train: uint8 ``[n, height, width, 3]``; at most 5,000 of them are used.
        labels: int ``[n]``.
        validation: uint8 ``[m, height, width, 3]``; at most 1,000 of them are used.
        validation_labels: int ``[m]``.

    Returns:
        The decision and the reason in one sentence.
    """
    known = np.unique(np.linspace(0, len(train) - 1, 5000).astype(int))
    asked = np.unique(np.linspace(0, len(validation) - 1, 1000).astype(int))
    references, truth = _thumbnails(train[known]), validation_labels[asked]

    def right(images: np.ndarray) -> np.ndarray:
        nearest = (_thumbnails(images) @ references.T).argmax(axis=1)
        return labels[known][nearest] == truth

    clean = validation[asked]
    before, after = right(clean), right(clean[:, :, ::-1])
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    net = lost - gained
    safe = net <= 2 * np.sqrt(lost + gained) or net <= 0.25 * before.sum()
    counts = f"as thumbnails {before.mean():.0%} are recognised, {after.mean():.0%} mirrored"
    return bool(safe), f"Augmentation {'mirrors' if safe else 'does not mirror'}: {counts}."


def _thumbnails(pixels: np.ndarray, side: int = 16) -> np.ndarray:
    """Gray thumbnails, centred and of unit length, float32 ``[n, side * side]``."""
    small = [
        np.asarray(Image.fromarray(image).convert("L").resize((side, side)), np.float32).ravel()
        for image in np.ascontiguousarray(pixels)
    ]
    flat = np.stack(small)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)
