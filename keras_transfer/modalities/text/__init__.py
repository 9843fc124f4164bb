"""Texts: int32 token ids of one length, [CLS] first, [SEP] last, 0 behind.

One policy everywhere (training, evaluation, prediction, the export proof): UTF-8, or UTF-16 with a
byte order mark; BERT's uncased WordPiece, which lowers letters, strips accents and takes Chinese
characters one by one; cut at the end. What a text spells as ``[SEP]`` or ``[PAD]`` is read letter
by letter: no text can write a special token. Right-to-left overrides and other characters without
a shape are no tokens. ``tokenizers`` does the work; reading texts needs no TensorFlow.
"""

# ruff: noqa: F401

from collections.abc import Mapping, Sequence

from keras_transfer.modalities.text.masking import mirroring_is_safe, view
from keras_transfer.modalities.text.shingles import near_copies
from keras_transfer.modalities.text.sizes import entrance, suited
from keras_transfer.modalities.text.tokens import PREVIEW, VERSION, decode, examine, peek, spec
from keras_transfer.modalities.text.writing import encode, from_memory, show

NAME = "text"
SIZE = "max_length"
BACKBONE = "MiniLM-L6"
SUFFIXES: Mapping[str, str] = dict.fromkeys((".txt", ".text", ".md", ".rst"), "TXT")
SUFFIX = ".txt"
FINGERPRINT: tuple[int, ...] = (256,)
EXTENT = "tokens"
EXTENT_EDGES: Sequence[int] = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
