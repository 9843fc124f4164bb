"""Reading data: images a second, and memory, against the obvious alternatives.

    python benchmarks/data.py [--quick] [--only folder,large] [--pictures DIR]

Measured, each in a process of its own and repeated in turn. Reported are all images over all
seconds, since the median of what has two speeds is one of them by chance:

- ``folder``: 500 px JPEGs to batches of 224 px, with digests, full decode check, duplicate search,
  splits and the cache, against ``keras.utils.image_dataset_from_directory``, cold and again.
- ``large``: 3,000 px JPEGs to 224 px, against libjpeg-turbo alone (through Pillow, in as many
  threads) decoding the same bytes from memory at the smallest DCT scale that suffices.
- ``tiny``: the inspection of 100,000 tiny PNGs: files a second and peak memory.
- ``views``: one augmented view at 128 px, on one core.

Pictures are crops of scikit-learn's two sample photos.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import record, table

BATCH = 32

TEXT = """`images/s` are all images over all seconds of ten runs in turn (three of the third row),
in processes of their own, each with an empty cache; in brackets the slowest and the fastest run.
The other of the first two rows is `keras.utils.image_dataset_from_directory`, which decodes in each
epoch and checks nothing, and has two speeds, whichever its scheduler falls into; ours hashes,
decodes in full, looks for copies, splits and writes the cache in the first. The other of the third
is libjpeg-turbo through Pillow in as many threads, from bytes in memory, at the smallest DCT scale
that leaves 224 px, without reading files, resizing or checking. Peaks are of resident memory,
mapped files included."""


def photos() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_image

    return [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]


def make_jpegs(root: Path, count: int, side: int) -> None:
    """Crops of the photos, enlarged where need be, with fine noise so that no two are alike."""
    from PIL import Image

    sources = photos()
    for label in range(4):
        (root / f"class{label}").mkdir(parents=True)

    def make(i: int) -> None:
        random = np.random.default_rng(i)
        top, left = random.integers(0, 87), random.integers(0, 240)
        crop = Image.fromarray(sources[i % 2][top : top + 340, left : left + 400])
        image = np.asarray(crop.resize((side, side * 3 // 4), Image.Resampling.BICUBIC))
        grain = random.normal(0, 4, (side * 3 // 4, side, 1))
        pixels = np.clip(image + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"class{i % 4}" / f"{i:06d}.jpg", quality=90)

    _in_threads(make, count)


def make_tiny(root: Path, count: int) -> None:
    from PIL import Image

    for label in range(10):
        (root / f"class{label}").mkdir(parents=True)

    def make(i: int) -> None:
        coarse = Image.fromarray(np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((16, 16)).save(root / f"class{i % 10}" / f"{i:06d}.png")

    _in_threads(make, count)


def _in_threads(make: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(make, range(count)))


def make_once(make: Callable[..., None], root: Path, *arguments: int) -> None:
    if not root.exists():
        make(root, *arguments)


def ours(root: Path) -> dict[str, float]:
    """Open the set, then go through it in shuffled batches, twice."""
    from keras_transfer.datasets import load_dataset

    start = time.perf_counter()
    data = load_dataset(root, image_size=224)
    opened = time.perf_counter() - start
    order = np.random.default_rng(0).permutation(len(data))
    epochs = []
    for _ in range(2):
        start = time.perf_counter()
        for first in range(0, len(data), BATCH):
            np.asarray(data.examples[order[first : first + BATCH]])
        epochs.append(time.perf_counter() - start)
    return {"images": len(data), "first": opened + epochs[0], "second": epochs[1]}


def keras_utils(root: Path) -> dict[str, float]:
    import keras

    start = time.perf_counter()
    data = keras.utils.image_dataset_from_directory(
        root, image_size=(224, 224), batch_size=BATCH, verbose=False
    )
    epochs, images = [], 0
    for _ in range(2):
        images = sum(len(batch) for batch, _ in data.as_numpy_iterator())
        epochs.append(time.perf_counter() - start)
        start = time.perf_counter()
    return {"images": images, "first": epochs[0], "second": epochs[1]}


def ours_large(root: Path) -> dict[str, float]:
    from keras_transfer.datasets import load_dataset

    start = time.perf_counter()
    data = load_dataset(root, image_size=224, cache=False)
    return {"images": len(data), "first": time.perf_counter() - start}


def turbo(root: Path) -> dict[str, float]:
    """libjpeg-turbo and nothing else: bytes in memory, the smallest scale of at least 224 px."""
    from PIL import Image

    encoded = [path.read_bytes() for path in sorted(root.rglob("*.jpg"))]

    def decode(data: bytes) -> None:
        image = Image.open(io.BytesIO(data))
        image.draft(None, (224, 224))
        image.load()

    decode(encoded[0])
    start = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(decode, encoded))
    return {"images": len(encoded), "first": time.perf_counter() - start}


def inspect_tiny(root: Path) -> dict[str, float]:
    from keras_transfer.datasets import inspect

    start = time.perf_counter()
    found = inspect(root)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    found.to_json()
    inspect(root)
    again = time.perf_counter() - start
    return {"images": len(found.dataset), "first": seconds, "second": again}


def views(_: Path) -> dict[str, float]:
    from PIL import Image

    from keras_transfer.modalities import image

    pixels = np.stack([np.asarray(Image.fromarray(one).resize((128, 128))) for one in photos()] * 8)
    names = [str(i) for i in range(16)]
    best = min(_timed(image.view, pixels, names, v) for v in range(1, 40))
    return {"images": 16, "first": best}


def _timed(function, *arguments, **options) -> float:
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


WAYS = {
    "ours": ours,
    "keras": keras_utils,
    "ours_large": ours_large,
    "turbo": turbo,
    "tiny": inspect_tiny,
    "views": views,
}


def run(way: str, root: Path) -> dict[str, float]:
    """One measurement in a fresh process with a fresh cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "KERAS_TRANSFER_CACHE": cache,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        command = [sys.executable, __file__, "--way", way, "--root", str(root)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _peak_mib() -> float:
    """Peak memory of this process alone: getrusage would count the parent's before the exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def compare(ways: tuple[str, ...], root: Path, repeats: int) -> dict[str, Any]:
    """Runs ways in turn, so that a busy machine is as unkind to one as to the other."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            runs[way].append(run(way, root))
    result: dict[str, Any] = {}
    for way, found in runs.items():
        result[way] = {"images": found[0]["images"], "peak_mib": max(r["peak_mib"] for r in found)}
        for phase in ("first", "second"):
            if phase in found[0]:
                seconds = [one[phase] for one in found]
                images = found[0]["images"]
                result[way][f"{phase}_per_second"] = images / statistics.mean(seconds)
                result[way][f"{phase}_range"] = images / max(seconds), images / min(seconds)
    return result


def measure(root: Path, only: set[str], share: int) -> list[dict[str, Any]]:
    """Makes the pictures that are not there yet, and measures. Returns one row a comparison."""
    repeats, many = (1, 1) if share > 1 else (3, 10)
    rows: list[dict[str, Any]] = []
    if "folder" in only:
        make_once(make_jpegs, root / "medium", 2000 // share, 500)
        found = compare(("ours", "keras"), root / "medium", many)
        for phase in ("first", "second"):
            what = f"500 px JPEG to batches of 224 px, {phase} epoch"
            rows.append(_row(what, phase, found["ours"], found["keras"]))
    if "large" in only:
        make_once(make_jpegs, root / "large", 600 // share, 3000)
        found = compare(("ours_large", "turbo"), root / "large", repeats)
        what = "3,000 px JPEG to 224 px, against the decoder alone"
        rows.append(_row(what, "first", found["ours_large"], found["turbo"]))
    if "tiny" in only:
        make_once(make_tiny, root / "tiny", 100_000 // share)
        found = compare(("tiny",), root / "tiny", 1)["tiny"]
        for phase, what in (("first", "inspected"), ("second", "inspected again")):
            rows.append(_row(f"{found['images']:,} tiny PNG {what}", phase, found))
    if "views" in only:
        found = compare(("views",), root / "views", 1)["views"]
        rows.append(_row("an augmented view of 128 px", "first", found))
    return rows


def _row(
    what: str, phase: str, mine: dict[str, Any], other: dict[str, Any] | None = None
) -> dict[str, Any]:
    rate = f"{phase}_per_second"
    return {
        "what": what,
        "images/s": _rate(mine, phase),
        "the other's": _rate(other, phase) if other else "",
        "ratio": round(mine[rate] / other[rate], 2) if other else "",
        "peak MiB": round(mine["peak_mib"]),
    }


def _rate(found: dict[str, Any], phase: str) -> str:
    slowest, fastest = (f"{rate:.0f}" for rate in found[f"{phase}_range"])
    mean = f"{found[f'{phase}_per_second']:.0f}"
    return mean if slowest == fastest else f"{mean} ({slowest} to {fastest})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, one repeat")
    parser.add_argument("--only", default="folder,large,tiny,views", help="what to measure")
    parser.add_argument("--pictures", type=Path, help="make the pictures here once, and keep them")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        found = WAYS[options.way](options.root)
        print(json.dumps(found | {"peak_mib": _peak_mib()}))
        return
    with tempfile.TemporaryDirectory() as place:
        root = options.pictures or Path(place)
        share = 10 if options.quick else 1
        rows = measure(root, set(options.only.split(",")), share)
    if options.quick or options.only != parser.get_default("only"):
        print(table(rows))
    else:
        record("data", "python benchmarks/data.py", rows, TEXT)


if __name__ == "__main__":
    main()
