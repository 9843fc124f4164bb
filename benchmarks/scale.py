"""Time and memory of a whole run as the data grows: synthetic JPEG files, sounds, or texts.

python benchmarks/scale.py [--images 5000 20000 [--size 128] | --clips 3600 36000 | --texts 100000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
from common import python, record
from PIL import Image

from keras_transfer.modalities.text.tokens import VOCABULARY


def write_images(folder: Path, count: int, size: int, classes: int = 10) -> None:
    """Noise of few colours over a hue that belongs to the class: no two files alike."""
    draw = np.random.default_rng(0)
    for number in range(count):
        kind = number % classes
        coarse = draw.integers(0, 200, (8, 8, 3)).astype(np.float32)
        coarse[..., kind % 3] += 5 * kind
        pixels = np.clip(coarse, 0, 255).astype(np.uint8)
        path = folder / f"class-{kind}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(
            path, quality=85
        )


def write_clips(folder: Path, count: int, classes: int = 10) -> None:
    """A second each at 16 kHz: a tone of the class under noise; no two files alike."""
    draw = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    for number in range(count):
        kind = number % classes
        tone = np.sin(2 * np.pi * (200 * 1.3**kind + draw.normal(0, 20)) * time)
        samples = 3000 * tone * np.hanning(len(time)) + draw.normal(0, 1500, len(time))
        path = folder / f"class-{kind}" / f"{number:06d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as stream:
            stream.setparams((1, 2, 16_000, len(time), "NONE", ""))
            stream.writeframes(samples.astype("<i2").tobytes())


def write_texts(file: Path, count: int, classes: int = 10) -> None:
    """Twelve words of the vocabulary each, of which three are more frequent in the class."""
    draw = np.random.default_rng(0)
    words = [word for word in VOCABULARY.read_text().split() if word.isalpha() and len(word) > 3]
    with open(file, "w") as stream:
        for number in range(count):
            kind = number % classes
            own = draw.integers(0, 300, 3) + 300 * kind
            chosen = draw.permutation([*own, *draw.integers(0, len(words), 9)])
            row = {"text": " ".join(words[i] for i in chosen), "label": f"class-{kind}"}
            stream.write(json.dumps(row) + "\n")


def whole_run(data: Path, count: int, *settings: str) -> dict[str, Any]:
    """What training on some data takes with an empty cache."""
    output = data.parent / "run"
    done = python(
        "-m", "keras_transfer", "train", str(data), *settings, "--effort", "quick",
        "--output", str(output), KERAS_TRANSFER_CACHE=str(data.parent / "cache"),
    )  # fmt: skip
    metrics = json.loads((output / "metrics.json").read_text())
    return {
        "examples": count,
        "whole process, s": round(done["seconds"], 1),
        "ms an example": round(1000 * done["seconds"] / count, 1),
        "peak memory, GiB": round(done["peak_bytes"] / 2**30, 2),
        "cache, MiB": round(metrics["cache"]["bytes"] / 2**20),
        "stages, s": json.dumps(metrics["seconds"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--size", type=int, default=128, help="of an image, in pixels")
    parser.add_argument("--clips", type=int, nargs="+")
    parser.add_argument("--texts", type=int, nargs="+")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for count in options.clips or options.texts or options.images:
        with tempfile.TemporaryDirectory() as name:
            data = Path(name) / "data"
            if options.clips:
                write_clips(data, count)
                rows.append(whole_run(data, count))
            elif options.texts:
                data = data.with_suffix(".jsonl")
                write_texts(data, count)
                rows.append(whole_run(data, count))
            else:
                write_images(data, count, options.size)
                rows.append(whole_run(data, count, "--image-size", str(options.size)))
        print(rows[-1], flush=True)
    counts = " ".join(map(str, options.clips or options.texts or options.images))
    if options.clips:
        record("scale_audio", f"python benchmarks/scale.py --clips {counts}", rows)
    elif options.texts:
        record("scale_text", f"python benchmarks/scale.py --texts {counts}", rows)
    else:
        name = "scale" if options.size == 128 else f"scale_{options.size}px"
        asked = f"--images {counts} --size {options.size}"
        record(name, f"python benchmarks/scale.py {asked}", rows)


if __name__ == "__main__":
    main()
