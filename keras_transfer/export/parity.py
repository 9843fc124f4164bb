"""Holds each artefact against the trained model on the test images, and judges it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from keras_transfer import evaluation
from keras_transfer.base.errors import DataError
from keras_transfer.base.threads import cores
from keras_transfer.base.types import Dataset
from keras_transfer.export import proof
from keras_transfer.export.formats import Format
from keras_transfer.modalities import modality

if TYPE_CHECKING:
    import keras

MAX_IMAGES = 1000
"""Test images that each artefact is run over at most, evenly spread."""

TIMING_SECONDS = 1.0
"""Time spent on measuring each artefact's latency, per number of threads."""

ENCODED_LIMIT = 0.9
"""Agreement below which the signature for encoded images fails. TensorFlow decodes and resizes a
little differently, and ignores EXIF rotation."""

SIGNIFICANCE = 0.05
"""A loss of accuracy counts when luck alone would explain it less often than this."""


@dataclasses.dataclass(frozen=True, eq=False)
class TestImages:
    """Held-out images read from their files, and what the trained model says of them.

    Attributes:
        names: the path of each image in its data set.
        encoded: the bytes of each image's file.
        pixels: uint8, shape ``[n, height, width, 3]``.
        labels: int64, shape ``[n]``.
        probabilities: float32, shape ``[n, classes]``, the trained model's.
    """

    __test__ = False  # not a test case, whatever its name looks like to pytest

    names: tuple[str, ...]
    encoded: tuple[bytes, ...]
    pixels: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def test_images(dataset: Dataset, model: keras.Model) -> TestImages:
    """Reads the test split, ``MAX_IMAGES`` of it at most, from its files.

    Raises:
        DataError: the split is empty.
    """
    indices = dataset.indices("test")
    if not len(indices):
        raise DataError(
            f"{dataset.name} has no test images to prove an export on.",
            remedy="Train with a split that leaves images for testing, such as 0.7,0.15,0.15.",
        )
    indices = spread(indices, MAX_IMAGES)
    form = modality(dataset.modality)
    spec = form.spec(model.input_shape[1:3])
    encoded = tuple(dataset.read(int(i)) for i in indices)
    pixels = np.stack([form.decode(data, spec) for data in encoded])
    return TestImages(
        names=tuple(dataset.paths[i] for i in indices),
        encoded=encoded,
        pixels=pixels,
        labels=np.asarray(dataset.labels)[indices],
        probabilities=np.asarray(model.predict(pixels, batch_size=32, verbose=0)),
    )


test_images.__test__ = False  # type: ignore[attr-defined]


def resizing(tests: TestImages, model: keras.Model) -> dict[str, float]:
    """How much of the trained model's answers survives MediaPipe's resizing, ``mobile_resize``."""
    size = tests.pixels.shape[1:3]
    decode = modality("image").decode
    moved = np.stack([mobile_resize(decode(data), size) for data in tests.encoded])
    found = np.asarray(model.predict(moved, batch_size=32, verbose=0))
    row = proof.compare(tests.probabilities, found, tests.labels)
    return {key: row[key] for key in ("agreement", "accuracy", "largest_difference")}


def mobile_resize(pixels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resizes as MediaPipe's image tasks do on a CPU.

    Output pixel i is interpolated at i times the step, where antialiased filters look around
    (i + 0.5) times the step: the picture moves by up to half a pixel, and what lies between the
    sampled points is lost. As in OpenCV's warps, which it uses, positions are multiples of 1/32.
    Held against MediaPipe 1.2.3 through a model that gives its input back: every level is the same.

    Args:
        pixels: uint8 ``[height, width, 3]``.
        size: (height, width) to make.
    """
    levels, weights, near = pixels.astype(np.float32), [], []
    for length, wanted in zip(pixels.shape[:2], size, strict=True):
        at = np.rint(32 * np.arange(wanted) * (length / wanted)) / 32
        near.append(at.astype(int))
        weights.append((at - near[-1]).astype(np.float32))
    top, left = near
    bottom, right = (np.minimum(at + 1, n - 1) for at, n in zip(near, pixels.shape, strict=False))
    down, across = weights[0][:, None, None], weights[1][None, :, None]
    above = levels[top][:, left] * (1 - across) + levels[top][:, right] * across
    below = levels[bottom][:, left] * (1 - across) + levels[bottom][:, right] * across
    return np.floor(above * (1 - down) + below * down + 0.5).astype(np.uint8)


def spread(values: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of ``values``, evenly spaced, in their order."""
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(int)]


