"""Tries a command with a fault at every point, or two of them at once.

    python points.py FOLDER train|export|search [error] [kill]
    python points.py FOLDER together SECONDS

This process imports everything and computes nothing, since TensorFlow outlives no fork once it has.
Each point has a child of its own, which forks again for the command that is struck and for the one
that is given after it. One line of JSON a point (or a pair) goes to standard output.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hostile.shim import CREATE, FSYNC, KILL, READ, REMOVE, RENAME, WRITE, Point, Shim, failing

ERRORS = {
    READ: ("EIO", "EACCES"),
    CREATE: ("EACCES", "ENOSPC"),
    WRITE: ("ENOSPC", "EIO"),
    FSYNC: ("EIO", "ENOSPC"),
    RENAME: ("EACCES", "ENOSPC", "EIO"),
    REMOVE: ("EACCES",),
}
"""What a point fails with, in turn: every point once."""
ERROR = "error"
MOVES = "write", "rename", "remove"
"""Where to be killed leaves something else on disk than a point before: a new or an old name, or
half of a file. To be killed where a file is opened or flushed leaves what the next of them does."""

STRAY = re.compile(r"^\..*-[0-9a-f]{12}")
AT_ONCE = 2
TIMES = re.compile(r"seconds|finished|worker|compilations")


class Case(NamedTuple):
    """A command that is tried.

    Attributes:
        words: the command line, ``{}`` standing for the folder of the trial.
        again: what is given after it, by how far the first has come.
        figures: what must be the same as after a run that nothing befell.
        watched: what is counted, under the folder of the trial.
        old: which folder must be whole afterwards, the old one or the new one; empty for none.
    """

    words: str
    again: Callable[[Path], str]
    figures: Callable[[Path], Any]
    watched: tuple[str, ...]
    old: str = ""


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def of_run(run: Path) -> Any:
    """A run's digits, without times and without what tells from where work came."""
    metrics = _json(run / "metrics.json")
    wanted = ("test", "validation", "kept", "temperature", "candidates", "threshold", "images")
    return [{name: metrics[name] for name in wanted}, (run / "predictions.csv").read_text()]


def of_export(export: Path) -> Any:
    """An export's verdicts and expected answers; its files must have their digests."""
    for name, digest in _json(export / "manifest.json")["files"].items():
        found = hashlib.sha256((export / name).read_bytes()).hexdigest()
        assert found == digest, f"{name} has another digest than in the manifest"
    rows = _json(export / "parity.json")["artefacts"]
    wanted = ("verdict", "agreement", "accuracy", "largest_difference", "nll_change")
    verdicts = {name: {key: row.get(key) for key in wanted} for name, row in rows.items()}
    return [verdicts, _json(export / "verify" / "expected.json")["images"]]


def of_study(study: Path) -> Any:
    """A study's trials without their times, and its winner's run."""
    with open(study / "trials.csv", newline="", encoding="utf-8") as stream:
        rows = [
            {name: value for name, value in row.items() if not TIMES.search(name)}
            for row in csv.DictReader(stream)
        ]
    return [rows, (study / "best.toml").read_text(), of_run(study / "winner")]


TRAIN = "train {}/data --output {}/run --image-size 32 --unfreeze 1 --fine-tune-epochs 1 --quiet"
EXPORT = "export {}/run --output {}/export --formats tflite --quiet"
# Trials of the head alone: what a second phase writes is struck in a run of its own.
SEARCH = (
    "search {}/data --output {}/study --image-size 32 --unfreeze none --tuner random --trials 2 "
    "--quiet"
)


def _go_on(place: Path) -> str:
    from keras_transfer.runs import folder

    run = place / "run"
    if (run / "metrics.json").exists() and not (run / "report.html").exists():
        return "report {}/run"  # as --resume would say
    return f"{TRAIN} --seed 1 {'--resume' if folder.begun(run) else '--overwrite'}"


