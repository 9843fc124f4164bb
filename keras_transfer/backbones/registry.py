"""The registry of backbones: rows of data beside each modality, and what users add to them."""

import csv
import dataclasses
import functools
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from keras_transfer.base.errors import UsageError, closest
from keras_transfer.base.types import BackboneSpec

if TYPE_CHECKING:
    import keras

_MODALITIES = Path(__file__).parents[1] / "modalities"

Layers = Callable[["keras.KerasTensor"], "keras.KerasTensor"]
_registered: dict[str, tuple[BackboneSpec, Layers]] = {}


@functools.cache
def table(name: str) -> dict[str, dict[str, str]]:
    """The rows of all modalities' tables of a name, by the backbone's name.

    Args:
        name: ``backbones`` or ``offline``, the installable packages that carry weights.

    Returns:
        The columns of each row, and ``modality``, the name of the folder.
    """
    rows: dict[str, dict[str, str]] = {}
    for path in sorted(_MODALITIES.glob(f"*/{name}.csv")):
        with open(path, encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                rows[row["name"]] = {**row, "modality": path.parent.name}
    return rows


@functools.cache
def _families(modality: str) -> dict[str, dict[str, Any]]:
    """What the networks of each family share, as fields of :class:`BackboneSpec`."""
    shared = tomllib.loads((_MODALITIES / modality / "families.toml").read_text(encoding="utf-8"))
    families = shared.pop("families")
    return {name: {**shared, **family} for name, family in families.items()}


def names() -> list[str]:
    """The names of all backbones, in alphabetical order."""
    return sorted([*table("backbones"), *_registered])


def spec(name: str) -> BackboneSpec:
    """Looks a backbone up.

    Args:
        name: its name, such as ``EfficientNetLite0``; capitals do not matter.

    Raises:
        UsageError: there is no such backbone; the message lists near matches.
    """
    name = {known.lower(): known for known in names()}.get(name.lower(), name)
    if name in _registered:
        return _registered[name][0]
    row = table("backbones").get(name)
    if row is None:
        problem = f"Backbone {name!r} is unknown.{closest(name, names())}"
        remedy = "List the backbones with: keras-transfer backbones"
        if name.startswith("own-"):
            remedy = "It was a model of its user's own: name backbone.keras of the run's folder."
        raise UsageError(problem, remedy=remedy)
    held = {**_families(row["modality"])[row["family"]], **row, "top1": row["top1"] or None}
    held["constructor"] += f":{name.replace('-', '')}"
    return msgspec.convert(held, BackboneSpec, strict=False)


def add(row: BackboneSpec, layers: Layers) -> None:
    """Adds a backbone to the registry of this process, or replaces one that was added before.

    Args:
        row: what is known of it.
        layers: see :func:`keras_transfer.backbones.register`.

    Raises:
        UsageError: the name is one of the built-in backbones'.
    """
    if row.name.lower() in map(str.lower, table("backbones")):
        raise UsageError(f"Backbone {row.name!r} is built in.", remedy="Choose another name.")
    _registered[row.name] = row, layers


def layers_of(name: str) -> Layers | None:
    """What a registered backbone puts on preprocessed images; None for a built-in one."""
    return _registered[name][1] if name in _registered else None


def listing() -> list[dict[str, Any]]:
    """Every row of the registry as plain data, in alphabetical order. Imports no Keras."""
    return [dataclasses.asdict(spec(name)) for name in names()]
