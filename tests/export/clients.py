"""Carries out the snippets of an export's README: as scripts, against a server, on a page."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import browser

WASM = os.environ.get("MEDIAPIPE_WASM")
"""A folder node_modules/@mediapipe/tasks-vision, beside which those of texts and sounds may be."""

# Runs a snippet once for each argument, as `python snippet.py ARGUMENT` would.
_EACH = "import sys\ncode, *given = sys.argv[1:]\nfor one in given:\n    sys.argv[1:] = [one]\n"
_EACH += "    exec(code, {'__name__': '__main__'})\n"

_TOLD = """new Promise((done, fail) => {
    const wait = () => window.told ? done([told[0].categoryName, told[0].score])
                                   : setTimeout(wait, 20);
    wait();
    setTimeout(() => fail("nothing was told"), 30000); })"""

Answer = tuple[str, float]


def blocks(folder: Path, heading: str, language: str = "") -> list[str]:
    """The code of a section of the README."""
    section = (folder / "README.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.M | re.S)


def printed(folder: Path, heading: str, given: list[str]) -> list[Answer]:
    """What the Python of a section prints for each argument, in a folder."""
    (code,) = blocks(folder, heading, "python")
    command = [sys.executable, "-c", _EACH, code, *given]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = [line.rsplit(None, 1) for line in done.stdout.splitlines()]
    return [(label, float(score)) for label, score in lines]


def of_keras(folder: Path, batch: np.ndarray) -> list[Answer]:
    """What the model of the section on Keras says of each example, in a process of its own."""
    (code,) = blocks(folder, "Keras", "python")
    code += "\nimport numpy\nnumpy.save('scores', model.predict(numpy.load('batch.npy')))\n"
    with tempfile.TemporaryDirectory() as other:
        np.save(Path(other) / "batch", batch)
        shutil.copy(folder / "model.keras", other)
        subprocess.run([sys.executable, "-c", code], cwd=other, check=True, capture_output=True)
        scores = np.load(Path(other) / "scores.npy")
    labels = (folder / "labels.txt").read_text().split("\n")
    return [(labels[row.argmax()], float(row.max())) for row in scores]


def served(folder: Path) -> Answer:
    """What the shell lines for TensorFlow Serving print, in a folder, the server being ours."""
    _, code = blocks(folder, "TensorFlow Serving")
    handler = type("Handler", (_Serving,), {"model": folder / "saved_model" / "1"})
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with _listening(handler) as address:
        command = ["bash", "-ec", code.replace("localhost:8501", address)]
        here = {"cwd": folder, "env": {**os.environ, "PATH": path}}
        done = subprocess.run(command, **here, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)["predictions"]
    best = int(np.argmax(row["scores"]))
    return row["labels"][best], row["scores"][best]


def logged(folder: Path, kind: str, changes: list[dict[str, str]]) -> list[Answer]:
    """What the page of a README logs first in a browser, for each change to its code.

    Skips where there is no browser, or no package of MediaPipe for ``kind`` (vision, text, audio).
    """
    package = Path(WASM or "/nowhere").with_name(f"tasks-{kind}")
    if browser.FOUND is None:
        pytest.skip("no Chromium is installed")
    if not package.is_dir():
        pytest.skip(f"MEDIAPIPE_WASM names no folder with @mediapipe/tasks-{kind} beside it")
    place = folder / "node_modules" / "@mediapipe" / package.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(package)
    (code,) = blocks(folder, "Browser", "html")
    files = type("Files", (_Files,), {"place": folder})
    with _listening(files) as address, browser.browser() as page:
        return [_first(page, folder, code, change, address) for change in changes]


def _first(page: Any, folder: Path, code: str, change: dict[str, str], address: str) -> Answer:
    for old, new in {**change, "console.log(": "window.told = ("}.items():
        assert old in code
        code = code.replace(old, new)
    # A name of its own: of one that was written twice within a second the browser keeps the first.
    name = f"page-{len(list(folder.glob('page-*')))}.html"
    (folder / name).write_text(f"<!doctype html>{code}")
    page.run("delete window.told")
    page.call("Page.navigate", url=f"http://{address}/{name}")
    label, score = page.run(_TOLD)
    return label, score


def same(found: list[Answer], said: list[Answer], within: float) -> bool:
    """Whether labels are equal and scores close."""
    close = [abs(a - b) <= within for (_, a), (_, b) in zip(found, said, strict=True)]
    return [label for label, _ in found] == [label for label, _ in said] and all(close)


@contextlib.contextmanager
def _listening(handler: Any) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class _Serving(http.server.BaseHTTPRequestHandler):
    """Answers as TensorFlow Serving's REST interface does, for one SavedModel."""

    model: Path

    def do_POST(self) -> None:
        import tensorflow as tf

        assert self.path == "/v1/models/model:predict"
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        serve = tf.saved_model.load(str(self.model)).signatures[asked["signature_name"]]
        (row,) = asked["instances"]
        given = {
            name: base64.b64decode(value["b64"]) if isinstance(value, dict) else value
            for name, value in row.items()
        }
        found = serve(**{name: tf.constant([value]) for name, value in given.items()})
        labels = [name.decode() for name in found["labels"].numpy()[0]]
        scores = found["scores"].numpy()[0].tolist()
        body = json.dumps({"predictions": [{"labels": labels, "scores": scores}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder as ``python -m http.server`` does."""

    place: Path

    def translate_path(self, path: str) -> str:
        return str(self.place / path.lstrip("/").split("?")[0])

    def log_message(self, *_: object) -> None:
        pass
