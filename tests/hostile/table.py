"""How a line of the tables is tried, and what every refusal has in common."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any, NamedTuple

from keras_transfer import cli
from keras_transfer.base.progress import WORDS


class Said(NamedTuple):
    """What a command answered: its status, and what stood on its two outputs."""

    code: int
    out: str
    err: str


def say(*words: Any) -> Said:
    """Carries out a command line in this process. Only what is no refusal of ours raises.

    Its outputs are as strict about what they can hold as those of a process.
    """
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", "", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # argparse's own refusals
            code = int(stop.code or 0)
    return Said(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def assert_refused(said: Said, *needles: str, code: int = 2) -> None:
    """One message that names the thing, with a remedy; on standard output its JSON at most."""
    assert said.code == code, said
    if said.out:
        assert [*json.loads(said.out)] == ["error"], said.out
    assert "Traceback" not in said.err
    for needle in needles:
        assert needle in said.err, f"{needle!r} is not in\n{said.err}"
    message = [line for line in said.err.splitlines() if line not in WORDS.values()]
    assert len(message) >= 2, f"a message without a remedy:\n{said.err}"
