"""Event files, read back by TensorFlow's own reader and message classes."""

import sys

import numpy as np
import pytest

from keras_transfer import cli
from keras_transfer.base.errors import UsageError
from keras_transfer.base.events import EventLog
from keras_transfer.base.progress import Progress
from keras_transfer.runs import folder as runs


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboard.summary")


def read(folder):
    """``{tag: {step: value}}`` of one phase; the reader checks every checksum."""
    import tensorflow as tf
    from tensorflow.core.util.event_pb2 import Event

    (file,) = folder.iterdir()
    assert file.name.startswith("events.out.tfevents.")
    events = [Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))]
    assert events[0].file_version == "brain.Event:2"
    found = {}
    for event in events[1:]:
        assert event.wall_time >= events[0].wall_time > 1.7e9
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_rows_are_read_back_by_phase(tmp_path, tensorboard):
    told = []

    class Inner(Progress):
        def row(self, row):
            told.append(row)

    log = EventLog(tmp_path, Inner())
    rows = [
        {"phase": "head", "epoch": 1, "validation_loss": 0.7, "penalty": 0.01},
        {"phase": "fine_tune", "epoch": 300, "train_loss": 1.5, "validation_accuracy": 0.875},
        {"phase": "fine_tune", "epoch": 301, "train_loss": -0.25, "seconds": 3.0},
    ]
    for row in rows:
        log.row(row)
    assert told == rows
    head, tuned = read(tmp_path / "head"), read(tmp_path / "fine_tune")
    assert head == {"loss/validation": {1: np.float32(0.7)}, "penalty": {1: np.float32(0.01)}}
    assert tuned == {
        "loss/train": {300: 1.5, 301: -0.25},
        "accuracy/validation": {300: 0.875},
    }


def test_without_tensorboard_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        EventLog(tmp_path, Progress())
    assert not list(tmp_path.iterdir())


def test_the_command_logs_both_phases_and_can_leave_probabilities_as_they_are(
    digits_folder, tmp_path, tensorboard
):
    output = tmp_path / "run"
    arguments = ["train", digits_folder, "--output", output, "--image-size", "32", "--quiet"]
    arguments += ["--unfreeze", "1", "--fine-tune-epochs", "2", "--effort", "quick"]
    arguments += ["--tensorboard", "--calibration", "none", "--refit", "off"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    run = runs.open_run(output)
    tuned = read(output / "tensorboard" / "fine_tune")
    for row in run.history:
        assert tuned["loss/train"][int(row["epoch"])] == pytest.approx(float(row["train_loss"]))
    assert len(tuned["accuracy/validation"]) == 2
    path = run.metrics["phases"][0]["details"]["path"]
    head = read(output / "tensorboard" / "head")
    assert list(head["loss/validation"].values()) == pytest.approx([step[1] for step in path])
    # Without calibration the probabilities are the softmax of the logits themselves.
    assert run.config["calibration"] == "none"
    assert run.config["temperature"] == 1.0
    data = run.dataset
    pixels = data.examples[data.indices("val")]
    logits = run.validation_logits
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    found = run.model.predict(pixels, verbose=0)
    np.testing.assert_allclose(found, expected, atol=2e-3)
