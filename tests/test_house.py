"""The structure stays readable: size, long functions, state, circles, names."""

import ast
import collections
import graphlib
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path for room in ("keras_transfer", "tuning") for path in (ROOT / room).rglob("*.py")
)
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
LINES = 18_870
"""The most lines of code: this number only ever becomes smaller."""
SILENT = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
)  # fmt: skip


def docstrings(tree):
    """The lines that docstrings stand on."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            yield from range(node.body[0].lineno, node.body[0].end_lineno + 1)


def lines_of_code(path):
    """How many lines are neither blank, nor comments, nor docstrings."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    spoken = [t for t in tokens if t.type not in SILENT]
    code = {n for t in spoken for n in range(t.start[0], t.end[0] + 1)}
    return len(code - set(docstrings(TREES[path])))


def name_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def test_the_house_does_not_grow():
    assert sum(map(lines_of_code, FILES)) <= LINES


def test_docstrings_take_at_most_a_third_of_the_code():
    written = sum(len(set(docstrings(tree))) for tree in TREES.values())
    assert written <= sum(map(lines_of_code, FILES)) / 3


def test_only_the_story_of_a_run_is_long():
    long = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert long == ["keras_transfer/training.py:train"]


def test_state_is_set_where_an_object_is_made():
    late = [
        f"{path.relative_to(ROOT)}:{kind.name}.{target.attr}"
        for path, tree in TREES.items()
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef) and method.name not in ("__init__", "__post_init__")
        for node in ast.walk(method)
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self"
    ]
    assert len(late) <= 5, late


def test_no_two_files_have_one_name():
    own = [path.name for path in FILES if not path.name.startswith("__")]
    assert [name for name, count in collections.Counter(own).items() if count > 1] == []


def test_no_imports_run_in_a_circle():
    known = {name_of(path) for path in FILES}
    needs = {}
    for path, tree in TREES.items():
        found = set()
        for node in ast.walk(tree):  # imports within functions count too
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found.add(whole if whole in known else node.module)
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        needs[name_of(path)] = (found & known) - {name_of(path)}
    for package in ("keras_transfer", "tuning"):
        # The public names of a package are looked up when they are asked for.
        needs[package] = set()
    try:
        list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize(("word", "files"), [("precision", 9), ("devices", 6), ("image_size", 12)])
def test_a_setting_is_named_in_few_files(word, files):
    assert sum(word in path.read_text(encoding="utf-8") for path in FILES) <= files
