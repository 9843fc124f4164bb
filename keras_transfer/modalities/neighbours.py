"""Which of many examples are worth comparing, found by hashes that likes share."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 6  # how many followers in a word's order each example is compared with


def neighbours(words: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Pairs of rows that share a word of their hashes.

    By each word rows are sorted, those of an equal one by a tie, and paired with the next few: the
    work is linear in the number of rows, and bounded even where all are alike.

    Args:
        words: integers ``[rows, words]``.
        ties: numbers ``[rows, words]``.

    Returns:
        int64 ``[pairs, 2]``, each pair once, the smaller row first.
    """
    count = len(words)
    proposed = [np.empty(0, np.int64)]
    for word, tie in zip(words.T, ties.T, strict=True):
        order = np.lexsort((tie, word))
        for step in range(1, min(NEIGHBOURS, count - 1) + 1):
            left, right = order[:-step], order[step:]
            same = word[left] == word[right]
            left, right = left[same], right[same]
            proposed.append(np.minimum(left, right) * count + np.maximum(left, right))
    return np.stack(np.divmod(np.unique(np.concatenate(proposed)), max(1, count)), axis=1)
