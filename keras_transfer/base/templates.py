"""Filling the templates of pages, cards and READMEs, all by the same rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fill(
    template: Path, values: Mapping[str, Any], *, markup: bool = True, trim: bool = True
) -> str:
    """Fills a jinja2 file, which may include others of its folder.

    Args:
        template: the file.
        values: everything that it names; what it names and is not given is an error.
        markup: whether it is HTML, in which what is printed is escaped unless it is ``Markup``.
        trim: whether lines that hold a statement alone leave no empty line.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        autoescape=markup,
        trim_blocks=trim,
        lstrip_blocks=trim,
        keep_trailing_newline=not markup,
    )
    return environment.get_template(template.name).render(values)
