"""What the suite bears: its tables, a disk that fails at every point, two processes at once, images
with bytes changed; and whether its tests would see the defects that it had.

python benchmarks/hostile.py [--stride 1] [--seconds 60] [--mutants 100000] [--out rows.jsonl]
python benchmarks/hostile.py --defects [NUMBER ...] [--out rows.jsonl]
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, SHARED, add_row, machine, measured, record, rows_of, table

TESTS = HERE.parent / "tests" / "hostile"
COMMANDS = "train", "export", "search"
FAULTS = {"error": ("ENOSPC", "EIO", "EACCES"), "kill": ("kill",)}
OUTCOMES = {"0": "went on", "1": "message, status 1", "2": "message, status 2", "-9": "killed"}

DEFECTS = tomllib.loads((TESTS / "defects.toml").read_text())["defects"]
NUMBERS = sorted({entry["number"] for entry in DEFECTS})
BROUGHT_BACK = "## Defects brought back"
# What tests run on.
COPIED = "keras_transfer", "tuning", "tests", "setup.cfg", "pyproject.toml"
# No test takes as long, nor do all of a defect, unless one hangs.
LONGEST = 1800.0
# Letters of what is told of a failure.
LENGTH = 100


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


def brought_back(number: int) -> dict[str, Any]:
    """Makes each edit of a defect in a copy of the product, and runs the tests that it must fail.

    A test proves something only if it passes without the edit: all of them are run so first.
    """
    edits = [
        (entry, edit) for entry in DEFECTS if entry["number"] == number for edit in entry["edits"]
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "product"
        copied(copy)
        named = dict.fromkeys(test for _, edit in edits for test in edit["tests"])
        sound = ran(copy, list(named), LONGEST)
        for entry, edit in edits:
            path = copy / edit["file"]
            text = path.read_text(encoding="utf-8")
            if text.count(edit["old"]) != 1:
                raise RuntimeError(f"{edit['file']} does not hold once: {edit['old']}")
            path.write_text(text.replace(edit["old"], edit["new"]), encoding="utf-8")
            about = {"number": number, "defect": entry["defect"]}
            about |= {name: edit[name] for name in ("file", "broken")}
            for test in edit["tests"]:
                end, how = sound[test]
                wrong = "" if end == "passed" else f"without the edit it has {end}"
                if not wrong:
                    end, how = ran(copy, [test], edit.get("hangs", LONGEST), "-x")[test]
                    expected = {"failed", "hung"} if "hangs" in edit else {"failed"}
                    wrong = "" if end in expected else f"it has {end}"
                rows.append({**about, "test": test, "wrong": wrong, "how": how})
            path.write_text(text, encoding="utf-8")
    return {"machine": machine(), "rows": rows}


def copied(copy: Path) -> None:
    """Copies what tests run on, with the data beside it within reach."""
    for name in COPIED:
        source = HERE.parent / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy / name)
    (copy.parent / SHARED.parent.name).symlink_to(SHARED.parent)


def ran(
    copy: Path, tests: Sequence[str], seconds: float, *options: str
) -> dict[str, tuple[str, str]]:
    """How tests end in a process of their own: passed, failed, erred, skipped, hung, or not run;
    and the first line that those said which did not pass."""
    report, said = copy.parent / "junit.xml", copy.parent / "said.txt"
    report.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "slow or not slow",
        f"--basetemp={copy.parent / 'temporary'}", f"--junitxml={report}", *options, *tests,
    ]  # fmt: skip
    # An edit may leave a file's size and second as they were, by which stale bytecode is known.
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    with (
        open(said, "w") as stream,
        subprocess.Popen(
            command, cwd=copy, env=environment, stdout=stream, stderr=stream, start_new_session=True
        ) as running,
    ):
        try:
            running.wait(seconds)
        except BaseException as error:
            os.killpg(running.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    if report.exists():  # a process may hang after its last test
        return ends(report, tests, f"{copy.parent}/")
    if running.returncode != -signal.SIGKILL:
        raise RuntimeError(said.read_text()[-3000:])
    return dict.fromkeys(tests, ("hung", f"still running after {seconds:g} s"))


def ends(report: Path, tests: Sequence[str], folder: str) -> dict[str, tuple[str, str]]:
    """What pytest's report says of tests, the worst of each one's parameters."""
    found = dict.fromkeys(tests, ("not run", ""))
    ranks = ["not run", "skipped", "passed", "erred", "failed"]
    names = {"failure": "failed", "error": "erred", "skipped": "skipped"}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        file, name = case.get("classname", "").replace(".", "/"), case.get("name", "")
        test = f"{file}.py::{name.partition('[')[0]}"
        results = [(names[one.tag], one.get("message", "")) for one in case if one.tag in names]
        for end, message in results or [("passed", "")]:
            if test in found and ranks.index(end) > ranks.index(found[test][0]):
                # NumPy's begin with an empty one.
                said = re.sub(r":\s*\n\s*", ": ", message.replace(folder, ""), count=1)
                found[test] = end, said.partition("\n")[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stride", type=int, default=1, help="try every so many-th point")
    parser.add_argument("--seconds", type=float, default=60, help="of two processes at once")
    parser.add_argument("--mutants", type=int, default=100_000, help="images with bytes changed")
    parser.add_argument(
        "--defects", type=int, nargs="*", choices=NUMBERS, metavar="NUMBER",
        help="bring these defects back, or all, and leave the rest of the page as it is",
    )  # fmt: skip
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
    parts = parts if options.defects is None else {}
    for number in options.defects or NUMBERS:
        parts[f"defect {number}"] = functools.partial(brought_back, number)
    found = dict(rows_of(options.out))
    for name, find in parts.items():
        if name not in found:
            found[name] = find()
            add_row(options.out, [name, found[name]])
    if options.defects is None:
        report(found, options)
    else:
        report_defects(found)


def report(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes the tables of all parts."""
    rows = found["tables"]
    total = {name: sum(row[name] for row in rows) for name in ("lines", "hold", "skipped")}
    which = "Every point" if options.stride == 1 else f"Every {options.stride}th point"
    struck = [found[f"{name} {kind}"] for name in COMMANDS for kind in FAULTS]
    wrong = [line for part in struck for line in part["wrong"]]
    both = found["together"]
    defects = known(found)
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
        *told(defects),
    ]
    words = [f"--stride {options.stride}"] * (options.stride != 1)
    words += [f"--seconds {options.seconds:g}"] * (options.seconds != 60)
    words += [f"--mutants {options.mutants}"] * (options.mutants != 100_000)
    command = " ".join(["python benchmarks/hostile.py", *words])
    rows = [*rows, {"contract": "all", **total}]
    record("hostile", command, rows, "\n\n".join(text), defects=defects)


