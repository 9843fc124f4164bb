"""What evaluation and the page cost: their share of a default run, and the page of a large set.

    python benchmarks/evaluation.py

The first row is a default run on emoji-noto at 128 px. The second is a run of the head alone on
2,000 test images of 50 classes: neighbours in the alphabet of both vendors' emoji, since what an
image shows makes no difference to the time.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import SHARED, record


def many_classes(folder: Path) -> None:
    """3,765 images in 50 class folders, as links."""
    images = sorted(SHARED.glob("emoji-*/*/*.png"), key=lambda path: (path.name, path))
    for i, path in enumerate(images):
        place = folder / f"class {i * 50 // len(images):02d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:04d}.png").symlink_to(path)


def measure(what: str, data: Path, output: Path, **settings: Any) -> dict[str, Any]:
    """One run, and its page once more by the clock."""
    import keras_transfer as kt
    from keras_transfer.runs import folder as runs
    from keras_transfer.runs import report

    begun = time.perf_counter()
    result = kt.train(str(data), output=output, image_size=128, **settings)
    whole = time.perf_counter() - begun
    run = runs.open_run(output)
    begun = time.perf_counter()
    page = report.write_report(result)
    seconds = time.perf_counter() - begun
    spent = json.loads((output / "metrics.json").read_text())["seconds"]
    return {
        "run": what,
        "test images": len(run.predictions),
        "classes": len(run.class_names),
        "whole run, s": round(whole, 1),
        "evaluation, s": round(spent["evaluate"], 2),
        "evaluation, share": round(spent["evaluate"] / whole, 3),
        "page, s": round(seconds, 2),
        "page, MB": round(page.stat().st_size / 1e6, 2),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many_classes(folder / "many")
        settings = {"cache": folder / "cache"}
        rows = [
            measure("default, emoji-noto", SHARED / "emoji-noto", folder / "default", **settings),
            measure(
                "head alone, 50 classes", folder / "many", folder / "large",
                unfreeze="none", split=(0.35, 0.11, 0.54), **settings,
            ),
        ]  # fmt: skip
    record("evaluation", "python benchmarks/evaluation.py", rows)


if __name__ == "__main__":
    main()
