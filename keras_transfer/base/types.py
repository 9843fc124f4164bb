"""The frozen dataclasses that pass between the package's modules."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import keras

# Layers that several rooms ask for by name: the pooled features with which a head starts, the means
# of the topmost map where lower levels are joined to them, those of all levels so far, what of a
# sequence is no padding, the head.
POOL, TOPMOST, LEVELS, MASK = "avg_pool", "avg_pool_top", "levels_", "mask"
LOGITS, TEMPERATURE, PROBABILITIES = "logits", "temperature", "probabilities"

Size = int | float | tuple[int, int]
"""Of an example: pixels of each side or of both, tokens, seconds."""
Columns = str
"""What a table calls its columns, such as ``text=review,label=stars``."""

# Regular expressions over layers' names, and what they stand for.
Patterns = tuple[tuple[str, str], ...]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Origin = Literal["name", "files", "texts", "memory"]
"""What brings data back: its name; a table of the files or texts that Python gave; nothing."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that the inspection of a data set noticed.

    Attributes:
        path: the image, relative to the data set's root, or ``""`` for the set as a whole.
        kind: a short stable word, such as ``truncated``, ``duplicate`` or ``leak``.
        reason: what was seen, in one sentence.
        action: what is done about it, such as ``left out`` or ``kept``.
        other: the other image that it is about, such as the first of two copies, or ``""``.
    """

    path: str
    kind: str
    reason: str
    action: str
    other: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples in three splits, all readable.

    Attributes:
        name: what the user called it: a folder, a manifest, ``tfds:NAME`` or ``builtin:digits``.
        paths: a name for each image, relative to the data set's root, with ``/`` between parts.
        labels: int64, shape ``[images]``: indices into ``class_names``; or of several labels uint8
            0 and 1, shape ``[images, classes]``.
        class_names: the classes, in the order of the model's outputs.
        splits: the split of each image, shape ``[images]``, values ``train``, ``val``, ``test``.
        digests: SHA-256 of each item's bytes.
        findings: what the inspection noticed, files left out among them.
        read: returns the encoded bytes of image ``i``.
        examples: shape ``[examples, ...]``: each decoded to what the model takes, images to uint8
            ``[height, width, 3]``; memory mapped where large; None when opened without a size.
        groups: the name of each image's group: images of one group (copies, near copies, or what
            the source calls a group) are never in different splits. None where not known.
        modality: what kind of example these are, see ``modalities``.
        fit: how ``examples`` were brought to their shape, see ``InputSpec``.
        update_of: the folder of the run of which this is the data and more; empty for others.
        of_first_run: of such data, how many of its examples, the first ones, are those of the run
            with which updates began; 0 for others.
        origin: where it comes from, see :data:`Origin`.
    """

    name: str
    paths: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray
    digests: tuple[str, ...]
    findings: tuple[Finding, ...]
    read: Callable[[int], bytes]
    examples: np.ndarray | None = None
    groups: tuple[str, ...] | None = None
    modality: str = "image"
    fit: str = ""
    update_of: str = ""
    of_first_run: int = 0
    origin: Origin = "name"

    def __len__(self) -> int:
        return len(self.paths)

    def indices(self, split: Split) -> np.ndarray:
        """The positions of a split's images, ascending, as int64."""
        return np.flatnonzero(self.splits == split)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{int((self.splits == split).sum())} {split}" for split in SPLITS)
        return (
            f"Dataset({self.name!r}: {len(self)} examples ({self.modality}), "
            f"{len(self.class_names)} classes; {sizes}; {len(self.findings)} findings)"
        )


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """One row of the registry: what is known of a backbone before it is built.

    Attributes:
        name: the name by which users ask for it, that of Keras Applications where it is there.
        constructor: ``module:function`` that builds it.
        size: default height and width in pixels, or length in tokens.
        preprocessing: how uint8 RGB becomes the input that its weights expect.
        parameters: number of parameters without the classification top.
        modality: what it takes, the name of a folder in ``modalities``.
        blocks: pairs of a regular expression that finds a layer's block in its name, and the
            block's name.
        pairs: regular expression for the layers at which two live tensors make a cut.
        min_size: the smallest height and width that it accepts.
        weights: the sources that exist for it, among ``imagenet`` and ``offline``.
        licence: SPDX name of the licence of the published weights.
        top1: published ImageNet top-1 accuracy in percent, None where none is published.
        top1_source: where ``top1`` was published.
        int8_safe: whether full-integer quantisation is known to keep accuracy; None if unknown.
        advice: when to choose it, in one line.
    """

    name: str
    constructor: str
    size: int
    preprocessing: str
    parameters: int = 0
    modality: str = "image"
    blocks: Patterns = ((r"^(block\d+[a-z]*)_", r"\1"),)
    pairs: str = ""
    min_size: int = 32
    weights: tuple[str, ...] = ("imagenet",)
    licence: str = ""
    top1: float | None = None
    top1_source: str = ""
    int8_safe: bool | None = None
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class Block:
    """A named stretch of a backbone between two cuts.

    Attributes:
        name: its published name, such as ``block6d``, ``conv5_block3`` or ``mixed7``.
        layers: the names of its layers, bottom to top.
        parameters: number of its weights, trainable or not.
        macs: multiply-adds that its layers cost for one image.
        cut: the names of the layers whose outputs are alive above this block: one, or two where
            the backbone carries two tensors between its cells.
        output_shapes: shapes of those outputs without the batch axis.
    """

    name: str
    layers: tuple[str, ...]
    parameters: int
    macs: int
    cut: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...], ...]

    @property
    def cut_bytes(self) -> int:
        """Bytes that one image takes at this block's output in float16."""
        return 2 * sum(int(np.prod(shape)) for shape in self.output_shapes)


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A built backbone: uint8 RGB images in, a feature map (or vector) out.

    Attributes:
        spec: its row in the registry.
        model: the functional graph, flat, preprocessing included; input uint8
            ``[batch, height, width, 3]``.
        blocks: its blocks, bottom to top; together they cover every layer once.
        weights: where the weights came from: ``imagenet``, ``offline``, ``none`` or a path.
        weights_digest: SHA-256 over the values of all weights.
        at: makes it at another size; None where its size is settled.
    """

    spec: BackboneSpec
    model: "keras.Model"
    blocks: tuple[Block, ...]
    weights: str
    weights_digest: str
    at: "Callable[[Size], Backbone] | None" = None

    @property
    def size(self) -> str:
        """What one example measures, such as ``224 x 224 px`` or ``256 tokens``."""
        sides = self.model.input_shape[1:3]
        return f"{' x '.join(map(str, sides))} {'px' if len(sides) > 1 else self.model.input.name}"

    def __repr__(self) -> str:
        return (
            f"Backbone({self.spec.name}, {self.size}, weights {self.weights}, "
            f"{len(self.blocks)} blocks, {self.model.count_params():,} parameters)"
        )


class Inputs(Protocol):
    """What a phase trains on: the tensors at the cut of any images, by position."""

    @property
    def held(self) -> bool:
        """Whether they lie in memory or on disk, rather than being computed when asked for."""

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> list[np.ndarray]:
        """One array ``[rows, ...]`` for each tensor of the cut."""


@dataclasses.dataclass(frozen=True)
class PhaseReport:
    """What a phase did: the entries of ``phases`` in ``metrics.json``.

    Attributes:
        name: ``head`` or ``fine_tune``.
        epochs: or iterations of a solver.
        seconds: of all of them.
        images_per_second: examples seen, those of each epoch.
        cached: whether what came in was read, and not computed anew.
        details: what is particular to the phase.
    """

    name: str
    epochs: int
    seconds: float
    images_per_second: float
    cached: bool
    details: dict[str, Any]
