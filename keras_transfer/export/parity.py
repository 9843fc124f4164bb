"""Holds each artefact against the trained model on the test images, and judges it."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from keras_transfer import evaluation
from keras_transfer.base.errors import DataError
from keras_transfer.base.task import task_of
from keras_transfer.base.threads import cores
from keras_transfer.base.types import Dataset
from keras_transfer.export import proof
from keras_transfer.export.feeding import Signature
from keras_transfer.export.formats import Format

if TYPE_CHECKING:
    import keras

MAX_IMAGES = 1000
"""Test images that each artefact is run over at most, evenly spread."""

TIMING_SECONDS = 1.0
"""Time spent on measuring each artefact's latency, per number of threads."""

ENCODED_LIMIT = 0.9
"""Agreement below which the signature for encoded examples fails. TensorFlow decodes and
resizes images a little differently, and ignores EXIF rotation."""

SIGNIFICANCE = 0.05
"""A loss of accuracy counts when luck alone would explain it less often than this."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Test examples read from their files, and what the trained model says of them.

    Attributes:
        names: the path of each in its data set.
        encoded: the bytes of each one's file.
        signature: how encoded examples are read.
        examples: as the model takes them, shape ``[n, ...]``.
        labels: of either task.
        class_names: the classes in the order of the outputs.
        thresholds: of each class, where an example may have several.
        probabilities: float32, shape ``[n, classes]``, the trained model's.
    """

    names: tuple[str, ...]
    encoded: tuple[bytes, ...]
    signature: Signature
    examples: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    thresholds: tuple[float, ...]
    probabilities: np.ndarray

    @property
    def cells(self) -> list[str]:
        """The labels in words."""
        return task_of(self.labels).decode(self.labels, self.class_names)


def held_out(
    dataset: Dataset, model: keras.Model, signature: Signature, thresholds: tuple[float, ...] = ()
) -> HeldOut:
    """Reads the test split, ``MAX_IMAGES`` of it at most, from its files.

    Raises:
        DataError: the split is empty.
    """
    indices = spread(dataset.indices("test"), MAX_IMAGES)
    if not len(indices):
        raise DataError(
            f"{dataset.name} has no test {signature.form.NOUN}s to prove an export on.",
            remedy="Train with a split that leaves some for testing, such as 0.7,0.15,0.15.",
        )
    encoded = tuple(dataset.read(int(i)) for i in indices)
    examples = np.stack([signature.form.decode(data, signature.spec) for data in encoded])
    return HeldOut(
        names=tuple(dataset.paths[i] for i in indices),
        encoded=encoded,
        signature=signature,
        examples=examples,
        labels=np.asarray(dataset.labels)[indices],
        class_names=dataset.class_names,
        thresholds=thresholds,
        probabilities=_probabilities(model, examples),
    )


def _probabilities(model: keras.Model, examples: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(examples, batch_size=32, verbose=0))


def report(
    rows: Mapping[str, Mapping[str, Any]], tests: HeldOut, model: keras.Model
) -> dict[str, Any]:
    """What ``parity.json`` holds of the rows of all artefacts and of the trained model itself."""
    own = _compared(tests, tests.probabilities)
    own["accuracy_interval"] = interval(own)
    return {
        "passed": all(row["verdict"] == "passed" for row in rows.values()),
        "modality": tests.signature.form.NAME,
        "fit": tests.signature.spec.fit,
        "thresholds": list(tests.thresholds),
        "images": len(tests.labels),
        "reference": {key: own[key] for key in ("accuracy", "accuracy_interval", "nll")},
        "artefacts": rows,
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cores": cores(),
        },
        "mediapipe": {"way": tests.signature.by_mediapipe, **by_mediapipe(tests, model)},
    }


def by_mediapipe(tests: HeldOut, model: keras.Model) -> dict[str, float]:
    """How much of the trained model's answers survives MediaPipe's own way to make an example."""
    moved = np.stack([tests.signature.for_mediapipe(data) for data in tests.encoded])
    row = _compared(tests, _probabilities(model, moved))
    return {key: row[key] for key in ("agreement", "accuracy", "largest_difference")}


def _compared(tests: HeldOut, found: np.ndarray) -> dict[str, Any]:
    return proof.compare(tests.probabilities, found, tests.labels, tests.thresholds)


