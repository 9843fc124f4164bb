"""A run that is killed with -9 at any moment goes on, and ends as one never killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from test_journey import without_times

from keras_transfer.base.errors import UsageError
from keras_transfer.runs import folder as runs

KILLS = 10


def start(data, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_transfer", "train", str(data), "--image-size", "48",
         "--effort", "quick", "--quiet", "--resume", "--output", str(folder / "run"),
         "--cache", str(folder / "cache")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"KERAS_TRANSFER_CACHE": str(folder / "pixels")},
    )  # fmt: skip


def end(process):
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said


def results(folder):
    metrics = without_times(json.loads((folder / "run" / "metrics.json").read_text()))
    # What was found in the cache tells the runs apart and must; a head or an epoch done before the
    # kill is reported as such.
    wanted = ("test", "validation", "kept", "temperature")
    return {key: metrics.get(key) for key in wanted}, (
        folder / "run" / "predictions.csv"
    ).read_bytes()


@pytest.mark.slow
def test_ten_kills_change_nothing(digits_folder, tmp_path):
    draw = random.Random(0)
    begun = time.monotonic()
    end(start(digits_folder, tmp_path / "whole"))
    lasts = time.monotonic() - begun
    expected = results(tmp_path / "whole")
    struck = 0
    for number in range(KILLS):
        folder = tmp_path / f"killed-{number}"
        process = start(digits_folder, folder)
        try:
            process.wait(timeout=draw.uniform(0.1, 0.95) * lasts)
        except subprocess.TimeoutExpired:
            struck += 1
            process.send_signal(signal.SIGKILL)
        process.communicate()
        try:
            runs.open_run(folder / "run")
        except UsageError:
            end(start(digits_folder, folder))
        assert results(folder) == expected, f"kill {number}"
    assert struck >= KILLS // 2
