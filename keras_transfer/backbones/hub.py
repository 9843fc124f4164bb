"""Reads a BERT as the Hugging Face hub distributes it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from keras_transfer.backbones.weight_files import Weights
from keras_transfer.base import files
from keras_transfer.base.errors import WeightsError
from keras_transfer.modalities.text.bert import hub_layers

# What the network is built with, and a configuration may say otherwise.
_SETTINGS = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}
# SHA-256 of the words of BERT-uncased, one a line.
_VOCABULARY = "0f052197aac305fe42f378b5c61554b7bacb34b8be4af83fec2cfdcdffbc9973"


def read_folder(folder: Path) -> Weights:
    """Reads ``model.safetensors`` beside its ``config.json`` and ``vocab.txt``.

    Raises:
        WeightsError: a file is missing or damaged, or they are of another kind of network or
            vocabulary.
    """
    config = files.read_json(folder / "config.json", files.table(num_attention_heads=int))
    for key, ours in _SETTINGS.items():
        if config.get(key, ours) != ours:
            problem = f"{folder / 'config.json'}: {key} is {config[key]!r}, not {ours!r}."
            raise WeightsError(problem, remedy="Use a BERT, or what has its shape.")
    _check_vocabulary(folder / "vocab.txt")
    path = folder / "model.safetensors"
    try:
        from safetensors.numpy import load_file

        arrays = hub_layers(load_file(path), config["num_attention_heads"])
    except ImportError:
        problem = f"Reading {path} takes the package safetensors."
        raise WeightsError(problem, remedy="pip install safetensors") from None
    except KeyError as error:
        problem = f"{path} is not a BERT: it has no tensor {error}."
        raise WeightsError(problem, remedy="Use a BERT, or what has its shape.") from error
    except Exception as error:  # the library has errors of its own for what is damaged
        raise WeightsError(
            f"{path} cannot be read: {error}.", remedy="Copy or download the file again."
        ) from error
    return Weights(str(path), arrays)


def _check_vocabulary(path: Path) -> None:
    words = path.read_bytes().split() if path.is_file() else []
    if hashlib.sha256(b"\n".join(words)).hexdigest() != _VOCABULARY:
        what = f"has {len(words):,} words of its own" if words else "is missing"
        raise WeightsError(
            f"{path} {what}: texts are cut into the words of BERT-uncased here.",
            remedy="Use a network with the vocabulary of bert-base-uncased.",
        )
