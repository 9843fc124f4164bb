"""Whether two revisions still answer alike: a regression check for a big refactoring.

    python benchmarks/golden.py REV_A REV_B [--only NAME,...] [--list] [--keep DIR]
        [--jax-python PATH] [--data ../shared/data] [--output FILE] [--tries N]

Checks both revisions out side by side (REV may be ``WORKTREE``: the working tree as it is now,
ignored files left out), runs the same command lines in each, one process at a time, and compares
the files and the JSON that come out, without times. Only the command line is used, so modules may
move freely between the revisions. Every case begins with an empty cache of its own, so that no
case's answer depends on which others ran; one that needs another's run goes on with its cache.

A revision that chooses the engine of the frozen layers by a timing may choose another on a busy
machine, which changes every figure. A case that differs is therefore run again on both sides,
``--tries`` times in all: figures that agree to the last digit once do so by no accident.

Prints a Markdown table, one row a case, then every field that differs with its largest absolute
difference. Exit status: 0 all are equal (skipped ones aside), 1 otherwise, 2 wrong usage.

With ``--keep DIR`` everything stays in DIR, and what ran to its end there is not run again: compare
one REV_A to many REV_B and REV_A runs once. ``WORKTREE`` always runs again. Begin a new DIR after
packages were updated.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import HERE, SHARED, machine, table

WORKTREE, LAST_BITS = "WORKTREE", 4e-16


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line, and the case whose run it needs. See ``arguments`` for what is filled in."""

    command: str
    needs: str = ""
    backend: str = "tensorflow"


FORMATS = "saved_model,keras,tflite,tflite-float16,tflite-dynamic,tflite-int8,onnx"
DIGITS, NOTO = "train builtin:digits", "train ../data/emoji-noto"
RANDOM = "--weights none --unfreeze 1 --fine-tune-epochs 1 --image-size 32 --per-class 20"
CASES = {
    "digits": Case(DIGITS),
    "digits-warm": Case(DIGITS, needs="digits"),
    "digits-frozen": Case(f"{DIGITS} --unfreeze none"),
    "noto-quick": Case(f"{NOTO} --image-size 128 --effort quick"),
    "noto-default": Case(f"{NOTO} --image-size 128 --effort default"),
    "noto-high": Case(f"{NOTO} --image-size 128 --effort high"),
    "noto-none": Case(f"{NOTO} --image-size 64 --effort quick --weights none"),
    "balanced": Case(f"{NOTO} --image-size 64 BALANCED", needs="digits"),
    "resnet50": Case(f"{DIGITS} --backbone ResNet50 {RANDOM}"),
    "nasnetmobile": Case(f"{DIGITS} --backbone NASNetMobile {RANDOM}"),
    "fold-perclass": Case(f"{DIGITS} --fold 1/5 --per-class 20"),
    "head-gradient": Case(f"{DIGITS} --head-epochs 3 --head-lr 0.001 --unfreeze none"),
    "study": Case("search builtin:digits --tuner random --trials 6 --image-size 32"),
    "study-hyperband": Case("search builtin:digits --tuner hyperband --trials 6 --image-size 32"),
    "export": Case(f"export ../out/digits --allow-failing --formats {FORMATS}", needs="digits"),
    "predict": Case(
        "predict ../out/digits ../data/emoji-noto/activities/8ball.png "
        "../data/emoji-noto/flags/cn.png --json",
        needs="digits",
    ),
    "evaluate": Case("evaluate ../out/digits --json", needs="digits"),
    "evaluate-shift": Case(
        "evaluate ../out/noto-quick ../data/emoji-twemoji --json", needs="noto-quick"
    ),
    "inspect": Case("inspect ../data/emoji-noto --json"),
    "jax-quick": Case(f"{DIGITS} --effort quick", backend="jax"),
}
# What a command leaves in its output folder to compare; the first must be there. Other commands
# print JSON.
FILES = {
    "train": ("metrics.json", "predictions.csv", "history.csv"),
    "search": ("trials.csv", "winner/metrics.json", "winner/predictions.csv"),
    "export": ("parity.json",),
}
# Keys that are times, places, versions, or sizes of files that hold time stamps.
IGNORED = re.compile(
    r"(^|_)(seconds|per_second|latency_ms|input_wait|created|finished|environment|versions?"
    r"|memory_bytes)$|^(keras_transfer|worker|files|sha256)$|^artefacts\.(saved_model|keras|onnx)\.bytes$"
)
TIME = re.compile(r"\d[\d.,]*(?= ?(ms|s|seconds?|minutes?|images/s|images a second)\b)")
INDEX = re.compile(r"\[\d+\]")


@dataclasses.dataclass(frozen=True)
class Side:
    """A revision's folder: ``code``, ``data`` (a link); and by case ``cache``, ``out``, ``log``."""

    name: str
    folder: Path


def git(*words: str) -> bytes:
    return subprocess.check_output(["git", *words], cwd=HERE.parent)


