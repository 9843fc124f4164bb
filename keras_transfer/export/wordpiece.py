"""BERT's uncased tokens in TensorFlow's own operations, so that a SavedModel takes strings."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_transfer.modalities.text import tokens

LETTER, MARK, BLANK = range(3)
"""A part of a word; a word by itself; between words."""

ITSELF = -1
"""In place of what is made of a character that stays as it is."""

MAX_LETTERS = 100
"""A longer word is unknown."""


class WordPiece(tf.Module):
    """From a text to the ids that ``tokens.decode`` gives.

    Args:
        size: to how many ids they are cut, or filled with 0.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        words = tokens.VOCABULARY.read_text(encoding="utf-8").split("\n")[:-1]
        rows = tf.lookup.KeyValueTensorInitializer(words, np.arange(len(words), dtype=np.int32))
        self.size = size
        self.longest = max(len(word.removeprefix("##")) for word in words)
        self.lines = tf.lookup.StaticHashTable(rows, default_value=-1)

    def __call__(self, data: Any) -> Any:
        """The ids, int32 ``[size]``, of a text in UTF-8, a string tensor of no axes."""
        letters, kinds = _normalised(data)
        before = tf.concat([[BLANK], kinds[:-1]], 0)
        starts = (kinds == MARK) | ((kinds == LETTER) & (before != LETTER))
        inside = kinds != BLANK
        letters, starts = tf.boolean_mask(letters, inside), tf.boolean_mask(starts, inside)
        word = tf.cumsum(tf.cast(starts, tf.int32)) - 1
        place = tf.range(tf.size(letters))
        end = tf.gather(tf.math.segment_max(place, word), word) + 1
        begin = tf.gather(tf.math.segment_min(place, word), word)
        found, length = self._longest_pieces(letters, starts, end - place)
        short = end - begin <= MAX_LETTERS
        reached = _walk(starts & short, place + length, end)
        wrong = (reached & (length == 0)) | ~short
        unknown = tf.gather(tf.math.segment_max(tf.cast(wrong, tf.int32), word), word) > 0
        pieces = tf.boolean_mask(
            tf.where(unknown, tokens.UNKNOWN, found), tf.where(unknown, starts, reached)
        )
        ids = tf.concat([[tokens.CLS], pieces[: self.size - 2], [tokens.SEP]], 0)
        return tf.ensure_shape(tf.pad(ids, [[0, self.size - tf.size(ids)]]), (self.size,))

    def _longest_pieces(self, letters: Any, starts: Any, left: Any) -> tuple[Any, Any]:
        """The longest piece in the vocabulary that begins at each letter: its id and length, which
        is 0 where there is none; given which of them begin a word, and how many are left of it.
        """
        signs = tf.strings.unicode_encode(letters[:, None], "UTF-8")
        behind = tf.concat([signs, tf.fill([self.longest], "")], 0)
        piece = tf.where(starts, "", "##")
        ids, lengths = tf.zeros_like(letters), tf.zeros_like(letters)
        for length in range(1, self.longest + 1):
            piece += behind[length - 1 : length - 1 + tf.size(letters)]
            line = self.lines.lookup(piece)
            known = (line >= 0) & (length <= left)
            ids, lengths = tf.where(known, line, ids), tf.where(known, length, lengths)
        return ids, lengths


def _normalised(data: Any) -> tuple[Any, Any]:
    """The code points of a text in lower case without accents, and the kind of each."""
    row_of, letters, kinds = _alphabet()
    codes = tf.strings.unicode_decode(data, "UTF-8", errors="strict")
    rows = tf.cast(tf.gather(row_of, codes), tf.int32)
    made = tf.gather(letters, rows)
    made = tf.where(made == ITSELF, codes[:, None], made)
    return made[made > 0], tf.gather(kinds, rows)[made > 0]


def _walk(starts: Any, following: Any, end: Any) -> Any:
    """Which letters a piece begins at: those that start words, and each that follows a piece.

    Args:
        starts: bool ``[letters]``.
        following: the letter behind the piece that begins at each; itself where there is none.
        end: the letter behind its word.
    """
    count = tf.size(end)

    def step(reached: Any, front: Any) -> tuple[Any, Any]:
        at = tf.boolean_mask(following, front & (following < end))
        new = tf.scatter_nd(at[:, None], tf.ones_like(at), [count]) > 0
        return reached | new, new & ~reached

    return tf.while_loop(lambda _, front: tf.reduce_any(front), step, (starts, starts))[0]


@functools.cache
def _alphabet() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the tokenizer's normaliser makes of each character, which it takes one by one.

    Returns:
        For each code point its row in two tables, uint16; of each row what it makes, int32
        ``[rows, most]``: code points or ``ITSELF``, 0 behind; and the kinds of these.
    """
    tokenizer = tokens.tokenizer()
    codes = [*range(0xD800), *range(0xE000, 0x110000)]
    made = {code: tokenizer.normalizer.normalize_str(chr(code)) for code in codes}
    words = {letters.strip() for letters in made.values() if letters.startswith(" ")}  # Chinese
    words |= _marks(tokenizer, "".join({*"".join(made.values())}))
    rows: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    row_of = np.zeros(0x110000, np.uint16)
    for code, letters in made.items():
        letters = letters.strip() or letters
        kinds = tuple(BLANK if x == " " else MARK if x in words else LETTER for x in letters)
        points = tuple(ITSELF if ord(x) == code else ord(x) for x in letters)
        row_of[code] = rows.setdefault((points, kinds), len(rows))
    most = max(len(points) for points, _ in rows)
    padded = np.array([[x + (0,) * (most - len(x)) for x in row] for row in rows], np.int32)
    return row_of, padded[:, 0], padded[:, 1]


def _marks(tokenizer: Any, letters: str) -> set[str]:
    """Which of some characters the tokenizer takes for punctuation."""
    apart = tokenizer.pre_tokenizer.pre_tokenize_str("a".join(letters))
    return {piece for piece, _ in apart if len(piece) == 1} - {"a"}
