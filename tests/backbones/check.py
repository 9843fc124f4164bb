"""The promises that every backbone keeps, in the spirit of scikit-learn's ``check_estimator``.

``python check.py NAME,HEIGHT,WIDTH[,tflite] ...`` checks backbones in a process of their own.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import resource
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_sample_images

from keras_transfer import backbones
from keras_transfer.backbones.graph import tensors
from keras_transfer.base.types import Backbone
from keras_transfer.frozen.features import FrozenPart
from keras_transfer.learn.model import (
    build_classifier,
    cut_blocks,
    levels_of,
    measure_statistics,
    set_batch_norm,
)

LEVELS = 1.0

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

# Families whose preprocess_input passes pixels through: what their papers' code does instead.
PUBLISHED = {
    "EfficientNetLite": lambda x: (x - 127) / 128,
    "EfficientNetB": lambda x: (x / 255 - MEAN) / STD,
    "EfficientNetV2B": lambda x: (x / 255 - MEAN) / STD,
    "EfficientNetV2": lambda x: (x - 128) / 128,
    "ConvNeXt": lambda x: (x / 255 - MEAN) / STD,
    "MobileNetV3": lambda x: x / 127.5 - 1,
}


def photos(height: int, width: int, count: int = 2) -> np.ndarray:
    """Cuttings of two real photographs, uint8 ``[count, height, width, 3]``."""
    images = load_sample_images().images
    return np.stack([images[i % 2][9 * i : 9 * i + height, :width] for i in range(count)])


def reference_preprocessing(name: str, pixels: np.ndarray) -> np.ndarray:
    """What the network's own ``preprocess_input``, or its published code, makes of pixels."""
    family = max((key for key in PUBLISHED if name.startswith(key)), key=len, default=None)
    if family:
        return PUBLISHED[family](pixels.astype(np.float64))
    module = importlib.import_module(getattr(keras.applications, name).__module__)
    return module.preprocess_input(pixels.astype(np.float32))


def randomise(model: keras.Model, seed: int = 0) -> None:
    """Gives every weight a random value, so that no layer is the identity or dead.

    Statistics come from photographs: with random ones too, activations grow a thousandfold, and
    rounding of the last bit then changes the answer by a hundredth.
    """
    random = np.random.default_rng(seed)
    for layer in model.layers:
        arrays = []
        for weight in layer.weights:
            shape = tuple(weight.shape)
            if len(shape) > 1:
                arrays.append(weight.numpy())
            elif "variance" in weight.path or "gamma" in weight.path:
                arrays.append(random.uniform(0.5, 1.5, shape))
            else:
                arrays.append(random.normal(0, 0.1, shape))
        layer.set_weights(arrays)
    set_batch_norm(model, trains=True)
    measure_statistics(model, [photos(*model.input_shape[1:3], count=8)])


