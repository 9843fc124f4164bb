"""Classifying single examples with a run, or with what was exported from it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from keras_transfer.backbones.weight_files import load_model
from keras_transfer.base import files
from keras_transfer.base.errors import ExampleError, UsageError, require
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.base.task import MARK, MIDDLE, ONE, SEVERAL, task_of_model
from keras_transfer.datasets.items import Items, named_items
from keras_transfer.datasets.sources import read_file
from keras_transfer.export import bundle, card, metadata, proof
from keras_transfer.export.metadata import FIT_FILE, LABELS_FILE, THRESHOLDS_FILE
from keras_transfer.modalities import MODALITIES, InputSpec, Modality
from keras_transfer.recipe import reads_arguments
from keras_transfer.runs import folder as runs
from keras_transfer.runs.finished import Finished

if TYPE_CHECKING:
    import keras

Model = Union[str, os.PathLike[str], Finished, "keras.Model"]
_INTACT = "Give an intact file."
_REMEDY = "Give a run or its folder, an export folder, a .tflite, .onnx or .keras file, or a model."


class Opened(NamedTuple):
    """A function from examples to probabilities, shape and type of its input, its classes; and how
    examples are fitted, and thresholds of classes, where it says so itself."""

    classify: Callable[[np.ndarray], np.ndarray]
    shape: Sequence[Any]
    dtype: str
    classes: int
    fit: str | None = None
    thresholds: Sequence[float] = ()


class About(NamedTuple):
    """What is known of a model: its labels, [] if none; the modalities that it may be of; the
    probability from which on its answers are trusted, 0 for none; how examples are fitted, if
    known; of each class the probability from which on it is answered, where several may be; what
    tables call their columns."""

    names: Sequence[str]
    forms: Sequence[Modality]
    threshold: float
    fit: str | None
    thresholds: Sequence[float] = ()
    columns: str | None = None


@reads_arguments
def predict(
    model: Model, items: Items, *, top: int = 3, csv: str | os.PathLike[str] | None = None
) -> list[dict[str, Any]]:
    """Classifies files, or what else the model's modality takes.

    Args:
        model: a run (its folder, what ``open_run`` or ``train`` returned), an export folder, a
            ``.tflite``, ``.onnx`` or ``.keras`` file, or a ``keras.Model`` with preprocessing
            inside, whose classes are then called by their numbers.
        items: one or several of these: a file of any kind that training reads, or a folder of them;
            a ``.csv``, ``.tsv`` or ``.jsonl`` with a column ``path`` or ``text``, or what the run
            was told that they are called, an item a row;
            bytes of one; an array or a PIL image; of a model of sounds also samples and their rate,
            as a pair; of a model of texts a text, and ``-`` for the lines of the standard input.
            One array may hold a batch.
        top: how many classes to name.
        csv: a file to write as well, a row an item: the item, ``predicted``, ``probability``,
            ``unsure`` (empty where the model has no threshold) and ``error``.

    Returns:
        One row an item: ``image``, or what its modality calls it, and ``classes``, a list of
        ``{"label", "probability"}`` from the most to the least probable. Of a model of several
        labels also ``labels``, those that reach the thresholds of their classes, and
        ``probability``, that of this answer as a whole. ``unsure`` is true where the answer is
        less probable than the model's threshold, and absent where it has none. Or ``error`` where
        the item cannot be read.

    Raises:
        UsageError: the model cannot be opened.
        DataError: what is in memory is no example.
    """
    opened, about, form, spec = _open(model)
    rows: list[dict[str, Any]] = []
    for item, data in named_items(form, spec, items, about.columns):
        row: dict[str, Any] = {form.NOUN: item}
        try:
            with warnings.catch_warnings(action="ignore"):  # decoders' remarks name no item
                example = form.decode(read_file(item) if data is None else data, spec)
            row |= told(opened.classify(example[None])[0], about, top)
        except ExampleError as error:
            row["error"] = error.message
        rows.append(row)
    if csv is not None:
        columns = (form.NOUN, "predicted", "probability", "unsure", "error")
        files.write_csv(csv, columns, map(_cells, rows))
    return rows


def _cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A row of ``predict`` as one of a table."""
    first = next(iter(row.get("classes", ())), {"label": "", "probability": ""})
    if "labels" in row:
        first = {"label": MARK.join(row["labels"]) or MARK, "probability": row["probability"]}
    unsure = str(row.get("unsure", "")).lower()
    return next(iter(row.values())), *first.values(), unsure, row.get("error", "")


def _open(model: Model) -> tuple[Opened, About, Modality, InputSpec]:
    """The model, what is known of it, and how it is fed."""
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if (run := _run(path)) is None:
            path = _file(path)
            about = _about(path)
            with files.reading(path, _INTACT), quiet_stdio():
                opened = _OPENERS[path.suffix](path)
            return _fitting(path, opened, about)
        model = run
    if isinstance(model, Finished):
        about = About(
            model.class_names, [model.modality], card.threshold(model), model.fit, model.thresholds,
            model.config.get("columns"),
        )  # fmt: skip
        file = (model.path or Path()) / runs.MODEL
        return _fitting(file, _of_keras(model.model), about)
    if hasattr(model, "input_shape"):
        about = About([], list(MODALITIES.values()), 0.0, None)
        return _fitting(model.name, _of_keras(model), about)
    raise UsageError(f"{model!r:.60} is no model.", remedy=_REMEDY)


def _run(path: Path) -> runs.Run | None:
    """The run whose folder this is, or whose model."""
    files.settle(path)
    folder = path.parent if path.name == runs.MODEL else path
    known = (folder / runs.CONFIG).is_file() or (folder / runs.NEW).exists()
    return runs.open_run(folder) if known else None


