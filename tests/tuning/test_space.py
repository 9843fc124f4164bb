import dataclasses
import json
import subprocess
import sys

import pytest

from keras_transfer.base.errors import UsageError
from keras_transfer.modalities import modality
from keras_transfer.recipe import Recipe, resolve
from tuning import space
from tuning.__main__ import main

RATE = "[fine_tune_lr]\nlow = 1e-4\nhigh = 1e-2\n"


def test_the_default_space_begins_with_the_default_recipe():
    found = space.default_space()
    assert Recipe(**found.defaults()) == Recipe()
    assert {"unfreeze", "fine_tune_lr", "fine_tune_epochs", "strength"} <= set(found.defaults())


def test_the_default_space_of_texts_begins_with_their_default_effort():
    begins, effort = (
        space.default_space(kind="text").defaults(),
        modality("text").EFFORTS["default"],
    )
    searched = effort.keys() & begins.keys()
    assert {"unfreeze", "fine_tune_lr", "fine_tune_epochs"} <= searched
    assert {name: begins[name] for name in searched} == {name: effort[name] for name in searched}


@pytest.mark.parametrize("kind", ["image", "text", "audio"])
@pytest.mark.parametrize("effort", ["quick", "default", "high"])
def test_an_effort_is_trial_0_and_fixes_what_trials_cost(kind, effort):
    given, efforts = {"effort": effort}, modality(kind).EFFORTS
    wanted = resolve(given, efforts=efforts)
    begins = space.default_space(given, kind).defaults()
    assert {"unfreeze", "fine_tune_epochs", "views"}.isdisjoint(begins)
    assert dataclasses.replace(wanted, **begins) == wanted
    assert ("fine_tune_lr" in begins) == (wanted.unfreeze != "none")


def test_what_is_typed_beside_an_effort_beats_it():
    given = {"effort": "high", "fine_tune_lr": 1e-3}
    assert "fine_tune_lr" not in space.default_space(given).defaults()
    assert "fine_tune_lr" in space.default_space({"effort": "high"}).defaults()


def test_the_printed_space_is_the_default_one(tmp_path, capsys):
    assert main(["space"]) == 0
    file = tmp_path / "space.toml"
    file.write_text(capsys.readouterr().out)
    assert space.read_space(file).to_json() == space.default_space().to_json()


def test_a_space_survives_json():
    found = space.default_space()
    again = space.from_json(json.loads(json.dumps(found.to_json())), found.source)
    assert again.to_json() == found.to_json()
    assert again.defaults() == found.defaults()


def test_a_list_is_short_for_choices():
    long = space.parse('[penalty]\nchoices = ["none", "l2-sp"]')
    assert space.parse('penalty = ["none", "l2-sp"]').to_json() == long.to_json()


def test_a_condition_keeps_a_setting_out_until_it_holds():
    found = space.default_space()
    assert "penalty_strength" not in found.defaults()
    hp = found.hp
    assert "penalty_strength" not in hp.values
    strength = next(p for p in hp.space if p.name == "penalty_strength")
    hp.values["penalty"] = "l2-sp"
    assert hp.is_active(strength)


def test_a_missing_default_is_the_recipes():
    assert space.parse(RATE).defaults() == {"fine_tune_lr": Recipe().fine_tune_lr}
    assert space.parse("fine_tune_epochs = 3").defaults() == {"fine_tune_epochs": 3}
    assert space.parse('[backbone]\nchoices = ["EfficientNetLite0"]').defaults() == {
        "backbone": "EfficientNetLite0"
    }


