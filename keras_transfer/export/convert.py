"""Writes a classifier in the layouts of other programs: SavedModel, TensorFlow Lite, ONNX."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.export import quantise
from keras_transfer.export.metadata import ModelInfo, lines

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Source:
    """What is exported, and what several formats start from, made once.

    Attributes:
        model: examples in, probabilities out.
        info: what the artefacts say of themselves where their format has room for it.
        examples: gives training examples ``[n, ...]``, for quantisation.
    """

    model: keras.Model
    info: ModelInfo
    examples: Callable[[], np.ndarray]

    @functools.cached_property
    def lite(self) -> bytes:
        """The float32 TensorFlow Lite file, without metadata."""
        return lite_bytes(self.model, self.info.signature.spec.name)

    @functools.cached_property
    def activations(self) -> dict[int, quantise.Activation]:
        """What is seen in ``lite`` of the training examples."""
        return quantise.measure(self.lite, self.examples())


def _serving_module(model: keras.Model, name: str) -> Any:
    """A plain ``tf.Module`` around a model's weights; its ``scores`` takes a batch of any size."""
    import tensorflow as tf

    module = tf.Module()
    # One by one, so that nothing of Keras gets into what is saved.
    module.weights = [variable.value for variable in model.variables]
    module.scores = tf.function(
        lambda examples: {"scores": model(examples, training=False)},
        input_signature=[tf.TensorSpec(model.input_shape, model.input.dtype, name=name)],
        autograph=False,
    )
    return module


def write_saved_model(source: Source, path: Path) -> None:
    """Writes a SavedModel for TF Serving, to the folder ``1`` in ``path``.

    ``serving_default`` takes ``image``, uint8 ``[n, height, width, 3]``; ``serve_encoded`` takes
    ``image_bytes``, ``[n]`` strings holding JPEG, PNG, BMP or GIF files. Both give ``scores``,
    float32 ``[n, classes]``, and ``labels``, strings of the same shape. Of other modalities the
    names and files are those of their signature.

    One request of each kind is stored for TF Serving to warm up with.
    """
    import tensorflow as tf

    model, inputs = source.model, source.info.signature
    module = _serving_module(model, inputs.spec.name)
    names = np.array(list(source.info.class_names), dtype=object)
    module.decode = inputs.serving_decoder()

    def labelled(examples: Any) -> dict[str, Any]:
        scores = module.scores(examples)["scores"]
        rows = tf.tile(tf.constant(names, tf.string)[None], [tf.shape(scores)[0], 1])
        return {"labels": rows, "scores": scores}

    def encoded(files: Any) -> dict[str, Any]:
        examples = tf.map_fn(module.decode, files, fn_output_signature=model.input.dtype)
        return labelled(tf.ensure_shape(examples, model.input_shape))

    entry = tf.TensorSpec(model.input_shape, model.input.dtype, name=inputs.spec.name)
    files = tf.TensorSpec((None,), tf.string, name=inputs.encoded)
    module.signatures_kept = {
        "serving_default": tf.function(labelled, input_signature=[entry]),
        "serve_encoded": tf.function(encoded, input_signature=[files]),
    }
    tf.saved_model.save(module, str(path / "1"), signatures=module.signatures_kept)
    example, data = inputs.blank()
    requests = [("serving_default", entry.name, example), ("serve_encoded", files.name, [data])]
    target = path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    target.parent.mkdir()
    with tf.io.TFRecordWriter(str(target)) as writer:
        for signature, name, values in requests:
            tensor = tf.make_tensor_proto(values).SerializeToString()
            writer.write(_predict_request(signature, name, tensor))


def _predict_request(signature: str, name: str, tensor: bytes) -> bytes:
    """A ``PredictionLog`` message of tensorflow/serving's prediction_log.proto, written field by
    field: the package that defines it is no dependency."""
    spec = field(1, b"model") + field(3, signature.encode())
    entry = field(1, name.encode()) + field(2, tensor)
    return field(6, field(1, field(1, spec) + field(2, entry)))


def lite_bytes(model: keras.Model, name: str = "image") -> bytes:
    """Converts to a float32 TensorFlow Lite file.

    Its input ``name``, of one example, is resizable to larger batches; its output is ``scores``,
    float32. Preprocessing is in the graph.
    """
    import tensorflow as tf

    module = _serving_module(model, name)
    with tempfile.TemporaryDirectory() as folder:
        # By way of a SavedModel the weights are folded and the signature's names are kept.
        tf.saved_model.save(module, folder, signatures={"serving_default": module.scores})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default"]
        )
        return bytes(converter.convert())


def write_onnx(source: Source, path: Path) -> None:
    """Writes an ONNX file with an input of the signature's name (any batch) and output ``scores``.

    Its metadata properties ``labels`` (one a line), ``description``, ``licence`` and ``author`` say
    what it is, ``fit`` how images are brought to its size, and ``thresholds``, where an example may
    have several classes, from which probability on each is answered (one a line).
    """
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework import convert_to_constants

    info = source.info
    module = _serving_module(source.model, info.signature.spec.name)
    # Keras wraps grouped convolutions (ConvNeXt) in functions for XLA, which tf2onnx cannot open;
    # with this they are traced as part of the whole.
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        traced = module.scores.get_concrete_function()
    finally:
        tf.config.run_functions_eagerly(eagerly)
    # Frozen first: tf2onnx would turn captured constants into inputs that nobody feeds.
    frozen = convert_to_constants.convert_variables_to_constants_v2(traced)
    entry, scores = frozen.inputs[0].name, frozen.outputs[0].name
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[entry],
        output_names=[scores],
        opset=17,
        custom_op_handlers={"Erfc": (_erfc, [])},
        tensors_to_rename={entry: info.signature.spec.name, scores: "scores"},
    )
    said = {key: getattr(info, key) for key in ("description", "licence", "author")}
    said["fit"] = info.signature.spec.fit
    if info.thresholds:
        said["thresholds"] = lines(info.thresholds)
    onnx.helper.set_model_props(proto, {"labels": "\n".join(info.class_names), **said})
    path.write_bytes(proto.SerializeToString())


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Writes erfc(x) as 1 - erf(x), which ONNX has; TensorFlow's exact gelu is made of it."""
    (output,) = node.output
    kind = {"shapes": [graph.get_shape(output)], "dtypes": [graph.get_dtype(output)]}
    one = graph.make_const(f"{name}_one", np.float32(1).reshape(()))
    erf = graph.make_node("Erf", node.input, **kind)
    graph.remove_node(node.name)
    inputs = [one.output[0], erf.output[0]]
    graph.make_node("Sub", inputs, name=name, outputs=[output], **kind)


def field(number: int, payload: bytes) -> bytes:
    """A protocol buffer field of known length: text, bytes or a message."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
