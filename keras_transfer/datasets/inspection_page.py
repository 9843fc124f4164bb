"""The inspection as a page with pictures, and as tables for a terminal."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING, Any

from keras_transfer.base.errors import ImageError
from keras_transfer.base.types import Finding
from keras_transfer.datasets.inspection import TITLES, Inspection
from keras_transfer.modalities.image import pipeline

if TYPE_CHECKING:
    from rich.console import Group

PICTURE = 96  # pixels a side
PICTURES_A_CLASS = 12
MAX_PICTURES = 1200  # on contact sheets, so that a page stays under about 5 MB
FINDINGS_A_KIND = 40  # shown in full; the rest is counted


def html(inspection: Inspection) -> str:
    """One HTML page without any outside request."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_transfer.datasets", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    wanted = _findings(inspection)
    sheets = _sheets(inspection)
    paths = {path for sheet in sheets for path in sheet["paths"]}
    for kind in wanted:
        paths |= {path for one in kind["shown"] for path in (one.path, one.other) if path}
    return environment.get_template("inspection.html").render(
        facts=inspection.to_json(),
        kinds=wanted,
        sheets=sheets,
        pictures=_pictures(inspection, sorted(paths)),
    )


def _findings(inspection: Inspection) -> list[dict[str, Any]]:
    """Each kind with its heading, its count and the first few of it."""
    kinds: dict[str, list[Finding]] = {}
    for finding in inspection.findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return [
        {"title": TITLES.get(kind, kind), "count": len(found), "shown": found[:FINDINGS_A_KIND]}
        for kind, found in kinds.items()
    ]


def _sheets(inspection: Inspection) -> list[dict[str, Any]]:
    """For each class some of its images, the same ones each time, in no order of the file names."""
    data = inspection.dataset
    count = max(2, min(PICTURES_A_CLASS, MAX_PICTURES // max(1, len(data.class_names))))
    members: list[list[int]] = [[] for _ in data.class_names]
    for i in sorted(range(len(data)), key=data.digests.__getitem__):
        members[data.labels[i]].append(i)
    sheets = [
        {"name": name, "images": len(rows), "paths": [data.paths[i] for i in rows[:count]]}
        for name, rows in zip(data.class_names, members, strict=True)
    ]
    return sheets[: MAX_PICTURES // count]


def _pictures(inspection: Inspection, paths: list[str]) -> dict[str, str]:
    """A small JPEG of each image that can be decoded, as a data URI."""
    from PIL import Image

    known = {item.path for item in inspection.details.source.items}
    made: dict[str, str] = {}

    def make(i: int) -> None:
        try:
            data = inspection.details.source.read(paths[i])
            pixels = pipeline.decode_image(data, PICTURE)
        except ImageError:
            return
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=80)
        made[paths[i]] = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()

    paths = [path for path in paths if path in known]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on files that the findings name
        pipeline.in_threads(make, len(paths))
    return made


def terminal(inspection: Inspection) -> Group:
    """Tables for rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = inspection.to_json()
    classes = Table(title=f"{facts['name']}: {facts['images']:,} images", title_justify="left")
    classes.add_column("class")
    for name in ("images", "train", "val", "test"):
        classes.add_column(name, justify="right")
    for row in facts["classes"]:
        counts = [f"{row[name]:,}" for name in ("images", "train", "val", "test")]
        classes.add_row(Text(printable(row["name"])), *counts)
    parts: list[Any] = [classes]
    number = facts["finding_counts"]
    if inspection.findings:
        table = Table(title=f"{len(inspection.findings):,} findings", title_justify="left")
        table.add_column("what")
        table.add_column("count", justify="right")
        table.add_column("done about it")
        table.add_column("for example", overflow="fold")
        shown: set[str] = set()
        for one in inspection.findings:
            if one.kind not in shown:
                shown.add(one.kind)
                example = f"{one.path}: {one.reason}" if one.path else one.reason
                table.add_row(
                    TITLES.get(one.kind, one.kind),
                    f"{number[one.kind]:,}",
                    one.action,
                    Text(printable(example)),
                )
        parts.append(table)
    expected = facts["expected_accuracy"]
    parts.append(
        Text(
            f"An accuracy of 90 % measured on {expected['test_images']:,} test images means "
            f"{expected['low']:.1%} to {expected['high']:.1%} (95 % interval)."
        )
    )
    if inspection.left_out:
        parts.append(Text(f"Files left out: {inspection.left_out:,}."))
    return Group(*parts)


def printable(text: str) -> str:
    """Control characters in file names escaped, so that they cannot play with a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
