"""Keras's own callbacks are told of the second phase, by the names and objects that they expect."""

from __future__ import annotations

import keras
import pytest

import keras_transfer as kt
from keras_transfer.base.errors import UsageError

HOW = {
    "image_size": 32, "backbone": "MobileNetV3Small", "weights": "none", "unfreeze": 1,
    "fine_tune_epochs": 3, "per_class": 4, "effort": "quick",
}  # fmt: skip


class Diary(keras.callbacks.Callback):
    """Writes down what it is told, and may end the training."""

    def __init__(self, stop_after: int = 99) -> None:
        super().__init__()
        self.said: list[object] = []
        self.stop_after = stop_after

    def on_train_begin(self, logs=None):
        self.said.append(("begin", self.params["epochs"], self.model.optimizer.name))

    def on_epoch_begin(self, epoch, logs=None):
        self.said.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.said.append((epoch, logs))
        self.model.stop_training = epoch + 1 == self.stop_after

    def on_train_end(self, logs=None):
        self.said.append("end")


def test_callbacks_hear_of_each_epoch_and_may_end_it(digits_folder):
    diary = Diary()
    result = kt.train(digits_folder, callbacks=[diary], **HOW)
    rows = [row for row in result.history if row["phase"] == "fine_tune"]
    (begin, epochs, optimizer), *said, end = diary.said
    assert (begin, epochs, end) == ("begin", 3, "end")
    assert optimizer.startswith("adam")
    assert said[::2] == [0, 1, 2]
    for row, (epoch, logs) in zip(rows, said[1::2], strict=True):
        assert epoch + 1 == row["epoch"]
        assert logs == {
            "loss": row["train_loss"], "val_loss": row["validation_loss"],
            "val_accuracy": row["validation_accuracy"], "learning_rate": row["learning_rate"],
        }  # fmt: skip
    early = Diary(stop_after=1)
    stopped = kt.train(digits_folder, callbacks=[early], **HOW)
    assert [row["epoch"] for row in stopped.history] == [1]
    assert early.said[1] == 0
    assert early.said[-1] == "end"
    assert len(early.said) == 4


@pytest.mark.parametrize("name", ["ReduceLROnPlateau", "LearningRateScheduler", "BackupAndRestore"])
def test_what_would_only_seem_to_work_is_refused(name):
    arguments = {"ReduceLROnPlateau": ()}.get(name, (lambda epoch: 1.0,))
    arguments = ("folder",) if name == "BackupAndRestore" else arguments
    with pytest.raises(UsageError, match=f"takes no {name} as a callback"):
        kt.train("nothing", callbacks=[getattr(keras.callbacks, name)(*arguments)])
    with pytest.raises(UsageError, match="takes no str"):
        kt.train("nothing", callbacks=["early"])
