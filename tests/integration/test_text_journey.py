"""Texts through the same rooms: a table to a run, its page and its predictions."""

import json

import keras
import pytest
from hostile.table import assert_refused, say

import keras_transfer as kt
from keras_transfer.datasets import load_dataset
from keras_transfer.frozen.engine import build_engine
from keras_transfer.learn.heads import solve_head
from keras_transfer.learn.model import head_inputs
from keras_transfer.runs import folder as runs

SMALL = ("--max-length", "24", "--unfreeze", "1", "--fine-tune-epochs", "1", "--quiet")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Sentences of SciPy's documentation about three of its parts, a row each."""
    data = load_dataset("builtin:scipy")
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    wanted = [i for i, label in enumerate(data.labels) if label < 3]
    seen, rows = dict.fromkeys(range(3), 0), []
    for i in wanted:
        if seen[int(data.labels[i])] < 24:
            seen[int(data.labels[i])] += 1
            row = {"text": data.read(i).decode(), "label": data.class_names[data.labels[i]]}
            rows.append(json.dumps(row))
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "texts"
    said = say("train", table, "--output", folder, *SMALL)
    assert said.code == 0, said
    return folder


def test_a_table_of_texts_becomes_a_run(run):
    made = runs.open_run(run)
    config = made.config
    assert (config["modality"], config["backbone"]) == ("text", "MiniLM-L6")
    assert (config["max_length"], config["image_size"]) == (24, None)
    assert made.metrics["test"]["accuracy"] > 0.6
    assert [phase["name"] for phase in made.metrics["phases"]] == ["head", "fine_tune"]
    assert all(row["path"].startswith("row-") for row in made.predictions())


def test_it_is_evaluated_as_it_was(run):
    said = say("evaluate", run, "--json")
    assert said.code == 0, said
    accuracy = json.loads(said.out)["accuracy"]
    assert accuracy == runs.open_run(run).metrics["test"]["accuracy"]


def test_what_was_stored_is_not_computed_again(run, table, tmp_path):
    said = say("train", table, "--output", tmp_path / "again", *SMALL)
    assert said.code == 0, said
    before, again = runs.open_run(run).metrics, runs.open_run(tmp_path / "again").metrics
    assert again["cache"]["misses"] == 0
    assert again["test"] == before["test"]


def test_its_page_shows_texts_as_text(run, table):
    page = (run / "report.html").read_text()
    assert "test texts" in page
    row = next(r for r in runs.open_run(run).predictions() if r["label"] != r["predicted"])
    number = int(row["path"].removeprefix("row-"))
    text = json.loads(table.read_text().splitlines()[number - 1])["text"]
    shown = (run / "plots" / "examples" / "mistakes-00.html").read_text()
    assert "<mark" in shown
    assert "<script" not in shown
    assert any(word in page for word in text.split()[:3])


def test_words_and_files_are_classified(run, tmp_path):
    text = "Discrete cosine transform of a real sequence."
    (tmp_path / "a.txt").write_text(text)
    said = say("predict", run, text, tmp_path / "a.txt", "--json")
    assert said.code == 0, said
    rows = json.loads(said.out)
    assert rows[0]["text"] == text
    assert rows[0]["classes"] == rows[1]["classes"]
    labels = {one["label"] for one in rows[0]["classes"]}
    assert labels == set(runs.open_run(run).class_names)


def test_what_texts_are_not_yet_for_is_refused_by_name(run, table, tmp_path):
    assert_refused(say("export", run, "--output", tmp_path / "out"), "Only models of images")
    assert not (tmp_path / "out").exists()
    words = ("train", table, "--output", tmp_path / "run", "--quiet")
    assert_refused(say(*words, "--image-size", "64"), "image_size was given", "texts")
    said = say(*words, "--backbone", "MobileNetV2", "--weights", "none")
    assert_refused(said, "MobileNetV2 takes images")
    assert not (tmp_path / "run").exists()


def test_the_head_leaves_lower_blocks_out_where_validation_says_so(table):
    result = kt.train(table, effort="quick", max_length=24, engine="keras")
    pooled = keras.Model(result.model.input, result.model.get_layer("avg_pool").output)
    features = head_inputs(result.model, build_engine(pooled).predict(result.dataset.examples)[0])
    train, val = (result.dataset.indices(name) for name in ("train", "val"))
    labels, lower = result.dataset.labels, features.shape[1] - 384
    with_lower, topmost = (
        solve_head(features[train, skip:], labels[train], 3, features[val, skip:], labels[val])
        for skip in (0, lower)
    )
    kernel = result.model.get_layer("logits").get_weights()[0]
    assert topmost.validation_nll < 0.95 * with_lower.validation_nll, "or the choice is by chance"
    assert not kernel[:lower].any()
    assert kernel[lower:].any()
