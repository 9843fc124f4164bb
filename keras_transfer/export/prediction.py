"""Classifying single examples with a run, or with what was exported from it."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.backbones.weight_files import load_model
from keras_transfer.base import files
from keras_transfer.base.errors import ExampleError, UsageError
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.datasets.sources import read_file
from keras_transfer.export import bundle, card, metadata, proof
from keras_transfer.export.metadata import LABELS_FILE
from keras_transfer.modalities import MODALITIES, Modality, modality
from keras_transfer.runs import folder as runs
from keras_transfer.runs.result import TransferResult


class Opened(NamedTuple):
    """A function from examples to probabilities, shape and type of its input, its classes."""

    classify: Callable[[np.ndarray], np.ndarray]
    shape: Sequence[Any]
    dtype: str
    classes: int


class About(NamedTuple):
    """What is known of a model: its labels, [] if none; the modalities that it may be of; and the
    probability from which on its answers are trusted, 0 for none."""

    names: Sequence[str]
    forms: Sequence[Modality]
    threshold: float


def predict(model: Any, items: Any, *, top: int = 3) -> list[dict[str, Any]]:
    """Classifies files, or what else the model's modality takes.

    Args:
        model: a run (its folder, a ``Run``, what ``train`` returned), an export folder, or a
            ``.tflite``, ``.onnx`` or ``.keras`` file.
        items: one or several of these: a file of any kind that training reads, or a folder of them;
            bytes of one; an array or a PIL image; of a model of sounds also samples and their rate,
            as a pair in a list; of a model of texts a text, and ``-`` for the lines of the standard
            input.
        top: how many classes to name.

    Returns:
        One row an item: ``image``, or what its modality calls it, and ``classes``, a list of
        ``{"label", "probability"}`` from the most to the least probable; ``unsure`` is true where
        the first is less probable than the model's threshold, and absent where it has none. Or
        ``error`` where the item cannot be read.

    Raises:
        UsageError: the model cannot be opened.
        DataError: what is in memory is no example.
    """
    opened, about, form, spec = _open(model)
    rows: list[dict[str, Any]] = []
    for item, data in _data(form, items):
        row: dict[str, Any] = {form.NOUN: item}
        try:
            with warnings.catch_warnings(action="ignore"):  # decoders' remarks name no item
                example = form.decode(read_file(item) if data is None else data, spec)
            row["classes"] = best(opened.classify(example[None])[0], about.names, top)
            if about.threshold:
                row["unsure"] = row["classes"][0]["probability"] < about.threshold
        except ExampleError as error:
            row["error"] = error.message
        rows.append(row)
    return rows


def _open(model: Any) -> tuple[Opened, About, Modality, Any]:
    """The model, what is known of it, and how it is fed."""
    if isinstance(model, TransferResult):
        form = modality(model.dataset.modality)
        about = About(model.class_names, [form], card.threshold_of(model))
        return _fitting(_of_keras(model.model), about)
    path = _file(model.path if isinstance(model, runs.Run) else Path(model))
    about = _about(path)
    with files.reading(path, "Give an intact file."), quiet_stdio():
        return _fitting(_OPENERS[path.suffix](path), about)


def _fitting(opened: Opened, about: About) -> tuple[Opened, About, Modality, Any]:
    """As :func:`_open`, by what the model takes and gives. Raises ValueError where that is odd."""
    names = about.names or [str(number) for number in range(opened.classes)]
    shape = opened.shape[1:]
    fit = [(form, spec) for form in about.forms if (spec := form.spec_of(shape, opened.dtype))]
    if not fit:
        what = " or ".join(f"{form.NOUN}s" for form in about.forms)
        raise ValueError(f"it takes {opened.dtype} {[*opened.shape]}, not {what}")
    if len(names) != opened.classes:
        raise ValueError(f"it tells {opened.classes} classes apart and has {len(names)} labels")
    return opened, about._replace(names=names), *fit[0]


def _data(form: Modality, items: Any) -> Iterator[tuple[str, bytes | None]]:
    """What each item is called, and its bytes unless it is a file."""
    for number, item in enumerate(_several(items)):
        if isinstance(item, (str, os.PathLike)):
            yield from _named(form, os.fspath(item))
        elif isinstance(item, bytes):
            yield f"{form.NOUN} {number}", item
        else:
            yield f"{form.NOUN} {number}", form.encode(form.from_memory([item])[0])


def _several(items: Any) -> Any:
    """Items one by one; a name, a picture or the array of one example is one."""
    one = isinstance(items, (str, bytes, os.PathLike)) or hasattr(items, "convert")
    if isinstance(items, np.ndarray):
        one = items.dtype.kind in "uif" and items.ndim < 4
    return [items] if one else items


def _named(form: Modality, word: str) -> Iterator[tuple[str, bytes | None]]:
    """A file, the files in a folder, or what a word stands for.

    Where the modality takes words, ``-`` stands for the lines of the standard input, and a word
    that neither names a file nor ends like one for itself.
    """
    if os.path.isdir(word):
        found = [(place, name) for place, _, names in os.walk(word) for name in names]
        paths = sorted(os.path.join(place, name) for place, name in found if name[0] != ".")
        inside = [path for path in paths if form.SUFFIXES.get(_suffix(path))]
        yield from ((path, None) for path in inside or [word])
    elif not form.LITERAL or os.path.lexists(word) or form.SUFFIXES.get(_suffix(word)):
        yield word, None
    elif word != "-":
        yield word, word.encode("utf-8", "surrogatepass")
    elif sys.stdin is None:
        raise UsageError("standard input is closed.", remedy="Give what to classify as words.")
    else:
        for line in sys.stdin.buffer:
            told = line.rstrip(b"\r\n")
            yield told.decode("utf-8", "backslashreplace"), told


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def best(scores: np.ndarray, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The ``top`` most probable classes, as ``{"label", "probability"}``."""
    order = np.argsort(-scores, kind="stable")[:top]
    return [{"label": names[i], "probability": float(scores[i])} for i in order]


