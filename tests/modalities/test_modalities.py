from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import sklearn
import zoo
from promises import check_modality

from keras_transfer.base.errors import UsageError
from keras_transfer.modalities import MODALITIES, image, modality, text


def test_images_keep_the_promises_of_a_modality():
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
    items = [zoo.encode(zoo.photo(seed=i, side=64), kind) for i, kind in enumerate(kinds)]
    damaged = [data for data, outcome in zoo.bad_files().values() if "image" not in outcome]
    check_modality(image, items, size=(32, 48), damaged=damaged)


def fixed_images() -> list[bytes]:
    """Images whose bytes no encoder decides: a photograph, alpha on its side, and deep grey."""
    row, column, channel = np.indices((700, 520, 4))
    levels = (row * 7 + column * 13 * (channel + 1)) // 5 % 256
    raw = b"".join(b"\0" + line.tobytes() for line in levels.astype(np.uint8))
    turned = zoo.chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    deep = b"".join(b"\0" + line.tobytes() for line in (levels[..., 0] * 257).astype(">u2"))
    return [
        (Path(sklearn.__file__).parent / "datasets/images/china.jpg").read_bytes(),
        zoo.png(520, 700, 8, 6, raw, turned),
        zoo.png(520, 700, 16, 0, deep),
    ]


def fixed_texts() -> list[bytes]:
    return ["Ünïcödé CAFÉ, don't 3.14".encode(), "你好 😀 a😀b".encode("utf-16")]


@pytest.mark.parametrize(
    ("form", "size", "items", "version", "digest", "copies", "views"),
    [
        (image, (48, 64), fixed_images, 5, "c4a28d35868aa16a", 1, [136.690, 158.492]),
        # A view of a text changes a token or two: of a few texts a tenth more would not show.
        (text, 24, fixed_texts, 1, "78e6c8a8139031aa", 100, [436.229, 432.810]),
    ],
    ids=["image", "text"],
)
def test_the_same_bytes_give_another_example_by_another_version_only(
    form, size, items, version, digest, copies, views
):
    """Where examples or views are others, raise VERSION: by it alone is known what is stored."""
    if form is text:
        pytest.importorskip("tokenizers")
    found = [form.examine(item, form.spec(size)) for item in items()]
    examples = np.stack([one.example for one in found])
    made = hashlib.sha256(examples.tobytes() + b"".join(one.fingerprint for one in found))
    names = [letter * (copy + 1) for letter in "abc"[: len(found)] for copy in range(copies)]
    rows = np.repeat(examples, copies, axis=0)
    drawn = [form.view(rows, names, number) for number in (1, 2)]
    # Views of images are drawn in float32, whose last digits are a processor's own.
    means = [np.average(view.ravel(), weights=np.arange(view.size)) for view in drawn]
    assert (form.VERSION, made.hexdigest()[:16]) == (version, digest)
    assert means == pytest.approx(views, abs=0.01)


def test_a_modality_is_found_by_its_name():
    assert all(name == modality(name).NAME for name in MODALITIES)
    with pytest.raises(UsageError, match="Did you mean image"):
        modality("images")
