"""Writes docs/settings.md, the reference of all settings, from the fields of ``Recipe``.

python docs/settings.py
"""

from __future__ import annotations

from pathlib import Path

from keras_transfer.recipe import EFFORTS, RANDOM_WEIGHTS, SETTINGS

HEADING = """\
# Settings

Every setting of a run: an option of `keras-transfer train` (with dashes for underscores), a keyword
of `keras_transfer.train`, a line of the TOML file that `--config` takes, and, but for those of the
data, the judgement and the machine, something that a search may vary. What is typed beats the file,
the file beats the effort, the effort beats the default. Written by `python docs/settings.py`.
"""


def text() -> str:
    """The page."""
    parts = [HEADING]
    groups = dict.fromkeys(field.metadata["group"] for field in SETTINGS.values())
    for group in groups:
        parts.append(
            f"## {group.capitalize()}\n\n| setting | default | what it is | what it may be |"
        )
        parts[-1] += "\n|---|---|---|---|"
        for name, field in SETTINGS.items():
            about = field.metadata
            if about["group"] == group:
                default = "" if field.default is None else f"`{field.default}`"
                cells = name, default, about["help"], about["kind"].expected
                parts[-1] += f"\n| `{cells[0]}` | " + " | ".join(
                    cell.replace("|", "\\|") for cell in cells[1:]
                )
                parts[-1] += " |"
    changes = {**EFFORTS, "random weights": RANDOM_WEIGHTS}
    parts.append("## What an effort changes\n\n| | settings |\n|---|---|")
    for name, numbers in changes.items():
        said = ", ".join(f"`{key} = {value}`" for key, value in numbers.items())
        parts[-1] += f"\n| {name} | {said or 'nothing'} |"
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(text(), encoding="utf-8")
