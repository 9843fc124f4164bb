"""Writes TensorFlow Lite model metadata, by which MediaPipe and Android know what a file is.

The layout is that of TensorFlow Lite's ``metadata_schema.fbs`` (identifier ``M001``): a table is a
dict by the positions of its fields. MediaPipe's own writers are not needed.
"""

import dataclasses
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

from keras_transfer.export.feeding import Signature
from keras_transfer.export.flatbuffer import LiteModel

LABELS_FILE, FIT_FILE, THRESHOLDS_FILE = "labels.txt", "fit.txt", "thresholds.txt"
THRESHOLD = "CALIBRATED_THRESHOLD"
"""Name of the custom metadata that holds the threshold, as decimal text."""


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself.

    Attributes:
        name: of the model.
        description: what it tells apart, trained on what.
        class_names: the labels in the order of the outputs.
        signature: how it is fed.
        licence: of the backbone's weights and of the model.
        author: who trained it, ``""`` if unknown.
        threshold: the least probability at which an answer should be trusted, 0 for none. It is
            stated, not applied: a reader that hid less certain answers would look broken.
        thresholds: where an example may have several classes, the probability from which on each
            is answered.
    """

    name: str
    description: str
    class_names: Sequence[str]
    signature: Signature
    licence: str = ""
    author: str = ""
    threshold: float = 0.0
    thresholds: Sequence[float] = ()


def add_metadata(model: bytes, info: ModelInfo) -> bytes:
    """Adds metadata and the label file to a TensorFlow Lite model.

    Args:
        model: the file's bytes; one input and an output of one score a class.
        info: what to say.

    Returns:
        The file with a ``TFLITE_METADATA`` buffer, the inputs that MediaPipe wants to fill beside
        the one that is read, and, behind the flatbuffer, a ZIP archive with ``labels.txt`` and the
        signature's files, where readers look for associated files.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(pack(builder, _describe(info)), file_identifier=b"M001")
    lite = LiteModel(model)
    for name in info.signature.idle:
        lite.add_input(name)
    buffer = lite.add_buffer(bytes(builder.Output()))
    entry = lite.make("MetadataT", name="TFLITE_METADATA", buffer=buffer)
    lite.tree.metadata = [*(lite.tree.metadata or []), entry]
    lite.tree.description = info.description
    archive = io.BytesIO(lite.content())
    carry(archive, info, info.signature.files)
    return archive.getvalue()


def carry(archive: Any, info: ModelInfo, more: Mapping[str, bytes] | None = None) -> None:
    """Adds labels, the fit and more files to an archive, or behind what is no archive yet.

    Args:
        archive: a path or a stream.
        info: what the model says of itself.
        more: contents by name.
    """
    labels, fit = "\n".join(info.class_names) + "\n", info.signature.spec.fit
    said = {LABELS_FILE: labels, FIT_FILE: fit, THRESHOLDS_FILE: lines(info.thresholds)}
    said_bytes = {name: text.encode() for name, text in said.items() if text}
    with zipfile.ZipFile(archive, "a") as appended:
        for name, data in {**said_bytes, **(more or {})}.items():
            # A fixed date, so that the same model gives the same bytes.
            appended.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def lines(thresholds: Sequence[float]) -> str:
    """Thresholds in the order of the labels, one a line; nothing where there are none."""
    return "".join(f"{value}\n" for value in thresholds)


def carried(path: str | os.PathLike[str], name: str) -> str:
    """The text of a file that a model's file carries in itself; empty if it carries none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name).decode("utf-8")
    except (zipfile.BadZipFile, IsADirectoryError, KeyError, UnicodeDecodeError):
        return ""


def _describe(info: ModelInfo) -> dict[int, Any]:
    """The ``ModelMetadata`` table."""
    labels = {
        0: LABELS_FILE,
        1: "one label a line, in the order of the scores",
        2: np.int8(2),  # TENSOR_AXIS_LABELS
    }
    scores = {
        0: "scores",
        1: f"probabilities of {len(info.class_names)} classes, calibrated",
        3: {0: np.uint8(1), 1: {}},  # FeatureProperties
        5: {0: (1.0,), 1: (0.0,)},  # largest and smallest value
        6: [labels],
    }
    signature = info.signature
    taken = [signature.metadata(), *({0: k, 1: v} for k, v in signature.idle.items())]
    graph = {2: taken, 3: [scores], 5: [*signature.process_units]}
    custom = [{0: THRESHOLD, 1: f"{info.threshold:.4f}".encode()}] if info.threshold else []
    return {
        0: info.name,
        1: info.description,
        2: "1",  # the model's version
        3: [{**graph, 9: custom}],
        4: info.author,
        5: info.licence,
        7: "1.0.0",  # the oldest parser that can read it
    }


def pack(builder: flatbuffers.Builder, value: Any) -> int:
    """Writes a string, bytes, a tuple of floats, a list of tables, or a table, inside out.

    Args:
        builder: what it is written to.
        value: a table is a dict by position; its NumPy scalars are stored in place, by their type.

    Returns:
        Where it starts.
    """
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, bytes):
        return builder.CreateByteVector(value)
    if isinstance(value, tuple):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    if isinstance(value, list):
        tables = [pack(builder, item) for item in value]
        builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            builder.PrependUOffsetTRelative(table)
        return builder.EndVector()
    inside = {k: pack(builder, v) for k, v in value.items() if not isinstance(v, np.generic)}
    builder.StartObject(max(value, default=-1) + 1)
    for slot, item in value.items():
        if slot in inside:
            builder.PrependUOffsetTRelativeSlot(slot, inside[slot], 0)
        else:
            kind = item.dtype.name.capitalize()
            getattr(builder, f"Prepend{kind}Slot")(slot, item.item(), 0)
    return builder.EndObject()
