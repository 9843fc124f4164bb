"""What an export says of itself: in its files' metadata, its README and its model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from keras_transfer._version import __version__
from keras_transfer.base.types import Dataset
from keras_transfer.export import proof
from keras_transfer.export.formats import FORMATS
from keras_transfer.export.metadata import ModelInfo
from keras_transfer.export.parity import TestImages
from keras_transfer.learn import calibration

if TYPE_CHECKING:
    import keras


class Run(Protocol):
    """What exporting needs of a finished run; ``keras_transfer.runs.Run`` is one."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The contents of its ``config.json``."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The contents of its ``metrics.json``."""

    @property
    def class_names(self) -> Sequence[str]:
        """The classes in the order of the outputs."""

    def model(self) -> keras.Model:
        """The classifier: uint8 RGB in, probabilities out."""

    def dataset(self) -> Dataset:
        """The images with the run's own splits."""

    def array(self, name: str) -> np.ndarray:
        """An array of the run folder, such as ``validation_logits.npy``."""


def describe(run: Run, model: keras.Model) -> ModelInfo:
    """What the artefacts of a run say of themselves."""
    names = list(run.class_names)
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    height, width = model.input_shape[1:3]
    backbone = run.config["backbone"]
    return ModelInfo(
        name=run.path.name,
        description=f"Tells {len(names)} classes of images apart: {listed}. {backbone}, trained "
        f"with keras-transfer {__version__}.",
        class_names=names,
        image_size=(height, width),
        licence=f"{run.config.get('weights_licence') or 'unknown'} (weights of {backbone})",
        author=str(run.config.get("author") or ""),
        threshold=threshold(run),
    )


def target_precision(run: Run) -> float:
    """The share of right answers that the threshold aims at; 0.95 by default."""
    return float(run.config.get("target_precision", 0.95))


def threshold(run: Run) -> float:
    """The least probability from which on the wanted share of answers on validation was right.

    Returns:
        It, rounded up to four decimals; 0 where every answer may be trusted or none reaches it.
    """
    logits = run.array("validation_logits.npy")
    labels = run.array("validation_labels.npy")
    if not len(labels):
        return 0.0
    probabilities = calibration.softmax(logits / float(run.config["temperature"]))
    found = calibration.precision_threshold(probabilities, labels, target_precision(run))
    if not found.answered or found.answered == found.images:
        return 0.0
    return float(np.ceil(1e4 * found.threshold) / 1e4)


def write(
    folder: Path, run: Run, info: ModelInfo, report: Mapping[str, Any], tests: TestImages
) -> None:
    """Writes ``README.md`` and ``model_card.md`` into an export folder.

    Args:
        folder: the export folder.
        run: the run that was exported.
        info: what ``describe`` returned.
        report: the contents of ``parity.json``.
        tests: the images of the proof.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    rows = report["artefacts"]
    kept = {name: FORMATS[name] for name in rows if (folder / FORMATS[name].file).exists()}
    lite = [form.file for form in kept.values() if form.runtime == "tflite"]
    threshold_row = None
    if info.threshold:
        threshold_row = calibration.apply_threshold(
            tests.probabilities, tests.labels, info.threshold, target_precision(run)
        )
    values = {
        "version": __version__,
        "info": info,
        "run": run,
        "config": run.config,
        "data": PurePosixPath(str(run.config["data"])).name,
        "report": report,
        "rows": rows,
        "kept": kept,
        "lite": lite[0] if lite else None,
        "table": proof.table(list(rows.values())),
        "target": target_precision(run),
        "threshold": threshold_row,
    }
    for name in ("README.md", "model_card.md"):
        text = environment.get_template(f"{name}.j2").render(values)
        (folder / name).write_text(text, encoding="utf-8")
