"""Augmented views of texts: some tokens masked, some left out."""

import hashlib
from collections.abc import Sequence

import numpy as np

from keras_transfer.modalities.text.tokens import CLS, MASK, PAD, SEP

SHARE = 0.1  # of the tokens, at strength 1: one half masked, one half left out


def view(
    examples: np.ndarray,
    digests: Sequence[str],
    number: int,
    *,
    seed: int = 0,
    strength: float = 1.0,
    flip: bool = True,
) -> np.ndarray:
    """Draws one augmented view of each text.

    Args:
        examples: int32 ids, shape ``[texts, size]``.
        digests: one content digest a text: with ``number`` and ``seed`` it alone decides what is
            drawn, so that neither the order nor the other texts matter.
        number: 0 gives the ids unchanged; every other number another draw.
        seed: of the draws.
        strength: 0 to 3, multiplies the share of tokens.
        flip: has no meaning for texts.

    Returns:
        int32, the shape of ``examples``; ``examples`` itself for view 0. [CLS] and [SEP] stay.
    """
    if number == 0:
        return examples
    drawn = _uniforms(digests, number, seed, examples.shape[1])
    ordinary = ~np.isin(examples, (PAD, CLS, SEP))
    share = SHARE * strength
    ids = np.where(ordinary & (drawn < share), MASK, examples)
    ids[ordinary & (drawn < share / 2)] = PAD
    order = np.argsort(ids == PAD, axis=1, kind="stable")  # what is left out moves to the end
    return np.take_along_axis(ids, order, axis=1)


def _uniforms(digests: Sequence[str], number: int, seed: int, size: int) -> np.ndarray:
    """Numbers in [0, 1), shape ``[digests, size]``; a row depends on its digest alone."""
    keys = (f"{digest}:{number}:{seed}".encode() for digest in digests)
    drawn = b"".join(hashlib.shake_128(key).digest(4 * size) for key in keys)
    return np.frombuffer(drawn, "<u4").reshape(len(digests), size) / 2.0**32


def mirroring_is_safe(
    examples: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> tuple[bool, str]:
    """Texts are never mirrored, and nothing is said of it."""
    return False, ""
