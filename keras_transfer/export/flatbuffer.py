"""TensorFlow Lite files as trees of plain objects that can be changed and written again."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np


class LiteModel:
    """A TensorFlow Lite file with one graph.

    Args:
        content: the file's bytes.

    Attributes:
        tree: the file as the schema's own objects.
        graph: its graph: ``tensors``, ``operators``, ``inputs``, ``outputs``.
    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.tree: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        self.graph: Any = self.tree.subgraphs[0]

    def code(self, operator: Any) -> str:
        """The operator's kind, such as ``CONV_2D``."""
        row = self.tree.operatorCodes[operator.opcodeIndex]
        number = max(row.builtinCode, row.deprecatedBuiltinCode)
        names = vars(self.schema.BuiltinOperator)
        return next(name for name, value in names.items() if value == number)

    def is_float(self, tensor: int) -> bool:
        """Whether a tensor holds float32."""
        return bool(self.graph.tensors[tensor].type == self.schema.TensorType.FLOAT32)

    def is_constant(self, tensor: int) -> bool:
        """Whether a tensor's values are in the file."""
        data = self.tree.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def size(self, tensor: int) -> int:
        """How many elements a tensor has."""
        return int(np.prod(self.graph.tensors[tensor].shape))

    def values(self, tensor: int) -> np.ndarray:
        """A constant float32 tensor's values, a copy."""
        row = self.graph.tensors[tensor]
        data = np.asarray(self.tree.buffers[row.buffer].data, np.uint8).tobytes()
        return np.frombuffer(data, "<f4").reshape(row.shape).copy()

    def set_values(self, tensor: int, values: np.ndarray) -> None:
        """Replaces a constant's values, float32 or int8, in a buffer of its own."""
        kind = "<f4" if values.dtype.kind == "f" else "i1"
        self.graph.tensors[tensor].buffer = self.add_buffer(values.astype(kind).tobytes())

    def add_buffer(self, data: bytes) -> int:
        """Adds data; returns the number of its buffer."""
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.tree.buffers.append(buffer)
        return len(self.tree.buffers) - 1

    def content(self) -> bytes:
        """The file's bytes, without data that nothing refers to."""
        used = {tensor.buffer for tensor in self.graph.tensors}
        used |= {entry.buffer for entry in self.tree.metadata or []}
        for number, buffer in enumerate(self.tree.buffers):
            if number not in used:
                buffer.data = None
            buffer.Pack = _aligned(buffer, self.schema)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.tree.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _aligned(buffer: Any, schema: Any) -> Any:
    """A ``Pack`` that starts a buffer's data at a multiple of 16 bytes, as the schema demands and
    the generated Python does not; runtimes read weights in place."""

    def pack(builder: flatbuffers.Builder) -> int:
        data = None
        if buffer.data is not None and len(buffer.data):
            values = np.asarray(buffer.data, np.uint8).tobytes()
            builder.StartVector(1, len(values), 16)
            builder.head = builder.head - len(values)
            builder.Bytes[builder.head : builder.head + len(values)] = values
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))

    return pack
