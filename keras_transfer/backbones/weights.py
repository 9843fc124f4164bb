"""Finds the weights that were asked for, and puts them into a backbone's graph."""

import contextlib
import hashlib
import itertools
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.backbones.hub import is_of_hub, read_folder
from keras_transfer.backbones.naming import canonical_names, constant, is_automatic, label
from keras_transfer.backbones.published import imagenet_weights, offline_weights
from keras_transfer.backbones.weight_files import Weights, read_weights
from keras_transfer.base import files
from keras_transfer.base.errors import WeightsError
from keras_transfer.base.types import BackboneSpec

if TYPE_CHECKING:
    import keras

Named = tuple[str, list[np.ndarray]]

_BUILDING = threading.Lock()


def resolve(row: BackboneSpec, weights: str) -> Weights | None:
    """Finds weights by the name of their source or by a path.

    Args:
        row: the backbone that they are for.
        weights: ``"offline"``, ``"imagenet"``, ``"none"``, a ``.keras``, ``.weights.h5`` or
            ``.h5`` file, the folder of an earlier run, which holds ``model.keras``, or one of the
            Hugging Face hub, which holds ``model.safetensors``.

    Returns:
        The weights, or None for random ones.

    Raises:
        WeightsError: they cannot be had, are damaged, or hold code.
    """
    if weights == "none":
        return None
    if weights == "offline":
        return offline_weights(row.name)
    if weights == "imagenet":
        return imagenet_weights(row)
    path = Path(weights)
    if is_of_hub(path):
        return read_folder(row, path)
    if path.is_dir():
        return read_weights(_model_of_run(row, path))
    if path.is_file():
        return read_weights(path)
    if weights == row.weights[0]:  # no source, but the word for a path
        problem = f"{row.name} stands for many networks, and none was named by its weights."
        remedy = "Give --weights FOLDER, as the hub has it: model.safetensors and config.json."
        raise WeightsError(problem, remedy=remedy)
    raise WeightsError(
        f"Weights {weights!r} are neither a known source nor a file or folder that exists.",
        remedy="Use offline, imagenet, none, a weights file, or the folder of an earlier run "
        "or of a network of the Hugging Face hub.",
    )


def _model_of_run(row: BackboneSpec, folder: Path) -> Path:
    model = folder / "model.keras"
    if not model.is_file():
        raise WeightsError(
            f"{folder} is not the folder of a finished run: it has no model.keras.",
            remedy="Give the folder that train --output wrote, a weights file, or a folder with "
            "model.safetensors and config.json.",
        )
    trained = files.read_json(folder / "config.json").get("backbone", row.name)
    if trained != row.name:
        problem = f"The run {folder} trained {trained}, not {row.name}."
        raise WeightsError(problem, remedy=f"Use --backbone {trained}, or another run.")
    return model


def assign(model: "keras.Model", weights: Weights, row: BackboneSpec) -> None:
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
    layers = [layer for layer in model.layers if layer.weights and not constant(layer)]
    expected = [[tuple(weight.shape) for weight in layer.weights] for layer in layers]
    received = [(layer.name, by_name.get(layer.name, [])) for layer in layers]
    if weights.ordered:
        dealt = _in_order([len(shapes) for shapes in expected], learned)
        complete = all(layer.name in by_name for layer in layers)
        automatic = any(is_automatic(layer.name) for layer in layers)
        if not complete or (automatic and [_shapes(found) for _, found in dealt] == expected):
            received = dealt
    for layer, shapes, (name, found) in zip(layers, expected, received, strict=True):
        if _shapes(found) != shapes:
            got = f"{_shapes(found)} in layer {name!r}" if found else _example(shapes, by_name)
            raise _mismatch(row, weights, f"Layer {layer.name!r} has {shapes}; received {got}")
    # The layers of ResNet50 are all in ResNet101, with the same shapes: look for what is too much.
    known = {layer.name for layer in layers}
    for name in sorted(by_name, key=_natural):
        if name not in known and label(name, row.blocks):
            extra = _shapes(by_name[name])
            raise _mismatch(row, weights, f"It has no layer {name!r}; received {extra}")
    for layer, (_, found) in zip(layers, received, strict=True):
        layer.set_weights(found)


_PIXELS = re.compile(r"(?<!batch_)(?<!layer_)normalization(_\d+)?$")


def _in_order(sizes: list[int], arrays: dict[str, list[np.ndarray]]) -> list[Named]:
    """Deals a file's arrays out to layers of so many weights, one after the other."""
    flat = iter([(name, array) for name, found in arrays.items() for array in found])
    dealt = []
    for size in sizes:
        part = list(itertools.islice(flat, size))
        dealt.append((part[0][0] if part else "", [array for _, array in part]))
    return dealt


def _shapes(arrays: list[np.ndarray]) -> list[tuple[int, ...]]:
    return [array.shape for array in arrays]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts block9 before block10."""
    return [(int(part or 0), rest) for rest, part in re.findall(r"([^0-9]*)([0-9]*)", name)]


def _example(expected: list[tuple[int, ...]], arrays: dict[str, list[np.ndarray]]) -> str:
    """What a file has instead of a layer that it lacks: its first whose kernel is alike."""
    for name, found in arrays.items():
        if found[0].ndim == len(expected[0]):
            return f"no layer of that name, but {_shapes(found)} in layer {name!r}"
    return "no layer of that name"


def _mismatch(row: BackboneSpec, weights: Weights, difference: str) -> WeightsError:
    return WeightsError(
        f"{weights.origin}: not weights of {row.name}. {difference}.",
        remedy=f"Use weights of {row.name}, or name the backbone that these belong to.",
    )


@contextlib.contextmanager
def unset_weights() -> Iterator[None]:
    """Layers that this thread makes within the block begin with zeros: their weights follow.

    Drawing random ones takes much of the time to build a network, and with JAX, which compiles a
    function for every shape, most of it.
    """
    import keras

    here = threading.get_ident()

    def add_weight(self: Any, shape: Any = None, initializer: Any = None, *a: Any, **b: Any) -> Any:
        if threading.get_ident() == here:
            initializer = np.zeros
        return own(self, shape, initializer, *a, **b)

    with _BUILDING:
        own = keras.layers.Layer.add_weight
        keras.layers.Layer.add_weight = add_weight
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = own


def normalise_by_weights(layer: Any) -> None:
    """Lets a Normalization go by the weights it was given, which loading a file does by itself."""
    import keras

    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()


def digest(model: "keras.Model") -> str:
    """SHA-256 over the names, shapes and values of all weights, in hexadecimal."""
    total = hashlib.sha256()
    for layer in model.layers:
        for array in layer.get_weights():
            total.update(f"{layer.name}{array.shape}{array.dtype}".encode())
            total.update(array.tobytes())
    return total.hexdigest()
