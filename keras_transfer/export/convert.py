"""Writes a classifier in each export format."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.export import quantise
from keras_transfer.export.formats import Format
from keras_transfer.export.metadata import ModelInfo, add_metadata

if TYPE_CHECKING:
    import keras


class Converter:
    """Writes a model's artefacts, sharing between formats what they have in common.

    Args:
        model: uint8 ``[batch, height, width, 3]`` RGB in, probabilities out.
        info: what the artefacts say of themselves where their format has room for it.
        images: gives uint8 ``[n, height, width, 3]`` training images, for quantisation.
    """

    def __init__(
        self, model: keras.Model, info: ModelInfo, images: Callable[[], np.ndarray]
    ) -> None:
        self.model, self.info, self._images = model, info, images

    def write(self, form: Format, path: Path) -> None:
        """Writes one artefact to a file or folder that must not exist.

        Raises:
            Exception: whatever the format's converter raises.
        """
        if form.name == "keras":
            self.model.save(path)
        elif form.name == "saved_model":
            write_saved_model(self.model, path / "1", self.info.class_names)
        elif form.name == "onnx":
            write_onnx(self.model, path, self.info)
        else:
            path.write_bytes(add_metadata(self._lite(form.name), self.info))

    def _lite(self, name: str) -> bytes:
        if name == "tflite-float16":
            return quantise.float16(self._float)
        if name == "tflite-dynamic":
            return quantise.dynamic_range(self._float, self._activations)
        if name == "tflite-int8":
            return quantise.full_integer(self._float, self._activations)
        return self._float

    @functools.cached_property
    def _float(self) -> bytes:
        return lite_bytes(self.model)

    @functools.cached_property
    def _activations(self) -> dict[int, quantise.Activation]:
        return quantise.measure(self._float, self._images())


def _serving_module(model: keras.Model) -> Any:
    """A plain ``tf.Module`` around the model's weights; its ``scores`` takes a batch of any size.

    The weights are handed over one by one, so that nothing of Keras gets into what is saved.
    """
    import tensorflow as tf

    height, width = model.input_shape[1:3]
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]

    def scores(image: Any) -> dict[str, Any]:
        return {"scores": model(image, training=False)}

    spec = tf.TensorSpec((None, height, width, 3), tf.uint8, name="image")
    module.scores = tf.function(scores, input_signature=[spec], autograph=False)
    return module


def write_saved_model(model: keras.Model, path: Path, class_names: Sequence[str]) -> None:
    """Writes a SavedModel for TF Serving.

    ``serving_default`` takes ``image``, uint8 ``[n, height, width, 3]``; ``serve_encoded`` takes
    ``image_bytes``, ``[n]`` strings holding JPEG, PNG, BMP or GIF files. Both give ``scores``,
    float32 ``[n, classes]``, and ``labels``, strings of the same shape. TensorFlow's decoders
    ignore EXIF rotation; everything else is as in training.

    One request of each kind is stored for TF Serving to warm up with.
    """
    import tensorflow as tf

    height, width = model.input_shape[1:3]
    module = _serving_module(model)
    names = np.array(list(class_names), dtype=object)

    def labelled(image: Any) -> dict[str, Any]:
        scores = module.scores(image)["scores"]
        rows = tf.tile(tf.constant(names, tf.string)[None], [tf.shape(scores)[0], 1])
        return {"labels": rows, "scores": scores}

    def decode(data: Any) -> Any:
        # The decoder that Pillow has, too; TensorFlow's default for JPEG is faster and coarser.
        def jpeg() -> Any:
            accurate = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
            return tf.cast(accurate, tf.float32)

        def png() -> Any:
            return _on_white(tf.io.decode_png(data, channels=4))

        def other() -> Any:
            decoded = tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.cast(decoded, tf.float32)

        start = tf.strings.substr(data, 0, 3)
        cases = [(start == b"\xff\xd8\xff", jpeg), (start == b"\x89PN", png)]
        pixels = tf.case(cases, default=other)
        pixels.set_shape((None, None, 3))
        resized = tf.image.resize(pixels, (height, width), method="bilinear", antialias=True)
        return tf.cast(tf.round(tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)

    def encoded(image_bytes: Any) -> dict[str, Any]:
        pixels = tf.map_fn(decode, image_bytes, fn_output_signature=tf.uint8)
        return labelled(tf.ensure_shape(pixels, (None, height, width, 3)))

    signatures = {
        "serving_default": tf.function(
            labelled,
            input_signature=[tf.TensorSpec((None, height, width, 3), tf.uint8, name="image")],
        ),
        "serve_encoded": tf.function(
            encoded, input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")]
        ),
    }
    module.signatures_kept = signatures
    tf.saved_model.save(module, str(path), signatures=signatures)
    _write_warmup(path, height, width)


def _on_white(pixels: Any) -> Any:
    import tensorflow as tf

    levels = tf.cast(pixels, tf.float32)
    alpha = levels[..., 3:] / 255.0
    return levels[..., :3] * alpha + 255.0 * (1.0 - alpha)


def _write_warmup(path: Path, height: int, width: int) -> None:
    """Stores a white image for each signature where TF Serving looks for warm-up requests.

    The records are ``PredictionLog`` messages of tensorflow/serving's prediction_log.proto,
    written field by field: the package that defines them is no dependency.
    """
    import tensorflow as tf

    white = np.full((1, height, width, 3), 255, np.uint8)
    png = tf.io.encode_png(white[0]).numpy()
    requests = [
        ("serving_default", "image", tf.make_tensor_proto(white)),
        ("serve_encoded", "image_bytes", tf.make_tensor_proto([png])),
    ]
    target = path / "assets.extra" / "tf_serving_warmup_requests"
    target.parent.mkdir()
    with tf.io.TFRecordWriter(str(target)) as writer:
        for signature, name, tensor in requests:
            spec = field(1, b"model") + field(3, signature.encode())
            entry = field(1, name.encode()) + field(2, tensor.SerializeToString())
            request = field(1, spec) + field(2, entry)
            writer.write(field(6, field(1, request)))


def lite_bytes(model: keras.Model) -> bytes:
    """Converts to a float32 TensorFlow Lite file.

    Input ``image``, uint8 ``[1, height, width, 3]``, resizable to larger batches; output
    ``scores``, float32. Preprocessing is in the graph.
    """
    import tensorflow as tf

    module = _serving_module(model)
    with tempfile.TemporaryDirectory() as folder:
        # By way of a SavedModel the weights are folded and the signature's names are kept.
        tf.saved_model.save(module, folder, signatures={"serving_default": module.scores})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default"]
        )
        return bytes(converter.convert())


def write_onnx(model: keras.Model, path: Path, info: ModelInfo) -> None:
    """Writes an ONNX file with input ``image`` (uint8, any batch) and output ``scores``.

    Its metadata properties ``labels`` (one a line), ``description``, ``licence`` and ``author`` say
    what it is.
    """
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework import convert_to_constants

    module = _serving_module(model)
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
    names = {frozen.inputs[0].name: "image", frozen.outputs[0].name: "scores"}
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[frozen.inputs[0].name],
        output_names=[frozen.outputs[0].name],
        opset=17,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = names.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    said = {"description": info.description, "licence": info.licence, "author": info.author}
    onnx.helper.set_model_props(proto, {"labels": "\n".join(info.class_names), **said})
    path.write_bytes(proto.SerializeToString())


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Writes erfc(x) as 1 - erf(x), which ONNX has; TensorFlow's exact gelu is made of it."""
    kept, shape, dtype = (
        node.output,
        graph.get_shape(node.output[0]),
        graph.get_dtype(node.output[0]),
    )
    one = graph.make_const(f"{name}_one", np.float32(1).reshape(()))
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    graph.remove_node(node.name)
    graph.make_node(
        "Sub",
        [one.output[0], erf.output[0]],
        name=name,
        outputs=kept,
        shapes=[shape],
        dtypes=[dtype],
    )


def field(number: int, payload: bytes) -> bytes:
    """A protocol buffer field of known length: text, bytes or a message."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
