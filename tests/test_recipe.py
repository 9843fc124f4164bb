import json
import math

import pytest

from keras_transfer import cli
from keras_transfer.base.errors import UsageError
from keras_transfer.recipe import EFFORTS, LOCAL, SETTINGS, Recipe, kind_of, read_file, resolve


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_recipe_survives_json(effort):
    recipe = resolve({"effort": effort})
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_default_effort_is_the_default_of_every_setting():
    recipe = resolve({})
    assert {**recipe.to_dict(), "batch_norm": "auto"} == Recipe().to_dict()


def test_efforts_cost_more_one_after_the_other():
    quick, default, high = (resolve({"effort": effort}) for effort in EFFORTS)
    assert quick.views < default.views < high.views
    assert quick.fine_tune_epochs < default.fine_tune_epochs < high.fine_tune_epochs


@pytest.mark.parametrize(
    ("given", "views"),
    [
        ({"fine_tune_epochs": 20}, 8),
        ({"fine_tune_epochs": 1}, 1),
        ({"fine_tune_epochs": 0}, 2),
        ({"fine_tune_epochs": 20, "views": 3}, 3),
        ({"fine_tune_lr": 1e-3}, 2),
        ({"weights": "none", "fine_tune_epochs": 30}, 8),
        ({"weights": "none", "fine_tune_epochs": 3}, 3),
    ],
)
def test_more_epochs_see_more_views_unless_these_were_chosen(given, views):
    assert resolve(given).views == views


def test_what_is_typed_beats_the_file_beats_the_effort_beats_the_default(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('effort = "quick"\nseed = 3\nfine_tune_lr = 2e-4\nfine_tune_epochs = 7\n')
    held = read_file(file)
    recipe = resolve({"fine_tune_epochs": 5, "seed": 0}, held)
    # Typed, though equal to the default; from the file; from the effort; the default.
    assert (recipe.fine_tune_epochs, recipe.seed) == (5, 0)
    assert recipe.fine_tune_lr == 2e-4
    assert recipe.unfreeze == "12%"
    assert recipe.batch_size == 32


def test_an_effort_that_is_typed_beats_what_the_effort_of_a_run_had_decided(tmp_path):
    file = tmp_path / "config.json"
    run = resolve({"effort": "quick", "fine_tune_lr": 1e-4}).to_dict()
    file.write_text(json.dumps({"keras_transfer": "1", "asked": ["effort", "fine_tune_lr"]} | run))
    assert resolve({}, read_file(file)) == resolve({"effort": "quick", "fine_tune_lr": 1e-4})
    typed = {"effort": "high"}
    again = resolve(typed, read_file(file, typed))
    assert again == resolve({"effort": "high", "fine_tune_lr": 1e-4})


def test_every_setting_is_an_option_a_word_of_a_file_and_in_the_help(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    said = capsys.readouterr().out
    for name in SETTINGS:
        assert f"--{name.replace('_', '-')} " in said
    others = {"fold": [1, 5], "unfreeze": 3, "cache": "off", "devices": 2, "columns": "text=review"}
    for name, field in SETTINGS.items():
        kind = kind_of(name)
        value = others.get(name) or (kind.words[-1] if kind.words else field.default)
        if value is None:
            value = {
                "weights": "none", "splits": "s.csv", "group": "film", "machines": "auto",
            }.get(name, 1)  # fmt: skip
        held = Recipe(**{name: value})
        if name not in LOCAL:
            assert Recipe(**held.to_dict()) == held


def test_rate_rises_linearly_then_falls_as_a_cosine_to_zero():
    recipe = Recipe(fine_tune_lr=2.0, warmup=0.2)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) == rates[19] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(2.0 * (1 + math.cos(math.pi / 2)) / 2)
    assert 0 <= rates[-1] < 0.01
    assert sorted(rates[20:], reverse=True) == rates[20:]


def test_constant_rate_stays():
    recipe = Recipe(fine_tune_lr=0.5, warmup=0.0, decay="constant")
    assert {recipe.rate(step, 10) for step in range(10)} == {0.5}


def test_random_weights_have_nothing_to_keep():
    given = {"penalty": "l2-sp", "rate_decay": 0.5}
    random, known = resolve({"weights": "none", **given}), resolve(given)
    assert random.unfreeze == "all"
    assert random.fine_tune_lr > known.fine_tune_lr
    assert (random.batch_norm, random.penalty, random.rate_decay) == ("train", "l2", 1.0)
    assert (known.batch_norm, known.penalty, known.rate_decay) == ("frozen", "l2-sp", 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decay", "linear"),
        ("penalty", "l1"),
        ("batch_norm", "moving"),
        ("fine_tune_epochs", -1),
        ("fine_tune_epochs", 2.5),
        ("fine_tune_epochs", True),
        ("batch_size", 0),
        ("views", 0),
        ("fine_tune_lr", "fast"),
        ("fine_tune_lr", float("nan")),
        ("rate_decay", 1.5),
        ("label_smoothing", 1.0),
        ("seed", 2**32),
        ("effort", "defalt"),
        ("split", (0.5, 0.5)),
        ("fold", "6/5"),
        ("time_budget", "soon"),
        ("cache_limit", "much"),
        ("unfreeze", 1.5),
        ("devices", "both"),
    ],
)
def test_a_wrong_setting_names_it_and_what_was_received(name, value):
    with pytest.raises(UsageError) as caught:
        Recipe(**{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_spellings_of_the_command_line_work_in_python():
    recipe = Recipe(time_budget="10m", cache_limit="2G", split="0.6,0.2,0.2", fold="2/5", seed="4")
    assert (recipe.time_budget, recipe.cache_limit, recipe.seed) == (600.0, 2 * 2**30, 4)
    assert (recipe.split, recipe.fold) == ((0.6, 0.2, 0.2), (2, 5))


def test_unknown_words_and_keys_are_refused_with_near_names(tmp_path):
    with pytest.raises(UsageError, match="Did you mean default"):
        resolve({"effort": "defalt"})
    with pytest.raises(UsageError, match="fine_tune_lr"):
        resolve({"fine_tune_rl": 1.0})
    with pytest.raises(UsageError, match="splits and fold"):
        resolve({"fold": "1/5", "splits": "splits.csv"})
    (tmp_path / "broken.toml").write_text("seed = ")
    with pytest.raises(UsageError, match=r"Cannot read .*broken.toml: Invalid value"):
        read_file(tmp_path / "broken.toml")
