"""From texts in memory to the bytes of a file, and to what a page shows."""

import html
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_transfer.base.errors import DataError
from keras_transfer.modalities.text.tokens import tokenizer


def from_memory(values: Any) -> Sequence[Any]:
    """Checks that each is a ``str``, or the ``bytes`` of one.

    A ``str`` with half a surrogate pair passes, and becomes a finding when it is examined.

    Raises:
        DataError: one is neither, or the first is the name of a file.
    """
    for i, value in enumerate(values):
        if not i and isinstance(value, str) and os.path.isfile(value):
            problem = f"text 0 is the name of a file: {value}."
            raise DataError(problem, remedy="Give the texts, or a table with a column path.")
        if not isinstance(value, (str, bytes)):
            problem = f"text {i} is {value!r:.40}, a {type(value).__name__}."
            raise DataError(problem, remedy="Give a str for each text.")
    return list(values)


def encode(value: Any) -> bytes:
    """A ``str`` as UTF-8, half a surrogate pair as bytes that are none; ``bytes`` as they are."""
    return bytes(value) if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def show(example: np.ndarray, caption: str = "", saliency: np.ndarray | None = None) -> str:
    """A paragraph with the text in it, isolated from the direction of what is around.

    Args:
        example: uint8, as ``decode`` gives it for ``PREVIEW``.
        caption: for a mouse that rests on it.
        saliency: for each token how much it counts, 0 to 1: so strong is the shade behind it.
    """
    text = example.tobytes().rstrip(b"\0").decode(errors="ignore")
    shades = np.zeros(len(text))
    if saliency is not None:
        for (begin, end), weight in zip(tokenizer().encode(text).offsets, saliency, strict=False):
            shades[begin:end] = np.clip(weight, 0, 1)
    pieces = []
    marked = zip(shades.round(2).tolist(), text, strict=True)
    for shade, run in itertools.groupby(marked, lambda pair: pair[0]):
        piece = html.escape("".join(c for _, c in run))
        style = f"background:rgba(255,150,0,{shade})"
        pieces.append(f'<mark style="{style}">{piece}</mark>' if shade else piece)
    return f'<p dir="auto" title="{html.escape(caption)}">{"".join(pieces)}</p>'