CASES = {
    "train": Case(
        f"{TRAIN} --seed 1 --overwrite", _go_on, lambda at: of_run(at / "run"),
        ("data", "run", "cache"), "run",
    ),
    "export": Case(
        f"{EXPORT} --overwrite", lambda at: f"{EXPORT} --overwrite",
        lambda at: of_export(at / "export"), ("",), "export",
    ),
    "search": Case(
        SEARCH, lambda at: f"{SEARCH} --resume", lambda at: of_study(at / "study"), ("study",),
    ),
}  # fmt: skip


def start(
    words: str, place: Path, shim: Shim | None = None, listed: Path | None = None, label: str = ""
) -> tuple[int, Path]:
    """Begins a command in a child; its process and the file of what it says."""
    said = place.with_name(f"{place.name}{label}.said")
    child = os.fork()
    if not child:
        code = 99
        try:
            for number, file in ((1, said.with_suffix(".out")), (2, said)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.environ["KERAS_TRANSFER_CACHE"] = str(place / "cache")
            from keras_transfer import cli

            with failing(shim) if shim else contextlib.nullcontext():
                code = cli.main(words.replace("{}", str(place)).split())
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if listed is not None:
                known = [shim.points if shim else [], sorted(sys.modules)]
                listed.write_text(json.dumps(known))
            os._exit(code)
    return child, said


def ended(child: int, said: Path) -> tuple[int, str]:
    """A command's status and what it said."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text(errors="replace")


def command(
    words: str, place: Path, shim: Shim | None = None, listed: Path | None = None
) -> tuple[int, str]:
    """Carries out a command in a child; its status and what it said."""
    return ended(*start(words, place, shim, listed))


def contents(folder: Path) -> dict[str, str]:
    """The digests of a folder's files by their names."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def what_is_wrong(
    case: Case, place: Path, fault: str, code: int, said: str, old: Path, figures: Any
) -> Iterator[str]:
    """What a command that was struck has done that it must not."""
    if fault == KILL:
        if code != -signal.SIGKILL:
            yield f"it was to be killed and ended with {code}"
    elif code not in (0, 1, 2):
        yield f"it ended with {code}"
    if "Traceback" in said:
        yield "a traceback: " + said.strip().splitlines()[-1]
    if code in (1, 2):
        lines = [line for line in said.splitlines() if not line.startswith("warning: ")]
        if len(lines) < 2 or str(place) not in said:
            yield f"no message with path and remedy: {said!r}"
    if code == 0 and fault != KILL:
        lines = [line for line in said.splitlines() if not line.startswith("warning: ")]
        if lines:
            yield f"a message, and status 0: {said!r}"
        told = said + place.with_name(f"{place.name}.out").read_text()
        if case.figures(place) != figures and not re.search("warning: |left out", told):
            yield "status 0 and other figures"
    if case.old and code:
        yield from _whole(case, place, old, figures)


def _whole(case: Case, place: Path, old: Path, figures: Any) -> Iterator[str]:
    """Whether the folder that was to be replaced is the old one or the new one, and whole."""
    before = contents(old / case.old)
    if case.old == "run":
        from keras_transfer.base.errors import UsageError
        from keras_transfer.runs import folder

        try:
            folder.open_run(place / "run")
        except UsageError as error:
            yield f"the run cannot be opened: {error.message}"
            return
    elif case.old == "export":
        from keras_transfer.export import verify

        try:
            found = verify(place / "export").result
            if found["exit_code"]:
                yield f"the export is not sound: {found}"
        except Exception as error:
            yield f"the export cannot be verified: {error}"
            return
    try:
        if case.figures(place) == figures:
            return
    except Exception as error:
        yield f"neither old nor new: {error!r}"
        return
    found = contents(place / case.old)
    if not before.items() <= found.items():
        gone = [name for name in before if found.get(name) != before[name]]
        yield f"of the old {case.old} are gone: {gone}"


def strays(place: Path) -> list[str]:
    """Files of writers that are gone."""
    found = [path for path in place.rglob("*") if STRAY.match(path.name)]
    found += place.glob("cache/activations/*/users/*")
    found += [
        path
        for path in place.glob("cache/activations/*/shard-*.npy")
        if not path.with_name(path.name.split(".")[0] + ".json").exists()
    ]
    return sorted(str(path.relative_to(place)) for path in found)


