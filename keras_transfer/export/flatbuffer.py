"""TensorFlow Lite files as trees of plain objects that can be changed and written again."""

import copy
import functools
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

    def is_weight(self, tensor: int, least: int = 1) -> bool:
        """Whether a tensor holds at least so many float32 values that are in the file."""
        data = self.tree.buffers[self.graph.tensors[tensor].buffer].data
        return self.is_float(tensor) and data is not None and len(data) >= 4 * least

    def values(self, tensor: int) -> np.ndarray:
        """A constant float32 tensor's values, a copy."""
        row = self.graph.tensors[tensor]
        data = np.asarray(self.tree.buffers[row.buffer].data, np.uint8).tobytes()
        return np.frombuffer(data, "<f4").reshape(row.shape).copy()

    def set_values(self, tensor: int, values: np.ndarray) -> None:
        """Replaces a constant's values, of the tensor's type, in a buffer of its own."""
        little = values.astype(values.dtype.newbyteorder("<"))
        self.graph.tensors[tensor].buffer = self.add_buffer(little.tobytes())

    def make(self, kind: str, **fields: Any) -> Any:
        """A new object of the schema, such as ``OperatorT``, with these fields."""
        made = getattr(self.schema, kind)()
        vars(made).update(fields)
        return made

    def add_buffer(self, data: bytes) -> int:
        """Adds data; returns the number of its buffer."""
        self.tree.buffers.append(self.make("BufferT", data=np.frombuffer(data, np.uint8)))
        return len(self.tree.buffers) - 1

    def add_input(self, name: str) -> None:
        """Adds an input like the first one, which no operator reads."""
        made = self.like(self.graph.inputs[0], name)
        self.graph.tensors[made].name = name
        self.graph.inputs = np.append(self.graph.inputs, np.int32(made))

    def like(self, tensor: int, name: str, kind: str = "", values: np.ndarray | None = None) -> int:
        """Adds a tensor of another's shape.

        Args:
            tensor: the other.
            name: what is put behind the other's name.
            kind: of the schema's ``TensorType``; by default the other's.
            values: what it holds if it is a constant, whose shape is then its own.

        Returns:
            Its number.
        """
        made = copy.copy(self.graph.tensors[tensor])
        made.name, made.buffer = bytes(made.name) + f"/{name}".encode(), 0
        if kind:
            made.type = getattr(self.schema.TensorType, kind)
        self.graph.tensors.append(made)
        number = len(self.graph.tensors) - 1
        if values is not None:
            made.shape, made.shapeSignature = np.array(values.shape, np.int32), None
            self.set_values(number, values)
        return number

    def operator(
        self, kind: str, inputs: list[int], output: int, version: int = 1, options: Any = None
    ) -> Any:
        """Makes an operator of one output; ``options`` are of its kind's own type, or none."""
        code = self.make("OperatorCodeT", version=version)
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, kind)
        self.tree.operatorCodes.append(code)
        made = self.make("OperatorT", opcodeIndex=len(self.tree.operatorCodes) - 1)
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
            made.builtinOptions = options
        return made

    def content(self) -> bytes:
        """The file's bytes, without data that nothing refers to."""
        used = {tensor.buffer for tensor in self.graph.tensors}
        used |= {entry.buffer for entry in self.tree.metadata or []}
        for number, buffer in enumerate(self.tree.buffers):
            if number not in used:
                buffer.data = None
            buffer.Pack = functools.partial(self._aligned, buffer)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.tree.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _aligned(self, buffer: Any, builder: flatbuffers.Builder) -> int:
        """Packs a buffer so that its data start at a multiple of 16 bytes, as the schema demands
        and the generated Python does not; runtimes read weights in place."""
        values = b"" if buffer.data is None else np.asarray(buffer.data, np.uint8).tobytes()
        builder.Prep(16, len(values))
        data = builder.CreateByteVector(values) if values else None
        self.schema.BufferStart(builder)
        if data is not None:
            self.schema.BufferAddData(builder, data)
        return int(self.schema.BufferEnd(builder))
