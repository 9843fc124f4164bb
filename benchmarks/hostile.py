"""What the suite bears: its tables, a disk that fails at every point, two processes at once, images
with bytes changed.

python benchmarks/hostile.py [--stride 1] [--seconds 60] [--mutants 100000] [--out rows.jsonl]
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, add_row, record, rows_of, table

TESTS = HERE.parent / "tests" / "hostile"
COMMANDS = "train", "export", "search"
FAULTS = {"error": ("ENOSPC", "EIO", "EACCES"), "kill": ("kill",)}
# What is written by hand, at the end of the page.
BY_HAND = "## Defects brought back"
OUTCOMES = {"0": "went on", "1": "message, status 1", "2": "message, status 2", "-9": "killed"}


def tables() -> list[dict[str, Any]]:
    """The lines of each contract's file of the default suite, and how many hold."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", str(TESTS), f"--junitxml={report}"]
        subprocess.run(command, cwd=HERE.parent, check=False, stdout=subprocess.DEVNULL)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for case in cases:
            states = {child.tag for child in case} & {"failure", "error", "skipped"}
            found[case.get("classname", "").split(".")[-1]][
                states.pop() if states else "holds"
            ] += 1
    return [
        {
            "contract": name.removeprefix("test_").replace("_", " "),
            "lines": sum(counts.values()),
            "hold": counts["holds"],
            "skipped": counts["skipped"],
        }
        for name, counts in sorted(found.items())
    ]


def lines(*arguments: str, **environment: str) -> list[dict[str, Any]]:
    """What ``points.py`` says, a line of JSON each."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(TESTS / "points.py"), folder, *arguments],
            env=os.environ | environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def points(command: str, kind: str, stride: int) -> dict[str, Any]:
    """By fault: points of a command tried and how they ended; and what was wrong."""
    begun = time.monotonic()
    tried = lines(command, kind, STRIDE=str(stride))
    rows = []
    for fault in FAULTS[kind]:
        of_fault = [one for one in tried if one["fault"] == fault]
        ends = collections.Counter(str(one.get("code")) for one in of_fault)
        rows.append(
            {
                "command": command,
                "fault": fault,
                "points": len(of_fault),
                **{said: ends[code] for code, said in OUTCOMES.items()},
                "in order": sum(not one["wrong"] for one in of_fault),
                "minutes": "" if rows else round((time.monotonic() - begun) / 60, 1),
            }
        )
    wrong = [
        f"- {command}, {one['fault']} at {one.get('kind')} {one.get('path')}: {one['wrong']}"
        for one in tried
        if one["wrong"]
    ]
    return {"rows": rows, "wrong": wrong}


def mutants(count: int) -> list[dict[str, Any]]:
    """By kind of file: images with bytes changed, and what decoding came to; on two processes."""
    script = [sys.executable, str(TESTS / "mutants.py"), str(count // 2)]
    running = [
        subprocess.Popen([*script, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(2)
    ]
    found: dict[str, dict[str, Any]] = {}
    for child in running:
        said, _ = child.communicate()
        if child.returncode:
            raise RuntimeError(f"{' '.join(script)} ended with {child.returncode}")
        for row in map(json.loads, said.splitlines()):
            wrong = sum(row["wrong"].values())
            whole = found.setdefault(row["file"], dict.fromkeys(("tried", "decoded", "refused"), 0))
            whole |= {name: whole[name] + row[name] for name in ("tried", "decoded", "refused")}
            whole["anything else"] = whole.get("anything else", 0) + wrong
    return [{"file": kind, **counts} for kind, counts in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stride", type=int, default=1, help="try every so many-th point")
    parser.add_argument("--seconds", type=float, default=60, help="of two processes at once")
    parser.add_argument("--mutants", type=int, default=100_000, help="images with bytes changed")
    parser.add_argument("--out", type=Path, help="keeps what is done; a stopped run goes on")
    options = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "tables": tables,
        **{
            f"{name} {kind}": functools.partial(points, name, kind, options.stride)
            for name in COMMANDS
            for kind in FAULTS
        },
        "together": lambda: lines("together", str(options.seconds)),
        "mutants": lambda: mutants(options.mutants),
    }
    found = dict(rows_of(options.out))
    for name, find in parts.items():
        if name not in found:
            found[name] = find()
            add_row(options.out, [name, found[name]])
    report(found, options)


def report(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes the tables of all parts."""
    rows = found["tables"]
    total = {name: sum(row[name] for row in rows) for name in ("lines", "hold", "skipped")}
    which = "Every point" if options.stride == 1 else f"Every {options.stride}th point"
    struck = [found[f"{name} {kind}"] for name in COMMANDS for kind in FAULTS]
    wrong = [line for part in struck for line in part["wrong"]]
    both = found["together"]
    text = [
        f"## A disk that fails\n{which} of a small command: an opening, making, write, flush, "
        "renaming or removal fails once, or the process is killed there (at writes, renamings and "
        "removals: what else is on disk, these decide). In order: nothing old is lost, nothing "
        "half-written believed, one message, no traceback, nothing left behind unsaid, and the "
        "next command comes to the figures of one that nothing befell.",
        table([row for part in struck for row in part["rows"]]),
        "Not in order:\n" + "\n".join(wrong) if wrong else "All are in order.",
        "## Two processes at once\nThe same command twice, again and again. Each comes to the "
        "figures of one alone, or is refused with a message.",
        table([{**one, "wrong": len(one["wrong"])} for one in both]),
        *("- " + said for one in both for said in one["wrong"]),
        f"## Images with bytes changed\n{options.mutants:,} of unusual images, up to eleven bytes "
        "of each changed and one in five cut off, decoded in the three ways to fit a square.",
        table(found["mutants"]),
    ]
    _, heading, kept = (RESULTS / "hostile.md").read_text().partition(BY_HAND)
    text += [heading + kept.rstrip()] * bool(heading)
    words = [f"--stride {options.stride}"] * (options.stride != 1)
    words += [f"--seconds {options.seconds:g}"] * (options.seconds != 60)
    words += [f"--mutants {options.mutants}"] * (options.mutants != 100_000)
    command = " ".join(["python benchmarks/hostile.py", *words])
    record("hostile", command, [*rows, {"contract": "all", **total}], "\n\n".join(text))


if __name__ == "__main__":
    main()
