"""Several labels an example, from a table to a proven file, as a user goes the way."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sklearn import metrics
from sklearn.datasets import load_digits

import keras_transfer as kt
from keras_transfer import backbones, cli, console, datasets, training
from keras_transfer.base.errors import UsageError
from keras_transfer.base.task import SEVERAL
from keras_transfer.export import proof
from keras_transfer.learn.pool import ModelPool
from keras_transfer.recipe import Recipe
from keras_transfer.runs import probing, report


def pairs(folder, count, digits, seed):
    """Two of some scanned digits side by side, one alone, or none: pictures and their table."""
    random, held = np.random.default_rng(seed), load_digits()
    chosen = np.flatnonzero(np.isin(held.target, digits))
    rows = ["path,label"]
    for number in range(count):
        picked = random.choice(chosen, 2)[: [2, 2, 2, 2, 1, 0][number % 6]]
        picture = random.integers(0, 40, size=(16, 16)).astype(np.uint8)
        for place, i in enumerate(picked):
            picture[4:12, 8 * place : 8 * place + 8] = held.images[i] * (255 / 16)
        Image.fromarray(picture).resize((32, 32)).save(folder / f"{number:03d}.png")
        rows.append(f"{number:03d}.png,{'|'.join(f'n{held.target[i]}' for i in picked) or '|'}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return pairs(tmp_path_factory.mktemp("pairs"), 240, range(5), 0)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "pairs"
    words = ["train", str(table), "--output", str(place), "--image-size", "32", "--quiet"]
    assert cli.main([*words, "--effort", "quick", "--fine-tune-epochs", "1"]) == 0
    return kt.open_run(place)


def test_a_run_says_all_that_was_measured(run):
    held, names = json.loads((run.path / "metrics.json").read_text()), run.class_names
    assert run.config["multi_label"] == "on"
    test, scores = run.dataset.indices("test"), run.test_probabilities
    labels, least = run.dataset.labels[test], [held["class_thresholds"][name] for name in names]
    answers = (scores >= least).astype(int)
    found = held["test"]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, answers))
    area = metrics.average_precision_score(labels, scores, average="macro")
    assert found["mean_average_precision"] == pytest.approx(area, rel=1e-6)
    assert area > 2 * labels.mean()
    with open(run.path / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == SEVERAL.decode(labels, names)
    assert [row["predicted"] for row in rows] == SEVERAL.decode(answers, names)
    assert run.evaluation.accuracy == found["accuracy"]
    last = run.model.layers[-1]
    assert (last.name, last.activation.__name__) == ("probabilities", "sigmoid")
    assert min(one["nll"] for one in held["candidates"]) == held["validation"]["nll"]


def test_its_page_speaks_of_several_labels(run):
    page = (run.path / "report.html").read_text()
    for said in ("Mean average precision", "Answered from", "given or missed", "n0"):
        assert said in page
    for unsaid in ("Most often taken for", 'id="confusion"', "rather than another"):
        assert unsaid not in page
    wrong = [row for row in run.predictions if row["label"] != row["predicted"]]
    worst = max(wrong, key=lambda row: row["probability"])
    label, said = (worst[name].strip("|").replace("|", " + ") for name in ("label", "predicted"))
    assert f"{label or 'none'}, answered {said or 'none'} (" in page


def test_what_a_command_predicts_is_what_the_run_does(run, table, tmp_path, capsys):
    first = run.predictions[0]
    target = tmp_path / "found.csv"
    words = ["predict", str(run.path), str(table.parent / first["path"]), "--csv", str(target)]
    assert cli.main([*words, "--quiet", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert ("|".join(row["labels"]) or "|") == first["predicted"]
    assert row["probability"] == pytest.approx(first["probability"], abs=1e-4)
    assert row["classes"][0]["probability"] == max(one["probability"] for one in row["classes"])
    with open(target, newline="") as stream:
        assert next(csv.DictReader(stream))["predicted"] == first["predicted"]


def test_evaluating_again_gives_the_same(run, capsys):
    assert cli.main(["evaluate", str(run.path), "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["accuracy"] == run.metrics["test"]["accuracy"]
    assert again["hamming"] == pytest.approx(run.metrics["test"]["hamming"])


def cells(rows):
    return ["|".join(row["labels"]) or "|" for row in rows]


@pytest.mark.slow
def test_other_data_is_held_against_the_shared_classes(run, tmp_path, capsys):
    other = pairs(tmp_path, 60, range(2, 7), 1)
    shift = probing.evaluate_elsewhere(run, str(other))
    found = shift.to_json()
    assert (found["unknown"], found["left_out"]) == (("n5", "n6"), 0)
    shared = ("n2", "n3", "n4")
    assert found["shared"] == shared
    with open(other, newline="") as stream:
        rows = list(csv.DictReader(stream))
    said = kt.predict(run, [str(tmp_path / row["path"]) for row in rows])
    right = [
        {*row["label"].split("|")} & {*shared} == {*given["labels"]} & {*shared}
        for row, given in zip(rows, said, strict=True)
    ]
    assert found["away"]["accuracy"] == pytest.approx(np.mean(right))
    Console(width=100).print(console.shift(shift, "image"))
    assert "Classes unknown to the run: n5, n6; 0 images left out." in capsys.readouterr().out


@pytest.mark.slow
def test_more_data_updates_the_run(run, tmp_path, monkeypatch, capsys):
    written, real = [], report.write_report
    monkeypatch.setattr(report, "write_report", lambda one: written.append(one) or real(one))
    more = pairs(tmp_path, 60, range(6), 2)
    words = ["update", str(run.path), str(more), "--output", str(tmp_path / "new")]
    assert cli.main(words) == 0
    assert "New classes: n5" in (said := capsys.readouterr().err)
    assert "What the run has counts as having none of them." in said
    assert len(written) == 1  # the page, with the comparison
    new = kt.open_run(tmp_path / "new")
    assert "Beside the run before" in (new.path / "report.html").read_text()
    after, update = {row["path"]: row for row in new.predictions}, new.metrics["update"]
    before = {row["path"]: row for row in run.predictions}
    assert before.keys() < after.keys()
    right = [
        np.mean([rows[path]["label"] == rows[path]["predicted"] for path in before])
        for rows in (before, after)
    ]
    assert update["old_test"]["difference"] == pytest.approx(right[1] - right[0])
    fresh = [row for path, row in after.items() if path not in before]
    known = [row for row in fresh if "n5" not in row["label"]]
    old = cells(kt.predict(run, [str(tmp_path / row["path"][3:]) for row in known]))
    pair, labels = update["new_test"], [row["label"] for row in known]
    assert pair["images"] == len(known)
    right = [np.equal(labels, said).mean() for said in (old, [row["predicted"] for row in known])]
    assert pair["difference"] == pytest.approx(right[1] - right[0])
    (of_new,) = update["new_classes"]
    has = [row for row in fresh if "n5" in row["label"]]
    assert (of_new["name"], of_new["images"]) == ("n5", len(has))
    assert of_new["recall"] == pytest.approx(np.mean(["n5" in row["predicted"] for row in has]))


def test_wrong_labels_are_found_by_inspect(table, tmp_path, capsys):
    with open(table, newline="") as stream:
        rows = [(table.parent / row["path"], row["label"]) for row in csv.DictReader(stream)]
    wrong = {}
    for number in range(0, 240, 24):  # of two labels one is lost
        path, label = rows[number]
        wrong[str(path)] = label
        rows[number] = path, label.split("|")[0]
    given = tmp_path / "given.csv"
    given.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    assert cli.main(["inspect", str(given), "--labels", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    said = {f["path"]: f["reason"] for f in found if f["kind"] == "suspect_label"}
    assert len(said) <= 50  # of 240, where chance would find two of the ten that are wrong
    assert sum(f"looks like {wrong[path]!r}" in said.get(path, "") for path in wrong) >= 4


@pytest.mark.slow
def test_the_plain_way_gives_the_same(table, monkeypatch):
    """Fine-tuning by cheaper gradients and by Keras's own."""
    data = datasets.load_dataset(str(table), image_size=32)
    built = backbones.build("EfficientNetLite0", image_size=32, weights="offline")
    recipe = Recipe(
        image_size=32, unfreeze=2, fine_tune_epochs=1, views=1, levels=0, batch_norm="frozen",
        engine="keras", precision="float32", class_weights="balanced",
    )  # fmt: skip
    found = []
    for way in ("on", "off"):
        monkeypatch.setenv("KERAS_TRANSFER_FAST", way)
        shared = training.Shared(ModelPool())
        done = training.train(data, recipe=recipe, backbone=built, shared=shared, judge=False)
        ends = {one.name: one.nll for one in done.candidates}
        found.append((done.history[0]["train_loss"], ends["last epoch"]))
    assert found[0] == pytest.approx(found[1], rel=5e-3)


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    place = tmp_path_factory.mktemp("exports") / "pairs"
    result = kt.export_run(run, "tflite", place)
    assert result.passed, result.render()
    return place


