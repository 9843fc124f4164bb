"""From a finished run to a folder of proven artefacts."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError, UsageError
from keras_transfer.base.progress import Progress, telling
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.datasets.sources import check_outside
from keras_transfer.export import bundle, card, parity, proof, signing
from keras_transfer.export.convert import Source
from keras_transfer.export.feeding import Signature
from keras_transfer.export.formats import DEFAULT_FORMATS, Format, parse_formats
from keras_transfer.export.quantise import CALIBRATION_IMAGES
from keras_transfer.export.signature import signature_of
from keras_transfer.modalities import modality
from keras_transfer.recipe import reads_arguments
from keras_transfer.runs.finished import Finished
from keras_transfer.runs.folder import Run, on_disk

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What an export came to.

    Attributes:
        path: the export folder.
        parity: the contents of its ``parity.json``.
    """

    path: Path
    parity: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every artefact that was asked for was converted and behaves as the model."""
        return bool(self.parity["passed"])

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``path`` and everything in ``parity.json``."""
        return {"path": str(self.path), **self.parity}

    def render(self) -> str:
        """The table of verdicts, as text."""
        moved, noun = self.parity["mediapipe"], modality(self.parity["modality"]).NOUN
        heading = (
            f"{self.parity['images']} test {noun}s; accuracy of the trained "
            f"model on them {self.parity['reference']['accuracy']:.3f}; {moved['way']} by "
            f"MediaPipe it gives the same answer on {100 * moved['agreement']:.1f} %"
        )
        return f"{heading}\n{proof.table(list(self.parity['artefacts'].values()))}"

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{k} {v['verdict']}" for k, v in self.parity["artefacts"].items())
        return f"ExportResult({str(self.path)!r}: {verdicts})"


@dataclasses.dataclass(frozen=True)
class VerifyResult:
    """What repeating the proof of an export folder came to.

    Attributes:
        path: the export folder.
        result: what ``verify/verify.py --json`` prints: ``passed``, ``exit_code`` (0 passed, 1
            failed, 2 no runtime of any artefact is installed), ``files`` and ``artefacts``.
    """

    path: Path
    result: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every file is as exported and every artefact that could be run passed."""
        return bool(self.result["passed"])

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``path`` and ``result``."""
        return {"path": str(self.path), **self.result}

    def render(self) -> str:
        """The table of verdicts, below one line for each file that is not as it should be."""
        return proof.report(self.result)

    def __repr__(self) -> str:
        return f"VerifyResult({str(self.path)!r}: {'passed' if self.passed else 'failed'})"


@reads_arguments
def export_run(
    run: Finished | str | os.PathLike[str],
    formats: str | Sequence[str] = DEFAULT_FORMATS,
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    allow_failing: bool = False,
    sign: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
) -> ExportResult:
    """Exports a run and proves each artefact on its own runtime, in a fresh process.

    Args:
        run: what ``train`` or ``open_run`` returned, or a run's folder.
        formats: names out of ``FORMATS``, or one string of them with commas between.
        output: the folder to write; default ``saved_models/NAME``, by the name of the run.
        overwrite: whether an export already there is replaced, once the new one is whole.
        allow_failing: leaves failing artefacts in place; otherwise they go to ``rejected/``.
        sign: an Ed25519 private key as PEM, by which ``manifest.json`` is signed.
        progress: whether, or where, to tell of each step, as for ``train``.

    Returns:
        The result; its ``passed`` is false where an artefact failed or could not be converted.

    Raises:
        UsageError: an unfinished run, an unknown format, a folder that exists or holds more than
            an export, a model that plain Keras cannot load, no space, or a backend other than
            TensorFlow.
        DataError: the run has no test images.
    """
    run = on_disk(run)
    chosen = parse_formats(formats)
    target = Path(output) if output is not None else Path("saved_models") / run.path.name
    check_outside(target, run.data)
    bundle.check_target(target, overwrite=overwrite)
    _check_backend()
    key = signing.read_private_key(sign) if sign is not None else None
    model = run.model
    inputs = signature_of(model, run.modality, run.fit)
    if any(form.runtime == "keras" for form in chosen):
        _check_layers(model)
    # Float32 weights an artefact, and as much again for the converter's scratch files.
    needed = 8 * model.count_params() * len(chosen)
    if shutil.disk_usage(next(p for p in target.absolute().parents if p.exists())).free < needed:
        raise KerasTransferError(
            f"no space is left on the disk for {target}; about {needed / 1e6:.0f} MB are needed.",
            remedy="Free some space, export fewer formats, or choose another --output.",
        )
    with files.atomic_folder(target, replace=overwrite) as folder, telling(progress) as told:
        report = _fill(folder, run, model, inputs, chosen, allow_failing, told)
        if key:
            signing.sign(folder, key)
        bundle.check_target(target, overwrite=overwrite)  # what came while this was computed
    return ExportResult(target, report)


