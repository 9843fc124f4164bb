"""From the bytes of a text to the ids of its tokens."""

import functools
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.base.errors import ExampleError, UsageError, require
from keras_transfer.modalities.protocol import Examined, InputSpec
from keras_transfer.modalities.text.remarks import remarks
from keras_transfer.modalities.text.shingles import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERSION = 1

MAX_BYTES = 2**20  # some 200,000 words: a longer file is no example of a class
MAX_SIZE = 512  # positions that BERT's networks know
PAD, UNKNOWN, CLS, SEP, MASK = 0, 100, 101, 102, 103
"""Their lines in ``vocab.txt``, which is BERT's uncased vocabulary, of so many words:"""
WORDS = 30_522

VOCABULARY = Path(__file__).with_name("vocab.txt")

PREVIEW = InputSpec("text", (600,), "uint8", "the beginning of a text in UTF-8, 0 behind")

_LOADING = threading.Lock()


def spec(size: Any) -> InputSpec:
    """The input of a model for texts of at most ``size`` tokens, [CLS] and [SEP] among them.

    Raises:
        UsageError: it is no integer from 3 to ``MAX_SIZE``.
    """
    if not isinstance(size, int) or not 3 <= size <= MAX_SIZE:
        problem = f"the length of texts must be 3 to {MAX_SIZE} tokens. Received: {size!r}"
        raise UsageError(problem, remedy="Give a number of tokens, such as 64.")
    content = f"ids of up to {size} tokens (BERT uncased), [CLS] first, [SEP] last, 0 behind"
    return InputSpec("ids", (size,), "int32", content)


def size_of(shape: Sequence[int]) -> int:
    """The number of tokens of texts of a shape."""
    return int(shape[0])


def spec_of(shape: Sequence[Any], dtype: str) -> InputSpec | None:
    """The input that takes int32 ``[tokens]``; None for any other shape or type."""
    known = len(shape) == 1 and None not in shape and dtype == "int32"
    return spec(int(shape[0])) if known and 3 <= shape[0] <= MAX_SIZE else None


def preview(spec: InputSpec | None) -> InputSpec:
    """What pages decode to, whatever a model takes."""
    return PREVIEW


def decode(data: bytes, spec: InputSpec | None = None) -> np.ndarray:
    """Decodes one text.

    Args:
        data: UTF-8, or UTF-16 with a byte order mark.
        spec: to whose length the tokens are cut, or filled with 0; None keeps their own. Of
            ``PREVIEW`` come the first bytes of the text itself.

    Returns:
        int32 ids, shape ``[size]``; for ``PREVIEW`` uint8, no character cut in two.

    Raises:
        ExampleError: the bytes are no text, one without a word, or over ``MAX_BYTES``.
    """
    text = read(data)
    if spec == PREVIEW:
        start = text.encode()[: PREVIEW.shape[0]].decode(errors="ignore").encode()
        return _filled(np.frombuffer(start, np.uint8), PREVIEW)
    ids = np.array(_encoding(text).ids, np.int32)
    return ids if spec is None else cut(ids, spec)


def examine(data: bytes, spec: InputSpec | None = None) -> Examined:
    """As ``decode``, with the fingerprint of ``shingles`` and the number of tokens uncut."""
    text = read(data)
    encoding = _encoding(text)
    ids = np.array(encoding.ids, np.int32)
    known = ids.astype(np.uint64)
    for i in np.flatnonzero(ids == UNKNOWN).tolist():  # what differs is no copy, known or not
        begin, end = encoding.token_to_chars(i)
        known[i] = WORDS + zlib.crc32(text[begin:end].lower().encode())
    words = np.array([-1 if word is None else word for word in encoding.word_ids])
    example = None if spec is None else cut(ids, spec)
    unknown = int((ids == UNKNOWN).sum())
    said = remarks(text, len(ids) - 2, unknown)
    return Examined(example, fingerprint(known, words), "TXT", len(ids), unknown, said)


def peek(data: bytes) -> int:
    """The number of its tokens, [CLS] and [SEP] among them."""
    return len(_encoding(read(data)).ids)


def read(data: bytes) -> str:
    """The characters of a text.

    Raises:
        ExampleError: there are too many, or the bytes are none.
    """
    if len(data) > MAX_BYTES:
        raise ExampleError(f"{len(data):,} bytes: over {MAX_BYTES:,} of text", kind="bomb")
    form = "UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "UTF-8"
    try:
        text = data.decode("utf-8-sig" if form == "UTF-8" else form)
    except UnicodeDecodeError as error:
        reason = f"not {form} at byte {error.start}; save it as UTF-8"
        raise ExampleError(reason, kind="not_text") from None
    if "\0" in text:
        raise ExampleError("holds a NUL character, as no text does", kind="not_text")
    return text


def tokenizer() -> "Tokenizer":
    """BERT's uncased WordPiece, loaded once. It neither cuts nor fills.

    Raises:
        UsageError: the package ``tokenizers`` is absent.
    """
    with _LOADING:
        return _load()


@functools.cache
def _load() -> "Tokenizer":
    require(["tokenizers"], "pip install keras-transfer[text] to read texts.")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    # Without its added tokens, or a text that holds "[PAD]" would come out with a hole in it.
    made = Tokenizer(models.WordPiece.from_file(str(VOCABULARY), unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return made


def _encoding(text: str) -> Any:
    encoding = tokenizer().encode(text)
    if len(encoding.ids) <= 2:
        raise ExampleError("no word in it: empty, or blanks and control characters", kind="empty")
    return encoding


def cut(ids: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Ids of a whole text at the length of a spec: cut, and [SEP] behind; or filled with 0."""
    size = spec.shape[0]
    return _filled(ids if len(ids) <= size else np.append(ids[: size - 1], np.int32(SEP)), spec)


def _filled(values: np.ndarray, spec: InputSpec) -> np.ndarray:
    example = np.zeros(spec.shape, spec.dtype)
    example[: len(values)] = values
    return example
