"""From a finished run to a folder of proven artefacts."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer import evaluation
from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError, UsageError
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.base.threads import cores
from keras_transfer.base.types import Dataset
from keras_transfer.export import bundle, card, parity, proof
from keras_transfer.export.card import Run
from keras_transfer.export.convert import Converter
from keras_transfer.export.formats import DEFAULT_FORMATS, Format, parse_formats
from keras_transfer.export.metadata import ModelInfo
from keras_transfer.export.outcome import ExportResult, VerifyResult
from keras_transfer.export.quantise import CALIBRATION_IMAGES
from keras_transfer.modalities import modality
from keras_transfer.runs.folder import open_run

if TYPE_CHECKING:
    import keras


def export(
    run: Run,
    formats: str | Sequence[str] = DEFAULT_FORMATS,
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    allow_failing: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportResult:
    """Exports a run and proves each artefact on its own runtime, in a fresh process.

    Args:
        run: a finished run.
        formats: names out of ``FORMATS``, or one string of them with commas between.
        output: the folder to write; default ``saved_models/NAME``, by the name of the run.
        overwrite: whether an export already there is replaced, once the new one is whole.
        allow_failing: leaves failing artefacts in place; otherwise they go to ``rejected/``.
        progress: called with a short line before each step.

    Returns:
        The result; its ``passed`` is false where an artefact failed or could not be converted.

    Raises:
        UsageError: an unknown format, a folder that exists or is no export, a model that plain
            Keras cannot load, no space, or a backend other than TensorFlow.
        DataError: the run has no test images.
    """
    chosen = parse_formats(formats)
    say = progress or (lambda line: None)
    target = Path(output) if output is not None else Path("saved_models") / run.path.name
    _check_target(target, overwrite)
    _check_backend()
    model = run.model()
    _check_layers(model)
    _check_space(target, model, chosen)
    try:
        with files.atomic_folder(target, replace=overwrite) as folder:
            report = _write(run, model, chosen, folder, allow_failing, say)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(target) from error
        raise
    return ExportResult(target, report)


def _write(
    run: Run,
    model: keras.Model,
    chosen: Sequence[Format],
    folder: Path,
    allow_failing: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Fills an export folder; returns what is in its ``parity.json``."""
    dataset = run.dataset()
    say("reading the test images")
    tests = parity.test_images(dataset, model)
    samples = bundle.write_samples(folder / "verify" / "images", tests, run.class_names)
    info = card.describe(run, model)
    converter = Converter(model, info, lambda: _training_images(dataset, model))
    rows: dict[str, dict[str, Any]] = {}
    answers: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as scratch:
        pixels = Path(scratch, "pixels.npy")
        np.save(pixels, tests.pixels)
        for form in chosen:
            path = folder / form.file
            say(f"converting to {form.name}")
            reason = _convert(converter, form, path)
            if reason:
                row = {"name": form.name, "verdict": "failed", "reason": reason}
            else:
                say(f"proving {form.name}")
                row, found = parity.prove(form, path, tests, pixels, samples)
                if row["verdict"] == "failed" and form.name in ("tflite-dynamic", "tflite-int8"):
                    row["reason"] += f". {_advice(model)}"
                if found is not None:
                    answers[form.name] = found
            if row["verdict"] == "failed" and not allow_failing:
                _reject(folder, path)
                answers.pop(form.name, None)
            rows[form.name] = row
    report = _report(rows, tests, info) | {"resizing": parity.resizing(tests, model)}
    files.write_text(folder / "labels.txt", "\n".join(run.class_names) + "\n")
    files.write_json(folder / "parity.json", report)
    card.write(folder, run, info, report, tests)
    shipped = [rows[name] for name in answers]
    bundle.write_verify(folder / "verify", shipped, answers, tests, samples, run.class_names)
    bundle.write_manifest(folder)
    return report


def _training_images(dataset: Dataset, model: keras.Model) -> np.ndarray:
    """Images that represent what the model will meet, uint8 ``[n, height, width, 3]``."""
    indices = parity.spread(dataset.indices("train"), CALIBRATION_IMAGES)
    form = modality(dataset.modality)
    spec = form.spec(model.input_shape[1:3])
    return np.stack([form.decode(dataset.read(int(i)), spec) for i in indices])


def _convert(converter: Converter, form: Format, path: Path) -> str:
    """Writes one artefact; returns the converter's reason in one line where it fails."""
    try:
        with quiet_stdio():
            converter.write(form, path)
    except ImportError as error:
        extra = "; pip install 'keras-transfer[onnx]'" if form.name == "onnx" else ""
        return f"could not be converted: {error.name or error} is not installed{extra}"
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        return f"could not be converted: {error}"
    except Exception as error:  # a converter may raise anything; the other formats still come
        lines = [line for line in str(error).splitlines() if line.strip()]
        first = lines[0].strip() if lines else "no reason given"
        return f"could not be converted: {type(error).__name__}: {first}"[:500]
    return ""


