"""Runs the notebooks and writes them back as they are committed.

    python notebooks/build.py                  # all of them
    python notebooks/build.py 1_quickstart     # one

Each runs in an empty folder with a cache of its own, so that its output holds no path and owes
nothing to earlier runs. Pictures are reduced to a palette, and what changes from one machine to
the next without meaning (identifiers, times of cells, addresses) is left out.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
LARGEST = 1_500_000
"""Bytes that a committed notebook may have."""

_PATHS = re.compile(r"(?<![\w.:/])/(?:root|home|tmp|work|usr|content|Users)/[\w.\-/]+|\b[A-Z]:\\\\")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# What TensorFlow says of the processor when it is imported, and MediaPipe of every model, which no
# setting holds back.
_BANNER = re.compile(
    r"^(?:WARNING: (?:All log messages before absl|Logging before InitGoogle)|I0000 |"
    r"W0000 .* inference_|INFO: Created TensorFlow Lite).*\n?",
    re.M,
)
_TIMINGS = re.compile(r"^(.*): (\d+)/(\d+) .*$", re.M)


def read(name: str) -> Any:
    """A committed notebook."""
    import nbformat

    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def names() -> list[str]:
    """The names of all notebooks, in the order in which they are read."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def run(notebook: Any) -> Any:
    """Runs a notebook from top to bottom and returns it cleaned.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbclient

    with tempfile.TemporaryDirectory() as scratch:
        own = {"KERAS_TRANSFER_CACHE": str(Path(scratch, "cache")), "TF_CPP_MIN_LOG_LEVEL": "3"}
        work = Path(scratch, "work")
        work.mkdir()
        client = nbclient.NotebookClient(
            notebook,
            timeout=900,
            kernel_name="python3",
            resources={"metadata": {"path": str(work)}},
            record_timing=False,
        )
        return clean(client.execute(env=os.environ | own))


def clean(notebook: Any) -> Any:
    """Leaves out what has no meaning for a reader; the notebook is changed in place."""
    language = {"name": "python"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.clear()
    notebook.metadata.update({"kernelspec": kernel, "language_info": language})
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.metadata.clear()
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = _without_banner(_merged(cell.outputs))
        for output in cell.outputs:
            output.pop("metadata", None)
            if output.output_type == "stream":
                output.text = _TIMINGS.sub(r"\1: \2/\3", _ADDRESS.sub("", output.text))
                continue
            output["metadata"] = {}
            if "execution_count" in output:
                output.execution_count = count
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _small(data["image/png"])
                data["text/plain"] = "<Figure>"
            elif "text/plain" in data:
                data["text/plain"] = _ADDRESS.sub("", data["text/plain"])
    return notebook


def _without_banner(outputs: list[Any]) -> list[Any]:
    """The outputs less TensorFlow's greeting and the bar, which is gone when the work is done."""
    kept = []
    for output in outputs:
        if output.get("data", {}).get("text/html") == "":
            continue
        if output.output_type == "stream" and output.name == "stderr":
            output.text = _BANNER.sub("", output.text)
            if not output.text.strip():
                continue
        kept.append(output)
    return kept


def _merged(outputs: list[Any]) -> list[Any]:
    """Joins what was written to one stream in pieces."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _small(encoded: str) -> str:
    """A PNG with a palette of at most 128 colours, if that is smaller."""
    from PIL import Image

    raw = base64.b64decode(encoded)
    reduced = Image.open(io.BytesIO(raw)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    reduced.save(buffer, "png", optimize=True)
    return base64.b64encode(min(raw, buffer.getvalue(), key=len)).decode()


def problems(name: str) -> list[str]:
    """What a committed notebook must not have, in sentences; empty where all is well."""
    found = []
    notebook = read(name)
    size = (FOLDER / f"{name}.ipynb").stat().st_size
    if size > LARGEST:
        found.append(f"{size:,} bytes are more than {LARGEST:,}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("not run from top to bottom")
    for cell in code:
        for output in cell.outputs:
            text = said(output)
            loud = output.get("name") == "stderr" or "WARNING" in text or "Warning:" in text
            if output.output_type == "error" or loud:
                found.append(f"an error or a warning: {text[:200]}")
            found += [f"a path of one machine: {path}" for path in _PATHS.findall(text)]
    return found


def said(output: Any) -> str:
    """The text of an output, that of HTML included, without the pictures in it."""
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}"
    data = output.get("data", {})
    html = re.sub(r"data:[\w/]+;base64,[\w+/=]+", "", data.get("text/html", ""))
    return output.get("text", "") + data.get("text/plain", "") + html


def main() -> int:
    """Runs what is named, writes it back, and says what is wrong with it."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    wrong = 0
    for name in options.names or names():
        begun = time.monotonic()
        nbformat.write(run(read(name)), FOLDER / f"{name}.ipynb")
        found = problems(name)
        wrong += bool(found)
        print(f"{name}: {time.monotonic() - begun:.0f} s", *found, sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
