import dataclasses
import json
import math

import pytest

from keras_transfer.api import change
from keras_transfer.base.errors import UsageError
from keras_transfer.schedule import EFFORTS, HeadSpec, Phase, Schedule, recipe, settle


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_recipe_survives_json(effort):
    schedule = recipe(effort)
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_efforts_cost_more_one_after_the_other():
    quick, default, high = (recipe(effort) for effort in EFFORTS)
    assert quick.views < default.views < high.views
    assert quick.fine_tune.epochs < default.fine_tune.epochs < high.fine_tune.epochs


@pytest.mark.parametrize(
    ("views", "epochs", "then"), [(2, 20, 8), (2, 1, 1), (2, 0, 2), (3, 20, 3)]
)
def test_more_epochs_see_more_views_unless_these_were_chosen(views, epochs, then):
    schedule = dataclasses.replace(recipe(), views=views)
    assert change(schedule, fine_tune_epochs=epochs).views == then
    assert change(schedule, fine_tune_lr=1e-3).views == views


def test_unknown_effort_names_the_near_one():
    with pytest.raises(UsageError, match="default"):
        recipe("defalt")


def test_rate_rises_linearly_then_falls_as_a_cosine_to_zero():
    phase = Phase("fine_tune", learning_rate=2.0, warmup=0.2)
    rates = [phase.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) == rates[19] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(2.0 * (1 + math.cos(math.pi / 2)) / 2)
    assert 0 <= rates[-1] < 0.01
    assert sorted(rates[20:], reverse=True) == rates[20:]


def test_constant_rate_stays():
    phase = Phase("fine_tune", learning_rate=0.5, warmup=0.0, decay="constant")
    assert {phase.rate(step, 10) for step in range(10)} == {0.5}


def test_random_weights_have_nothing_to_keep():
    schedule = recipe(pretrained=False)
    assert schedule.fine_tune.unfreeze == "all"
    assert schedule.fine_tune.learning_rate > recipe().fine_tune.learning_rate
    pulled = dataclasses.replace(
        schedule,
        fine_tune=dataclasses.replace(schedule.fine_tune, penalty="l2-sp", rate_decay=0.5),
    )
    random = settle(pulled, pretrained=False).fine_tune
    assert (random.batch_norm, random.penalty, random.rate_decay) == ("train", "l2", 1.0)
    known = settle(pulled, pretrained=True).fine_tune
    assert (known.batch_norm, known.penalty, known.rate_decay) == ("frozen", "l2-sp", 0.5)
    assert (random.dropout, known.dropout) == ("on", "off")
    with pytest.raises(UsageError, match="inference mode"):
        Phase("fine_tune", batch_norm="train", dropout="off")


def test_a_head_with_dropout_has_it_in_the_second_phase_too():
    schedule = dataclasses.replace(
        recipe(), head=Phase("head"), head_spec=HeadSpec("hidden", dropout=0.2)
    )
    assert settle(schedule, pretrained=True).fine_tune.dropout == "on"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("solver", "adamm"),
        ("decay", "linear"),
        ("penalty", "l1"),
        ("batch_norm", "moving"),
        ("epochs", -1),
        ("batch_size", 0),
        ("learning_rate", "fast"),
        ("rate_decay", 1.5),
        ("label_smoothing", 1.0),
    ],
)
def test_a_wrong_setting_names_the_field_and_what_was_received(field, value):
    with pytest.raises(UsageError) as caught:
        Phase("fine_tune", **{field: value})
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)


def test_unknown_keys_are_refused_with_a_near_name():
    values = recipe().to_dict()
    values["fine_tune"]["learning_rte"] = 1.0
    with pytest.raises(UsageError, match="learning_rate"):
        Schedule.from_dict(values)


def test_lbfgs_refuses_a_head_that_is_not_linear():
    with pytest.raises(UsageError, match="linear"):
        dataclasses.replace(recipe(), head_spec=HeadSpec("hidden"))


def test_wrong_head_and_views_are_refused():
    with pytest.raises(UsageError, match="cosine"):
        HeadSpec("cosin")
    with pytest.raises(UsageError, match="views=0"):
        dataclasses.replace(recipe(), views=0)