def thread_counts() -> list[int]:
    """1 and the number of cores, at most 4 as phones have fast ones."""
    return sorted({1, min(cores(), 4)})


def prove(
    form: Format, path: Path, tests: TestImages, pixels: Path, samples: Mapping[int, Path]
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Runs an artefact in fresh processes of its own runtime and judges it.

    Args:
        form: its format.
        path: the artefact.
        tests: the test images.
        pixels: a ``.npy`` file of ``tests.pixels``.
        samples: image files by their position in ``tests``; those that TensorFlow can decode are
            given to a SavedModel's second signature.

    Returns:
        A row of ``parity.json``, and the probabilities that it gave, float32 ``[n, classes]``,
        or None where it could not be run.
    """
    row: dict[str, Any] = {
        "name": form.name,
        "file": form.file,
        "runtime": form.runtime,
        "limit": form.limit,
        "bytes": proof.size_of(path),
    }
    threads = thread_counts()
    decodable = {}
    if form.runtime == "saved_model":
        decodable = {i: file for i, file in samples.items() if _tensorflow_reads(tests.encoded[i])}
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "probabilities.npy")
        job = {
            "runtime": form.runtime,
            "path": str(path.resolve()),
            "pixels": str(pixels),
            "threads": threads[-1],
            "seconds": TIMING_SECONDS,
            "isolated": True,
        }
        files = [str(file.resolve()) for file in decodable.values()]
        full = proof.run_fresh({**job, "output": str(output), "files": files})
        reason = full.get("missing") or full.get("error")
        if reason:
            return {**row, "verdict": "failed", "reason": f"could not be run: {reason}"}, None
        found = np.load(output)
    latency = {str(threads[-1]): full["latency_ms"]}
    if len(threads) > 1:
        latency = {"1": proof.run_fresh({**job, "threads": 1})["latency_ms"], **latency}
    row |= proof.compare(tests.probabilities, found, tests.labels)
    correct = round(row["accuracy"] * row["images"])
    row["accuracy_interval"] = list(evaluation.wilson_interval(correct, row["images"]))
    row["latency_ms"] = latency
    kept = ("runtime_version", "load_seconds", "peak_memory_bytes", "any_batch")
    row |= {key: full[key] for key in kept}
    if decodable:
        answers, expected = np.array(full["encoded"]), tests.probabilities[list(decodable)]
        row["encoded"] = {
            "images": len(decodable),
            "agreement": float((answers.argmax(1) == expected.argmax(1)).mean()),
            "largest_difference": float(np.abs(answers - expected).max()),
        }
    reason = judge(row)
    return {**row, "verdict": "failed" if reason else "passed", "reason": reason}, found


def _tensorflow_reads(data: bytes) -> bool:
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM"))


def judge(row: Mapping[str, Any]) -> str:
    """Why an artefact may not ship, or nothing where it may.

    It must agree with the trained model on at least ``limit`` of the images, and must not have lost
    more accuracy than luck explains: an exact sign test over the images that only one of the two
    gets right (McNemar), one-sided, at ``SIGNIFICANCE``.
    """
    if row["agreement"] < row["limit"]:
        return (
            f"gives the trained model's answer on {100 * row['agreement']:.1f} % of "
            f"{row['images']} test images; the limit is {100 * row['limit']:g} %"
        )
    changed = row["lost"] + row["gained"]
    if (
        changed
        and stats.binomtest(row["lost"], changed, alternative="greater").pvalue < SIGNIFICANCE
    ):
        return (
            f"its accuracy is {row['accuracy']:.3f} where the trained model has "
            f"{row['reference_accuracy']:.3f}: {row['lost']} test images lost, {row['gained']} "
            "gained, which is more than luck"
        )
    encoded = row.get("encoded")
    if encoded and encoded["agreement"] < ENCODED_LIMIT:
        return (
            f"with encoded images it gives the trained model's answer on "
            f"{100 * encoded['agreement']:.1f} % of {encoded['images']}; the limit is "
            f"{100 * ENCODED_LIMIT:g} %"
        )
    return ""
