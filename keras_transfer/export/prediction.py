"""Classifying single images with a run, or with what was exported from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.base.errors import ExampleError, UsageError
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.modalities import modality
from keras_transfer.runs import folder as runs

Classify = Callable[[np.ndarray], np.ndarray]


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
    classify, size, names = _open(Path(model))
    form = modality("image")
    rows: list[dict[str, Any]] = []
    for image in images:
        row: dict[str, Any] = {"image": str(image)}
        try:
            pixels = form.decode(Path(image).read_bytes(), form.spec(size))
        except ExampleError as error:
            rows.append(row | {"error": error.message})
            continue
        except OSError as error:
            rows.append(row | {"error": str(error.strerror or error)})
            continue
        scores = classify(pixels[None])[0]
        order = np.argsort(-scores, kind="stable")[:top]
        row["classes"] = [{"label": names[i], "probability": float(scores[i])} for i in order]
        rows.append(row)
    return rows


def _open(path: Path) -> tuple[Classify, tuple[int, int], list[str]]:
    if (path / runs.CONFIG).exists():
        run = runs.open_run(path)
        return _keras(run.path / runs.MODEL, list(run.class_names))
    if path.suffix == ".tflite" and path.is_file():
        return _tflite(path)
    if path.suffix == ".keras" and path.is_file():
        return _keras(path, None)
    for name in ("model.tflite", "model.keras"):
        if (path / name).is_file():
            return _open(path / name)
    raise UsageError(
        f"{path} is neither a run folder nor an exported model.",
        remedy="Give a run folder, an export folder, or a .tflite or .keras file.",
    )


def _keras(path: Path, names: list[str] | None) -> tuple[Classify, tuple[int, int], list[str]]:
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"Cannot load {path}: {str(error).splitlines()[0]}", remedy="Give an intact file."
        ) from error
    height, width = model.input_shape[1:3]
    named = names or _labels_beside(path, int(model.output_shape[-1]))

    def classify(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(model(pixels, training=False)))

    return classify, (int(height), int(width)), named


def _tflite(path: Path) -> tuple[Classify, tuple[int, int], list[str]]:
    from ai_edge_litert.interpreter import Interpreter

    from keras_transfer.export import metadata

    try:
        with quiet_stdio():  # XNNPACK says that it is there
            interpreter = Interpreter(model_path=str(path))
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"Cannot load {path}: {str(error).splitlines()[0]}", remedy="Give an intact file."
        ) from error
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    height, width = (int(side) for side in taken["shape"][1:3])
    names = metadata.read_labels(path) or _labels_beside(path, int(given["shape"][-1]))

    def classify(pixels: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(taken["index"], pixels.astype(taken["dtype"]))
        interpreter.invoke()
        scores = interpreter.get_tensor(given["index"]).astype(np.float32)
        scale, zero = given["quantization"]
        return (scores - zero) * scale if scale else scores

    return classify, (height, width), names


def _labels_beside(path: Path, classes: int) -> list[str]:
    """Labels from ``labels.txt`` next to a model, or the run's ``config.json``; else numbers."""
    listed = path.parent / "labels.txt"
    if listed.is_file():
        return listed.read_text(encoding="utf-8").splitlines()
    if (path.parent / runs.CONFIG).is_file():
        return list(runs.open_run(path.parent).class_names)
    return [str(number) for number in range(classes)]
