"""An export whose files were edited, cut or forged: a failed proof, or the same answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keras_transfer.base.errors import UsageError
from keras_transfer.export import bundle, export_run, parity, proof
from keras_transfer.export.demo import Demo

from . import edits
from .edits import DAMAGE, FOLDER, drop, flip, put, swap
from .table import assert_refused, say

EXPECTED = "verify/expected.json"
LISTED = ("labels.txt", "parity.json", EXPECTED, "verify/verify.py", "README.md", "model.tflite")


@pytest.fixture(scope="module")
def whole(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of one artefact, of a run whose classifier is tiny."""
    import keras

    run = edits.twin(digits_run, tmp_path_factory.mktemp("hostile") / "run")
    image = keras.Input((64, 64, 3), dtype="uint8", name="image")
    x = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Dense(5, name="logits")(keras.layers.Flatten()(x))
    edits.change(run / "model.keras", b"")
    keras.Model(image, keras.layers.Softmax(name="probabilities")(x)).save(run / "model.keras")
    edits.change(run / "metrics.json", lambda data: drop("files")(drop("sha256")(data)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "TIMING_SECONDS", 0.05)
        patch.setattr(parity, "most_threads", lambda: 1)
        return export_run(run, "tflite", run.parent / "export").path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return edits.twin(whole, tmp_path / "export")


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """No artefact can be run: what fails then fails for what was done to the files."""
    monkeypatch.setattr(proof, "run_fresh", lambda *job: {"missing": "it is not installed here"})


def fails(folder: Path, *needles: str) -> None:
    """The proof fails, and says why in a line."""
    said = say("verify", folder, "--quiet")
    assert said.code == 1, said
    assert said.err == ""
    assert said.out.rstrip().endswith("FAILED")
    for needle in needles:
        assert needle in said.out, f"{needle!r} is not in\n{said.out}"


def relist(folder: Path) -> None:
    """Lists what is there, as a forger does who knows how."""
    (folder / "manifest.json").unlink()
    bundle.write_manifest(folder)


FREE = ("names a field twice", "holds NaN", "holds a number beyond all", "holds half a surrogate")
"""What verify.py, which reads as Python does, meets in fields that it does not ask for."""


# A folder in its place is no export at all: tried below.
@pytest.mark.parametrize("how", [how for how in DAMAGE if how not in ("is a folder", *FREE)])
def test_a_damaged_list(copy, no_runtime, how):
    edits.change(copy / "manifest.json", DAMAGE[how])
    fails(copy, "manifest.json")


@pytest.mark.parametrize("how", FREE)
def test_a_list_with_more_than_is_asked_for(whole, copy, no_runtime, how):
    edits.change(copy / "manifest.json", DAMAGE[how])
    assert say("verify", copy) == say("verify", whole)


LIST = {
    "its files are a list": (put("files", []), "manifest.json: files"),
    "its files are null": (put("files", None), "manifest.json: files"),
    "its files are gone": (drop("files"), "manifest.json: files"),
    "it lists nothing": (put("files", {}), "not listed"),
    "it lacks a file": (drop("files", "README.md"), "README.md: not listed"),
    "it lacks the artefact": (drop("files", "model.tflite"), "model.tflite: not listed"),
    "it lists another file": (put("files", "notes.txt", "0" * 64), "notes.txt: missing"),
    "it lists a file elsewhere": (put("files", "../secret", "0" * 64), "../secret: missing"),
    "it lists a name with a NUL": (put("files", "a\0b", "0" * 64), "missing"),
    "a digest is another": (put("files", "labels.txt", "0" * 64), "labels.txt: changed"),
    "a digest is a number": (put("files", "labels.txt", 5), "labels.txt: changed"),
    "a digest is null": (put("files", "labels.txt", None), "labels.txt: changed"),
    "a digest is a list": (put("files", "labels.txt", []), "labels.txt: changed"),
    "a digest is in capitals": (put("files", "labels.txt", str.upper), "labels.txt: changed"),
}


@pytest.mark.parametrize("how", LIST)
def test_a_list_that_is_not_the_exports(copy, no_runtime, how):
    edit, *needles = LIST[how]
    edits.change(copy / "manifest.json", edit)
    fails(copy, *needles)


@pytest.mark.parametrize("file", LISTED)
@pytest.mark.parametrize("how", ["has another bit", "is empty", "is longer"])
def test_a_file_that_is_not_the_exports(copy, no_runtime, file, how):
    edit = {"is empty": b"", "has another bit": flip(0.5), "is longer": lambda data: data + b"\n"}
    edits.change(copy / file, edit[how])
    fails(copy, f"{file}: changed since it was exported")


@pytest.mark.parametrize("file", LISTED)
def test_a_folder_in_the_place_of_a_file(copy, no_runtime, file):
    edits.change(copy / file, FOLDER)
    if file == EXPECTED:
        assert_refused(say("verify", copy), EXPECTED)
    else:
        fails(copy, f"{file}: missing")


@pytest.mark.parametrize("file", ["manifest.json", EXPECTED])
@pytest.mark.parametrize("how", ["gone", "a folder"])
def test_what_is_no_export(copy, file, how):
    edits.change(copy / file, FOLDER)
    if how == "gone":
        (copy / file).rmdir()
    assert_refused(say("verify", copy), file)


FORGED = {
    "the proof is empty": (EXPECTED, b"", "expected.json: class_names"),
    "the proof is cut": (EXPECTED, lambda data: data[:200], "expected.json: class_names"),
    "the proof is a list": (EXPECTED, b"[]", "expected.json: class_names"),
    "the proof is not UTF-8": (EXPECTED, b"\xff", "expected.json: class_names"),
    "the proof is nested beyond reason": (EXPECTED, b"[" * 200_000, "expected.json"),
    "the proof has no classes": (EXPECTED, drop("class_names"), "expected.json: class_names"),
    "the classes are a word": (EXPECTED, put("class_names", "abc"), "expected.json: class_names"),
    "the fit is a number": (EXPECTED, put("fit", 1), "expected.json: fit"),
    "the fit is another word": (EXPECTED, put("fit", "stretch"), "no proof"),
    "the size is gone": (EXPECTED, drop("image_size"), "expected.json: image_size"),
    "the size is a word": (EXPECTED, put("image_size", "big"), "expected.json: image_size"),
    "the size has three sides": (EXPECTED, put("image_size", [64, 64, 3]), "no proof"),
    "the size is nothing": (EXPECTED, put("image_size", [0, 0]), "no proof"),
    "the size is negative": (EXPECTED, put("image_size", [-64, 64]), "no proof"),
    "the size is words": (EXPECTED, put("image_size", ["64", "64"]), "no proof"),
    "the images are null": (EXPECTED, put("images", None), "expected.json: images"),
    "there are no images": (EXPECTED, put("images", []), "no proof"),
    "an image is a number": (EXPECTED, put("images", 0, 5), "no proof"),
    "an image is not there": (EXPECTED, put("images", 0, "file", "gone.png"), "no proof"),
    "an image has an unknown label": (EXPECTED, put("images", 0, "label", "x"), "no proof"),
    "an answer is too short": (EXPECTED, put("images", 0, "probabilities", [1.0]), "no proof"),
    "the answers are words": (EXPECTED, put("images", 0, "probabilities", "x"), "no proof"),
    "the artefacts are a table": (EXPECTED, put("artefacts", {}), "expected.json: artefacts"),
    "there are no artefacts": (EXPECTED, put("artefacts", []), ""),
    "an artefact has no file": (EXPECTED, drop("artefacts", 0, "file"), "no proof"),
    "an artefact is not there": (EXPECTED, put("artefacts", 0, "file", "gone.tflite"), "failed"),
    "an artefact is for an unknown runtime": (
        EXPECTED, put("artefacts", 0, "runtime", "magic"), "failed",
    ),
    "a limit is lower": (EXPECTED, put("artefacts", 0, "limit", 0.1), "is not the limit of"),
    "a limit is null": (EXPECTED, put("artefacts", 0, "limit", None), "is not the limit of"),
    "it may be wrong more often": (
        EXPECTED, put("artefacts", 0, "disagreements", 999), "999 is not what parity.json counted",
    ),
    "an artefact is unknown": (EXPECTED, put("artefacts", 0, "name", "x"), "is not the limit of"),
    "the verdicts are empty": ("parity.json", b"", "parity.json: artefacts"),
    "the verdicts are a list": ("parity.json", put("artefacts", []), "parity.json: artefacts"),
    "the verdicts are gone": ("parity.json", drop("artefacts"), "parity.json: artefacts"),
    "a verdict's limit is lower": (
        "parity.json", put("artefacts", "tflite", "limit", 0.1), "parity.json: 0.1 is not",
    ),
    "the labels are too few": ("labels.txt", swap("digit-4\n", ""), "labels.txt: not the classes"),
    "the labels stand otherwise": ("labels.txt", swap("0", "9"), "labels.txt: not the classes"),
    "the labels are empty": ("labels.txt", b"", "labels.txt: not the classes"),
    "the labels are not UTF-8": ("labels.txt", b"\xff\n", "no proof"),
}  # fmt: skip


@pytest.mark.parametrize("how", FORGED)
def test_a_forgery_that_lists_itself(copy, monkeypatch, how):
    file, edit, *needles = FORGED[how]
    if needles != ["failed"]:
        monkeypatch.setattr(proof, "run_fresh", lambda *job: {"missing": "it is not installed"})
    edits.change(copy / file, edit)
    relist(copy)
    fails(copy, *needles)


PREDICTED = {
    "the artefact has another bit": ("model.tflite", flip(0.5), "model.tflite: changed"),
    "the artefact is empty": ("model.tflite", b"", "model.tflite: changed"),
    "a label is another": ("labels.txt", swap("digit-0", "digit-9"), "labels.txt: changed"),
    "a label is gone": ("labels.txt", swap("digit-4\n", ""), "labels.txt: changed"),
    "the labels are a folder": ("labels.txt", FOLDER, "labels.txt: missing"),
    "the list is empty": ("manifest.json", b"", "manifest.json"),
    "the list is a list": ("manifest.json", b"[]", "manifest.json"),
    "the list is a folder": ("manifest.json", FOLDER, "manifest.json"),
    "the list lacks the artefact": (
        "manifest.json", drop("files", "model.tflite"), "model.tflite: not listed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", PREDICTED)
def test_an_export_that_is_asked(copy, digits_folder, how):
    file, edit, *needles = PREDICTED[how]
    edits.change(copy / file, edit)
    picture = digits_folder / "digit-0" / "000.png"
    assert_refused(say("predict", copy, picture), str(copy), *needles)
    assert_refused(say("predict", copy / "model.tflite", picture), str(copy), *needles)


SAME = {
    "nothing": ("README.md", lambda data: data),
    "the list is written otherwise": ("manifest.json", edits.pretty),
    "the list says another version": ("manifest.json", put("keras_transfer", "9")),
    "the proof is damaged": (EXPECTED, b""),
    "the page is damaged": ("README.md", b""),
}


@pytest.mark.parametrize("how", SAME)
def test_what_changes_no_answer(whole, copy, digits_folder, how):
    file, edit = SAME[how]
    edits.change(copy / file, edit)
    picture = digits_folder / "digit-0" / "000.png"
    answers = [say("predict", folder, picture, "--json") for folder in (whole, copy)]
    assert answers[0].code == 0
    assert answers[0] == answers[1]


@pytest.mark.parametrize("how", ["nothing", "the list is written otherwise"])
def test_a_proof_that_still_holds(copy, how):
    file, edit = SAME[how]
    edits.change(copy / file, edit)
    said = say("verify", copy)
    assert said.code == 0, said


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        (EXPECTED, b""), (EXPECTED, b"[]"), (EXPECTED, put("class_names", ["a"])),
        (EXPECTED, FOLDER), ("model.tflite", flip(0.5)), ("manifest.json", b"{}"),
    ],
    ids=["an empty proof", "a list", "other classes", "a folder", "another artefact", "no list"],
)  # fmt: skip
def test_the_demo_of_an_export(copy, file, edit):
    edits.change(copy / file, edit)
    with pytest.raises(UsageError) as refused:
        Demo(copy)
    assert file in refused.value.message


@pytest.mark.parametrize("how", ["is empty", "is a list", "is nested beyond reason", "is a folder"])
def test_an_export_that_is_not_known_for_ours_is_not_replaced(copy, digits_run, how):
    edits.change(copy / "manifest.json", DAMAGE[how])
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    said = say("export", digits_run, "--output", copy, "--overwrite")
    assert_refused(said, str(copy), "not replaced")
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_the_script_that_travels_says_the_same(copy):
    import subprocess
    import sys

    edits.change(copy / "manifest.json", put("files", []))
    done = subprocess.run(
        [sys.executable, copy / "verify" / "verify.py", "--json"], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert "manifest.json: files" in json.loads(done.stdout)["files"][0]
