from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from keras_transfer import cli
from keras_transfer.base import files
from keras_transfer.base.errors import DataError, KerasTransferError, UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.base.task import ONE
from keras_transfer.export import (
    ExportResult,
    bundle,
    card,
    convert,
    export_run,
    parity,
    quantise,
    verify,
)
from keras_transfer.learn import calibration
from keras_transfer.runs import folder as runs


def test_every_artefact_is_proven_and_the_folder_is_whole(
    exported: ExportResult, run: runs.Run
) -> None:
    folder, report = exported.path, exported.parity
    kept = {name for name, row in report["artefacts"].items() if row["verdict"] == "passed"}
    # Weights of eight bits may move one answer too many, see the fixture.
    assert kept >= {*report["artefacts"]} - {"tflite-dynamic", "tflite-int8"}, exported.render()
    assert exported.passed == (len(kept) == 6)
    assert report == json.loads((folder / "parity.json").read_text())
    assert list(report["artefacts"]) == [
        "saved_model",
        "keras",
        "tflite",
        "tflite-float16",
        "tflite-dynamic",
        "tflite-int8",
    ]
    predictions = run.predictions
    right = np.mean([row["label"] == row["predicted"] for row in predictions])
    assert report["images"] == len(predictions)
    assert report["reference"]["accuracy"] == pytest.approx(right)
    for name, row in report["artefacts"].items():
        assert (row["agreement"] >= row["limit"]) == (name in kept), name
        assert row["agreement"] >= row["limit"] - 1 / row["answers"], name  # by one answer, no more
        assert row["bytes"] > 1e6
        assert row["latency_ms"]["1"]["p95"] >= row["latency_ms"]["1"]["median"] > 0
        assert row["peak_memory_bytes"] > row["bytes"]
        assert row["any_batch"], name
    assert report["artefacts"]["tflite"]["largest_difference"] < 1e-4
    assert report["artefacts"]["saved_model"]["encoded"]["agreement"] >= 0.9
    assert (folder / "labels.txt").read_text().splitlines() == list(run.class_names)
    manifest = json.loads((folder / "manifest.json").read_text())["files"]
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(manifest) == on_disk - {"manifest.json"}
    for name, digest in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_sizes_are_what_the_formats_promise(exported: ExportResult) -> None:
    rows = exported.parity["artefacts"]
    whole = rows["tflite"]["bytes"]
    assert rows["tflite-float16"]["bytes"] < 0.55 * whole
    assert rows["tflite-dynamic"]["bytes"] < 0.35 * whole
    assert rows["tflite-int8"]["bytes"] < 0.35 * whole


SERVE = """
import sys, json
sys.modules["keras"] = sys.modules["keras_transfer"] = None  # importing either now fails
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
pixels = np.load(sys.argv[2])
files = [open(name, "rb").read() for name in sys.argv[3:]]
by_pixels = model.signatures["serving_default"](image=tf.constant(pixels))
by_files = model.signatures["serve_encoded"](image_bytes=tf.constant(files))
print(json.dumps([[row.decode() for row in by_pixels["labels"].numpy()[0]],
                  by_pixels["scores"].numpy().tolist(), by_files["scores"].numpy().tolist(),
                  by_files["labels"].shape.as_list()]))
"""


def test_the_saved_model_serves_pixels_and_files(
    exported: ExportResult, run: runs.Run, tmp_path: Path
) -> None:
    from keras_transfer.modalities import image

    images = sorted((exported.path / "verify" / "images").iterdir())[:5]
    pixels = np.stack([image.decode(path.read_bytes(), image.spec(64)) for path in images])
    np.save(tmp_path / "pixels.npy", pixels)
    model = exported.path / "saved_model" / "1"
    command = [sys.executable, "-I", "-c", SERVE, model, tmp_path / "pixels.npy", *images]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True
    )
    labels, by_pixels, by_files, shape = json.loads(done.stdout)
    assert labels == list(run.class_names)
    assert shape == [5, len(labels)]
    proof = json.loads((exported.path / "verify" / "expected.json").read_text())
    expected = np.array([image["probabilities"] for image in proof["images"][:5]])
    np.testing.assert_allclose(by_pixels, expected, atol=1e-4)
    # TensorFlow's resizing rounds differently from Pillow's, by a level at most.
    np.testing.assert_allclose(by_files, expected, atol=0.1)


