import keras
import numpy as np
import pytest

from keras_transfer import datasets
from keras_transfer.base import errors
from keras_transfer.base.task import ONE
from keras_transfer.evaluation import scratch
from keras_transfer.evaluation.scratch import train_from_scratch


@pytest.mark.slow
def test_it_trains_until_the_time_is_up_and_answers_every_test_image():
    data = datasets.load_dataset("builtin:digits", image_size=32)
    before = data.examples[:5].copy()
    result = train_from_scratch(data, "MobileNetV2", seconds=3.0)
    test = data.labels[data.indices("test")]
    assert result.name == "training from scratch"
    assert result.predicted.shape == test.shape
    assert result.evaluation.accuracy == np.mean(result.predicted == test)
    assert result.evaluation.nll < 1.2 * result.evaluation.chance["nll"]
    assert result.seconds >= 3.0
    assert np.array_equal(before, data.examples[:5])


def test_pixels_are_needed():
    data = datasets.load_dataset("builtin:digits")
    with pytest.raises(errors.DataError, match="opened without a size"):
        train_from_scratch(data, "MobileNetV2", seconds=1.0)


def test_a_network_of_ones_own_begins_with_other_weights_and_all_of_them_train(tmp_path):
    scaled = keras.layers.Normalization(mean=3.0, variance=4.0)
    by_data = keras.layers.Normalization(name="by_data")
    by_data.adapt(np.linspace(0.0, 9.0, 300).reshape(100, 3))
    frozen = keras.layers.Conv2D(4, 3, strides=2, name="frozen", trainable=False)
    images = keras.Input((32, 32, 3))
    outputs = keras.layers.ReLU()(frozen(by_data(scaled(images))))
    keras.Model(images, outputs, name="mine").save(tmp_path / "mine.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    network = scratch._random_network(str(tmp_path / "mine.keras"), 2, pixels, ONE)
    kernel, statistics = network.get_layer("frozen").kernel, network.get_layer("by_data")
    assert not np.allclose(kernel, frozen.kernel)
    assert any(variable is kernel for variable in network.trainable_variables)
    np.testing.assert_array_equal(np.ravel(statistics.mean), np.ravel(by_data.mean))
