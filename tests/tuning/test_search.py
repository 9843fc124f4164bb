import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import filelock
import keras
import numpy as np
import pytest
from recorder import Recorder
from studies import SPACE, rows_of

from keras_transfer import backbones, cli, datasets, training
from keras_transfer.base import progress
from keras_transfer.base.errors import KerasTransferError, UsageError
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.pool import ModelPool
from keras_transfer.modalities.audio import EFFORTS
from keras_transfer.recipe import Recipe, read_file
from tuning import results, search, space
from tuning.__main__ import main
from tuning.bench import Workbench

SIZE, SPLIT = 32, (0.6, 0.2, 0.2)
RECIPE = Recipe(image_size=SIZE, split=SPLIT, batch_norm="frozen")


# A real study, killed and resumed ---------------------------------------------------------------


def command(data, folder, *more, trials=3):
    (folder / "space.toml").write_text(SPACE)
    return [
        "search", str(data), "--trials", str(trials), "--tuner", "random", "--image-size",
        str(SIZE), "--split", "0.6,0.2,0.2", "--space", str(folder / "space.toml"), "--quiet",
        "--output", str(folder / "study"), *more,
    ]  # fmt: skip


def kill_after(ended, words, study):
    """Starts a search and kills it with -9 once so many trials have ended; their records."""
    process = subprocess.Popen([sys.executable, "-m", "tuning", *words])
    last = study / "trials" / f"{ended - 1:04d}" / "record.json"
    limit = time.monotonic() + 300
    while not last.exists() and process.poll() is None and time.monotonic() < limit:
        with_timeout(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return {p.parent.name: p.read_bytes() for p in study.glob("trials/*/record.json")}


@pytest.fixture(scope="module")
def resumed(digits_folder, tmp_path_factory):
    """A study killed with -9 once two trials had ended, then resumed; and what was there before."""
    folder = tmp_path_factory.mktemp("search")
    study = folder / "study"
    before = kill_after(2, command(digits_folder, folder), study)
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        probabilities = training._probabilities

        def counted(fitted, *others):
            opened.append(len(fitted.dataset.indices("test")))
            return probabilities(fitted, *others)

        patch.setattr(training, "_probabilities", counted)
        assert main(command(digits_folder, folder, "--resume")) == 0
    return study, before, opened


@pytest.mark.slow
def test_eight_trials_killed_after_the_fourth(digits_folder, tmp_path):
    study = tmp_path / "study"
    before = kill_after(4, command(digits_folder, tmp_path, trials=8), study)
    assert {"0000", "0001", "0002", "0003"} <= set(before) < {f"{i:04d}" for i in range(8)}
    again = [sys.executable, "-m", "tuning", *command(digits_folder, tmp_path, trials=8)]
    assert subprocess.run(again, check=False, capture_output=True).returncode == 2
    subprocess.run([*again, "--resume"], check=True)
    lines = (study / "trials.csv").read_text().splitlines()
    assert len(lines) == 9
    assert [row["trial"] for row in rows_of(study)] == [str(number) for number in range(8)]
    for name, held in before.items():
        assert (study / "trials" / name / "record.json").read_bytes() == held
    run = tmp_path / "run"
    words = ["train", str(digits_folder), "--config", str(study / "best.toml"), "--quiet"]
    assert cli.main([*words, "--output", str(run)]) == 0
    best = min(rows_of(study), key=lambda row: float(row["nll"]))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["validation"]["nll"] == pytest.approx(float(best["nll"]), abs=2e-3)
    assert metrics["validation"]["accuracy"] == pytest.approx(float(best["accuracy"]), abs=1e-6)


def with_timeout(process):
    try:
        process.wait(timeout=0.05)
    except subprocess.TimeoutExpired:
        return


def test_a_killed_study_goes_on_and_repeats_no_trial(resumed):
    study, before, _ = resumed
    assert "0002" not in before
    assert {"0000", "0001"} <= set(before)
    for name, held in before.items():
        assert (study / "trials" / name / "record.json").read_bytes() == held
    rows = rows_of(study)
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert {row["status"] for row in rows} == {"completed"}
    assert len({row["fine_tune_lr"] for row in rows}) == 3


def test_trial_0_is_the_default_trained_as_outside_a_study(resumed, digits_folder, tmp_path):
    study, _, _ = resumed
    first = results.read_record(study, 0)
    values = space.parse(SPACE).defaults()
    assert first.values == values
    run = datasets.load_dataset(str(digits_folder), image_size=SIZE, split=SPLIT, seed=0)
    backbone = backbones.build("EfficientNetLite0", image_size=SIZE, weights="offline")
    shared = training.Shared(ModelPool(), ActivationStore(tmp_path / "store"))
    recipe = Recipe(image_size=SIZE, batch_norm="frozen", **values)
    alone = training.train(run, recipe=recipe, backbone=backbone, shared=shared, judge=False)
    assert first.nll == pytest.approx(alone.candidates[0].nll, abs=2e-3)
    # Which of several that are nearly equal is kept hangs on last digits.
    near = [one for one in alone.candidates if one.nll < first.nll + 4e-3]
    assert first.accuracy in [one.accuracy for one in near]
    assert first.kept in [one.name for one in near]


def test_the_test_split_is_opened_once_for_the_winner(resumed):
    study, _, opened = resumed
    best = results.best_of(results.read_records(study), "nll")
    metrics = json.loads((study / "winner" / "metrics.json").read_text())
    assert opened == [metrics["images"]["test"]]
    assert metrics["validation"]["nll"] == pytest.approx(best.nll, abs=2e-3)
    assert best.nll == min(float(row["nll"]) for row in rows_of(study))


def test_best_toml_is_taken_by_train(resumed, digits_folder, tmp_path):
    study, _, _ = resumed
    best = results.best_of(results.read_records(study), "nll")
    file, run = study / "best.toml", tmp_path / "run"
    held = Recipe(**read_file(file))
    assert held == Recipe(**best.settings)
    assert held.fine_tune_lr == best.values["fine_tune_lr"]
    done = cli.main(
        ["train", str(digits_folder), "--config", str(file), "--output", str(run), "--quiet"]
    )
    assert done == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["validation"]["nll"] == pytest.approx(best.nll, abs=2e-3)
    same = (study / "splits.csv").read_text() == (run / "splits.csv").read_text()
    assert same


def test_heads_are_solved_once_and_checkpoints_cleared(resumed):
    study, _, _ = resumed
    assert len(list((study / "heads").glob("*.npz"))) == 1
    assert not list(study.glob("trials/*/state/*.npz"))


def test_show_prints_the_trials_and_a_verdict(resumed, capsys, tmp_path):
    study, _, _ = resumed
    assert main(["show", str(study)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 trials, by validation nll" in said
    assert "default (trial 0)" in said
    assert "test split" in said
    assert main(["show", str(study), "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert [trial["trial"] for trial in held["trials"]] == [0, 1, 2]
    pytest.importorskip("tensorboard")
    events = tmp_path / "events"
    assert main(["show", str(study), "--json", "--tensorboard", str(events)]) == 0
    assert json.loads(capsys.readouterr().out) == held
    assert len(list(events.rglob("events.*"))) == 3
    assert main(["show", str(study / "winner")]) == 2
    assert "is not a study" in capsys.readouterr().err


def test_a_second_process_is_refused(resumed, digits_folder, capsys):
    study, _, _ = resumed
    with filelock.FileLock(study / "lock"):
        assert main(command(digits_folder, study.parent, "--resume")) == 2
    assert "Another process is searching in" in capsys.readouterr().err


def test_a_study_of_something_else_is_refused(resumed, digits_folder, capsys):
    study, _, _ = resumed
    assert main(command(digits_folder, study.parent)) == 2
    assert "already holds a study" in capsys.readouterr().err
    assert main(command(digits_folder, study.parent, "--resume", "--seed", "1")) == 2
    said = capsys.readouterr().err
    assert "seed was 0 and is 1" in said
    assert "data or its splits" in said


# A network of one's own ------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path):
    """The file of a small network."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters in (8, 16):
        x = keras.layers.ReLU()(keras.layers.Conv2D(filters, 3, strides=2)(x))
    keras.Model(inputs, x, name="mine").save(tmp_path / "mine.keras")
    return str(tmp_path / "mine.keras")


def test_a_space_may_name_the_file_of_a_network(mine, digits_folder, tmp_path):
    both = space.parse(f'[backbone]\nchoices = ["{mine}", "EfficientNetLite0"]\ndefault = "{mine}"')
    bench = Workbench(str(digits_folder), RECIPE, tmp_path / "heads", None)
    bench.check(both)
    recipes = [bench.trial_recipe({"backbone": name}) for name in both.values("backbone")]
    found = [bench.backbone(recipe) for recipe in recipes]
    assert [built.spec.name for built in found] == ["own-mine", "EfficientNetLite0"]
    assert [recipe.weights for recipe in recipes] == ["own", "offline"]
    with pytest.raises(UsageError, match=r"none\.keras"):
        bench.check(space.parse('[backbone]\nchoices = ["none.keras"]\ndefault = "none.keras"'))


def test_the_file_of_a_network_is_searched_and_trained_again(mine, digits_folder, tmp_path, capsys):
    study = tmp_path / "study"
    less = ["--trials", "1", "--tuner", "random", "--unfreeze", "none", "--quiet"]
    words = ["search", str(digits_folder), "--backbone", mine, "--output", str(study), *less]
    assert main(words) == 0
    again = shlex.split(capsys.readouterr().out.split("Train the best again: ")[1])
    assert cli.main([*again[1:], "--quiet"]) == 0
    (record,) = results.read_records(study)
    for run in (study / "winner", Path(again[-1])):
        assert json.loads((run / "config.json").read_text())["backbone"] == "own-mine"
        held = json.loads((run / "metrics.json").read_text())["validation"]["nll"]
        assert held == pytest.approx(record.nll, abs=2e-3)


def test_each_length_of_sounds_has_a_backbone_of_its_own(tmp_path):
    pytest.importorskip("soundfile")
    bench = Workbench(
        "builtin:spoken", Recipe(weights="none", **EFFORTS["default"]), tmp_path, None
    )
    lengths = (1.0, 2.0)
    found = [bench.backbone(bench.trial_recipe({"clip_length": each})) for each in lengths]
    assert [built.model.input_shape for built in found] == [(None, 16_000), (None, 32_000)]


# Rungs, depths ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rung_continues_as_if_trained_in_one_go(digits_folder, tmp_path):
    store = ActivationStore(tmp_path / "store")
    bench = Workbench(str(digits_folder), RECIPE, tmp_path / "heads", store)
    base = {"unfreeze": "1", "views": 1, "fine_tune_lr": 1e-3}
    short = {**base, "tuner/epochs": 1}
    full = {**base, "tuner/epochs": 2, "tuner/initial_epoch": 1, "tuner/last": True}
    first, _ = bench.run(bench.trial_recipe(short), tmp_path / "0", None)
    second, continued = bench.run(bench.trial_recipe(full), tmp_path / "1", tmp_path / "0")
    _, alone = bench.run(bench.trial_recipe(full), tmp_path / "2", None)
    assert (first.epochs_done, second.epochs_done) == (1, 2)
    np.testing.assert_allclose(continued, alone, atol=1e-3)
    ends = [np.load(tmp_path / name / "state" / "fine-tune.npz") for name in ("0", "1", "2")]
    moved = 0.0
    for name in (name for name in ends[0].files if name.startswith("variable-")):
        np.testing.assert_allclose(ends[1][name], ends[2][name], rtol=1e-3, atol=1e-4)
        moved = max(moved, float(np.abs(ends[1][name] - ends[0][name]).max()))
    assert moved > 1e-3
    wrong = space.parse('[unfreeze]\nchoices = ["35%", "99"]', "space.toml")
    with pytest.raises(UsageError, match=r"space.toml, unfreeze: .* depth .?99.? "):
        bench.check(wrong.without("fine_tune_epochs"))


@pytest.fixture
def two_depths(digits_folder, tmp_path):
    """A workbench that has planned for the topmost block and the two topmost ones."""
    store = ActivationStore(tmp_path / "store")
    bench = Workbench(str(digits_folder), RECIPE, tmp_path / "heads", store)
    found = space.parse(
        'views = 2\nfine_tune_epochs = 1\n[unfreeze]\nchoices = ["1", "2"]\ndefault = "1"\n'
    )
    (planned,) = bench.plan(found, trials=4)
    assert len(planned.stored) == 2

    def run(depth, name):
        values = {"unfreeze": depth, "views": 2, "fine_tune_epochs": 1}
        return bench.run(bench.trial_recipe(values), tmp_path / name, None)

    return bench, store, planned, run


@pytest.mark.slow
def test_one_pass_serves_all_depths(two_depths):
    _, store, _, run = two_depths
    run("1", "0")
    computed = store.counts.misses
    assert computed > 0
    run("2", "1")
    assert store.counts.misses == computed


@pytest.mark.slow
def test_a_cut_that_is_not_stored_is_computed_anew_from_the_one_below(two_depths, tmp_path):
    bench, _, planned, run = two_depths

    def losses(name):
        """What training saw; which weights are kept may hang on the last digit."""
        run("1", name)
        with np.load(tmp_path / name / "state" / "fine-tune.npz") as arrays:
            (row,) = json.loads(str(arrays["history"]))
        return [row["train_loss"], row["validation_loss"]]

    stored = losses("0")
    low = planned.cuts[0]
    for number, base in enumerate((low, None)):
        (kind,) = bench.plans
        bench.plans[kind] = dataclasses.replace(planned, base=(base, base))
        np.testing.assert_allclose(losses(str(number + 1)), stored, rtol=0.02)


# The oracle's side, with trials that cost nothing -----------------------------------------------


@pytest.fixture
def quick(monkeypatch, digits_folder, tmp_path):
    """``go(**settings)`` searches with a made-up objective; ``go.ran`` are the trials it ran."""
    labels = 36

    def trial_recipe(self, values):
        go.values.append(dict(values))
        return made_of(self, values)

    def run(self, recipe, folder, earlier):
        go.ran.append((int(folder.name), go.values[-1], earlier))
        if len(go.ran) - 1 in go.failing:
            raise go.failing[len(go.ran) - 1]
        rate = np.log10(recipe.fine_tune_lr)
        nll = float((rate + 3) ** 2 + 0.1)
        found = results.Outcome(
            nll=nll, accuracy=0.5, macro_f1=0.5, temperature=1.0, kept="average", epochs_done=1
        )
        return found, np.zeros((labels, 5), np.float32)

    def train(data, **settings):
        go.crowned.append(settings["recipe"])
        go.told.append(settings["progress"])

    def go(**settings):
        given = {"trials": 6, "tuner": "random", "space": space.parse(SPACE), "progress": go.said}
        how = {"image_size": SIZE, "split": SPLIT}
        return search.search(
            str(digits_folder), tmp_path / "study", settings=how, **given | settings
        )

    go.ran, go.failing, go.crowned, go.said, go.values, go.told = [], {}, [], Recorder(), [], []
    made_of = Workbench.trial_recipe
    monkeypatch.setattr(Workbench, "trial_recipe", trial_recipe)
    monkeypatch.setattr(Workbench, "run", run)
    monkeypatch.setattr(Workbench, "check", lambda self, found: None)
    monkeypatch.setattr(Workbench, "plan", lambda self, found, trials: [])
    monkeypatch.setattr(training, "train", train)
    return go


def numbers(study):
    return [int(row["trial"]) for row in rows_of(study)]


def test_a_trial_that_a_lost_worker_had_begun_is_run_here(quick):
    study = quick(trials=3)
    state = json.loads((study / "oracle" / "oracle.json").read_text())
    state["end_order"].remove("2")
    state["ongoing_trials"] = {"worker-1": "2"}
    (study / "oracle" / "oracle.json").write_text(json.dumps(state))
    before = results.read_record(study, 2)
    shutil.rmtree(results.trial_folder(study, 2))
    quick(trials=3, resume=True)
    assert numbers(study) == [0, 1, 2]
    assert results.read_record(study, 2).values == before.values


def test_failing_trials_are_recorded_and_end_nothing(quick):
    quick.failing = {
        1: ValueError("the shape is odd\nand more"),
        2: UsageError("no such depth", remedy="-"),
        3: MemoryError(),
        4: ValueError("x"),
    }
    study = quick()
    rows = rows_of(study)
    assert [row["status"] for row in rows] == ["completed"] + 4 * ["failed"] + ["completed"]
    assert rows[1]["reason"] == "ValueError: the shape is odd"
    assert rows[2]["reason"] == "no such depth"


def test_which_trial_runs_is_told_and_how_long_all_take(quick):
    quick(trials=3)
    trials = [f"Trial {number} of 3" for number in range(3)]
    assert quick.said.stages == ["decode", *trials, "Training the best again"]
    (first, _), (second, _) = quick.said.expected  # nothing is known before the first has ended
    assert list(first) == [trials[1], "others", "Training the best again"]
    assert first["others"] == first[trials[1]] >= 0
    assert next(iter(second)) == trials[2]
    assert second["others"] == 0
    assert quick.told == [quick.said]  # the winner tells of itself


def test_a_notebook_shows_a_search_by_itself(quick, monkeypatch):
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress, "NotebookProgress", lambda detailed: quick.said)
    quick(trials=1, progress=None)
    assert "Trial 0 of 1" in quick.said.stages


def test_a_study_in_which_all_fails_says_why(quick):
    quick.failing = dict.fromkeys(range(9), ValueError("broken"))
    with pytest.raises(KerasTransferError, match="broken") as caught:
        quick(trials=2)
    assert caught.value.exit_code == 1
    assert "begin again" in caught.value.remedy


def test_a_study_in_which_all_failed_is_begun_again(quick, tmp_path):
    quick.failing = dict.fromkeys(range(2), ValueError("broken"))
    with pytest.raises(KerasTransferError):
        quick(trials=2)
    (tmp_path / "study" / "notes.txt").write_text("Mine.")
    study = quick(trials=3, objective="accuracy")
    assert [(row["trial"], row["status"]) for row in rows_of(study)] == [
        (str(number), "completed") for number in range(3)
    ]
    assert results.read_study(study)["objective"] == "accuracy"
    assert (study / "notes.txt").exists()
    with pytest.raises(UsageError, match="already holds a study"):  # it has something to lose
        quick(trials=3)


def test_a_study_in_which_all_failed_goes_on_where_that_is_asked(quick):
    quick.failing = dict.fromkeys(range(2), ValueError("broken"))
    with pytest.raises(KerasTransferError):
        quick(trials=2)
    rows = rows_of(quick(trials=4, resume=True))
    assert [row["status"] for row in rows] == 2 * ["failed"] + 2 * ["completed"]
    assert [number for number, _, _ in quick.ran] == [0, 1, 2, 3]


def test_more_trials_may_be_asked_for_and_the_winner_follows(quick):
    study = quick(trials=3)
    quick(trials=5, resume=True)
    assert numbers(study) == [0, 1, 2, 3, 4]
    assert [number for number, _, _ in quick.ran] == [0, 1, 2, 3, 4]
    best = min(results.read_records(study), key=lambda record: record.nll)
    assert quick.crowned[-1].to_dict() == best.settings
    assert tomllib.loads((study / "best.toml").read_text())["views"] == 1
    crowned = len(quick.crowned)
    quick(trials=5, resume=True)
    assert len(quick.crowned) == crowned


@pytest.mark.parametrize(
    ("tuner", "damage"),
    [
        ("random", "half a file"),
        ("random", "an unnoted trial"),
        ("hyperband", "no oracle"),
        ("bayesian", "half a file"),
    ],
)
def test_damaged_oracle_files_are_made_again(quick, tuner, damage):
    study = quick(trials=4, tuner=tuner)
    before = results.read_records(study)
    oracle = study / "oracle"
    if damage == "half a file":
        text = (oracle / "oracle.json").read_text()
        (oracle / "oracle.json").write_text(text[: len(text) // 2])
    elif damage == "an unnoted trial":
        trial = json.loads((oracle / "trial_3" / "trial.json").read_text())
        (oracle / "trial_4").mkdir()
        (oracle / "trial_4" / "trial.json").write_text(
            json.dumps(trial | {"trial_id": "4", "status": "RUNNING", "score": None})
        )
    else:
        shutil.rmtree(oracle)
    quick(trials=6, tuner=tuner, resume=True)
    noted = any("damaged" in note and "4 trials" in note for note in quick.said.notes)
    assert noted == (damage != "an unnoted trial")  # which the oracle creates again
    assert results.read_records(study)[:4] == before
    assert numbers(study) == list(range(6))
    rates = [values["fine_tune_lr"] for _, values, earlier in quick.ran if earlier is None]
    assert len(set(rates)) == len(rates)


def test_max_time_begins_no_further_trial(quick, monkeypatch):
    now = [0.0]
    clock = time.monotonic
    monkeypatch.setattr(search.time, "monotonic", lambda: clock() + now[0])
    note = quick.said.note

    def passing(text):
        now[0] += 40.0 * text.startswith("Trial")
        note(text)

    monkeypatch.setattr(quick.said, "note", passing)
    study = quick(trials=50, max_time="100s")
    assert numbers(study) == [0, 1, 2]


def test_a_space_may_be_the_name_of_a_file(quick, tmp_path):
    (tmp_path / "space.toml").write_text("[fine_tune_lr]\nchoices = [1e-3, 2e-3]\ndefault = 2e-3")
    study = quick(trials=1, space=tmp_path / "space.toml")
    assert results.read_record(study, 0).values == {"fine_tune_lr": 2e-3}


def test_hyperband_hands_on_the_trial_that_it_continues(quick):
    found = space.parse(SPACE.replace("[1, 2]", "[4]").replace("default = 1", "default = 4"))
    study = quick(trials=14, tuner="hyperband", space=found)
    assert "tuner/epochs" not in quick.ran[0][1]
    continued = [(number, earlier) for number, _, earlier in quick.ran if earlier is not None]
    assert continued
    for number, earlier in continued:
        record = results.read_record(study, number)
        past = results.read_record(study, int(Path(earlier).name))
        assert record.values["fine_tune_lr"] == past.values["fine_tune_lr"]
        assert record.values["tuner/epochs"] > past.values["tuner/epochs"]
        here, there = (Recipe(**one.settings) for one in (record, past))
        # What the earlier rung did is the beginning of what the later one would do alone.
        steps = 10 * past.values["tuner/epochs"]
        rates = [
            here.rate(step, 10 * here.fine_tune_epochs)
            for step in range(10 * here.fine_tune_epochs)
        ]
        assert rates[:steps] == [there.rate(step, steps) for step in range(steps)]
        assert (rates[-1] < 0.1 * max(rates)) == (here.fine_tune_epochs == 4)


def test_the_objective_decides_which_is_best(quick):
    records = [
        results.Record(0, "completed", {}, {}, nll=0.3, accuracy=0.8, macro_f1=0.7),
        results.Record(1, "completed", {}, {}, nll=0.2, accuracy=0.7, macro_f1=0.75),
        results.Record(2, "failed", {}, {}),
    ]
    assert [results.best_of(records, name).trial for name in ("nll", "accuracy", "f1")] == [1, 0, 1]


def test_the_paired_interval_is_that_of_a_mean():
    draw = np.random.default_rng(1).normal(0.2, 1.0, 2000)
    low, high = results.paired_interval(draw)
    half = 1.96 * draw.std() / np.sqrt(len(draw))
    assert low == pytest.approx(draw.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(draw.mean() + half, abs=0.1 * half)
