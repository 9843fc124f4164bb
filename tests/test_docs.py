"""What the documents say is so."""

import doctest
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from keras_transfer import cli
from keras_transfer.recipe import SETTINGS
from tuning import __main__ as tuning_cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    str(path.relative_to(ROOT))
    for folder in ("", "benchmarks", "docs", "notebooks", "keras_transfer", "tuning")
    for path in (ROOT / folder).glob("**/*.md" if folder else "*.md")
]
PAGES = [name for name in DOCUMENTS if name == "README.md" or name.startswith("docs/")]
COMMAND = r"^(?:.* && )?(keras-transfer|python -m tuning) +(.+?)(?: {2,}#.*| > .*)?$"
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "keras_transfer").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_link_points_nowhere(name):
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.M | re.S)
    named = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.M))
    for label in re.findall(r"\[[^\]]+\]\[([^\]]+)\]", text):
        assert label in named, label
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in [*re.findall(r"\[[^\]]*\]\(([^)]+)\)", text), *named.values()]:
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert ((ROOT / name).parent / target.split("#")[0]).exists(), target


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_every_figure_of_the_benchmarks_page_is_in_the_file_it_names():
    """Those of tables in the first file of a section, other decimals in any that it names."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    parts = re.split(r"^## ", page, flags=re.M)[1:-1]
    assert len(parts) > 10
    for part in parts:
        files = re.findall(r"\]\(\.\./(benchmarks/results/\w+\.md)\)", part)
        kept = [set(NUMBER.findall((ROOT / file).read_text())) for file in files]
        script = re.match(r".*\n\[\w+\]\(\S+\), `python (benchmarks/\w+\.py)", part)[1]
        assert (ROOT / script).exists(), script
        for row in re.findall(r"^\|.*\|$", part, re.M)[1:]:
            assert set(NUMBER.findall(row)) <= kept[0], (files[0], row)
        assert set(re.findall(r"\d+\.\d+", part)) <= set().union(*kept), part


def test_every_figure_of_the_readme_is_in_the_file_that_its_row_links_to():
    section = README.split("\n## In figures\n")[1].split("\n## ")[0]
    rows = re.findall(
        r"^\| (.+) \| (.+) \| \[\w+\]\((benchmarks/results/\w+\.md)\) \|$", section, re.M
    )
    assert len(rows) == len(re.findall(r"^\|", section, re.M)) - 2 > 5
    for what, figures, file in rows:
        found = NUMBER.findall(figures)
        assert found, what
        assert set(found) <= set(NUMBER.findall((ROOT / file).read_text())), (file, figures)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings_give_what_they_show(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted, name
    assert not result.failed, name


def test_the_checks_run_the_readme_s_test_command():
    command = re.search(r'pip install -e "\.\[dev\]" && (python -m pytest[^\n]*)\n', README)[1]
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_is_one_that_the_command_line_takes(name):
    """Of its blocks, README's two commands in one line included."""
    for command, rest in re.findall(COMMAND, (ROOT / name).read_text(), re.M):
        words = [re.sub(r"[\[\]]", "", word).split("|")[0] for word in shlex.split(rest)]
        search = {"search": tuning_cli.parser(), "study": tuning_cli.parser()}
        given = ["show", *words[1:]] if words[0] == "study" else words
        parser = cli._parser() if command == "keras-transfer" else tuning_cli.parser()
        options = search.get(words[0], parser).parse_args(given)
        assert callable(options.command)


AGAIN = {
    "docs/first_hour.md": "it is README's way as a story",
    "docs/benchmarks.md": "it says what was measured, and hands nothing out",
}
"""Pages whose reader has nothing yet, and why."""


