"""What a search varies: settings of the recipe, in TOML with ranges in place of values."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_transfer import backbones
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError, closest
from keras_transfer.modalities import modality
from keras_transfer.recipe import DEPTH, SETTINGS, kind_of, read, resolve

Value = float | int | str
KNOWN = tuple(
    name
    for name, field in SETTINGS.items()
    if field.metadata["group"] in ("model", "head", "fine-tuning", "augmentation")
    and name not in ("weights", "view_seed")
)
"""The settings that a space may hold."""

_COST = ("unfreeze", "fine_tune_epochs", "views")
_HEADING = """\
# What the search varies. Each line or table is one setting of the recipe: a list of choices, or
# `low` and `high` with `scale` ("linear" or "log") and, if wanted, `step`. Trial 0 uses what
# `default` says, or the recipe's values. `when` makes a setting matter only where another has some
# value. `name = value` fixes a setting, and a setting left out keeps the recipe's value.
# With --tuner hyperband the largest of fine_tune_epochs is the longest rung.
"""
_KEYS = ("choices", "low", "high", "scale", "step", "default", "when")


@dataclasses.dataclass(frozen=True)
class Space:
    """All settings that a search varies.

    Attributes:
        hp: them, with their defaults, as a ``keras_tuner.HyperParameters``.
        source: the file that they were read from, for messages.
    """

    hp: Any
    source: str = ""

    def defaults(self) -> dict[str, Value]:
        """The values of trial 0: those settings alone that matter there."""
        return dict(self.hp.values)

    def values(self, name: str) -> list[Any]:
        """The choices of a setting, or the ends of its range; empty where it is not varied."""
        found = next((one for one in self.hp.space if one.name == name), None)
        return [] if found is None else _allowed(found)

    def without(self, name: str) -> Space:
        """The same space with one setting left at the recipe's value."""
        held = self.hp.get_config()
        kept = [one for one in held["space"] if one["config"]["name"] != name]
        values = {other: value for other, value in held["values"].items() if other != name}
        return dataclasses.replace(self, hp=from_json({"space": kept, "values": values}).hp)

    def to_json(self) -> dict[str, Any]:
        """The space as plain values; equal spaces give equal values."""
        held: dict[str, Any] = self.hp.get_config()
        return held


def from_json(held: Mapping[str, Any], source: str = "") -> Space:
    """The space that :meth:`Space.to_json` gave."""
    import keras_tuner

    return Space(keras_tuner.HyperParameters.from_config(held), source)


def _allowed(found: Any) -> list[Any]:
    """The choices of one of KerasTuner's hyperparameters, or the ends of its range."""
    if hasattr(found, "min_value"):
        return [found.min_value, found.max_value]
    return list(found.values)


