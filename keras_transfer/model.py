"""The deployable graph: uint8 RGB in, probabilities out, made of standard Keras layers only."""

from __future__ import annotations

from typing import Any

import keras

from keras_transfer.distribution import Distribution, clone
from keras_transfer.schedule import HeadSpec
from keras_transfer.types import Backbone

POOL, LOGITS, TEMPERATURE, PROBABILITIES = "avg_pool", "logits", "temperature", "probabilities"

# Layers that compute in float32 whatever the precision: pixels in, means and the head out.
_FLOAT32 = frozenset(
    {"preprocessing", POOL, "head_hidden", "head_dropout", "head_unit", "head_cosine", LOGITS}
    | {TEMPERATURE, PROBABILITIES}
)


def build_classifier(backbone: Backbone, classes: int, head: HeadSpec | None = None) -> keras.Model:
    """Puts a classification head on a backbone.

    Args:
        backbone: a built backbone; its layers and weights become part of the classifier.
        classes: number of classes, at least 2.
        head: the kind of head; the default is linear.

    Returns:
        One flat functional model. Input: uint8 (floats in 0..255 are cast) ``[batch, height,
        width, 3]`` RGB. Output: float32 ``[batch, classes]``, the probabilities. Its last layers
        are ``avg_pool``, ``logits``, ``temperature`` (the division by the fitted temperature, 1
        until :func:`set_temperature`) and ``probabilities``.

    >>> from keras_transfer import build
    >>> model = build_classifier(build("MobileNetV3Small", image_size=64, weights="none"), 5)
    >>> model.input_shape, model.output_shape
    ((None, 64, 64, 3), (None, 5))
    """
    head = head or HeadSpec()
    features = backbone.model.output
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D(name=POOL)(features)
    else:
        features = keras.layers.Activation("linear", name=POOL)(features)
    if head.kind == "hidden":
        features = keras.layers.Dense(head.hidden, activation="relu", name="head_hidden")(features)
    if head.dropout:
        features = keras.layers.Dropout(head.dropout, name="head_dropout")(features)
    if head.kind == "cosine":
        features = keras.layers.UnitNormalization(name="head_unit")(features)
        cosines = keras.layers.Dense(
            classes,
            use_bias=False,
            kernel_constraint=keras.constraints.UnitNorm(axis=0),
            dtype="float32",
            name="head_cosine",
        )(features)
        logits = keras.layers.Rescaling(head.scale, name=LOGITS, dtype="float32")(cosines)
    else:
        logits = keras.layers.Dense(classes, name=LOGITS, dtype="float32")(features)
    scaled = keras.layers.Rescaling(1.0, name=TEMPERATURE, dtype="float32")(logits)
    probabilities = keras.layers.Softmax(name=PROBABILITIES, dtype="float32")(scaled)
    return keras.Model(backbone.model.input, probabilities, name="classifier")


def set_temperature(model: keras.Model, temperature: float) -> None:
    """Makes the shipped graph divide its logits by ``temperature`` (Guo et al., 2017).

    The order of the classes is unchanged. 1 switches calibration off.
    """
    model.get_layer(TEMPERATURE).scale = 1.0 / temperature
    # A function traced before would keep the old factor.
    model.predict_function = None


def temperature_of(model: keras.Model) -> float:
    """The temperature by which a classifier's graph divides its logits."""
    return 1.0 / float(model.get_layer(TEMPERATURE).scale)


def head_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers above the pooled features, bottom to top."""
    names = [layer.name for layer in model.layers]
    return model.layers[names.index(POOL) + 1 :]


def working_copy(
    model: keras.Model, precision: str = "float32", distribution: Distribution | None = None
) -> keras.Model:
    """A copy of a part of a classifier that computes in another precision or on several devices.

    Args:
        model: the part; it stays as it is, in float32 on one device.
        precision: a Keras dtype policy. Pixels are scaled, and features pooled and classified, in
            float32 in any case.
        distribution: the devices that share every batch.

    Returns:
        The copy, its variables in the order of the model's; the model itself where one device and
        float32 are asked for.
    """
    if precision == "float32" and distribution is None:
        return model
    return clone(model, lambda name: "float32" if name in _FLOAT32 else precision, distribution)


def reseed(model: keras.Model, seed: int) -> None:
    """Restarts the random numbers of Dropout and stochastic depth from ``seed``.

    Layers draw their seeds when they are built, which for a backbone is before a run begins.
    """
    for number, layer in enumerate(model.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign([(seed * 1_000_003 + number) % 2**31, 0])


def freeze_batch_norm(model: keras.Model) -> None:
    """Puts every BatchNormalization into inference mode, its scale and offset frozen too.

    In Keras a BatchNormalization with ``trainable=False`` uses its moving statistics even when
    called with ``training=True``; batches of a fine-tuning run are too small and too unlike
    ImageNet to replace them (Kumar et al., 2022).
    """
    for layer in _batch_norms(model):
        layer.trainable = False


def train_batch_norm(model: keras.Model) -> None:
    """Lets every BatchNormalization train, statistics included, as random weights need it.

    Statistics that average over a thousand batches, as some networks have them, never arrive in a
    short training: the momentum is at most 0.9.
    """
    for layer in _batch_norms(model):
        layer.trainable = True
        layer.momentum = min(layer.momentum, 0.9)


def start_statistics(model: keras.Model, batch: Any) -> None:
    """Replaces the statistics of a model of random weights by those of one batch.

    What a short training leaves of the initial 0 and 1 multiplies from layer to layer, until
    nothing comes out at the top.

    Args:
        model: after :func:`train_batch_norm`; its weights stay as they are.
        batch: inputs of the model, at least a dozen that stand for all.
    """
    layers = _batch_norms(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    model(batch, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    kind = keras.layers.BatchNormalization
    return [layer for layer in model.layers if isinstance(layer, kind)]
