"""The words of the page: what the numbers say, and what to do about it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from keras_transfer.base.intervals import wilson_interval
from keras_transfer.evaluation.metrics import FEW_IMAGES
from keras_transfer.learn.calibration import RISK

JSON = Mapping[str, Any]


def percent(value: float | None, digits: int = 1) -> str:
    """A rate as words: ``83.1 %``, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(ends: Any, digits: int = 1) -> str:
    """The ends of an interval of a rate as words."""
    if not ends:
        return "no interval"
    return f"{100 * ends[0]:.{digits}f} to {100 * ends[1]:.{digits}f} %"


NAMES = {
    "accuracy": "Accuracy", "top5": "Top-5 accuracy",
    "mean_average_precision": "Mean average precision", "micro_f1": "Micro F1",
    "micro_precision": "Micro precision", "micro_recall": "Micro recall",
    "balanced_accuracy": "Balanced accuracy", "macro_f1": "Macro F1", "hamming": "Hamming loss",
    "nll": "NLL", "brier": "Brier score", "ece": "ECE",
}  # fmt: skip
"""What metrics are called, in the order in which they are shown."""


class Words(NamedTuple):
    """What is said of answers of one label, and otherwise of those of several.

    Attributes:
        short: that no confidence reaches the precision that follows, where examples are not few.
        right: that so many examples are answered rightly, for a share, a noun and an interval.
        ranks: the metric whose interval must be above that of ``commonest``.
        ships: the metric whose interval must reach the wanted precision.
        found: the metric that a class's recall is held against.
        commonest: what is always answered for comparison.
        headline: the metrics at the top of the page.
        columns: what the table of classes has beside F1.
        how: what the metrics are of.
        binned: what the ECE groups by.
        looked: what the maps of mistakes show, for a noun.
    """

    short: str
    right: str
    ranks: str
    ships: str
    found: str
    commonest: str
    headline: tuple[str, ...]
    columns: Mapping[str, str]
    how: str
    binned: str
    looked: str


_ONE = Words(
    "it cannot tell which of its answers would be right in",
    "right on {share} of {what}s that it has not seen ({ends})",
    "accuracy", "accuracy", "accuracy", "commonest class",
    ("accuracy", "balanced_accuracy", "ece"), {}, "", "confidence",
    "With each %s, where it saw the class that it answered rather than another",
)  # fmt: skip
_SEVERAL = Words(
    "at no confidence are all labels of its answers right in",
    "all labels are right on {share} of {what}s that it has not seen ({ends}); of the labels that "
    "it gives {precision} are right, and it gives {recall} of the true ones",
    "mean_average_precision", "micro_precision", "micro_recall", "commonest set",
    ("accuracy", "mean_average_precision", "micro_f1", "ece"),
    {"average_precision": "Average precision", "threshold": "Answered from"},
    "Accuracy asks for all labels of an example, top-5 for one of them; the other metrics are of "
    "single decisions, each one class of one example.",
    "a class’s probability",
    "With each %s, where it saw the class on which it was most wrong, given or missed",
)  # fmt: skip


def words(test: JSON) -> Words:
    """The words for answers that were measured as ``metrics.json`` has them under ``test``."""
    return _SEVERAL if "micro_f1" in test else _ONE


WIDEST = 0.3
"""An interval of the accuracy that is wider than this carries no verdict: under 40 images, say."""


def verdict(metrics: JSON, what: str) -> tuple[str, str]:
    """Whether to ship, in one sentence with its reason; and its kind: ``good``, ``bad``, ``open``.

    Args:
        metrics: the run's ``metrics.json``.
        what: what an example is called.
    """
    test, sure = metrics["test"], metrics["threshold"]
    said, ends = words(test), test["intervals"]["accuracy"]
    right = said.right.format(
        share=percent(test["accuracy"]), what=what, ends=interval(ends),
        precision=percent(test.get("micro_precision")), recall=percent(test.get("micro_recall")),
    )  # fmt: skip
    usual, target = test["majority"][said.ranks], percent(sure["target"], 0)
    ranks, ships = (test["intervals"][name] or (0.0, 0.0) for name in (said.ranks, said.ships))
    if undecided(test):
        few = f"{test['images']} test {what}{'s' * (test['images'] != 1)}"
        open_ = f"cannot show how good it is; its accuracy may be anything from {interval(ends, 0)}"
        return f"Do not ship it yet: {few} {open_}.", "open"
    if ranks[0] <= usual:
        common = f"{percent(usual)} of always giving the {said.commonest}"
        return f"Do not ship it: {right}, no clear gain over the {common}.", "bad"
    if ships[0] >= sure["target"]:
        return f"Ship it: {right}, more than the {target} asked for.", "good"
    answered = sure["answered"]
    if answered and wilson_interval(sure["precision"] * answered, answered)[1] >= sure["target"]:
        share = percent(sure["coverage"], 0)
        surest = f"of the {share} that it is surest of, {percent(sure['precision'])} are right"
        asked = f"{target} are asked for"
        return f"Ship it if it may say “unsure”: {surest}, where {asked}; else {right}.", "good"
    wanted = f"the {target} that are asked for (--target-precision)"
    if ships[1] >= sure["target"]:
        why = f"{test['images']:,} test {what}s are too few to promise {wanted}"
    else:
        why = f"{said.short} {wanted}"
    return f"Ship it only where somebody checks its answers: {right}, and {why}.", "open"


