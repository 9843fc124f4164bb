"""How long the texts of a model are, and what of them it does not read as it was meant: markup,
other scripts, what is cut off.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_transfer.base.types import Finding
from keras_transfer.modalities.protocol import InputSpec

USUAL = 256  # tokens that the backbones of texts take, unless another length is asked for

_TAGS = (
    "a|b|blockquote|body|br|center|code|div|em|font|h[1-6]|head|hr|html|i|iframe|img|li|link|meta|"
    "ol|p|pre|script|span|strong|style|su[bp]|table|tbody|t[dhrt]|title|u|ul"
)
_MARKUP = re.compile(
    rf"</?(?:{_TAGS})(?:\s+[\w-]+\s*=[^<>]*)?\s*/?>"
    r"|&(?:amp|apos|gt|lt|nbsp|quot|#\d{1,7}|#x[0-9a-f]{1,6});",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile(r"[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]")


def remarks(text: str, tokens: int, unknown: int) -> tuple[tuple[str, str], ...]:
    """The kinds and reasons of what is odd about a text, of so many tokens without the frame.

    Of the vocabulary's 27,548 words of more than one letter, all but 15 are in Latin letters.
    """
    found = []
    if ("<" in text or "&" in text) and (markup := _MARKUP.search(text)):
        found.append(("markup", f"{markup.group()[:40]!r} is read as words and signs"))
    others = [] if text.isascii() else _LETTER.findall(_LATIN.sub("", text))
    if 2 * len(others) > len(_LETTER.findall(text)):
        scripts = Counter(unicodedata.name(letter, "?").split()[0] for letter in others[:1000])
        most = scripts.most_common(1)[0][0]
        found.append(("other_script", f"mostly {most} letters, of which it has hardly any words"))
    if 2 * unknown > tokens:
        found.append(("unknown_words", f"{unknown:,} of its {tokens:,} tokens are unknown"))
    return tuple(found)


def suited(sizes: Sequence[int], own: int) -> int:
    """The length to train at: 95 of 100 texts stay whole.

    Args:
        sizes: the numbers of tokens of some texts; ``own`` counts where there are none.
        own: the longest that the backbone was made for.

    Returns:
        A multiple of 8, at least 16, unless ``own`` is less.
    """
    wanted = np.percentile(sizes, 95) if len(sizes) else own
    return min(own, max(16, 8 * int(np.ceil(wanted / 8))))


def entrance(size: int, preprocessing: str) -> tuple[Any, Any]:
    """The input of a network, and what its first layer takes: ids need no preprocessing."""
    import keras

    ids = keras.Input((size,), dtype="int32", name="ids")
    return ids, ids


def losses(
    extents: Sequence[int], unknown: int, spec: InputSpec | None, some: Sequence[int]
) -> list[Finding]:
    """How much of a set's tokens is cut off at a length, and how many are not known.

    Args:
        extents: the number of tokens of each text.
        unknown: how many of all are unknown.
        spec: of the model; by default what ``suited`` finds by ``some``.
        some: the tokens of the texts by which the length is chosen.
    """
    size, lengths = spec.shape[0] if spec else suited(some, USUAL), np.array(extents, np.int64)
    found, total, long = [], int(lengths.sum()), lengths[lengths > size]
    if len(long):
        count = f"{len(long):,} of {len(lengths):,} texts have over {size} tokens"
        lost = f"the longest {long.max():,}; {(long - size).sum() / total:.1%} of all tokens"
        found.append(Finding("", "cut", f"{count}, {lost} are cut off", "the beginning is read"))
    if unknown:
        reason = f"{unknown:,} of {total:,} tokens ({unknown / total:.2%}) are unknown"
        found.append(Finding("", "unknown", reason, "read as one and the same"))
    return found
