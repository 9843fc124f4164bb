"""A model's inference as one graph: to run, or to hand to OpenVINO."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

# The attribute of a model that keeps its graph, which refers to the model's variables.
_KEPT = "_keras_transfer_inference"


def run(model: keras.Model, batch: np.ndarray | Sequence[np.ndarray]) -> list[Any]:
    """Runs a model on a batch by its graph, traced at the first call, for any number of rows.

    Keras's ``predict_on_batch`` traces again for other numbers of rows, and TensorFlow warns of it.

    Args:
        model: a functional model on the TensorFlow backend.
        batch: one array an input.

    Returns:
        The outputs, in order, as tensors.
    """
    import tensorflow as tf

    arrays = batch if isinstance(batch, (list, tuple)) else [batch]
    tensors = [
        tf.convert_to_tensor(np.asarray(array, tensor.dtype))
        for array, tensor in zip(arrays, model.inputs, strict=True)
    ]
    return list(_traced(model)(*tensors))


def compiled(model: keras.Model, tensors: Sequence[Any]) -> list[Any]:
    """Runs a model by JAX, and returns before the device is done: the outputs, in order.

    Keras's ``predict_on_batch`` waits for every batch, and assigns every variable anew after it.

    Args:
        model: a functional model on the JAX backend.
        tensors: one an input, of as many rows each time.
    """
    import jax

    infer, weights = stateless(model)
    if _KEPT not in vars(model):
        vars(model)[_KEPT] = jax.jit(infer)
    return list(vars(model)[_KEPT](weights, list(tensors)))


def stateless(model: keras.Model) -> tuple[Callable[[Any, Sequence[Any]], list[Any]], Any]:
    """A model for JAX as a function of its weights and of one tensor an input; and the weights."""

    def infer(weights: Any, tensors: Sequence[Any]) -> list[Any]:
        inputs = tensors if len(tensors) > 1 else tensors[0]
        outputs, _ = model.stateless_call(*weights, inputs, training=False)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    groups = model.trainable_variables, model.non_trainable_variables
    return infer, [[variable.value for variable in group] for group in groups]


def _traced(model: keras.Model) -> Any:
    if _KEPT in vars(model):
        return vars(model)[_KEPT]
    import tensorflow as tf

    def infer(*tensors: Any) -> list[Any]:
        outputs = model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    inputs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]
    traced = tf.function(infer, autograph=False).get_concrete_function(*inputs)
    # Past Keras, which would take it for a part of the model to be saved.
    vars(model)[_KEPT] = traced
    return traced


def write(model: keras.Model, path: Path) -> None:
    """Writes the graph with the weights in it, which OpenVINO reads without Python.

    OpenVINO's own way from Keras looks every variable up from Python and takes three times as long;
    the network it arrives at gives the same answers to the last bit.

    Args:
        model: a functional model on the TensorFlow backend.
        path: a ``.pb`` file. Its outputs are ``Identity``, ``Identity_1`` and so on, in order.
    """
    import tensorflow as tf

    traced = _traced(model)
    graph = traced.graph.as_graph_def()
    if graph.library.function:
        # Variables are read within functions, which TensorFlow's slower way takes apart.
        from tensorflow.python.framework import convert_to_constants

        frozen = convert_to_constants.convert_variables_to_constants_v2(traced)
        path.write_bytes(frozen.graph.as_graph_def().SerializeToString())
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
