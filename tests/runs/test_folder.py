import csv
import json
import shutil

import numpy as np
import pytest

from keras_transfer import datasets
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.runs import folder as runs


@pytest.fixture
def copy(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


def test_a_run_folder_holds_what_scripts_rely_on(digits_run):
    names = {path.name for path in digits_run.iterdir()}
    assert names >= {
        "config.json", "metrics.json", "history.csv", "model.keras", "splits.csv",
        "predictions.csv", "report.html", "plots",
    }  # fmt: skip
    assert "state" not in names
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert set(metrics["test"]) >= {"accuracy", "top5", "macro_f1", "nll", "ece"}
    assert "accuracy" in metrics["validation"]
    for phase in metrics["phases"]:
        assert set(phase) >= {"name", "epochs", "seconds", "images_per_second", "cached"}
    stages = {"total", "decode", "extract", "head", "fine_tune", "evaluate"}
    assert set(metrics["seconds"]) >= stages
    assert metrics["seconds"]["total"] >= sum(
        metrics["seconds"][stage] for stage in stages - {"total"}
    )
    assert set(metrics["cache"]) >= {"hits", "misses", "bytes"}
    assert metrics["environment"]["versions"]["keras"]


def test_predictions_agree_with_metrics_and_probabilities(digits_run):
    run = runs.open_run(digits_run)
    rows = run.predictions
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert right == pytest.approx(run.metrics["test"]["accuracy"])
    probabilities = run.test_probabilities
    assert [run.class_names[i] for i in probabilities.argmax(1)] == [r["predicted"] for r in rows]
    assert [row["probability"] for row in rows] == pytest.approx(
        probabilities.max(1).tolist(), abs=1e-5
    )


def test_the_saved_model_gives_the_saved_probabilities(digits_run):
    run = runs.open_run(digits_run)
    data = run.dataset
    pixels = data.examples[data.indices("test")]
    probabilities = np.asarray(run.model(pixels, training=False))
    np.testing.assert_allclose(probabilities, run.test_probabilities, atol=1e-4)


def test_splits_reproduce_the_data_set(digits_run, digits_folder):
    run = runs.open_run(digits_run)
    with open(digits_run / "splits.csv", newline="") as stream:
        rows = {row["path"]: (row["label"], row["split"]) for row in csv.DictReader(stream)}
    data = datasets.load_dataset(str(digits_folder), splits=digits_run / "splits.csv")
    assert rows == {
        path: (data.class_names[label], split)
        for path, label, split in zip(data.paths, data.labels, data.splits, strict=True)
    }
    assert (run.dataset.splits == data.splits).all()


def test_history_has_a_row_an_epoch(digits_run):
    rows = runs.open_run(digits_run).history
    assert [row["epoch"] for row in rows if row["phase"] == "fine_tune"] == [1, 2]
    assert all(row["train_loss"] > 0 for row in rows)


def test_what_is_no_run_or_half_a_run_is_named(copy, tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        runs.open_run(tmp_path)
    (copy / "splits.csv").unlink()
    (copy / "model.keras").unlink()
    with pytest.raises(UsageError, match=r"lacks model\.keras, splits\.csv"):
        runs.open_run(copy)
    (copy / "metrics.json").unlink()
    with pytest.raises(UsageError, match="has not finished"):
        runs.open_run(copy)


def test_a_damaged_model_is_named(copy):
    (copy / "model.keras").write_bytes(b"not a zip")
    with pytest.raises(UsageError, match=r"model\.keras"):
        runs.open_run(copy).model


@pytest.mark.parametrize(
    ("name", "text", "read", "said"),
    [
        ("config.json", '{"keras_transfer": "0", ', runs.open_run, "config.json: Input data"),
        ("metrics.json", "{}", runs.open_run, "metrics.json: Object missing required field `test`"),
        ("config.json", '{"keras_transfer": "0"}', runs.open_run, "config.json: .* field `data`"),
        ("predictions.csv", "path,label\na,b\n", lambda run: run.predictions,
         "csv: it was changed"),
        ("validation_logits.npy", "no array", lambda run: run.validation_logits,
         "Cannot read .*validation_logits.npy: it was changed"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(copy, name, text, read, said):
    opened = copy if read is runs.open_run else runs.open_run(copy)
    (copy / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        read(opened)


def begin(path, config, **flags):
    """Begins a run that is then killed."""
    with runs.begin(path, config, **flags):
        pass


def test_a_run_is_replaced_only_when_asked(copy):
    with pytest.raises(UsageError, match="already holds a run"):
        begin(copy, {"keras_transfer": "0"})
    begin(copy, {"keras_transfer": "0"}, overwrite=True)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match="left alone"):
            begin(tmp_path, {"keras_transfer": "0"}, **flags)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_resuming_wants_the_same_settings(tmp_path):
    config = {"keras_transfer": "0", "seed": 1, "split": (0.7, 0.2, 0.1)}
    begin(tmp_path / "run", config)
    begin(tmp_path / "run", config, resume=True)
    with pytest.raises(UsageError, match="seed=1"):
        begin(tmp_path / "run", config | {"seed": 2}, resume=True)
    with pytest.raises(UsageError, match="not finished"):
        begin(tmp_path / "run", config)
    with pytest.raises(UsageError, match="has not finished"):
        runs.open_run(tmp_path / "run")


def test_a_finished_run_is_not_resumed(copy):
    with pytest.raises(UsageError, match="nothing to resume"):
        runs.check_output(copy, resume=True, overwrite=False)


def test_atomic_writing_leaves_the_old_file_when_the_new_one_fails(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"a": float("nan"), "b": np.float32(1.5), "c": (1, 2)})
    assert json.loads(target.read_text()) == {"a": None, "b": 1.5, "c": [1, 2]}
    with pytest.raises(ZeroDivisionError), files.atomic_path(target) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert json.loads(target.read_text())["b"] == 1.5
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_atomic_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "out"
    with files.atomic_folder(target) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(FileExistsError), files.atomic_folder(target):
        pass
    with pytest.raises(RuntimeError), files.atomic_folder(target, replace=True):
        raise RuntimeError
    assert (target / "one").exists()
    with files.atomic_folder(target, replace=True) as folder:
        (folder / "two").write_text("2")
    assert [path.name for path in target.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
