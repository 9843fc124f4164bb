"""What holds for every modality: ``check_modality`` is given one, and some of its items."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from keras_transfer.base.errors import ExampleError, UsageError
from keras_transfer.modalities import Modality, modality_of_files


def check_modality(
    modality: Modality,
    items: Sequence[bytes],
    *,
    size: Any,
    damaged: Sequence[bytes] = (),
    values: Sequence[Any] | None = None,
) -> None:
    """Asserts the promises of the protocol.

    Args:
        modality: the modality.
        items: at least eight different items, all of them good.
        size: what ``spec`` takes.
        damaged: items that are none; pieces and mutations of the good ones are tried as well.
        values: the items as a caller has them in memory, where that is no array of examples.
    """
    spec = modality.spec(size)
    examples = np.stack([modality.decode(item, spec) for item in items])
    digests = [f"digest {i}" for i in range(len(items))]
    check_names(modality)
    check_decoding(modality, items, size)
    check_views(modality, examples, digests)
    check_copies(modality, items)
    check_memory(modality, examples if values is None else values, examples, spec)
    check_looks(modality, items, spec)
    check_losses(modality, spec)
    random = np.random.default_rng(0)
    mutated = [mutate(item, random) for item in items for _ in range(20)]
    for data in [b"", b"\0", b"nothing of the kind" * 9, *damaged, *mutated]:
        check_damage(modality, data, spec)


def check_names(modality: Modality) -> None:
    """What a folder of files is known by."""
    assert f"{modality.NOUN}s".isidentifier()
    assert modality.SUFFIX in modality.SUFFIXES
    assert all(suffix == suffix.lower() for suffix in modality.SUFFIXES)
    assert modality_of_files([f"a{modality.SUFFIX}", "b"]) == modality.NAME
    assert list(modality.EXTENT_EDGES) == sorted(set(modality.EXTENT_EDGES))


def check_decoding(modality: Modality, items: Sequence[bytes], size: Any) -> None:
    """Deterministic, of the spec's shape and type, and the same by every way."""
    spec = modality.spec(size)
    assert spec == modality.spec(size)
    assert spec.content
    with pytest.raises(UsageError):
        modality.spec(0)
    for item in items:
        example = modality.decode(item, spec)
        assert (example.shape, example.dtype.name) == (spec.shape, spec.dtype)
        found, again = modality.examine(item, spec), modality.examine(item)
        assert np.array_equal(found.example, example)
        assert np.array_equal(modality.decode(item, spec), example)
        assert again.example is None
        assert found.fingerprint.shape == modality.FINGERPRINT
        assert found.fingerprint.dtype == np.uint8
        assert np.array_equal(found.fingerprint, again.fingerprint)
        assert (found.format, found.extent) == (again.format, again.extent)
        assert found.format in modality.SUFFIXES.values()
        assert 0 < modality.peek(item) <= found.extent
        assert modality.decode(item).dtype.name == spec.dtype
        for fit in ("squash", "crop", "pad") if spec.fit else ():
            way = spec.fitted(fit)
            assert np.array_equal(modality.decode(item, way), modality.examine(item, way).example)
            assert modality.decode(item, way).shape == spec.shape
    for fit in [] if spec.fit else ["crop"]:
        with pytest.raises(UsageError, match="nothing to fit"):
            spec.fitted(fit)
    assert spec.fitted(None) == spec
    with pytest.raises(UsageError, match="fit"):
        spec.fitted("stretch")
    assert modality.spec_of(spec.shape, spec.dtype) == spec
    for shape, dtype in (
        ((*spec.shape, 1), spec.dtype), (spec.shape, "complex64"), ((), spec.dtype),
        ((None, *spec.shape[1:]), spec.dtype),
    ):  # fmt: skip
        assert modality.spec_of(shape, dtype) is None


