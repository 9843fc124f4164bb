"""Settings from a file: TOML, or the ``config.json`` of an earlier run."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from keras_transfer.base.errors import UsageError, closest
from keras_transfer.schedule import Schedule

# Settings that a file may hold, by the names of ``api.train``.
PLAIN = (
    "backbone", "weights", "image_size", "unfreeze", "effort", "split", "seed", "engine", "jit",
    "precision", "devices", "time_budget", "target_precision", "calibration",
    "fold", "per_class",
)  # fmt: skip
CHANGES = ("head_epochs", "fine_tune_epochs", "batch_size", "head_lr", "fine_tune_lr")


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads settings.

    Args:
        path: a TOML file with any of ``PLAIN`` and ``CHANGES`` and, for a whole schedule, a table
            ``[schedule]`` as ``Schedule.to_dict`` gives it; or a run's ``config.json``.

    Returns:
        The settings by name; ``schedule`` as a ``Schedule``.

    Raises:
        UsageError: the file is missing or damaged, or holds an unknown setting.
    """
    file = Path(path)
    try:
        if file.suffix == ".json":
            held = json.loads(file.read_text(encoding="utf-8"))
        else:
            held = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"Cannot read {file}: {error.strerror}.", remedy="Name an existing file with --config."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(
            f"{file} is damaged: {error}.", remedy="Mend the line that the message names."
        ) from None
    if not isinstance(held, dict):
        raise UsageError(f"{file} holds no settings.", remedy="Give a table of settings.")
    if "keras_transfer" in held:
        held = _of_run(held)
    known = [*PLAIN, *CHANGES, "schedule"]
    for name in held:
        if name not in known:
            raise UsageError(
                f"{file}: unknown setting {name!r}.{closest(name, known)}",
                remedy=f"Known settings: {', '.join(known)}.",
            )
    if "schedule" in held:
        held["schedule"] = Schedule.from_dict(held["schedule"])
    for name in ("split", "fold"):
        if name in held:
            held[name] = tuple(held[name])
    return held


def merge(
    settings: Mapping[str, Any], held: Mapping[str, Any], given: Collection[str]
) -> dict[str, Any]:
    """Settings of the command line over those of a file.

    Args:
        settings: the arguments of ``api.train`` as the command line has them, defaults included.
        held: from :func:`read`.
        given: the options that were really given.
    """
    merged = dict(settings)
    merged["changes"] = dict(settings["changes"])
    for name, value in held.items():
        if name in given:
            continue
        if name in CHANGES:
            merged["changes"][name] = value
        else:
            merged[name] = value
    if "effort" in given:
        merged.pop("schedule", None)
    return merged


def _of_run(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: config[name] for name in PLAIN if config.get(name) is not None}
    kept.pop("effort", None)
    kept["schedule"] = config.get("requested_schedule") or config["schedule"]
    return kept
