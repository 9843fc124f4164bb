"""Runs that share compiled steps come to what runs of their own come to."""

import dataclasses

import numpy as np
import pytest

from keras_transfer import backbones, datasets, training
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.finetune import trace_ahead
from keras_transfer.learn.pool import ModelPool
from keras_transfer.recipe import Recipe

FIRST = Recipe(
    image_size=32, unfreeze=1, fine_tune_epochs=2, penalty="l2-sp", penalty_strength=0.01,
    levels=0, views=1, batch_norm="frozen",
)  # fmt: skip
# What only sets variables of the step, or what goes into it.
SECOND = dataclasses.replace(
    FIRST, fine_tune_lr=2e-3, rate_decay=0.6, weight_decay=0.05, penalty_strength=0.1,
    label_smoothing=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def fit(digits_folder, tmp_path_factory):
    data = datasets.load_dataset(str(digits_folder), image_size=32, split=(0.6, 0.2, 0.2))
    built = backbones.build("EfficientNetLite0", image_size=32, weights="offline")
    store = ActivationStore(tmp_path_factory.mktemp("store"))

    def run(recipe, pool=None):
        shared = training.Shared(pool or ModelPool(), store)
        return training.train(data, recipe=recipe, backbone=built, shared=shared, judge=False)

    return run


@pytest.mark.slow
def test_a_shared_step_is_compiled_once_and_changes_nothing(fit):
    pool = ModelPool()
    first, second, again = (fit(recipe, pool) for recipe in (FIRST, SECOND, FIRST))
    assert [one.compilations for one in (first, second, again)] == [1, 0, 0]
    alone = fit(SECOND)
    assert alone.compilations == 1
    np.testing.assert_allclose(second.validation_logits, alone.validation_logits, atol=1e-4)
    np.testing.assert_allclose(again.validation_logits, first.validation_logits, atol=1e-4)
    # The rates did arrive: other settings, other weights.
    ends = [[c.nll for c in one.candidates if c.name == "last epoch"] for one in (first, second)]
    assert ends[0] != ends[1]


@pytest.mark.slow
def test_what_is_compiled_into_a_step_is_not_shared(fit):
    pool = ModelPool()
    fit(FIRST, pool)
    for other in ({"penalty": "none"}, {"ema": 0.0}, {"unfreeze": 2}):
        recipe = dataclasses.replace(FIRST, fine_tune_epochs=1, **other)
        assert fit(recipe, pool).compilations == 1


def test_a_step_traced_beforehand_is_traced_once_and_changes_nothing(fit, monkeypatch):
    recipe = dataclasses.replace(FIRST, unfreeze=3)
    traced = []

    def watched(suffix, *rest):
        trace_ahead(suffix, *rest)
        traced.append(suffix.compilations)

    monkeypatch.setattr(training, "trace_ahead", watched)
    ahead = fit(recipe)
    monkeypatch.setattr(training, "trace_ahead", lambda *arguments: None)
    alone = fit(recipe)
    assert traced == [1]
    assert ahead.compilations == alone.compilations == 1
    ends = [{c.name: c.nll for c in one.candidates}["last epoch"] for one in (ahead, alone)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)


def test_a_step_for_xla_is_traced_by_its_phase_alone(fit):
    assert fit(dataclasses.replace(FIRST, fine_tune_epochs=1, jit="on")).compilations == 1
