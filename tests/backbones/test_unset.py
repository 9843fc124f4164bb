"""Building without drawing values that nobody will see."""

import threading

import keras
import numpy as np
import pytest

from keras_transfer.backbones import build
from keras_transfer.backbones.weights import unset_weights


def values(layer):
    return [np.array(variable) for variable in layer.variables]


def test_layers_of_this_thread_alone_begin_with_zeros():
    made = {}

    def other():
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
        made["other"] = layer

    with unset_weights():
        made["own"] = keras.layers.Dense(3, bias_initializer="ones")
        made["own"].build((None, 2))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    made["after"] = keras.layers.Dense(3)
    made["after"].build((None, 2))
    assert not any(value.any() for value in values(made["own"]))
    assert values(made["other"])[0].all()
    assert values(made["after"])[0].all()


def test_an_error_leaves_layers_as_they_are():
    with pytest.raises(ZeroDivisionError), unset_weights():
        raise ZeroDivisionError
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    assert values(layer)[0].all()


def test_random_weights_are_drawn():
    model = build("MobileNetV2", image_size=32, weights="none").model
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert kernels
    assert all(np.array(kernel).std() > 0 for kernel in kernels)