def test_what_is_typed_is_not_varied():
    whole = space.default_space().defaults()
    found = space.default_space({"unfreeze": 1, "fine_tune_epochs": 1, "penalty": "none"})
    assert found.defaults() == {
        name: value
        for name, value in whole.items()
        if name not in ("unfreeze", "fine_tune_epochs", "penalty")
    }
    assert not found.values("penalty_strength")  # waits for another penalty
    assert space.default_space({"penalty": "l2-sp"}).defaults()["penalty_strength"] > 0
    assert set(space.default_space({"unfreeze": "none"}).defaults()) == {"strength"}
    by_gradient = space.default_space({"unfreeze": "none", "head_epochs": 5}).defaults()
    assert set(by_gradient) == set(whole) - {"unfreeze"}
    with pytest.raises(UsageError, match="nothing to vary"):
        space.parse(RATE, given={"fine_tune_lr": 1e-3})


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        (
            "# a space\n\n[fine_tune_epoch]\nchoices = [1]",
            ", fine_tune_epoch",
            "Did you mean fine_tune_epochs",
        ),
        (
            RATE + "\n[fine_tune_epochs]\nlow = 9\nhigh = 3",
            ", fine_tune_epochs.low",
            "the range of fine_tune_epochs is empty",
        ),
        (RATE + "steps = 3", ", fine_tune_lr.steps", "Did you mean step?"),
        (RATE + 'scale = "lgo"', ", fine_tune_lr.scale", "linear or log"),
        (
            "[fine_tune_lr]\nlow = 0.0\nhigh = 1.0\nscale = 'log'\n",
            ", fine_tune_lr.low",
            "between 1e-12",
        ),
        (
            "[weight_decay]\nlow = 0.0\nhigh = 1.0\nscale = 'log'\n",
            ", weight_decay.low",
            "log scale",
        ),
        ("[fine_tune_epochs]\nchoices = []", ", fine_tune_epochs.choices", "no choices"),
        ("[fine_tune_epochs]\nchoices = [8, 8]", ", fine_tune_epochs.choices", "twice"),
        ("[fine_tune_epochs]\nchoices = [4, 8.5]", ", fine_tune_epochs.choices", "a whole number"),
        (
            "[fine_tune_epochs]\nchoices = [2, 3]",
            ", fine_tune_epochs.default",
            "the recipe's value, 5",
        ),
        (
            "[fine_tune_epochs]\nchoices = [2, 3]\ndefault = 5",
            ", fine_tune_epochs.default",
            "outside",
        ),
        ("[fine_tune_epochs]\nlow = 2", ", fine_tune_epochs", "lacks high"),
        ("\nbatch_size = 'many'", ", batch_size.choices", "a whole number"),
        ("[penalty]\nchoices = ['none', 'l2sp']", ", penalty.choices", "Did you mean l2-sp"),
        ("[backbone]\nchoices = ['EfficientNetLite9']", ", backbone.choices", "EfficientNetLite"),
        ("[unfreeze]\nlow = 1\nhigh = 3", ", unfreeze", "choices, not a range"),
        (RATE + "when = { penalty = 'l2' }", ", fine_tune_lr.when", "no unconditional choice"),
        (
            "penalty = 'none'\n" + RATE + "when = { penalty = 'l2' }",
            ", fine_tune_lr.when",
            "waits for",
        ),
        (RATE + "when = { colour = 1 }", ", fine_tune_lr.when", "'colour'"),
        ("[fine_tune_epochs]\nchoices = [1", "", "at end of document"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path, text, place, word):
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        space.read_space(file)
    said = f"{caught.value.message} {caught.value.remedy}"
    assert f"space.toml{place}: " in said
    assert word in said


def test_an_empty_or_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing to vary"):
        space.parse("# nothing")
    with pytest.raises(UsageError, match="Cannot read"):
        space.read_space(tmp_path / "absent.toml")


def test_help_imports_nothing_heavy():
    script = (
        "import sys, tuning.__main__ as m\n"
        "try: m.main(['search', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'keras', 'tensorflow', 'keras_tuner', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--max-time" in done.stdout


def test_a_bad_space_ends_with_2_and_no_traceback(tmp_path, capsys):
    file = tmp_path / "space.toml"
    file.write_text("[fine_tune_epochs]\nchoices = [1, 'x']\n")
    assert main(["search", "builtin:digits", "--space", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.removeprefix("Starting\n").startswith("tuning: ")
    assert "fine_tune_epochs.choices" in said
    assert "Traceback" not in said
