"""A study whose files were edited, cut or forged: refused by file and field, or the same answer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.recipe import Recipe
from tuning import oracles, results, space, tuner
from tuning.results import Record

from . import edits
from .edits import DAMAGE, FOLDER, drop, flip, lines, put, swap
from .table import assert_refused, say

SPACE = 'views = 1\n[fine_tune_lr]\nlow = 1e-4\nhigh = 2e-3\nscale = "log"\n'
TRIALS = 4
RECORD = "trials/0001/record.json"


def oracle():
    """A random search for what :data:`SPACE` varies."""
    return oracles.build("random", "nll", space.parse(SPACE), trials=TRIALS, seed=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of four trials as a search leaves it; what its trials answered is made up."""
    study, draw, found = tmp_path_factory.mktemp("hostile") / "study", np.random.default_rng(0), 0
    labels, about = draw.integers(0, 3, 40), space.parse(SPACE)
    tuner.save_array(study / results.LABELS, labels)
    made = tuner.open_tuner(oracle, study, about, None, ABOUT, Progress())
    for found in range(TRIALS):
        trial = made.oracle.create_trial("tuner0")
        logits = (np.eye(3)[labels] * (1 + found % 3) + draw.normal(size=(40, 3))).astype("f4")
        values = dict(trial.hyperparameters.values)
        record = Record(
            found, "completed", values, Recipe(**values).to_dict(), nll=0.5 - 0.1 * (found % 3),
            accuracy=0.8, macro_f1=0.8, temperature=1.0, kept="head", epochs_done=1, seconds=2.0,
            finished="2026-11-29T12:00:00+00:00",
        )  # fmt: skip
        tuner.save_array(results.trial_folder(study, found) / results.LOGITS, logits)
        answers = results.answers_digest(study, found)
        results.write_record(study, dataclasses.replace(record, answers=answers))
        made.oracle.update_trial(trial.trial_id, record.metrics())
        trial.status = "COMPLETED"
        made.oracle.end_trial(trial)
    held = {"data": "digits", "data_digest": "0" * 64, "own_splits": False, "keras_transfer": "0"}
    held |= {**ABOUT, "setup": Recipe().to_dict(), "space": about.to_json()}
    files.write_json(study / results.STUDY, files.sealed(held))
    results.write_tables(study, "nll")
    return study


ABOUT = {"tuner": "random", "objective": "nll"}


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return edits.twin(whole, tmp_path / "study")


STUDY = {
    "its objective is unknown": (put("objective", "speed"), "$.objective"),
    "its objective is another": (put("objective", "accuracy"), "changed"),
    "its objective is gone": (drop("objective"), "`objective`"),
    "its tuner is unknown": (put("tuner", "genetic"), "$.tuner"),
    "its data is a number": (put("data", 7), "$.data"),
    "its data is another": (put("data", "elsewhere"), "changed"),
    "its setup is a list": (put("setup", []), "$.setup"),
    "its setup has an unknown name": (put("setup", "sead", 1), "changed"),
    "its seed is another": (put("setup", "seed", 1), "changed"),
    "its space is a list": (put("space", []), "$.space"),
    "its space varies something else": (put("space", "space", []), "changed"),
    "its own digest is another": (put("sha256", "0" * 64), "changed"),
    "its setup cannot be": (lambda data: drop("sha256")(put("setup", "seed", -1)(data)), "seed"),
}
TRIAL = {
    "its NLL is lower": (put("nll", 0.01), "changed"),
    "its NLL is negative": (put("nll", -1), "$.nll"),
    "its NLL is a word": (put("nll", "low"), "$.nll"),
    "its NLL is null": (put("nll", None), "changed"),
    "its NLL is absurd": (put("nll", 1e300), "$.nll"),
    "its accuracy is above 1": (put("accuracy", 1.5), "$.accuracy"),
    "its F1 is a list": (put("macro_f1", []), "$.macro_f1"),
    "its temperature is a word": (put("temperature", "warm"), "$.temperature"),
    "its status is unknown": (put("status", "done"), "$.status"),
    "its status is another": (put("status", "failed"), "changed"),
    "its status is gone": (drop("status"), "`status`"),
    "its values are a list": (put("values", []), "$.values"),
    "a value is another": (put("values", "fine_tune_lr", 1e-3), "changed"),
    "its settings are null": (put("settings", None), "$.settings"),
    "a setting cannot be": (
        lambda data: drop("sha256")(put("settings", "seed", -1)(data)), "seed must be",
    ),
    "a setting is unknown": (
        lambda data: drop("sha256")(put("settings", "sead", 1)(data)), "'sead'",
    ),
    "its number is another": (lambda data: drop("sha256")(put("trial", 3)(data)), "another trial"),
    "its number is negative": (put("trial", -1), "$.trial"),
    "its seconds are negative": (put("seconds", -5), "$.seconds"),
    "its epochs are a fraction": (put("epochs_done", 0.5), "$.epochs_done"),
    "it completed without figures": (
        lambda data: drop("sha256")(put("nll", None)(data)), "lacks a figure",
    ),
}  # fmt: skip


