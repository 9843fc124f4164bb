"""The registry of backbones. Rows are data: to add a backbone, add a row (and a family)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_transfer.backbones.rows import FAMILIES, KERAS, OFFLINE, ROWS
from keras_transfer.base.errors import UsageError, closest
from keras_transfer.base.types import BackboneSpec

if TYPE_CHECKING:
    import keras

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


Layers = Callable[["keras.KerasTensor"], "keras.KerasTensor"]
_OWN: dict[str, tuple[BackboneSpec, Family, Layers]] = {}


def register(
    name: str,
    layers: Layers,
    *,
    image_size: int,
    min_size: int = 32,
    preprocessing: str = "tf",
    blocks: tuple[tuple[str, str], ...] = ((r"^(block\d+[a-z]*)_", r"\1"),),
    licence: str = "",
    int8_safe: bool | None = None,
    advice: str = "Registered by its user.",
) -> BackboneSpec:
    """Adds a backbone of one's own to the registry of this process.

    Every function then takes it by name. A network that many should have is better added as a row
    of ``backbones/rows.py``.

    Args:
        name: the name by which to ask for it.
        layers: takes the preprocessed images, a symbolic float32 ``[batch, height, width, 3]``,
            puts layers on them and returns the feature map ``[batch, h, w, channels]`` or vector.
        image_size: default height and width in pixels.
        min_size: the smallest height and width that it accepts.
        preprocessing: what becomes of pixels 0..255: ``tf`` (to -1..1), ``torch`` (ImageNet's mean
            and deviation), ``caffe`` (BGR, mean subtracted), ``symmetric`` or ``lite``.
        blocks: pairs of a regular expression that finds a layer's block in its name, and the
            block's name; by default layers ``block1_...``, ``block2a_...`` and so on.
        licence: SPDX name of the licence of its weights.
        int8_safe: whether full-integer quantisation is known to keep accuracy; None if unknown.
        advice: when to choose it, in one line.

    Returns:
        Its row, the parameters counted.

    Raises:
        UsageError: the name is one of the built-in backbones', or the preprocessing is unknown.
    """
    from keras_transfer.backbones import construction

    if name.lower() in (known.lower() for known in _ROWS):
        raise UsageError(f"Backbone {name!r} is built in.", remedy="Choose another name.")
    if preprocessing not in construction.MODES:
        raise UsageError(
            f"Unknown preprocessing {preprocessing!r}."
            f"{closest(preprocessing, list(construction.MODES))}",
            remedy=f"Choose one of {', '.join(construction.MODES)}.",
        )
    row = BackboneSpec(
        name=name,
        constructor="",
        image_size=image_size,
        min_size=min_size,
        preprocessing=preprocessing,
        weights=("none",),
        licence=licence,
        parameters=0,
        advice=advice,
        int8_safe=int8_safe,
    )
    _OWN[name] = row, Family(preprocessing, licence, blocks, min_size=min_size), layers
    try:
        built = construction.construct(row, (image_size, image_size))
    except BaseException:
        del _OWN[name]
        raise
    row = dataclasses.replace(row, parameters=built.count_params())
    _OWN[name] = row, *_OWN[name][1:]
    return row


def layers_of(row: BackboneSpec) -> Layers | None:
    """What a registered backbone puts on preprocessed images; None for a built-in one."""
    return _OWN[row.name][2] if row.name in _OWN else None


def names() -> list[str]:
    """The names of all backbones, in alphabetical order."""
    return sorted([*_ROWS, *_OWN])


def spec(name: str) -> BackboneSpec:
    """Looks a backbone up.

    Args:
        name: its name, such as ``EfficientNetLite0``; capitals do not matter.

    Raises:
        UsageError: there is no such backbone; the message lists near matches.
    """
    name = {known.lower(): known for known in names()}.get(name.lower(), name)
    if name in _OWN:
        return _OWN[name][0]
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
    if name in _OWN:
        return _OWN[name][1]
    return Family(**FAMILIES[_ROWS[name][1]])


def listing() -> list[dict[str, Any]]:
    """Every row of the registry as plain data, in alphabetical order. Imports no Keras."""
    return [dataclasses.asdict(spec(name)) for name in names()]
