"""What may be sent to the demo's server: an answer or a closed connection, and it goes on.

Raw bytes to a server in this process. Nothing is ever printed, nothing outside the export served.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hostile.table import assert_refused, say
from keras_transfer import cli
from keras_transfer.export import demo

SECRET = b"nobody's business"
HOST = b"Host: HOST"
CLOSED = 0
"""In place of a status: the connection is closed without an answer."""


def example(size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG that says it has 3.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def describe(folder: Path, file: str, runtime: str) -> Path:
    expected = {"artefacts": [{"runtime": runtime, "file": file}], "class_names": ["a", "b"],
                "image_size": [8, 8], "images": []}  # fmt: skip
    (folder / "verify").mkdir(parents=True, exist_ok=True)
    (folder / "verify" / "expected.json").write_text(json.dumps(expected))
    return folder


@contextlib.contextmanager
def serving(folder: Path, wasm: Path | None = None) -> Iterator[demo.Demo]:
    with demo.Demo(folder, wasm=wasm) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Demo]:
    """Runs a small model in Python."""
    cli.load_keras()
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.uint8)])
    def model(image):  # type: ignore[no-untyped-def]
        return tf.nn.softmax(tf.reduce_sum(tf.cast(image, tf.float32), (1, 2))[:, :2])

    folder = describe(tmp_path_factory.mktemp("export"), "model.tflite", "tflite")
    graph = model.get_concrete_function()
    lite = tf.lite.TFLiteConverter.from_concrete_functions([graph], model).convert()
    (folder / "model.tflite").write_bytes(lite)
    with serving(folder) as found:
        found.classify(example())
        yield found


@pytest.fixture(scope="module")
def browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Demo]:
    """Hands the model and MediaPipe's files to the browser, with a secret all around."""
    root = tmp_path_factory.mktemp("served")
    folder, wasm = describe(root / "export", "model.tflite", "tflite"), root / "wasm"
    (wasm / "wasm").mkdir(parents=True)
    for place in (root, folder, folder / "verify", wasm.parent):
        for name in ("secret", "secret.js", "secret.mjs", "secret.html"):
            (place / name).write_bytes(SECRET)
    (wasm / "package.json").write_bytes(SECRET)
    (folder / "model.tflite").write_bytes(b"the model")
    (wasm / "vision_bundle.mjs").write_bytes(b"the bundle")
    (wasm / "wasm" / "vision.wasm").write_bytes(b"the code")
    (wasm / "folder.js").mkdir()
    (wasm / "link.js").symlink_to(root / "secret.js")
    (wasm / "outside").symlink_to(root)
    with serving(folder, wasm) as found:
        yield found


def send(server: demo.Demo, data: bytes, *, end: bool = True) -> bytes:
    """What comes back for some bytes, with HOST as the server's own name."""
    own = server.url.split("/")[2].encode()
    with socket.create_connection(server.server_address[:2], timeout=20) as client:
        client.sendall(data.replace(b"HOST", own))
        if end:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(2**16):
                answer += piece
    return answer


def status(answer: bytes) -> int:
    """The status, which Python's own refusal of an unknown version says in its text alone."""
    if not answer:
        return CLOSED
    found = re.match(
        rb"HTTP/1\.0 (\d{3}) |<!DOCTYPE HTML>.*?<p>Error code: (\d{3})</p>", answer, re.S
    )
    assert found, answer[:99]
    return int(found[1] or found[2])


def assert_goes_on(server: demo.Demo, capfd: pytest.CaptureFixture[str]) -> None:
    facts = send(server, b"GET /facts HTTP/1.1\r\nHost: HOST\r\n\r\n")
    assert status(facts) == 200
    assert b"Tells 2 classes apart" in facts
    assert capfd.readouterr() == ("", "")


def get(
    path: bytes, *headers: bytes, host: bytes = b"Host: HOST", version: bytes = b"1.1"
) -> bytes:
    return b"\r\n".join([b"GET " + path + b" HTTP/" + version, host, *headers, b"", b""])


def post(*headers: bytes, body: bytes = b"", path: bytes = b"/classify") -> bytes:
    return b"\r\n".join([b"POST " + path + b" HTTP/1.1", b"Host: HOST", *headers, b"", body])


