"""Time and memory of a whole run as the data grows: synthetic JPEG files of 128 px.

python benchmarks/scale.py [--images 5000 20000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import python, record
from PIL import Image


def write_images(folder: Path, count: int, classes: int = 10) -> None:
    """Noise of few colours over a hue that belongs to the class: no two files alike."""
    draw = np.random.default_rng(0)
    for number in range(count):
        kind = number % classes
        coarse = draw.integers(0, 200, (8, 8, 3)).astype(np.float32)
        coarse[..., kind % 3] += 5 * kind
        pixels = np.clip(coarse, 0, 255).astype(np.uint8)
        path = folder / f"class-{kind}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC).save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 20000])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder) / "data", count)
            output = Path(folder) / "run"
            done = python(
                "-m", "keras_transfer", "train", str(Path(folder) / "data"), "--image-size", "128",
                "--effort", "quick", "--output", str(output),
                KERAS_TRANSFER_CACHE=str(Path(folder) / "cache"),
            )  # fmt: skip
            metrics = json.loads((output / "metrics.json").read_text())
        rows.append(
            {
                "images": count,
                "whole process, s": round(done["seconds"], 1),
                "ms an image": round(1000 * done["seconds"] / count, 1),
                "peak memory, GiB": round(done["peak_bytes"] / 2**30, 2),
                "cache, MiB": round(metrics["cache"]["bytes"] / 2**20),
                "stages, s": json.dumps(metrics["seconds"]),
            }
        )
        print(rows[-1], flush=True)
    record("scale", "python benchmarks/scale.py", rows)


if __name__ == "__main__":
    main()
