from __future__ import annotations

import html
import re
import subprocess
import sys
import threading
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from promises import check_modality

from keras_transfer.base.errors import DataError, ExampleError, UsageError
from keras_transfer.datasets import open_source
from keras_transfer.modalities import modality_of_files, text
from keras_transfer.modalities.text import tokens

WORDS = Path(tokens.__file__).with_name("vocab.txt").read_text(encoding="utf-8").splitlines()
PLACES = {word: i for i, word in enumerate(WORDS)}

ODD = [
    "Ünïcödé CAFÉ naïve Straße İstanbul",
    "你好，世界 mixed中文words",
    "[CLS] [SEP] [PAD] [MASK] [UNK] ##ing",
    "don't stop -- e.g. 3.14, $5 (50%)~^`|",
    "x" * 100 + " " + "y" * 101 + " supercalifragilisticexpialidocious",
    "tab\tnew\nline\r\nnbsp\u00a0em\u2003zero\u200bwidth soft\u00adhyphen",
    "\u202eright to left\u202c עברית العربية हिन्दी",
    "😀 😡😡 a😀b",
    "\ufeffinner mark",
]


@pytest.fixture(scope="module")
def texts():
    source = open_source("builtin:scipy")
    return [source.read(item.path).decode() for item in source.items]


def word_pieces(words):
    """BERT's greedy search as its paper describes it: the longest piece first."""
    for word in words:
        pieces, start = [], 0
        while start < len(word) <= 100:
            ends = (
                e
                for e in range(len(word), start, -1)
                if "##" * (start > 0) + word[start:e] in PLACES
            )
            end = next(ends, None)
            if end is None:
                break
            pieces.append(PLACES["##" * (start > 0) + word[start:end]])
            start = end
        yield from pieces if start == len(word) else [100]


def plainly(said):
    """Ids by nothing but the vocabulary and Unicode's tables."""
    clean = "".join(
        " " if c in "\t\n\r" or unicodedata.category(c) == "Zs"
        else "" if unicodedata.category(c)[0] == "C"
        else f" {c} " if "\u4e00" <= c <= "\u9fff"
        else c
        for c in said
    )  # fmt: skip
    lowered = unicodedata.normalize("NFD", clean).lower()
    bare = "".join(c for c in lowered if unicodedata.category(c) != "Mn")
    apart = "".join(
        f" {c} " if unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~" else c for c in bare
    )
    return [101, *word_pieces(apart.split()), 102]


def test_texts_keep_the_promises_of_a_modality(texts):
    said = texts[:400:40]
    damaged = [b"\xff\xfe\0", b"\xfe\xff\xd8\0", b"\xed\xa0\x80", b" \n\t", "\u202e\u0301".encode()]
    check_modality(text, [one.encode() for one in said], size=24, damaged=damaged, values=said)


def test_ids_are_those_of_the_algorithm_written_down(texts):
    said = texts[:: len(texts) // 500][:500] + ODD
    assert len(said) >= 500
    for one in said:
        assert text.decode(one.encode()).tolist() == plainly(one.removeprefix("\ufeff")), one


def test_the_vocabulary_is_berts():
    assert len(WORDS) == tokens.WORDS
    assert [WORDS[i] for i in (0, 100, 101, 102, 103)] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]


def test_a_long_text_is_cut_and_a_short_one_filled():
    assert text.decode(b"one two three four", text.spec(4)).tolist() == [101, 2028, 2048, 102]
    assert text.decode(b"one", text.spec(5)).tolist() == [101, 2028, 102, 0, 0]
    assert text.peek(b"one two three four") == 6


@pytest.mark.parametrize("size", [0, 2, 513, 64.0, "64", None, (64, 64)])
def test_lengths_that_no_network_takes_are_refused(size):
    with pytest.raises(UsageError, match="3 to 512"):
        text.spec(size)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are_give_the_same_ids(encoding):
    data = "naïve 你好".encode(encoding)
    assert text.decode(data).tolist() == text.decode("naïve 你好".encode()).tolist()


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", "empty", "no word"),
        (b" \r\n\t\x07\x1b", "empty", "no word"),
        ("\u200b\u202e\u2066".encode(), "empty", "no word"),
        ("café".encode("latin-1"), "not_text", "not UTF-8 at byte 3"),
        ("half \ud83d".encode("utf-8", "surrogatepass"), "not_text", "not UTF-8 at byte 5"),
        (b"\xff\xfea\0\0\xd8", "not_text", "not UTF-16"),
        ("plain".encode("utf-16-le"), "not_text", "NUL"),
        ("plain".encode("utf-32"), "not_text", "NUL"),
        (b"a\0b", "not_text", "NUL"),
        (b"word " * 300_000, "bomb", "over 1,048,576"),
    ],
)
def test_what_is_no_text_is_refused_with_a_reason(data, kind, reason):
    for attempt in (text.peek, text.examine, text.decode):
        with pytest.raises(ExampleError, match=reason) as caught:
            attempt(data)
        assert caught.value.kind == kind


def test_a_text_cannot_write_special_tokens():
    ids = text.decode(b"[PAD] [CLS] [SEP] [MASK]")
    assert not np.isin(ids[1:-1], (0, 101, 102, 103)).any()


def fingerprints(said):
    return np.stack([text.examine(one.encode()).fingerprint for one in said])


