"""Time, memory and shares of `keras-transfer train builtin:digits`, first and second run.

    python benchmarks/main_job.py [--runs 3]

Every first run has an empty cache of its own; the second has the same cache and another output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from common import python, record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for number in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            for attempt in ("first", "second"):
                output = Path(folder) / attempt
                done = python(
                    "-m", "keras_transfer", "train", "builtin:digits", "--output", str(output),
                    KERAS_TRANSFER_CACHE=str(Path(folder) / "cache"),
                )  # fmt: skip
                metrics = json.loads((output / "metrics.json").read_text())
                seconds = metrics["seconds"]
                rows.append(
                    {
                        "run": f"{number + 1} {attempt}",
                        "whole process, s": round(done["seconds"], 1),
                        "peak memory, GiB": round(done["peak_bytes"] / 2**30, 2),
                        "decode share": round(seconds["decode"] / seconds["total"], 3),
                        "build, s": seconds["build"],
                        "extract, s": seconds["extract"],
                        "head, s": seconds["head"],
                        "fine-tune, s": seconds["fine_tune"],
                        "evaluate, s": seconds["evaluate"],
                        "rows computed": metrics["cache"]["misses"],
                        "test accuracy": metrics["test"]["accuracy"],
                    }
                )
    first, second = (
        statistics.median(r["whole process, s"] for r in rows if r["run"].endswith(which))
        for which in ("first", "second")
    )
    record(
        "main_job",
        "python benchmarks/main_job.py",
        rows,
        f"A second run takes {second / first:.2f} of the first's time (medians).",
    )


if __name__ == "__main__":
    main()
