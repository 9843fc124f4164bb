"""Writes docs/command_line.md, what every command takes, from the parsers of the commands.

python docs/command_line.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from keras_transfer import cli
from tuning import __main__ as tuning

HEADING = """\
# The command line

Each command with all that it takes, as `--help` prints it. Exit codes: 0 done, 2 wrong usage or
unusable data, 1 any other failure, 130 interrupted. `keras-transfer` and `python -m keras_transfer`
are the same; `keras-transfer search` and `study` are `python -m tuning search` and `show`. What
settings may be stands in [settings](settings.md). Written by `python docs/command_line.py`.
"""


def text() -> str:
    """The page."""
    return "\n".join([HEADING, *(part for parser in parsers() for part in _section(parser))])


def parsers() -> Iterator[argparse.ArgumentParser]:
    """Those of all commands, in the order of ``--help``."""
    for program in (cli._parser(), tuning.parser()):
        yield from _commands(program)


def _commands(program: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in program._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A heading, what the command does, and a table of its arguments for each of their groups."""
    yield f"## {parser.prog}\n\n{parser.description}\n"
    for group in parser._action_groups:
        rows = [action for action in group._group_actions if action.dest != "help"]
        if rows:
            yield f"| {group.title} | |\n|---|---|"
            yield "\n".join(f"| {_name(action)} | {_help(action)} |" for action in rows) + "\n"


def _name(action: argparse.Action) -> str:
    """As it is typed: the option and what follows it, or what stands for an argument."""
    word = action.metavar or action.dest
    taken = "" if action.nargs == 0 else word if isinstance(word, str) else " ".join(word)
    typed = " ".join([*action.option_strings[:1], *([taken] if taken else [])])
    return f"`{_cell(typed)}`"


def _help(action: argparse.Action) -> str:
    return _cell((action.help or "") % vars(action)).replace("<", "&lt;")


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(text(), encoding="utf-8")
