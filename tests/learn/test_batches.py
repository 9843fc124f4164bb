import types

import numpy as np
import pytest

from keras_transfer.base.task import ONE
from keras_transfer.learn.batches import Examples, batches, epoch


def examples_of(labels, weights):
    view = types.SimpleNamespace(gather=lambda rows: [rows])
    targets = ONE.targets(labels, int(labels.max()) + 1)
    return Examples([view], targets, weights, view, np.empty(0, np.int64))


def test_each_class_has_its_share_of_the_loss_however_rare_it_is():
    labels = np.repeat(np.arange(3), [900, 90, 10])
    examples = examples_of(labels, ONE.weights(labels, 3, True))
    total = np.zeros(3)
    for number in range(20):
        for (rows,), targets, shares in batches(examples.views[0], examples, 32, [0, number], 3):
            assert rows.shape == shares.shape == (33,)
            assert shares[32] == 0.0, "rows that fill up are of no weight"
            total += shares @ targets
        _, _, held = epoch(examples, 32, [0, number])
        assert (held[-1] > 0).sum() == 1000 % 32
    np.testing.assert_allclose(total / total.sum(), 1 / 3, atol=0.04)
    assert total.sum() == pytest.approx(20 * 32, rel=0.05)  # a mean loss, as without weights


def test_equal_weights_give_each_batch_a_mean():
    labels = np.arange(70) % 2
    examples = examples_of(labels, np.ones(70, np.float32))
    _, _, shares = epoch(examples, 32, [0, 0])
    np.testing.assert_array_equal(shares[:2], np.float32(1 / 32))
    np.testing.assert_array_equal(shares[2], [*[np.float32(1 / 6)] * 6, *[0.0] * 26])
