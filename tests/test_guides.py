"""The code of the guides runs as it stands on their pages, one block after the other."""

import re
import runpy
import shlex
import warnings
from pathlib import Path

import pytest
from PIL import Image

from keras_transfer import cli

DOCS = Path(__file__).resolve().parents[1] / "docs"
# What opens a page for a person and waits.
WAITS = "demo"


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the code of each block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.M | re.S)


def python(page: str) -> list[str]:
    return [code for language, code in blocks(page) if language == "python"]


def carry_out(code: str, tmp_path: Path) -> None:
    """Runs Python as a script in the current folder."""
    script = tmp_path / "block.py"
    script.write_text(code)
    runpy.run_path(str(script), run_name="__main__")


@pytest.fixture
def place(digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``photos`` in it, where the reader is."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    "page", [pytest.param("plain_keras", marks=pytest.mark.slow), "own_backbone"]
)
def test_python_of_a_guide(page: str, place: Path, digits_folder: Path, tmp_path: Path) -> None:
    """As one script: later blocks use what earlier ones have made."""
    (place / "photos").symlink_to(digits_folder)
    codes = python(page)
    assert codes
    carry_out("\n".join(codes), tmp_path)


@pytest.mark.parametrize(("package", "number"), [("mlflow", 0), ("wandb", 1)])
def test_a_run_goes_to_a_tracker(
    package: str, number: int, place: Path, digits_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pytest.importorskip(package, reason=f"{package} is no dependency; the page says how it is used")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (place / "runs").mkdir()
    (place / "runs" / "photos").symlink_to(digits_run)
    with warnings.catch_warnings(action="ignore"):
        carry_out(python("trackers")[number], tmp_path)
    assert [path.name for path in place.iterdir()] != ["runs"]


@pytest.mark.slow
def test_the_first_hour(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Every block in turn, the demo left out, and what the page says about the files."""
    for language, code in blocks("first_hour"):
        if language == "python":
            carry_out(code, tmp_path)
        for line in code.splitlines():
            words = shlex.split(line)
            if words[:1] == ["keras-transfer"] and words[1] != WAITS:
                assert cli.main(words[1:]) == 0, line
    said = capsys.readouterr().out
    assert "right on the test" in said
    assert "Report: " in said
    assert (place / "runs/photos/report.html").exists()
    assert {"README.md", "model.tflite", "saved_model"} <= {
        path.name for path in (place / "saved_models/photos").iterdir()
    }
    # The guide on servers goes on from here.
    source = sorted((place / "photos" / "digit-3").iterdir())[0]
    Image.open(source).convert("RGB").save(place / "photo.jpg", quality=95)
    carry_out(python("serving")[0], tmp_path)
    assert capsys.readouterr().out.startswith("digit-")
