"""Classifying single examples with a run, or with what was exported from it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.backbones.weight_files import load_model
from keras_transfer.base import files
from keras_transfer.base.errors import ExampleError, UsageError
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.datasets.sources import read_file
from keras_transfer.export import bundle, metadata
from keras_transfer.export.metadata import LABELS_FILE
from keras_transfer.export.signature import ImageSignature
from keras_transfer.runs import folder as runs

Opened = tuple[Callable[[np.ndarray], np.ndarray], tuple[Sequence[int], Any], int]
"""A function from examples to probabilities, shape and type of its input, its number of classes."""


def predict(
    model: str | os.PathLike[str], images: Sequence[str | os.PathLike[str]], *, top: int = 3
) -> list[dict[str, Any]]:
    """Classifies image files.

    Args:
        model: a run folder, an export folder, or a ``.tflite`` or ``.keras`` file.
        images: paths of image files of any kind that training reads.
        top: how many classes to name.

    Returns:
        One row an image: ``image``, and ``classes``, a list of ``{"label", "probability"}`` from
        the most to the least probable; or ``error`` where the file cannot be read.

    Raises:
        UsageError: the model cannot be opened.
    """
    path = _file(Path(model))
    names = _labels(path)
    with files.reading(path, "Give an intact file."), quiet_stdio():
        classify, (shape, kind), classes = _OPENERS[path.suffix](path)
        names = names or [str(number) for number in range(classes)]
        if len(shape) != 4 or shape[3] != 3 or kind != "uint8":
            raise ValueError(f"it takes {kind} {[*shape]}, not images of uint8 pixels")
        if len(names) != classes:
            raise ValueError(f"it tells {classes} classes apart and has {len(names)} labels")
        signature = ImageSignature((int(shape[1]), int(shape[2])))
    rows: list[dict[str, Any]] = []
    for image in images:
        row: dict[str, Any] = {"image": str(image)}
        try:
            with warnings.catch_warnings(action="ignore"):  # decoders' remarks name no image
                example = signature.decode(read_file(image))
            row["classes"] = best(classify(example[None])[0], names, top)
        except ExampleError as error:
            row["error"] = error.message
        rows.append(row)
    return rows


def best(scores: np.ndarray, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The ``top`` most probable classes, as ``{"label", "probability"}``."""
    order = np.argsort(-scores, kind="stable")[:top]
    return [{"label": names[i], "probability": float(scores[i])} for i in order]


def _file(path: Path) -> Path:
    """The model's file: itself, a run's, or of an export the one that opens fastest."""
    files.settle(path)
    if (path / runs.CONFIG).exists() or (path / runs.NEW).exists():
        return runs.open_run(path).path / runs.MODEL
    for file in (path, path / "model.tflite", path / "model.keras"):
        if file.suffix in _OPENERS and file.is_file():
            return file
    raise UsageError(
        f"{path} is neither a run folder nor an exported model.",
        remedy="Give a run folder, an export folder, or a .tflite or .keras file.",
    )


def _labels(path: Path) -> list[str]:
    """The labels of a model, [] if it has none: in it, or in the run or the export that it is of.

    Raises:
        UsageError: it is not the file that the run or the export is known to have had.
    """
    if (path.parent / runs.CONFIG).is_file():
        run = runs.open_run(path.parent)
        run.file(path.name)
        return list(run.class_names)
    bundle.check(path.parent, path.name, LABELS_FILE)
    beside = path.with_name(LABELS_FILE)
    with files.reading(beside):
        listed = beside.read_text(encoding="utf-8").split("\n")[:-1] if beside.exists() else []
    return metadata.read_labels(path) or listed


def _open_keras(path: Path) -> Opened:
    import keras

    model = load_model(path)

    def classify(examples: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(model(examples, training=False)))

    return classify, (model.input_shape, model.input.dtype), model.output_shape[-1]


def _open_tflite(path: Path) -> Opened:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def classify(examples: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(taken["index"], examples)
        interpreter.invoke()
        scores = interpreter.get_tensor(given["index"]).astype(np.float32)
        scale, zero = given["quantization"]
        return (scores - zero) * scale if scale else scores

    return classify, (taken["shape"], np.dtype(taken["dtype"])), given["shape"][-1]


_OPENERS = {".keras": _open_keras, ".tflite": _open_tflite}
