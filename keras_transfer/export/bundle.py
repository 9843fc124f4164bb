"""The rest of an export folder: samples, the proof that travels, the manifest."""

import contextlib
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer._version import __version__
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.datasets.sources import readable
from keras_transfer.export import proof
from keras_transfer.export.parity import HeldOut, spread

SAMPLES = 64
"""Test examples that travel in an export folder."""

SMALL = 2**19
"""Bytes of a file that is preferred as a sample, so that an export stays light."""


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuses a folder that an export must not be written to: only our own files are replaced.

    Raises:
        UsageError: it exists and ``overwrite`` is false, is a link or a file, or holds a link or
            anything that no export wrote; its path is no UTF-8.
    """
    where = str(target.absolute())
    if where != readable(where):
        problem = f"{where} is no UTF-8, and TensorFlow writes nowhere else."
        raise UsageError(problem, remedy="Name another --output.")
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise UsageError(
            f"{target} exists already.", remedy="Choose another --output, or pass --overwrite."
        )
    foreign = [target] if target.is_symlink() or not target.is_dir() else _foreign(target)
    if foreign:
        what = "a link" if foreign[0].is_symlink() else "a file that no export wrote"
        raise UsageError(
            f"{target} is not an export of keras-transfer alone, so it is not replaced: "
            f"{foreign[0]} is {what}.",
            remedy="Move it elsewhere, or choose another --output.",
        )


def _foreign(target: Path) -> list[Path]:
    """What of a folder is a link, or is not listed in a manifest of ours."""
    ours: set[str] = set()
    with contextlib.suppress(OSError, ValueError):
        proof.read(target, proof.MANIFEST, "keras_transfer", str)
        listed = proof.read(target, proof.MANIFEST, "files", dict)
        ours = {proof.MANIFEST, proof.SIGNATURE, *listed}
    return sorted(
        path
        for path in target.rglob("*")
        if path.is_symlink()
        or (not path.is_dir() and path.relative_to(target).as_posix() not in ours)
    )


def check(folder: Path, *names: str) -> None:
    """Refuses files, or folders of them, that are not those which an export lists, if it is one.

    Raises:
        UsageError: a file has changed since, or the list is damaged.
    """
    remedy = "Export the run again, or move the file elsewhere to use it."
    with files.reading(folder / proof.MANIFEST, remedy):
        wrong = proof.check_files(folder) if (folder / proof.MANIFEST).exists() else []
        prefixes = tuple(f"{name}/" for name in names)
        if found := [w for w in wrong if f"{w.split(': ')[0]}/".startswith(prefixes)]:
            raise ValueError(found[0])


def write_samples(folder: Path, tests: HeldOut) -> dict[int, Path]:
    """Writes up to ``SAMPLES`` encoded test examples to ``folder``, evenly spread over the tests.

    Returns:
        The files by the position of their example in ``tests``.
    """
    sizes = np.array([len(data) for data in tests.encoded])
    pool = np.flatnonzero(sizes <= SMALL)
    if len(pool) < min(SAMPLES, len(sizes)):
        pool = np.sort(np.argsort(sizes, kind="stable")[:SAMPLES])
    folder.mkdir(parents=True)
    written, cells = dict[int, Path](), tests.cells
    for i in spread(pool, SAMPLES):
        label = re.sub(r"[^A-Za-z0-9-]+", "_", cells[i])[:40]
        suffix = re.sub(r"[^a-z0-9.]", "", Path(tests.names[i]).suffix.lower()) or ".png"
        path = folder / f"{len(written):03d}-{label}{suffix}"
        path.write_bytes(tests.encoded[i])
        written[int(i)] = path
    return written


def write_verify(
    folder: Path, rows: Iterable[Mapping[str, Any]], tests: HeldOut, samples: Mapping[int, Path]
) -> None:
    """Writes ``verify.py`` and ``expected.json`` beside the samples, with what reads them.

    Args:
        folder: the ``verify`` folder.
        rows: the rows of ``parity.json`` of the artefacts that ship.
        tests: the test examples.
        samples: what ``write_samples`` returned.
    """
    cells = tests.cells
    described = [
        {
            "file": path.name,
            "label": cells[i],
            "probabilities": [round(float(value), 6) for value in tests.probabilities[i]],
        }
        for i, path in samples.items()
    ]
    form = tests.signature.form
    artefacts = [
        {key: row[key] for key in ("name", "file", "runtime", "limit")}
        | {"disagreements": row["sample_disagreements"]}
        for row in rows
    ]
    value = {
        "keras_transfer": __version__,
        "class_names": list(tests.class_names),
        "thresholds": list(tests.thresholds),
        form.SIZE: tests.signature.size,
        "fit": tests.signature.spec.fit,
        f"{form.NOUN}s": described,
        "artefacts": artefacts,
    }
    files.write_json(folder / "expected.json", value)
    for name, data in tests.signature.files.items():
        files.write_bytes(folder / name, data)
    shutil.copyfile(proof.__file__, folder / "verify.py")


def write_manifest(folder: Path) -> None:
    """Writes ``manifest.json``: the SHA-256 digest of every other file in the folder."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    digests = {name: files.file_sha256(folder / name) for name in names}
    files.write_json(folder / proof.MANIFEST, {"keras_transfer": __version__, "files": digests})
