"""What a search varies: settings of the recipe, in TOML with ranges in place of values."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_transfer import backbones
from keras_transfer.base.errors import UsageError, closest
from keras_transfer.recipe import DEPTH, SETTINGS, read

Value = float | int | str
KNOWN = tuple(
    name
    for name, field in SETTINGS.items()
    if field.metadata["group"] in ("model", "head", "fine-tuning", "augmentation")
    and name not in ("weights", "view_seed")
)
"""The settings that a space may hold."""

_HEADING = """\
# What the search varies. Each line or table is one setting of the recipe: a list of choices, or
# `low` and `high` with `scale` ("linear" or "log") and, if wanted, `step`. Trial 0 uses what
# `default` says, or the recipe's values. `when` makes a setting matter only where another has some
# value. `name = value` fixes a setting, and a setting left out keeps the recipe's value.
# With --tuner hyperband the largest of fine_tune_epochs is the longest rung.
"""
_KEYS = ("choices", "low", "high", "scale", "step", "default", "when")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One setting that a search varies.

    Attributes:
        name: one of ``KNOWN``.
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
        if SETTINGS[self.name].metadata["kind"].whole:
            hp.Int(self.name, int(self.low), int(self.high), **given)
        else:
            hp.Float(self.name, float(self.low), float(self.high), **given)

    def to_json(self) -> dict[str, Any]:
        """The setting as plain values, without the line."""
        plain = dataclasses.asdict(self) | {"choices": list(self.choices)}
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
    made = []
    for one in held:
        when = tuple((name, tuple(values)) for name, values in one["when"].items())
        made.append(Parameter(**{**one, "choices": tuple(one["choices"]), "when": when}))
    return Space(tuple(made), source)


def default_text() -> str:
    """The space that is searched unless a file names another, as TOML, ready to edit."""
    lines = [_HEADING]
    for name, field in SETTINGS.items():
        if (row := field.metadata["search"]) is not None:
            default = "" if "when" in row else f"default = {json.dumps(field.default)}\n"
            values = "".join(f"{key} = {_toml(value)}\n" for key, value in row.items())
            lines.append(f"[{name}]  # {field.metadata['help']}\n{values}{default}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(held)}' for key, held in value.items())} }}"
    return json.dumps(value)


def default_space() -> Space:
    """The space that is searched unless a file names another."""
    return parse(default_text(), "the default space")


def read_space(path: str | os.PathLike[str]) -> Space:
    """Reads a space from a TOML file.

    Raises:
        UsageError: the file is missing, or something in it cannot be used; the message names the
            line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(
            f"Cannot read {path}: {why}.", remedy="Name an existing file with --space."
        ) from None
    return parse(text, str(path))


def parse(text: str, source: str = "space") -> Space:
    """Builds a space from the text of a TOML file; see ``default_text`` for the form.

    Args:
        text: the file's text.
        source: what to call it in messages.

    Raises:
        UsageError: as for :func:`read_space`.
    """
    try:
        held = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = f"at line {len(text.splitlines())}, the end"
        raise UsageError(
            f"{source}: {str(error).replace('at end of document', end)}.",
            remedy="Mend that line; `python -m tuning space` shows the form.",
        ) from None
    if not held:
        raise UsageError(f"{source}: the space is empty.", remedy=f"Give one of {_listed(KNOWN)}.")
    found = [_parameter(_Place(text, source, name), value) for name, value in held.items()]
    for parameter in found:
        _check_condition(_Place(text, source, parameter.name), parameter, found)
    # Those that others depend on first.
    return Space(tuple(sorted(found, key=lambda one: bool(one.when))), source)


@dataclasses.dataclass(frozen=True)
class _Place:
    """A setting in a file, for messages that name the line."""

    text: str
    source: str
    name: str

    def line(self, key: str | None = None) -> int:
        """The line, from 1, of the setting or of a key of its table."""
        lines = self.text.splitlines()
        name = re.escape(self.name)
        begun = next(
            (i for i, line in enumerate(lines) if re.match(rf"\s*\[?\s*[\"']?{name}\b", line)), 0
        )
        for number, line in enumerate(lines[begun + 1 :], start=begun + 1):
            if key is None or line.lstrip().startswith("["):
                break
            if re.match(rf"\s*{re.escape(key)}\s*=", line):
                return number + 1
        return begun + 1

    def check(self, sound: Any, key: str | None, what: str, remedy: str) -> None:
        """Raises an error that names the file and the line, unless something is sound."""
        if not sound:
            where = f"{self.source}, line {self.line(key)}"
            raise UsageError(f"{where}: {what}", remedy=remedy)

    @contextlib.contextmanager
    def about(self, key: str | None) -> Iterator[None]:
        """Adds the file and the line to what the block raises."""
        try:
            yield
        except UsageError as error:
            self.check(False, key, error.message, error.remedy)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _parameter(at: _Place, held: Any) -> Parameter:
    name = at.name
    near = closest(name, list(KNOWN))
    at.check(name in KNOWN, None, f"unknown setting {name!r}.{near}", f"Known: {_listed(KNOWN)}.")
    if isinstance(held, list):
        held = {"choices": held}
    if not isinstance(held, dict):
        fixed = _value(at, None, held)
        return Parameter(name, choices=(fixed,), default=fixed, line=at.line())
    for key in held:
        said = f"{name} has an unknown key {key!r}.{closest(key, list(_KEYS))}"
        at.check(key in _KEYS, key, said, f"Known keys: {_listed(_KEYS)}.")
    line = at.line("choices" if "choices" in held else "low")
    common = {"line": line, "when": _conditions(at, held.get("when", {}))}
    kind = _choices if "choices" in held else _range
    return kind(at, held, common)


