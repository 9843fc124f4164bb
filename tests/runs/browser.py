"""Headless Chromium over its debugging pipe: two file descriptors, no driver, no library."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path

FOUND = next(
    (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome") if shutil.which(n)),
    None,
)
"""The browser's path, None where there is none."""

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip

_KEYS = {"Tab": 9, "Enter": 13, "ArrowDown": 40, "End": 35}


class Page:
    """One tab. ``requests`` and ``errors`` grow as the page loads and is used."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._buffer, self._next = write, read, b"", 0
        self._session = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters):
        """Sends a command and returns its result, noting events that come in between."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens a file at a size and in a colour scheme, and waits until it has loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self._receive()

    def run(self, script: str):
        """The value of a JavaScript expression, or of what it promises."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        """Saves a PNG of the page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _receive(self):
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], 60)[0]:
                raise TimeoutError("Chromium has not answered for a minute")
            chunk = os.read(self._read, 2**20)
            if not chunk:
                raise RuntimeError("Chromium has ended")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        method, detail = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(detail["request"]["url"][:200])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(detail["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and detail["type"] in ("error", "warning"):
            self.errors.append(str(detail["args"]))
        elif method == "Log.entryAdded":
            self.errors.append(str(detail["entry"]))
        elif method == "Page.loadEventFired":
            self.loaded = True
        return message


@contextlib.contextmanager
def browser():
    """Yields a :class:`Page` in a fresh Chromium with an empty profile."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from descriptor 3 and answers on 4.
        command = f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}'
        process = subprocess.Popen(
            ["bash", "-c", command, FOUND, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, from_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            yield Page(to_write, from_read)
        finally:
            process.terminate()
            process.wait(timeout=20)
            os.close(to_write)
            os.close(from_read)
