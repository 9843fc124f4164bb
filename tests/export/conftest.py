"""One small real run, exported once, for all tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keras_transfer.export import ExportResult, export_run, parity
from keras_transfer.runs import folder as runs


@pytest.fixture(scope="session")
def run(digits_run: Path) -> runs.Run:
    return runs.open_run(digits_run)


@pytest.fixture(scope="session")
def quick():
    """Spends little time on timing: its numbers are not what most tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "TIMING_SECONDS", 0.05)
        patch.setattr(parity, "most_threads", lambda: 1)
        yield


@pytest.fixture(scope="session")
def exported(run: runs.Run, quick: None, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """Every format that needs no extra package, all in place: on some machines weights of eight
    bits move one answer of 35, which is one too many."""
    formats = "saved_model,keras,tflite,tflite-float16,tflite-dynamic,tflite-int8"
    folder = tmp_path_factory.mktemp("exports") / "digits"
    return export_run(run, formats, folder, allow_failing=True)


@pytest.fixture(scope="module")
def expected(exported: ExportResult) -> dict[str, Any]:
    """``expected.json`` of the export that a file of tests makes."""
    found: dict[str, Any] = json.loads((exported.path / "verify" / "expected.json").read_text())
    return found