def _value(at: _Place, key: str | None, value: Any) -> Value:
    with at.about(key):
        found: Value = read(at.name, value)
        if at.name == "backbone":
            backbones.spec(str(found))
    # A depth that is a number is searched as text: it shares its list with shares and names.
    return str(found) if SETTINGS[at.name].metadata["kind"] is DEPTH else found


def _choices(at: _Place, held: dict[str, Any], common: dict[str, Any]) -> Parameter:
    name, given = at.name, held["choices"]
    one_or_more = isinstance(given, list) and bool(given)
    at.check(one_or_more, "choices", f"{name} has no choices.", "List one value or more.")
    for key in ("low", "high", "scale", "step"):
        said = f"{name} has both choices and {key}."
        at.check(key not in held, key, said, "Give choices or a range.")
    choices = tuple(_value(at, "choices", value) for value in given)
    once = len(set(choices)) == len(choices)
    at.check(once, "choices", f"{name} lists a choice twice.", "List each once.")
    default = _default(at, held, choices[0])
    at.check(default in choices, *_outside(name, held, default))
    return Parameter(name, choices=choices, default=default, **common)


def _range(at: _Place, held: dict[str, Any], common: dict[str, Any]) -> Parameter:
    name, kind = at.name, SETTINGS[at.name].metadata["kind"]
    for key in ("low", "high"):
        said = f"{name} lacks {key}."
        at.check(key in held, None, said, "Give choices, or both low and high.")
    low, high = (_value(at, key, held[key]) for key in ("low", "high"))
    numbers = not kind.words and not isinstance(low, str) and not isinstance(high, str)
    at.check(numbers, None, f"{name} takes choices, not a range.", "Give choices.")
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    said = f"the range of {name} is empty: low = {low}, high = {high}."
    at.check(low < high, "low", said, "Make low smaller than high.")
    scale = held.get("scale", "linear")
    said = f"scale must be linear or log. Received: {scale!r}."
    at.check(scale in ("linear", "log"), "scale", said, "Choose one of these words.")
    said = f"a log scale begins above 0; {name} has low = {low}."
    at.check(scale == "linear" or low > 0, "low", said, "Raise low.")
    step = held.get("step")
    sound = step is None or (type(step) in (int, float) and step > 0)
    at.check(sound, "step", f"step must be above 0: {step!r}.", "Raise step.")
    default = _default(at, held, low)
    inside = not isinstance(default, str) and low <= default <= high
    at.check(inside, *_outside(name, held, default))
    return Parameter(name, low=low, high=high, scale=scale, step=step, default=default, **common)


def _default(at: _Place, held: dict[str, Any], first: Value) -> Value:
    """What trial 0 has: what the file says, else the recipe's value, else the first allowed."""
    if "default" in held:
        return _value(at, "default", held["default"])
    own = SETTINGS[at.name].default
    return first if own is None else _value(at, None, own)


def _outside(name: str, held: dict[str, Any], default: Value) -> tuple[str | None, str, str]:
    if "default" in held:
        return "default", f"the default of {name}, {default!r}, lies outside.", "Give another."
    said = f"{name} has no default, and the recipe's value, {default!r}, lies outside."
    return None, said, "Give a default."


def _conditions(at: _Place, held: Any) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    table = 'Write it as `when = { penalty = ["l2-sp"] }`.'
    at.check(isinstance(held, dict), "when", f"when must be a table. Received: {held!r}.", table)
    conditions = []
    for other, values in held.items():
        said = f"{at.name} depends on {other!r}, which it cannot.{closest(other, list(KNOWN))}"
        known = other in KNOWN and other != at.name
        at.check(known, "when", said, "Name another setting of this file.")
        listed = values if isinstance(values, list) else [values]
        of_other = dataclasses.replace(at, name=other)
        conditions.append((other, tuple(_value(of_other, None, value) for value in listed)))
    return tuple(conditions)


def _check_condition(at: _Place, parameter: Parameter, found: Sequence[Parameter]) -> None:
    by_name = {one.name: one for one in found}
    for other, values in parameter.when:
        parent = by_name.get(other)
        sound = parent is not None and parent.choices and not parent.when
        said = f"{at.name} depends on {other}, which is no unconditional choice of this file."
        at.check(sound, "when", said, f"Give {other} choices, without a condition of its own.")
        assert parent is not None
        possible = set(values) <= set(parent.choices)
        said = f"{at.name} waits for {other} to be one of {list(values)}; it can be "
        said += f"{list(parent.choices)}."
        at.check(possible, "when", said, "Name values that it can have.")