def test_an_export_answers_as_the_run(export, run, table):
    items = [str(table.parent / row["path"]) for row in run.predictions[:12]]
    expected = [row["predicted"] for row in run.predictions[:12]]
    for model in (run, export):
        assert cells(kt.predict(model, items)) == expected
    alone = export.parent / "alone.tflite"  # a file says its labels and thresholds itself
    shutil.copy(export / "model.tflite", alone)
    assert cells(kt.predict(alone, items)) == expected


def test_its_proof_counts_labels(export, run):
    parity = json.loads((export / "parity.json").read_text())
    assert parity["thresholds"] == list(run.thresholds)
    given = [row["predicted"].strip("|").split("|") for row in run.predictions]
    labels = sum(len({*names} - {""}) for names in given)
    assert parity["artefacts"]["tflite"]["answers"] == labels
    assert parity["reference"]["accuracy"] == pytest.approx(run.metrics["test"]["accuracy"])
    script = export / "verify" / "verify.py"
    done = subprocess.run(
        [sys.executable, "-I", script, "--json"], capture_output=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (0, True)


def sealed(folder):
    """Writes the digests anew, as whoever tampers with an export can."""
    import hashlib

    path = folder / "manifest.json"
    held = json.loads(path.read_text())
    for name in held["files"]:
        held["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(held))


@pytest.mark.parametrize(("file", "change", "said"), [
    ("labels.txt", lambda text: "\n".join(text.split("\n")[1::-1] + text.split("\n")[2:]),
     "labels.txt: not the classes"),
    ("parity.json", lambda text: json.dumps(json.loads(text) | {"thresholds": [0.9] * 5}),
     "not the thresholds of verify/expected.json"),
])  # fmt: skip
def test_what_was_tampered_with_is_caught(export, tmp_path, file, change, said):
    copy = Path(shutil.copytree(export, tmp_path / "copy"))
    (copy / file).write_text(change((copy / file).read_text()))
    sealed(copy)
    assert not proof.check_files(copy)  # which cannot tell
    assert any(said in line for line in proof.check_proof(copy, proof.expected_of(copy)))


def test_its_words_are_of_several_labels(export):
    readme, card = ((export / name).read_text() for name in ("README.md", "model_card.md"))
    assert "Any number of classes may hold" in readme
    assert '["thresholds"]' in readme
    assert "any number of them or none" in card
    assert "mean average precision" in card


def test_a_dataset_that_was_opened_otherwise_is_refused(table):
    data = datasets.load_dataset(str(table), image_size=32)
    with pytest.raises(UsageError, match="opened otherwise"):
        kt.train(dataclasses.replace(data, name="pairs"), multi_label="off")
