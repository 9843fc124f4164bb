"""A model as a TensorFlow graph with its weights in it, which OpenVINO reads without Python.

OpenVINO's way from Keras looks every variable up from Python and takes three times as long; the
network it arrives at gives the same answers to the last bit.
"""

from __future__ import annotations

from pathlib import Path

import keras


def write(model: keras.Model, path: Path) -> None:
    """Writes the graph of a model's inference.

    Args:
        model: a functional model on the TensorFlow backend.
        path: a ``.pb`` file. Its outputs are ``Identity``, ``Identity_1`` and so on, in order.
    """
    import tensorflow as tf

    inputs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]

    def infer(*tensors: tf.Tensor) -> list[tf.Tensor]:
        outputs = model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    traced = tf.function(infer, autograph=False).get_concrete_function(*inputs)
    graph = traced.graph.as_graph_def()
    if graph.library.function:
        # Variables are read within functions, which TensorFlow's slower way takes apart.
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        path.write_bytes(
            convert_variables_to_constants_v2(traced).graph.as_graph_def().SerializeToString()
        )
        return
    by_handle = {id(variable.handle): variable for variable in traced.graph.variables}
    held = {
        inner.op.name: by_handle[id(outer)]
        for outer, inner in traced.graph.captures
        if id(outer) in by_handle
    }
    written = type(graph)()
    written.versions.CopyFrom(graph.versions)
    for node in graph.node:
        if node.op == "Placeholder" and node.name in held:
            continue
        added = written.node.add()
        if node.op == "ReadVariableOp":
            added.name, added.op = node.name, "Const"
            added.attr["dtype"].CopyFrom(node.attr["dtype"])
            value = held[node.input[0]].numpy()
            added.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        else:
            added.CopyFrom(node)
    path.write_bytes(written.SerializeToString())
