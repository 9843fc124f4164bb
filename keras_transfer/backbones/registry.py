"""The registry of backbones. Rows are data: to add a backbone, add a row (and a family)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from keras_transfer.backbones.rows import FAMILIES, KERAS, OFFLINE, ROWS
from keras_transfer.errors import UsageError, closest
from keras_transfer.types import BackboneSpec

_ROWS = {row[0]: row for row in ROWS}


class Family(NamedTuple):
    """What the networks of one family share.

    Attributes:
        preprocessing: name of the mode, see ``construction.MODES``.
        licence: SPDX name of the licence of the published weights.
        blocks: pairs of a regular expression that finds a layer's block and the block's name.
        pairs: regular expression for the layers at which two live tensors make a cut.
        int8_safe: whether full-integer quantisation is known to keep accuracy; None if unknown.
        min_size: the smallest height and width in pixels.
        constructor: the module that holds the constructors.
        source: where top-1 accuracy was published.
    """

    preprocessing: str
    licence: str
    blocks: tuple[tuple[str, str], ...]
    pairs: str = ""
    int8_safe: bool | None = None
    min_size: int = 32
    constructor: str = "keras.applications"
    source: str = KERAS


def names() -> list[str]:
    """The names of all backbones, in alphabetical order."""
    return sorted(_ROWS)


def spec(name: str) -> BackboneSpec:
    """Looks a backbone up.

    Args:
        name: its name, such as ``EfficientNetLite0``; capitals do not matter.

    Raises:
        UsageError: there is no such backbone; the message lists near matches.
    """
    name = {known.lower(): known for known in _ROWS}.get(name.lower(), name)
    if name not in _ROWS:
        raise UsageError(
            f"Backbone {name!r} is unknown.{closest(name, names())}",
            remedy="List the backbones with: keras-transfer backbones",
        )
    _, _, image_size, parameters, top1, advice = _ROWS[name]
    kind = family(name)
    return BackboneSpec(
        name=name,
        constructor=f"{kind.constructor}:{name}",
        image_size=image_size,
        min_size=kind.min_size,
        preprocessing=kind.preprocessing,
        weights=("offline",) if name in OFFLINE else ("imagenet",),
        licence=kind.licence,
        parameters=parameters,
        advice=advice,
        top1=top1,
        top1_source=kind.source,
        int8_safe=kind.int8_safe,
    )


def family(name: str) -> Family:
    """The family of a backbone in the registry."""
    return Family(**FAMILIES[_ROWS[name][1]])


def listing() -> list[dict[str, Any]]:
    """Every row of the registry as plain data, in alphabetical order. Imports no Keras."""
    return [dataclasses.asdict(spec(name)) for name in names()]
