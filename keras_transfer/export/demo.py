"""A local page on which to try an export: a file, what camera or microphone give, or a text."""

import functools
import http.server
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_transfer.base import files
from keras_transfer.base.errors import ExampleError, UsageError
from keras_transfer.base.threads import cores
from keras_transfer.export import bundle, proof
from keras_transfer.export.prediction import About, parity_of, shipped_threshold, told
from keras_transfer.export.signature import signature
from keras_transfer.modalities import MODALITIES, InputSpec, Modality

TOP = 5
"""Classes that the page names."""

MAX_BYTES = 64 * 2**20
"""Largest example that is accepted."""

IDLE_SECONDS = 20.0
"""How long a client may be silent in the middle of a request."""

# Nothing may be loaded from, or sent to, anywhere else. MediaPipe compiles WebAssembly and starts
# it from a script of its own.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self' blob:; style-src 'unsafe-inline'; "
    "script-src 'self' blob: 'unsafe-inline' 'wasm-unsafe-eval'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_TYPES = {
    ".html": "text/html; charset=utf-8", ".tflite": "application/octet-stream",
    ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm",
}  # fmt: skip
"""What is served, by the end of its name."""


def _spec_of(form: Modality, described: Mapping[str, Any]) -> InputSpec:
    """What a proof says of its model's input. Raises ValueError where that is nothing."""
    try:
        return form.spec(described["size"]).fitted(described["fit"])
    except UsageError as error:
        raise ValueError(error.message) from error


def _of_package(package: Path, tasks: str) -> dict[str, Path]:
    """What is served of an npm package of MediaPipe, by its address."""
    if not (package / f"{tasks}_bundle.mjs").is_file():
        raise UsageError(
            f"{package} holds no {tasks}_bundle.mjs.",
            remedy=f"Name the folder node_modules/@mediapipe/tasks-{tasks}.",
        )
    return {
        f"/wasm/{file.relative_to(package).as_posix()}": file
        for file in package.rglob("*")
        if file.is_file() and package in file.resolve().parents
    }


class Demo(http.server.ThreadingHTTPServer):
    """The page's server, on the loopback interface.

    Args:
        folder: an export folder.
        wasm: the folder of an installed npm package ``@mediapipe/tasks-vision``, for texts
            ``tasks-text`` and for sounds ``tasks-audio``; with it the ``.tflite`` runs in the
            browser as WebAssembly, otherwise in Python's LiteRT here.
        port: where it listens; by default any that is free.

    Attributes:
        url: where the page is.

    Raises:
        UsageError: the folder is no export, or holds nothing that can be run; the port is taken.
    """

    daemon_threads = True
    request_queue_size = 128  # with Python's five a client of many connections waits for seconds

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        wasm: str | os.PathLike[str] | None = None,
        port: int = 0,
    ) -> None:
        path = Path(folder)
        files.settle(path)
        package = Path(wasm).resolve() if wasm is not None else None
        runtimes = ("tflite",) if package else ("tflite", "onnx", "keras", "saved_model")
        expected = "verify/expected.json"
        with files.reading(path / expected, "Name a folder that `keras-transfer export` wrote."):
            described = proof.expected_of(path)
            usable = [row for row in described["artefacts"] if row["runtime"] in runtimes]
            if not usable:
                problem = f"{path} holds no {' or '.join(runtimes)} artefact to run."
                raise UsageError(problem, remedy="Export the run with --formats tflite.")
            chosen = min(usable, key=lambda row: runtimes.index(row["runtime"]))
            self.runtime, self.model = chosen["runtime"], path / chosen["file"]
            self.model.resolve().relative_to(path.resolve())
            self.labels: list[str] = described["class_names"]
            forms = {f"{form.NOUN}s": form for form in MODALITIES.values()}
            form = forms[described["kind"]]
            spec = _spec_of(form, described)
            self.signature, self.kind = signature(form, spec), form.NOUN
        bundle.check(path, expected, chosen["file"], "parity.json")
        tasks = self.signature.mediapipe
        self.about = About(
            self.labels, [form], shipped_threshold(parity_of(path)), spec.fit,
            described["thresholds"],
        )  # fmt: skip
        self.facts = {
            "name": path.resolve().name,
            "description": f"Knows {len(self.labels)} classes."
            if self.about.thresholds
            else f"Tells {len(self.labels)} classes apart.",
            "file": chosen["file"],
            "engine": "in this browser" if package else "on this computer",
            "wasm": package is not None,
            "top": -1 if self.about.thresholds else TOP,
            "threshold": self.about.threshold,
            "thresholds": dict(zip(self.labels, self.about.thresholds, strict=False)),
            "size": self.signature.size,
            "fit": spec.fit,
            "kind": self.kind,
            "bundle": f"{tasks}_bundle.mjs",
        }
        self.files = {"/": Path(__file__).with_name("demo.html")}
        if package:
            self.files |= {"/model": self.model, **_of_package(package, tasks)}
        self.lock = threading.Lock()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            problem = f"Cannot listen on port {port}: {error.strerror}."
            raise UsageError(problem, remedy="Choose another --port, or leave it out.") from error
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    @functools.cached_property
    def predict(self) -> proof.Predict:
        """The artefact, opened when it is first asked."""
        return proof.RUNTIMES[self.runtime][1](self.model, cores())

    def classify(self, data: bytes) -> dict[str, Any]:
        """Names the most probable classes of an encoded example.

        Raises:
            ExampleError: the bytes are none.
        """
        example = self.signature.form.decode(data, self.signature.spec)[None]
        with self.lock:
            predict = self.predict
            started = time.perf_counter()
            scores = predict(example)[0]
            milliseconds = 1000 * (time.perf_counter() - started)
        top = max(TOP, len(self.about.thresholds))
        return {**told(scores, self.about, top), "milliseconds": milliseconds}

    def content(self, path: str) -> tuple[bytes, str] | None:
        """What is served under a path, and its type; None if nothing is."""
        if path == "/facts":
            return json.dumps(self.facts).encode(), "application/json"
        # A path is looked up and never followed, so that it leads nowhere else.
        file = self.files.get(path)
        return (file.read_bytes(), _TYPES[file.suffix]) if file and file.suffix in _TYPES else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: somebody went away before the answer, and the terminal is the user's."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Demo
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        if not self._is_own():
            return self._refuse(403, "not from here")
        found = self.server.content(self.path.split("?")[0])
        return self._send(200, *found) if found else self._refuse(404, "nothing here")

    def do_POST(self) -> None:
        if not self._is_own():
            return self._refuse(403, "not from here")
        length = self.headers.get("Content-Length", "")
        size = int(length) if re.fullmatch("[0-9]{1,9}", length) else 0
        if self.path != "/classify" or not 0 < size <= MAX_BYTES:
            return self._refuse(400, f"send one {self.server.kind} of at most {MAX_BYTES} bytes")
        data = self.rfile.read(size)
        try:
            found = self.server.classify(data)
        except ExampleError as error:
            return self._refuse(400, f"This {self.server.kind} cannot be read: {error.message}")
        except Exception as error:  # whatever a damaged artefact provokes in its runtime
            return self._refuse(500, f"The model cannot be run: {error}")
        return self._send(200, json.dumps(found).encode(), "application/json")

    def _is_own(self) -> bool:
        """Whether the request is for this page: no other site may reach it by a name of its own."""
        own = self.server.url.removesuffix("/")
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin", own)
        return [f"http://{host}" for host in hosts] == [own] == [origin]

    def _refuse(self, status: int, reason: str) -> None:
        self._send(status, json.dumps({"error": reason}).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: the terminal is the user's."""
