"""Images with bytes changed: each is an example or refused by an error of ours.

    python mutants.py COUNT SEED

Prints, a line of JSON for each kind of file, how many were tried, decoded and refused, and what
else came of them.
"""

from __future__ import annotations

import collections
import json
import sys
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "modalities")]

import zoo  # noqa: E402
from promises import mutate  # noqa: E402

from keras_transfer.base.errors import ExampleError  # noqa: E402
from keras_transfer.modalities import image  # noqa: E402
from keras_transfer.modalities.image.decoding import FITS, reads_heic  # noqa: E402

SIDE = 64


def originals() -> list[tuple[str, bytes]]:
    """Kinds and bytes of images of every format that is read."""
    found = [(Path(name).suffix.lower() or ".jpg", data) for name, data in zoo.odd_images().items()]
    if reads_heic():
        found.append((".heic", zoo.encode(zoo.photo(), "HEIF")))
    return found


def outcome(data: bytes, fit: str) -> str:
    """``decoded``, ``refused``, or what went wrong."""
    try:
        pixels = image.decode(data, image.spec(SIDE).fitted(fit))
    except ExampleError as error:
        return "refused" if error.message else "an error without a message"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    fits = pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8
    return "decoded" if fits else f"{pixels.dtype} {pixels.shape}"


def main(count: int, seed: int) -> None:
    """Tries so many, drawn by a seed."""
    random, items, fits = np.random.default_rng(seed), originals(), list(FITS)
    ends: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with warnings.catch_warnings(action="ignore"):
        for number in range(count):
            kind, data = items[number % len(items)]
            ends[kind][outcome(mutate(data, random), fits[number % len(fits)])] += 1
    for kind, found in sorted(ends.items()):
        known = {name: found.pop(name, 0) for name in ("decoded", "refused")}
        print(json.dumps({"file": kind, "tried": sum(known.values()) + sum(found.values()),
                          **known, "wrong": found}))  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
