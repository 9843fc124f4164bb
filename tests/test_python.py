"""The code of docs/python.md runs as it stands, on smaller numbers."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import keras_transfer as kt
from keras_transfer.export import parity

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def test_the_code_of_the_page_runs(digits_folder: Path, tmp_path: Path, monkeypatch) -> None:
    for folder in sorted(digits_folder.iterdir()):
        for path in sorted(folder.iterdir())[:12]:
            target = tmp_path / "photos" / folder.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parity, "TIMING_SECONDS", 0.05)
    monkeypatch.setattr(parity, "most_threads", lambda: 1)
    smaller = {"image_size": 32, "views": 1, "unfreeze": 1}

    @functools.wraps(kt.train)
    def train(*arguments, **settings):
        return original(*arguments, **smaller | settings)

    original = kt.train
    monkeypatch.setattr(kt, "train", train, raising=False)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 8
    held: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), held)
    assert held["done"].passed
    assert "predicted" in Path("answers.csv").read_text()
    assert len(held["by_path"]) == len(held["in_memory"]) == len(held["split"]) == 60
    assert held["again"].config["backbone"] == "own-mine"
    assert held["page"].exists()
