from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import zoo

from keras_transfer.export import proof
from keras_transfer.modalities import image


def test_reads_the_same_pixels_as_training(tmp_path: Path) -> None:
    """Every odd kind of image, and every EXIF orientation of a large JPEG."""
    images = {f"{i}{Path(n).suffix}": d for i, (n, d) in enumerate(zoo.odd_images().items())}
    for orientation in range(1, 9):
        exif = zoo.Image.Exif()
        exif[0x0112] = orientation
        photo = zoo.photo(seed=orientation).resize((901, 603))
        images[f"turned{orientation}.jpg"] = zoo.encode(photo, "JPEG", exif=exif)
    for name, data in images.items():
        path = tmp_path / name
        path.write_bytes(data)
        for size in ((96, 96), (64, 80)):
            expected = image.decode(data, image.spec(size))
            np.testing.assert_array_equal(proof.read_pixels(path, size), expected, err_msg=name)


def test_compare_counts_by_hand() -> None:
    expected = np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])
    found = np.array([[0.6, 0.4], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    row = proof.compare(expected, found, np.array([0, 1, 1, 0]))
    assert row["agreement"] == 0.5
    assert row["disagreements"] == 2
    assert row["reference_accuracy"] == 0.75
    assert row["accuracy"] == 0.75
    assert (row["lost"], row["gained"]) == (1, 1)
    assert row["largest_difference"] == pytest.approx(0.6)
    assert row["mean_difference"] == pytest.approx((0.1 + 0.2 + 0.0 + 0.6) / 4)
    nll = -(math.log(0.6) + math.log(0.6) + math.log(0.8) + math.log(0.3)) / 4
    before = -(math.log(0.7) + math.log(0.4) + math.log(0.8) + math.log(0.9)) / 4
    assert row["nll"] == pytest.approx(nll)
    assert row["nll_change"] == pytest.approx(nll - before)


def test_of_several_labels_those_are_counted_that_either_gives() -> None:
    expected = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.3], [0.6, 0.1, 0.9]])
    found = np.array([[0.9, 0.2, 0.1], [0.8, 0.4, 0.1], [0.1, 0.2, 0.3], [0.6, 0.1, 0.9]])
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], np.uint8)
    row = proof.compare(expected, found, labels, [0.5, 0.6, 0.5])
    # One of two lost, one exchanged for another, none of none, two of two.
    assert (row["images"], row["answers"], row["disagreements"]) == (4, 5, 2)
    assert row["agreement"] == pytest.approx(3 / 5)
    assert (row["accuracy"], row["reference_accuracy"]) == (0.25, 0.75)
    assert (row["lost"], row["gained"]) == (2, 0)
    none = proof.compare(0 * expected, 0 * found, labels, [0.5, 0.6, 0.5])
    assert (none["answers"], none["agreement"]) == (0, 1.0)


def test_table_lines_up_and_gives_reasons() -> None:
    rows = [
        {"name": "tflite", "verdict": "passed", "agreement": 1.0, "accuracy": 0.9, "bytes": 2e6},
        {"name": "onnx", "verdict": "failed", "reason": "tf2onnx is not installed"},
    ]
    lines = proof.table(rows).splitlines()
    assert lines[0].index("verdict") == lines[2].index("passed") == lines[3].index("failed")
    assert "100.0 %" in lines[2]
    assert lines[-1] == "onnx: tf2onnx is not installed"


EXAMPLES = np.zeros((1, 64, 64, 3), np.uint8)
JOB = {"runtime": "tflite", "threads": 1, "seconds": 0.05, "output": False}


def test_a_runtime_that_cannot_read_the_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"not a model")
    result = proof.run_fresh({**JOB, "path": path}, EXAMPLES)
    assert set(result) == {"error"}
    assert "\n" not in result["error"]


def test_a_runtime_that_is_not_installed_is_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ai_edge_litert.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = proof.run_fresh({**JOB, "path": "model.tflite"}, EXAMPLES)
    assert result == {"missing": "ai-edge-litert is not installed here"}


def test_the_judge_runs_alone(exported, tmp_path: Path) -> None:
    """Neither this package nor TensorFlow is in the process that proves a .tflite file."""
    (tmp_path / "spy.py").write_text(
        "import sys, runpy\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print(sorted(m for m in sys.modules if '.' not in m), file=sys.stderr)\n"
    )
    request, examples = tmp_path / "job.json", tmp_path / "examples.npy"
    np.save(examples, EXAMPLES)
    paths = {"path": exported.path / "model.tflite", "answer": tmp_path / "a.json"}
    request.write_text(json.dumps({**JOB, **paths, "examples": examples}, default=str))
    script = str(exported.path / "verify" / "verify.py")
    import subprocess

    spy = [sys.executable, "-I", str(tmp_path / "spy.py"), script, "--job", str(request)]
    done = subprocess.run(spy, capture_output=True, text=True, check=True)
    assert "'ai_edge_litert'" in done.stderr
    for module in ("keras_transfer", "tensorflow", "keras", "PIL"):
        assert f"'{module}'" not in done.stderr
