"""What a search varies, as data: settings, their conditions, and the schedules they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_transfer.schedule import Phase, Schedule, recipe

Value = float | int | str


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a setting may be: its type, and its bounds where it is a number."""

    type: type
    low: float = 0.0
    high: float = 0.0
    words: tuple[str, ...] = ()


KNOWN: dict[str, Kind] = {
    "unfreeze": Kind(str),
    "fine_tune_lr": Kind(float, 1e-9, 10.0),
    "epochs": Kind(int, 1, 10_000),
    "rate_decay": Kind(float, 1e-3, 1.0),
    "weight_decay": Kind(float, 0.0, 10.0),
    "penalty": Kind(str, words=("none", "l2", "l2-sp")),
    "penalty_strength": Kind(float, 0.0, 1e6),
    "label_smoothing": Kind(float, 0.0, 0.99),
    "strength": Kind(float, 0.0, 10.0),
    "batch_size": Kind(int, 1, 100_000),
    "views": Kind(int, 1, 1000),
    "head_lr": Kind(float, 1e-9, 10.0),
    "backbone": Kind(str),
    "image_size": Kind(int, 1, 10_000),
}
# Settings of the second phase that have the same name in a schedule, or this one.
_PHASE = {
    "unfreeze": "unfreeze", "fine_tune_lr": "learning_rate", "epochs": "epochs",
    "rate_decay": "rate_decay", "weight_decay": "weight_decay", "penalty": "penalty",
    "penalty_strength": "penalty_strength", "label_smoothing": "label_smoothing",
    "batch_size": "batch_size",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One setting that a search varies.

    Attributes:
        name: one of the settings that a space may hold.
        choices: the values to choose from; empty where it is a range.
        low: the least value of a range.
        high: the largest value of a range.
        scale: ``linear`` or ``log``.
        step: between values of a range; None for any value (1 for whole numbers).
        default: the value in trial 0.
        when: for each setting that this one depends on, the values with which it matters.
        line: where its values stand in the file, from 1.
    """

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    scale: str = "linear"
    step: float | None = None
    default: Value = 0
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    line: int = 0

    def declare(self, hp: Any) -> None:
        """Adds the setting to a ``keras_tuner.HyperParameters``."""
        if len(self.choices) == 1:
            hp.Fixed(self.name, self.choices[0])
            return
        if self.choices:
            hp.Choice(self.name, list(self.choices), default=self.default)
            return
        given: dict[str, Any] = {"sampling": self.scale, "default": self.default}
        if self.step is not None:
            given["step"] = self.step
        if KNOWN[self.name].type is int:
            hp.Int(self.name, int(self.low), int(self.high), **given)
        else:
            hp.Float(self.name, float(self.low), float(self.high), **given)

    def to_json(self) -> dict[str, Any]:
        """The setting as plain values, without the line."""
        plain = dataclasses.asdict(self)
        plain["choices"] = list(self.choices)
        plain["when"] = {name: list(values) for name, values in self.when}
        return {name: value for name, value in plain.items() if name != "line"}


@dataclasses.dataclass(frozen=True)
class Space:
    """All settings that a search varies, those that others depend on first.

    Attributes:
        parameters: the settings.
        source: the file that they were read from, for messages.
    """

    parameters: tuple[Parameter, ...]
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """The settings' names, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    def get(self, name: str) -> Parameter | None:
        """The setting of that name, or None."""
        return next((p for p in self.parameters if p.name == name), None)

    def without(self, name: str) -> Space:
        """The same space with one setting left at the recipe's value."""
        kept = tuple(p for p in self.parameters if p.name != name)
        return dataclasses.replace(self, parameters=kept)

    def defaults(self) -> dict[str, Value]:
        """The values of trial 0: those settings alone that matter there."""
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            if all(values.get(name) in allowed for name, allowed in parameter.when):
                values[parameter.name] = parameter.default
        return values

    def hyperparameters(self) -> Any:
        """The space as a ``keras_tuner.HyperParameters``."""
        import contextlib

        import keras_tuner

        hp = keras_tuner.HyperParameters()
        for parameter in self.parameters:
            with contextlib.ExitStack() as scopes:
                for name, allowed in parameter.when:
                    scopes.enter_context(hp.conditional_scope(name, list(allowed)))
                parameter.declare(hp)
        return hp

    def to_json(self) -> list[dict[str, Any]]:
        """The space as plain values; equal spaces give equal values."""
        return [parameter.to_json() for parameter in self.parameters]


def from_json(held: Sequence[Mapping[str, Any]], source: str) -> Space:
    """The space that :meth:`Space.to_json` gave."""
    return Space(
        tuple(
            Parameter(
                **dict(one)
                | {
                    "choices": tuple(one["choices"]),
                    "when": tuple((name, tuple(values)) for name, values in one["when"].items()),
                }
            )
            for one in held
        ),
        source,
    )


def schedule_of(values: Mapping[str, Any]) -> Schedule:
    """The schedule of a trial: the default recipe with the trial's values in it.

    Args:
        values: by name, as a search draws them; settings that are no part of a schedule are
            ignored, and those that are absent keep the recipe's values.
    """
    schedule = recipe()
    tuned = {_PHASE[name]: _plain(value) for name, value in values.items() if name in _PHASE}
    assert schedule.fine_tune is not None
    fine_tune: Phase | None = dataclasses.replace(schedule.fine_tune, **tuned)
    head = schedule.head
    if "head_lr" in values:
        head = dataclasses.replace(head, solver="adamw", learning_rate=float(values["head_lr"]))
    rest = {name: values[name] for name in ("strength", "views") if name in values}
    return dataclasses.replace(schedule, head=head, fine_tune=fine_tune, **rest)


def _plain(value: Any) -> Any:
    """A depth that is a number is searched as text: it shares its list with shares and names."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def recipe_value(name: str, held: Mapping[str, Any]) -> Value:
    """The default recipe's value of a setting; the first of what is allowed where it has none."""
    schedule = recipe()
    assert schedule.fine_tune is not None
    if name in _PHASE:
        value = getattr(schedule.fine_tune, _PHASE[name])
        return str(value) if name == "unfreeze" else value
    if name in ("strength", "views"):
        return getattr(schedule, name)
    first = held["choices"][0] if held.get("choices") else held.get("low")
    return KNOWN[name].type(first)