def _file(path: Path) -> Path:
    """The model's file: itself, a run's, or of an export the one that opens fastest."""
    files.settle(path)
    if (path / runs.CONFIG).exists() or (path / runs.NEW).exists():
        return runs.open_run(path).path / runs.MODEL
    inside = [*sorted(path.glob("*.tflite")), path / "model.onnx", path / "model.keras"]
    for file in (path, path / "model.tflite", *inside):
        if file.suffix in _OPENERS and file.is_file():
            return file
    if (path / "saved_model" / "1").is_dir():
        return path / "saved_model"
    raise UsageError(
        f"{path} is neither a run folder nor an exported model.",
        remedy="Give a run folder, an export folder, or a .tflite, .onnx or .keras file.",
    )


def _about(path: Path) -> About:
    """What is known of a model: it says itself, or the run or the export that it is of.

    Raises:
        UsageError: it is not the file that the run or the export is known to have had.
    """
    if (path.parent / runs.CONFIG).is_file():
        run = runs.open_run(path.parent)
        run.file(path.name)
        return About(run.class_names, [run.modality], card.threshold(run))
    bundle.check(path.parent, path.name, LABELS_FILE, "parity.json")
    beside, parity = path.with_name(LABELS_FILE), path.with_name("parity.json")
    with files.reading(beside):
        listed = beside.read_text(encoding="utf-8").split("\n")[:-1] if beside.exists() else []
    with files.reading(parity):
        ours = path.with_name(proof.MANIFEST).exists()
        held = json.loads(parity.read_text(encoding="utf-8")).get("threshold") if ours else None
    names = (path.is_file() and metadata.read_labels(path)) or listed
    return About(names, list(MODALITIES.values()), float(held or 0.0))


def _open_keras(path: Path) -> Opened:
    return _of_keras(load_model(path))


def _of_keras(model: Any) -> Opened:
    import keras

    def classify(examples: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(model(examples, training=False)))

    return Opened(classify, model.input_shape, model.input.dtype, model.output_shape[-1])


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

    kind = np.dtype(taken["dtype"]).name
    return Opened(classify, taken["shape"], kind, given["shape"][-1])


def _open_onnx(path: Path) -> Opened:
    try:
        import onnxruntime
    except ImportError:
        problem = f"{path} needs the package onnxruntime, which is not installed."
        raise UsageError(problem, remedy="pip install keras-transfer[onnx]") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,), given = session.get_inputs(), session.get_outputs()[0]
    kind = taken.type.removeprefix("tensor(").removesuffix(")")
    kind = {"float": "float32"}.get(kind, kind)  # which has no digits in ONNX

    def classify(examples: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([given.name], {taken.name: examples})[0])

    return Opened(classify, taken.shape, kind, given.shape[-1])


def _open_saved_model(path: Path) -> Opened:
    import tensorflow as tf

    serve = tf.saved_model.load(str(path / "1")).signatures["serving_default"]
    ((name, taken),) = serve.structured_input_signature[1].items()
    return Opened(
        lambda examples: serve(**{name: tf.constant(examples)})["scores"].numpy(),
        taken.shape.as_list(), taken.dtype.name, serve.structured_outputs["scores"].shape[-1],
    )  # fmt: skip


_OPENERS = {
    ".keras": _open_keras, ".tflite": _open_tflite, ".onnx": _open_onnx, "": _open_saved_model,
}  # fmt: skip
