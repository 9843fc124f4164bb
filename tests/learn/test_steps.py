"""Runs that share compiled steps come to what runs of their own come to."""

import dataclasses

import numpy as np
import pytest

from keras_transfer import backbones, datasets, training
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.finetune import assign, trace_step, values_of
from keras_transfer.learn.steps import Steps
from keras_transfer.schedule import Phase, Schedule

FIRST = Phase("fine_tune", unfreeze=1, epochs=2, penalty="l2-sp", penalty_strength=0.01)
# What only sets variables of the step, or what goes into it.
SECOND = dataclasses.replace(
    FIRST, learning_rate=2e-3, rate_decay=0.6, weight_decay=0.05, penalty_strength=0.1,
    label_smoothing=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def fit(digits_folder, tmp_path_factory):
    data = datasets.load_dataset(str(digits_folder), image_size=32, split=(0.6, 0.2, 0.2))
    built = backbones.build("EfficientNetLite0", image_size=32, weights="offline")
    pretrained = values_of(built.model.variables)
    store = ActivationStore(tmp_path_factory.mktemp("store"))

    def run(phase, steps=None, **options):
        assign(built.model.variables, pretrained)
        schedule = Schedule(Phase("head", solver="lbfgs"), phase, views=1)
        return training.fit(data, built, schedule, store=store, steps=steps, **options)

    return run


def test_a_shared_step_is_compiled_once_and_changes_nothing(fit):
    steps = Steps()
    first, second, again = (fit(phase, steps) for phase in (FIRST, SECOND, FIRST))
    assert [one.compilations for one in (first, second, again)] == [1, 0, 0]
    alone = fit(SECOND)
    assert alone.compilations == 1
    np.testing.assert_allclose(second.validation_logits, alone.validation_logits, atol=1e-4)
    np.testing.assert_allclose(again.validation_logits, first.validation_logits, atol=1e-4)
    # The rates did arrive: other settings, other weights.
    ends = [[c.nll for c in one.candidates if c.name == "last epoch"] for one in (first, second)]
    assert ends[0] != ends[1]


def test_what_is_compiled_into_a_step_is_not_shared(fit):
    steps = Steps()
    fit(FIRST, steps)
    for other in ({"penalty": "none"}, {"solver": "sgd"}, {"unfreeze": 2}):
        assert fit(dataclasses.replace(FIRST, epochs=1, **other), steps).compilations == 1


def test_a_step_traced_beforehand_is_traced_once_and_changes_nothing(fit, monkeypatch):
    """Stochastic depth draws anew in each step: one that was not put back would show."""
    phase = dataclasses.replace(FIRST, unfreeze=3, dropout="on")
    traced = []

    def watched(suffix, *rest):
        trace_step(suffix, *rest)
        traced.append(suffix.compilations)

    monkeypatch.setattr(training, "trace_step", watched)
    ahead = fit(phase)
    monkeypatch.setattr(training, "trace_step", lambda *arguments: None)
    alone = fit(phase)
    assert traced == [1]
    assert ahead.compilations == alone.compilations == 1
    ends = [{c.name: c.nll for c in one.candidates}["last epoch"] for one in (ahead, alone)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)


def test_a_step_for_xla_is_traced_by_its_phase_alone(fit):
    assert fit(dataclasses.replace(FIRST, epochs=1), jit="on").compilations == 1
