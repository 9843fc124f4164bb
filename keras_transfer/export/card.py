"""What an export says of itself: in its files' metadata, its README and its model card."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from keras_transfer._version import __version__
from keras_transfer.base import files, templates
from keras_transfer.base.task import ONE, SEVERAL
from keras_transfer.datasets.sources import JOINT, readable
from keras_transfer.export import proof
from keras_transfer.export.feeding import Signature
from keras_transfer.export.formats import FORMATS
from keras_transfer.export.metadata import ModelInfo
from keras_transfer.export.parity import HeldOut
from keras_transfer.learn import calibration
from keras_transfer.runs import summary
from keras_transfer.runs.finished import Finished
from keras_transfer.runs.folder import Run

_PRINTED = (
    "print(labels[scores.argmax()], scores.max())",
    """\
thresholds = json.load(open("parity.json"))["thresholds"]
for name, score, least in zip(labels, scores, thresholds):
    if score >= least:
        print(name, score)""",
)
"""What a snippet in Python prints of scores: the best class, or all that reach their thresholds."""


def describe(run: Run, signature: Signature) -> ModelInfo:
    """What the artefacts of a run say of themselves."""
    names, backbone = run.class_names, run.config["backbone"]
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    what = f"{signature.form.NOUN}s"
    told = {
        ONE: f"Tells {len(names)} classes of {what} apart",
        SEVERAL: f"Says which of {len(names)} classes hold for {what}, any number of them",
    }
    return ModelInfo(
        name=readable(run.path.name),
        description=f"{told[run.task]}: {listed}. "
        f"{backbone}, trained with keras-transfer {__version__}.",
        class_names=names,
        signature=signature,
        licence=f"{run.config.get('weights_licence') or 'unknown'} (weights of {backbone})",
        author=str(run.config.get("author") or ""),
        threshold=threshold(run),
        thresholds=run.thresholds,
    )


def threshold(run: Finished) -> float:
    """The least probability from which on the wanted share of answers is sure to be right.

    Returns:
        It, rounded up to four decimals; 0 where every answer may be trusted or none is sure.
    """
    sure = run.metrics["threshold"]
    if sure["validation_images"] in (0, len(run.validation_labels)):
        return 0.0
    return float(np.ceil(1e4 * sure["threshold"]) / 1e4)


def write(
    folder: Path, run: Run, info: ModelInfo, report: Mapping[str, Any], tests: HeldOut
) -> None:
    """Writes ``README.md`` and ``model_card.md`` into an export folder.

    Args:
        folder: the export folder.
        run: the run that was exported.
        info: what ``describe`` returned.
        report: the contents of ``parity.json``.
        tests: the examples of the proof.
    """
    target = run.recipe.target_precision
    own = info.signature.form
    kept = {name: FORMATS[name] for name in report["artefacts"]}
    kept = {name: form for name, form in kept.items() if (folder / form.file).exists()}
    named = str(run.config["data"]).split(JOINT)
    values = {
        "version": __version__,
        "info": info,
        "fed": info.signature,
        "kind": own.NOUN,
        "size": info.signature.size,
        "run": run,
        "config": run.config,
        "data": JOINT.join(PurePosixPath(part).name for part in named),
        "report": report,
        "kept": kept,
        "lite": next((form.file for form in kept.values() if form.runtime == "tflite"), None),
        "table": proof.table(list(report["artefacts"].values())),
        "target": target,
        "no_threshold": summary.no_threshold(run.metrics, own.NOUN),
        "calibration": summary.calibration(run.metrics["test"]),
        "printed": _PRINTED[bool(info.thresholds)],
        "results": -1 if info.thresholds else 3,
        "percent": summary.percent,
        "interval": summary.interval,
        "threshold": info.threshold
        and calibration.apply_threshold(
            tests.probabilities, tests.labels, info.threshold, target, thresholds=tests.thresholds
        ),
    }
    pages = {"README.md": f"README.{own.NAME}.md", "model_card.md": "model_card.md"}
    for name, template in pages.items():
        text = templates.fill(Path(__file__).with_name(f"{template}.j2"), values, markup=False)
        files.write_text(folder / name, text)
