"""Texts: int32 token ids of one length, [CLS] first, [SEP] last, 0 behind.

One policy everywhere (training, evaluation, prediction, the export proof): UTF-8, or UTF-16 with a
byte order mark; BERT's uncased WordPiece, which lowers letters, strips accents and takes Chinese
characters one by one; cut at the end. What a text spells as ``[SEP]`` or ``[PAD]`` is read letter
by letter: no text can write a special token. Right-to-left overrides and other characters without
a shape are no tokens. ``tokenizers`` does the work; reading texts needs no TensorFlow.
"""

# ruff: noqa: F401

from collections.abc import Mapping, Sequence
from typing import Any

from keras_transfer.modalities.text.masking import mirroring_is_safe, view
from keras_transfer.modalities.text.own import adopted
from keras_transfer.modalities.text.remarks import entrance, losses, suited
from keras_transfer.modalities.text.shingles import near_copies
from keras_transfer.modalities.text.tokens import (
    VERSION,
    decode,
    examine,
    peek,
    preview,
    size_of,
    spec,
    spec_of,
)
from keras_transfer.modalities.text.writing import encode, from_memory, show

NAME = NOUN = "text"
SIZE = "max_length"
LITERAL = True
excerpt = None
INPUT = "int32 ids of BERT's uncased WordPiece, [CLS] first, [SEP] last, 0 behind"
EFFORTS: Mapping[str, Mapping[str, Any]] = {
    "quick": {"backbone": "MiniLM-L6", "levels": 5.0, "unfreeze": "none", "views": 1},
    "default": {
        "backbone": "MiniLM-L6", "levels": 5.0, "unfreeze": "95%", "fine_tune_epochs": 4,
        "fine_tune_lr": 1e-4,
    },
    "high": {
        "backbone": "MiniLM-L6", "levels": 5.0, "unfreeze": "95%", "fine_tune_epochs": 8,
        "fine_tune_lr": 1e-4,
    },
}  # fmt: skip
"""95 % are all blocks, and not the embeddings. By ``benchmarks/results/text_tuning.md``."""
SUFFIXES: Mapping[str, str] = dict.fromkeys((".txt", ".text", ".md", ".rst"), "TXT")
SUFFIX = ".txt"
SEARCH: Mapping[str, Mapping[str, Any]] = {
    "unfreeze": {"choices": ["35%", "70%", "95%"]},
    "fine_tune_lr": {"low": 2e-5, "high": 5e-4, "scale": "log"},
    "fine_tune_epochs": {"choices": [2, 4, 8]},
}
FINGERPRINT: tuple[int, ...] = (256,)
EXTENT = "tokens"
EXTENT_EDGES: Sequence[int] = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