def test_near_copies_are_found_and_others_are_not(texts):
    said = [one for one in texts if len(one.split()) >= 30][:100]
    words = [one.split()[:30] for one in said]
    other = np.random.default_rng(0).integers(30, size=len(said))
    changed = [
        [w if i != n else "banana" for i, w in enumerate(one)]
        for one, n in zip(words, other, strict=True)
    ]
    first, rows = fingerprints([" ".join(one) for one in words]), np.arange(len(said))
    for others in (
        ["  ".join(one).upper() + "\n" for one in words],
        [" ".join(one) for one in changed],
    ):
        pairs = text.near_copies(np.concatenate([first, fingerprints(others)]))
        found = {(i, j - len(said)) for i, j in pairs.tolist()}
        assert sum((i, i) in found for i in rows.tolist()) >= 0.96 * len(said)
    plain = fingerprints(texts[::7])
    assert len(text.near_copies(plain)) < 0.1 * len(plain)


def test_wishes_of_one_form_are_no_copies():
    said = [
        f"please book a flight from {a} to {b} on {day}"
        for a in ("boston", "denver")
        for b in ("rome", "paris")
        for day in ("monday", "friday")
    ]
    assert text.near_copies(fingerprints(said)).tolist() == []


def test_unknown_characters_are_told_apart():
    said = ["I love 😀", "I love 😡", "😀", "😡", "I love 😀 ", "😡"]
    assert text.decode("😀".encode()).tolist() == [101, 100, 102]
    assert text.near_copies(fingerprints(said)).tolist() == [[0, 4], [3, 5]]


def test_ten_thousand_equal_texts_make_few_pairs(texts):
    same = np.repeat(fingerprints(texts[:1]), 10_000, axis=0)
    assert 9_999 <= len(text.near_copies(same)) <= 60_000


def test_views_change_a_tenth_and_keep_the_frame(texts):
    spec = text.spec(64)
    examples = np.stack([text.decode(one.encode(), spec) for one in texts])
    digests = [str(i) for i in range(len(texts))]
    drawn = text.view(examples, digests, 1)
    known, left = (examples != 0).sum(axis=1), (drawn != 0).sum(axis=1)
    assert (drawn[:, 0] == 101).all()
    assert ((drawn == 102).sum(axis=1) == 1).all()
    assert (drawn[np.arange(len(drawn)), left - 1] == 102).all()
    masked, dropped = (drawn == 103).sum(), (known - left).sum()
    for count in (masked, dropped):
        assert 0.04 < count / (known - 2).sum() < 0.06
    for before, after in zip(examples[:50].tolist(), drawn[:50].tolist(), strict=True):
        rest = iter(before)  # what is neither masked nor padding stands in its old order
        assert all(one in rest for one in after if one not in (0, 103))
    assert np.array_equal(text.view(examples, digests, 1, strength=0.0), examples)
    assert (text.view(examples, digests, 1, strength=3.0) == 103).sum() > 2 * masked


def shown(said, **options):
    return text.show(text.decode(said.encode(), text.preview(None)), **options)


def test_what_pages_show_is_escaped_and_whole():
    page = shown("<script>alert('1')</script> & \u202eback", caption='a"<b')
    assert "<script" not in page
    assert 'a"<b' not in page
    assert "back" in page
    long = "é" * 1000
    preview = text.decode(("\ufeffx" + long).encode(), text.preview(None))
    assert preview.tobytes() == ("x" + "é" * 299).encode() + b"\0"
    HTMLParser().feed(page)


def test_what_counts_is_shaded():
    said = "good <é> unaffable"  # of three pieces
    weights = np.array([0.5, 2.0, 0.0, 0.0, 0.0, 0.25, 0.25, 0.0, 0.0])  # [CLS] good < é > una ..
    page = shown(said, saliency=weights)
    marks = re.findall(r'<mark style="background:rgba\(255,150,0,([\d.]+)\)">(.*?)</mark>', page)
    assert marks == [("1.0", "good"), ("0.25", "unaffa")]
    assert html.unescape(re.sub("<[^>]*>", "", page)) == said


def test_what_is_no_text_in_memory_is_refused():
    with pytest.raises(DataError, match="text 1 is nan, a float"):
        text.from_memory(["a", float("nan")])
    with pytest.raises(DataError, match="text 0 is the name of a file"):
        text.from_memory([__file__, "b"])
    assert text.from_memory(["no such file", "x" * 10_000])
    assert text.encode("half \ud83d") == b"half \xed\xa0\xbd"


@pytest.mark.parametrize(
    ("sizes", "own", "expected"),
    [
        ([10] * 99 + [500], 256, 16), ([61] * 20, 256, 64), ([64] * 20, 256, 64),
        ([1000], 256, 256), ([], 256, 256), ([5], 12, 12),
    ],
)  # fmt: skip
def test_the_length_that_suits_texts(sizes, own, expected):
    assert text.suited(sizes, own) == expected


def test_ids_enter_a_network_as_they_are():
    given, taken = text.entrance(32, "")
    assert given is taken
    assert (given.name, given.shape, given.dtype) == ("ids", (None, 32), "int32")


def test_images_with_notes_beside_them_are_images():
    assert modality_of_files(["a.jpg", "a.txt", "b.jpg", "b.txt", "README.md"]) == "image"
    assert modality_of_files(["a.heic", "b.heic", "README.txt"]) == "image"
    assert modality_of_files(["a.txt", "b.txt", "c.txt", "photo.jpg"]) == "text"


def test_tokenizers_is_loaded_once_by_whichever_thread_asks_first():
    tokens._load.cache_clear()
    found, start = [], threading.Barrier(8)

    def ask():
        start.wait()
        found.append(tokens.tokenizer())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(one) for one in found}) == 1


def test_tokenizers_is_imported_when_a_text_is_read_and_not_before():
    code = "import sys, keras_transfer.datasets; assert 'tokenizers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_tokenizers_a_message_says_what_to_install(monkeypatch):
    tokens._load.cache_clear()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"pip install keras-transfer\[text\]"):
        text.examine(b"a word")
