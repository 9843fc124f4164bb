"""Finds the weights that were asked for, and puts them into a backbone's graph."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_transfer.backbones import registry
from keras_transfer.backbones.blocks import label
from keras_transfer.backbones.naming import canonical_names, is_automatic
from keras_transfer.backbones.offline import offline_weights
from keras_transfer.backbones.online import imagenet_weights
from keras_transfer.backbones.weight_files import Weights, read_weights
from keras_transfer.base.errors import WeightsError
from keras_transfer.base.types import BackboneSpec

if TYPE_CHECKING:
    import keras


Named = tuple[str, list[np.ndarray]]


def resolve(row: BackboneSpec, weights: str) -> Weights | None:
    """Finds weights by the name of their source or by a path.

    Args:
        row: the backbone that they are for.
        weights: ``"offline"``, ``"imagenet"``, ``"none"``, a ``.keras``, ``.weights.h5`` or
            ``.h5`` file, or the folder of an earlier run, which holds ``model.keras``.

    Returns:
        The weights, or None for random ones.

    Raises:
        WeightsError: they cannot be had, are damaged, or hold code.
    """
    if weights == "none":
        return None
    if weights == "offline":
        return Weights(f"The offline weights of {row.name}", offline_weights(row.name))
    if weights == "imagenet":
        return imagenet_weights(row)
    path = Path(weights)
    if path.is_dir():
        return read_weights(_model_of_run(row, path))
    if path.is_file():
        return read_weights(path)
    raise WeightsError(
        f"Weights {weights!r} are neither a known source nor a file or folder that exists.",
        remedy="Use offline, imagenet, none, a weights file, or the folder of an earlier run.",
    )


def _model_of_run(row: BackboneSpec, folder: Path) -> Path:
    model = folder / "model.keras"
    if not model.is_file():
        raise WeightsError(
            f"{folder} is not the folder of a finished run: it has no model.keras.",
            remedy="Give the folder that train --output wrote, or a weights file.",
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        trained = config.get("backbone") or row.name
    except (OSError, ValueError, AttributeError):
        trained = row.name  # the weights themselves will tell
    if trained != row.name:
        raise WeightsError(
            f"The run {folder} trained {trained}, not {row.name}.",
            remedy=f"Use --backbone {trained}, or another run.",
        )
    return model


def assign(model: keras.Model, weights: Weights, row: BackboneSpec) -> None:
    """Puts weights into a backbone's graph; what belongs to a head is left over.

    Layers are matched by name. Older Keras files are matched by their order, as Keras does, where
    names have changed since or were made up by Keras; every shape is checked.

    Args:
        model: the graph with random weights.
        weights: from ``resolve``.
        row: the backbone.

    Raises:
        WeightsError: they belong to another architecture; the message names the first layer that
            differs and both shapes. The model is unchanged.
    """
    # A constructor's own normalisation of pixels is not learned, and the graph has its own.
    learned = {name: found for name, found in weights.arrays.items() if not _PIXELS.search(name)}
    renamed = canonical_names(learned)
    by_name = {renamed[name]: found for name, found in learned.items()}
    layers = [layer for layer in model.layers if layer.weights]
    received = [(layer.name, by_name.get(layer.name, [])) for layer in layers]
    if weights.ordered:
        dealt = _in_order(layers, learned)
        complete = all(layer.name in by_name for layer in layers)
        automatic = any(is_automatic(layer.name) for layer in layers)
        if not complete or (automatic and all(map(_fits, layers, dealt))):
            received = dealt
    for layer, (name, found) in zip(layers, received, strict=True):
        if not _fits(layer, (name, found)):
            expected = [tuple(weight.shape) for weight in layer.weights]
            got = f"{_shapes(found)} in layer {name!r}" if found else _example(expected, by_name)
            raise _mismatch(row, weights, f"Layer {layer.name!r} has {expected}; received {got}")
    # The layers of ResNet50 are all in ResNet101, with the same shapes: look for what is too much.
    known = {layer.name for layer in layers}
    for name, found in sorted(by_name.items(), key=lambda item: _natural(item[0])):
        if name not in known and label(name, registry.family(row.name).blocks):
            raise _mismatch(row, weights, f"It has no layer {name!r}; received {_shapes(found)}")
    for layer, (_, found) in zip(layers, received, strict=True):
        layer.set_weights(found)


_PIXELS = re.compile(r"(?<!batch_)(?<!layer_)normalization(_\d+)?$")


def _in_order(
    layers: Iterable[keras.layers.Layer], arrays: dict[str, list[np.ndarray]]
) -> list[Named]:
    """Deals a file's arrays out to the layers one after the other."""
    flat = [(name, array) for name, found in arrays.items() for array in found]
    dealt = []
    start = 0
    for layer in layers:
        part = flat[start : start + len(layer.weights)]
        dealt.append((part[0][0] if part else "", [array for _, array in part]))
        start += len(layer.weights)
    return dealt


def _fits(layer: keras.layers.Layer, received: Named) -> bool:
    return _shapes(received[1]) == [tuple(weight.shape) for weight in layer.weights]


def _shapes(arrays: list[np.ndarray]) -> list[tuple[int, ...]]:
    return [array.shape for array in arrays]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts block9 before block10."""
    return [(int(part or 0), rest) for rest, part in re.findall(r"([^0-9]*)([0-9]*)", name)]


def _example(expected: list[tuple[int, ...]], arrays: dict[str, list[np.ndarray]]) -> str:
    """What a file has instead of a layer that it lacks: its first whose kernel is alike."""
    alike = (item for item in arrays.items() if item[1][0].ndim == len(expected[0]))
    name, found = next(alike, ("", []))
    other = f", but {_shapes(found)} in layer {name!r}" if name else ""
    return f"no layer of that name{other}"


def _mismatch(row: BackboneSpec, weights: Weights, difference: str) -> WeightsError:
    return WeightsError(
        f"{weights.origin}: not weights of {row.name}. {difference}.",
        remedy=f"Use weights of {row.name}, or name the backbone that these belong to.",
    )
