"""Our efforts against the Keras guide's recipe and against logistic regression (P).

    python benchmarks/two_phase.py --accuracy --only guide [--seeds 0 1 2]
    python benchmarks/two_phase.py --accuracy --only ours [--seeds 0 1 2 3 4 5]
    python benchmarks/two_phase.py --times [--seeds 0]

Whole processes, one after the other, on the same splits; each of ours begins with an empty cache
(`cold`) and is run again with a full one (`warm`). The guide runs twice: as it is written, and with
the backbone kept in the inference mode that it asks for, which is another thing in Keras 3 (see
`guide.py`). Each is judged by the better of its two stages on test, seed by seed. ``--accuracy``
runs everything to its end and may share the machine. ``--times`` wants the machine for itself; of
the guide it times three head epochs and two of fine-tuning, and adds up 20 and 10 of them, since
its later epochs are alike. Its rounds take turns, ours and the guide's, and
count by their medians. Rows are kept in a file, so that a stopped benchmark goes on; the tables
join both kinds. ``--only guide`` leaves our own efforts and P out, ``--only ours`` the guide, of
which a seed takes eight minutes: its mean is over fewer seeds than the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, SHARED, add_row, python, record, rows_of

from keras_transfer.datasets import load_dataset, write_splits

EFFORTS = ("quick", "default", "high")
COMMAND = (
    "python benchmarks/two_phase.py --accuracy --seeds 0 1 2 && "
    "python benchmarks/two_phase.py --accuracy --only ours --seeds 3 4 5 && "
    "python benchmarks/two_phase.py --times --seeds 0"
)
GUIDES = {"guide as written": ["--as-written"], "guide in inference mode": []}


def whole(stage: list[float], epochs: int) -> float:
    """Seconds of so many epochs; the first, which traces, as measured, and the mean of the rest."""
    return stage[0] + (epochs - 1) * statistics.mean(stage[1:])


def ours(
    data: str, size: str, splits: Path, seed: int, folder: Path, efforts: list[str], timed: bool
) -> dict[str, Any]:
    """All efforts, and P unless times are taken, on the split of one seed."""
    found: dict[str, Any] = {}
    if not timed:
        report = folder / "report.json"
        python(str(HERE / "probe.py"), data, str(splits), size, str(report))
        found["P"] = json.loads(report.read_text())["test"]
    for effort in efforts:
        cache = str(folder / f"cache-{effort}")
        # Converted weights belong to the installation: a run of another set has left them there.
        python("-c", f"import os; os.environ['KERAS_TRANSFER_CACHE'] = {cache!r}\n"
               "from keras_transfer import backbones\n"
               "backbones.build('EfficientNetLite0', weights='offline')")  # fmt: skip
        # A full cache changes the time alone.
        for state in ("cold", "warm")[: 1 + timed]:
            output = folder / f"{effort}-{state}"
            done = python(
                "-m", "keras_transfer", "train", data, "--image-size", size, "--effort", effort,
                "--seed", str(seed), "--output", str(output), "--splits", str(splits),
                KERAS_TRANSFER_CACHE=cache,
            )  # fmt: skip
            metrics = json.loads((output / "metrics.json").read_text())
            found[f"{effort} {state}"] = {
                "seconds": done["seconds"],
                "accuracy": metrics["test"]["accuracy"],
                "kept": metrics["kept"],
                "stages": metrics["seconds"],
            }
    return found


def others(
    data: str, size: str, splits: Path, seed: int, folder: Path, timed: bool
) -> dict[str, Any]:
    """Both ways of the guide on the split of one seed."""
    report = folder / "report.json"
    found: dict[str, Any] = {}
    short = ["--epochs", "3", "2"] if timed else []
    for name, how in GUIDES.items():
        done = python(
            str(HERE / "guide.py"), data, str(splits), size, str(report),
            "--seed", str(seed), *short, *how,
        )  # fmt: skip
        guide = json.loads(report.read_text())
        head, tuned = guide["seconds"]["head"], guide["seconds"]["fine-tuned"]
        rest = done["seconds"] - sum(head) - sum(tuned)
        found[name] = {"seconds": rest + whole(head, 20) + whole(tuned, 10), **guide["test"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", default=str(SHARED / "emoji-noto"))
    parser.add_argument("--image-size", default="128")
    parser.add_argument("--efforts", nargs="+", default=list(EFFORTS))
    parser.add_argument("--rounds", type=int, default=3, help="of --times")
    parser.add_argument("--only", choices=("ours", "guide"))
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--accuracy", dest="timed", action="store_false")
    kind.add_argument("--times", dest="timed", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "two_phase.jsonl")
    options = parser.parse_args()
    rows = rows_of(options.out)
    # This machine's speed drifts within minutes: rounds, so that both sides see all of it.
    rounds = range(options.rounds if options.timed else 1)
    for turn, seed in itertools.product(rounds, options.seeds):
        for part in ("ours", "guide"):
            mark = {"seed": seed, "timed": options.timed, "part": part, "round": turn}
            done = any(row.items() >= mark.items() for row in rows)
            if done or options.only not in (None, part):
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                splits = folder / "splits.csv"
                write_splits(load_dataset(options.data, seed=seed, cache=False), splits)
                where = (options.data, options.image_size, splits, seed, folder)
                if part == "ours":
                    found = ours(*where, options.efforts, options.timed)
                else:
                    found = others(*where, options.timed)
            rows.append(mark | found)
            add_row(options.out, rows[-1])
    report(rows, options.efforts)


def report(kept: list[dict[str, Any]], efforts: list[str]) -> None:
    """Both ways of the guide beside each other, and all methods beside the better one.

    Accuracy is the mean over all seeds, points over the guide and over P that over the seeds which
    both ran, time the median over those that were timed.
    """
    mine, theirs = (
        {
            timed: [row for row in kept if (row["part"], row["timed"]) == (part, timed)]
            for timed in (False, True)
        }
        for part in ("ours", "guide")
    )
    if not (theirs[False] and theirs[True]):
        print("The tables need --accuracy and --times, one after the other.")
        return
    best = {
        name: {
            row["seed"]: max(row[name]["head"], row[name]["fine-tuned"]) for row in theirs[False]
        }
        for name in GUIDES
    }
    seconds = {
        name: statistics.median(row[name]["seconds"] for row in theirs[True]) for name in GUIDES
    }
    written, meant = GUIDES
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "head, then everything, by seed": " ".join(
                f"{row[name]['head']:.3f}/{row[name]['fine-tuned']:.3f}" for row in theirs[False]
            ),
            "the better stage, mean": round(statistics.mean(best[name].values()), 4),
            "seconds": round(seconds[name]),
            "times the other's": round(seconds[name] / seconds[meant], 2),
        }
        for name in GUIDES
    ]
    record("guide", COMMAND, rows)
    if not (mine[False] and mine[True]):
        return
    p = {row["seed"]: row["P"] for row in mine[False]}

    def over(found: dict[int, float], other: dict[int, float]) -> float:
        shared = found.keys() & other.keys()
        return round(100 * statistics.mean(found[seed] - other[seed] for seed in shared), 2)

    def line(method: str, found: dict[int, float], took: float) -> dict[str, Any]:
        return {
            "method": method,
            "seconds": round(took, 1),
            "times the guide's speed": round(seconds[meant] / took, 1),
            "times that of the guide as written": round(seconds[written] / took, 1),
            "test accuracy": round(statistics.mean(found.values()), 4),
            "points over the guide": over(found, best[meant]),
            "points over the guide as written": over(found, best[written]),
            "points over P": over(found, p),
            "by seed": " ".join(f"{found[seed]:.3f}" for seed in sorted(found)),
        }

    rows = [line(meant, best[meant], seconds[meant])]
    for effort in efforts:
        way = f"{effort} cold"
        found = {row["seed"]: row[way]["accuracy"] for row in mine[False] if way in row}
        for state in ("cold", "warm"):
            way = f"{effort} {state}"
            took = statistics.median(row[way]["seconds"] for row in mine[True] if way in row)
            rows.append(line(f"{effort}, {state} store", found, took))
    seeds = ", ".join(sorted({str(row["seed"]) for row in mine[True]}))
    counts = sorted(sum(f"{effort} cold" in row for row in mine[True]) for effort in efforts)
    by_seed = " ".join(f"{p[seed]:.3f}" for seed in sorted(p))
    mean = statistics.mean(p.values())
    text = (
        f"Times from seed {seeds}, medians of {len(theirs[True])} rounds of the guide and "
        f"{counts[0]} to {counts[-1]} of ours. P {mean:.4f} ({by_seed} by seed). Of the guide "
        f"{len(theirs[False])} seeds; as written: `guide.md`."
    )
    record("two_phase", COMMAND, rows, text)


if __name__ == "__main__":
    main()
