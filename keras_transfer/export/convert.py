"""Writes a classifier in each export format."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.export import quantise
from keras_transfer.export.formats import Format
from keras_transfer.export.metadata import ModelInfo, add_metadata

if TYPE_CHECKING:
    import keras


def convert(
    form: Format,
    model: keras.Model,
    path: Path,
    *,
    info: ModelInfo,
    images: np.ndarray,
) -> None:
    """Writes one artefact.

    Args:
        form: the format.
        model: uint8 ``[batch, height, width, 3]`` RGB in, probabilities out.
        path: the file or folder to write; must not exist.
        info: what the artefact says of itself where the format has room for it.
        images: uint8 ``[n, height, width, 3]`` training images, for the quantised formats.

    Raises:
        Exception: whatever the converter raises.
    """
    if form.name == "keras":
        model.save(path)
    elif form.name == "saved_model":
        write_saved_model(model, path / "1", info.class_names)
    elif form.name == "onnx":
        write_onnx(model, path)
    else:
        path.write_bytes(add_metadata(lite_bytes(model, form.name, images), info))


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
        # Only PNG has an alpha channel here, and only it may be asked for four channels.
        is_png = tf.strings.substr(data, 0, 4) == b"\x89PNG"
        pixels = tf.cond(
            is_png,
            lambda: tf.cast(_on_white(tf.io.decode_png(data, channels=4)), tf.float32),
            lambda: tf.cast(
                tf.io.decode_image(data, channels=3, expand_animations=False), tf.float32
            ),
        )
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
            spec = _field(1, b"model") + _field(3, signature.encode())
            entry = _field(1, name.encode()) + _field(2, tensor.SerializeToString())
            request = _field(1, spec) + _field(2, entry)
            writer.write(_field(6, _field(1, request)))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protocol buffer field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return out + struct.pack("B", value)


def lite_bytes(model: keras.Model, name: str, images: np.ndarray) -> bytes:
    """Converts to TensorFlow Lite: ``tflite``, ``tflite-float16``, ``-dynamic`` or ``-int8``.

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
        if name == "tflite-float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    if name == "tflite-dynamic":
        return quantise.dynamic_range(content, images)
    return quantise.full_integer(content, images) if name == "tflite-int8" else content


def write_onnx(model: keras.Model, path: Path) -> None:
    """Writes an ONNX file with input ``image`` (uint8, any batch) and output ``scores``."""
    import tf2onnx
    from tensorflow.python.framework import convert_to_constants

    module = _serving_module(model)
    # Frozen first: tf2onnx would turn captured constants into inputs that nobody feeds.
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        module.scores.get_concrete_function()
    )
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[frozen.inputs[0].name],
        output_names=[frozen.outputs[0].name],
        opset=17,
    )
    path.write_bytes(proto.SerializeToString())
