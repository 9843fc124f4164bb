"""Reads the weights in Keras's files as plain arrays.

Nothing in a file is built or called: configurations are looked at, never deserialised, so that
a weights file from anywhere is data and cannot run code.
"""

import functools
import io
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.base import files
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
            with _open_archive(path) as archive:
                refuse = functools.partial(_refuse_code, path)
                json.loads(archive.read("config.json"), object_hook=refuse)
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


def load_model(path: Path) -> Any:
    """Opens a whole model without executing what it may hold.

    Raises:
        ValueError: it is damaged, holds code, or unpacks to far more than a model.
    """
    import keras

    if zipfile.is_zipfile(path):
        _open_archive(path).close()
    return keras.models.load_model(path, compile=False, safe_mode=True)


def _open_archive(path: Path) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(path)
    files.check_unpacked(path, sum(info.file_size for info in archive.infolist()))
    return archive


def _refuse_code(path: Path, part: dict[str, Any]) -> None:
    """Looks at an object of a configuration while it is read, the innermost ones first."""
    name, module = part.get("class_name"), part.get("module") or "keras"
    foreign = module.split(".")[0] not in {"keras", "builtins"}
    if isinstance(name, str) and (foreign or name in {"Lambda", "__lambda__"}):
        said = f"{module}.{name}" if foreign else "Lambda"
        problem = f"{path} holds code ({said}), which is not executed."
        raise WeightsError(problem, remedy="Save its weights alone, with model.save_weights().")


def _read_h5(path: Path, source: Path | io.BytesIO) -> Weights:
    import h5py  # type: ignore[import-untyped]

    with h5py.File(source, "r") as stream:
        root = stream.get("model_weights", stream)
        layers = _attribute(root, "layer_names")
        held: dict[str, list[Any]] = {}
        for layer in layers:
            names = _attribute(root[layer], "weight_names")
            held[layer] = [_stored(root[layer], name) for name in names]
        if not layers:
            _collect(stream, held)
        files.check_unpacked(path, sum(one.nbytes for found in held.values() for one in found))
        arrays = {name: [np.asarray(one[()]) for one in held[name]] for name in held if held[name]}
    if not arrays:
        raise WeightsError(f"{path} holds no weights.", remedy=_DAMAGED)
    return Weights(str(path), arrays, bool(layers))


def _attribute(group: Any, name: str) -> list[str]:
    """A list of names; Keras splits one beyond 64 KiB over ``name0``, ``name1`` and so on."""
    pieces = (f"{name}{index}" for index in itertools.count())
    parts = [name] if name in group.attrs else itertools.takewhile(group.attrs.__contains__, pieces)
    found = (item for part in parts for item in group.attrs[part])
    return [item.decode() if isinstance(item, bytes) else str(item) for item in found]


def _collect(group: Any, held: dict[str, list[Any]]) -> None:
    """Gathers layers from Keras 3's tree: ``.../layer/vars/0``, the name being an attribute."""
    if set(_ATTENTION) <= set(group):
        own = [group[f"{part}/vars"] for part in _ATTENTION]
        held[_name(group)] = [_stored(part, str(i)) for part in own for i in range(len(part))]
        return
    for key in group:
        if key == "vars" and len(group[key]):
            own = [_stored(group[key], str(i)) for i in range(len(group[key]))]
            held.setdefault(_name(group), own)
        elif hasattr(group[key], "keys"):
            _collect(group[key], held)


# The layers within a MultiHeadAttention, in the order of its weights, which the tree does not keep.
_ATTENTION = ("query_dense", "key_dense", "value_dense", "output_dense")


def _name(group: Any) -> str:
    return str(group["vars"].attrs.get("name", group.name.rpartition("/")[2]))


def _stored(group: Any, name: str) -> Any:
    """A data set of the file, not yet read."""
    dataset = group[name]
    if dataset.external or dataset.is_virtual or dataset.file != group.file:
        raise ValueError(f"it keeps {name!r} in another file")
    return dataset
