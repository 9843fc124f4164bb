"""The notebooks run from top to bottom, and what is committed of them is fit to be read."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SHARED = FOLDER.parents[1] / "shared" / "data"
_spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

NAMES = build.names()
QUICK = ("1_quickstart",)
"""Run by the default suite; the others take minutes each."""


def test_there_are_nine():
    assert [name[0] for name in NAMES] == list("123456789")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_small_complete_and_of_no_machine(name):
    assert build.problems(name) == []


@pytest.mark.parametrize("name", NAMES)
def test_links_to_other_files_lead_somewhere(name):
    for cell in build.read(name).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
                assert "://" in target or (FOLDER / target).exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_names_of_ours_that_the_code_uses_are_there(name):
    cells = (cell.source for cell in build.read(name).cells if cell.cell_type == "code")
    code = ast.parse(re.sub(r"^( *)[!%].*$", r"\1pass", "\n".join(cells), flags=re.M))
    modules, missing = {}, []
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            for one in node.names:
                if one.name.startswith(("keras_transfer", "tuning")):
                    modules[one.asname or one.name] = importlib.import_module(one.name)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(
            ("keras_transfer", "tuning")
        ):
            for one in node.names:
                named, _ = f"{node.module}.{one.name}", importlib.import_module(node.module)
                try:
                    found = importlib.import_module(named)
                except ModuleNotFoundError:
                    found = getattr(importlib.import_module(node.module), one.name, None)
                missing += [named] if found is None else []
                if inspect.ismodule(found):
                    modules[one.asname or one.name] = found
    for node in ast.walk(code):
        module = modules.get(node.value.id) if _is_attribute_of_a_name(node) else None
        if module is not None and not hasattr(module, node.attr):
            missing.append(f"{module.__name__}.{node.attr}")
    assert modules
    assert missing == []


def _is_attribute_of_a_name(node):
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)


def test_problems_are_seen(tmp_path, monkeypatch):
    notebook = build.read(NAMES[0])
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs)
    shown = {"output_type": "stream", "name": "stderr", "text": "/home/me/x: Warning"}
    cell.outputs = [nbformat.from_dict(shown)]
    cell.execution_count = 99
    _write(notebook, tmp_path / f"{NAMES[0]}.ipynb")
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(build, "LARGEST", 1000)
    found = "\n".join(build.problems(NAMES[0]))
    for sign in ("more than 1,000", "top to bottom", "warning", "/home/me/x"):
        assert sign in found


def test_the_greeting_of_tensorflow_is_left_out_and_warnings_are_not():
    greeting = (
        "WARNING: All log messages before absl::InitializeLog()\nI0000 00:00:1.2 7 port.cc:1] on\n"
    )
    streams = [
        {"output_type": "stream", "name": name, "text": text}
        for name, text in (("stderr", greeting), ("stdout", greeting), ("stderr", "Warning: x\n"))
    ]
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.from_dict(one) for one in streams])
    outputs = build.clean(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert [output.text for output in outputs] == [greeting, "Warning: x\n"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]
)
def test_it_runs_and_says_what_it_said(name, monkeypatch):
    if "PHOTOS" in "".join(cell.source for cell in build.read(name).cells):
        photos = SHARED / "photos-signs"
        if not photos.is_dir():
            pytest.skip("../shared/data/photos-signs is absent")
        monkeypatch.setenv("PHOTOS", str(photos))
    committed, again = build.read(name), build.run(build.read(name))
    for before, after in zip(committed.cells, again.cells, strict=True):
        if before.cell_type != "code":
            continue
        kinds = [
            [(output.output_type, sorted(output.get("data", {}))) for output in cell.outputs]
            for cell in (before, after)
        ]
        assert kinds[0] == kinds[1], after.source
        said = [" ".join(map(build.said, cell.outputs)) for cell in (before, after)]
        assert "nan" not in said[1].lower().split(), after.source
        # Figures and verdicts may change from machine to machine; what is spoken of does not.
        words = [set(re.findall(r"[a-z]{4,}", text.lower())) for text in said]
        assert len(words[0] & words[1]) >= 0.6 * len(words[0]), (after.source, *said)


def _write(notebook, path):
    nbformat.write(notebook, path)