def check_losses(modality: Modality, spec: Any) -> None:
    """What is not seen is said of the set as a whole, and of nothing where nothing is lost."""
    for extents, unknown in (([], 0), ([3, 9], 0), ([3, 100_000], 1)):
        for given in (spec, None):
            found = modality.losses(extents, unknown, given, extents[:1])
            assert all(one.path == "" and one.kind.isidentifier() for one in found)
            assert len(found) <= (unknown + (sum(extents) > 100))


def check_looks(modality: Modality, items: Sequence[bytes], spec: Any) -> None:
    """Each looks another way, and where a model looked another again; nothing is markup."""
    random, places = np.random.default_rng(0), spec.shape[:2]
    shown = []
    for item in items:
        assert modality.decode(item, modality.preview(None)).any()
        example = modality.decode(item, modality.preview(spec))
        for saliency in (None, np.ones(places), random.random(places, np.float32)):
            shown.append(modality.show(example, 'a<b"c', saliency))
    assert len(set(shown)) == len(shown)
    for html in shown:
        assert "a<b" not in html
        assert 'b"c' not in html
        HTMLParser().feed(html)


def check_views(modality: Modality, examples: np.ndarray, digests: list[str]) -> None:
    """Number 0 is clean; the others depend on digest, number and seed alone."""
    before = examples.copy()
    assert np.array_equal(modality.view(examples, digests, 0, seed=3), examples)
    drawn = modality.view(examples, digests, 1)
    assert (drawn.shape, drawn.dtype) == (examples.shape, examples.dtype)
    assert not np.array_equal(drawn, examples)
    order = np.random.default_rng(0).permutation(len(examples))
    assert np.array_equal(
        modality.view(examples[order], [digests[i] for i in order], 1), drawn[order]
    )
    for i, digest in enumerate(digests):
        assert np.array_equal(modality.view(examples[i : i + 1], [digest], 1)[0], drawn[i])
    for other in (
        modality.view(examples, digests, 2),
        modality.view(examples, digests, 1, seed=1),
        modality.view(examples, [f"{digest}!" for digest in digests], 1),
    ):
        assert not np.array_equal(other, drawn)
    labels = np.arange(len(examples)) % 2
    every = np.arange(len(examples))
    safe, reason = modality.mirroring_is_safe(examples, labels, every, every)
    assert isinstance(safe, bool)
    assert not safe or reason
    assert np.array_equal(examples, before)


def check_copies(modality: Modality, items: Sequence[bytes]) -> None:
    """The same item twice is a pair, once; other items are none; nothing has none."""
    fingerprints = np.stack([modality.examine(item).fingerprint for item in items])
    assert modality.near_copies(fingerprints).tolist() == []
    twice = np.concatenate([fingerprints, fingerprints[:1]])
    assert modality.near_copies(twice).tolist() == [[0, len(items)]]
    assert modality.near_copies(fingerprints[:0]).shape == (0, 2)


def check_memory(modality: Modality, values: Any, examples: np.ndarray, spec: Any) -> None:
    """What a caller has in memory comes through its bytes unharmed."""
    for value, example in zip(modality.from_memory(values), examples, strict=True):
        encoded = modality.encode(value)
        assert encoded == modality.encode(value)
        assert np.array_equal(modality.decode(encoded, spec), example)


def check_damage(modality: Modality, data: bytes, spec: Any) -> None:
    """Whatever the bytes are: an example, or an error that says why, of one word of a kind."""
    with warnings.catch_warnings(action="ignore"):
        for attempt in (modality.peek, modality.examine, lambda data: modality.decode(data, spec)):
            with contextlib.suppress(ExampleError):
                attempt(data)
                continue
            with pytest.raises(ExampleError) as caught:
                attempt(data)
            assert caught.value.kind.isidentifier()
            assert caught.value.message


def mutate(item: bytes, random: np.random.Generator) -> bytes:
    """An item with some bytes changed, and perhaps its end cut off."""
    data = bytearray(item)
    for _ in range(int(random.integers(1, 12))):
        data[random.integers(len(data) if random.random() < 0.5 else min(64, len(data)))] = (
            random.integers(256)
        )
    return bytes(data[: random.integers(len(data))] if random.random() < 0.2 else data)