def _fitting(name: Any, opened: Opened, about: About) -> tuple[Opened, About, Modality, InputSpec]:
    """As :func:`_open`, by what the model of a name takes and gives."""
    names = about.names or [str(number) for number in range(opened.classes)]
    shape = opened.shape[1:]
    fit = [(form, spec) for form in about.forms if (spec := form.spec_of(shape, opened.dtype))]
    if not fit:
        what = " or ".join(f"{form.NOUN}s" for form in about.forms)
        problem = f"Cannot read {name}: it takes {opened.dtype} {[*opened.shape]}, not {what}."
        raise UsageError(problem, remedy=_INTACT)
    if len(names) != opened.classes:
        problem = f"it tells {opened.classes} classes apart and has {len(names)} labels."
        raise UsageError(f"Cannot read {name}: {problem}", remedy=_INTACT)
    form, spec = fit[0]
    least = about.thresholds or opened.thresholds
    if len(least) not in (0, len(names)):
        problem = f"it has {len(names)} labels and {len(least)} thresholds."
        raise UsageError(f"Cannot read {name}: {problem}", remedy=_INTACT)
    about = about._replace(names=names, thresholds=least)
    return opened, about, form, spec.fitted(about.fit or opened.fit)


def told(scores: np.ndarray, about: About, top: int) -> dict[str, Any]:
    """What ``predict`` says of probabilities ``[classes]``."""
    found: dict[str, Any] = {"classes": best(scores, about.names, top)}
    task = SEVERAL if about.thresholds else ONE
    answer = task.answers(scores[None], about.thresholds)
    sure = float(task.sureness(scores[None], answer)[0])
    if about.thresholds:
        found |= {"labels": task.names(task.decode(answer, about.names)[0]), "probability": sure}
    if about.threshold:
        found["unsure"] = sure < about.threshold
    return found


def best(scores: np.ndarray, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The ``top`` most probable classes, as ``{"label", "probability"}``."""
    order = np.argsort(-scores, kind="stable")[:top]
    return [{"label": names[i], "probability": float(scores[i])} for i in order]


def _file(path: Path) -> Path:
    """An exported model's file: itself, or of a folder the one that opens fastest."""
    inside = [*sorted(path.glob("*.tflite")), path / "model.onnx", path / "model.keras"]
    for file in (path, path / "model.tflite", *inside):
        if file.suffix in _OPENERS and file.is_file():
            return file
    for folder in (path, path / "saved_model"):
        if (folder / "1" / "saved_model.pb").is_file():
            return folder
    raise UsageError(f"{path} is neither a run folder nor an exported model.", remedy=_REMEDY)


def _about(path: Path) -> About:
    """What is known of an exported model: it says itself, or the export that it is of.

    Raises:
        UsageError: it is not the file that the export is known to have had.
    """
    bundle.check(path.parent, path.name, LABELS_FILE, "parity.json")
    beside = path.with_name(LABELS_FILE)
    with files.reading(beside):
        listed = beside.read_text(encoding="utf-8").split("\n")[:-1] if beside.exists() else []
    held = parity_of(path.parent)
    fit = held.get("fit") or metadata.carried(path, FIT_FILE)
    names = metadata.carried(path, LABELS_FILE).split("\n")[:-1] or listed
    least = held.get("thresholds") or metadata.carried(path, THRESHOLDS_FILE).split()
    return About(
        names, list(MODALITIES.values()), shipped_threshold(held), fit, [*map(float, least)]
    )


def parity_of(folder: Path) -> dict[str, Any]:
    """What an export's ``parity.json`` says; nothing where there is no export."""
    parity = folder / "parity.json"
    with files.reading(parity):
        ours = (folder / proof.MANIFEST).exists()
        return dict(json.loads(parity.read_text(encoding="utf-8"))) if ours else {}


def shipped_threshold(held: Mapping[str, Any]) -> float:
    """The probability from which on answers are trusted, by :func:`parity_of`; 0 for none."""
    return float(held.get("threshold") or 0.0)


def _of_keras(model: Any) -> Opened:
    import keras

    def classify(examples: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(model(examples, training=False)))

    classes = model.output_shape[-1]
    least = [MIDDLE] * classes if task_of_model(model) is SEVERAL else []
    return Opened(classify, model.input_shape, model.input.dtype, classes, thresholds=least)


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
    require(["onnxruntime"], f"pip install 'keras-transfer[onnx]' to open {path}.")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,), given = session.get_inputs(), session.get_outputs()[0]
    kind = taken.type.removeprefix("tensor(").removesuffix(")")
    kind = {"float": "float32"}.get(kind, kind)  # which has no digits in ONNX

    def classify(examples: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([given.name], {taken.name: examples})[0])

    said = session.get_modelmeta().custom_metadata_map
    least = [*map(float, said.get("thresholds", "").split())]
    return Opened(classify, taken.shape, kind, given.shape[-1], said.get("fit"), least)


def _open_saved_model(path: Path) -> Opened:
    import tensorflow as tf

    serve = tf.saved_model.load(str(path / "1")).signatures["serving_default"]
    ((name, taken),) = serve.structured_input_signature[1].items()
    return Opened(
        lambda examples: serve(**{name: tf.constant(examples)})["scores"].numpy(),
        taken.shape.as_list(), taken.dtype.name, serve.structured_outputs["scores"].shape[-1],
    )  # fmt: skip


_OPENERS: dict[str, Callable[[Path], Opened]] = {
    ".keras": lambda path: _of_keras(load_model(path)),
    ".tflite": _open_tflite, ".onnx": _open_onnx, "": _open_saved_model,
}  # fmt: skip
