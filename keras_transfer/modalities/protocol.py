"""The seam between what is particular to images, texts or clips, and every other room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from keras_transfer import recipe
from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import Finding

if TYPE_CHECKING:
    import keras

Put = Callable[[Sequence[Any]], list[Any]]
"""Puts copies of a model's layers on a tensor for each of its inputs, and gives its outputs."""


def layers_within(model: keras.Model) -> Iterator[Any]:
    """All layers in the order of the graph, those of nested models in their place."""
    for layer in model.layers:
        yield from layers_within(layer) if hasattr(layer, "layers") else [layer]


class InputSpec(NamedTuple):
    """What a model takes, and all that a client needs to know to feed it.

    Attributes:
        name: of the input, such as ``image``.
        shape: of one example, without the batch axis.
        dtype: NumPy's name of its type.
        content: what its values are, in words.
        fit: how an example of other proportions is brought to the shape, as the setting of that
            name says; empty where none has proportions.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    content: str
    fit: str = ""

    def fitted(self, fit: str | None) -> InputSpec:
        """The same with examples that are fitted in a way of one's own; as it is for None or "".

        Raises:
            UsageError: there is no such way, or none at all for such examples.
        """
        if not fit:
            return self
        if not self.fit:
            problem = f"fit was given, and there is nothing to fit in {self.content}."
            raise UsageError(problem, remedy="Leave fit out: it is for images.")
        return self._replace(fit=recipe.read("fit", fit))


class Examined(NamedTuple):
    """What one decoding yields for a data set.

    Attributes:
        example: as ``decode`` gives it; None when no spec was given.
        fingerprint: by which near copies are found; it does not depend on the spec.
        format: the name of the format found, such as ``JPEG``.
        extent: how large the example is by itself, see ``Modality.EXTENT``.
        unknown: how much of its extent no model can tell from other things.
        remarks: kinds of findings and reasons, of what is odd about it though it can be read.
    """

    example: np.ndarray | None
    fingerprint: np.ndarray
    format: str
    extent: int
    unknown: int = 0
    remarks: Sequence[tuple[str, str]] = ()


class Modality(Protocol):
    """A folder of ``modalities/`` whose module has these names.

    An item is bytes; an example is one dense array of them. Whatever the bytes are, ``decode``,
    ``examine`` and ``peek`` raise nothing but :class:`ExampleError`, whose ``kind`` is one word.
    """

    NAME: str
    """That of the folder."""
    NOUN: str
    """What one example is called; with an s, what several are."""
    VERSION: int
    """Raised whenever the same bytes may give other examples or fingerprints: in every key."""
    SUFFIXES: Mapping[str, str]
    """Which files are looked at, by suffix, and the format that each promises, or nothing."""
    SUFFIX: str
    """Of the files that ``encode`` makes."""
    FINGERPRINT: tuple[int, ...]
    """The shape of a fingerprint, uint8."""
    EXTENT: str
    """What an extent counts, such as the longer side in pixels."""
    EXTENT_EDGES: Sequence[int]
    """Where the ranges of a histogram of extents begin."""
    INPUT: str
    """How an example is made of an item, in words."""
    SIZE: str
    """The setting that says how large an example a model takes."""
    EFFORTS: Mapping[str, Mapping[str, Any]]
    """The settings of each effort, where they are not those of ``Recipe``."""
    SEARCH: Mapping[str, Mapping[str, Any]]
    """The rows of a default search that are not those of ``Recipe``."""
    LITERAL: bool
    """Whether a word that names no file may be an item itself."""

    @property
    def excerpt(self) -> Callable[[bytes, float, float | None], bytes] | None:
        """A segment of an item as an item itself, from a second to another or the end; may raise
        ExampleError. None where items do not last.
        """

    def spec(self, size: Any) -> InputSpec:
        """The input of a model that takes examples of some size. Raises UsageError."""

    def spec_of(self, shape: Sequence[Any], dtype: str) -> InputSpec | None:
        """The input of a model that takes such arrays; None if they are no examples of ours."""

    def size_of(self, shape: Sequence[int]) -> Any:
        """The size that gives examples of such a shape."""

    def preview(self, spec: InputSpec | None, /) -> InputSpec:
        """What pages decode to before they show an example, of a model with a spec or of none."""

    def decode(self, data: bytes, spec: InputSpec | None = None) -> np.ndarray:
        """One item, exactly as a model of this spec takes it; without one, at its own size."""

    def examine(self, data: bytes, spec: InputSpec | None = None) -> Examined:
        """Decodes an item in full, once, and refuses more, such as what is too small."""

    def losses(
        self, extents: Sequence[int], unknown: int, spec: InputSpec | None, some: Sequence[int]
    ) -> Sequence[Finding]:
        """What a model does not see of a set: all extents, how much of them is unknown, and those
        by which a size is chosen where there is no spec.
        """

    def peek(self, data: bytes) -> float:
        """The size to give a model if nothing of the item is to be lost; from its header alone."""

    def suited(self, sizes: Sequence[Any], own: Any) -> Any:
        """The size to train at, by what ``peek`` said of some items and the backbone's own."""

    def entrance(self, size: Any, preprocessing: str) -> tuple[Any, Any]:
        """A Keras input for examples of a size, and what of it a backbone's layers take."""

    def adopted(
        self, model: keras.Model, put: Put, size: Any, preprocessing: str | None
    ) -> tuple[Any, Any] | None:
        """A Keras input, and what a model of somebody's own gives on examples that enter there.

        Args:
            model: functional; it may take anything.
            put: its layers.
            size: None for its own, or for the largest by default where it takes any.
            preprocessing: what it expects, where that is said.

        Returns:
            None where it takes no such examples.

        Raises:
            UsageError: it takes them in a way that is not known.
        """

    def view(
        self,
        examples: np.ndarray,
        digests: Sequence[str],
        number: int,
        *,
        seed: int = 0,
        strength: float = 1.0,
        flip: bool = True,
    ) -> np.ndarray:
        """Augmented examples; number 0 is clean. Each depends on its digest, number and seed."""

    def mirroring_is_safe(
        self, examples: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray
    ) -> tuple[bool, str]:
        """Whether ``view`` may flip these examples, and the reason in a sentence.

        ``train`` and ``validation`` are positions among them.
        """

    def near_copies(self, fingerprints: np.ndarray) -> np.ndarray:
        """Pairs of rows that are almost the same: int64 ``[pairs, 2]``, each pair once."""

    def from_memory(self, values: Any) -> Sequence[np.ndarray]:
        """Checks what a caller has in memory. Raises DataError."""

    def encode(self, value: np.ndarray) -> bytes:
        """One of these as bytes that ``decode`` takes, the same on every machine."""

    def show(
        self, example: np.ndarray, caption: str = "", saliency: np.ndarray | None = None
    ) -> str:
        """An example as HTML that needs nothing else, for pages and notebooks.

        Args:
            example: as decoded to ``preview``.
            caption: what it is.
            saliency: of one that a model took, where the model looked: weights in 0..1 by place.
        """
