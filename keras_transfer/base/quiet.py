"""Holding back what native libraries print, and printing where nothing may be printed to."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_stdio() -> Iterator[None]:
    """Sends what is written to the standard streams within the block, from C++ too, nowhere.

    File descriptors are redirected, since TensorFlow's and OpenVINO's compiled parts write past
    ``sys.stderr``; that object itself stays, since absl keeps what it finds when it is imported.
    In a notebook it is no descriptor's, so that log records below a warning are held back as well.
    """
    saved = {number: os.dup(number) for number in (1, 2)}
    level = logging.root.manager.disable
    _flush()
    logging.disable(max(level, logging.INFO))
    try:
        with open(os.devnull, "wb") as sink:
            for number in saved:
                os.dup2(sink.fileno(), number)
        yield
    finally:
        logging.disable(level)
        _flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)


def say(text: str, stream: Any) -> None:
    """Prints a line that nobody must read: work goes on where a log is full or its reader gone."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        give_up(stream.fileno())


def give_up(number: int) -> None:
    """Lets a descriptor lead nowhere, and what could not be printed to it with it.

    That would fail again in every flush, and in Python's own at the end, which changes the status.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
