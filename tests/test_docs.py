"""What the documents say is so."""

import doctest
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest

from keras_transfer import cli
from keras_transfer.recipe import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    str(path.relative_to(ROOT))
    for folder in ("", "benchmarks", "docs", "notebooks", "keras_transfer", "tuning")
    for path in (ROOT / folder).glob("**/*.md" if folder else "*.md")
]
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "keras_transfer").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_link_points_nowhere(name):
    text = (ROOT / name).read_text()
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
    assert len(README.splitlines()) <= 300


def test_every_figure_of_the_readme_s_benchmarks_is_in_the_file_it_names():
    section = README.split("\n## Measured\n")[1].split("\n## ")[0]
    parts = re.split(r"^### ", section, flags=re.M)[1:]
    assert parts
    for part in parts:
        file = re.search(r"\]\((benchmarks/results/\w+\.md)\)", part)[1]
        script = re.search(r"`python (benchmarks/\w+\.py)", part)[1]
        assert (ROOT / script).exists(), script
        number = re.compile(r"\d+(?:\.\d+)?")
        kept = set(number.findall((ROOT / file).read_text()))
        for row in re.findall(r"^\|.*\|$", part, re.M)[1:]:
            assert set(number.findall(row)) <= kept, (file, row)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings_give_what_they_show(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted, name
    assert not result.failed, name


def test_the_checks_run_the_readme_s_test_command():
    command = re.search(r'pip install -e "\.\[dev\]" && (python -m pytest[^\n]*)\n', README)[1]
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()


def test_every_command_of_the_readme_is_one_that_the_command_line_takes():
    lines = re.findall(r"^(?:pip install \. && )?keras-transfer +(.+?)(?: {2,}#.*)?$", README, re.M)
    assert len(lines) > 8
    for line in lines:
        words = [re.sub(r"[\[\]]", "", word).split("|")[0] for word in shlex.split(line)]
        options = cli._parser().parse_args(words)
        assert callable(options.command)


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


def test_the_page_of_settings_is_what_the_recipe_says():
    found = importlib.util.spec_from_file_location("settings", ROOT / "docs" / "settings.py")
    settings = importlib.util.module_from_spec(found)
    found.loader.exec_module(settings)
    written = settings.text() + settings.stub()
    pages = ROOT / "docs" / "settings.md", ROOT / "keras_transfer" / "__init__.pyi"
    assert "".join(page.read_text(encoding="utf-8") for page in pages) == written
