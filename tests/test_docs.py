"""What the documents say is so."""

import re
import shlex
from pathlib import Path

import pytest

from keras_transfer import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [path.name for path in ROOT.glob("*.md")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_link_points_nowhere(name):
    text = (ROOT / name).read_text()
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\[[^\]]*\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (ROOT / target.split("#")[0]).exists(), target


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
    import keras_transfer

    for name in keras_transfer.__all__:
        if name != "__version__":
            assert getattr(keras_transfer, name).__doc__, name
