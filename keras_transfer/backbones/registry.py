"""The registry of backbones. Rows are data: to add a backbone, add a row (and a family)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from keras_transfer.backbones.rows import FAMILIES, ROWS
from keras_transfer.errors import UsageError, closest
from keras_transfer.types import BackboneSpec


class Family(NamedTuple):
    """What the networks of one family share.

    Attributes:
        constructor: module in which the family's constructors live.
        preprocessing: name of the mode, see ``preprocessing.MODES``.
        min_size: the smallest height and width in pixels.
        licence: SPDX name of the licence of the published weights.
        int8_safe: whether full-integer quantisation is known to keep accuracy; None if unknown.
        blocks: regular expression whose first matching group is a layer's block.
        pairs: regular expression for the layers at which two live tensors make a cut.
    """

    constructor: str
    preprocessing: str
    min_size: int
    licence: str
    int8_safe: bool | None
    blocks: str
    pairs: str = ""


def names() -> list[str]:
    """The names of all backbones, in alphabetical order."""
    return sorted(ROWS)


def spec(name: str) -> BackboneSpec:
    """Looks a backbone up.

    Args:
        name: its name, such as ``EfficientNetLite0``; capitals do not matter.

    Raises:
        UsageError: there is no such backbone; the message lists near matches.
    """
    name = {known.lower(): known for known in ROWS}.get(name.lower(), name)
    if name not in ROWS:
        raise UsageError(
            f"Backbone {name!r} is unknown.{closest(name, names())}",
            remedy="List the backbones with: keras-transfer backbones",
        )
    row = ROWS[name]
    kind = family(name)
    return BackboneSpec(
        name=name,
        constructor=f"{kind.constructor}:{name}",
        min_size=kind.min_size,
        preprocessing=kind.preprocessing,
        licence=kind.licence,
        int8_safe=kind.int8_safe,
        **{key: value for key, value in row.items() if key != "family"},
    )


def family(name: str) -> Family:
    """The family of a backbone in the registry."""
    return Family(**FAMILIES[ROWS[name]["family"]])


def listing() -> list[dict[str, Any]]:
    """Every row of the registry as plain data, in alphabetical order. Imports no Keras."""
    return [dataclasses.asdict(spec(name)) for name in names()]
