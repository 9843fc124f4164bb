"""The words of the page: what the numbers say, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_transfer.evaluation.metrics import FEW_IMAGES

JSON = Mapping[str, Any]


def percent(value: float | None, digits: int = 1) -> str:
    """A rate as words: ``83.1 %``, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(ends: Any, digits: int = 1) -> str:
    """The ends of an interval of a rate as words."""
    if not ends:
        return "no interval"
    return f"{100 * ends[0]:.{digits}f} to {100 * ends[1]:.{digits}f} %"


def verdict(metrics: JSON, what: str) -> tuple[str, str]:
    """One sentence for the decision, and its kind: ``good``, ``bad`` or ``open``.

    Args:
        metrics: the run's ``metrics.json``.
        what: what an example is called.
    """
    test, sure = metrics["test"], metrics["threshold"]
    right, images, ends = percent(test["accuracy"]), test["images"], test["intervals"]["accuracy"]
    common = percent(test["majority"]["accuracy"])
    if images < FEW_IMAGES:
        few = f"{images} test {what}{'s' * (images != 1)}"
        said = f"cannot tell; the true accuracy may be anywhere from {interval(ends, 0)}."
        return f"Undecided: {few} {said}", "open"
    if ends[0] <= test["majority"]["accuracy"]:
        gain = f"which is no clear gain over the {common} of always giving the commonest class"
        return f"Not ready: right on {right} of the test {what}s ({interval(ends)}), {gain}.", "bad"
    said = f"where the commonest class alone would be right on {common}"
    if sure["answered"]:
        answered = f"when it answers only the {percent(sure['coverage'], 0)} that it is surest of"
        said += f"; {percent(sure['precision'])} {answered}"
    return f"Right on {right} of {what}s that it has not seen ({interval(ends)}), {said}.", "good"


def advice(metrics: JSON, what: str) -> list[str]:
    """What the evidence suggests doing next, the strongest reason first, at most five sentences."""
    test, curve, suspects = metrics["test"], metrics.get("curve"), metrics.get("suspects")
    classes = test["per_class"]
    found = [curve["verdict"]] if curve else []
    found += [
        f"{baseline['verdict']} Prefer it, or tune the run."
        for baseline in metrics.get("baselines") or []
        if baseline.get("verdict") and baseline.get("better")
    ]
    measured = [row for row in classes if row["recall_interval"]]
    weak = [row for row in measured if row["recall_interval"][1] < test["accuracy"]]
    if weak:
        worst = min(weak, key=lambda row: row["recall"])
        other = worst["confused_with"]
        taken = f", mostly taken for “{_short(other)}”" if other else ""
        share = f"{percent(worst['recall'], 0)} found ({interval(worst['recall_interval'], 0)})"
        found.append(f"“{_short(worst['name'])}” is clearly weaker than the rest: {share}{taken}.")
    few = sum(row["support"] < FEW_IMAGES for row in classes)
    if few:
        found.append(
            f"{few} of {len(classes)} classes have fewer than {FEW_IMAGES} test {what}s: "
            "their rows say little."
        )
    if suspects:
        found.append(f"The features dispute {len(suspects)} labels: look at the worst below.")
    return found[:5]


def confusions(test: JSON, limit: int = 15) -> list[dict[str, Any]]:
    """The commonest confusions: label, predicted, count and share of the label's images."""
    support = {row["name"]: row["support"] for row in test["per_class"]}
    wrong = [cell for cell in test["confusion"] if cell["label"] != cell["predicted"]]
    wrong.sort(key=lambda cell: (-cell["count"], cell["label"], cell["predicted"]))
    return [{**cell, "share": cell["count"] / support[cell["label"]]} for cell in wrong[:limit]]


def _short(name: str, length: int = 60) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
