"""Keras's callbacks, told of the second phase."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress, Relay

_OURS = (
    keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler,
    keras.callbacks.BackupAndRestore,
)  # fmt: skip
_LOGS = {
    "train_loss": "loss", "validation_loss": "val_loss", "validation_accuracy": "val_accuracy",
    "learning_rate": "learning_rate",
}  # fmt: skip
"""Of a row of the history, by the names that callbacks look for."""


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuses what is no callback, and those that would believe to do what is not theirs here.

    Raises:
        UsageError: there is such a one.
    """
    for one in callbacks if isinstance(callbacks, Sequence) else [callbacks]:
        if not isinstance(one, keras.callbacks.Callback) or isinstance(one, _OURS):
            problem = f"The second phase takes no {type(one).__name__} as a callback."
            remedy = "Give keras.callbacks.Callback objects. Rates are set by fine_tune_lr, warmup "
            raise UsageError(problem, remedy=f"{remedy}and decay; resume=True goes on.")


class Watched(Relay):
    """Tells callbacks of a phase: its beginning, the epochs, its end; of steps they hear nothing.

    Args:
        callbacks: ``self.model`` of each is the part that trains; where it sets
            ``stop_training``, no other epoch begins.
        model: that part.
        inner: what else is to be told.
    """

    def __init__(
        self, callbacks: Sequence[keras.callbacks.Callback], model: keras.Model, inner: Progress
    ) -> None:
        super().__init__(inner)
        self._told = keras.callbacks.CallbackList(list(callbacks), model=model)
        self._model = model

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """As ``inner`` does; the first ``advance`` comes when the optimiser is there."""
        self._told.set_params({"epochs": total, "verbose": 0})
        done: list[int] = []
        with super().step(name, total) as inner:

            def advance(units: int = 1, info: str = "") -> None:
                inner(units, info)
                if not done:
                    self._model.stop_training = False
                    self._told.on_train_begin()
                done.append(units)
                if sum(done) < total and not self._model.stop_training:
                    self._told.on_epoch_begin(sum(done))

            yield advance
            self._told.on_train_end()

    def row(self, row: Mapping[str, Any]) -> None:
        """Ends an epoch."""
        super().row(row)
        logs = {name: row[key] for key, name in _LOGS.items()}
        self._told.on_epoch_end(int(row["epoch"]) - 1, logs)