PATHS = {
    "a parent": b"/../secret", "parents": b"/../../../../etc/passwd",
    "a parent of it": b"/wasm/../secret.js", "parents inside": b"/wasm/wasm/../../secret.js",
    "dots escaped": b"/wasm/%2e%2e/secret.js", "dots in capitals": b"/wasm/%2E%2E/secret.js",
    "a slash escaped": b"/wasm/..%2fsecret.js", "escaped twice": b"/wasm/%252e%252e/secret.js",
    "backslashes": b"/wasm/..\\secret.js", "overlong dots": b"/wasm/\xc0\xae\xc0\xae/secret.js",
    "four dots": b"/wasm/....//secret.js", "a whole path": b"/wasm//etc/passwd",
    "a path of its own": b"//etc/passwd", "a file scheme": b"file:///etc/passwd",
    "a link to a file": b"/wasm/link.js", "a link to a folder": b"/wasm/outside/secret.js",
    "another kind of file": b"/wasm/package.json", "a folder": b"/wasm/folder.js",
    "the package itself": b"/wasm/", "no package": b"/wasm", "a zero byte": b"/wasm/\0.js",
    "an escaped zero": b"/wasm/vision_bundle.mjs%00.png", "a semicolon": b"/model;x",
    "an address of here": b"http://HOST/wasm/../secret.js", "an address elsewhere": b"http://evil/",
    "another case": b"/WASM/VISION_BUNDLE.MJS", "the export's files": b"/verify/expected.json",
    "the model by its name": b"/model.tflite", "the model and more": b"/model/../secret",
    "a fragment": b"/#/../secret", "no slash": b"secret", "a star": b"*",
    "ten thousand letters": b"/wasm/" + b"a" * 10_000 + b".js", "letters": "/wasm/é雪.js".encode(),
    "a percent alone": b"/wasm/%", "a query first": b"?/../secret",
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_path_that_is_not_served(
    path: bytes, browsers: demo.Demo, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = send(browsers, get(path))
    assert status(answer) == 404
    assert SECRET not in answer
    assert b"root:" not in answer
    assert_goes_on(browsers, capfd)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (b"/", b"<title>Try the model</title>", b"text/html"),
        (b"/?../../secret", b"<title>Try the model</title>", b"text/html"),
        (b"/model", b"the model", b"application/octet-stream"),
        (b"/wasm/vision_bundle.mjs", b"the bundle", b"text/javascript"),
        (b"/wasm/wasm/vision.wasm", b"the code", b"application/wasm"),
    ],
)
def test_what_is_served(path: bytes, body: bytes, kind: bytes, browsers: demo.Demo) -> None:
    answer = send(browsers, get(path))
    assert status(answer) == 200
    assert body in answer
    assert b"Content-Type: " + kind in answer
    assert b"nosniff" in answer


