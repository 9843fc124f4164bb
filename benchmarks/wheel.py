"""The package from its wheel, in an empty environment of each Python: installed, trained, exported.

    python benchmarks/wheel.py                        # every Python from 3.11 on that is found
    python benchmarks/wheel.py python3.12 --default   # this one, TensorFlow in its default build

The source archive is made of what git keeps, and the wheel of the unpacked archive: what is missing
in either is missed here. Python and pip are all that this needs. Unless `--default` is given,
`tensorflow-cpu` stands in for `tensorflow`, which is twice as large; everything else is what the
wheel asks for, at the newest version that it admits.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

from common import HERE, child, record

BUILD = "from setuptools import build_meta as b; print(b.build_{kind}({out!r}))"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", help="interpreters; all that are found by default")
    parser.add_argument(
        "--default", action="store_true", help="TensorFlow as the wheel asks for it"
    )
    options = parser.parse_args()
    pythons = options.pythons or list(filter(None, map(found, VERSIONS)))
    # No path to this repository, and no package of the user's.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    os.environ.clear()
    os.environ.update(kept, PYTHONNOUSERSITE="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    with tempfile.TemporaryDirectory() as folder:
        wheel = built(pythons[0], Path(folder))
        rows = [tried(python, wheel, Path(folder), options.default) for python in pythons]
    which = "the default build of TensorFlow" if options.default else "tensorflow-cpu"
    command = "python benchmarks/wheel.py" + " --default" * options.default
    record("wheel", command, rows, f"With {which}. Not found here: {absent() or 'none'}.")
    if any(row["verified"] != "yes" for row in rows):
        sys.exit(1)


def found(version: str) -> str | None:
    """A Python of this version, on the path or of pyenv."""
    own = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(own[-1]) if own else shutil.which(f"python{version}")


def absent() -> str:
    """The versions of which there is none."""
    return ", ".join(version for version in VERSIONS if not found(version))


def built(python: str, folder: Path) -> Path:
    """The wheel, made of the source archive."""
    environment(python, folder / "build", "setuptools>=77", "wheel")
    copy, out = folder / "source", folder / "out"
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=HERE.parent, text=True)
    for name in filter(None, names.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE.parent / name, copy / name)

    def make(kind: str, source: Path) -> Path:
        code = BUILD.format(kind=kind, out=str(out))
        command = [str(folder / "build" / "bin" / "python"), "-c", code]
        return out / subprocess.check_output(command, cwd=source, text=True).split()[-1]

    archive = make("sdist", copy)
    shutil.unpack_archive(archive, folder / "unpacked", filter="data")
    return make("wheel", next((folder / "unpacked").iterdir()))


def environment(python: str, place: Path, *packages: str) -> None:
    """A fresh environment with packages in it."""
    child([python, "-m", "venv", str(place)])
    child([str(place / "bin" / "pip"), "install", "-q", *packages])


def wanted(wheel: Path, default: bool) -> list[str]:
    """What to install for a wheel: it alone, or what it asks for with another TensorFlow."""
    if default:
        return [str(wheel)]
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        text = opened.read(name).decode()
    asked = message_from_string(text).get_all("Requires-Dist") or []
    plain = [line for line in asked if "extra ==" not in line]
    return [re.sub(r"^tensorflow(?=[^\w-])", "tensorflow-cpu", line) for line in plain]


def tried(python: str, wheel: Path, folder: Path, default: bool) -> dict[str, Any]:
    """A row of the table: what README's commands do for this Python."""
    version = child([python, "-c", "import platform; print(platform.python_version())"])["output"]
    place, here = folder / f"venv-{version.strip()}", folder / f"here-{version.strip()}"
    here.mkdir()
    row: dict[str, Any] = {"Python": version.strip(), "trained": "", "exported": "", "verified": ""}
    environment(python, place, *wanted(wheel, default))
    child([str(place / "bin" / "pip"), "install", "-q", "--no-deps", str(wheel)])
    row["environment, GB"] = size(place) / 1e9

    def command(words: str) -> str:
        program = [str(place / "bin" / "keras-transfer"), *words.split()]
        cache = {"KERAS_TRANSFER_CACHE": str(here / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            program, cwd=here, env=os.environ | cache, capture_output=True, text=True, check=False
        )
        print(f"$ keras-transfer {words}\n{done.stdout}{done.stderr}", flush=True)
        return "yes" if done.returncode == 0 else f"ended with {done.returncode}"

    row["trained"] = command("train builtin:digits --output runs/digits")
    row["exported"] = command("export runs/digits --formats saved_model,tflite")
    row["verified"] = command("verify saved_models/digits")
    metrics = here / "runs" / "digits" / "metrics.json"
    if metrics.exists():
        row["right on the test"] = json.loads(metrics.read_text())["test"]["accuracy"]
    listed = child([str(place / "bin" / "pip"), "list", "--format", "json"])["output"]
    versions = {p["name"].lower().replace("_", "-"): p["version"] for p in json.loads(listed)}
    for name in ("tensorflow" if default else "tensorflow-cpu", "keras", "openvino", "numpy"):
        row[name] = versions[name]
    shutil.rmtree(place)
    return row


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