class Attempt(NamedTuple):
    """A point to be tried."""

    fault: str
    at: int
    point: Point


def attempts(case: Case, base: Path, faults: list[str]) -> Iterator[Attempt]:
    """Every point of a command that nothing befalls, with what is to happen there.

    Of the writes to one file the first and the last: what lies between differs in nothing but the
    length of a file that has no name yet.
    """
    told = _json(base / "points.json")
    writes = [(path, at) for at, (kind, path) in enumerate(told) if kind == WRITE]
    ends = {*dict(writes).values(), *dict(reversed(writes)).values()}
    turns: collections.Counter[str] = collections.Counter()
    for asked in faults:
        counts: collections.Counter[str] = collections.Counter()
        for at, (kind, path) in enumerate(told):
            kinds = {KILL: MOVES}.get(asked, tuple(ERRORS))
            if kind not in kinds:
                continue
            counts[asked] += 1
            if kind == WRITE and at not in ends:
                continue
            fault = asked
            if asked == ERROR:
                fault = ERRORS[kind][turns[kind] % len(ERRORS[kind])]
                turns[kind] += 1
            yield Attempt(fault, counts[asked], Point(kind, path))


def attempt(case: Case, base: Path, number: int, one: Attempt, figures: Any) -> dict[str, Any]:
    """Strikes a command at a point, gives it again, and says what is wrong then."""
    place, old = base / str(number), base / "old"
    shutil.copytree(old, place)
    kinds = MOVES if one.fault == KILL else tuple(ERRORS)
    shim = Shim([place / name for name in case.watched], one.fault, one.at, kinds=kinds)
    begun, wrong, again, words = time.monotonic(), list[str](), "", ""
    code, said = command(case.words, place, shim)
    wrong += what_is_wrong(case, place, one.fault, code, said, old, figures)
    if code or case.figures(place) != figures:
        words = case.again(place)
        if not code and "--overwrite" not in words:
            words = ""  # a study that went on without a file has ended
        if words:
            status, again = command(words, place)
            if status:
                wrong.append(f"the next command ended with {status}: {again!r}")
            elif case.figures(place) != figures:
                wrong.append("the next command came to other figures")
    left = [name for name in strays(place) if f"cannot remove {place / name};" not in said + again]
    if words.startswith("report"):  # which knows no store; whoever uses it next tidies it
        left = [name for name in left if "/users/" not in name]
    if left:
        wrong.append(f"left behind: {left}")
    if not wrong:
        shutil.rmtree(place)
        for ending in (".said", ".out"):
            place.with_name(place.name + ending).unlink()
    return {
        "number": number, "fault": one.fault, "kind": one.point.kind,
        "path": one.point.path.removeprefix(f"{base / 'counted'}/"),
        "code": code, "said": said[-600:], "again": again[-600:], "wrong": wrong,
        "seconds": round(time.monotonic() - begun, 2),
    }  # fmt: skip


