"""How clients feed an exported model: the one place of this room that knows what an example is.

Everything else takes a :class:`Signature` from :func:`signature` and asks it. Another modality adds
a class, and a reader of its samples to ``proof.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from keras_transfer.base.errors import UsageError
from keras_transfer.export.clips import AudioSignature
from keras_transfer.export.images import ImageSignature
from keras_transfer.export.texts import TextSignature
from keras_transfer.modalities import Modality
from keras_transfer.modalities.protocol import InputSpec

if TYPE_CHECKING:
    import keras


class Signature(Protocol):
    """What the model of one modality takes, and how clients come by it."""

    form: ClassVar[Modality]
    encoded: ClassVar[str]
    """The input of a SavedModel's second signature, which takes files."""
    idle: ClassVar[Mapping[str, str]]
    """Inputs beside it, of the same shape and type, that MediaPipe fills and the network does not
    read: their names, and what they hold."""
    files: ClassVar[Mapping[str, bytes]]
    """What a client needs beside the artefact to make an example of an item."""
    made_for_eight_bits: ClassVar[str]
    """The end of an advice where a network bears no eight bits: one that does."""
    reader: ClassVar[str]
    """The package that ``verify.py`` reads items with."""
    others: ClassVar[str]
    """What may be unlike the examples of a data set."""
    mediapipe: ClassVar[str]
    """MediaPipe's package of tasks for it."""
    by_mediapipe: ClassVar[str]
    """What MediaPipe does in its own way when it makes one, such as ``resized``."""
    process_units: ClassVar[Sequence[dict[int, Any]]]
    """How MediaPipe makes one: ``ProcessUnit`` tables, as ``metadata.pack`` takes them."""

    @property
    def spec(self) -> InputSpec:
        """The input that the network reads."""

    @property
    def size(self) -> Any:
        """How large an example is, as the modality's ``spec`` takes it."""

    def for_mediapipe(self, data: bytes) -> np.ndarray:
        """An item as MediaPipe hands it to the model."""

    def blank(self) -> tuple[np.ndarray, bytes]:
        """An example without content, ``[1, ...]``, and as an item."""

    def served(self, data: bytes) -> bool:
        """Whether :meth:`serving_decoder` can read an item."""

    def serving_decoder(self) -> Callable[[Any], Any]:
        """A TensorFlow graph from a string tensor that holds an item to an example."""

    def metadata(self) -> dict[int, Any]:
        """The input's ``TensorMetadata``, as ``metadata.pack`` takes it."""


_SIGNATURES: dict[str, Callable[[InputSpec], Signature]] = {
    "image": ImageSignature,
    "text": TextSignature,
    "audio": AudioSignature,
}


def signature(form: Modality, spec: InputSpec) -> Signature:
    """How a classifier is fed that takes such examples."""
    return _SIGNATURES[form.NAME](spec)


def signature_of(model: "keras.Model", form: Modality, fit: str | None = None) -> Signature:
    """How a classifier is fed, its examples fitted as in training.

    Raises:
        UsageError: it takes something else than examples of its modality.
    """
    shape, kind = model.input_shape[1:], model.input.dtype
    spec = form.spec_of(shape, kind)
    if spec is None:
        raise UsageError(
            f"the model takes {kind} {[*shape]}, and no {form.NOUN}s.",
            remedy="Train it with keras-transfer, or wrap it into a model that does.",
        )
    return signature(form, spec.fitted(fit))
