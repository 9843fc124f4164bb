"""The command that trains as a run was trained: to go on with it, or to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any


def training(
    config: Mapping[str, Any], data: str, without: Collection[str] = (), **options: Any
) -> str:
    """The command with a run's data and all settings that were asked for; settings that were all
    defaults stay out. Of data that no command can name it is the call of Python.

    Args:
        config: of the run.
        data: its name.
        without: settings that are left out.
        options: what else is said; None is not.
    """
    names = [n for n in dict.fromkeys(("seed", *config.get("asked", ()))) if n not in without]
    given = options | {name: config.get(name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if config.get("in_memory"):
        said = "".join(f", {name}={value!r}" for name, value in given.items())
        return f"keras_transfer.train(data{said})"
    words = ["keras-transfer", "train", data]
    for name, value in given.items():
        between = "/" if name == "fold" else ","
        spelt = between.join(map(str, value if isinstance(value, list | tuple) else [value]))
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [spelt])]
    return shlex.join(words)
