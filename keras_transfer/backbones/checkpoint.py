"""Reads PyTorch's legacy checkpoint files without PyTorch and without running any code in them.

The legacy format is a row of pickles (a magic number, a protocol version, system facts, the
state dictionary, the storage keys) followed by the raw numbers of each storage. A pickle can call
whatever its author likes, so the unpickler here knows four names and refuses every other.
"""

import collections
import os
import pickle
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.base.errors import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES: dict[str, Any] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Storage(NamedTuple):
    """A run of numbers in the file, not read yet."""

    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A view of a storage: ``element[i, j] = storage[offset + i * stride[0] + j * stride[1]]``."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
    """Admits ordered dictionaries and tensors, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *parts: _Tensor(*parts[:4])
        if module == "torch" and name in _DTYPES:
            return name  # a string: nothing that the pickle could call or alter
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, name, key, _, size, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"it refers to {kind!r}, which is not a storage")
        return _Storage(str(key), _DTYPES[name], int(size))


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a legacy PyTorch checkpoint (a saved state dictionary).

    Args:
        path: the ``.pth`` file.

    Returns:
        The tensors by name, in the file's order: C-contiguous float32 or int64 arrays. Strides
        are honoured, so a tensor that was saved transposed comes out as its author saw it.

    Raises:
        WeightsError: the file is truncated, damaged, of another format, or asks for anything but
            tensors.
    """
    try:
        with open(path, "rb") as stream:
            return _read(stream)
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise WeightsError(
            f"{path} is not a readable PyTorch checkpoint: {error}.",
            remedy="Install the package or download the file again.",
        ) from error


def _read(stream: Any) -> dict[str, np.ndarray]:
    magic, protocol, _, state, keys = (_TensorUnpickler(stream).load() for _ in range(5))
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise pickle.UnpicklingError("it does not start as PyTorch's legacy format does")
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, _Tensor)}
    declared = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        dtype, size = declared[key].dtype, declared[key].size
        (written,) = struct.unpack("<q", stream.read(8))
        data = stream.read(size * dtype.itemsize)
        if written != size or len(data) != size * dtype.itemsize:
            raise pickle.UnpicklingError(f"it ends within storage {key}")
        storages[key] = np.frombuffer(data, dtype)
    return {name: _view(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """NumPy checks that the view lies within its storage."""
    strides = [stride * storage.itemsize for stride in tensor.strides]
    offset = tensor.offset * storage.itemsize
    view = np.ndarray(tensor.shape, storage.dtype, storage, offset, strides)
    return np.ascontiguousarray(view).reshape(tensor.shape)


def keras_layers(tensors: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Brings a PyTorch state dictionary into Keras's layout.

    Args:
        tensors: by name, such as ``layer.weight``; convolutions ``[out, in, height, width]``.

    Returns:
        Arrays by PyTorch's layer name, in the order of the network and of Keras's own layers:
        kernels ``[height, width, in, out]``, or ``[height, width, in, 1]`` of depthwise ones;
        weight and bias, then the mean and variance of normalisations.
    """
    layers: dict[str, list[np.ndarray]] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part != "num_batches_tracked":
            axes = (2, 3, 0, 1) if tensor.shape[1:2] == (1,) else (2, 3, 1, 0)
            kernel = tensor.transpose(axes) if tensor.ndim == 4 else tensor.T
            layers.setdefault(layer, []).append(kernel)
    return layers
