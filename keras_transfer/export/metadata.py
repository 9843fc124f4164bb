"""Writes TensorFlow Lite model metadata, by which MediaPipe and Android know what a file is.

The layout is that of TensorFlow Lite's ``metadata_schema.fbs`` (identifier ``M001``); the numbers
below are the positions of its fields. MediaPipe's own writers are not needed.
"""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np

from keras_transfer.export.flatbuffer import LiteModel

NAME = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
THRESHOLD = "CALIBRATED_THRESHOLD"
"""Name of the custom metadata that holds the threshold, as decimal text."""


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself.

    Attributes:
        name: of the model.
        description: what it tells apart, trained on what.
        class_names: the labels in the order of the outputs.
        image_size: height and width in pixels.
        licence: of the backbone's weights and of the model.
        author: who trained it, ``""`` if unknown.
        version: of the model.
        threshold: the least probability at which an answer should be trusted, 0 for none. It is
            stated, not applied: a reader that hid less certain answers would look broken.
    """

    name: str
    description: str
    class_names: Sequence[str]
    image_size: tuple[int, int]
    licence: str = ""
    author: str = ""
    version: str = "1"
    threshold: float = 0.0


def add_metadata(model: bytes, info: ModelInfo) -> bytes:
    """Adds metadata and the label file to a TensorFlow Lite model.

    Args:
        model: the file's bytes; an input ``image`` and an output of one score a class.
        info: what to say.

    Returns:
        The file with a ``TFLITE_METADATA`` buffer and, behind the flatbuffer, a ZIP archive with
        ``labels.txt``, where readers look for associated files.
    """
    lite = LiteModel(model)
    entry = lite.schema.MetadataT()
    entry.name, entry.buffer = NAME, lite.add_buffer(_describe(info))
    lite.tree.metadata = [*(lite.tree.metadata or []), entry]
    lite.tree.description = info.description
    archive = io.BytesIO(lite.content())
    with zipfile.ZipFile(archive, "a") as appended:
        # A fixed date, so that the same model gives the same bytes.
        member = zipfile.ZipInfo(LABELS_FILE, (1980, 1, 1, 0, 0, 0))
        appended.writestr(member, "\n".join(info.class_names) + "\n")
    return archive.getvalue()


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """The labels that a TensorFlow Lite file carries, in the order of its scores; [] if none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(LABELS_FILE).decode("utf-8").split("\n")[:-1]
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError):
        return []


def _describe(info: ModelInfo) -> bytes:
    """The metadata flatbuffer."""
    b = flatbuffers.Builder(1024)
    height, width = info.image_size
    classes = len(info.class_names)

    size = _table(b, (0, "Uint32", width), (1, "Uint32", height))
    image = _table(b, (0, "Int8", 1), (1, "Offset", size))  # RGB
    content = _table(b, (0, "Uint8", 2), (1, "Offset", image))  # ImageProperties
    # The graph takes raw pixels: mean 0 and deviation 1 say that nothing is left to do.
    identity = _table(b, (0, "Offset", _floats(b, [0.0])), (1, "Offset", _floats(b, [1.0])))
    unit = _table(b, (0, "Uint8", 1), (1, "Offset", identity))  # NormalizationOptions
    stats = _table(b, (0, "Offset", _floats(b, [255.0])), (1, "Offset", _floats(b, [0.0])))
    entry = _table(
        b,
        (0, "Offset", b.CreateString("image")),
        (1, "Offset", b.CreateString(f"RGB image of {width}x{height} pixels, 0 to 255")),
        (3, "Offset", content),
        (4, "Offset", _offsets(b, [unit])),
        (5, "Offset", stats),
    )

    labels = _table(
        b,
        (0, "Offset", b.CreateString(LABELS_FILE)),
        (1, "Offset", b.CreateString("one label a line, in the order of the scores")),
        (2, "Int8", 2),  # TENSOR_AXIS_LABELS
    )
    feature = _table(b, (0, "Uint8", 1), (1, "Offset", _table(b)))  # FeatureProperties
    highest = _table(b, (0, "Offset", _floats(b, [1.0])), (1, "Offset", _floats(b, [0.0])))
    exit_ = _table(
        b,
        (0, "Offset", b.CreateString("scores")),
        (1, "Offset", b.CreateString(f"probabilities of {classes} classes, calibrated")),
        (3, "Offset", feature),
        (5, "Offset", highest),
        (6, "Offset", _offsets(b, [labels])),
    )
    custom = _table(
        b,
        (0, "Offset", b.CreateString(THRESHOLD)),
        (1, "Offset", b.CreateByteVector(f"{info.threshold:.4f}".encode())),
    )
    graph = _table(
        b,
        (2, "Offset", _offsets(b, [entry])),
        (3, "Offset", _offsets(b, [exit_])),
        (9, "Offset", _offsets(b, [custom] if info.threshold else [])),
    )
    root = _table(
        b,
        (0, "Offset", b.CreateString(info.name)),
        (1, "Offset", b.CreateString(info.description)),
        (2, "Offset", b.CreateString(info.version)),
        (3, "Offset", _offsets(b, [graph])),
        (4, "Offset", b.CreateString(info.author)),
        (5, "Offset", b.CreateString(info.licence)),
        (7, "Offset", b.CreateString("1.0.0")),  # the oldest parser that can read it
    )
    b.Finish(root, file_identifier=b"M001")
    return bytes(b.Output())


def _table(builder: flatbuffers.Builder, *fields: tuple[int, str, Any]) -> int:
    """A table from (position, type, value); values of type ``Offset`` were built before."""
    builder.StartObject(max((slot for slot, _, _ in fields), default=-1) + 1)
    for slot, kind, value in fields:
        if kind == "Offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
    return builder.EndObject()


def _offsets(builder: flatbuffers.Builder, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    return builder.CreateNumpyVector(np.asarray(values, np.float32))