def trainings(page):
    """The words of the commands of a page that make a run or a study, those in a line included."""
    text = (ROOT / page).read_text()
    inline = re.findall(r"`(keras-transfer) ((?:train|search) [^`]+)`", text.replace("\n", " "))
    for _, rest in [*re.findall(COMMAND, text, re.M), *inline]:
        words = shlex.split(rest)
        if words[0] in ("train", "search") and not {"--resume", "--overwrite"} & {*words}:
            yield words


def made_by(words):
    """The folder that such a command writes."""
    if "--output" in words:
        return words[words.index("--output") + 1]
    folder = {"train": "runs", "search": "studies"}[words[0]]
    return f"{folder}/{cli.default_name(words[1])}"


@pytest.mark.parametrize("page", PAGES)
def test_no_page_hands_out_a_training_for_a_folder_that_is_taken(page):
    """By README, or by the page itself: it would be refused."""
    taken = [made_by(words) for words in trainings("README.md")]
    assert len(taken) == len(set(taken)) == 2
    taken = [] if page in AGAIN or page == "README.md" else taken
    for words in trainings(page):
        if "--output" not in words:  # else its reader was told to choose a place
            assert made_by(words) not in taken, (page, words)
            taken.append(made_by(words))


def test_every_public_name_is_there_and_documented():
    """Each has a docstring that names every argument or field, what it gives and what it raises."""
    import keras_transfer

    for name in keras_transfer.__all__:
        if name == "__version__":
            continue
        thing = getattr(keras_transfer, name)
        assert thing.__doc__, name
        own = thing.__init__ if isinstance(thing, type) else thing
        fields = [field.name for field in getattr(thing, "__dataclass_fields__", {}).values()]
        arguments = fields or [
            parameter
            for parameter in inspect.signature(own).parameters
            if parameter not in ("self", "args", "kwargs")
        ]
        for argument in arguments:
            # A setting of the recipe says itself what it is.
            kinds = thing.__mro__ if isinstance(thing, type) else (thing,)
            own_words = " ".join(kind.__doc__ or "" for kind in kinds)
            setting = argument in SETTINGS and not re.search(rf"\b{argument}: ", own_words)
            said = SETTINGS[argument].metadata["help"] if setting else own_words
            named = setting or re.search(rf"\b{argument}\b", said)
            assert said, (name, argument)
            assert named, (name, argument)
        if not isinstance(thing, type):
            returned = inspect.signature(thing).return_annotation
            assert returned == "None" or "Returns:" in thing.__doc__ or len(arguments) < 3, name
            source = inspect.getsource(thing)
            assert "raise UsageError" not in source or "Raises:" in thing.__doc__, name


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("settings.text()", "docs/settings.md"),
        ("settings.stub()", "keras_transfer/__init__.pyi"),
        ("command_line.text()", "docs/command_line.md"),
    ],
)
def test_what_is_written_of_recipe_and_parsers_is_what_they_say(written, file):
    said = subprocess.run(
        [sys.executable, "-c", f"import settings, command_line; print({written}, end='')"],
        cwd=ROOT / "docs", env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=True,
    ).stdout  # fmt: skip
    assert (ROOT / file).read_text(encoding="utf-8") == said


def test_the_site_builds_without_a_warning_and_asks_for_nothing_elsewhere(tmp_path):
    """Links, headings that links name, docstrings, and a place in the navigation for every page."""
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package, reason='the site needs `pip install -e ".[docs]"`')
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", "docs"]
    command += ["-d", str(tmp_path / "seen"), ".", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True)
    pages = {path.stem for path in (tmp_path / "site" / "docs").glob("*.html")}
    home = (tmp_path / "site" / "docs" / "index.html").read_text()
    assert pages == {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert all(f'href="{page}.html"' in home for page in pages - {"index"})
    for path in (tmp_path / "site").rglob("*.html"):
        assert not re.search(
            r"<(?:script|img|link)[^>]*(?:src|href)=\"(?:https?:)?//", path.read_text()
        )
    assert 'href="#keras_transfer.train"' in (tmp_path / "site" / "docs" / "api.html").read_text()
