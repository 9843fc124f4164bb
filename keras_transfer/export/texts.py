"""How clients feed a model of texts."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from keras_transfer.export.feeding import Signature
from keras_transfer.modalities import Modality, text
from keras_transfer.modalities.text import tokens

VOCABULARY = "vocab.txt"
MAX_BYTES = 100
"""A longer word is unknown to MediaPipe."""
CHINESE = "".join(
    f"{chr(first)}-{chr(last)}"
    for first, last in (
        (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
    )
)  # fmt: skip


class TextSignature(Signature):
    """int32 ids of tokens in, 0 behind the last."""

    form: ClassVar[Modality] = text
    encoded = "text"
    # What BERT takes beside its ids. The graph makes the mask itself, and knows one segment.
    idle: ClassVar[Mapping[str, str]] = {
        "mask": "1 for each token; not read",
        "segment_ids": "0; not read",
    }
    files: ClassVar[Mapping[str, bytes]] = {VOCABULARY: tokens.VOCABULARY.read_bytes()}
    reader = "tokenizers"
    others = "Other authors, other subjects, other times"
    mediapipe = "text"
    by_mediapipe = "tokenised"
    process_units = (  # BertTokenizerOptions with a VOCABULARY
        {0: np.uint8(4), 1: {0: [{0: VOCABULARY, 1: "one token a line", 2: np.int8(5)}]}},
    )

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.spec.shape[0]

    def for_mediapipe(self, data: bytes) -> np.ndarray:
        """As MediaPipe's text tasks tokenise it."""
        lowered = tokens.read(data).translate({upper: upper + 32 for upper in range(65, 91)})
        tokenizer = _mediapipe_tokenizer()
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(lowered)]
        known = [word if len(word.encode()) <= MAX_BYTES else "\ufffd" for word in words]
        ids = tokenizer.encode(known, is_pretokenized=True).ids
        return tokens.cut(np.array(ids, np.int32), self.spec)

    def blank(self) -> tuple[np.ndarray, bytes]:
        """A text of one word, int32 ``[1, size]`` and in UTF-8."""
        return text.decode(b"text", self.spec)[None], b"text"

    def served(self, data: bytes) -> bool:
        """Whether :meth:`serving_decoder` can read a text: it is UTF-8."""
        return not data.startswith((b"\xff\xfe", b"\xfe\xff"))

    def metadata(self) -> dict[int, Any]:
        """The input's ``TensorMetadata``, as ``metadata.pack`` takes it."""
        return {0: self.spec.name, 1: self.spec.content, 3: {0: np.uint8(1), 1: {}}}

    def serving_decoder(self) -> Callable[[Any], Any]:
        """A graph from a string tensor that holds a text in UTF-8 to its ids; where it holds no
        word, they are [CLS] and [SEP] alone."""
        from keras_transfer.export.wordpiece import WordPiece

        return WordPiece(self.size)


@functools.cache
def _mediapipe_tokenizer() -> Any:
    """The pieces that MediaPipe 1.2.3 makes of a text whose ASCII letters are lower: accents stay,
    other capitals too, blanks are those of ASCII, and no character is left out."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    made = Tokenizer.from_str(tokens.tokenizer().to_str())
    made.normalizer = None
    apart = Regex(rf"[!-/:-@\[-`{{-~]|\p{{P}}|[{CHINESE}]")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\t\n\f\r ]+"), "removed"),
            pre_tokenizers.Split(apart, "isolated"),
        ]
    )
    return made
