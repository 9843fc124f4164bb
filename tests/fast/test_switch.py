"""What only makes steps faster can be turned off, and nothing else changes."""

import numpy as np
import pytest

from keras_transfer import backbones, datasets, fast, training
from keras_transfer.fast import steps
from keras_transfer.learn.pool import ModelPool
from keras_transfer.recipe import Recipe

RECIPE = Recipe(
    image_size=32, unfreeze=3, fine_tune_epochs=2, views=1, levels=0, batch_norm="frozen",
    engine="keras", precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def fit(digits_folder):
    data = datasets.load_dataset(str(digits_folder), image_size=32, split=(0.6, 0.2, 0.2))
    built = backbones.build("EfficientNetLite0", image_size=32, weights="offline")

    def run():
        shared = training.Shared(ModelPool())
        return training.train(data, recipe=RECIPE, backbone=built, shared=shared, judge=False)

    return run


def losses(done):
    return [row["train_loss"] for row in done.history]


@pytest.mark.slow
def test_the_plain_way_gives_the_same(fit, monkeypatch):
    cheap = []
    own = steps.cheap_calls
    monkeypatch.setattr(
        steps, "cheap_calls", lambda *given, **named: cheap.append(1) or own(*given, **named)
    )
    quick = fit()
    assert cheap
    cheap.clear()
    monkeypatch.setenv("KERAS_TRANSFER_FAST", "off")
    plain = fit()
    assert not cheap
    np.testing.assert_allclose(losses(plain), losses(quick), rtol=1e-3)
    # Which of two candidates that are nearly equal is kept may hang on the last digit.
    ends = [{one.name: one.nll for one in done.candidates} for done in (plain, quick)]
    assert ends[0]["last epoch"] == pytest.approx(ends[1]["last epoch"], abs=2e-3)
    assert ends[0]["average"] == pytest.approx(ends[1]["average"], abs=2e-3)


def test_where_a_private_part_of_keras_is_gone_the_plain_way_is_taken(monkeypatch):
    assert all(map(fast._is_there, fast.PRIVATE))
    fast._is_there.cache_clear()
    monkeypatch.setitem(fast.PRIVATE, "Model._gone_in_a_later_keras", "a test")
    with pytest.warns(UserWarning, match="has no Model._gone_in_a_later_keras"):
        assert not fast.enabled("Model._gone_in_a_later_keras")
    assert fast.enabled("Model._run_through_graph")
