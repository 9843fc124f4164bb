"""Pictures that are no squares: squashed, cropped or padded.

    python benchmarks/fit.py [--seeds 0 1 2]

The tuning sets hold squares alone, so each picture is cut to five eighths of its height or of its
width (by its name), and what is left is fitted to a square in the three ways. Heads alone, one
split a seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import zlib
from typing import Any

import numpy as np
from common import SHARED, record

import keras_transfer as kt
from keras_transfer import datasets
from keras_transfer.datasets.sources import Source
from keras_transfer.modalities import image

SETS = {"photos-cifar-a": 96, "emoji-noto": 128}
FITS = ("squash", "crop", "pad")


def oblong(name: str) -> Source:
    """A set, each of its pictures cut to five eighths: wide ones and tall ones."""
    source = datasets.open_source(str(SHARED / name))

    def read(path: str) -> bytes:
        pixels = image.decode(source.read(path))
        kept = round(5 / 8 * len(pixels))
        begin = (len(pixels) - kept) // 2
        cut = slice(begin, begin + kept)
        tall = zlib.crc32(path.encode()) % 2
        return image.encode(np.ascontiguousarray(pixels[:, cut] if tall else pixels[cut]))

    return Source(f"oblong {name}", source.items, read)


def measured(name: str, seeds: list[int], cache: str) -> list[dict[str, Any]]:
    """A row for each way to fit: means over seeds, and how it stands beside squashing."""
    source, found = oblong(name), dict[str, list[Any]]()
    for fit in FITS:
        for seed in seeds:
            result = kt.train(
                source, fit=fit, seed=seed, image_size=SETS[name], unfreeze="none", views=1,
                cache=cache,
            )  # fmt: skip
            found.setdefault(fit, []).append(result.evaluation)
            print(name, fit, seed, result.evaluation.accuracy, flush=True)
    rows = []
    for fit, judged in found.items():
        beside = [a.accuracy - b.accuracy for a, b in zip(judged, found["squash"], strict=True)]
        rows.append({
            "set": name, "fit": fit,
            "accuracy": f"{statistics.mean(one.accuracy for one in judged):.3f}",
            "NLL": f"{statistics.mean(one.nll for one in judged):.3f}",
            "points beside squash": " ".join(f"{100 * one:+.1f}" for one in beside),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        rows = [row for name in SETS for row in measured(name, options.seeds, cache)]
    text = (
        "Test accuracy and NLL of solved heads on EfficientNet-Lite0, means over seeds; in points "
        "of accuracy, seed by seed, what each way differs from squashing. The sets hold squares "
        "alone: each picture was cut to five eighths of its height or width before, so that nobody "
        "framed what is left, and cropping may lose more here than of photographs whose thing is "
        "in the middle."
    )
    record("fit", "python benchmarks/fit.py", rows, text)


if __name__ == "__main__":
    main()
