"""The page of a run that the command line would leave behind."""

import dataclasses
import shutil

import numpy as np
import pytest

from keras_transfer import evaluation
from keras_transfer.base import errors
from keras_transfer.runs import folder as runs
from keras_transfer.runs.report import write_report


@pytest.fixture
def run(digits_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(digits_run, folder)
    return runs.open_run(folder)


def test_nothing_is_missing_from_the_page_of_a_fresh_run(run):
    text = write_report(run).read_text()
    assert "Parts of this page are missing" not in text
    for part in ("training", "confusion", "classes", "metrics", "cost", "repeat"):
        assert f'id="{part}"' in text
    assert len(list((run.path / "plots" / "examples").glob("doubts-*.html"))) > 0
    test = run.metrics["test"]
    answers = np.load(run.path / "test_probabilities.npy")
    again = evaluation.evaluate(
        answers,
        np.array([run.class_names.index(row["label"]) for row in run.predictions]),
        run.class_names,
    )
    assert again.nll == pytest.approx(test["nll"], rel=1e-4)


def test_a_run_equals_its_copy_and_not_one_on_other_images(run, digits_run):
    same = evaluation.compare([run, runs.open_run(digits_run)])
    assert "is right as often as" in same.pairs[0].verdict
    table = (run.path / "predictions.csv").read_text().splitlines(keepends=True)
    (run.path / "predictions.csv").write_text("".join(table[:-1]))
    other = dataclasses.replace(run, metrics={**run.metrics, "files": {}})
    with pytest.raises(errors.UsageError, match="different test splits"):
        evaluation.compare([other, runs.open_run(digits_run)])
