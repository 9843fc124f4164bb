"""Holding back what native libraries print."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stdio() -> Iterator[None]:
    """Sends what is written to the standard streams within the block, from C++ too, nowhere.

    File descriptors are redirected, since TensorFlow's and OpenVINO's compiled parts write past
    ``sys.stderr``; that object itself stays, since absl keeps what it finds when it is imported.
    In a notebook it is no descriptor's, so that log records below a warning are held back as well.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = os.dup(1), os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    level = logging.root.manager.disable
    logging.disable(max(level, logging.INFO))
    try:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        yield
    finally:
        logging.disable(level)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (*saved, sink):
            os.close(descriptor)
