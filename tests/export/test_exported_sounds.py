"""A run of sounds, exported: every format, the proof that travels, MediaPipe, WAV files in."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import soundfile
from clients import logged, of_keras, printed, same, served
from runs import browser
from test_demo import answer, ask, choose, serving, visit

from keras_transfer import cli
from keras_transfer.datasets import load_dataset
from keras_transfer.export import (
    FORMATS,
    ExportResult,
    clips,
    export_run,
    metadata,
    proof,
    verify,
)
from keras_transfer.export.flatbuffer import LiteModel
from keras_transfer.export.prediction import predict
from keras_transfer.modalities import audio
from keras_transfer.modalities.protocol import InputSpec
from keras_transfer.runs import folder as runs

SOME = ("tflite", "tflite-float16", "tflite-dynamic", "tflite-int8")
"""What the default suite exports; the others start TensorFlow anew."""

RATE = 16_000


@pytest.fixture(scope="module")
def sounds_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: three spoken digits, half as FLAC at 8 kHz, half as WAV at 16 kHz."""
    data, folder = load_dataset("builtin:spoken"), tmp_path_factory.mktemp("sounds")
    for label in range(3):
        (folder / "data" / f"digit {label}").mkdir(parents=True)
        for number, i in enumerate(np.flatnonzero(data.labels == label)):
            path = folder / "data" / f"digit {label}" / f"{number:02d}.flac"
            path.write_bytes(data.read(int(i)))
            if number % 2:
                soundfile.write(path.with_suffix(".wav"), audio.decode(path.read_bytes()), RATE)
                path.unlink()
    command = ["train", folder / "data", "--output", folder / "run", "--effort", "quick"]
    command += ["--quiet", "--seed", 0, "--split", "0.4,0.2,0.4"]
    assert cli.main([str(word) for word in command]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exported(
    sounds_run: Path, quick: None, tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    return export_run(sounds_run, SOME, tmp_path_factory.mktemp("exports") / "sounds")


def spoken(exported: ExportResult, expected: dict[str, Any], suffix: str) -> list[Path]:
    """The samples of a kind of file, of each label the first."""
    rows = {row["label"]: row for row in reversed(expected["clips"]) if suffix in row["file"]}
    return [exported.path / "verify" / "clips" / rows[label]["file"] for label in sorted(rows)]


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, (round(seconds * rate), channels))


def as_file(levels: np.ndarray, rate: int, form: str = "WAV", kind: str | None = None) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, levels, rate, format=form, subtype=kind)
    return stream.getvalue()


def test_formats_answer_as_the_trained_model(exported: ExportResult) -> None:
    rows = exported.parity["artefacts"]
    assert {row["verdict"] for row in rows.values()} == {"passed"}, exported.render()
    assert exported.parity["modality"] == "audio"
    assert exported.parity["reference"]["accuracy"] > 0.8
    assert rows["tflite"]["agreement"] == 1.0
    assert rows["tflite"]["largest_difference"] < 1e-4
    assert rows["tflite-float16"]["largest_difference"] < 1e-2
    assert all(row["any_batch"] for row in rows.values())


