"""A run of texts, exported: every format, the proof that travels, MediaPipe, strings in."""

from __future__ import annotations

import importlib.util
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
from clients import logged, of_keras, printed, same, served
from runs import browser
from test_demo import answer, ask, serving, visit

from keras_transfer.base.errors import ExampleError
from keras_transfer.export import (
    FORMATS,
    ExportResult,
    export_run,
    metadata,
    proof,
    texts,
    verify,
)
from keras_transfer.export.flatbuffer import LiteModel
from keras_transfer.export.prediction import predict
from keras_transfer.modalities import text
from keras_transfer.runs import folder as runs

SOME = ("saved_model", "tflite", "tflite-dynamic", "tflite-int8")
"""What the default suite exports; the rest of the formats takes as long again."""


@pytest.fixture(scope="module")
def exported(
    texts_run: Path, quick: None, tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    return export_run(texts_run, SOME, tmp_path_factory.mktemp("exports") / "texts")


def odd_texts(count: int) -> list[str]:
    """Words of the vocabulary and what no text should hold, drawn and run together."""
    random = np.random.default_rng(0)
    words = text.tokens.VOCABULARY.read_text().split("\n")[:-1]
    blocks = (
        (0x20, 0x7F), (0xC0, 0x250), (0x300, 0x370), (0x600, 0x700), (0x2000, 0x2070),
        (0x4E00, 0x4E80), (0xAC00, 0xAC80), (0xFE00, 0xFF60), (0x1F600, 0x1F650), (1, 0x20),
        (1, 0xD800), (0xE000, 0x110000),
    )  # fmt: skip

    def piece() -> str:
        match random.integers(0, 4):
            case 0:
                return words[random.integers(len(words))].removeprefix("##")
            case 1:
                return chr(random.integers(97, 123)) * int(random.integers(95, 106))
        low, high = blocks[random.integers(len(blocks))]
        return "".join(chr(code) for code in random.integers(low, high, random.integers(1, 9)))

    def one() -> str:
        gaps = (" " if random.random() < 0.6 else "" for _ in range(random.integers(1, 12)))
        return "".join(piece() + gap for gap in gaps)

    return [one() for _ in range(count)]


def ids_of(words: str, size: int) -> np.ndarray:
    """As training reads a text; where it refuses one without a word, [CLS] and [SEP]."""
    try:
        return text.decode(words.encode(), text.spec(size))
    except ExampleError:
        return np.array([101, 102] + [0] * (size - 2), np.int32)


@pytest.mark.slow
def test_the_other_formats_answer_as_the_trained_model(
    texts_run: Path, quick: None, tmp_path: Path
) -> None:
    others = [name for name in FORMATS if name not in SOME]
    made = export_run(texts_run, others, tmp_path / "others")
    for row in made.parity["artefacts"].values():
        assert row["verdict"] == "passed", made.render()
        assert row["agreement"] == 1.0
        assert row["largest_difference"] < (1e-2 if row["name"] == "tflite-float16" else 1e-4)
    assert verify(made.path).passed
    given = "Solve a sparse linear system."
    best = predict(made.path / "model.keras", given)[0]["classes"][0]
    found = of_keras(made.path, ids_of(given, 24)[None])
    assert same(found, [(best["label"], best["probability"])], 1e-4)


def test_formats_answer_as_the_trained_model(exported: ExportResult) -> None:
    rows = exported.parity["artefacts"]
    assert {row["verdict"] for row in rows.values()} == {"passed"}, exported.render()
    assert exported.parity["modality"] == "text"
    for name in ("saved_model", "tflite"):
        assert rows[name]["agreement"] == 1.0
        assert rows[name]["largest_difference"] < 1e-4
    assert rows["saved_model"]["encoded"]["agreement"] == 1.0  # strings in, tokenised in the graph
    assert rows["saved_model"]["encoded"]["largest_difference"] < 1e-4
    assert all(row["any_batch"] for row in rows.values())
    sizes = {name: rows[name]["bytes"] for name in rows}
    assert sizes["tflite-dynamic"] < 0.3 * sizes["tflite"]
    assert sizes["tflite-int8"] < 0.3 * sizes["tflite"]


def test_tables_and_kernels_are_int8(exported: ExportResult) -> None:
    for name in ("dynamic", "int8"):
        model = LiteModel((exported.path / f"model-{name}.tflite").read_bytes())
        codes = [model.code(operator) for operator in model.graph.operators]
        assert "CUSTOM" not in codes
        weights = [n for n in range(len(model.graph.tensors)) if model.is_weight(n, 2**16)]
        assert weights == []  # no large one is left in float


@pytest.mark.slow
def test_strings_become_the_tokenizers_ids() -> None:
    """10,000 odd strings, by TensorFlow's own operations."""
    import tensorflow as tf

    from keras_transfer.export.wordpiece import WordPiece

    size, strings = 32, odd_texts(10_000)
    encoder = WordPiece(size)
    spec = [tf.TensorSpec((None,), tf.string)]
    encode = tf.function(
        lambda data: tf.map_fn(encoder, data, fn_output_signature=tf.int32), input_signature=spec
    )
    found = encode([words.encode() for words in strings]).numpy()
    wrong = [
        words for words, ids in zip(strings, found, strict=True)
        if not np.array_equal(ids, ids_of(words, size))
    ]  # fmt: skip
    assert wrong == []


def test_the_travelling_script_reads_texts_as_training_does(tmp_path: Path) -> None:
    folder = tmp_path / "verify"
    (folder / "texts").mkdir(parents=True)
    shutil.copyfile(text.tokens.VOCABULARY, folder / "vocab.txt")
    file = folder / "texts" / "a.txt"
    for words in odd_texts(500):
        file.write_bytes(words.encode())
        np.testing.assert_array_equal(proof.read_ids(file, 32), ids_of(words, 32))
    file.write_text("Ünïcode in sixteen bits", "utf-16")
    np.testing.assert_array_equal(
        proof.read_ids(file, 8), text.decode(file.read_bytes(), text.spec(8))
    )


def test_the_proof_travels(exported: ExportResult) -> None:
    """In a fresh process that has neither keras_transfer nor its folder."""
    script = exported.path / "verify" / "verify.py"
    command = [sys.executable, "-I", str(script), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    found = json.loads(done.stdout)
    assert (found["passed"], found["files"]) == (True, [])
    assert {row["verdict"] for row in found["artefacts"]} == {"passed"}


@pytest.mark.parametrize("name", ["verify/vocab.txt", "verify/texts"])
def test_a_change_fails_the_proof(exported: ExportResult, name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(exported.path, tmp_path / "copy", copy_function=os.link)
    path = folder / name
    file = sorted(path.iterdir())[0] if path.is_dir() else path
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data + b"x")
    found = verify(folder)
    assert not found.passed
    assert file.relative_to(folder).as_posix() in found.render()


def test_what_an_export_says_of_itself(exported: ExportResult) -> None:
    readme = (exported.path / "README.md").read_text()
    card = (exported.path / "model_card.md").read_text()
    assert "TextClassifier" in readme
    assert "int32, `[n, 24]`" in readme
    for page in (readme, card):
        own = page.replace("ndimage", "")  # a class
        assert re.findall(r".*(?:image|pixel|camera).*", own, re.IGNORECASE) == []


def test_the_snippet_of_the_readme_says_what_predict_says(
    exported: ExportResult, expected: dict[str, Any]
) -> None:
    readme = (exported.path / "README.md").read_text()
    first = readme.split("```python\n")[1].split("```")[0]
    sample = expected["texts"][0]
    words = (exported.path / "verify" / "texts" / sample["file"]).read_text()
    command = [sys.executable, "-c", first, words]
    done = subprocess.run(command, cwd=exported.path, capture_output=True, text=True, check=True)
    label, score = done.stdout.rsplit(None, 1)
    assert label == expected["class_names"][int(np.argmax(sample["probabilities"]))]
    assert float(score) == pytest.approx(max(sample["probabilities"]), abs=1e-3)


def of_predict(folder: Path, given: str) -> tuple[str, float]:
    best = predict(folder / "model.tflite", given)[0]["classes"][0]
    return best["label"], best["probability"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_snippet_of_a_shell_says_what_predict_says(exported: ExportResult) -> None:
    assert same([served(exported.path)], [of_predict(exported.path, "A text.")], 1e-4)


def test_the_snippet_of_a_browser_says_what_predict_says(
    exported: ExportResult, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported.path, tmp_path / "copy"))
    assert same(logged(folder, "text", [{}]), [of_predict(exported.path, "A text.")], 1e-3)


@pytest.mark.slow
def test_the_snippet_of_onnx_runtime_says_what_predict_says(
    texts_run: Path, quick: None, exported: ExportResult, tmp_path: Path
) -> None:
    pytest.importorskip("tf2onnx")
    made = export_run(texts_run, "onnx", tmp_path / "onnx").path
    given = "Solve a sparse linear system."
    assert same(printed(made, "ONNX Runtime", [given]), [of_predict(exported.path, given)], 1e-3)


MEDIAPIPE = """
import json, sys
from mediapipe.tasks.python import BaseOptions, text
options = text.TextClassifierOptions(
    base_options=BaseOptions(model_asset_path=sys.argv[1]), max_results=-1)
with text.TextClassifier.create_from_options(options) as classifier:
    said = [classifier.classify(words).classifications[0] for words in json.load(sys.stdin)]
    print(json.dumps([{row.category_name: row.score for row in one.categories} for one in said]))
"""


def classify_by_mediapipe(model: Path, words: list[str]) -> list[dict[str, float]]:
    """The scores that MediaPipe's TextClassifier gives by label."""
    python = os.environ.get("MEDIAPIPE_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("mediapipe") is None:
        pytest.skip("mediapipe is not installed (MEDIAPIPE_PYTHON may name a Python that has it)")
    done = subprocess.run(
        [python, "-c", MEDIAPIPE, model], input=json.dumps(words), capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ["", "-dynamic", "-int8"])
def test_mediapipe_opens_every_file_unaided(
    exported: ExportResult, expected: dict[str, Any], name: str
) -> None:
    samples = expected["texts"]
    words = [(exported.path / "verify" / "texts" / row["file"]).read_text() for row in samples]
    model = exported.path / f"model{name}.tflite"
    found = classify_by_mediapipe(model, words)
    assert set(found[0]) == set(expected["class_names"])
    predict = proof.open_tflite(model, 1)
    for scores, said in zip(found, words, strict=True):
        ids = ids_of(said, 24)
        assert [scores[label] for label in expected["class_names"]] == pytest.approx(
            predict(ids[None])[0].tolist(), abs=1e-5
        )


def test_mediapipe_tokenises_as_is_said(tmp_path: Path) -> None:
    """Through a model that gives its ids back as scores."""
    import tensorflow as tf

    size = 24
    fed = texts.TextSignature(text.spec(size))
    entry = keras.Input((size,), dtype="int32", name="ids")
    scores = keras.layers.Rescaling(2.0**-15, dtype="float32", name="scores")(entry)
    names = [str(number) for number in range(size)]
    content = tf.lite.TFLiteConverter.from_keras_model(keras.Model(entry, scores)).convert()
    model = tmp_path / "mirror.tflite"
    model.write_bytes(
        metadata.add_metadata(bytes(content), metadata.ModelInfo("m", "d", names, fed))
    )
    words = [
        "Plain words, and A-Z.",
        "Café NAÏVE Ärger",
        "你好吗 world",
        "x\u00a0y\u2003z",
        "don't!?",
    ]
    words += [each for each in odd_texts(300) if "\0" not in each and each.isprintable()]
    found = classify_by_mediapipe(model, words)
    for said, row in zip(words, found, strict=True):
        received = [round(row[name] * 2**15) for name in names]
        assert received == fed.for_mediapipe(said.encode()).tolist(), said


def test_the_demo_takes_texts(exported: ExportResult, expected: dict[str, Any]) -> None:
    sample = expected["texts"][-1]
    words = (exported.path / "verify" / "texts" / sample["file"]).read_bytes()
    with serving(exported.path) as server:
        status, body, _ = ask(server, "POST", "/classify", words)
        assert (status, ask(server, "POST", "/classify", b" ")[0]) == (200, 400)
    best = json.loads(body)["classes"][0]
    assert best["label"] == expected["class_names"][int(np.argmax(sample["probabilities"]))]
    assert best["probability"] == pytest.approx(max(sample["probabilities"]), abs=1e-3)


@pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is installed")
def test_the_page_of_the_demo_has_a_place_to_write(
    exported: ExportResult, expected: dict[str, Any]
) -> None:
    sample = expected["texts"][-1]
    words = (exported.path / "verify" / "texts" / sample["file"]).read_text()
    with serving(exported.path) as server, browser.browser() as page:
        visit(page, server.url)
        page.run(f"document.querySelector('#words').value = {json.dumps(words)}")
        page.run("document.querySelector('#text button').click()")
        assert answer(page)[0] == expected["class_names"][int(np.argmax(sample["probabilities"]))]
        assert page.run("document.querySelector('#media').hidden")


def test_predict_takes_the_exported_file(exported: ExportResult, texts_run: Path) -> None:
    from keras_transfer.export.prediction import predict

    words = "Discrete cosine transform of a real sequence."
    names = set(runs.open_run(texts_run).class_names)
    whole = predict(texts_run, [words])[0]["classes"]
    light = predict(exported.path / "model.tflite", [words])[0]["classes"]
    assert {row["label"] for row in light} == names
    assert [row["label"] for row in whole] == [row["label"] for row in light]
