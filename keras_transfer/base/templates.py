"""Filling the templates of pages, cards and READMEs, all by the same rules."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Letters that turn the direction of what follows them, so that a name rewrites the line it is in.
_TURNS = dict.fromkeys(map(ord, "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"), "\ufffd")


def markdown(text: Any) -> str:
    """Text as a line of Markdown that shows it as it is: no markup, no HTML, no second line.

    >>> print(markdown("1. <b> [x](y) snake_case"))
    1\\. \\<b\\> \\[x\\](y) snake_case
    """
    line = " ".join(str(text).split())
    line = re.sub(r"[\\`*\[\]<>&|~$#]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
    return re.sub(r"^(\d+(?=[.)])|(?=[-+=]))", r"\1\\", line)  # what would begin a list


def fill(
    template: Path, values: Mapping[str, Any], *, markup: bool = True, trim: bool = True
) -> str:
    """Fills a jinja2 file, which may include others of its folder.

    Args:
        template: the file.
        values: everything that it names; what it names and is not given is an error.
        markup: whether it is HTML, in which what is printed is escaped unless it is ``Markup``;
            in Markdown the filter ``markdown`` escapes.
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
        finalize=lambda value: value.translate(_TURNS) if isinstance(value, str) else value,
    )
    environment.filters["markdown"] = markdown
    return environment.get_template(template.name).render(values)
