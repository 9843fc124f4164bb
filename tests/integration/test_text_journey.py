"""Texts through the same rooms: a table to a run, its page and its predictions."""

import csv
import json
import re
import shutil

import keras
from hostile.table import assert_refused, say

import keras_transfer as kt
from keras_transfer.frozen.engine import build_engine
from keras_transfer.learn.heads import solve_head
from keras_transfer.learn.model import head_inputs
from keras_transfer.runs import folder as runs


def test_a_table_of_texts_becomes_a_run(texts_run):
    made = runs.open_run(texts_run)
    config = made.config
    assert (config["modality"], config["backbone"]) == ("text", "MiniLM-L6")
    assert (config["max_length"], config["image_size"]) == (24, None)
    assert made.metrics["test"]["accuracy"] > 0.6
    assert [phase["name"] for phase in made.metrics["phases"]] == ["head", "fine_tune"]
    assert all(row["path"].startswith("row-") for row in made.predictions)


def test_the_pages_of_a_run_stay_in_one_split(texts_run, texts_table):
    made = runs.open_run(texts_run)
    assert made.config["group"] == "page"
    with open(texts_run / "splits.csv", newline="") as stream:
        splits = [(int(row["path"][4:]), row["split"]) for row in csv.DictReader(stream)]
    assert len({((number - 1) // 3, split) for number, split in splits}) == 24
    data = made.dataset
    assert data.splits.tolist() == [split for _, split in splits]
    assert [one.reason for one in data.findings if one.kind == "grouped"] == [
        "24 groups by the column 'page', 22 where copies join some"
    ]
    words = ("train", texts_table, "--output", texts_run, "--resume")
    assert_refused(say(*words, "--quiet"), "has finished; there is nothing to resume")


def test_what_is_said_of_texts_speaks_of_texts(texts_run, texts_table, tmp_path):
    """Of every command that prints what a run is worth; of figures, too."""
    shutil.copytree(texts_run, again := tmp_path / "again")
    (tmp_path / "other.jsonl").write_text("\n".join(texts_table.read_text().splitlines()[::4]))
    for words in (
        ("evaluate", again), ("evaluate", again, tmp_path / "other.jsonl"), ("curve", again),
        ("compare", again, texts_run),
    ):  # fmt: skip
        said = say(*words)
        assert said.code == 0, said
        assert not re.search(r"\b(images?|pixels?|pictures?)\b", said.out + said.err), said
    page = (again / "report.html").read_text()
    prose = re.sub(r"<style>.*?</style>|<script>.*?</script>|<pre.*?</pre>|<!--.*?-->", "", page,
                   flags=re.DOTALL)  # fmt: skip
    assert "Twice the training data" in page
    shown = re.sub(r"<[^>]*>", " ", prose)
    assert not re.search(r"\b(images?|pixels?|pictures?)\b", shown.split("Mistakes and doubts")[0])


def test_it_is_evaluated_as_it_was(texts_run):
    said = say("evaluate", texts_run, "--json")
    assert said.code == 0, said
    accuracy = json.loads(said.out)["accuracy"]
    assert accuracy == runs.open_run(texts_run).metrics["test"]["accuracy"]


def test_what_was_stored_is_not_computed_again(texts_run, texts_table, texts_settings, tmp_path):
    said = say("train", texts_table, "--output", tmp_path / "again", *texts_settings)
    assert said.code == 0, said
    before, again = runs.open_run(texts_run).metrics, runs.open_run(tmp_path / "again").metrics
    assert again["cache"]["misses"] == 0
    assert again["test"] == before["test"]


def test_its_page_shows_texts_as_text(texts_run, texts_table):
    page = (texts_run / "report.html").read_text()
    assert "test texts" in page
    row = next(r for r in runs.open_run(texts_run).predictions if r["label"] != r["predicted"])
    number = int(row["path"].removeprefix("row-"))
    text = json.loads(texts_table.read_text().splitlines()[number - 1])["text"]
    shown = (texts_run / "plots" / "examples" / "mistakes-00.html").read_text()
    assert "<mark" in shown
    assert "<script" not in shown
    assert any(word in page for word in text.split()[:3])


def test_words_and_files_are_classified(texts_run, tmp_path):
    text = "Discrete cosine transform of a real sequence."
    (tmp_path / "a.txt").write_text(text)
    said = say("predict", texts_run, text, tmp_path / "a.txt", "--json")
    assert said.code == 0, said
    rows = json.loads(said.out)
    assert rows[0]["text"] == text
    assert rows[0]["classes"] == rows[1]["classes"]
    labels = {one["label"] for one in rows[0]["classes"]}
    assert labels == set(runs.open_run(texts_run).class_names)


def test_what_is_no_matter_of_texts_is_refused_by_name(texts_table, tmp_path):
    words = ("train", texts_table, "--output", tmp_path / "run", "--quiet")
    assert_refused(say(*words, "--image-size", "64"), "image_size was given", "texts")
    said = say(*words, "--backbone", "MobileNetV2", "--weights", "none")
    assert_refused(said, "MobileNetV2 takes images")
    assert not (tmp_path / "run").exists()


def test_the_head_leaves_lower_blocks_out_where_validation_says_so(texts_table):
    result = kt.train(texts_table, effort="quick", max_length=24, engine="keras")
    pooled = keras.Model(result.model.input, result.model.get_layer("avg_pool").output)
    features = head_inputs(result.model)(build_engine(pooled).predict(result.dataset.examples)[0])
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