def default_text(kind: str = "image", effort: str = "default") -> str:
    """The space that is searched unless a file names another, as TOML, ready to edit.

    Args:
        kind: the modality of the data.
        effort: what trial 0 is.
    """
    lines, form = [_HEADING], modality(kind)
    for name, field in SETTINGS.items():
        if (row := form.SEARCH.get(name, field.metadata["search"])) is not None:
            usual = form.EFFORTS[effort].get(name, field.default)
            row = row if "when" in row else {**row, "default": usual}
            values = "".join(f"{key} = {_toml(value)}\n" for key, value in row.items())
            lines.append(f"[{name}]  # {field.metadata['help']}\n{values}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(held)}' for key, held in value.items())} }}"
    return json.dumps(value)


def default_space(given: Mapping[str, Any] | None = None, kind: str = "image") -> Space:
    """The space that is searched unless a file names another, see :func:`parse`.

    Where an effort is given, it says what a trial costs, and that is not varied.
    """
    held, usual = dict(given or {}), "default"
    if "effort" in held:
        usual = read("effort", held["effort"])
        cost = resolve({"effort": usual}, efforts=modality(kind).EFFORTS)
        held = {name: getattr(cost, name) for name in _COST} | held
    return parse(default_text(kind, usual), "the default space", held)


def read_space(path: str | os.PathLike[str], given: Mapping[str, Any] | None = None) -> Space:
    """Reads a space from a TOML file, see :func:`parse`.

    Raises:
        UsageError: the file is missing, or something in it cannot be used; the message names the
            setting and its key.
    """
    with files.reading(path, "Mend it, or name another; `python -m tuning space` shows the form."):
        return parse(Path(path).read_text(encoding="utf-8"), str(path), given)


def parse(text: str, source: str = "space", given: Mapping[str, Any] | None = None) -> Space:
    """Builds a space from the text of a TOML file; see ``default_text`` for the form.

    Args:
        text: the file's text.
        source: what to call it in messages.
        given: settings that a user has typed: these beat the file and are not varied.

    Raises:
        UsageError: something in it cannot be used; the message names the setting and its key.
        ValueError: it is no TOML.
    """
    import keras_tuner

    held = _less(tomllib.loads(text), given or {})
    if not held:
        problem = f"{source}: there is nothing to vary."
        raise UsageError(problem, remedy=f"Vary one of {_listed(KNOWN)}.")
    hp = keras_tuner.HyperParameters()
    # Those that others depend on first.
    waits = {name: isinstance(value, dict) and "when" in value for name, value in held.items()}
    for name in sorted(held, key=waits.__getitem__):
        _declare(hp, _Entry(source, name), held[name])
    return Space(hp, source)


def _less(held: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without those of given settings, without what waits for another value of
    these, and without what only a second phase has where they leave none.
    """
    solved = not {"head_epochs", "head_lr"} & given.keys()
    left, alone = {}, solved and given.get("unfreeze") in ("none", "0", 0)
    for name, entry in held.items():
        if alone and name in SETTINGS and SETTINGS[name].metadata["group"] == "fine-tuning":
            continue
        waits = entry.get("when") if isinstance(entry, dict) else None
        if isinstance(waits, dict) and (settled := waits.keys() & given.keys()):
            if any(given[other] not in _list(waits[other]) for other in settled):
                continue
            entry = entry | {"when": {key: waits[key] for key in waits.keys() - settled}}
        if name not in given:
            left[name] = entry
    return left


def _list(values: Any) -> list[Any]:
    """One value or several, as a condition names them."""
    return values if isinstance(values, list) else [values]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A setting in a file, for messages that name both."""

    source: str
    name: str

    def check(self, sound: Any, key: str | None, what: str, remedy: str) -> None:
        """Raises an error that names the file and the key, unless something is sound."""
        if not sound:
            place = f"{self.name}.{key}" if key else self.name
            raise UsageError(f"{self.source}, {place}: {what}", remedy=remedy)

    def value(self, key: str | None, given: Any, name: str | None = None) -> Value:
        """A value of this setting, or of another of that name, as its recipe takes it."""
        name = name or self.name
        try:
            found: Value = read(name, given)
            if name == "backbone" and not str(found).endswith(".keras"):
                backbones.spec(str(found))
        except UsageError as error:
            self.check(False, key, error.message, error.remedy)
        # A depth that is a number is searched as text: it shares its list with shares and names.
        return str(found) if kind_of(name) is DEPTH else found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _declare(hp: Any, at: _Entry, held: Any) -> None:
    """Adds a setting to the space."""
    name = at.name
    near = closest(name, list(KNOWN))
    at.check(name in KNOWN, None, f"unknown setting {name!r}.{near}", f"Known: {_listed(KNOWN)}.")
    if not isinstance(held, dict):
        held = {"choices": held} if isinstance(held, list) else {"choices": [held], "default": held}
    for key in held:
        said = f"{name} has an unknown key {key!r}.{closest(key, list(_KEYS))}"
        at.check(key in _KEYS, key, said, f"Known keys: {_listed(_KEYS)}.")
    with contextlib.ExitStack() as scopes:
        for other, values in _conditions(hp, at, held.get("when", {})).items():
            scopes.enter_context(hp.conditional_scope(other, values))
        if "choices" in held:
            choices = _choices(at, held)
            default = _default(at, held, choices[0], choices.__contains__)
            if len(choices) == 1:
                hp.Fixed(name, default)
            else:
                hp.Choice(name, choices, default=default)
        else:
            low, high, about = _range(at, held)
            about["default"] = _default(at, held, low, lambda value: low <= value <= high)
            kind = hp.Int if kind_of(name).whole else hp.Float
            kind(name, low, high, **about)


def _default(
    at: _Entry, held: Mapping[str, Any], first: Value, allowed: Callable[[Any], bool]
) -> Value:
    """What trial 0 has: what the file says, else the recipe's value, else the first allowed."""
    default, said = first, f"the default of {at.name}, {{!r}}, lies outside."
    if "default" in held:
        default = at.value("default", held["default"])
    elif SETTINGS[at.name].default is not None:
        default = at.value(None, SETTINGS[at.name].default)
        said = f"{at.name} has no default, and the recipe's value, {{!r}}, lies outside."
    at.check(allowed(default), "default", said.format(default), "Give a default within.")
    return default


def _choices(at: _Entry, held: Mapping[str, Any]) -> list[Value]:
    name, given = at.name, held["choices"]
    one_or_more = isinstance(given, list) and bool(given)
    at.check(one_or_more, "choices", f"{name} has no choices.", "List one value or more.")
    for key in ("low", "high", "scale", "step"):
        said = f"{name} has both choices and {key}."
        at.check(key not in held, key, said, "Give choices or a range.")
    choices = [at.value("choices", value) for value in given]
    once = len(set(choices)) == len(choices)
    at.check(once, "choices", f"{name} lists a choice twice.", "List each once.")
    return choices


def _range(at: _Entry, held: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    name = at.name
    for key in ("low", "high"):
        said = f"{name} lacks {key}."
        at.check(key in held, None, said, "Give choices, or both low and high.")
    low, high = (at.value(key, held[key]) for key in ("low", "high"))
    scale, step = held.get("scale", "linear"), held.get("step")
    numbers = not kind_of(name).words and str not in (type(low), type(high))
    at.check(numbers, None, f"{name} takes choices, not a range.", "Give choices.")
    said = f"the range of {name} is empty: low = {low}, high = {high}."
    at.check(float(low) < float(high), "low", said, "Make low smaller than high.")
    said = f"scale must be linear or log. Received: {scale!r}."
    at.check(scale in ("linear", "log"), "scale", said, "Choose one of these words.")
    said = f"a log scale begins above 0; {name} has low = {low}."
    at.check(scale == "linear" or float(low) > 0, "low", said, "Raise low.")
    sound = step is None or (type(step) in (int, float) and step > 0)
    at.check(sound, "step", f"step must be above 0: {step!r}.", "Raise step.")
    return low, high, {"sampling": scale, "step": step}


def _conditions(hp: Any, at: _Entry, held: Any) -> dict[str, list[Value]]:
    table = 'Write it as `when = { penalty = ["l2-sp"] }`.'
    at.check(isinstance(held, dict), "when", f"when must be a table. Received: {held!r}.", table)
    conditions = {}
    for other, values in held.items():
        said = f"{at.name} depends on {other!r}, which it cannot.{closest(other, list(KNOWN))}"
        known = other in KNOWN and other != at.name
        at.check(known, "when", said, "Name another setting of this file.")
        conditions[other] = [at.value("when", value, other) for value in _list(values)]
        parent = next((one for one in hp.space if one.name == other and not one.conditions), None)
        choices = [] if parent is None or hasattr(parent, "min_value") else _allowed(parent)
        said = f"{at.name} depends on {other}, which is no unconditional choice of this file."
        at.check(choices, "when", said, f"Give {other} choices, without a condition of its own.")
        said = f"{at.name} waits for {other} to be one of {conditions[other]}; it can be {choices}."
        sound = set(conditions[other]) <= set(choices)
        at.check(sound, "when", said, "Name values that it can have.")
    return conditions