def check(name: str, size: tuple[int, int], *, tflite: bool) -> None:
    """Raises an AssertionError where the backbone breaks a promise."""
    keras.utils.set_random_seed(0)
    backbone = backbones.build(name, image_size=size, weights="none")
    randomise(backbone.model)
    pixels = photos(*size)
    check_graph(backbone)
    check_preprocessing(backbone, pixels)
    check_blocks(backbone)
    check_cuts(backbone, pixels)
    check_levels(backbone, pixels)
    gc.collect()  # a giant must be held once only: models lie in cycles
    check_training(backbone, pixels)
    gc.collect()
    if tflite:
        check_tflite(backbone, pixels)
        check_frozen(backbone, pixels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        expected = save(backbone, pixels, path)
        spec, blocks = backbone.spec, backbone.blocks
        del backbone  # Keras needs three times a giant's size to load it
        gc.collect()
        loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(np.asarray(loaded(pixels, training=False)), expected)
    assert backbones.block_map(loaded, spec) == blocks


def check_frozen(backbone: Backbone, pixels: np.ndarray) -> None:
    """OpenVINO gives what Keras gives below a cut, and nothing else."""
    model = build_classifier(backbone, 3, LEVELS)
    cut = cut_blocks(backbone.blocks, LEVELS)[-2].cut
    found = {}
    for name in ("keras", "openvino"):
        part = FrozenPart(model, backbone, cut, engine=name, examples_count=2, sample=pixels)
        found[name] = part.engine.run(pixels)
        assert part.engine.name == name
    assert len(found["openvino"]) == len(cut) + 1
    for mine, expected in zip(found["openvino"], found["keras"], strict=True):
        assert mine.shape == expected.shape
        assert np.linalg.norm(mine - expected) <= 1e-3 * np.linalg.norm(expected)


def check_graph(backbone: Backbone) -> None:
    model = backbone.model
    assert [(i.name, keras.backend.standardize_dtype(i.dtype)) for i in model.inputs] == [
        ("image", "uint8")
    ]
    assert not any(isinstance(operation, keras.Model) for operation in model.operations)
    for operation in model.operations:
        assert type(operation).__module__.startswith("keras.src."), operation
        assert type(operation).__name__ != "Lambda"
    assert len(model.output_shape) == 4


def check_preprocessing(backbone: Backbone, pixels: np.ndarray) -> None:
    prefix, _ = backbones.split(backbone.model, ["preprocessing"])
    expected = reference_preprocessing(backbone.spec.name, pixels)
    received = np.asarray(prefix(pixels))
    # Caffe's values reach 150, where float32 itself is 1e-5 fine.
    np.testing.assert_allclose(received, expected, rtol=1e-6, atol=1e-5)


def check_blocks(backbone: Backbone) -> None:
    blocks, model = backbone.blocks, backbone.model
    layers = [layer for block in blocks for layer in block.layers]
    assert sorted(layers) == sorted(operation.name for operation in model.operations)
    assert len({block.name for block in blocks}) == len(blocks)
    assert all(block.name and block.macs > 0 for block in blocks)
    total = sum(block.parameters for block in blocks)
    assert total == model.count_params() == backbone.spec.parameters
    assert blocks[-1].output_shapes == (model.output_shape[1:],)


def check_cuts(backbone: Backbone, pixels: np.ndarray) -> None:
    blocks, model = backbone.blocks, backbone.model
    whole = np.asarray(model(pixels, training=False))
    assert np.isfinite(whole).all()
    for index in (0, len(blocks) // 2, len(blocks) - 2):
        prefix, suffix = backbones.split(model, blocks[index].cut)
        cut = prefix(pixels, training=False)
        joined = np.asarray(suffix(cut, training=False))
        assert np.abs(joined - whole).max() == 0.0, blocks[index].name
        tensors = cut if isinstance(cut, list) else [cut]
        assert tuple(tuple(t.shape[1:]) for t in tensors) == blocks[index].output_shapes
        weights = {id(weight) for weight in model.weights}
        assert {id(w) for part in (prefix, suffix) for w in part.weights} <= weights


def check_levels(backbone: Backbone, pixels: np.ndarray) -> None:
    """A head that sees lower maps: at every cut one tensor more, and nothing else changes."""
    model, blocks = build_classifier(backbone, 3, LEVELS), cut_blocks(backbone.blocks, LEVELS)
    levels = levels_of(backbone.blocks, LEVELS)
    assert levels
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    joined = np.asarray(pooled(pixels, training=False))
    maps = tensors(backbone.model, [backbone.blocks[n].cut[0] for n in levels])
    found = keras.Model(model.input, [*maps, backbone.model.output])(pixels, training=False)
    expected = np.concatenate([np.asarray(one).mean(axis=(1, 2)) for one in found], axis=1)
    np.testing.assert_allclose(joined, expected, rtol=1e-4, atol=1e-4)
    whole = np.asarray(model(pixels, training=False))
    for index in {levels[0], levels[-1], len(blocks) // 2, len(blocks) - 2}:
        prefix, suffix = backbones.split(model, blocks[index].cut)
        cut = prefix(pixels, training=False)
        assert np.abs(np.asarray(suffix(cut, training=False)) - whole).max() == 0.0
        parts = cut if isinstance(cut, list) else [cut]
        assert tuple(tuple(t.shape[1:]) for t in parts) == blocks[index].output_shapes


def check_training(backbone: Backbone, pixels: np.ndarray) -> None:
    rows = backbones.prices(backbone)
    assert [row["depth"] for row in rows] == list(range(len(backbone.blocks) + 1))
    opened = backbones.unfreeze(backbone.model, 2, backbone.blocks)
    assert opened == backbone.blocks[-2:]
    model = build_classifier(backbone, 2)
    names = {name for block in opened for name in block.layers}
    expected = {
        weight.path
        for layer in model.layers
        if layer.name in names or layer.name == "logits"
        for weight in layer.weights
        if not isinstance(layer, keras.layers.BatchNormalization)
    }
    trainable = {weight.path: weight for weight in model.trainable_weights}
    assert set(trainable) == expected
    head = model.get_layer("logits").count_params()
    assert sum(int(np.prod(w.shape)) for w in trainable.values()) == (
        rows[2]["trainable_parameters"] + head
    )
    before = {weight.path: fingerprint(weight) for weight in model.weights}
    # Random weights give huge logits, whose probabilities have no gradient left.
    logits = keras.Model(model.input, model.get_layer("logits").output)
    logits.compile("sgd", "mse", run_eagerly=True)
    logits.train_on_batch(pixels, np.zeros((2, 2)))
    moved = {weight.path for weight in model.weights if fingerprint(weight) != before[weight.path]}
    assert moved
    assert moved <= set(trainable)


def fingerprint(weight: keras.Variable) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(weight.numpy())).digest()


def save(backbone: Backbone, pixels: np.ndarray, path: Path) -> np.ndarray:
    """Saves a classifier of 1,001 classes, and returns its answer."""
    assert build_classifier(backbone, 2).output_shape == (None, 2)
    classifier = build_classifier(backbone, 1001, LEVELS)
    assert classifier.output_shape == (None, 1001)
    classifier.save(path)
    return np.asarray(classifier(pixels, training=False))


def check_tflite(backbone: Backbone, pixels: np.ndarray) -> None:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = tf.function(lambda image: backbone.model(image, training=False))
    traced = graph.get_concrete_function(tf.TensorSpec((1, *pixels.shape[1:]), tf.uint8))
    # Freezing first takes a third of the time that the way through a SavedModel takes.
    frozen = convert_variables_to_constants_v2(traced)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    interpreter = Interpreter(model_content=converter.convert(), num_threads=2)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[:1])
    interpreter.invoke()
    received = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = np.asarray(backbone.model(pixels[:1], training=False))
    assert np.abs(received - expected).max() <= 1e-3 * np.abs(expected).max()


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        checked, height, width, *options = argument.split(",")
        check(checked, (int(height), int(width)), tflite="tflite" in options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        assert peak < 6, f"{checked} took {peak:.1f} GiB"
        print("passed", checked, flush=True)
        keras.utils.clear_session()