@pytest.mark.slow
def test_the_other_formats_answer_as_the_trained_model(
    sounds_run: Path, quick: None, tmp_path: Path
) -> None:
    import tensorflow as tf

    others = [name for name in FORMATS if name not in SOME]
    made = export_run(sounds_run, others, tmp_path / "others")
    for row in made.parity["artefacts"].values():
        assert row["verdict"] == "passed", made.render()
        assert row["agreement"] == 1.0
        assert row["largest_difference"] < 1e-4
    served = made.parity["artefacts"]["saved_model"]["encoded"]
    assert served["images"] > 10  # those of 16 kHz
    assert served["largest_difference"] < 1e-4
    assert verify(made.path).passed
    names = set(runs.open_run(sounds_run).class_names)
    file = spoken(made, json.loads((made.path / "verify" / "expected.json").read_text()), ".flac")
    alone = tmp_path / "alone"
    shutil.copytree(made.path / "saved_model", alone / "saved_model")
    shutil.copyfile(made.path / "labels.txt", alone / "labels.txt")
    for artefact in (alone, made.path / "model.keras", made.path / "model.onnx"):
        (row,) = predict(artefact, [file[0]])
        assert {one["label"] for one in row["classes"]} == names
    (row,) = predict(made.path / "model.keras", [file[0]])
    best = row["classes"][0]
    found = of_keras(made.path, proof.read_samples(file[0], 1.25)[None])
    assert same(found, [(best["label"], best["probability"])], 1e-4)
    serve = tf.saved_model.load(str(made.path / "saved_model" / "1")).signatures["serve_encoded"]
    wrong = tf.constant([as_file(noise(1, 8000), 8000)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not at 16000 samples a second"):
        serve(wav_bytes=wrong)


@pytest.mark.parametrize("name", ["dynamic", "int8"])
def test_the_spectrogram_stays_in_float_and_the_network_does_not(
    exported: ExportResult, name: str
) -> None:
    whole = LiteModel((exported.path / "model.tflite").read_bytes())
    model = LiteModel((exported.path / f"model-{name}.tflite").read_bytes())

    def kernels(lite: LiteModel) -> dict[str, np.ndarray]:
        weights = (n for n in range(len(lite.graph.tensors)) if lite.is_weight(n, 1024))
        return {lite.graph.tensors[n].name.decode(): lite.values(n) for n in weights}

    left = kernels(model)
    assert len(left) == 2  # the waves and the mel scale
    assert all("preprocessing" in tensor for tensor in left)
    for tensor, values in kernels(whole).items():
        if "preprocessing" in tensor:
            assert any(np.array_equal(values, kept) for kept in left.values())
    entry = model.graph.tensors[model.graph.inputs[0]]
    assert entry.type == model.schema.TensorType.FLOAT32
    codes = [model.code(operator) for operator in model.graph.operators]
    first, last = codes.index("CONV_2D"), codes.index("LOG")
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(codes[first:last])


def test_layers_that_are_not_rounded_keep_their_biases(exported: ExportResult) -> None:
    """The first convolution's kernel is too small to be worth rounding."""

    def biases(name: str) -> dict[str, np.ndarray]:
        model = LiteModel((exported.path / name).read_bytes())
        return {
            str(model.graph.tensors[op.inputs[2]].name): model.values(op.inputs[2])
            for op in model.graph.operators
            if model.code(op) == "CONV_2D" and model.is_weight(op.inputs[1])
        }

    plain, kept = biases("model.tflite"), biases("model-dynamic.tflite")
    assert len(kept) == 2  # of the spectrogram and the first
    for tensor, values in kept.items():
        np.testing.assert_array_equal(values, plain[tensor])


def test_rectifiers_round_once(exported: ExportResult) -> None:
    model = LiteModel((exported.path / "model-int8.tflite").read_bytes())
    chained = [op for op in model.graph.operators if model.code(op) == "LEAKY_RELU"]
    assert len(chained) == 19
    for operator in chained:
        ends = [
            model.graph.tensors[n].quantization for n in (operator.inputs[0], operator.outputs[0])
        ]
        assert ends[0].scale == ends[1].scale
        assert ends[0].zeroPoint == ends[1].zeroPoint


def test_served_wav_files_become_the_models_samples() -> None:
    import tensorflow as tf

    spec = audio.spec(1.25)
    fed = clips.AudioSignature(spec)
    decode = fed.serving_decoder()
    for seconds, channels in ((1.0, 1), (1.25, 2), (2.0, 1), (0.1, 3)):
        data = as_file(noise(seconds, RATE, channels), RATE)
        assert fed.served(data)
        np.testing.assert_allclose(decode(data).numpy(), audio.decode(data, spec), atol=1e-6)
    quiet, silence = fed.blank()
    np.testing.assert_array_equal(decode(silence).numpy(), quiet[0])
    for data in (
        as_file(noise(1, 8000), 8000),
        as_file(noise(1, RATE), RATE, kind="FLOAT"),
        as_file(noise(1, RATE), RATE, kind="PCM_24"),
        as_file(noise(1, RATE), RATE, "FLAC"),
    ):
        assert not fed.served(data)
    wrong = tf.constant([as_file(noise(1, 8000), 8000)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not at 16000 samples a second"):
        tf.function(tf.map_fn)(decode, wrong, fn_output_signature=tf.float32)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_the_travelling_script_reads_sounds_as_training_does(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "sound"
    for form, channels, seconds in (
        ("WAV", 1, 0.7),
        ("FLAC", 2, 1.3),
        ("OGG", 1, 3),
        ("MP3", 2, 1),
    ):
        if (form, rate) != ("MP3", 96_000):
            path.write_bytes(as_file(noise(seconds, rate, channels), rate, form))
            found = audio.decode(path.read_bytes(), audio.spec(1.25))
            np.testing.assert_allclose(proof.read_samples(path, 1.25), found, atol=1e-6)


def test_the_proof_travels(exported: ExportResult) -> None:
    """In a fresh process that has neither keras_transfer nor its folder."""
    script = exported.path / "verify" / "verify.py"
    command = [sys.executable, "-I", str(script), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    found = json.loads(done.stdout)
    assert (found["passed"], found["files"]) == (True, [])
    assert {row["verdict"] for row in found["artefacts"]} == {"passed"}


def test_a_change_fails_the_proof(exported: ExportResult, tmp_path: Path) -> None:
    folder = shutil.copytree(exported.path, tmp_path / "copy", copy_function=os.link)
    file = sorted((folder / "verify" / "clips").iterdir())[0]
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data + b"x")
    found = verify(folder)
    assert not found.passed
    assert file.name in found.render()


def test_what_an_export_says_of_itself(exported: ExportResult) -> None:
    readme = (exported.path / "README.md").read_text()
    card = (exported.path / "model_card.md").read_text()
    assert "AudioClassifier" in readme
    assert "float32, `[n, 20000]`: 1.25 s" in readme
    assert "Sorting single clips" in card
    for page in (readme, card):
        assert re.findall(r".*\b(?:image|pixel|camera|text|audio)s\b.*", page) == []


def snippet(exported: ExportResult, heading: str) -> str:
    readme = (exported.path / "README.md").read_text()
    return readme.split(f"## {heading}")[1].split("```python\n")[1].split("```")[0]


def ran(exported: ExportResult, code: str, *words: object, check: bool = True) -> list[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=exported.path, capture_output=True, text=True, check=check)
    return done.stdout.splitlines()


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
def test_the_snippet_of_the_readme_says_what_predict_says(
    exported: ExportResult, expected: dict[str, Any], suffix: str
) -> None:
    file = spoken(exported, expected, suffix)[0]
    (line,) = ran(exported, snippet(exported, "Python, LiteRT"), file)
    label, score = line.rsplit(None, 1)
    best = predict(exported.path / "model.tflite", [file])[0]["classes"][0]
    assert (label, float(score)) == (best["label"], pytest.approx(best["probability"], abs=1e-3))


def of_predict(exported: ExportResult, file: Path) -> tuple[str, float]:
    best = predict(exported.path / "model.tflite", [file])[0]["classes"][0]
    return best["label"], best["probability"]


def test_the_snippet_of_a_browser_says_what_predict_says(
    exported: ExportResult, expected: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported.path, tmp_path / "copy"))
    files = spoken(exported, expected, ".wav")
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"{number}.wav")
    found = logged(folder, "audio", [{"clip.wav": f"{n}.wav"} for n in range(len(files))])
    assert same(found, [of_predict(exported, file) for file in files], 0.02)


@pytest.mark.slow
def test_the_snippets_of_shell_and_onnx_runtime_say_what_predict_says(
    sounds_run: Path, quick: None, exported: ExportResult, expected: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("tf2onnx")
    made = export_run(sounds_run, "saved_model,onnx", tmp_path / "made").path
    file = spoken(exported, expected, ".wav")[0]
    said = of_predict(exported, file)
    shutil.copy(file, made / "clip.wav")
    assert same(printed(made, "ONNX Runtime", ["clip.wav"]), [said], 1e-3)
    if shutil.which("curl"):
        assert same([served(made)], [said], 1e-3)


MICROPHONE = """
import sys, types
import numpy as np
import soundfile

class InputStream:
    def __init__(self, samplerate, channels, dtype):
        assert (samplerate, channels, dtype) == (16000, 1, "float32")
        self.heard = np.concatenate([soundfile.read(f, dtype="float32")[0] for f in sys.argv[1:]])
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def read(self, count):
        if not len(self.heard):
            sys.exit()
        block, self.heard = self.heard[:count], self.heard[count:]
        return np.pad(block, (0, count - len(block)))[:, None], False

sys.modules["sounddevice"] = types.SimpleNamespace(InputStream=InputStream)
"""


def test_the_snippet_for_a_microphone_names_what_was_last_heard(
    exported: ExportResult, expected: dict[str, Any], tmp_path: Path
) -> None:
    """Three words with a second of silence between them, as blocks of a quarter of a second."""
    files, pause = spoken(exported, expected, ".wav"), tmp_path / "pause.wav"
    soundfile.write(pause, np.zeros(RATE), RATE)
    heard = [word for file in files for word in (file, pause)]
    lines = ran(exported, MICROPHONE + snippet(exported, "A microphone, Python"), *heard)
    run = proof.open_tflite(exported.path / "model.tflite", 1)
    samples = np.concatenate([soundfile.read(file, dtype="float32")[0] for file in heard])
    samples = np.pad(samples, (20_000, -len(samples) % 4000))
    answers = [
        run(samples[None, end - 20_000 : end])[0] for end in range(24_000, len(samples) + 1, 4000)
    ]
    named = [expected["class_names"][scores.argmax()] for scores in answers if scores.max() >= 0.5]
    assert [line.rsplit(None, 1)[0] for line in lines] == named
    assert set(named) == set(expected["class_names"])


needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None and "MEDIAPIPE_PYTHON" not in os.environ,
    reason="mediapipe is not installed (MEDIAPIPE_PYTHON may name a Python that has it)",
)

MEDIAPIPE = """
import json, sys
import soundfile
from mediapipe.tasks.python import BaseOptions, audio
from mediapipe.tasks.python.components.containers import AudioData
models, files = json.load(sys.stdin)
found = []
for model in models:
    options = audio.AudioClassifierOptions(
        base_options=BaseOptions(model_asset_path=model), max_results=-1)
    found.append([])
    with audio.AudioClassifier.create_from_options(options) as classifier:
        for file in files:
            levels, rate = soundfile.read(file, dtype="float32")
            blocks = classifier.classify(AudioData.create_from_array(levels, rate))
            found[-1].append([{row.category_name: row.score
                               for row in block.classifications[0].categories} for block in blocks])
print(json.dumps(found))
"""


def by_mediapipe(models: list[Path], files: list[Path]) -> list[list[list[dict[str, float]]]]:
    """The scores by label that MediaPipe's AudioClassifier gives: of each model, file and block."""
    done = subprocess.run(
        [os.environ.get("MEDIAPIPE_PYTHON", sys.executable), "-c", MEDIAPIPE],
        input=json.dumps([models, files], default=str), capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    found: list[list[list[dict[str, float]]]] = json.loads(done.stdout.splitlines()[-1])
    return found


@needs_mediapipe
def test_mediapipe_opens_every_file_unaided(
    exported: ExportResult, expected: dict[str, Any], tmp_path: Path
) -> None:
    """Clips of 16 kHz, shorter than the model, as long as it is, and longer."""
    lengths = {"half": 0.5, "whole": 1.25, "long": 3.0}
    for word, seconds in lengths.items():
        soundfile.write(tmp_path / f"{word}.wav", noise(seconds, RATE), RATE)
    files = [*spoken(exported, expected, ".wav"), *(tmp_path / f"{word}.wav" for word in lengths)]
    models = sorted(exported.path.glob("*.tflite"))
    assert len(models) == 4
    for model, answers in zip(models, by_mediapipe(models, files), strict=True):
        assert [len(blocks) for blocks in answers] == [1, 1, 1, 1, 1, 3]
        run = proof.open_tflite(model, 1)
        for file, (scores, *_) in zip(files, answers, strict=True):
            assert set(scores) == set(expected["class_names"])
            assert [scores[label] for label in expected["class_names"]] == pytest.approx(
                run(audio.decode(file.read_bytes(), audio.spec(1.25))[None])[0].tolist(), abs=1e-5
            )


@pytest.mark.slow
@needs_mediapipe
def test_mediapipe_resamples_as_is_said(tmp_path: Path) -> None:
    """Through a model that gives its samples back as scores."""
    import tensorflow as tf

    size = 64
    fed = clips.AudioSignature(InputSpec("samples", (size,), "float32", "samples"))
    entry = keras.Input((size,), name="samples")
    scores = keras.layers.Rescaling(0.5, 0.5, name="scores")(entry)
    names = [str(number) for number in range(size)]
    content = tf.lite.TFLiteConverter.from_keras_model(keras.Model(entry, scores)).convert()
    model = tmp_path / "mirror.tflite"
    model.write_bytes(
        metadata.add_metadata(bytes(content), metadata.ModelInfo("m", "d", names, fed))
    )
    kinds = {8000: 1, 11_025: 2, 16_000: 2, 22_050: 1, 44_100: 2, 48_000: 1, 96_000: 1}
    files = [tmp_path / f"{rate}.wav" for rate in kinds]
    for file, (rate, channels) in zip(files, kinds.items(), strict=True):
        file.write_bytes(as_file(noise(0.02, rate, channels), rate))
    for file, blocks in zip(files, by_mediapipe([model], files)[0], strict=True):
        received = np.array([[2 * block[name] - 1 for name in names] for block in blocks])
        levels, rate = soundfile.read(file, dtype="float32", always_2d=True)
        whole = clips.mobile_resample(levels.mean(axis=1), rate)
        sent = np.pad(whole, (0, size))[: received.size]  # and zeros in the last block
        np.testing.assert_allclose(received.ravel(), sent, atol=1e-6)
        np.testing.assert_allclose(received[0], fed.for_mediapipe(file.read_bytes()), atol=1e-6)


@pytest.mark.slow
@needs_mediapipe
def test_the_snippet_for_mediapipe_runs(exported: ExportResult, expected: dict[str, Any]) -> None:
    files = spoken(exported, expected, ".wav")
    (line,) = ran(exported, snippet(exported, "Python, MediaPipe"), files[0])
    best = predict(exported.path / "model.tflite", [files[0]])[0]["classes"][0]
    assert line.startswith(f"0 ms: {best['label']} ")


def test_predict_takes_files_bytes_and_samples(
    exported: ExportResult, expected: dict[str, Any], sounds_run: Path
) -> None:
    file = spoken(exported, expected, ".flac")[0]
    levels = soundfile.read(file, dtype="float32")
    for model in (sounds_run, exported.path, exported.path / "model.tflite"):
        rows = predict(model, [file, file.read_bytes(), levels])
        assert [next(iter(row.items())) for row in rows[:1]] == [("clip", str(file))]
        assert len({row["classes"][0]["label"] for row in rows}) == 1
        scores = [row["classes"][0]["probability"] for row in rows]
        assert scores == pytest.approx([scores[0]] * 3, abs=1e-4)
    assert "error" in predict(exported.path, [b"no sound"])[0]


def test_predict_takes_a_folder_of_sounds(
    exported: ExportResult, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported.path / "verify" / "clips"
    assert cli.main(["predict", str(exported.path), str(folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(list(folder.iterdir()))


def test_the_demo_takes_sounds(exported: ExportResult, expected: dict[str, Any]) -> None:
    sample = expected["clips"][-1]
    data = (exported.path / "verify" / "clips" / sample["file"]).read_bytes()
    with serving(exported.path) as server:
        status, body, _ = ask(server, "POST", "/classify", data)
        refused = ask(server, "POST", "/classify", b"no sound")
    assert (status, refused[0]) == (200, 400)
    assert b"This clip cannot be read" in refused[1]
    best = json.loads(body)["classes"][0]
    assert best["label"] == expected["class_names"][int(np.argmax(sample["probabilities"]))]
    assert best["probability"] == pytest.approx(max(sample["probabilities"]), abs=1e-3)


@pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is installed")
def test_the_page_of_the_demo_takes_files_and_listens(
    exported: ExportResult, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    monkeypatch.setattr(browser, "_FLAGS", (*browser._FLAGS, *fake))
    sample = expected["clips"][-1]
    with serving(exported.path) as server, browser.browser() as page:
        visit(page, server.url)
        choose(page, exported.path / "verify" / "clips" / sample["file"])
        assert answer(page)[0] == expected["class_names"][int(np.argmax(sample["probabilities"]))]
        assert page.run("document.querySelectorAll('#drop audio').length") == 1
        made = "wave(new Float32Array([0, .5, -1]), 22050).arrayBuffer()"
        sent = page.call(
            "Runtime.evaluate", expression=f"{made}.then(all => [...new Uint8Array(all)])",
            awaitPromise=True, returnByValue=True,
        )  # fmt: skip
        levels, rate = soundfile.read(io.BytesIO(bytes(sent["result"]["value"])))
        assert (levels.tolist(), rate) == ([0, 0.5, -1], 22_050)
        page.run("document.querySelector('#answer').replaceChildren()")
        page.run("document.querySelector('#live').click()")
        assert answer(page)[0] in expected["class_names"]
        assert page.run("document.querySelector('#live').textContent") == "Stop the microphone"
        page.run("document.querySelector('#live').click()")
        assert page.run("document.querySelector('#live').textContent") == "Use the microphone"
        assert page.errors == []
        # The player has pictures of its own.
        assert all(url.startswith((server.url, "blob:", "data:")) for url in page.requests)