def test_warm_up_requests_are_what_tensorflow_serving_reads(exported: ExportResult) -> None:
    """Parsed with descriptors of tensorflow/serving's messages, written here from their .proto."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(
        str(exported.path / "saved_model/1/assets.extra/tf_serving_warmup_requests")
    )
    seen = {}
    for record in records:
        request = _fields(_fields(_fields(record.numpy())[6])[1])
        spec, entry = _fields(request[1]), _fields(request[2])
        tensor = tf.make_ndarray(_tensor_proto(entry[2]))
        seen[spec[3].decode()] = (entry[1].decode(), tensor)
    name, pixels = seen["serving_default"]
    assert (name, pixels.shape, pixels.dtype) == ("image", (1, 64, 64, 3), np.uint8)
    name, files = seen["serve_encoded"]
    assert (name, files.shape) == ("image_bytes", (1,))
    assert tf.io.decode_png(files[0]).shape == (64, 64, 3)


def _tensor_proto(data: bytes) -> object:
    from tensorflow.core.framework import tensor_pb2

    return tensor_pb2.TensorProto.FromString(data)


def _fields(data: bytes) -> dict[int, bytes]:
    """The length-delimited fields of a protocol buffer message."""
    from google.protobuf.internal.decoder import _DecodeVarint

    found, at = {}, 0
    while at < len(data):
        tag, at = _DecodeVarint(data, at)
        assert tag & 7 == 2
        length, at = _DecodeVarint(data, at)
        found[tag >> 3], at = data[at : at + length], at + length
    return found


def _copy(exported: ExportResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.path, tmp_path / "copy"))


def test_verify_repeats_the_proof(exported: ExportResult, tmp_path: Path) -> None:
    """In an interpreter that has LiteRT but neither TensorFlow, Keras nor this package."""
    blocked = "raise ImportError('not in this environment')"
    for module in ("tensorflow", "keras", "keras_transfer"):
        (tmp_path / f"{module}.py").write_text(blocked)
    done = subprocess.run(
        [sys.executable, exported.path / "verify" / "verify.py", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    result = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    verdicts = {row["name"]: row["verdict"] for row in result["artefacts"]}
    assert verdicts == {
        "saved_model": "skipped",
        "keras": "skipped",
        "tflite": "passed",
        "tflite-float16": "passed",
        "tflite-dynamic": "passed",
        "tflite-int8": "passed",
    }


def test_a_flipped_byte_is_caught(exported: ExportResult, tmp_path: Path) -> None:
    folder = _copy(exported, tmp_path)
    for name in ("saved_model", "model.keras"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    data = bytearray((folder / "model-int8.tflite").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model-int8.tflite").write_bytes(data)
    result = verify(folder)
    assert not result.passed
    rows = {row["name"]: row for row in result.to_json()["artefacts"]}
    assert rows["tflite-int8"]["verdict"] == "failed"
    assert "model-int8.tflite is not the file that was exported" in rows["tflite-int8"]["reason"]
    assert rows["keras"]["verdict"] == "failed"
    assert rows["tflite"]["verdict"] == "passed"
    assert "model.keras: missing" in result.render()


def test_a_proof_whose_own_files_changed_proves_nothing(
    exported: ExportResult, tmp_path: Path
) -> None:
    folder = _copy(exported, tmp_path)
    next((folder / "verify" / "images").iterdir()).write_bytes(b"")
    result = verify(folder)
    assert not result.passed
    assert "changed since it was exported" in result.render()


def test_an_artefact_that_answers_wrongly_fails_verification(
    exported: ExportResult, tmp_path: Path
) -> None:
    """The digests agree, the answers do not."""
    folder = _copy(exported, tmp_path)
    proof = json.loads((folder / "verify" / "expected.json").read_text())
    for image in proof["images"]:
        image["probabilities"].reverse()
    proof["artefacts"] = [row for row in proof["artefacts"] if row["name"] == "tflite"]
    (folder / "verify" / "expected.json").write_text(json.dumps(proof))
    manifest = json.loads((folder / "manifest.json").read_text())
    changed = hashlib.sha256((folder / "verify" / "expected.json").read_bytes()).hexdigest()
    manifest["files"]["verify/expected.json"] = changed
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "disagrees with the trained model" in verify(folder).render()


@pytest.fixture
def light(exported: ExportResult, tmp_path: Path) -> Path:
    """A copy of the export with one artefact, which verifies in a moment."""
    folder = _copy(exported, tmp_path)
    for path in (folder / "saved_model", folder / "model.keras", *folder.glob("model-*.tflite")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    proof = json.loads((folder / "verify" / "expected.json").read_text())
    proof["artefacts"] = [row for row in proof["artefacts"] if row["name"] == "tflite"]
    (folder / "verify" / "expected.json").write_text(json.dumps(proof))
    _relist(folder)
    return folder


def _relist(folder: Path) -> None:
    """Lists what is there, as somebody would do who changes a proof."""
    (folder / "manifest.json").unlink()
    bundle.write_manifest(folder)


def _change(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    _relist(folder)


def test_a_whole_export_verifies(light: Path) -> None:
    assert verify(light).passed, verify(light).render()


TAMPERED: dict[str, Callable[[Path], object]] = {
    "notes.txt: not listed in manifest.json": lambda x: (x / "notes.txt").touch(),
    "saved_model/1/extra: not listed in manifest.json": lambda x: (
        (x / "saved_model/1").mkdir(parents=True),
        (x / "saved_model/1/extra").touch(),
    ),
    "README.md: missing": lambda x: (x / "README.md").unlink(),
    "README.md: changed since it was exported": lambda x: (x / "README.md").write_text("mine"),
    "labels.txt: not listed in manifest.json": lambda x: (
        (x / "labels.txt").unlink(),
        _relist(x),
    ),
    "verify/verify.py: not listed in manifest.json": lambda x: (x / "manifest.json").write_text(
        '{"files": {}}'
    ),
    "manifest.json: files: KeyError": lambda x: (x / "manifest.json").write_text("{}"),
    "manifest.json: files: TypeError": lambda x: (x / "manifest.json").write_text("[]"),
    "manifest.json: files: JSONDecodeError": lambda x: (x / "manifest.json").write_text(""),
    "labels.txt: not the classes of verify/expected.json": lambda x: _change(
        x, "labels.txt", "digit-0", "digit-9"
    ),
    "parity.json: 0.5 is not the limit of tflite": lambda x: _change(
        x, "parity.json", '"runtime": "tflite",\n      "limit": 0.995', '"limit": 0.5'
    ),
    "verify/expected.json: 0.5 is not the limit of tflite": lambda x: _change(
        x, "verify/expected.json", '"limit": 0.995', '"limit": 0.5'
    ),
    "verify/expected.json: 999 is not what parity.json counted": lambda x: _change(
        x, "verify/expected.json", '"disagreements": 0', '"disagreements": 999'
    ),
    "verify/expected.json: 0.995 is not the limit of mine": lambda x: _change(
        x, "verify/expected.json", '"name": "tflite"', '"name": "mine"'
    ),
}


@pytest.mark.parametrize("said", TAMPERED)
def test_what_is_not_as_it_was_exported_does_not_verify(light: Path, said: str) -> None:
    TAMPERED[said](light)
    result = verify(light)
    assert not result.passed
    assert result.result["exit_code"] == 1
    assert said in result.render()


def test_the_exit_code_says_whether_a_runtime_was_missing(
    exported: ExportResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in ("tensorflow", "keras", "ai_edge_litert"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('not in this environment')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert cli.main(["verify", str(exported.path)]) == 2
    assert "no runtime of these artefacts is installed" in capsys.readouterr().out


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.json is missing"):
        verify(tmp_path)


def _swapped(content: bytes, seen: object) -> bytes:
    """A quantiser with a defect: the first two classes change places."""
    from keras_transfer.export.flatbuffer import LiteModel

    model = LiteModel(content)
    dense = next(op for op in model.graph.operators if model.code(op) == "FULLY_CONNECTED")
    for tensor in dense.inputs[1:]:
        values = model.values(tensor)
        values[[0, 1]] = values[[1, 0]]
        model.set_values(tensor, values)
    return model.content()


@pytest.mark.parametrize("allow_failing", [False, True])
def test_a_wrong_artefact_is_rejected_and_the_others_come(
    exported: ExportResult,
    run: runs.Run,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allow_failing: bool,
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("no kernel for this operator\nand a long trace below")

    known = (exported.path / "model.tflite").read_bytes()
    monkeypatch.setattr(convert, "lite_bytes", lambda model, name: known)
    monkeypatch.setattr(quantise, "full_integer", _swapped)
    monkeypatch.setattr(quantise, "dynamic_range", broken)
    formats = ["tflite-int8", "tflite-dynamic", "tflite"]
    result = export_run(run, formats, tmp_path / "out", allow_failing=allow_failing)
    rows = result.parity["artefacts"]
    assert not result.passed
    assert [rows[name]["verdict"] for name in formats] == ["failed", "failed", "passed"]
    assert "the limit is 97 %" in rows["tflite-int8"]["reason"]
    assert "tflite-float16" in rows["tflite-int8"]["reason"]
    assert rows["tflite-dynamic"]["reason"].startswith(
        "could not be converted: RuntimeError: no kernel for this operator"
    )
    assert "long trace" not in result.render()
    kept, rejected = tmp_path / "out", tmp_path / "out" / "rejected"
    assert (kept / "model.tflite").is_file()
    assert (kept / "model-int8.tflite").is_file() == allow_failing
    assert (rejected / "model-int8.tflite").is_file() != allow_failing
    # What ships can be verified; what was allowed to fail fails no worse than it did.
    assert verify(kept).passed


def test_what_stands_in_the_way_is_kept(
    exported: ExportResult, run: runs.Run, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="exists already"):
        export_run(run, "tflite", exported.path)
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not an export"):
        export_run(run, "tflite", tmp_path, overwrite=True)
    assert (tmp_path / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", "saved_model/1/notes", "rejected/x"])
def test_an_export_with_something_else_in_it_is_not_replaced(
    light: Path, run: runs.Run, name: str
) -> None:
    (light / name).parent.mkdir(parents=True, exist_ok=True)
    (light / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{light / name} is a file that no export wrote") as said:
        export_run(run, "tflite", light, overwrite=True)
    assert "--output" in said.value.remedy
    assert (light / name).read_text() == "mine"


@pytest.mark.parametrize("manifest", [None, '{"files": {"README.md": ""}}', '["files"]', ""])
def test_names_like_ours_do_not_make_an_export(
    run: runs.Run, tmp_path: Path, manifest: str | None
) -> None:
    (tmp_path / "README.md").write_text("mine")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match="a file that no export wrote"):
        export_run(run, "tflite", tmp_path, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_links_are_not_replaced(light: Path, run: runs.Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    for link in (light / "saved_model", tmp_path / "link", tmp_path / "dangling"):
        link.symlink_to(elsewhere if link.name != "dangling" else tmp_path / "nowhere")
        target = light if link.parent == light else link
        with pytest.raises(UsageError, match=f"{link} is a link"):
            export_run(run, "tflite", target, overwrite=True)
        link.unlink()
    assert (elsewhere / "mine").exists()


@pytest.mark.parametrize("meanwhile", [False, True])
def test_an_export_is_replaced_unless_something_else_comes_into_it(
    light: Path, run: runs.Run, quick: None, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    known = (light / "model.tflite").read_bytes()
    monkeypatch.setattr(convert, "lite_bytes", lambda model, name: known)
    before = (light / "parity.json").read_text()

    class Meanwhile(Progress):
        def stage(self, name: str) -> None:
            if meanwhile and name == "proving tflite":
                (light / "notes.txt").write_text("mine")

    refused = pytest.raises(UsageError, match=r"notes\.txt") if meanwhile else nullcontext()
    with refused:
        assert export_run(run, "tflite", light, overwrite=True, progress=Meanwhile()).passed
    assert ((light / "parity.json").read_text() == before) == meanwhile
    assert (light / "notes.txt").exists() == meanwhile
    assert len(list(light.parent.glob(f"*{light.name}*"))) == 1


def test_the_default_folder_is_named_after_the_run(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Path] = []

    def stop(target: Path, *, overwrite: bool) -> None:
        seen.append(target)
        raise UsageError("far enough", remedy="")

    monkeypatch.setattr(bundle, "check_target", stop)
    with pytest.raises(UsageError, match="far enough"):
        export_run(run)
    assert seen == [Path("saved_models") / run.path.name]


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _tiny(path: object) -> object:
    return shutil._ntuple_diskusage(10**9, 10**9, 1000)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "sabotage",
    [
        lambda patch: patch.setattr(shutil, "disk_usage", _tiny),
        lambda patch: patch.setattr(convert, "lite_bytes", _full),
    ],
    ids=["before", "meanwhile"],
)
def test_no_space(
    run: runs.Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[pytest.MonkeyPatch], None],
) -> None:
    sabotage(monkeypatch)
    with pytest.raises((KerasTransferError, OSError), match=r"(?i)no space .*left.*out"):
        export_run(run, "tflite", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_custom_layer_is_named(run: runs.Run, tmp_path: Path) -> None:
    import keras

    class Mine(keras.layers.Layer):
        def call(self, inputs: object) -> object:
            return inputs

    entry = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(entry, Mine(name="special")(entry))
    vars(odd := dataclasses.replace(run)).update(model=model)
    with pytest.raises(UsageError, match=r"layer 'special' is a .*Mine"):
        export_run(odd, "tflite,keras", tmp_path / "out")


def test_without_test_images_there_is_no_proof(run: runs.Run, tmp_path: Path) -> None:
    dataset = run.dataset
    empty = dataclasses.replace(
        dataset, splits=np.where(dataset.splits == "test", "val", dataset.splits)
    )
    vars(bare := dataclasses.replace(run)).update(dataset=empty)
    with pytest.raises(DataError, match="no test images"):
        export_run(bare, "tflite", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def _row(**changes: object) -> dict:
    row = {"agreement": 1.0, "limit": 0.97, "images": 200, "lost": 0, "gained": 0, **changes}
    counts = {"answers": 200, "disagreements": round(200 * (1 - row["agreement"]))}
    return {"accuracy": 0.8, "reference_accuracy": 0.82, **counts, **row}


def test_a_missing_converter_is_said_before_the_work(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UsageError, match="tf2onnx is not installed") as refused:
        export_run(run, "tflite,onnx", tmp_path / "export", progress=False)
    assert "keras-transfer[onnx]" in refused.value.remedy


def test_verdicts() -> None:
    assert parity.judge(_row()) == ""
    near = parity.judge(_row(agreement=0.965))
    assert "96.5 %" in near
    assert "which 1 more would reach" in near  # 193 of 200, of which 194 are 97 %
    assert "larger test split" in near
    assert "--allow-failing" in near
    far = parity.judge(_row(agreement=0.8))
    assert "which 34 more would reach" in far
    assert "chance" not in far
    # Five lost and none gained happen by luck once in 32 times, four once in 16.
    assert parity.judge(_row(lost=4)) == ""
    assert "more than luck" in parity.judge(_row(lost=5))
    assert parity.judge(_row(lost=5, gained=3)) == ""
    assert parity.judge(_row(gained=9)) == ""
    encoded = {"agreement": 0.5, "images": 64}
    assert "encoded images" in parity.judge(_row(encoded=encoded))


def test_readme_and_card_say_what_was_measured(exported: ExportResult, run: runs.Run) -> None:
    readme = (exported.path / "README.md").read_text()
    card = (exported.path / "model_card.md").read_text()
    for word in ("LiteRT", "kotlin", "swift", "curl", "vision_bundle.mjs", "model.tflite"):
        assert word in readme
    assert "{{" not in readme + card
    for name in run.class_names:
        assert f"- {name}\n" in card
    for row in run.metrics["test"]["per_class"]:
        assert f"| {row['name']} | {row['support']} | {100 * row['recall']:.0f} % (" in card
    assert "Apache-2.0" in card
    assert str(run.path.parent) not in readme + card


def test_the_threshold_is_that_of_the_precision_asked_for(run: runs.Run) -> None:
    scaled = run.validation_logits.astype(float) / run.config["temperature"]
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    confidence = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
    right = scaled.argmax(axis=1) == run.validation_labels
    assert right.mean() < 1
    found_for = {}
    for target in (0.5, 0.9, 0.95, 1.0):
        chosen = calibration.precision_threshold(
            ONE.probabilities(scaled), run.validation_labels, target
        )
        stated = {key: vars(chosen)[key] for key in ("threshold", "validation_images")}
        if target == run.config["target_precision"]:
            assert files.plain(stated).items() <= run.metrics["threshold"].items()
        metrics = {**run.metrics, "threshold": stated}
        found = found_for[target] = card.threshold(dataclasses.replace(run, metrics=metrics))
        answered = right[confidence >= found]
        sure = scipy.stats.beta.ppf(0.05, answered.sum(), (~answered).sum() + 1)
        assert sure >= target or found == 0.0
    # All may be trusted; some; and so few images cannot show the rest.
    assert found_for[0.5] == 0.0 < found_for[0.9]
    assert found_for[0.95] == found_for[1.0] == 0.0