def _fill(
    folder: Path,
    run: Run,
    model: keras.Model,
    inputs: Signature,
    chosen: Sequence[Format],
    allow_failing: bool,
    told: Progress,
) -> dict[str, Any]:
    """Fills an export folder; returns what is in its ``parity.json``."""
    dataset, what = run.dataset, f"{inputs.form.NOUN}s"
    told.stage("decode")
    steps = [f"{doing} {form.name}" for form in chosen for doing in ("converting to", "proving")]
    told.expect(dict.fromkeys(["decode", *steps], 6.0))
    tests = parity.held_out(dataset, model, inputs, run.thresholds)
    samples = bundle.write_samples(folder / "verify" / what, tests)
    info = card.describe(run, inputs)

    def training() -> np.ndarray:
        indices = parity.spread(dataset.indices("train"), CALIBRATION_IMAGES)
        return np.stack([inputs.form.decode(dataset.read(int(i)), inputs.spec) for i in indices])

    source = Source(model, info, training)
    rows: dict[str, dict[str, Any]] = {}
    for form in chosen:
        path = folder / form.file
        told.stage(f"converting to {form.name}")
        reason = convert(form, source, path)
        row = {"name": form.name, "verdict": "failed", "reason": reason}
        if not reason:
            told.stage(f"proving {form.name}")
            row = parity.prove(form, path, tests, samples)
            if row["verdict"] == "failed" and form.eight_bits:
                row["reason"] += f". {advice(model, inputs.made_for_eight_bits)}"
        if row["verdict"] == "failed" and not allow_failing and path.exists():
            # Out of the way of whoever ships the folder.
            (folder / "rejected").mkdir(exist_ok=True)
            path.rename(folder / "rejected" / path.name)
        rows[form.name] = row
    report = {"keras_transfer": __version__, "threshold": info.threshold or None}
    report |= parity.report(rows, tests, model)
    files.write_text(folder / "labels.txt", "\n".join(run.class_names) + "\n")
    files.write_json(folder / "parity.json", report)
    card.write(folder, run, info, report, tests)
    proven = [row for row in rows.values() if "agreement" in row]
    shipped = [row for row in proven if (folder / row["file"]).exists()]
    bundle.write_verify(folder / "verify", shipped, tests, samples)
    bundle.write_manifest(folder)
    return report


def convert(form: Format, source: Source, path: Path) -> str:
    """Writes one artefact; returns the converter's reason in one line where it fails."""
    try:
        with quiet_stdio():
            form.write(source, path)
    except ImportError as error:
        extra = f"; pip install 'keras-transfer[{form.extra}]'" if form.extra else ""
        return f"could not be converted: {error.name or error} is not installed{extra}"
    except OSError:
        raise  # the disk's, and no property of the format
    except Exception as error:  # a converter may raise anything; the other formats still come
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        first = lines[0] if lines else "no reason given"
        return f"could not be converted: {type(error).__name__}: {first}"[:500]
    return ""


def advice(model: keras.Model, other: str = "") -> str:
    """Why eight bits may be too few for a network, and what to use instead: ``other`` networks, of
    one that is not made for them."""
    names = {getattr(getattr(layer, "activation", None), "__name__", "") for layer in model.layers}
    smooth = sorted(names & {"silu", "swish", "gelu", "hard_silu", "hard_swish"})
    kinds = {type(layer).__name__ for layer in model.layers}
    known = {"Multiply": "squeeze-and-excitation", "LayerNormalization": "layer normalisation"}
    causes = [f"the activation {name}" for name in smooth]
    causes += [cause for kind, cause in known.items() if kind in kinds]
    if not causes:
        return "Use tflite-float16 instead, which keeps the answers"
    return (
        f"This network has {' and '.join(causes)}, whose wide ranges fit badly into eight bits. "
        f"Use tflite-float16 instead{other}"
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


@reads_arguments
def verify(
    folder: str | os.PathLike[str], key: str | os.PathLike[str] | None = None, *,
    progress: Progress | bool | None = None,
) -> VerifyResult:  # fmt: skip
    """Repeats the proof of an export folder: files against digests, artefacts in fresh processes.

    It is what ``verify/verify.py`` in the folder does, by this package's copy of that script.

    Args:
        folder: an export folder.
        key: the Ed25519 public key as PEM of whoever signed it; an export that is not signed by it
            fails, and nothing of it is run.
        progress: whether, or where, to tell of it, as for ``train``.

    Returns:
        What came of it: ``passed``, ``render()``.

    Raises:
        UsageError: the folder is no export, or the file no key.
    """
    path = Path(folder)
    files.settle(path)
    for name in (proof.MANIFEST, "verify/expected.json"):
        if not (path / name).is_file():
            problem = f"{path} is no export: {name} is missing."
            raise UsageError(problem, remedy="Name a folder that `keras-transfer export` wrote.")
    unsigned = [] if key is None else signing.check_signature(path, signing.read_public_key(key))
    with telling(progress) as told:
        found = proof.outcome(unsigned, []) if unsigned else proof.verify(path, told.through)
    return VerifyResult(path, found)
