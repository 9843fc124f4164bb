"""The wheel and the source archive hold what they must."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("keras_transfer", "tuning")
BESIDE = ("benchmarks", "docs", "notebooks", "tests", ".ci")
BUILD = "from setuptools import build_meta as b; print(b.build_wheel('out'), b.build_sdist('out'))"


def kept(folder: Path) -> set[str]:
    """The files that belong to a folder of the repository: no caches."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder.parent).as_posix()
        for path in found
        if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The names of the files in both archives, made from a copy of what git keeps."""
    pytest.importorskip("setuptools", minversion="77", reason="as pyproject.toml asks for")
    place = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, *BESIDE):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, place)
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=place, capture_output=True, text=True, check=True
    )
    wheel, archive = done.stdout.split()[-2:]
    with zipfile.ZipFile(place / "out" / wheel) as opened:
        in_wheel = set(opened.namelist())
    with tarfile.open(place / "out" / archive) as opened:
        in_archive = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}
    return in_wheel, in_archive


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(
    built: tuple[set[str], set[str]],
) -> None:
    names = {name for name in built[0] if ".dist-info/" not in name}
    assert names == set().union(*(kept(ROOT / name) for name in PACKAGES))
    legal = {name.rsplit("/", 1)[1] for name in built[0] if "/licenses/" in name}
    assert legal == {"LICENSE", "NOTICE"}


def test_from_the_source_archive_tests_run_and_the_site_is_built(
    built: tuple[set[str], set[str]],
) -> None:
    wanted = set().union(*(kept(ROOT / name) for name in (*PACKAGES, *BESIDE)))
    assert wanted <= built[1]
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "ruff.toml", "setup.cfg"} <= built[1]
