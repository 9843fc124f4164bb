"""How true is what the bar promises: the time that it says is left, against what was left.

    python benchmarks/eta.py [--runs 2] [--details] [--unrecorded]

Commands run as they are, with an empty cache (cold) and then with the same one (warm), where the
machine's own pace is known, too. Twice a second it is noted what the bar says, and afterwards how
long the process really took from there to its end. A promise is kept within a factor of 1.5; "a few
seconds", which is said below 7.5, where at most 11.25 were left.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import SHARED, python, record

FACTOR = 1.5
FEW_SECONDS = 7.5
COMMANDS = {
    "digits": ["builtin:digits"],
    "emoji": [str(SHARED / "emoji-noto")],
    "texts, quick": ["builtin:scipy", "--effort", "quick"],
}

# In the process of the command: a bar that nobody sees, asked twice a second.
WATCHED = """
import json, sys, threading, time
from keras_transfer import cli
from keras_transfer.base import progress

class Silent(progress._Shown):
    def __init__(self, file):
        super().__init__()
        self.over, self.file = threading.Event(), file
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.over.wait(0.5):
            row = time.monotonic(), self.timeline.left(), self.timeline._present["name"]
            print(json.dumps(row), file=self.file, flush=True)

    def __exit__(self, *error):
        self.over.set()

file = open(sys.argv[1], "w")
progress.progress_for = lambda level="info": Silent(file)
if hasattr(cli, "progress_for"):
    cli.progress_for = progress.progress_for
sys.exit(cli.main(sys.argv[2:]))
"""


def kept(promised: float, left: float) -> bool:
    """Whether a promise was kept, as a person reads it."""
    if promised < FEW_SECONDS:
        return left <= FACTOR * FEW_SECONDS
    return max(promised / left, left / promised) <= FACTOR


def watched(words: list[str], folder: Path, number: int) -> tuple[float, list[dict[str, Any]]]:
    """How long a command took in all, and what was promised meanwhile."""
    notes, begun = folder / f"promises-{number}.jsonl", time.monotonic()
    command = ["train", *words, "--output", str(folder / f"run-{number}")]
    python("-c", WATCHED, str(notes), *command, KERAS_TRANSFER_CACHE=str(folder / "cache"))
    ended = time.monotonic()
    said = [
        {"at": at - begun, "promised": promised, "left": ended - at, "stage": stage}
        for at, promised, stage in map(json.loads, notes.read_text().splitlines())
    ]
    return ended - begun, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2, help="with each command, one cache for all")
    parser.add_argument("--only", help="one of the commands", choices=list(COMMANDS))
    parser.add_argument("--details", action="store_true", help="print each stage's ratios")
    parser.add_argument("--unrecorded", action="store_true", help="write no result")
    options = parser.parse_args()
    rows = []
    for name in [options.only] if options.only else COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(options.runs):
                seconds, said = watched(COMMANDS[name], Path(folder), number)
                given = [one for one in said if one["promised"] is not None]
                ratios = [one["promised"] / one["left"] for one in given]
                rows.append(
                    {
                        "command": name,
                        "cache": "warm" if number else "cold",
                        "whole process, s": seconds,
                        "first promise after, s": given[0]["at"],
                        "promises": len(given),
                        "within 1.5": statistics.mean(
                            kept(one["promised"], one["left"]) for one in given
                        ),
                        "median of promised / left": statistics.median(ratios),
                        "least": min(ratios),
                        "most": max(ratios),
                    }
                )
                print(rows[-1], flush=True)
                if options.details:
                    stages = collections.defaultdict[str, list[dict[str, Any]]](list)
                    for one in said:
                        stages[one["stage"]].append(one)
                    for stage, ones in stages.items():
                        print(f"  {stage}: from {ones[0]['at']:.1f} s")
                        for one in (ones[0], ones[-1]):
                            print(
                                "   ", one["promised"], "promised,", round(one["left"], 1), "left"
                            )
    if not options.unrecorded:
        record("eta", "python benchmarks/eta.py", rows)


if __name__ == "__main__":
    main()
