"""Time and memory of a whole run as the data grows: synthetic JPEG files, sounds, or texts.

python benchmarks/scale.py --images 5000 20000 [--size 128]
python benchmarks/scale.py --clips 3600 36000
python benchmarks/scale.py --texts 100000
python benchmarks/scale.py --data photos.zip --size 96
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


def whole_run(data: Path, folder: Path, *settings: str) -> dict[str, Any]:
    """What training on some data takes with an empty cache, which goes to a folder."""
    output = folder / "run"
    done = python(
        "-m", "keras_transfer", "train", str(data), *settings, "--effort", "quick",
        "--output", str(output), KERAS_TRANSFER_CACHE=str(folder / "cache"),
    )  # fmt: skip
    metrics = json.loads((output / "metrics.json").read_text())
    count = len((output / "splits.csv").read_text().splitlines()) - 1
    return {
        "examples": count,
        "whole process, s": round(done["seconds"], 1),
        "ms an example": round(1000 * done["seconds"] / count, 1),
        "peak memory, GiB": round(done["peak_bytes"] / 2**30, 2),
        "cache, MiB": round(metrics["cache"]["bytes"] / 2**20),
        "test accuracy": round(metrics["test"]["accuracy"], 4),
        "stages, s": json.dumps(metrics["seconds"]),
    }


def measured(kind: str, count: int, size: int) -> dict[str, Any]:
    """A row of synthetic data of some kind."""
    settings = ["--image-size", str(size)] if kind == "images" else []
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / ("data.jsonl" if kind == "texts" else "data")
        if kind == "images":
            write_images(data, count, size)
        else:
            {"clips": write_clips, "texts": write_texts}[kind](data, count)
        return whole_run(data, Path(name), *settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--images", type=int, nargs="+")
    kinds.add_argument("--clips", type=int, nargs="+")
    kinds.add_argument("--texts", type=int, nargs="+")
    kinds.add_argument("--data", type=Path, help="images of one's own: a folder or an archive")
    parser.add_argument("--size", type=int, default=128, help="of an image, in pixels")
    options = parser.parse_args()
    if options.data:
        with tempfile.TemporaryDirectory() as name:
            size = str(options.size)
            rows = [whole_run(options.data.resolve(), Path(name), "--image-size", size)]
        asked, name = f"--data {options.data.name} --size {size}", "scale_real"
    else:
        kind = next(one for one in ("images", "clips", "texts") if getattr(options, one))
        counts, rows = getattr(options, kind), []
        for count in counts:
            rows.append(measured(kind, count, options.size))
            print(rows[-1], flush=True)
        asked = f"--{kind} {' '.join(map(str, counts))}"
        name = {"clips": "scale_audio", "texts": "scale_text"}.get(kind, "scale")
        if kind == "images" and options.size != parser.get_default("size"):
            asked, name = f"{asked} --size {options.size}", f"scale_{options.size}px"
    record(name, f"python benchmarks/scale.py {asked}", rows)


if __name__ == "__main__":
    main()