def _advice(model: keras.Model) -> str:
    """Why eight bits may be too few for a network, and what to use instead."""
    names = {getattr(getattr(layer, "activation", None), "__name__", "") for layer in model.layers}
    smooth = sorted(names & {"silu", "swish", "gelu", "hard_silu", "hard_swish"})
    kinds = {type(layer).__name__ for layer in model.layers}
    causes = [f"the activation {name}" for name in smooth]
    if "Multiply" in kinds:
        causes.append("squeeze-and-excitation")
    if "LayerNormalization" in kinds:
        causes.append("layer normalisation")
    if not causes:
        return "Use tflite-float16 instead, which keeps the answers"
    return (
        f"This network has {' and '.join(causes)}, whose wide ranges fit badly into eight bits. "
        "Use tflite-float16 instead, or train on EfficientNetLite0, which is made for eight bits"
    )


def _reject(folder: Path, path: Path) -> None:
    """Moves an artefact out of the way of whoever ships the folder."""
    if path.exists():
        rejected = folder / "rejected"
        rejected.mkdir(exist_ok=True)
        path.rename(rejected / path.name)


def _report(
    rows: dict[str, dict[str, Any]], tests: parity.TestImages, info: ModelInfo
) -> dict[str, Any]:
    expected = tests.probabilities
    correct = int((expected.argmax(1) == tests.labels).sum())
    truth = expected[np.arange(len(tests.labels)), tests.labels]
    return {
        "keras_transfer": __version__,
        "threshold": info.threshold or None,
        "passed": all(row["verdict"] == "passed" for row in rows.values()),
        "images": len(tests.labels),
        "reference": {
            "accuracy": correct / len(tests.labels),
            "accuracy_interval": list(evaluation.wilson_interval(correct, len(tests.labels))),
            "nll": float(-np.log(np.maximum(truth, 1e-12)).mean()),
        },
        "artefacts": rows,
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cores": cores(),
        },
    }


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise UsageError(
            f"{target} exists already.", remedy="Choose another --output, or pass --overwrite."
        )
    if not (target / "parity.json").is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} is not an export of keras-transfer, so it is not replaced.",
            remedy="Choose another --output.",
        )


def _check_backend() -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            f"exporting needs Keras on TensorFlow; it runs on {keras.backend.backend()}.",
            remedy="Install TensorFlow if need be and set KERAS_BACKEND=tensorflow; the run itself "
            "loads on either.",
        )


def _check_layers(model: keras.Model) -> None:
    """Whoever loads the model has Keras at most, so every layer must be Keras's own."""
    for layer in model.layers:
        module = type(layer).__module__
        if not module.startswith("keras."):
            raise UsageError(
                f"layer {layer.name!r} is a {module}.{type(layer).__name__}, which only your own "
                "code can load.",
                remedy="Build the model from Keras's own layers before exporting it.",
            )


def _check_space(target: Path, model: keras.Model, chosen: Sequence[Format]) -> None:
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    # Float32 weights an artefact, and as much again for the converter's scratch files.
    needed = 8 * model.count_params() * len(chosen)
    if shutil.disk_usage(parent).free < needed:
        raise _no_space(target, needed)


def _no_space(target: Path, needed: int | None = None) -> KerasTransferError:
    amount = f"; about {needed / 1e6:.0f} MB are needed" if needed else ""
    return KerasTransferError(
        f"no space is left on the disk for {target}{amount}.",
        remedy="Free some space, export fewer formats, or choose another --output.",
    )


def verify(folder: str | os.PathLike[str]) -> VerifyResult:
    """Repeats the proof of an export folder: files against digests, artefacts in fresh processes.

    It is what ``verify/verify.py`` in the folder does, by this package's copy of that script.

    Raises:
        UsageError: the folder is no export.
    """
    path = Path(folder)
    for name in ("manifest.json", "verify/expected.json"):
        if not (path / name).is_file():
            raise UsageError(
                f"{path} is no export: {name} is missing.",
                remedy="Name a folder that `keras-transfer export` wrote.",
            )
    return VerifyResult(path, proof.verify(path))


def export_run(
    run: Run | str | os.PathLike[str],
    formats: str | Sequence[str] = ("saved_model", "tflite"),
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    allow_failing: bool = False,
) -> ExportResult:
    """Exports a finished run and proves every artefact on its own runtime.

    Args:
        run: a run, or its folder.
        formats: names of formats, see ``export.formats``.
        output: the export folder; ``saved_models/NAME`` by default.
        overwrite: replace an export that is there.
        allow_failing: leave failing artefacts in place instead of moving them to ``rejected/``.

    Returns:
        The export's folder, and what is in its ``parity.json``.

    Raises:
        UsageError: an unfinished run, an unknown format, or a folder that exists.
    """
    opened = open_run(run) if isinstance(run, (str, os.PathLike)) else run
    return export(opened, formats, output, overwrite=overwrite, allow_failing=allow_failing)