def refused_by_all(study, *needles):
    """Looking at a study and going on with it refuse alike, and change nothing."""
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}
    assert_refused(say("study", study), *needles)
    assert_refused(say("study", study, "--json"), *needles)
    again = say("search", "builtin:digits", "--output", study, "--resume", "--quiet")
    assert_refused(again, *needles)
    left = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}
    left.pop(study / "lock", None)
    assert left == before


@pytest.mark.parametrize("file", ["study.json", RECORD])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_file_that_is_damaged(copy, file, how):
    edits.change(copy / file, DAMAGE[how])
    refused_by_all(copy, str(copy / file))


@pytest.mark.parametrize("how", STUDY)
def test_what_a_study_is_about(copy, how):
    edit, *needles = STUDY[how]
    edits.change(copy / "study.json", edit)
    refused_by_all(copy, "study.json", *needles)


@pytest.mark.parametrize("how", TRIAL)
def test_what_a_trial_came_to(copy, how):
    edit, *needles = TRIAL[how]
    edits.change(copy / RECORD, edit)
    refused_by_all(copy, RECORD, *needles)


def test_the_record_of_another_trial(copy):
    edits.change(copy / RECORD, (copy / "trials/0002/record.json").read_bytes())
    refused_by_all(copy, RECORD, "another trial")


ARRAYS = {
    "is empty": b"",
    "is cut": lambda data: data[:-9],
    "is no array": b"no array",
    "claims to be huge": swap("(40", "(4000000000000"),
    "is a folder": FOLDER,
    "has another bit": flip(0.9),
    "has fewer rows": lambda data: data.replace(b"(40,", b"(30,", 1)[:-40],
}


@pytest.mark.parametrize("file", ["validation_labels.npy", "trials/0002/validation_logits.npy"])
@pytest.mark.parametrize("how", ARRAYS)
def test_what_the_verdict_rests_on(copy, file, how):
    edits.change(copy / file, ARRAYS[how])
    assert_refused(say("study", copy, "--json"), ".npy")


SAME = {
    "nothing": ("best.toml", lambda data: data),
    "best.toml is forged": ("best.toml", b"seed = 9\n"),
    "best.toml is not UTF-8": ("best.toml", b"\xff"),
    "best.toml is a folder": ("best.toml", FOLDER),
    "trials.csv is forged": ("trials.csv", lines(lambda rows: rows[:1])),
    "trials.csv is damaged": ("trials.csv", b"\0"),
    "study.json is written otherwise": ("study.json", edits.pretty),
    "a record is written otherwise": (RECORD, edits.pretty),
    "a record is of a version without a digest": (RECORD, drop("sha256")),
    "somebody's folder lies among the trials": ("trials/notes", FOLDER),
    "an array of a trial that does not count is damaged": (
        "trials/0003/validation_logits.npy", b"",
    ),
    "the oracle's files are damaged": ("oracle/oracle.json", b""),
}  # fmt: skip


