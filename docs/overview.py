"""Draws overview.png, the README's picture, from the pictures of the quickstart notebook.

python docs/overview.py
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent
NOTEBOOK = FOLDER.parent / "notebooks" / "1_quickstart.ipynb"
# What stands in the cell that draws each picture.
EXAMPLES, MISTAKES, MAPS = "sample(paths", "wrong[", "grad_cam("


def main() -> None:
    """Reads the notebook's outputs and writes the picture beside this script."""
    from matplotlib.figure import Figure

    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    pictures = {}
    for cell in cells:
        for output in cell.get("outputs", ()):
            encoded = "".join(output.get("data", {}).get("image/png", ()))
            for part in (EXAMPLES, MISTAKES, MAPS):
                if encoded and part in "".join(cell["source"]):
                    pictures[part] = Image.open(io.BytesIO(base64.b64decode(encoded)))
    printed = "".join("".join(output.get("text", ())) for output in outputs).splitlines()
    row = next(line for line in printed if line.startswith("tflite "))
    columns = [part for part in row.split("  ") if part]
    verdict, agreement, size = columns[1].strip(), columns[2].strip(), columns[8].strip()
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    figure = Figure(figsize=(10, 3.5), dpi=110)
    for box, title, picture in (
        ((0.01, 0.52, 0.62, 0.38), "Pictures in a folder for each class", pictures[EXAMPLES]),
        ((0.01, 0.02, 0.62, 0.38), "Where the trained network looked", pictures[MAPS]),
        ((0.66, 0.30, 0.33, 0.60), "What it still gets wrong", _left(pictures[MISTAKES])),
    ):
        axes = figure.add_axes(box, anchor="NW")
        axes.imshow(np.asarray(picture.convert("RGB")), interpolation="antialiased")
        axes.axis("off")
        figure.text(box[0], box[1] + box[3] + 0.01, title, fontsize=11, weight="bold")
    figure.text(0.66, 0.22, "model.tflite", fontsize=11, weight="bold")
    figure.text(
        0.66,
        0.20,
        f"{size}; uint8 pixels in, probabilities out.\nProof on its own runtime: {verdict}, with "
        f"the\nmodel's answer on {agreement} of the test images.",
        fontsize=9,
        linespacing=1.5,
        va="top",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    reduced = Image.open(buffer).convert("RGB").quantize(200, dither=Image.Dither.NONE)
    reduced.save(FOLDER / "overview.png", optimize=True)


def _left(picture: Image.Image) -> Image.Image:
    """The left half: three of the six in each row."""
    return picture.crop((0, 0, picture.width // 2, picture.height))


if __name__ == "__main__":
    main()
