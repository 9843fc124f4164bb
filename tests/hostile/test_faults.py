"""Nothing is lost, and nothing half-written believed, wherever a disk fails or a process is killed.

The default suite tries every point of what writes (a file, a folder, the caches) and a disk that is
full for good under ``train``. Every point of ``train``, ``export`` and ``search`` is slow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from hostile.points import contents, digits
from hostile.shim import FAULTS, KILL, Shim, failing
from hostile.table import assert_refused, say
from keras_transfer import datasets
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.frozen.store import ActivationKey, ActivationStore
from keras_transfer.runs import folder as runs

HERE = Path(__file__).parent
FAILURES = [fault for fault in FAULTS if fault != KILL]


def fill(path, text):
    with files.atomic_folder(path, replace=True) as folder:
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text(text)


def write(path, text):
    files.write_text(path, text)


MADE = {"a file": ("one.txt", write), "a folder": ("one", fill)}


def points(folder, fault, act):
    with failing(Shim([folder], fault)) as counted:
        act()
    return len(counted.points)


@pytest.mark.parametrize("fault", FAILURES)
@pytest.mark.parametrize("what", MADE)
def test_what_fails_at_any_point_leaves_the_old_or_the_new(what, fault, tmp_path, recwarn):
    name, make = MADE[what]
    whole = {}
    for text in ("old", "new"):
        make(tmp_path / text / name, text)
        whole[text] = contents(tmp_path / text)
    place = tmp_path / "old"
    last = points(place, fault, lambda: make(place / name, "old"))
    assert last > 1
    for at in range(1, last + 1):
        failed = None
        with failing(Shim([place], fault, at)):
            try:
                make(place / name, "new")
            except OSError as error:
                failed = error
        for left in place.glob(".*"):  # what could not be removed, until the next process
            assert failed is None
            assert left.is_file() or any(str(left) in str(one.message) for one in recwarn)
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        assert contents(place) == whole["old" if failed else "new"]
        assert failed is None or str(place) in str(failed)
        assert os.listdir(place) == [name]
        make(place / name, "old")


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from hostile import test_faults as here
name, make = here.MADE[sys.argv[2]]
place = Path(sys.argv[3])
for at in range(1, 99):
    make(place / name, "old")
    assert os.listdir(place) == [name], (at, os.listdir(place))
    child = os.fork()
    if not child:
        with here.failing(here.Shim([place], here.KILL, at)):
            make(place / name, "new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    files = here.files
    files.settle(place / name)
    held = here.contents(place / name) if (place / name).is_dir() else (place / name).read_text()
    text = {"old", "new"} - {t for t in ("old", "new") if held != here.expected(name, t)}
    assert len(text) == 1, (at, held)
    if not status:
        print(at - 1)
        break
"""


def expected(name, text):
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"a.txt": digest, "b.txt": digest} if name == "one" else text


@pytest.mark.parametrize("what", MADE)
def test_who_is_killed_at_any_point_leaves_the_old_or_the_new(what, tmp_path):
    """And nothing besides, once it has been written again."""
    command = [sys.executable, "-c", KILLED, str(HERE.parent), what, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= {"a file": 4, "a folder": 8}[what]


@pytest.mark.parametrize("command", ["verify", "demo", "predict"])
def test_an_export_killed_between_its_renamings_is_found_by(command, tmp_path, digits_folder):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    target = tmp_path / "out.v1"
    old = files.temporary(target, f"{files._HOST}{gone.pid:06x}00")
    old = old.with_name(f"{old.name}-old")
    old.mkdir()
    (old / "labels.txt").write_text("mine")
    images = [next(digits_folder.glob("*/*.png"))] if command == "predict" else []
    assert say(command, target, *images).code == 2  # it is no export
    assert [path.name for path in tmp_path.iterdir()] == ["out.v1"]
    assert (target / "labels.txt").read_text() == "mine"


def test_a_folder_that_is_being_written_is_refused(tmp_path):
    with files.atomic_folder(tmp_path / "one", replace=True):
        with pytest.raises(UsageError, match="Another process is writing"):
            fill(tmp_path / "one", "second")
        fill(tmp_path / "two", "another")
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def opened(folder):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        return datasets.load_dataset(folder, image_size=16).examples, said


@pytest.mark.parametrize("fault", FAILURES)
def test_a_cache_of_examples_that_fails_at_any_point_is_done_without(fault, tmp_path):
    data, cache = digits(tmp_path / "data"), tmp_path / "cache"
    with files.cache_at(cache):
        cache.mkdir()
        last, struck = points(cache, fault, lambda: opened(data)), 0
        whole, _ = opened(data)
        for at in range(1, last + 1):
            for path in (cache / "examples").iterdir():
                path.unlink()
            (cache / "examples").rmdir()
            with failing(Shim([cache], fault, at)):
                found, said = opened(data)
            assert np.array_equal(found, whole)
            assert all(str(cache) in str(one.message) for one in said)
            struck += bool(said)
            found, said = opened(data)
            assert np.array_equal(found, whole)
            assert not said
            assert not list(cache.rglob(".*"))
    assert struck


KEY = ActivationKey("b", "w", ("cut",), "p", "r", (8, 8, 3), "float32", "e")


def stored(folder):
    def compute(rows):
        for row in rows:
            yield [np.full((1, 4), row, np.float32)]

    with ActivationStore(folder) as store:
        (held,) = store.ensure([KEY], [f"image-{i}" for i in range(5)], compute)
        found = held.gather(np.arange(5))[0]
    assert (found[:, 0] == np.arange(5)).all()


@pytest.mark.parametrize("fault", FAILURES)
def test_a_store_that_fails_at_any_point_is_whole_the_next_time(fault, tmp_path):
    last = points(tmp_path, fault, lambda: stored(tmp_path / "counted"))
    for at in range(1, last + 1):
        folder = tmp_path / str(at)
        failed = None
        with failing(Shim([folder], fault, at)):
            try:
                stored(folder)
            except OSError as error:
                failed = error
        assert failed is None or str(folder) in str(failed)
        stored(folder)
        left = {path.name for path in folder.glob("*/*")}
        assert len(left) == 5, left  # key.json, lock, users, a shard and its record
        assert not list(folder.glob("*/users/*"))


def test_a_disk_that_is_full_for_good_leaves_the_old_run_and_says_so(digits_folder, tmp_path):
    run = tmp_path / "run"
    command = [
        "train", digits_folder, "--output", run, "--unfreeze", "none", "--effort", "quick",
        "--image-size", "32", "--per-class", "6", "--quiet",
    ]  # fmt: skip
    assert say(*command).code == 0
    before = contents(run)
    with failing(Shim([run], "ENOSPC", 1, lasts=True)):
        assert_refused(say(*command, "--seed", "1", "--overwrite"), str(run), "No space", code=1)
    assert contents(run) == before
    assert runs.open_run(run).config["seed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "export", "search"])
def test_every_point_of(command, tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE / "points.py"), str(tmp_path), command],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    tried = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(f"{command}: {len(tried)} points")
    assert len(tried) > {"train": 300, "export": 50, "search": 150}[command]
    assert [one for one in tried if one["wrong"]] == []