def check_out(label: str, revision: str, root: Path, data: Path) -> Side:
    """Puts a revision's files into a folder of its own, unless it is there."""
    name = revision
    if revision != WORKTREE:
        name = git("rev-parse", "--short=12", "--verify", revision + "^{commit}").decode().strip()
    folder = root / f"{label.lower()}-{name}"
    if revision == WORKTREE:
        shutil.rmtree(folder, ignore_errors=True)
    code, part = folder / "code", folder / "part"
    if not code.exists():
        part.mkdir(parents=True, exist_ok=True)
        if revision == WORKTREE:
            listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode()
            for file in filter(None, listed.split("\0")):
                if (HERE.parent / file).is_file():
                    (part / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(HERE.parent / file, part / file)
        else:
            with tarfile.open(fileobj=io.BytesIO(git("archive", name))) as archive:
                archive.extractall(part, filter="data")
        part.rename(code)
    for log in folder.glob("log/*.json"):
        if json.loads(log.read_text())["error"]:
            log.unlink()
    (folder / "data").unlink(missing_ok=True)
    (folder / "data").symlink_to(data)
    return Side(name, folder)


def arguments(side: Side, name: str) -> list[str]:
    """A case's words after ``python``, to be run in ``code``."""
    words = CASES[name].command.split()
    if "BALANCED" in words:
        words[-1:] = balanced(side)
    if words[0] in FILES:
        words += ["--output", f"../out/{name}", "--quiet"]
    return ["-m", "tuning" if words[0] == "search" else "keras_transfer", *words]


def balanced(side: Side) -> list[str]:
    """Options for balanced class weights: the flag, or a schedule in a file where there is none."""
    recipe = side.folder / "code" / "keras_transfer" / "recipe.py"
    if recipe.exists() and "class_weights" in recipe.read_text():
        return ["--class-weights", "balanced"]
    config = json.loads((side.folder / "out" / "digits" / "config.json").read_text())
    schedule = config["requested_schedule"] | {"class_weights": "balanced"}
    (side.folder / "balanced.json").write_text(json.dumps({"schedule": schedule}))
    return ["--config", "../balanced.json"]


def run(side: Side, name: str, python: str, again: bool = False) -> tuple[float, str]:
    """Runs a case unless it has run, and first what it needs: its seconds, and what went wrong."""
    case = CASES[name]
    if case.needs and run(side, case.needs, python)[1]:
        return 0.0, f"{case.needs}, which it needs, failed"
    words = arguments(side, name)
    folder, log = side.folder, side.folder / "log" / f"{name}.json"
    if log.exists() and not again and (past := json.loads(log.read_text()))["words"] == words:
        return past["seconds"], past["error"]
    cache = folder / "cache" / (case.needs or name)
    for left in (folder / "out" / name, *(() if case.needs else (cache,))):
        shutil.rmtree(left, ignore_errors=True)
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(folder / "code"),
        "KERAS_TRANSFER_CACHE": str(cache),
        "KERAS_BACKEND": case.backend,
    }
    start = time.perf_counter()
    with open(log.with_suffix(".out"), "w") as out, open(log.with_suffix(".err"), "w") as err:
        status = subprocess.call(
            [python, *words], cwd=folder / "code", env=environment, stdout=out, stderr=err
        )
    seconds = time.perf_counter() - start
    if cache.name not in {other.needs for other in CASES.values()}:
        shutil.rmtree(cache, ignore_errors=True)
    error = last_words(log.with_suffix(".err"), status) if status else ""
    log.write_text(json.dumps({"words": words, "seconds": seconds, "error": error}))
    return seconds, error


def last_words(file: Path, status: int) -> str:
    """The last line of stderr, or the program's own message, which a remedy follows."""
    lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(("keras-transfer:", "tuning:"))]
    return (own or lines or [f"exit status {status}"])[-1]


def leaves(value: Any, side: Side, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested JSON by their paths, without what is ignored."""
    if isinstance(value, dict):
        for key, inner in value.items():
            below = f"{path}.{key}".lstrip(".")
            if not IGNORED.search(key) and not IGNORED.search(below):
                yield from leaves(inner, side, below)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, side, f"{path}[{index}]")
    else:
        text = isinstance(value, str)
        yield path, TIME.sub("…", value.replace(str(side.folder), "")) if text else value


def read(side: Side, file: Path) -> dict[str, Any]:
    """A file's values by their paths; those of a table by row and column."""
    if not file.exists():
        return {}
    with open(file, newline="") as stream:
        held = list(csv.DictReader(stream)) if file.suffix == ".csv" else json.load(stream)
    return dict(leaves(held, side))


def gap(a: Any, b: Any) -> float | str:
    """The distance of two numbers, 0 for what is equal, and both texts where one is no number."""
    if a == b:
        return 0.0
    try:
        x, y = float(a), float(b)
    except (TypeError, ValueError):
        return f"{a!r} → {b!r}"
    if math.isnan(x) or math.isnan(y):
        return 0.0 if math.isnan(x) and math.isnan(y) else f"{a} → {b}"
    # The last bit of a sum says in which order a library adds up.
    return abs(x - y) if abs(x - y) > LAST_BITS * max(1.0, abs(x)) else 0.0


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float | str]:
    """The fields that differ, list places taken together: by how much at most, or an example."""
    fields = {INDEX.sub("[]", path) for path in a}, {INDEX.sub("[]", path) for path in b}
    found: dict[str, float | str] = {}
    for path in [*a, *(path for path in b if path not in a)]:
        field = INDEX.sub("[]", path)
        if path in a and path in b:
            there = gap(a[path], b[path])
        elif field in fields[0] and field in fields[1]:
            there = "other length"
        else:
            there = "only in A" if path in a else "only in B"
        before = found.get(field, 0.0)
        if there and not isinstance(before, str):
            found[field] = there if isinstance(there, str) else max(before, there)
    return found


