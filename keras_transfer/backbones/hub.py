"""Reads a network as the Hugging Face hub distributes it."""

import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.backbones.weight_files import Weights
from keras_transfer.base import files
from keras_transfer.base.errors import WeightsError, require
from keras_transfer.base.types import BackboneSpec

SAFETENSORS, CONVERTED = "model.safetensors", "model.bin"


def is_of_hub(folder: Path) -> bool:
    """Whether a folder holds a network as the hub or CTranslate2 has it."""
    return any((folder / name).is_file() for name in (SAFETENSORS, CONVERTED))


def read_folder(row: BackboneSpec, folder: Path) -> Weights:
    """Reads ``model.safetensors`` beside its ``config.json`` and, of a BERT, ``vocab.txt``; or of a
    Whisper the ``model.bin`` to which CTranslate2 converts it.

    Args:
        row: the backbone that it should be; the module that builds it knows the hub's names.
        folder: where they are.

    Raises:
        WeightsError: a file is missing or damaged, or they are of another kind of network or
            vocabulary.
    """
    kind: Any = row.constructor and importlib.import_module(row.constructor.split(":")[0])
    if not hasattr(kind, "hub_layers"):
        problem = f"{folder} holds a network of the hub, where {row.name} is not looked for."
        raise WeightsError(problem, remedy="Give a weights file, or the folder of a run.")
    path, another = folder / SAFETENSORS, f"Use a {row.name}, or what has its shape."
    converted = not path.is_file() and hasattr(kind, "read_converted")
    config = {} if converted else _configuration(kind, folder, another)
    path = folder / CONVERTED if converted else path
    if not converted:
        require(["safetensors"], f"pip install safetensors to read {path}.")
    try:
        if converted:
            tensors, heads = kind.read_converted(path)
        else:
            tensors, heads = _read_safetensors(path), config[kind.HEADS]
        arrays = kind.hub_layers(tensors, heads)
    except KeyError as error:
        problem = f"{path} is not a {row.name}: it has no tensor {error}."
        raise WeightsError(problem, remedy=another) from error
    except Exception as error:  # the library has errors of its own for what is damaged
        raise WeightsError(
            f"{path} cannot be read: {error}.", remedy="Copy or download the file again."
        ) from error
    return Weights(str(path), arrays)


def _configuration(kind: Any, folder: Path, another: str) -> dict[str, Any]:
    """What ``config.json`` says, where it is of the kind and the words are those of texts here."""
    config = files.read_json(folder / "config.json", files.table(None, **{kind.HEADS: int}))
    for key, ours in kind.CONFIGURATION.items():
        if config.get(key, ours) != ours:
            problem = f"{folder / 'config.json'}: {key} is {config[key]!r}, not {ours!r}."
            raise WeightsError(problem, remedy=another)
    if kind.VOCABULARY:
        check_vocabulary(folder / "vocab.txt", kind.VOCABULARY)
    return dict(config)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors but those of a decoder."""
    from safetensors import safe_open

    with safe_open(path, "np") as held:
        names = [name for name in held.keys() if "decoder." not in name]  # noqa: SIM118
        return {name: held.get_tensor(name) for name in names}


def check_vocabulary(path: Path, digest: str) -> None:
    """Refuses another vocabulary than the one into which texts are cut here."""
    words = path.read_bytes().split() if path.is_file() else []
    if hashlib.sha256(b"\n".join(words)).hexdigest() != digest:
        what = f"has {len(words):,} words of its own" if words else "is missing"
        raise WeightsError(
            f"{path} {what}: texts are cut into the words of BERT-uncased here.",
            remedy="Use a network with the vocabulary of bert-base-uncased.",
        )
