"""Classifying single examples with a run, or with what was exported from it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from keras_transfer.modalities import MODALITIES, Modality
from keras_transfer.runs import folder as runs

Opened = tuple[Callable[[np.ndarray], np.ndarray], tuple[Sequence[int], Any], int]
"""A function from examples to probabilities, shape and type of its input, its number of classes."""


def predict(
    model: str | os.PathLike[str], items: Sequence[str | os.PathLike[str]], *, top: int = 3
) -> list[dict[str, Any]]:
    """Classifies files, or what else the model's modality takes.

    Args:
        model: a run folder, an export folder, or a ``.tflite`` or ``.keras`` file.
        items: paths of files of any kind that training reads. A model of texts also takes a text
            itself, and ``-`` for the lines of the standard input; see :func:`_data`.
        top: how many classes to name.

    Returns:
        One row an item: ``image``, or what its modality calls it, and ``classes``, a list of
        ``{"label", "probability"}`` from the most to the least probable; or ``error`` where it
        cannot be read.

    Raises:
        UsageError: the model cannot be opened.
    """
    path = _file(Path(model))
    names, forms = _about(path)
    with files.reading(path, "Give an intact file."), quiet_stdio():
        classify, (shape, kind), classes = _OPENERS[path.suffix](path)
        names = names or [str(number) for number in range(classes)]
        fit = [(form, spec) for form in forms if (spec := form.spec_of(shape[1:], str(kind)))]
        if not fit:
            what = " or ".join(f"{form.NAME}s" for form in forms)
            raise ValueError(f"it takes {kind} {[*shape]}, not {what}")
        if len(names) != classes:
            raise ValueError(f"it tells {classes} classes apart and has {len(names)} labels")
    form, spec = fit[0]
    rows: list[dict[str, Any]] = []
    for item, data in _data(form, items):
        row: dict[str, Any] = {form.NAME: item}
        try:
            with warnings.catch_warnings(action="ignore"):  # decoders' remarks name no item
                example = form.decode(read_file(item) if data is None else data, spec)
            row["classes"] = best(classify(example[None])[0], names, top)
        except ExampleError as error:
            row["error"] = error.message
        rows.append(row)
    return rows


def _data(
    form: Modality, items: Sequence[str | os.PathLike[str]]
) -> Iterator[tuple[str, bytes | None]]:
    """What each item is called, and its bytes unless it is a file.

    Where the modality takes words, ``-`` stands for the lines of the standard input, and a word
    that neither names a file nor ends like one for itself.
    """
    for item in items:
        word = os.fspath(item)
        ending = os.path.splitext(word)[1].lower()
        if not form.LITERAL or os.path.lexists(word) or form.SUFFIXES.get(ending):
            yield word, None
        elif word != "-":
            yield word, word.encode("utf-8", "surrogatepass")
        elif sys.stdin is None:
            raise UsageError("standard input is closed.", remedy="Give what to classify as words.")
        else:
            for line in sys.stdin.buffer:
                told = line.rstrip(b"\r\n")
                yield told.decode("utf-8", "backslashreplace"), told


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


def _about(path: Path) -> tuple[list[str], list[Modality]]:
    """The labels of a model, [] if it has none, and the modalities that it may be of.

    The labels are in it, or in the run or the export that it is of.

    Raises:
        UsageError: it is not the file that the run or the export is known to have had.
    """
    if (path.parent / runs.CONFIG).is_file():
        run = runs.open_run(path.parent)
        run.file(path.name)
        return list(run.class_names), [run.modality]
    bundle.check(path.parent, path.name, LABELS_FILE)
    beside = path.with_name(LABELS_FILE)
    with files.reading(beside):
        listed = beside.read_text(encoding="utf-8").split("\n")[:-1] if beside.exists() else []
    return metadata.read_labels(path) or listed, list(MODALITIES.values())


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