@pytest.mark.parametrize("how", SAME)
def test_what_changes_no_answer(whole, copy, how):
    file, edit = SAME[how]
    edits.change(copy / file, edit)
    found = json.loads(say("study", copy, "--json").out)
    assert found == json.loads(say("study", whole, "--json").out)


@pytest.mark.parametrize("edit", [b"", b"\xff", FOLDER], ids=["empty", "not UTF-8", "a folder"])
def test_the_page_shows_the_best_trial_whatever_its_file_says(copy, edit):
    edits.change(copy / "best.toml", edit)
    assert say("study", copy).code == 0
    assert "# Trial 2: validation NLL 0.3000" in (copy / "report.html").read_text()


@pytest.mark.parametrize("how", ["is empty", "is a folder", "is a list", "names a field twice"])
def test_the_winners_figures(copy, how):
    files.write_json(copy / "winner/metrics.json", {"test": {"accuracy": 1, "nll": 0, "images": 9}})
    assert say("study", copy).code == 0
    edits.change(copy / "winner/metrics.json", DAMAGE[how])
    assert_refused(say("study", copy), str(copy / "winner/metrics.json"))


# What the oracle goes on from -------------------------------------------------------------------

STATE, ONE = "oracle/oracle.json", "oracle/trial_1/trial.json"
ORACLE = {
    "is empty": (STATE, b""),
    "is cut": (STATE, lambda data: data[: len(data) // 2]),
    "is a list": (STATE, b"[]"),
    "is a folder": (STATE, FOLDER),
    "is not UTF-8": (STATE, b"\xff"),
    "is nested beyond reason": (STATE, DAMAGE["is nested beyond reason"]),
    "lacks its trials": (STATE, drop("start_order")),
    "lacks its seed": (STATE, drop("seed_state")),
    "lacks what runs": (STATE, drop("ongoing_trials")),
    "has a list of what runs": (STATE, put("ongoing_trials", [])),
    "has a trial that nobody knows": (STATE, put("ongoing_trials", {"tuner0": "99"})),
    "has a space of nothing": (STATE, put("hyperparameters", 5)),
    "has an unknown kind of setting": (
        STATE, put("hyperparameters", "space", 0, "class_name", "Magic"),
    ),
    "has tried a number": (STATE, put("tried_so_far", 5)),
    "has a trial that is empty": (ONE, b""),
    "has a trial that is a list": (ONE, b"[]"),
    "has a trial without a number": (ONE, drop("trial_id")),
    "has a trial with a word for a number": (ONE, put("trial_id", "one")),
    "has a trial without a status": (ONE, drop("status")),
    "has a trial that runs": (ONE, put("status", "RUNNING")),
    "has a trial that is a folder": (ONE, FOLDER),
    "has a trial without settings": (ONE, put("hyperparameters", None)),
    "has a trial without figures": (ONE, drop("metrics")),
    "has a trial twice": (ONE, put("trial_id", "2")),
    "has an empty tuner": ("oracle/tuner0.json", b""),
    "has a tuner that is a folder": ("oracle/tuner0.json", FOLDER),
}  # fmt: skip


class Said(Progress):
    """Keeps the notes."""

    def __init__(self):
        self.notes = []

    def note(self, line):
        self.notes.append(line)


@pytest.mark.parametrize("how", ORACLE)
def test_the_oracle_is_made_again_from_the_records(copy, how):
    file, edit = ORACLE[how]
    edits.change(copy / file, edit)
    said = Said()
    made = tuner.open_tuner(oracle, copy, space.parse(SPACE), None, ABOUT, said)
    assert any("made again from the records of 4 trials" in note for note in said.notes)
    records = {int(number): trial for number, trial in made.oracle.trials.items()}
    assert sorted(records) == [0, 1, 2, 3]
    assert [records[n].score for n in range(4)] == [r.nll for r in results.read_records(copy)]


@pytest.mark.parametrize("how", ["is empty", "is a list", "is null", "holds NaN", "is a folder"])
def test_a_damaged_record_is_no_reason_to_forget_the_oracle(copy, how):
    edits.change(copy / RECORD, DAMAGE[how])
    before = sorted(copy.rglob("*"))
    with pytest.raises(UsageError, match=r"record\.json"):
        tuner.open_tuner(oracle, copy, space.parse(SPACE), None, ABOUT, Progress())
    assert sorted(copy.rglob("*")) == before


# Spaces and the best settings ---------------------------------------------------------------------

SPACES = {
    "is empty": (b"", "empty"),
    "is no TOML": (b"fine_tune_lr: 1", "space.toml"),
    "is not UTF-8": (b'penalty = "\xff"', "space.toml"),
    "is a folder": (FOLDER, "space.toml"),
    "has an unknown setting": (b"fine_tune_rl = [1e-3]", "fine_tune_rl"),
    "has no choices": (b"views = []", "views"),
    "has a choice twice": (b"views = [1, 1]", "views"),
    "has a word for a number": (b'views = ["many"]', "views"),
    "has NaN": (b"ema = [nan]", "ema"),
    "has an endless range": (b"[fine_tune_lr]\nlow = 1e-4\nhigh = inf", "fine_tune_lr"),
    "has an empty range": (b"[fine_tune_lr]\nlow = 1e-3\nhigh = 1e-4", "fine_tune_lr"),
    "has half a range": (b"[fine_tune_lr]\nlow = 1e-3", "fine_tune_lr"),
    "has a range from 0 on a log scale": (
        b'[weight_decay]\nlow = 0\nhigh = 1\nscale = "log"', "weight_decay",
    ),
    "has a step of 0": (b"[views]\nlow = 1\nhigh = 4\nstep = 0", "step"),
    "has a default outside": (b"[views]\nchoices = [1, 2]\ndefault = 3", "views"),
    "has an unknown key": (b"[views]\nchoices = [1, 2]\ndefualt = 1", "defualt"),
    "waits for itself": (b"[views]\nchoices = [1, 2]\nwhen = { views = [1] }", "views"),
    "has a setting twice": (b"views = [1]\nviews = [2]", "space.toml"),
    "has a date": (b"views = [2026-11-29]", "views"),
}  # fmt: skip


@pytest.mark.parametrize("how", SPACES)
def test_a_space(tmp_path, how):
    content, *needles = SPACES[how]
    edits.change(tmp_path / "space.toml", content)
    said = say(
        "search",
        "builtin:digits",
        "--space",
        tmp_path / "space.toml",
        "--output",
        tmp_path / "study",
    )
    assert_refused(said, "space.toml", *needles)
    assert not (tmp_path / "study").exists()


BEST = {
    "its seed is negative": (swap("seed = 0", "seed = -1"), "seed must be"),
    "its backbone is a number": (swap('"EfficientNetLite0"', "5"), "backbone must be"),
    "a word is misspelt": (swap("fine_tune_lr", "fine_tune_rl"), "fine_tune_rl"),
    "a line is there twice": (lines(lambda rows: [*rows, rows[-1]]), "best.toml"),
    "it is cut": (lambda data: data[: data.index(b"split") + 9], "best.toml"),
    "it is not UTF-8": (flip(0.5) and (lambda data: data + b"# \xff\n"), "best.toml"),
    "it is a folder": (FOLDER, "best.toml"),
}


@pytest.mark.parametrize("how", BEST)
def test_the_best_settings(copy, digits_folder, tmp_path, how):
    edit, *needles = BEST[how]
    edits.change(copy / "best.toml", edit)
    said = say("train", digits_folder, "--config", copy / "best.toml", "--output", tmp_path / "run")
    assert_refused(said, "best.toml", *needles)
