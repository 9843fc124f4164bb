from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from runs import browser

from keras_transfer import cli
from keras_transfer.base.errors import UsageError
from keras_transfer.export import ExportResult
from keras_transfer.export.demo import Demo

needs_browser = pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is installed")

WASM = os.environ.get("MEDIAPIPE_WASM")
"""A folder node_modules/@mediapipe/tasks-vision, for the test of WebAssembly."""


# What a shell starts in the background is deaf to interrupts, and so are its children.
HEEDING = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from keras_transfer.cli import main; sys.exit(main())"
)


@contextlib.contextmanager
def serving(folder: Path, **options: object) -> Iterator[Demo]:
    with Demo(folder, **options) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(exported: ExportResult) -> Iterator[Demo]:
    with serving(exported.path) as found:
        yield found


def ask(
    server: Demo, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply.status, reply.read(), reply


def sample(exported: ExportResult) -> tuple[Path, list[str], np.ndarray]:
    proof = json.loads((exported.path / "verify" / "expected.json").read_text())
    image = proof["images"][-1]
    path = exported.path / "verify" / "images" / image["file"]
    return path, proof["class_names"], np.array(image["probabilities"])


def test_classifies_what_is_sent(exported: ExportResult, server: Demo) -> None:
    path, names, expected = sample(exported)
    status, body, _ = ask(server, "POST", "/classify", path.read_bytes())
    classes = json.loads(body)["classes"]
    assert status == 200
    order = np.argsort(-expected, kind="stable")
    assert classes[0]["label"] == names[order[0]]
    assert classes[0]["probability"] == pytest.approx(expected.max(), abs=1e-3)
    assert [row["probability"] for row in classes] == sorted(
        (row["probability"] for row in classes), reverse=True
    )


def test_only_this_computer_and_this_page_are_answered(server: Demo) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "GET", "/facts")[0] == 200
    assert ask(server, "GET", "/facts", Host="evil.example")[0] == 403
    assert ask(server, "POST", "/classify", b"x", Origin="http://evil.example")[0] == 403
    policy = ask(server, "GET", "/")[2].headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/classify", b"no image", 400),
        ("POST", "/classify", b"", 400),
        ("POST", "/elsewhere", b"x", 400),
        ("GET", "/../parity.json", None, 404),
        ("GET", "/wasm/vision_bundle.mjs", None, 404),
    ],
)
def test_what_is_not_meant_is_refused(
    server: Demo, method: str, path: str, body: bytes | None, status: int
) -> None:
    found, reply, _ = ask(server, method, path, body)
    assert found == status
    assert json.loads(reply)["error"]


def test_a_folder_that_cannot_be_served(exported: ExportResult, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected\.json: No such file"):
        Demo(tmp_path)
    with pytest.raises(UsageError, match=r"no vision_bundle\.mjs"):
        Demo(exported.path, wasm=tmp_path)
    (tmp_path / "verify").mkdir()
    (tmp_path / "verify" / "expected.json").write_text(
        '{"artefacts": [], "class_names": [], "image_size": [8, 8], "images": []}'
    )
    with pytest.raises(UsageError, match="holds no tflite"):
        Demo(tmp_path)


def test_the_command_serves_until_it_is_interrupted(exported: ExportResult) -> None:
    path, names, expected = sample(exported)
    command = [sys.executable, "-c", HEEDING, "demo", str(exported.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/classify", path.read_bytes())
        classes = json.loads(connection.getresponse().read())["classes"]
        assert classes[0]["label"] == names[expected.argmax()]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_the_command_refuses_what_is_no_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", str(tmp_path)]) == cli.USAGE
    assert "expected.json: No such file" in capsys.readouterr().err


ANSWERED = """new Promise(done => {
  const ready = () => document.querySelector("#answer").textContent && done(
    [...document.querySelectorAll("#answer tr td:first-child")].map(cell => cell.textContent));
  new MutationObserver(ready).observe(
    document.querySelector("#answer"), {childList: true, subtree: true});
  ready(); })"""


def visit(page: browser.Page, url: str) -> None:
    page.loaded = False
    page.call("Page.navigate", url=url)
    while not page.loaded:
        page._receive()


def choose(page: browser.Page, path: Path) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def answer(page: browser.Page) -> list[str]:
    result = page.call(
        "Runtime.evaluate", expression=ANSWERED, awaitPromise=True, returnByValue=True
    )
    return result["result"]["value"]


@needs_browser
def test_the_page_names_a_chosen_image(exported: ExportResult, server: Demo) -> None:
    path, names, expected = sample(exported)
    with browser.browser() as page:
        visit(page, server.url)
        choose(page, path)
        assert answer(page)[0] == names[expected.argmax()]
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(Path(folder, "demo.png"))
        assert page.errors == []
        assert all(url.startswith((server.url, "blob:")) for url in page.requests)


@needs_browser
def test_the_page_says_when_it_is_unsure(
    server: Demo, exported: ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.facts["threshold"] == (exported.parity["threshold"] or 0.0)
    for threshold, unsure in ((1.01, True), (0.0, False)):
        monkeypatch.setitem(server.facts, "threshold", threshold)
        with browser.browser() as page:
            visit(page, server.url)
            choose(page, sample(exported)[0])
            answer(page)
            said = page.run("document.querySelector('#answer .note').textContent")
            assert ("Unsure" in said) == unsure


@needs_browser
def test_the_page_watches_the_camera(
    server: Demo, exported: ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    monkeypatch.setattr(browser, "_FLAGS", (*browser._FLAGS, *fake))
    with browser.browser() as page:
        visit(page, server.url)
        page.run("document.querySelector('#live').click()")
        assert answer(page)[0] in sample(exported)[1]
        assert page.run("document.querySelector('#live').textContent") == "Stop the camera"
        page.run("document.querySelector('#live').click()")
        assert page.run("document.querySelector('#live').textContent") == "Use the camera"


@needs_browser
@pytest.mark.skipif(WASM is None, reason="MEDIAPIPE_WASM names no @mediapipe/tasks-vision folder")
def test_the_page_runs_the_model_as_webassembly(exported: ExportResult) -> None:
    path, names, expected = sample(exported)
    with serving(exported.path, wasm=WASM) as server, browser.browser() as page:
        visit(page, server.url)
        choose(page, path)
        assert answer(page)[0] == names[expected.argmax()]
        assert not any("classify" in url for url in page.requests)
        assert all(url.startswith((server.url, "blob:")) for url in page.requests)
