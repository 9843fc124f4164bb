"""The inspection as a page with pictures, and as tables for a notebook and a terminal."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transfer.base import templates
from keras_transfer.base.errors import ExampleError
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.base.task import task_of
from keras_transfer.base.threads import in_threads
from keras_transfer.base.types import SPLITS, Dataset, Finding
from keras_transfer.datasets.checks import TITLES
from keras_transfer.datasets.sources import Source
from keras_transfer.modalities import modality

if TYPE_CHECKING:
    from rich.console import Group

EXAMPLES_A_CLASS = 12
MAX_EXAMPLES = 1200  # on contact sheets, so that a page stays under about 5 MB
FINDINGS_A_KIND = 40  # shown in full; the rest is counted


def html(facts: dict[str, Any], findings: Sequence[Finding], data: Dataset, source: Source) -> str:
    """One HTML page without any outside request.

    Args:
        facts: of the inspection, as plain values.
        findings: the gravest kinds first.
        data: what would be trained on.
        source: where it comes from, and what was left out.
    """
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    sheets = _sheets(data)
    paths = {path for sheet in sheets for path in sheet["paths"]}
    for found in kinds.values():
        paths |= {path for one in found[:FINDINGS_A_KIND] for path in (one.path, one.other)}
    return _render(
        "inspection.html",
        facts=facts,
        extent=modality(data.modality).EXTENT,
        what=modality(data.modality).NOUN,
        kinds=kinds,
        titles=TITLES,
        most=FINDINGS_A_KIND,
        sheets=sheets,
        pictures=_pictures(source, paths),
    )


def notebook(facts: dict[str, Any]) -> str:
    """One table: the classes, and how many findings there are of each kind."""
    kinds = {TITLES.get(kind, kind): count for kind, count in facts["finding_counts"].items()}
    what = modality(facts["modality"]).NOUN
    return _render("inspection_notebook.html", facts=facts, kinds=kinds, what=what)


def _render(template: str, **values: Any) -> str:
    return templates.fill(Path(__file__).with_name(template), values)


def _sheets(data: Dataset) -> list[dict[str, Any]]:
    """For each class some examples, the same ones each time, in no order of the file names."""
    count = max(2, min(EXAMPLES_A_CLASS, MAX_EXAMPLES // max(1, len(data.class_names))))
    members: list[list[int]] = [[] for _ in data.class_names]
    task, place = task_of(data.labels), {name: i for i, name in enumerate(data.class_names)}
    cells = task.decode(data.labels, data.class_names)
    for i in sorted(range(len(data)), key=data.digests.__getitem__):
        for name in task.names(cells[i]):
            members[place[name]].append(i)
    sheets = [
        {"name": name, "images": len(rows), "paths": [data.paths[i] for i in rows[:count]]}
        for name, rows in zip(data.class_names, members, strict=True)
    ]
    return sheets[: MAX_EXAMPLES // count]


def _pictures(source: Source, paths: set[str]) -> dict[str, str]:
    """What is shown of each item that can be decoded, as HTML."""
    form = modality(source.modality)
    known = sorted(paths & {item.path for item in source.items})
    made: dict[str, str] = {}

    def make(i: int) -> None:
        with contextlib.suppress(ExampleError):
            example = form.decode(source.read(known[i]), form.preview(None))
            made[known[i]] = form.show(example, known[i])

    with warnings.catch_warnings(action="ignore"), quiet_stdio():  # of what the findings name
        in_threads(make, len(known))
    return made


def terminal(facts: dict[str, Any]) -> Group:
    """Tables for rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    what = modality(facts["modality"]).NOUN
    classes = Table("class", title=f"{printable(facts['name'])}: {facts['images']:,} {what}s")
    for name in (f"{what}s", *SPLITS):
        classes.add_column(name, justify="right")
    for row in facts["classes"]:
        counts = (f"{row[name]:,}" for name in ("images", *SPLITS))
        classes.add_row(Text(printable(row["name"])), *counts)
    table = Table("what", "count", "done about it", title=f"{len(facts['findings']):,} findings")
    table.add_column("for example", overflow="fold")
    table.columns[1].justify = "right"
    first = {one["kind"]: one for one in reversed(facts["findings"])}
    for kind, count in facts["finding_counts"].items():
        one = first[kind]
        example = printable(": ".join(filter(None, (one["path"], one["reason"]))))
        table.add_row(TITLES.get(kind, kind), f"{count:,}", one["action"], Text(example))
    classes.title_justify = table.title_justify = "left"
    expected = facts["expected_accuracy"]
    lines = [
        f"An accuracy of 90 % measured on {expected['test_images']:,} test {what}s means "
        f"{expected['low']:.1%} to {expected['high']:.1%} (95 % interval)."
    ]
    if facts["left_out"]:
        lines.append(f"Left out: {facts['left_out']:,}.")
    return Group(classes, *([table] if first else []), *map(Text, lines))


def printable(text: str) -> str:
    """Control characters in file names escaped, so that they cannot play with a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
