"""Trackers follow the second phase by the callbacks that they have for Keras, offline."""

from __future__ import annotations

from pathlib import Path

import pytest

import keras_transfer as kt

HOW = {
    "image_size": 32, "backbone": "MobileNetV3Small", "weights": "none", "unfreeze": 1,
    "fine_tune_epochs": 3, "per_class": 4, "effort": "quick",
}  # fmt: skip


def epochs_of(result):
    return [row for row in result.history if row["phase"] == "fine_tune"]


def test_weights_and_biases_has_the_numbers_of_the_history(digits_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb = pytest.importorskip("wandb")
    from wandb.integration.keras import WandbMetricsLogger

    with wandb.init(project="digits", dir=tmp_path) as run:
        result = kt.train(digits_folder, callbacks=[WandbMetricsLogger()], **HOW)
        said = dict(run.summary)
    wandb.teardown()  # or it would write there for other tests, too
    last = epochs_of(result)[-1]
    assert (said["_step"], said["epoch/epoch"]) == (2, 2)  # one line an epoch
    assert said["epoch/loss"] == last["train_loss"]
    assert said["epoch/val_loss"] == last["validation_loss"]
    assert said["epoch/val_accuracy"] == last["validation_accuracy"]
    assert said["epoch/learning_rate"] == pytest.approx(last["learning_rate"])  # the optimizer's
    assert list(Path(tmp_path).glob("wandb/offline-run-*/*.wandb"))


def test_mlflow_has_the_numbers_of_the_history(digits_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "kept").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    mlflow = pytest.importorskip("mlflow")
    from mlflow.keras import MlflowCallback

    # By name: a page that ran in this process has left its own experiment active.
    with mlflow.start_run(experiment_id="0") as run:
        result = kt.train(digits_folder, callbacks=[MlflowCallback()], **HOW)
    client = mlflow.MlflowClient()
    for theirs, ours in (
        ("loss", "train_loss"), ("val_loss", "validation_loss"), ("learning_rate",) * 2,
        ("val_accuracy", "validation_accuracy"),
    ):  # fmt: skip
        found = [
            (one.step, one.value) for one in client.get_metric_history(run.info.run_id, theirs)
        ]
        assert found == [(row["epoch"] - 1, row[ours]) for row in epochs_of(result)]
    assert client.get_run(run.info.run_id).data.params["optimizer_name"] == "adamw"
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["model_summary.txt"]