def report_defects(found: dict[str, Any]) -> None:
    """Writes the last table of the page again; of defects that were not asked for as it is."""
    page, defects = json.loads((RESULTS / "hostile.json").read_text()), known(found)
    if len(defects) < len(NUMBERS):
        print("The page stays as it is: some defects were never brought back.")
        return
    others = page["text"].partition(BROUGHT_BACK)[0].rstrip()
    text = "\n\n".join([others, *told(defects)])
    record("hostile", page["command"], page["rows"], text, page["machine"], defects=defects)


def known(found: dict[str, Any]) -> dict[str, Any]:
    """Of each defect what was found now, else what the page holds."""
    held = json.loads((RESULTS / "hostile.json").read_text()).get("defects", {}) | found
    names = [f"defect {number}" for number in NUMBERS]
    return {name: held[name] for name in names if name in held}


def told(defects: dict[str, Any]) -> list[str]:
    """The last part of the page."""
    rows, before = [], {"number": 0, "defect": "", "what was broken": ""}
    wrong = []
    for row in (row for part in defects.values() for row in part["rows"]):
        file, _, name = row["test"].removeprefix("tests/").partition("::")
        how = row["how"].replace("`", "'").replace("|", "\\|")
        how = how if len(how) <= LENGTH else how[: LENGTH - 3].rstrip("\\ ") + "..."
        about = {
            "number": row["number"],
            "defect": row["defect"],
            "what was broken": f"`{row['file'].removeprefix('keras_transfer/')}`: {row['broken']}",
        }
        rows.append(
            {
                **{key: "" if before[key] == value else value for key, value in about.items()},
                "test": f"`{file}`: `{name}`",
                "how it failed": f"**wrong**: {row['wrong']}" if row["wrong"] else f"`{how}`",
            }
        )
        wrong += [f"- {row['number']}, `{name}`: {row['wrong']}"] * bool(row["wrong"])
        before = about
    command = "python benchmarks/hostile.py --defects"
    return [
        f"{BROUGHT_BACK}\nEach numbered defect of the first attack, put back by an edit of a copy "
        "of the product (`tests/hostile/defects.toml`); the tests that pass without the edit and "
        "fail with it, each in a process of its own; and the first line of what they then say. "
        "Paths leave out `keras_transfer/` and `tests/`.",
        *dict.fromkeys(measured(command, part["machine"]) for part in defects.values()),
        table(rows),
        "Wrong:\n" + "\n".join(wrong) if wrong else "All fail.",
    ]


if __name__ == "__main__":
    main()