LINES = {
    # Who asks.
    "no host": (get(b"/", host=b"Accept: */*"), 403),
    "another host": (get(b"/", host=b"Host: evil.example"), 403),
    "another host at this port": (get(b"/", host=b"Host: evil.example:80"), 403),
    "a name that goes on": (get(b"/", host=b"Host: HOST.evil.example"), 403),
    "a name before it": (get(b"/", host=b"Host: evil@HOST"), 403),
    "another name of here": (get(b"/", host=b"Host: localhost"), 403),
    "no port": (get(b"/", host=b"Host: 127.0.0.1"), 403),
    "an empty host": (get(b"/", host=b"Host:"), 403),
    "two hosts": (get(b"/", b"Host: evil.example"), 403),
    "two hosts, ours last": (get(b"/", b"Host: HOST", host=b"Host: evil.example"), 403),
    "a page of another site": (get(b"/facts", b"Origin: http://evil.example"), 403),
    "a page without an origin": (get(b"/facts", b"Origin: null"), 403),
    "a page of here over TLS": (get(b"/facts", b"Origin: https://HOST"), 403),
    "an image from another site": (
        post(b"Origin: http://evil.example", b"Content-Length: 5", body=b"image"), 403),
    # What is asked.
    "a change": (b"PUT / HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
    "a removal": (b"DELETE /model HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
    "options": (b"OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
    "a trace": (b"TRACE / HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
    "a head": (b"HEAD / HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
    "a tunnel": (b"CONNECT evil:443 HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
    "small letters": (b"get / HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
    "markup as a method": (b"<script> / HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
    "an image sent elsewhere": (post(b"Content-Length: 5", body=b"image", path=b"/"), 400),
    "an image sent to a query": (
        post(b"Content-Length: 5", body=b"image", path=b"/classify?x"), 400),
    # What is no request.
    "nothing": (b"", CLOSED),
    "a line end": (b"\r\n", CLOSED),
    "one word": (b"GET\r\n\r\n", 400),
    "four words": (b"GET / / HTTP/1.1\r\n\r\n", 400),
    "half a word": (b"GE", 400),
    "a greeting of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99), 400),
    "a preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP 9.9": (get(b"/", version=b"9.9"), 505),
    "HTTP of no number": (get(b"/", version=b"1.x"), 400),
    "HTTP of a long number": (get(b"/", version=b"1." + b"9" * 5000), 400),
    "HTTP of a negative number": (get(b"/", version=b"1.-1"), 400),
    "a path without end": (get(b"/" + b"a" * 70_000), 414),
    "a header without end": (get(b"/", b"X: " + b"a" * 70_000), 431),
    "two hundred headers": (get(b"/", *[b"X: 1"] * 200), 431),
    "a header without a colon": (get(b"/", b"no colon", b"Origin: http://evil.example"), 200),
    "a header of zero bytes": (get(b"/", b"X\0Y: \0"), 200),
    "headers without end": (b"GET / HTTP/1.1\r\nHost: HOST\r\n", 200),
    "random bytes": (np.random.default_rng(0).bytes(5000), 400),
    # What is sent as an image.
    "no length": (post(body=b"image"), 400),
    "an empty length": (post(b"Content-Length:", body=b"image"), 400),
    "a negative length": (post(b"Content-Length: -1", body=b"image"), 400),
    "no bytes": (post(b"Content-Length: 0"), 400),
    "a length that is a word": (post(b"Content-Length: many", body=b"image"), 400),
    "a length with a sign": (post(b"Content-Length: +5", body=b"image"), 400),
    "a length with an underscore": (post(b"Content-Length: 1_0", body=b"image"), 400),
    "a hexadecimal length": (post(b"Content-Length: 0x5", body=b"image"), 400),
    "a length with a fraction": (post(b"Content-Length: 5.0", body=b"image"), 400),
    "a length in superscript": (post("Content-Length: ²".encode("latin-1"), body=b"image"), 400),
    "a length of digits of the world": (post("Content-Length: ٥".encode(), body=b"image"), 400),
    "two lengths in one": (post(b"Content-Length: 5, 5", body=b"image"), 400),
    "a terabyte": (post(b"Content-Length: 1099511627776", body=b"image"), 400),
    "one byte too many": (post(b"Content-Length: 67108865", body=b"image"), 400),
    "a length of five thousand digits": (
        post(b"Content-Length: " + b"9" * 5000, body=b"image"), 400),
    "chunks": (post(b"Transfer-Encoding: chunked", body=b"5\r\nimage\r\n0\r\n\r\n"), 400),
    "chunks with a length": (
        post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"5\r\nim"), 400),
    "less than was said": (post(b"Content-Length: 1000", body=b"image"), 400),
    "more than was said": (post(b"Content-Length: 5", body=b"image" * 99), 400),
    "a form": (
        post(b"Content-Type: multipart/form-data; boundary=x", b"Content-Length: 80",
             body=b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"x" * 40), 400),
    "a form without a boundary": (
        post(b"Content-Type: multipart/form-data", b"Content-Length: 5", body=b"image"), 400),
    "half an image": (
        post(b"Content-Length: %d" % (len(example()) // 2),
             body=example()[: len(example()) // 2]), 400),
    "an image of too many pixels": (post(b"Content-Length: %d" % len(bomb()), body=bomb()), 400),
    "markup as an image": (post(b"Content-Length: 8", body=b"<script>"), 400),
    "an expectation": (
        post(b"Expect: 100-continue", b"Content-Length: 5", body=b"image"), 400),
    "an image": (post(b"Content-Length: %d" % len(example()), body=example()), 200),
    "an image of another kind than said": (
        post(b"Content-Type: text/html", b"Content-Length: %d" % len(example()),
             body=example()), 200),
}  # fmt: skip


@pytest.mark.parametrize(("data", "code"), LINES.values(), ids=LINES)
def test_a_request(
    data: bytes, code: int, server: demo.Demo, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = send(server, data)
    assert status(answer) == code
    assert b"<script>" not in answer.partition(b"\r\n\r\n")[2] or code == 200
    assert b"Traceback" not in answer
    assert_goes_on(server, capfd)


def test_a_request_of_the_first_web(server: demo.Demo, capfd: pytest.CaptureFixture[str]) -> None:
    assert send(server, b"GET /\r\n\r\n") == b'{"error": "not from here"}'
    assert_goes_on(server, capfd)


# Who takes their time, or goes.


@pytest.fixture
def impatient(server: demo.Demo, monkeypatch: pytest.MonkeyPatch) -> demo.Demo:
    monkeypatch.setattr(demo._Handler, "timeout", 0.5)
    return server


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="says nothing"),
        pytest.param(b"GET / HT", id="stops in the first line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: HOST\r\nX: ", id="stops in a header"),
        pytest.param(post(b"Content-Length: 67108864", body=b"imag"), id="stops in an image"),
        pytest.param(post(b"Content-Length: 5"), id="stops before an image"),
    ],
)
def test_a_client_that_stops(
    data: bytes, impatient: demo.Demo, capfd: pytest.CaptureFixture[str]
) -> None:
    assert send(impatient, data, end=False) == b""
    assert_goes_on(impatient, capfd)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="without a word"),
        pytest.param(get(b"/"), id="before the page"),
        pytest.param(post(b"Content-Length: 9", body=b"imag"), id="in an image"),
        pytest.param(
            post(b"Content-Length: %d" % len(example()), body=example()), id="before the answer"
        ),
    ],
)
def test_a_client_that_goes(
    data: bytes, server: demo.Demo, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(5):
        with socket.create_connection(server.server_address[:2]) as client:
            # It is reset, so that reading and writing fail on the other side.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(data.replace(b"HOST", server.url.split("/")[2].encode()))
    assert_goes_on(server, capfd)


def test_three_hundred_clients_at_once(
    server: demo.Demo, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as held:
        for number in range(300):
            client = held.enter_context(socket.create_connection(server.server_address[:2]))
            client.sendall(b"GET / HTTP/1.1\r\nX: "[: number % 20])
        assert_goes_on(server, capfd)
        answer = send(server, post(b"Content-Length: %d" % len(example()), body=example()))
        assert status(answer) == 200
    assert_goes_on(server, capfd)


def test_a_model_that_fails(
    server: demo.Demo, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(pixels: np.ndarray) -> np.ndarray:
        raise RuntimeError("bad operator")

    with monkeypatch.context() as patch:
        patch.setattr(server, "predict", fails)
        answer = send(server, post(b"Content-Length: %d" % len(example()), body=example()))
        assert status(answer) == 500
        assert b"The model cannot be run: bad operator" in answer
    assert_goes_on(server, capfd)


# What calls itself an export.

ROW = {"runtime": "tflite", "file": "model.tflite"}
WHOLE = {"artefacts": [ROW], "class_names": ["a"], "image_size": [8, 8], "images": []}


@pytest.mark.parametrize(
    ("held", "needle"),
    [
        pytest.param("", "Cannot read", id="nothing"),
        pytest.param("[]", "Cannot read", id="a list"),
        pytest.param("null", "Cannot read", id="null"),
        pytest.param("{}", "Cannot read", id="no field"),
        pytest.param(WHOLE | {"artefacts": 5}, "Cannot read", id="a number of artefacts"),
        pytest.param(WHOLE | {"artefacts": [5]}, "Cannot read", id="artefacts that are numbers"),
        pytest.param(WHOLE | {"artefacts": [{}]}, "Cannot read", id="an artefact of nothing"),
        pytest.param(WHOLE | {"artefacts": []}, "holds no tflite", id="no artefact"),
        pytest.param(
            WHOLE | {"artefacts": [{"runtime": "tflite"}]}, "Cannot read", id="no file"
        ),
        pytest.param(WHOLE | {"image_size": 8}, "Cannot read", id="one side"),
        pytest.param(WHOLE | {"image_size": [8, 8, 8]}, "Cannot read", id="three sides"),
        pytest.param({"artefacts": [ROW]}, "Cannot read", id="no classes"),
        pytest.param(
            WHOLE | {"artefacts": [ROW | {"file": "../../etc/passwd"}]}, "Cannot read",
            id="a model elsewhere",
        ),
        pytest.param(
            WHOLE | {"artefacts": [ROW | {"file": "/etc/passwd"}]}, "Cannot read",
            id="a model with a whole path",
        ),
        pytest.param(
            WHOLE | {"artefacts": [ROW | {"file": "a\0b"}]}, "Cannot read", id="a zero byte"
        ),
        pytest.param(WHOLE | {"artefacts": [ROW | {"file": 5}]}, "Cannot read", id="a number"),
    ],
)  # fmt: skip
def test_what_is_no_export(held: object, needle: str, tmp_path: Path) -> None:
    (tmp_path / "verify").mkdir()
    text = held if isinstance(held, str) else json.dumps(held)
    (tmp_path / "verify" / "expected.json").write_text(text)
    assert_refused(say("demo", tmp_path), str(tmp_path), needle)
