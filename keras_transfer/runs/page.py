"""A page that asks nothing of the network: one file with its style, script and pictures."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from keras_transfer.base import templates
from keras_transfer.evaluation import plots

# The page's own colours, so that a figure follows the scheme that the reader prefers.
_COLOURS = {
    plots.INK: "currentColor",
    plots.FIRST: "var(--first)",
    plots.SECOND: "var(--second)",
    plots.MUTED: "var(--muted)",
}


def render(template: Path, values: Mapping[str, Any]) -> str:
    """Fills a template, which also gets ``style``, ``script`` and the ``script_hash``.

    Args:
        template: a jinja2 file; what it prints is text and no markup, unless it is ``Markup``.
        values: everything that it names.
    """
    style, script = (
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("style.css", "script.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    own = {"style": Markup(style), "script": Markup(script), "script_hash": f"sha256-{digest}"}
    return templates.fill(template, {**own, **values}, trim=False)


def svg(figure: Figure) -> str:
    """A figure as a complete SVG file with transparent ground and real text."""
    buffer = io.StringIO()
    # A fixed salt and no date: the same figure gives the same bytes.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "keras_transfer"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Whoever shows the file brings the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def inline_svg(text: str, alt: str) -> Markup:
    """An SVG file as an element of the page, in the page's colours.

    Args:
        text: from :func:`svg`.
        alt: what the figure shows, for those who do not see it.
    """
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Several figures share the page, and matplotlib numbers the groups of each from 1.
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    for colour, replacement in _COLOURS.items():
        body = body.replace(colour, replacement)
    opening = f'<svg role="img" aria-label="{html.escape(alt)}"'
    return Markup(body.replace("<svg", opening, 1))


def data_url(image: bytes) -> str:
    """A WebP image as an address that needs no request."""
    return "data:image/webp;base64," + base64.b64encode(image).decode("ascii")


def matrix_image(matrix: np.ndarray) -> bytes:
    """A confusion matrix as a picture, one pixel a cell, shaded by share of the row."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # The square root lifts rare confusions out of the ground.
    colours = matplotlib.colormaps["magma"](np.sqrt(share))[..., :3]
    buffer = io.BytesIO()
    picture = Image.fromarray(np.round(255 * colours).astype(np.uint8))
    picture.save(buffer, format="WEBP", lossless=True)
    return buffer.getvalue()
