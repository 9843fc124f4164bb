"""Near copies among many examples: hashes that likes share propose pairs, which are compared."""

from collections.abc import Callable

import numpy as np

NEIGHBOURS = 6  # how many followers in a word's order each example is compared with
BLOCK = 1024  # pairs compared at once: what they need stays in a processor's cache
PROPOSED = 2**22  # pairs that are gathered before they are compared


def alike_neighbours(
    words: np.ndarray, ties: np.ndarray, alike: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Pairs of rows that share a word of their hashes, and are alike.

    By each word rows are sorted, those of an equal one by a tie, and paired with the next few: the
    work is linear in the number of rows, and bounded even where all are alike.

    Args:
        words: integers ``[rows, words]``.
        ties: numbers ``[rows, words]``.
        alike: tells which of some pairs, int64 ``[pairs, 2]``, are: bool ``[pairs]``.

    Returns:
        int64 ``[pairs, 2]``, each pair once, the smaller row first.
    """
    count, (proposed, found) = len(words), (list[np.ndarray](), [np.empty((0, 2), np.int64)])
    for number, (word, tie) in enumerate(zip(words.T, ties.T, strict=True), 1):
        order = np.lexsort((tie, word))
        for step in range(1, min(NEIGHBOURS, count - 1) + 1):
            left, right = order[:-step], order[step:]
            same = word[left] == word[right]
            left, right = left[same], right[same]
            proposed.append(np.minimum(left, right) * count + np.maximum(left, right))
        if proposed and (number == words.shape[1] or sum(map(len, proposed)) > PROPOSED):
            pairs = np.stack(np.divmod(np.unique(np.concatenate(proposed)), count), axis=1)
            proposed.clear()
            for start in range(0, len(pairs), BLOCK):
                block = pairs[start : start + BLOCK]
                found.append(block[alike(block)])
    return np.unique(np.concatenate(found), axis=0)
