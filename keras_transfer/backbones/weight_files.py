"""Reads the weights in Keras's files as plain arrays.

Nothing in a file is built or called: configurations are looked at, never deserialised, so that
a weights file from anywhere is data and cannot run code.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.base.errors import WeightsError

_DAMAGED = "Copy or download the file again."


class Weights(NamedTuple):
    """Arrays on their way into a backbone.

    Attributes:
        origin: what to call them in a message.
        arrays: by layer name, each layer's in the order of its own weights.
        ordered: whether the layers stand in the order of the network, which older Keras files
            rely on instead of names.
    """

    origin: str
    arrays: dict[str, list[np.ndarray]]
    ordered: bool = False


def read_weights(path: Path) -> Weights:
    """Reads a ``.keras`` archive, a ``.weights.h5`` file or an older ``.h5`` file.

    Args:
        path: the file. Of a whole model, the layers come out with their own names however deeply
            they are nested.

    Raises:
        WeightsError: it is damaged, of another kind, or holds a Lambda layer or custom code.
    """
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                json.loads(
                    archive.read("config.json"), object_hook=functools.partial(_refuse_code, path)
                )
                return _read_h5(path, io.BytesIO(archive.read("model.weights.h5")))
        if path.suffix in {".h5", ".hdf5"}:
            return _read_h5(path, path)
    except WeightsError:
        raise
    except Exception as error:  # zipfile, json and HDF5 each have their own ways to fail
        raise WeightsError(f"{path} is damaged: {error}.", remedy=_DAMAGED) from error
    raise WeightsError(
        f"{path} is not a weights file of a known kind.",
        remedy="Give a .keras, .weights.h5 or .h5 file, or the folder of an earlier run.",
    )


def _refuse_code(path: Path, part: dict[str, Any]) -> None:
    """Looks at an object of a configuration while it is read, the innermost ones first."""
    name, module = part.get("class_name"), part.get("module") or "keras"
    foreign = module.split(".")[0] not in {"keras", "builtins"}
    if isinstance(name, str) and (foreign or name in {"Lambda", "__lambda__"}):
        said = f"{module}.{name}" if foreign else "Lambda"
        raise WeightsError(
            f"{path} holds code ({said}), which is not executed.",
            remedy="Save the backbone's weights alone, with model.save_weights().",
        )


def _read_h5(path: Path, source: Path | io.BytesIO) -> Weights:
    import h5py  # type: ignore[import-untyped]

    with h5py.File(source, "r") as stream:
        root = stream.get("model_weights", stream)
        layers = _attribute(root, "layer_names")
        if layers:
            named = ((layer, _attribute(root[layer], "weight_names")) for layer in layers)
            older = {layer: [_array(root[layer], name) for name in names] for layer, names in named}
            return Weights(str(path), {name: found for name, found in older.items() if found}, True)
        arrays: dict[str, list[np.ndarray]] = {}
        _collect(stream, arrays)
    if not arrays:
        raise WeightsError(f"{path} holds no weights.", remedy=_DAMAGED)
    return Weights(str(path), arrays)


def _attribute(group: Any, name: str) -> list[str]:
    """A list of names; Keras splits one beyond 64 KiB over ``name0``, ``name1`` and so on."""
    pieces = itertools.takewhile(
        group.attrs.__contains__, (f"{name}{index}" for index in itertools.count())
    )
    keys = [name] if name in group.attrs else list(pieces)
    return [
        item.decode() if isinstance(item, bytes) else str(item)
        for key in keys
        for item in group.attrs[key]
    ]


def _collect(group: Any, arrays: dict[str, list[np.ndarray]]) -> None:
    """Gathers layers from Keras 3's tree: ``.../layer/vars/0``, the name being an attribute."""
    for key in group:
        if key == "vars" and len(group[key]):
            name = str(group[key].attrs.get("name", group.name.rpartition("/")[2]))
            arrays.setdefault(name, [_array(group[key], str(i)) for i in range(len(group[key]))])
        elif hasattr(group[key], "keys"):
            _collect(group[key], arrays)


def _array(group: Any, name: str) -> np.ndarray:
    dataset = group[name]
    if dataset.external or dataset.is_virtual or dataset.file != group.file:
        raise ValueError(f"it keeps {name!r} in another file")
    return np.asarray(dataset[()])
