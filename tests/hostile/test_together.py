"""Two processes at once on one thing: both come to the answers of one alone, or one is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hostile.points import contents
from hostile.table import assert_refused, say
from keras_transfer.base import files
from keras_transfer.runs import folder as runs

HERE = Path(__file__).parent
HOLD = """
import sys
from pathlib import Path
from keras_transfer.base import files
with files.atomic_folder(sys.argv[1], replace=True) as folder:
    print("held", flush=True)
    if not sys.stdin.read():
        sys.exit()
"""


@pytest.fixture
def held(tmp_path):
    """An export folder to which another process is writing."""
    target = tmp_path / "export"
    command = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        yield target
        other.stdin.close()


def test_an_export_that_another_process_writes_is_refused(held, digits_run):
    said = say("export", digits_run, "--output", held, "--formats", "tflite", "--quiet")
    assert_refused(said, f"Another process is writing {held}", "Wait until it has ended")


def test_a_study_that_another_process_writes_is_refused(digits_folder, tmp_path):
    study = tmp_path / "study"
    with files.alone(study / "lock", "searching"):
        said = say("search", digits_folder, "--output", study, "--trials", "1", "--quiet")
    assert_refused(said, f"Another process is searching in {study}", "Wait until it has ended")
    assert [path.name for path in study.iterdir()] in ([], ["lock"])


def test_a_run_that_another_process_writes_is_refused_and_can_be_read(digits_folder, digits_run):
    before = contents(digits_run)
    with runs.begin(digits_run, {"keras_transfer": "0"}, overwrite=True):
        said = say("train", digits_folder, "--output", digits_run, "--overwrite", "--quiet")
        assert_refused(said, f"Another process is writing a run to {digits_run}")
        assert runs.open_run(digits_run).config["seed"] == 6
    runs._remove(digits_run, runs._UNFINISHED)
    assert contents(digits_run) == before


@pytest.mark.slow
def test_a_minute_together_on_a_store_a_run_an_export_and_a_study(tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE / "points.py"), str(tmp_path), "together", "60"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    tried = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(*tried, sep="\n")
    assert len(tried) == 4
    assert [one for one in tried if one["wrong"] or not one["done"]] == []