def compare(sides: tuple[Side, Side], name: str) -> tuple[bool, list[str]]:
    """Whether a case's answers are equal, and its fields that are not."""
    files = FILES.get(CASES[name].command.split()[0])
    places = [f"out/{name}/{file}" for file in files] if files else [f"log/{name}.out"]
    equal, said = True, []
    for place in places:
        a, b = (read(side, side.folder / place) for side in sides)
        if place == places[0] and not (a and b):
            return False, [f"{Path(place).name} is missing or empty"]
        for field, there in differences(a, b).items():
            text = there if isinstance(there, str) else f"{there:.3g}"
            said.append(f"{'/'.join(place.split('/')[2:])} {field}: {text}".strip())
            # A study's columns may be renamed: those on one side only are told, no more.
            equal &= place.endswith("trials.csv") and text.startswith("only in")
    return equal, said


def check(
    sides: tuple[Side, Side], name: str, jax: str | None, tries: int
) -> tuple[dict[str, str], list[str]]:
    """One case on both sides: its row of the table, and all its fields that differ."""
    python = jax if CASES[name].backend == "jax" else sys.executable
    if not python:
        return {"case": name, "result": "skipped: no --jax-python", "seconds A, B": ""}, []
    for attempt in range(max(1, tries)):
        ran = [run(side, name, python, again=attempt > 0) for side in sides]
        failed = [f"{label}: {error}" for label, (_, error) in zip("AB", ran, strict=True) if error]
        equal, said = (False, []) if failed else compare(sides, name)
        if equal or failed:
            break
    words = ["failed" if failed else "equal" if equal else "differs"]
    words[0] += f" at try {attempt + 1}" if equal and attempt else ""
    shown = [one if len(one) <= 100 else f"{one[:99]}…" for one in said[:3]]
    words += failed or [*shown, *([f"{len(said) - 3} more"] if len(said) > 3 else [])]
    result = f"{words[0]}: {'; '.join(words[1:])}".removesuffix(": ").replace("|", "\\|")
    seconds = ", ".join(f"{one:.0f}" for one, _ in ran)
    return {"case": name, "result": result, "seconds A, B": seconds}, said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revisions", nargs="*", metavar="REV", help=f"A and B; or {WORKTREE}")
    parser.add_argument("--only", metavar="NAME,...", help="cases to run")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a folder outside this repository")
    parser.add_argument("--jax-python", metavar="PATH", help="a Python that has JAX")
    parser.add_argument("--data", type=Path, default=SHARED, help="the folder of emoji-noto")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--tries", type=int, default=2, metavar="N", help="of a case that differs")
    options = parser.parse_args()
    if options.list:
        print(table([{"case": name, **dataclasses.asdict(row)} for name, row in CASES.items()]))
        return 0
    if len(options.revisions) != 2:
        parser.error("two revisions are needed")
    names = options.only.split(",") if options.only else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"no case is called {', '.join(unknown)}; see --list")
    rows, details = [], []
    with tempfile.TemporaryDirectory() as temporary:
        root = (options.keep or Path(temporary)).resolve()
        try:
            a, b = (
                check_out(label, revision, root, options.data.resolve())
                for label, revision in zip("AB", options.revisions, strict=True)
            )
        except subprocess.CalledProcessError:
            parser.error("git cannot give these revisions")
        for name in names:
            row, said = check((a, b), name, options.jax_python, options.tries)
            print(*row.values(), sep=" | ", file=sys.stderr, flush=True)
            rows.append(row)
            details += [f"- {name}: {line}" for line in said]
    where = machine()
    head = (
        f"A is {options.revisions[0]} ({a.name}), B is {options.revisions[1]} ({b.name}); "
        f"{where['date']}, {where['cores']} cores of {where['processor']}."
    )
    page = "\n\n".join(filter(None, ("# golden", head, table(rows), "\n".join(details)))) + "\n"
    print(page)
    if options.output:
        options.output.write_text(page)
    return int(any(not row["result"].startswith(("equal", "skipped")) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
