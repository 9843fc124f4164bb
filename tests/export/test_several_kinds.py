"""Several labels a text and a clip: from a table to a proven export, as with pictures."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clients import printed
from sklearn import metrics

import keras_transfer as kt
from keras_transfer import cli, datasets
from keras_transfer.export import ExportResult
from keras_transfer.runs.folder import Run


def sentences(folder: Path) -> list[tuple[str, str, str]]:
    """What SciPy's documentation says of two of its parts, of both, or of a third, as ``none``."""
    data, random = datasets.load_dataset("builtin:scipy"), np.random.default_rng(0)
    kinds = ("linalg", "signal", "ndimage")
    texts = {
        kind: [data.read(int(i)).decode() for i in np.flatnonzero(data.labels == place)]
        for kind, place in ((kind, data.class_names.index(kind)) for kind in kinds)
    }
    rows = []
    for number in range(160):
        said = [kinds[:1], kinds[1:2], kinds[:2], kinds[2:]][number % 4]
        parts = [texts[kind].pop(random.integers(len(texts[kind]))) for kind in said]
        rows.append(("text", " ".join(parts), "|".join(k for k in said if k != "ndimage") or "|"))
    return rows


def clips(folder: Path) -> list[tuple[str, str, str]]:
    """Two spoken digits one after the other, of four that are classes and two that are none."""
    import soundfile

    data = datasets.load_dataset("builtin:spoken", image_size=1.25)
    random = np.random.default_rng(0)
    chosen = np.flatnonzero(data.labels < 6)
    rows = []
    for number in range(200):
        pair = random.choice(chosen, 2)
        heard = [np.trim_zeros(data.examples[i]) for i in pair]
        name = f"{number:03d}.wav"
        soundfile.write(folder / name, np.concatenate(heard), 16_000)
        classes = sorted({data.class_names[data.labels[i]] for i in pair if data.labels[i] < 4})
        rows.append(("path", name, "|".join(classes) or "|"))
    return rows


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a modality's test is made of."""

    rows: Callable[[Path], list[tuple[str, str, str]]]
    needs: tuple[str, ...]
    options: tuple[str, ...]
    least: float
    classes: int


KINDS = {
    "texts": Kind(sentences, ("tokenizers",), ("--max-length", "48"), 0.9, 2),
    "clips": Kind(clips, ("soundfile", "soxr"), ("--clip-length", "2"), 0.7, 4),
}


@pytest.fixture(scope="module", params=[pytest.param("texts", marks=pytest.mark.slow), "clips"])
def made(request, tmp_path_factory) -> tuple[Kind, Run, ExportResult]:
    """The kind, a run on it and what was exported from that."""
    kind = KINDS[request.param]
    for package in kind.needs:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp(request.param)
    rows = kind.rows(folder)
    with open(folder / "table.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([(rows[0][0], "label"), *(row[1:] for row in rows)])
    words = ("train", folder / "table.csv", "--output", folder / "run", *kind.options, "--quiet")
    assert cli.main([*map(str, words), "--unfreeze", "none", "--views", "1"]) == 0
    run = kt.open_run(folder / "run")
    return kind, run, kt.export_run(run, "tflite", folder / "export")


def test_a_run_knows_what_its_examples_have(made):
    kind, run, _ = made
    test, found = run.dataset.indices("test"), run.metrics["test"]
    labels, scores = run.dataset.labels[test], run.test_probabilities
    assert (run.config["multi_label"], len(run.class_names)) == ("on", kind.classes)
    assert set(labels.sum(axis=1).tolist()) == {0, 1, 2}
    area = metrics.average_precision_score(labels, scores, average="macro")
    assert found["mean_average_precision"] == pytest.approx(area, rel=1e-6)
    assert area > kind.least
    page = (run.path / "report.html").read_text()
    shown = re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert "Answered from" in shown
    assert not re.search(r"\b(images?|pictures?)\b", shown.split("Mistakes and doubts")[0])
    assert cli.main(["evaluate", str(run.path), "--quiet"]) == 0


def test_its_export_answers_as_the_run_and_proves_it(made):
    _, run, export = made
    assert export.passed, export.render()
    rows = run.predictions[:12]
    read, count = run.dataset.read, len(rows)
    items = [read(int(i)) for i in run.dataset.indices("test")[:count]]
    items = [item.decode() for item in items] if run.modality.NAME == "text" else items
    for model in (run, export.path, export.path / "model.tflite"):
        said = ["|".join(row["labels"]) or "|" for row in kt.predict(model, items)]
        assert said == [row["predicted"] for row in rows]
    script = export.path / "verify" / "verify.py"
    command = [sys.executable, "-I", script, "--json"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (0, True), done


def test_the_snippet_of_its_readme_prints_every_label(made, tmp_path):
    _, run, export = made
    row = next(row for row in run.predictions if "|" in row["predicted"].strip("|"))
    item = run.dataset.read(run.dataset.paths.index(row["path"]))
    given = item.decode() if run.modality.NAME == "text" else str(tmp_path / "clip.wav")
    (tmp_path / "clip.wav").write_bytes(item)
    found = printed(export.path, "Python, LiteRT", [given])
    (said,) = kt.predict(run, [given])
    assert [label for label, _ in found] == [n for n in run.class_names if n in said["labels"]]
    scores = {one["label"]: one["probability"] for one in said["classes"]}
    assert all(score == pytest.approx(scores[label], abs=1e-3) for label, score in found)
