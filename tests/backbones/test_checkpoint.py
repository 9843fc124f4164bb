"""Reading PyTorch checkpoints: tensors come out as they were, and nothing else runs."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from keras_transfer.backbones.checkpoint import read_checkpoint
from keras_transfer.base.errors import WeightsError

MAGIC = 0x1950A86A20F9469CFC6C


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stand-ins with PyTorch's names, so that the pickler writes what PyTorch writes."""
    package, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    class FloatStorage:
        pass

    def _rebuild_tensor_v2() -> None:
        pass

    for thing, module in ((FloatStorage, package), (_rebuild_tensor_v2, utils)):
        thing.__module__ = module.__name__
        thing.__qualname__ = thing.__name__
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, "torch", package)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return types.SimpleNamespace(storage=FloatStorage, rebuild=_rebuild_tensor_v2)


def write(
    path: Path, torch: types.SimpleNamespace, values: np.ndarray, views: dict[str, tuple]
) -> Path:
    """Writes one float storage and views ``(offset, shape, strides)`` of it."""

    class Storage:
        pass

    storage = Storage()

    class Tensor:
        def __init__(self, view: tuple) -> None:
            self.view = view

        def __reduce__(self) -> tuple:
            return torch.rebuild, (storage, *self.view, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> tuple | None:
            if value is storage:
                return ("storage", torch.storage, "7", "cpu", len(values), None)
            return None

    stream = io.BytesIO()
    for part in (MAGIC, 1001, {"little_endian": True}):
        pickle.dump(part, stream, protocol=2)
    Pickler(stream, protocol=2).dump(
        collections.OrderedDict((name, Tensor(view)) for name, view in views.items())
    )
    pickle.dump(["7"], stream, protocol=2)
    stream.write(struct.pack("<q", len(values)) + values.astype("<f4").tobytes())
    path.write_bytes(stream.getvalue())
    return path


def test_strides_and_offsets_are_honoured(tmp_path: Path, torch: types.SimpleNamespace) -> None:
    values = np.arange(30, dtype=np.float32)
    views = {
        "plain": (0, (5, 6), (6, 1)),
        "transposed": (0, (6, 5), (1, 6)),
        "slice": (7, (2, 3), (6, 1)),
        "scalar": (4, (), ()),
    }
    tensors = read_checkpoint(write(tmp_path / "a.pth", torch, values, views))
    matrix = values.reshape(5, 6)
    np.testing.assert_array_equal(tensors["plain"], matrix)
    np.testing.assert_array_equal(tensors["transposed"], matrix.T)
    np.testing.assert_array_equal(tensors["slice"], matrix[1:3, 1:4])
    assert tensors["scalar"] == 4
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())


@pytest.mark.parametrize(
    "view", [(0, (5, 7), (6, 1)), (29, (2,), (1,)), (0, (2, 2), (-1, 1)), (-1, (1,), (1,))]
)
def test_a_view_beyond_its_storage_is_refused(
    tmp_path: Path, torch: types.SimpleNamespace, view: tuple
) -> None:
    path = write(tmp_path / "a.pth", torch, np.arange(30.0), {"x": view})
    with pytest.raises(WeightsError, match=r"a\.pth is not a readable PyTorch checkpoint"):
        read_checkpoint(path)


def test_code_is_not_executed(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-here"),)

    stream = io.BytesIO()
    for part in (MAGIC, 1001, {}, {"weight": Attack()}):
        pickle.dump(part, stream, protocol=2)
    (tmp_path / "a.pth").write_bytes(stream.getvalue())
    with pytest.raises(WeightsError, match="mkdir, which is not a tensor"):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "was-here").exists()


def test_truncated_anywhere_is_an_error(tmp_path: Path, torch: types.SimpleNamespace) -> None:
    path = write(tmp_path / "a.pth", torch, np.arange(30.0), {"x": (0, (30,), (1,))})
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"a\.pth"):
            read_checkpoint(path)


def test_another_format_and_no_file_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04 a zip archive")
    with pytest.raises(WeightsError, match="not a readable PyTorch checkpoint"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"none\.pth is not a readable"):
        read_checkpoint(tmp_path / "none.pth")
