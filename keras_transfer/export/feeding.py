"""What is asked of a modality when a model of it is exported: how clients feed it."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_transfer.modalities import InputSpec, Modality


@dataclasses.dataclass(frozen=True)
class Signature(abc.ABC):
    """What the model of one modality takes, and how clients come by it.

    Attributes:
        spec: the input that the network reads.
        form: the modality.
        encoded: the input of a SavedModel's second signature, which takes files.
        reader: the package that ``verify.py`` reads items with.
        others: what may be unlike the examples of a data set.
        mediapipe: MediaPipe's package of tasks for it.
        by_mediapipe: what MediaPipe does in its own way when it makes one, such as ``resized``.
        idle: inputs beside it, of the same shape and type, that MediaPipe fills and the network
            does not read: their names, and what they hold.
        files: what a client needs beside the artefact to make an example of an item.
        made_for_eight_bits: the end of an advice where a network bears no eight bits: one that
            does.
        process_units: how MediaPipe makes one: ``ProcessUnit`` tables, as ``metadata.pack`` takes
            them.
    """

    spec: InputSpec
    form: ClassVar[Modality]
    encoded: ClassVar[str]
    reader: ClassVar[str]
    others: ClassVar[str]
    mediapipe: ClassVar[str]
    by_mediapipe: ClassVar[str]
    idle: ClassVar[Mapping[str, str]] = {}
    files: ClassVar[Mapping[str, bytes]] = {}
    made_for_eight_bits: ClassVar[str] = ""
    process_units: ClassVar[Sequence[dict[int, Any]]] = ()

    @property
    @abc.abstractmethod
    def size(self) -> Any:
        """How large an example is, as the modality's ``spec`` takes it."""

    @abc.abstractmethod
    def for_mediapipe(self, data: bytes) -> np.ndarray:
        """An item as MediaPipe hands it to the model."""

    @abc.abstractmethod
    def blank(self) -> tuple[np.ndarray, bytes]:
        """An example without content, ``[1, ...]``, and as an item."""

    @abc.abstractmethod
    def served(self, data: bytes) -> bool:
        """Whether :meth:`serving_decoder` can read an item."""

    @abc.abstractmethod
    def serving_decoder(self) -> Callable[[Any], Any]:
        """A TensorFlow graph from a string tensor that holds an item to an example."""

    @abc.abstractmethod
    def metadata(self) -> dict[int, Any]:
        """The input's ``TensorMetadata``, as ``metadata.pack`` takes it."""
