"""A local page on which to try an export: drop an image, or hold things before the camera."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.base.errors import ExampleError, UsageError
from keras_transfer.base.threads import cores
from keras_transfer.export import proof
from keras_transfer.modalities import modality

TOP = 5
"""Classes that the page names."""

MAX_BYTES = 64 * 2**20
"""Largest image that is accepted."""

# Nothing may be loaded from, or sent to, anywhere else. MediaPipe compiles WebAssembly and starts
# it from a script of its own.
POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self' blob:; "
    "style-src 'unsafe-inline'; script-src 'self' blob: 'unsafe-inline' 'wasm-unsafe-eval'"
)

_KINDS = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}


class Demo(http.server.ThreadingHTTPServer):
    """The page's server, on the loopback interface and a free port.

    Args:
        folder: an export folder.
        wasm: the folder of an installed npm package ``@mediapipe/tasks-vision``; with it the
            ``.tflite`` runs in the browser as WebAssembly, otherwise in Python's LiteRT here.

    Attributes:
        url: where the page is.

    Raises:
        UsageError: the folder is no export, or holds nothing that can be run.
    """

    daemon_threads = True

    def __init__(
        self, folder: str | os.PathLike[str], *, wasm: str | os.PathLike[str] | None = None
    ) -> None:
        self.folder, self.wasm = Path(folder), Path(wasm) if wasm is not None else None
        if self.wasm is not None and not (self.wasm / "vision_bundle.mjs").is_file():
            raise UsageError(
                f"{self.wasm} holds no vision_bundle.mjs.",
                remedy="Name the folder node_modules/@mediapipe/tasks-vision.",
            )
        try:
            described = json.loads((self.folder / "verify" / "expected.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.folder} is no export: verify/expected.json cannot be read.",
                remedy="Name a folder that `keras-transfer export` wrote.",
            ) from error
        kinds = ("tflite",) if self.wasm else ("tflite", "onnx", "keras", "saved_model")
        chosen = _first(described["artefacts"], kinds)
        if chosen is None:
            raise UsageError(
                f"{self.folder} holds no {' or '.join(kinds)} artefact to run.",
                remedy="Export the run with --formats tflite.",
            )
        self.model = self.folder / chosen["file"]
        self.labels: list[str] = described["class_names"]
        self.size = (int(described["image_size"][0]), int(described["image_size"][1]))
        self.facts = {
            "name": self.folder.resolve().name,
            "description": f"Tells {len(self.labels)} classes apart.",
            "file": chosen["file"],
            "engine": "in this browser" if self.wasm else "on this computer",
            "wasm": self.wasm is not None,
            "top": TOP,
            "size": self.size,
        }
        self._predict: proof.Predict | None = None
        self._runtime = chosen["runtime"]
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def classify(self, data: bytes) -> dict[str, Any]:
        """Names the most probable classes of an encoded image.

        Raises:
            ExampleError: the bytes are no image.
        """
        form = modality("image")
        pixels = form.decode(data, form.spec(self.size))[None]
        with self._lock:
            if self._predict is None:
                self._predict = proof.OPENERS[self._runtime](self.model, cores())
            started = time.perf_counter()
            scores = self._predict(pixels)[0]
            milliseconds = 1000 * (time.perf_counter() - started)
        best = np.argsort(-scores, kind="stable")[:TOP]
        classes = [{"label": self.labels[i], "probability": float(scores[i])} for i in best]
        return {"classes": classes, "milliseconds": milliseconds}


def _first(artefacts: list[dict[str, Any]], runtimes: tuple[str, ...]) -> dict[str, Any] | None:
    """The artefact of the first of ``runtimes`` that there is."""
    rank = {runtime: i for i, runtime in enumerate(runtimes)}
    usable = [row for row in artefacts if row["runtime"] in rank]
    return min(usable, key=lambda row: rank[row["runtime"]], default=None)


def demo(
    folder: str | os.PathLike[str],
    *,
    wasm: str | os.PathLike[str] | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serves the page until it is interrupted, which is its proper end.

    Args:
        folder: an export folder.
        wasm: as for ``Demo``.
        ready: called with the page's address once it answers.

    Raises:
        UsageError: as ``Demo``.
    """
    with Demo(folder, wasm=wasm) as server:
        ready(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Demo

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if not self._is_own():
            return self._json({"error": "not from here"}, 403)
        if path == "/":
            page = Path(__file__).with_name("demo.html").read_bytes()
            return self._send(page, "text/html; charset=utf-8")
        if path == "/facts":
            return self._json(self.server.facts)
        if path == "/model":
            return self._send(self.server.model.read_bytes(), "application/octet-stream")
        if path.startswith("/wasm/") and self.server.wasm is not None:
            root = self.server.wasm.resolve()
            file = (root / path.removeprefix("/wasm/")).resolve()
            if file.is_relative_to(root) and file.suffix in _KINDS and file.is_file():
                return self._send(file.read_bytes(), _KINDS[file.suffix])
        return self._json({"error": "nothing here"}, 404)

    def do_POST(self) -> None:
        if not self._is_own():
            return self._json({"error": "not from here"}, 403)
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/classify" or not 0 < length <= MAX_BYTES:
            self.close_connection = True
            return self._json({"error": f"send one image of at most {MAX_BYTES} bytes"}, 400)
        try:
            return self._json(self.server.classify(self.rfile.read(length)))
        except ExampleError as error:
            return self._json({"error": f"This image cannot be read: {error.message}"}, 400)

    def _is_own(self) -> bool:
        """Whether the request is for this page: no other site may reach it by a name of its own."""
        own = self.server.url.removesuffix("/")
        origin = self.headers.get("Origin", own)
        return f"http://{self.headers.get('Host')}" == own and origin == own

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: the terminal is the user's."""