def spread(values: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of ``values``, evenly spaced, in their order."""
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(int)]


def most_threads() -> int:
    """The threads of the faster timing: one for each core, at most 4 as phones have fast ones."""
    return min(cores(), 4)


def prove(form: Format, path: Path, tests: HeldOut, samples: Mapping[int, Path]) -> dict[str, Any]:
    """Runs an artefact in fresh processes of its own runtime and judges it.

    Args:
        form: its format.
        path: the artefact.
        tests: the test examples.
        samples: the files that travel, by their position in ``tests``. A SavedModel is given those
            that it can decode.

    Returns:
        A row of ``parity.json``: without ``agreement`` where it could not be run, else with
        ``sample_disagreements``: how many answers to ``samples`` differ.
    """
    row: dict[str, Any] = {key: getattr(form, key) for key in ("name", "file", "runtime", "limit")}
    row["bytes"] = proof.size_of(path)
    served = form.runtime == "saved_model" and tests.signature.served
    encoded = [i for i in samples if served and served(tests.encoded[i])]
    most = most_threads()
    job = {"runtime": form.runtime, "path": path.resolve(), "isolated": True}
    job |= {"threads": most, "seconds": TIMING_SECONDS, "output": True}
    files = [samples[i].resolve() for i in encoded]
    full = proof.run_fresh(job | {"files": files}, tests.examples)
    reason = full.get("missing") or full.get("error")
    if reason:
        return row | {"verdict": "failed", "reason": f"could not be run: {reason}"}
    expected, found = tests.probabilities, full.pop("probabilities")
    row |= _compared(tests, found)
    row |= full | {"accuracy_interval": interval(row)}
    if most > 1:
        alone = proof.run_fresh(job | {"threads": 1, "output": False}, tests.examples[:1])
        row["latency_ms"] |= alone["latency_ms"]
    if encoded:
        answers, least = np.array(full["encoded"]), tests.thresholds
        compared = proof.compare(expected[encoded], answers, tests.labels[encoded], least)
        row["encoded"] = {k: compared[k] for k in ("images", "agreement", "largest_difference")}
    ways = (proof.answers(given, tests.thresholds) for given in (expected, found))
    row["sample_disagreements"] = int(proof.differing(*ways)[0][list(samples)].sum())
    what, counted = f"{tests.signature.form.NOUN}s", task_of(tests.labels).counted
    reason = judge(row, what, f"{counted}test {what}")
    return row | {"verdict": "failed" if reason else "passed", "reason": reason}


def interval(row: Mapping[str, Any]) -> list[float]:
    """The 95 % interval of the accuracy in what ``proof.compare`` returned."""
    return list(evaluation.wilson_interval(round(row["accuracy"] * row["images"]), row["images"]))


def judge(row: Mapping[str, Any], what: str = "images", of: str = "test images") -> str:
    """Why an artefact may not ship, or nothing where it may.

    It must agree with the trained model in at least ``limit`` of its ``answers``, which are ``of``
    these, and must not have lost more accuracy than luck explains: an exact sign test over the
    images that only one of the two gets right (McNemar), one-sided, at ``SIGNIFICANCE``.
    """
    if row["agreement"] < row["limit"]:
        return _too_rarely(row, of)
    lost, changed = row["lost"], row["lost"] + row["gained"]
    if changed and stats.binomtest(lost, changed, alternative="greater").pvalue < SIGNIFICANCE:
        return (
            f"its accuracy is {row['accuracy']:.3f} where the trained model has "
            f"{row['reference_accuracy']:.3f}: {lost} test {what} lost, {row['gained']} "
            "gained, which is more than luck"
        )
    encoded = row.get("encoded")
    if encoded and encoded["agreement"] < ENCODED_LIMIT:
        return (
            f"with encoded {what} it gives the trained model's answer on "
            f"{100 * encoded['agreement']:.1f} % of {encoded['images']}; the limit is "
            f"{100 * ENCODED_LIMIT:g} %"
        )
    return ""


def _too_rarely(row: Mapping[str, Any], of: str) -> str:
    """How far an artefact is from answering often enough as the trained model, and what to do."""
    answers, limit = row["answers"], row["limit"]
    agreed = answers - row["disagreements"]
    short = math.ceil(limit * answers - 1e-9) - agreed
    said = (
        f"gives the trained model's answer on {100 * row['agreement']:.1f} % of {answers} "
        f"{of}; the limit is {100 * limit:g} %, which {short} more would reach"
    )
    if evaluation.wilson_interval(agreed, answers)[1] < limit:
        return said
    return (
        f"{said}. On so few {of} that may be chance: train with a larger test split and "
        "export again, or look at the answers that differ and ship it with --allow-failing"
    )
