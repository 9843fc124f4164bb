"""Pretraining on one's own images, then transfer: what it gains over random weights.

    python benchmarks/pretrain.py [--seeds 0 1 2] [--backbone MobileNet] [--image-size 32]

The target is emoji-noto, the source emoji-twemoji: the same nine classes drawn by another vendor.
Symbols in the target's validation and test splits are left out of the source, so that no symbol
that is asked for has been seen in another drawing. Both runs on the target train every block for
the same number of epochs on the same images, each by its default recipe (random weights: rate 1e-3
and BatchNorm in training mode). The time of pretraining is not counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import SHARED, python, record

SOURCE, TARGET = SHARED / "emoji-twemoji", SHARED / "emoji-noto"


def train(data: str, output: Path, *options: str) -> dict[str, Any]:
    """The metrics of a run in a process of its own."""
    python("-m", "keras_transfer", "train", data, "--output", str(output), *options,
           KERAS_TRANSFER_CACHE=str(output.parent / "cache"))  # fmt: skip
    metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return metrics


def write_source(splits: Path, manifest: Path) -> int:
    """Lists the source's images of symbols that the target neither validates nor tests on."""
    with open(splits, newline="") as stream:
        held = {Path(row["path"]).name for row in csv.DictReader(stream) if row["split"] != "train"}
    images = [path for path in sorted(SOURCE.glob("*/*.png")) if path.name not in held]
    with open(manifest, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        writer.writerows([str(path), path.parent.name] for path in images)
    return len(images)


def one_seed(seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    common = ["--backbone", options.backbone, "--image-size", options.image_size, "--seed",
              str(seed), "--unfreeze", "all"]  # fmt: skip
    epochs = ["--fine-tune-epochs", str(options.epochs)]
    random = train(str(TARGET), folder / "random", "--weights", "none", *common, *epochs)
    splits, manifest = folder / "random" / "splits.csv", folder / "source.csv"
    images = write_source(splits, manifest)
    source = train(str(manifest), folder / "source", "--weights", "none", *common,
                   "--fine-tune-epochs", str(options.source_epochs))  # fmt: skip
    transferred = train(str(TARGET), folder / "transferred", "--weights", str(folder / "source"),
                        "--splits", str(splits), *common, *epochs)  # fmt: skip
    row: dict[str, Any] = {"seed": seed, "source images": images}
    row["source, its own test"] = round(source["test"]["accuracy"], 4)
    for name, metrics in (("random", random), ("pretrained", transferred)):
        row[f"{name}, test"] = round(metrics["test"]["accuracy"], 4)
        row[f"{name}, NLL"] = round(metrics["test"]["nll"], 3)
        row[f"{name}, kept"] = metrics["kept"]
        row[f"{name}, s"] = round(metrics["seconds"]["total"])
    row["gain, points"] = round(100 * (row["pretrained, test"] - row["random, test"]), 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="MobileNet")
    parser.add_argument("--image-size", default="32")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--source-epochs", type=int, default=8)
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_seed(seed, options, Path(folder)))
        print(json.dumps(rows[-1]), flush=True)
    gains = [row["gain, points"] for row in rows]
    text = (
        f"{options.backbone} at {options.image_size} px: {options.source_epochs} epochs on "
        f"emoji-twemoji from random weights, then {options.epochs} on emoji-noto, against "
        f"{options.epochs} on emoji-noto from random weights. Gain {statistics.mean(gains):.1f} "
        f"points on average, {min(gains):.1f} to {max(gains):.1f}."
    )
    record("pretrain", "python benchmarks/pretrain.py", rows, text)


if __name__ == "__main__":
    main()
