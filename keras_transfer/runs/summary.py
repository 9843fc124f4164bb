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


def verdict(metrics: JSON) -> tuple[str, str]:
    """One sentence for the decision, and its kind: ``good``, ``bad`` or ``open``.

    Args:
        metrics: the run's ``metrics.json``.
    """
    test = metrics.get("test") or {}
    if not test.get("images"):
        return "There are no test results to judge by.", "open"
    accuracy, images = test["accuracy"], test["images"]
    ends = test["intervals"]["accuracy"]
    if images < FEW_IMAGES:
        return (
            f"Undecided: {images} test image{'s' * (images != 1)} cannot tell; the true accuracy "
            f"may be anywhere from {interval(ends, 0)}.",
            "open",
        )
    majority = test["majority"]["accuracy"]
    if ends[0] <= majority:
        return (
            f"Not ready: right on {percent(accuracy)} of the test images ({interval(ends)}), "
            f"which is no clear gain over the {percent(majority)} of always giving the commonest "
            "class.",
            "bad",
        )
    sentence = (
        f"Right on {percent(accuracy)} of images that it has not seen ({interval(ends)}), where "
        f"the commonest class alone would be right on {percent(majority)}"
    )
    threshold = metrics.get("threshold") or {}
    if threshold.get("answered"):
        sentence += (
            f"; {percent(threshold['precision'])} when it answers only the "
            f"{percent(threshold['coverage'], 0)} that it is surest of"
        )
    return sentence + ".", "good"


def advice(metrics: JSON) -> list[str]:
    """What the evidence suggests doing next, the strongest reason first, at most five sentences."""
    test, found = metrics.get("test") or {}, []
    curve = metrics.get("curve")
    if curve:
        found.append(curve["verdict"])
    for baseline in metrics.get("baselines") or []:
        if baseline.get("verdict") and baseline.get("better"):
            found.append(f"{baseline['verdict']} Prefer it, or tune the run.")
    weak = [
        row
        for row in test.get("per_class", [])
        if row["recall_interval"] and row["recall_interval"][1] < test["accuracy"]
    ]
    if weak:
        worst = min(weak, key=lambda row: row["recall"])
        taken = worst["confused_with"]
        found.append(
            f"“{_short(worst['name'])}” is clearly weaker than the rest: "
            f"{percent(worst['recall'], 0)} found ({interval(worst['recall_interval'], 0)})"
            + (f", mostly taken for “{_short(taken)}”." if taken else ".")
        )
    few = [row["name"] for row in test.get("per_class", []) if row["support"] < FEW_IMAGES]
    if few:
        found.append(
            f"{len(few)} of {len(test['per_class'])} classes have fewer than {FEW_IMAGES} test "
            "images: their rows say little."
        )
    suspects = metrics.get("suspects")
    if suspects:
        found.append(f"The features dispute {len(suspects)} labels: look at the worst below.")
    return found[:5]


def confusions(test: JSON, limit: int = 15) -> list[dict[str, Any]]:
    """The commonest confusions: label, predicted, count and share of the label's images."""
    support = {row["name"]: row["support"] for row in test.get("per_class", [])}
    wrong = [cell for cell in test.get("confusion", []) if cell["label"] != cell["predicted"]]
    wrong.sort(key=lambda cell: (-cell["count"], cell["label"], cell["predicted"]))
    return [{**cell, "share": cell["count"] / support[cell["label"]]} for cell in wrong[:limit]]


def _short(name: str, length: int = 60) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
