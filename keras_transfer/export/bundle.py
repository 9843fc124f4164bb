"""The rest of an export folder: labels, the proof that travels, the manifest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.export import proof
from keras_transfer.export.parity import TestImages, spread

SAMPLES = 64
"""Test images that travel in an export folder."""

SMALL = 2**19
"""Bytes of an image file that is preferred as a sample, so that an export stays light."""


def write_samples(folder: Path, tests: TestImages, class_names: Sequence[str]) -> dict[int, Path]:
    """Writes up to ``SAMPLES`` encoded test images to ``folder``, evenly spread over the tests.

    Returns:
        The files by the position of their image in ``tests``.
    """
    sizes = np.array([len(data) for data in tests.encoded])
    pool = np.flatnonzero(sizes <= SMALL)
    if len(pool) < min(SAMPLES, len(sizes)):
        pool = np.sort(np.argsort(sizes, kind="stable")[:SAMPLES])
    folder.mkdir(parents=True)
    written: dict[int, Path] = {}
    for i in spread(pool, SAMPLES):
        label = re.sub(r"[^A-Za-z0-9-]+", "_", class_names[tests.labels[i]])[:40]
        suffix = re.sub(r"[^a-z0-9.]", "", Path(tests.names[i]).suffix.lower()) or ".png"
        path = folder / f"{len(written):03d}-{label}{suffix}"
        path.write_bytes(tests.encoded[i])
        written[int(i)] = path
    return written


def write_verify(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    answers: dict[str, np.ndarray],
    tests: TestImages,
    samples: dict[int, Path],
    class_names: Sequence[str],
) -> None:
    """Writes ``verify.py`` and ``expected.json`` beside the sample images.

    Args:
        folder: the ``verify`` folder.
        rows: the rows of ``parity.json`` of the artefacts that ship.
        answers: the probabilities that each of them gave to the test images.
        tests: the test images.
        samples: what ``write_samples`` returned.
        class_names: the classes in the order of the outputs.
    """
    chosen = list(samples)
    expected = tests.probabilities[chosen]
    images = [
        {
            "file": path.name,
            "label": class_names[tests.labels[i]],
            "probabilities": [round(float(value), 6) for value in tests.probabilities[i]],
        }
        for i, path in samples.items()
    ]
    artefacts = [
        {
            **{key: row[key] for key in ("name", "file", "runtime", "limit")},
            "disagreements": int(
                (answers[row["name"]][chosen].argmax(1) != expected.argmax(1)).sum()
            ),
        }
        for row in rows
    ]
    value = {
        "keras_transfer": __version__,
        "class_names": list(class_names),
        "image_size": list(tests.pixels.shape[1:3]),
        "images": images,
        "artefacts": artefacts,
    }
    files.write_json(folder / "expected.json", value)
    shutil.copyfile(proof.__file__, folder / "verify.py")


def write_manifest(folder: Path) -> None:
    """Writes ``manifest.json``: the SHA-256 digest of every other file in the folder."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    digests = {name: files.file_sha256(folder / name) for name in names if name != "manifest.json"}
    files.write_json(folder / "manifest.json", {"keras_transfer": __version__, "files": digests})
