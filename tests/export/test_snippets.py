"""The snippets of an export's README do what its text says, on pictures as people have them."""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import browser

from keras_transfer.export import ExportResult, card, export_run
from keras_transfer.export.prediction import predict
from keras_transfer.runs import folder as runs

WASM = os.environ.get("MEDIAPIPE_WASM")
"""A folder node_modules/@mediapipe/tasks-vision."""

# Runs a snippet once for each file, as `python snippet.py FILE` would.
EACH = "import sys\ncode, *files = sys.argv[1:]\nfor file in files:\n    sys.argv[1:] = [file]\n"
EACH += "    exec(code, {'__name__': '__main__'})\n"


@pytest.fixture(scope="module")
def folder(exported: ExportResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the export, as its README asks for."""
    return Path(shutil.copytree(exported.path, tmp_path_factory.mktemp("copy") / "digits"))


@pytest.fixture(scope="module")
def pictures(digits_folder: Path, folder: Path) -> list[Path]:
    """A scanned digit, wide and large, stored in eight ways in which it looks the same."""
    scan = Image.open(sorted(digits_folder.glob("digit-2/*.png"))[6]).convert("L")
    grey = scan.resize((300, 200), Image.Resampling.BICUBIC)
    levels = np.asarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    clear = np.zeros((200, 300, 4), np.uint8)
    clear[..., 3] = 255 - levels  # black where it is not transparent, on white the same
    palette = grey.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    white = max(range(64), key=lambda at: sum(palette.getpalette()[3 * at : 3 * at + 3]))
    saved = {
        "grey.png": (grey, {}),
        "turned.jpg": (grey.transpose(Image.Transpose.ROTATE_90), {"exif": exif, "quality": 95}),
        "clear.png": (Image.fromarray(clear), {}),
        "palette.png": (palette, {"transparency": white}),
        "cmyk.jpg": (grey.convert("RGB").convert("CMYK"), {"quality": 95}),
        "deep.png": (Image.fromarray(levels.astype(np.uint16) * 257), {}),
        "bit.png": (grey.convert("1"), {}),
        "moving.gif": (grey, {"save_all": True, "append_images": [Image.new("L", grey.size)]}),
    }
    for name, (picture, how) in saved.items():
        picture.save(folder / name, **how)
    return [folder / name for name in saved]


@pytest.fixture(scope="module")
def said(exported: ExportResult, pictures: list[Path]) -> list[tuple[str, float]]:
    """What ``predict`` says of each: its first class and how probable that is."""
    rows = [row["classes"][0] for row in predict(exported.path / "model.tflite", pictures)]
    return [(row["label"], row["probability"]) for row in rows]


def blocks(folder: Path, heading: str, language: str) -> list[str]:
    """The code of a section of the README."""
    section = (folder / "README.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.M | re.S)


def answers(folder: Path, code: str, files: list[Path]) -> list[tuple[str, float]]:
    """What a snippet of Python prints for each file."""
    command = [sys.executable, "-c", EACH, code, *(file.name for file in files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = [line.rsplit(None, 1) for line in done.stdout.splitlines()]
    return [(label, float(score)) for label, score in lines]


def same(found: list[tuple[str, float]], said: list[tuple[str, float]], within: float) -> bool:
    close = [abs(a - b) <= within for (_, a), (_, b) in zip(found, said, strict=True)]
    return [label for label, _ in found] == [label for label, _ in said] and all(close)


def test_the_pictures_are_one_digit_in_eight_disguises(
    exported: ExportResult, pictures: list[Path], said: list[tuple[str, float]]
) -> None:
    """But for the one of two levels, what a reader makes of them is the same; and whoever does not
    turn it, or lays it on black, reads another digit."""
    assert {label for label, _ in said} == {"digit-2"}
    assert np.ptp([score for _, score in said[:6]]) < 0.02
    lying, clear = (np.asarray(Image.open(path).convert("RGB")) for path in pictures[1:3])
    for row in predict(exported.path / "model.tflite", [lying, clear]):
        assert row["classes"][0]["label"] != "digit-2"


def test_python_on_litert(
    folder: Path, pictures: list[Path], said: list[tuple[str, float]]
) -> None:
    (code,) = blocks(folder, "Python, LiteRT", "python")
    assert same(answers(folder, code, pictures), said, 1e-5)


@pytest.mark.slow
def test_python_on_onnx_runtime(
    run: runs.Run, quick: None, pictures: list[Path], said: list[tuple[str, float]],
    tmp_path: Path,
) -> None:  # fmt: skip
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    made = export_run(run, "onnx", tmp_path / "onnx").path
    for picture in pictures:
        shutil.copy(picture, made)
    (code,) = blocks(made, "ONNX Runtime", "python")
    assert same(answers(made, code, pictures), said, 1e-4)


class Serving(http.server.BaseHTTPRequestHandler):
    """Answers as TensorFlow Serving's REST interface does, for one SavedModel."""

    model: Path

    def do_POST(self) -> None:
        import tensorflow as tf

        assert self.path == "/v1/models/model:predict"
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        serve = tf.saved_model.load(str(self.model)).signatures[asked["signature_name"]]
        rows = [
            {key: base64.b64decode(value["b64"]) for key, value in row.items()}
            for row in asked["instances"]
        ]
        found = serve(**{key: tf.constant([row[key] for row in rows]) for key in rows[0]})
        labels = [[name.decode() for name in row] for row in found["labels"].numpy()]
        scores = found["scores"].numpy().tolist()
        rows = [{"labels": a, "scores": b} for a, b in zip(labels, scores, strict=True)]
        body = json.dumps({"predictions": rows}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    handler = type("Handler", (Serving,), {"model": folder / "saved_model" / "1"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_shell_to_tensorflow_serving(
    folder: Path, pictures: list[Path], said: list[tuple[str, float]], port: int
) -> None:
    _, code = blocks(folder, "TensorFlow Serving", "")
    code = code.replace("localhost:8501", f"127.0.0.1:{port}")
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = []
    for picture in pictures[1:3]:
        shutil.copy(picture, folder / "photo.jpg")
        done = subprocess.run(
            ["bash", "-ec", code], cwd=folder, env=here, capture_output=True, text=True, check=True
        )
        (row,) = json.loads(done.stdout)["predictions"]
        best = int(np.argmax(row["scores"]))
        found.append((row["labels"][best], row["scores"][best]))
    assert same(found, said[1:3], 1e-4)


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """The folder, served as ``python -m http.server`` does, MediaPipe's package in it."""
    (folder / "node_modules" / "@mediapipe").mkdir(parents=True, exist_ok=True)
    (folder / "node_modules" / "@mediapipe" / "tasks-vision").symlink_to(str(WASM))

    class Files(http.server.SimpleHTTPRequestHandler):
        extensions_map = {  # noqa: RUF012
            **http.server.SimpleHTTPRequestHandler.extensions_map,
            ".mjs": "text/javascript",
        }

        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is installed")
@pytest.mark.skipif(WASM is None, reason="MEDIAPIPE_WASM names no @mediapipe/tasks-vision folder")
def test_javascript_in_a_browser(
    folder: Path, pictures: list[Path], said: list[tuple[str, float]], site: str
) -> None:
    """What the page logs. It resizes as the browser does, so that probabilities differ a little."""
    (code,) = blocks(folder, "Browser", "html")
    found = []
    with browser.browser() as page:
        for picture in pictures:
            whole = code.replace("photo.jpg", picture.name)
            whole = whole.replace("console.log(", "window.told = (")
            (folder / "index.html").write_text(f"<!doctype html>{whole}")
            page.loaded = False
            page.call("Page.navigate", url=f"{site}/index.html")
            best = page.run(
                "new Promise((done, fail) => { const wait = () => window.told ? "
                "done([told[0].categoryName, told[0].score]) : setTimeout(wait, 20); wait(); "
                "setTimeout(() => fail('nothing was told'), 30000); })"
            )
            found.append((best[0], best[1]))
    assert same(found, said, 0.05)


def test_what_cannot_run_here_is_at_least_made_for_this_model(folder: Path, run: runs.Run) -> None:
    """Kotlin and Swift: sizes and file are filled in, and the picture is laid on white."""
    (kotlin,) = blocks(folder, "Android, Kotlin", "kotlin")
    (swift,) = blocks(folder, "iOS, Swift", "swift")
    side = run.config["image_size"]
    assert f"val (width, height) = {side} to {side}\n" in kotlin
    assert "createScaledBitmap(photo, width, height, true)" in kotlin
    assert "Color.WHITE" in kotlin
    assert "ImageDecoder" in kotlin
    assert f"CGSize(width: {side}, height: {side})" in swift
    assert "UIColor.white" in swift
    assert (str(card.threshold(run)) in kotlin) == bool(card.threshold(run))