def digits(folder: Path, each: int = 4) -> Path:
    """Scikit-learn's digits 0 to 2 as PNG files in class folders."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    held = load_digits()
    for digit in range(3):
        (folder / f"digit-{digit}").mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(held.target == digit)[:each]):
            levels = (held.images[row] / 16 * 255).astype(np.uint8)
            Image.fromarray(levels).save(folder / f"digit-{digit}" / f"{number:03d}.png")
    return folder


def prepare(name: str, base: Path) -> Any:
    """What there was before, the points of the command, and the figures that it comes to."""
    case, old = CASES[name], base / "old"
    digits(old / "data")
    first = {"train": [TRAIN], "export": [TRAIN, EXPORT, f"{TRAIN} --seed 1 --overwrite"],
             "search": [TRAIN]}[name]  # fmt: skip
    for words in first:
        _done(*command(words, old))
    for scrap in {"train": ["cache"], "search": ["run"]}.get(name, []):
        shutil.rmtree(old / scrap)
    counted = base / "counted"
    shutil.copytree(old, counted)
    shim = Shim([counted / one for one in case.watched], KILL, kinds=tuple(ERRORS))
    _done(*command(case.words, counted, shim, base / "points.json"))
    points, modules = _json(base / "points.json")
    (base / "points.json").write_text(json.dumps(points))
    for module in modules:  # what a child need not import
        with contextlib.suppress(BaseException):
            importlib.import_module(module)
    return case.figures(counted)


def _done(code: int, said: str) -> None:
    if code:
        raise RuntimeError(said)


# What two processes write at once: the command, what each round begins without, and what must come
# to the figures; where there are two of these, each process has one.
TOGETHER = {
    "one store": ("train", ("cache", "run", "run2"), ("run", "run2")),
    "one run": ("train", (), ("run",)),
    "one export": ("export", (), ("export",)),
    "one study": ("search", ("study",), ("study",)),
}


def together(what: str, base: Path, seconds: float) -> dict[str, Any]:
    """Gives a command twice at once, again and again."""
    name, fresh, made = TOGETHER[what]
    figures, case, place = prepare(name, base), CASES[name], base / "counted"
    read = {"run": of_run, "run2": of_run, "export": of_export, "study": of_study}
    rounds, codes, wrong = 0, collections.Counter[int](), list[str]()
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        for one in fresh:
            shutil.rmtree(place / one, ignore_errors=True)
        second = case.words.replace("/run ", "/run2 ") if "run2" in made else case.words
        both = [start(case.words, place, label="-a"), start(second, place, label="-b")]
        for code, said in [ended(*one) for one in both]:
            codes[code] += 1
            refused = code == 2 and "Another process" in said and len(made) == 1
            if "Traceback" in said or not (refused or (code == 0 and not said)):
                wrong.append(f"{code}: {said[-500:]}")
        wrong += [f"other figures in {one}" for one in made if read[one](place / one) != figures]
        wrong += [f"left behind: {strays(place)}"] if strays(place) else []
        rounds += 1
    return {
        "what": what, "rounds": rounds, "done": codes[0], "refused": codes[2],
        "seconds": round(time.monotonic() - begun), "wrong": wrong,
    }  # fmt: skip


def main(folder: str, name: str, *more: str) -> None:
    """Tries every point, or with ``STRIDE`` in the environment every so many-th of those that
    ``MATCH`` finds by fault, kind and path.
    """
    _imported()
    if name == "together":
        for what in TOGETHER:
            base = Path(folder).resolve() / what.replace(" ", "-")
            base.mkdir(parents=True)
            print(json.dumps(together(what, base, float(more[0]))), flush=True)
        return
    base, stride = Path(folder).resolve() / name, int(os.environ.get("STRIDE", "1"))
    base.mkdir(parents=True)
    figures, case = prepare(name, base), CASES[name]
    wanted = re.compile(os.environ.get("MATCH", ""))
    waiting = [
        (number, one)
        for number, one in enumerate(attempts(case, base, list(more) or [ERROR, KILL]))
        if wanted.search(f"{one.fault} {one.point.kind} {one.point.path}")
    ][::stride]
    running: dict[int, Path] = {}
    while waiting or running:
        if waiting and len(running) < AT_ONCE:
            number, one = waiting.pop(0)
            told = base / f"{number}.told"
            child = os.fork()
            if not child:
                try:
                    told.write_text(json.dumps(attempt(case, base, number, one, figures)))
                except BaseException:
                    wrong = {**one._asdict(), "wrong": [traceback.format_exc()]}
                    told.write_text(json.dumps(wrong))
                os._exit(0)
            running[child] = told
            continue
        child, _ = os.wait()
        told = running.pop(child)
        print(told.read_text(), flush=True)
        told.unlink()


def _imported() -> None:
    """Everything that a command imports, and nothing computed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Tracing is most of the time of commands as small as these, and writes nothing.
    os.environ.setdefault("KERAS_TRANSFER_FAST", "off")
    for name in (
        "keras", "openvino", "ai_edge_litert.interpreter", "matplotlib.pyplot", "scipy.optimize",
        "keras_transfer.cli", "keras_transfer.training", "keras_transfer.export", "tuning.search",
        "tuning.__main__",
    ):  # fmt: skip
        importlib.import_module(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