def no_threshold(metrics: JSON, what: str) -> str:
    """Why no confidence is one from which answers are surely right often enough; "" if one is."""
    sure = metrics.get("threshold") or {}
    images = (metrics.get("validation") or {}).get("images", 0)
    if not sure or sure.get("validation_images"):
        return ""
    target = percent(sure["target"], 0)
    if sure["target"] == 1.0:
        return f"nothing shows that every answer is right ({images:,} validation {what}s)"
    # As many as must all be right for the lower bound of the precision to reach the target.
    least = math.ceil(math.log(RISK) / math.log(sure["target"]))
    if images < least:
        return (
            f"at least {least} validation {what}s, all answered right, are needed to show that "
            f"{target} of some answers are right; there are {images:,}"
        )
    return (
        f"at no confidence do the {images:,} validation {what}s show that {target} of the answers "
        "are right"
    )


def undecided(test: JSON) -> bool:
    """Whether so few test examples carry no verdict."""
    low, high = test["intervals"]["accuracy"]
    return bool(test["images"] < FEW_IMAGES or high - low > WIDEST)


def calibration(test: JSON) -> str:
    """Whether the percentages can be taken at their word, in one sentence.

    They can where their mean lies in the interval of the accuracy, and the interval of the ECE
    reaches down to what chance alone would give.
    """
    if undecided(test):
        return "Too few were tested to say whether its percentages can be taken at their word."
    if words(test) is _SEVERAL:
        return _calibration_of_several(test)
    diagram, ends = test["reliability"], test["intervals"].get("ece")
    filled = [(n, x) for n, x in zip(diagram["counts"], diagram["confidence"], strict=True) if n]
    says = sum(n * x for n, x in filled) / test["images"]
    both = (
        f"on average it says it is {percent(says)} sure, and {percent(test['accuracy'])} are right"
    )
    low, high = test["intervals"]["accuracy"]
    by_chance = low <= says <= high
    if by_chance and (ends is None or ends[0] <= test.get("ece_floor", 0.0)):
        return f"Its percentages can be taken at their word: {both}."
    gap = says - test["accuracy"]
    if by_chance and abs(gap) < test["ece"] / 2:
        return f"Its percentages are off by {100 * test['ece']:.1f} points as a rule: {both}."
    way = "high" if gap > 0 else "low"
    return f"Its percentages are about {100 * abs(gap):.1f} points too {way}: {both}."


def _calibration_of_several(test: JSON) -> str:
    ends, floor = test["intervals"].get("ece"), test.get("ece_floor", 0.0)
    both = f"{100 * test['ece']:.1f} points, where {100 * floor:.1f} would be chance"
    if ends is None or ends[0] <= floor:
        return (
            f"Its percentages can be taken at their word: over all classes they are off by {both}."
        )
    return f"Its percentages are off by {both}, over all classes."


def advice(
    metrics: JSON, what: str, run: str, in_memory: bool | None = False
) -> list[tuple[str, str]]:
    """What to do next, at most five things, the first first: each a sentence and a command or "".

    Args:
        metrics: the run's ``metrics.json``.
        what: what an example is called.
        run: its folder.
        in_memory: whether the process that trained alone has its data.
    """
    test, curve, suspects = metrics["test"], metrics.get("curve"), metrics.get("suspects")
    classes, kind = test["per_class"], verdict(metrics, what)[1]
    found = [
        (f"{baseline['verdict']} Prefer it, or tune the run.", "")
        for baseline in metrics.get("baselines") or []
        if baseline.get("verdict") and baseline.get("better")
    ]
    if kind == "good":
        formats = ("--formats", "saved_model,tflite")
        export = shlex.join(["keras-transfer", "export", run, *formats])
        if in_memory:  # no other process has its data
            export = f'result.export("{formats[1]}")  # result: what train returned'
        found.insert(0, ("Export it:", export))
    if undecided(test):
        more = f"a hundred test {what}s tell the accuracy to ten points either way"
        found.append((f"Label more {what}s and train again: {more}.", ""))
    measured = [row for row in classes if row["recall_interval"]]
    weak = [row for row in measured if row["recall_interval"][1] < test[words(test).found]]
    if weak:
        worst = min(weak, key=lambda row: row["recall"])
        other = worst["confused_with"]
        taken = f", mostly taken for “{_short(other)}”" if other else ""
        share = f"{percent(worst['recall'], 0)} found ({interval(worst['recall_interval'], 0)})"
        name = _short(worst["name"])
        found.append(
            (f"Look at the mistakes of “{name}” and add {what}s of it: {share}{taken}.", "")
        )
    if suspects:
        found.append((f"Look at the {len(suspects)} labels that the features dispute, below.", ""))
    few = sum(row["support"] < FEW_IMAGES for row in classes)
    if few and not undecided(test):
        which = f"{few} of {len(classes)} classes have fewer than {FEW_IMAGES}"
        more = f"--fold 1/5 to --fold 5/5, five runs, test on each {what} once"
        said = f"Test on more {what}s: {which} test {what}s, which say little of a class; {more}."
        found.append((said, ""))
    if curve:
        found.append((curve["verdict"], ""))
    elif kind != "good" and not undecided(test) and not in_memory:
        asked = shlex.join(["keras-transfer", "curve", run])
        found.append((f"Ask what more {what}s would bring:", asked))
    return found[:5]


def confusions(test: JSON, limit: int = 15) -> list[dict[str, Any]]:
    """The commonest confusions: label, predicted, count and share of the label's images."""
    support = {row["name"]: row["support"] for row in test["per_class"]}
    wrong = [cell for cell in test["confusion"] if cell["label"] != cell["predicted"]]
    wrong.sort(key=lambda cell: (-cell["count"], cell["label"], cell["predicted"]))
    return [{**cell, "share": cell["count"] / support[cell["label"]]} for cell in wrong[:limit]]


def _short(name: str, length: int = 60) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
