import numpy as np
import pytest

from keras_transfer import datasets
from keras_transfer.base import errors
from keras_transfer.evaluation.scratch import train_from_scratch


@pytest.mark.slow
def test_it_trains_until_the_time_is_up_and_answers_every_test_image():
    data = datasets.load_dataset("builtin:digits", image_size=32)
    before = data.examples[:5].copy()
    result = train_from_scratch(data, "MobileNetV2", seconds=3.0, flip=False)
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
