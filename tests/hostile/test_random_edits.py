"""Random edits of every file that we read: an error of ours, or what stood there before.

What a user may choose, such as a setting, must be returned exactly as the file has it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_transfer.base.errors import KerasTransferError, UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.datasets.splits import read_splits
from keras_transfer.export import proof
from keras_transfer.recipe import read_file
from keras_transfer.runs import folder as runs
from tuning import results, space, tuner

from . import edits
from .test_export import whole as export  # noqa: F401 - a fixture
from .test_study import ABOUT, SPACE, oracle
from .test_study import whole as study  # noqa: F401 - a fixture

Edit = Callable[[bytes], bytes]
ANY = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 10**30, 1e308, "", "a\0b", [], {}, [None]]),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=4),
)
PLACE = st.integers(0, 10**6)
GARBAGE = (b"\0", b"\xed\xa0\x80", b'"\\ud800"', b"\xff", b"[" * 9999, b",", b"\n", b"NaN")


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every table or list of a JSON value with every key of it."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def in_json(data: bytes, what: str, place: int, value: Any) -> bytes:
    held = json.loads(data)
    found = list(places(held))
    table, key = found[place % len(found)]
    if what == "drop":
        del table[key]
    elif what == "twice" and isinstance(table, dict):
        name, said = json.dumps(key), json.dumps(value)
        return data.replace(name.encode(), f"{name}: {said}, {name}".encode(), 1)
    elif what == "number" and isinstance(table[key], (int, float)):
        table[key] = table[key] * (place % 7 - 3) + place % 3
    else:
        table[key] = value
    return json.dumps(held).encode()


def in_lines(data: bytes, what: str, place: int, value: Any, between: str) -> bytes:
    rows = data.splitlines(keepends=True)
    at = place % len(rows)
    if what == "drop":
        del rows[at]
    elif what == "twice":
        rows.insert(at, rows[at])
    else:
        cells = rows[at].decode().rstrip("\n").split(between)
        cells[place % len(cells)] = str(value)
        rows[at] = (between.join(cells) + "\n").encode("utf-8", "surrogatepass")
    return b"".join(rows)


def in_bytes(data: bytes, what: str, place: int) -> bytes:
    at = place % len(data)
    if what == "cut":
        return data[:at]
    if what == "flip":
        return data[:at] + bytes([data[at] ^ 1 << place % 8]) + data[at + 1 :]
    return data[:at] + GARBAGE[place % len(GARBAGE)] + data[at:]


@st.composite
def edited(draw: st.DrawFn, kind: str) -> Edit:
    """An edit of a file of JSON, CSV or TOML."""
    what = draw(st.sampled_from(["put", "drop", "twice", "number", "cut", "flip", "insert"]))
    place, value = draw(PLACE), draw(ANY)
    if what in ("cut", "flip", "insert"):
        return lambda data: in_bytes(data, what, place)
    if kind == "json":
        return lambda data: in_json(data, what, place, value)
    between = {"csv": ",", "toml": " = "}[kind]
    return lambda data: in_lines(data, what, place, value, between)


def unsealed(held: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in held.items() if name != "sha256"}


def table(path: Path) -> dict[str, Any]:
    """The splits of a file as the csv module has them."""
    rows = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
    return {row["path"]: (row["label"], row["split"]) for row in rows}


def proven(folder: Path) -> Any:
    """A proof whose artefacts cannot be run here; None where it fails."""
    found = proof.verify(folder)
    assert found["exit_code"] in (1, 2)
    return None if found["exit_code"] == 1 else proof.read(folder, proof.MANIFEST, "files", dict)


def gone_on(folder: Path) -> Any:
    """What an oracle knows of the trials that have ended."""
    trials = tuner.open_tuner(oracle, folder, space.parse(SPACE), None, ABOUT, Progress()).oracle
    return {
        int(number): (trial.hyperparameters.values, trial.score)
        for number, trial in trials.trials.items()
    }


# Of each file: its kind, what reads it, and, where a user may choose, what it must then say.
FILES: dict[str, tuple[str, str, Callable[[Path], Any], Callable[[Path], Any] | None]] = {
    "config.json": (
        "digits_run", "json", lambda folder: runs.open_run(folder).config,
        lambda folder: json.loads((folder / "config.json").read_bytes()),
    ),
    "metrics.json": (
        "digits_run", "json", lambda folder: unsealed(runs.open_run(folder).metrics), None,
    ),
    "predictions.csv": (
        "digits_run", "csv", lambda folder: runs.open_run(folder).predictions, None,
    ),
    "history.csv": ("digits_run", "csv", lambda folder: runs.open_run(folder).history, None),
    "splits.csv": (
        "digits_run", "csv", lambda folder: read_splits(folder / "splits.csv"),
        lambda folder: table(folder / "splits.csv"),
    ),
    "study.json": ("study", "json", lambda folder: unsealed(results.read_study(folder)), None),
    "trials/0001/record.json": (
        "study", "json", lambda folder: results.read_record(folder, 1), None,
    ),
    "best.toml": (
        "study", "toml", lambda folder: read_file(folder / "best.toml"),
        lambda folder: tomllib.loads((folder / "best.toml").read_text("utf-8")),
    ),
    "oracle/trial_1/trial.json": ("study", "json", gone_on, None),
    "oracle/oracle.json": ("study", "json", gone_on, None),
    "manifest.json": ("export", "json", proven, None),
    "parity.json": ("export", "json", proven, None),
    "verify/expected.json": ("export", "json", proven, None),
}  # fmt: skip


def hold(file: str, whole: Path, folder: Path, examples: int) -> None:
    """Tries edits of a file, each from the original."""
    _, kind, read, said = FILES[file]
    edits.twin(whole, folder)
    before, original = (whole / file).read_bytes(), read(folder)

    @settings(
        derandomize=True, deadline=None, max_examples=examples, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(edited(kind))
    def holds(edit: Edit) -> None:
        if file.startswith("oracle"):  # it may have been made again
            shutil.rmtree(folder / "oracle")
            shutil.copytree(whole / "oracle", folder / "oracle")
        edits.change(folder / file, edit(before))
        found, refused = None, None
        try:
            found = read(folder)
        except KerasTransferError as error:
            refused = error
        if refused is not None:
            assert refused.exit_code == 2
            assert Path(file).name in refused.message
        elif found is not None and found != original:
            assert said is not None, found
            assert found == said(folder)

    holds()


@pytest.fixture
def no_runtime(monkeypatch):
    monkeypatch.setattr(proof, "run_fresh", lambda *job: {"missing": "it is not installed here"})
    monkeypatch.setattr(proof, "read_pixels", lambda path, size: np.zeros((*size, 3), np.uint8))


@pytest.mark.parametrize("file", FILES)
def test_an_edit_is_refused_or_changes_nothing(file, request, tmp_path, no_runtime):
    examples = 12 if file.startswith("oracle") else 40  # KerasTuner reads slowly
    hold(file, request.getfixturevalue(FILES[file][0]), tmp_path / "copy", examples)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_many_edits_are_refused_or_change_nothing(file, request, tmp_path, no_runtime):
    hold(file, request.getfixturevalue(FILES[file][0]), tmp_path / "copy", 1000)


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(edited("toml"))
def test_an_edited_space_is_read_or_refused(tmp_path_factory, edit):
    file = tmp_path_factory.mktemp("space") / "space.toml"
    file.write_bytes(edit(SPACE.encode()))
    with contextlib.suppress(UsageError):
        space.read_space(file)
