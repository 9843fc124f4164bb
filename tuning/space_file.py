"""Spaces from TOML files, with the line of whatever cannot be used."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_transfer import backbones
from keras_transfer.base.errors import UsageError, closest
from tuning.space import KNOWN, Parameter, Space, Value, recipe_value

DEFAULT = """\
# What the search varies. Each table is one setting: either `choices`, or `low` and `high` with
# `scale` ("linear" or "log") and, if wanted, `step`. Trial 0 uses every `default`; without one it
# is the default recipe's value. `when` makes a setting matter only where another has some value.
# `name = value` fixes a setting, and a setting that is left out keeps the recipe's value.
# Further settings: views, head_lr, backbone, image_size.

[unfreeze]          # what fine-tunes: blocks from the top, a block's name, or a share of the work
choices = ["12%", "35%", "70%"]
default = "35%"

[fine_tune_lr]      # peak learning rate of fine-tuning
low = 2e-4
high = 3e-3
scale = "log"
default = 7e-4

[epochs]            # of fine-tuning; with --tuner hyperband the largest is the longest rung
choices = [3, 5, 8]
default = 5

[rate_decay]        # factor on the rate for each block further down
low = 0.5
high = 1.0
default = 1.0

[weight_decay]
low = 1e-6
high = 1e-2
scale = "log"
default = 1e-4

[penalty]           # "l2-sp" pulls the weights towards the pretrained ones
choices = ["none", "l2-sp"]
default = "none"

[penalty_strength]
low = 1e-4
high = 1e-1
scale = "log"
default = 1e-3
when = { penalty = ["l2-sp"] }

[label_smoothing]   # of fine-tuning
choices = [0.0, 0.05, 0.1]
default = 0.0

[strength]          # of the augmentation; each value costs one more extraction
choices = [0.5, 1.0]
default = 1.0

