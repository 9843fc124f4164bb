"""One pass over a source: every item read, hashed and decoded in full, once, in threads.

What a pass finds is kept in the user's cache folder, so that the next one costs reading and
hashing only: an index (``KEY.npz``) and, where examples were asked for, one flat file of them
(``KEY.examples``), memory mapped where it is large. Both are put in place whole. An index that is
damaged counts as none; examples that are damaged are decoded again, with a warning; a cache that
cannot be written is done without, with one too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import threading
import warnings
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import NEEDS_PACKAGE, ExampleError
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.base.threads import in_threads
from keras_transfer.datasets.checks import Record, Records, Verdict, judge
from keras_transfer.datasets.sources import Source
from keras_transfer.modalities import InputSpec, modality

IN_MEMORY = 256 * 2**20  # bytes of examples up to which they are read rather than mapped

Found = tuple[Records, Verdict]
Scanned = tuple[Records, Verdict, np.ndarray | None]


def scan(source: Source, spec: InputSpec | None, *, cache: bool) -> Scanned:
    """Reads a whole source and judges it.

    Args:
        source: where the items are.
        spec: what to decode to; None keeps no examples.
        cache: whether to look for an earlier pass, and to keep this one.

    Returns:
        What is known of all items, which of them are kept, and the examples of these: shape
        ``[kept, ...]``, memory mapped and read-only where large; or None.

    Raises:
        DataError: there is no room for the examples.
    """
    if cache and source.identity is not None:
        try:
            return _through_cache(source, spec)
        except OSError as error:
            warnings.warn(f"The cache of examples cannot be used: {error}", stacklevel=4)
    with tempfile.TemporaryFile() as stream, files.naming(tempfile.gettempdir()):
        found, _ = _decode_all(source, spec, stream, Path(tempfile.gettempdir()))
        return *found, _open_examples(stream, spec, len(found[1].kept))


def _through_cache(source: Source, spec: InputSpec | None) -> Scanned:
    about = f"{source.modality} {modality(source.modality).VERSION} {Records.COLUMNS}"
    key = f"{source.identity}\n{spec}\n{about}"
    place = files.cache_folder() / "examples" / files.sha256(os.fsencode(key))[:32]
    index, path = place.with_suffix(".npz"), place.with_suffix(".examples")
    earlier = _load(index, source)
    if earlier is None or not _is_sound(path, spec, *earlier):
        with files.atomic_path(path, flush=False) as temporary, open(temporary, "w+b") as stream:
            earlier, fingerprints = _decode_all(source, spec, stream, path.parent)
        odd = np.frombuffer(json.dumps([*earlier[0].odd.items()]).encode(), np.uint8)
        known = {"records": earlier[0].table, "odd": odd, "kept": earlier[1].kept}
        with files.atomic_path(index) as temporary:
            np.savez(temporary, allow_pickle=False, fingerprints=fingerprints, **known)
    with open(path, "rb") as stream:
        return *earlier, _open_examples(stream, spec, len(earlier[1].kept))


def _decode_all(
    source: Source, spec: InputSpec | None, stream: IO[bytes], folder: Path
) -> tuple[Found, np.ndarray]:
    """Examines every item, and writes the examples of those that are kept."""
    count, size = len(source.items), _row_bytes(spec)
    where = "KERAS_TRANSFER_CACHE (or TMPDIR, without the cache)"
    remedy = f"Set {where} to a larger disk, or take a smaller size."
    files.check_room("the decoded examples", count * size, folder, remedy)
    form = modality(source.modality)
    records = Records.of(count)
    fingerprints = np.zeros((count, *form.FINGERPRINT), np.uint8)
    lock = threading.Lock()

    def examine(i: int) -> None:
        digest, checksum = "", 0
        try:
            data = source.read(source.items[i].path)
            digest = files.sha256(data)
            found = form.examine(data, spec)
        except ExampleError as error:
            records[i] = Record(digest, (error.kind, error.message))
            return
        if found.example is not None:
            row = np.ascontiguousarray(found.example)
            checksum = zlib.crc32(row.data)
            with lock:
                stream.seek(i * size)
                stream.write(row.data)
        fingerprints[i] = found.fingerprint
        about = found.format, found.extent, checksum, found.unknown, found.remarks
        records[i] = Record(digest, None, *about)

    with warnings.catch_warnings(action="ignore"), quiet_stdio():  # of what the findings name
        in_threads(examine, count)
    verdict = judge(source.items, records, fingerprints, form, source.task)
    for place, row in enumerate(verdict.kept.tolist()):
        if place != row:  # what is between was left out
            stream.seek(row * size)
            example = stream.read(size)
            stream.seek(place * size)
            stream.write(example)
    stream.truncate(len(verdict.kept) * size)
    return (records, verdict), fingerprints


def _row_bytes(spec: InputSpec | None) -> int:
    return 0 if spec is None else math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _open_examples(stream: IO[bytes], spec: InputSpec | None, count: int) -> np.ndarray | None:
    """The examples in a file, in memory if they are few."""
    if spec is None:
        return None
    shape = (count, *spec.shape)
    if count * _row_bytes(spec) > IN_MEMORY:
        return np.memmap(stream, spec.dtype, "r", shape=shape)
    examples = np.empty(shape, spec.dtype)
    stream.seek(0)
    stream.readinto(examples.data)  # type: ignore[attr-defined]
    return examples


def _load(index: Path, source: Source) -> Found | None:
    """What an earlier pass found, if every item still has the same bytes and the same are kept."""
    try:
        with np.load(index, allow_pickle=False) as held:
            records = Records(held["records"], dict(json.loads(held["odd"].tobytes())))
            fingerprints, kept = held["fingerprints"], held["kept"]
    except FileNotFoundError:
        return None
    except Exception:  # one that is damaged may raise nearly anything
        warnings.warn(f"{index} is damaged; the examples are decoded again.", stacklevel=6)
        return None
    if any(fault and fault[0] == NEEDS_PACKAGE for fault, _ in records.odd.values()):
        return None  # it may be there now
    digests = np.zeros(len(source.items), "S64")

    def digest(i: int) -> None:
        with contextlib.suppress(ExampleError):
            digests[i] = files.sha256(source.read(source.items[i].path))

    in_threads(digest, len(digests))
    if not np.array_equal(digests, records.table["digest"]):
        return None
    form = modality(source.modality)
    verdict = judge(source.items, records, fingerprints, form, source.task)
    return (records, verdict) if np.array_equal(verdict.kept, kept) else None


def _is_sound(path: Path, spec: InputSpec | None, records: Records, verdict: Verdict) -> bool:
    """Whether there is a file of examples, each with its checksum."""
    size, checksums = _row_bytes(spec), records.table["checksum"][verdict.kept].tolist()
    if not path.is_file() or path.stat().st_size != len(checksums) * size:
        return False
    with open(path, "rb") as stream:
        sound = all(zlib.crc32(stream.read(size)) == one for one in checksums)
    if not sound:
        warnings.warn(f"{path} is damaged; the examples are decoded again.", stacklevel=6)
    return sound
