"""Each entry of hostile/defects.toml still fits today's code and tests."""

import ast
import functools
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = tomllib.loads((ROOT / "tests/hostile/defects.toml").read_text(encoding="utf-8"))
EDITS = [(entry, edit) for entry in ENTRIES["defects"] for edit in entry["edits"]]


@functools.cache
def functions(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("entry", "edit"), EDITS, ids=[f"{entry['number']}-{edit['broken']}" for entry, edit in EDITS]
)
def test_a_defect_can_be_put_back(entry, edit):
    assert entry.keys() == {"number", "defect", "edits"}
    assert edit.keys() - {"hangs"} == {"file", "broken", "old", "new", "tests"}
    text = (ROOT / edit["file"]).read_text(encoding="utf-8")
    assert text.count(edit["old"]) == 1
    ast.parse(text.replace(edit["old"], edit["new"]))  # what is no Python fails any test
    assert edit["tests"]
    for test in edit["tests"]:
        file, _, name = test.partition("::")
        assert name in functions(file)


def test_no_number_is_left_out():
    numbers = [entry["number"] for entry in ENTRIES["defects"]]
    assert sorted(numbers) == numbers
    assert set(numbers) == set(range(1, max(numbers) + 1))