[batch_size]
choices = [16, 32, 64]
default = 32
"""

_KEYS = ("choices", "low", "high", "scale", "step", "default", "when")


def read(path: str | os.PathLike[str]) -> Space:
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


def default_space() -> Space:
    """The space that is searched unless a file names another."""
    return parse(DEFAULT, "the default space")


def parse(text: str, source: str = "space") -> Space:
    """Builds a space from the text of a TOML file; see ``DEFAULT`` for the form.

    Args:
        text: the file's text.
        source: what to call it in messages.

    Raises:
        UsageError: as for :func:`read`.
    """
    try:
        held = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = f"at line {len(text.splitlines())}, the end"
        raise UsageError(
            f"{source}: {str(error).replace('at end of document', end)}.",
            remedy="Mend that line; `python -m tuning space` shows the form.",
        ) from None
    reader = _Reader(text, source)
    found = [reader.parameter(name, value) for name, value in held.items()]
    if not found:
        raise reader.error("", None, "the space is empty.", f"Give a setting: {', '.join(KNOWN)}.")
    return Space(tuple(reader.ordered(found)), source)


class _Reader:
    """Checks the tables of one file, and knows the lines they stand on."""

    def __init__(self, text: str, source: str) -> None:
        self._lines, self._source = text.splitlines(), source

    def error(self, table: str, key: str | None, what: str, remedy: str) -> UsageError:
        """A message that begins with the file and the line."""
        return UsageError(f"{self._source}, line {self.line(table, key)}: {what}", remedy=remedy)

    def line(self, table: str, key: str | None = None) -> int:
        """The line, from 1, of a table or of a key in it."""
        inside, begun = False, 1
        for number, text in enumerate(self._lines, start=1):
            header = re.match(r"\s*\[\s*[\"']?([^\]\"'.]+?)[\"']?\s*[\].]", text)
            if header:
                inside = header[1] == table
                if inside and begun == 1:
                    begun = number
                continue
            named = re.match(r"\s*[\"']?([\w-]+)[\"']?\s*[=.]", text)
            if named and inside and named[1] == key:
                return number
            if named and not inside and named[1] == table and begun == 1:
                begun = number
        return begun

    def parameter(self, name: str, held: Any) -> Parameter:
        if name not in KNOWN:
            raise self.error(
                name,
                None,
                f"unknown setting {name!r}.{closest(name, list(KNOWN))}",
                f"Known settings: {', '.join(KNOWN)}.",
            )
        if not isinstance(held, dict):
            fixed = self.value(name, None, held)
            return Parameter(name, choices=(fixed,), default=fixed, line=self.line(name))
        for key in held:
            if key not in _KEYS:
                raise self.error(
                    name,
                    key,
                    f"{name} has an unknown key {key!r}.{closest(key, list(_KEYS))}",
                    f"Known keys: {', '.join(_KEYS)}.",
                )
        place = self.line(name, "choices" if "choices" in held else "low")
        common = {"line": place, "when": self.when(name, held.get("when", {}))}
        if "choices" in held:
            return self.choice(name, held, common)
        return self.range(name, held, common)

    def choice(self, name: str, held: dict[str, Any], common: dict[str, Any]) -> Parameter:
        given = held["choices"]
        if not isinstance(given, list) or not given:
            raise self.error(name, "choices", f"{name} has no choices.", "List one value or more.")
        for key in ("low", "high", "scale", "step"):
            if key in held:
                raise self.error(
                    name, key, f"{name} has both choices and {key}.", "Give choices or a range."
                )
        choices = tuple(self.value(name, "choices", value) for value in given)
        if len(set(choices)) < len(choices):
            raise self.error(name, "choices", f"{name} lists a choice twice.", "List each once.")
        default = self.default(name, held)
        if default not in choices:
            raise self.missing_default(name, held, default)
        return Parameter(name, choices=choices, default=default, **common)

    def range(self, name: str, held: dict[str, Any], common: dict[str, Any]) -> Parameter:
        kind = KNOWN[name]
        if kind.type is str:
            raise self.error(name, None, f"{name} takes choices, not a range.", "Give choices.")
        for key in ("low", "high"):
            if key not in held:
                raise self.error(
                    name, None, f"{name} lacks {key}.", "Give choices, or both low and high."
                )
        low, high = (self.value(name, key, held[key]) for key in ("low", "high"))
        assert not isinstance(low, str)
        assert not isinstance(high, str)
        if not low < high:
            raise self.error(
                name,
                "low",
                f"the range of {name} is empty: low = {low}, high = {high}.",
                "Make low smaller than high.",
            )
        scale = held.get("scale", "linear")
        if scale not in ("linear", "log"):
            raise self.error(
                name,
                "scale",
                f"scale must be linear or log. Received: {scale!r}.",
                "Choose one of these words.",
            )
        if scale == "log" and low <= 0:
            raise self.error(
                name, "low", f"a log scale begins above 0; {name} has low = {low}.", "Raise low."
            )
        step = held.get("step")
        if step is not None and (isinstance(step, bool) or not _number(step) or step <= 0):
            raise self.error(name, "step", f"step must be above 0: {step!r}.", "Raise step.")
        if step is not None and (scale == "log" or (kind.type is int and step != int(step))):
            raise self.error(
                name,
                "step",
                f"{name} cannot have step = {step} here.",
                "Leave step out, use a linear scale, or list choices.",
            )
        default = self.default(name, held)
        if not low <= default <= high:  # type: ignore[operator]
            raise self.missing_default(name, held, default)
        return Parameter(
            name, low=low, high=high, scale=scale, step=step, default=default, **common
        )

    def default(self, name: str, held: dict[str, Any]) -> Value:
        if "default" in held:
            return self.value(name, "default", held["default"])
        return recipe_value(name, held)

    def missing_default(self, name: str, held: dict[str, Any], default: Value) -> UsageError:
        if "default" in held:
            what, key = f"the default of {name}, {default!r}, is outside what it allows.", "default"
        else:
            what, key = f"{name} does not allow the recipe's value, {default!r}.", None
        return self.error(name, key, what, "Give a default that is allowed, for trial 0.")

    def value(self, name: str, key: str | None, value: Any) -> Value:
        """One value of a setting, in the setting's type and within its bounds."""
        kind = KNOWN[name]
        if kind.type is str:
            return self.word(name, key, value)
        whole = _number(value) and value == int(value)
        if not _number(value) or (kind.type is int and not whole):
            wanted = "whole numbers" if kind.type is int else "numbers"
            raise self.error(
                name, key, f"{name} takes {wanted}. Received: {value!r}.", f"Give {wanted}."
            )
        if not kind.low <= value <= kind.high:
            raise self.error(
                name,
                key,
                f"{name} must lie between {kind.low:g} and {kind.high:g}. Received: {value!r}.",
                "Give a number in that range.",
            )
        return int(value) if kind.type is int else float(value)

    def word(self, name: str, key: str | None, value: Any) -> str:
        if isinstance(value, (bool, float)) or not isinstance(value, (str, int)):
            raise self.error(
                name, key, f"{name} takes text. Received: {value!r}.", "Put it in quotes."
            )
        words = list(KNOWN[name].words)
        if name == "backbone":
            words = list(backbones.names())
        if words and value not in words:
            raise self.error(
                name,
                key,
                f"{name} must be one of {', '.join(words)}. Received: {value!r}."
                f"{closest(str(value), words)}",
                "Choose one of these words.",
            )
        return str(value)

    def when(self, name: str, held: Any) -> tuple[tuple[str, tuple[Value, ...]], ...]:
        if not isinstance(held, dict):
            raise self.error(
                name,
                "when",
                f"when must be a table. Received: {held!r}.",
                'Write it as `when = { penalty = ["l2-sp"] }`.',
            )
        conditions = []
        for other, values in held.items():
            if other not in KNOWN or other == name:
                raise self.error(
                    name,
                    "when",
                    f"{name} depends on {other!r}, which it cannot.{closest(other, list(KNOWN))}",
                    "Name another setting of this file.",
                )
            listed = values if isinstance(values, list) else [values]
            conditions.append((other, tuple(self.value(other, None, v) for v in listed)))
        return tuple(conditions)

    def ordered(self, found: Sequence[Parameter]) -> list[Parameter]:
        """Those that others depend on first."""
        by_name = {parameter.name: parameter for parameter in found}
        for parameter in found:
            for other, values in parameter.when:
                parent = by_name.get(other)
                if parent is None or not parent.choices or parent.when:
                    raise self.error(
                        parameter.name,
                        "when",
                        f"{parameter.name} depends on {other}, which is no unconditional choice "
                        "of this file.",
                        f"Give {other} choices, without a condition of its own.",
                    )
                if not set(values) <= set(parent.choices):
                    raise self.error(
                        parameter.name,
                        "when",
                        f"{parameter.name} waits for {other} to be one of {list(values)}; it can "
                        f"be {list(parent.choices)}.",
                        "Name values that it can have.",
                    )
        return sorted(found, key=lambda parameter: bool(parameter.when))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
