"""Our efforts against the Keras guide's recipe and against logistic regression (P).

    python benchmarks/two_phase.py --accuracy [--seeds 0 1 2]
    python benchmarks/two_phase.py --times [--seeds 0]

Whole processes, one after the other, on the same splits; each of ours begins with an empty cache
(`cold`) and is run again with a full one (`warm`). G is the better of the guide's two stages on
test, seed by seed. ``--accuracy`` runs everything to its end and may share the machine.
``--times`` wants the machine for itself; of the guide it times three head epochs and two of
fine-tuning, and adds up 20 and 10 of them, since its later epochs are alike. Rows are kept in a
file, so that a stopped benchmark goes on; the table joins both kinds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, SHARED, python, record

EFFORTS = ("quick", "default", "high")


def whole(stage: list[float], epochs: int) -> float:
    """Seconds of so many epochs; the first, which traces, as measured, and the mean of the rest."""
    return stage[0] + (epochs - 1) * statistics.mean(stage[1:])


def one_seed(
    data: str, size: str, seed: int, folder: Path, efforts: list[str], timed: bool
) -> dict[str, Any]:
    """All methods on the split of one seed."""
    found: dict[str, Any] = {}
    splits = ""
    for effort in efforts:
        cache = str(folder / f"cache-{effort}")
        # Converted weights belong to the installation: a run of another set has left them there.
        python("-c", f"import os; os.environ['KERAS_TRANSFER_CACHE'] = {cache!r}\n"
               "from keras_transfer import backbones\n"
               "backbones.build('EfficientNetLite0', weights='offline')")  # fmt: skip
        # A full cache changes the time alone.
        for state in ("cold", "warm")[: 1 + timed]:
            output = folder / f"{effort}-{state}"
            split = ["--splits", splits] if splits else []
            done = python(
                "-m", "keras_transfer", "train", data, "--image-size", size, "--effort", effort,
                "--seed", str(seed), "--output", str(output), *split,
                KERAS_TRANSFER_CACHE=cache,
            )  # fmt: skip
            splits = splits or str(output / "splits.csv")
            metrics = json.loads((output / "metrics.json").read_text())
            found[f"{effort} {state}"] = {
                "seconds": done["seconds"],
                "accuracy": metrics["test"]["accuracy"],
                "kept": metrics["kept"],
                "stages": metrics["seconds"],
            }
    report = folder / "report.json"
    python(str(HERE / "probe.py"), data, splits, size, str(report))
    found["P"] = json.loads(report.read_text())["test"]
    short = ["3", "2"] if timed else []
    done = python(str(HERE / "guide.py"), data, splits, size, str(report), str(seed), *short)
    guide = json.loads(report.read_text())
    head, tuned = guide["seconds"]["head"], guide["seconds"]["fine-tuned"]
    rest = done["seconds"] - sum(head) - sum(tuned)
    found["guide"] = {"seconds": rest + whole(head, 20) + whole(tuned, 10), **guide["test"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", default=str(SHARED / "emoji-noto"))
    parser.add_argument("--image-size", default="128")
    parser.add_argument("--efforts", nargs="+", default=list(EFFORTS))
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--accuracy", dest="timed", action="store_false")
    kind.add_argument("--times", dest="timed", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "two_phase.jsonl")
    options = parser.parse_args()
    runs = []
    if options.out.exists():
        runs = [json.loads(line) for line in options.out.read_text().splitlines()]
    for seed in options.seeds:
        if any((run["seed"], run["timed"]) == (seed, options.timed) for run in runs):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = one_seed(
                options.data, options.image_size, seed, Path(folder), options.efforts, options.timed
            )
        runs.append({"seed": seed, "timed": options.timed, **found})
        with open(options.out, "a") as stream:
            stream.write(json.dumps(runs[-1]) + "\n")
        print(json.dumps(runs[-1]), flush=True)
    runs.sort(key=lambda run: run["seed"])
    report(runs, options.efforts)


def report(runs: list[dict[str, Any]], efforts: list[str]) -> None:
    """One line a method: mean accuracy over all seeds, median time over those that were timed."""
    timed = [run for run in runs if run["timed"]]
    runs = [run for run in runs if not run["timed"]]
    if not timed or not runs:
        print("The table needs --accuracy and --times, one after the other.")
        return
    for run in runs:
        run["G"] = max(run["guide"]["head"], run["guide"]["fine-tuned"])
    g, p = (statistics.mean(run[name] for run in runs) for name in ("G", "P"))
    rows = [
        {
            "method": "guide, head then everything",
            "seconds": round(statistics.median(run["guide"]["seconds"] for run in timed), 1),
            "times the guide's speed": 1.0,
            "test accuracy": round(g, 4),
            "over G, points": 0.0,
            "over P, points": round(100 * (g - p), 2),
            "by seed": " ".join(
                f"{r['guide']['head']:.3f}/{r['guide']['fine-tuned']:.3f}" for r in runs
            ),
        }
    ]
    for effort in efforts:
        for state in ("cold", "warm"):
            name = f"{effort} {state}"
            ours = [run[f"{effort} cold"] for run in runs]
            ratios = [run["guide"]["seconds"] / run[name]["seconds"] for run in timed]
            accuracy = statistics.mean(one["accuracy"] for one in ours)
            rows.append(
                {
                    "method": f"{effort}, {state} store",
                    "seconds": round(statistics.median(r[name]["seconds"] for r in timed), 1),
                    "times the guide's speed": round(statistics.median(ratios), 1),
                    "test accuracy": round(accuracy, 4),
                    "over G, points": round(100 * (accuracy - g), 2),
                    "over P, points": round(100 * (accuracy - p), 2),
                    "by seed": " ".join(f"{one['accuracy']:.3f}" for one in ours),
                }
            )
    seeds = ", ".join(str(run["seed"]) for run in timed)
    by_seed = " ".join(f"{run['P']:.3f}" for run in runs)
    text = f"Times from seed {seeds}. G {g:.4f}, P {p:.4f} ({by_seed} by seed)."
    record("two_phase", "python benchmarks/two_phase.py", rows, text)


if __name__ == "__main__":
    main()
