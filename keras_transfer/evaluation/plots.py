"""Figures of results, for a page or a notebook. Each function returns a new matplotlib figure.

Inputs are the plain values of ``to_json()`` and of ``history.csv``, so that a figure can be drawn
from a saved run as well as from a fresh result.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from keras_transfer.recipe import reads_arguments

INK, FIRST, SECOND, MUTED = "#1b1f24", "#0b5cad", "#b3470b", "#7d8590"
"""Text, two series, and what recedes. The report swaps them for its own in a dark page."""

MAX_LABELS = 25
"""Up to so many classes a confusion matrix carries names and counts."""

_SERIES: dict[str, dict[str, Any]] = {
    "train": {"color": SECOND, "ls": "--"},
    "validation": {"color": FIRST, "ls": "-"},
    "validation_calibrated": {"color": MUTED, "ls": ":"},
}

WIDTH = 4.0
"""Of a figure in inches: at it the letters below are 11 pixels on a page of 390."""

_STYLE = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # in the name of a class a dollar sign starts no formula
    "xtick.color": INK,
    "ytick.color": INK,
}


class ShownFigure(Figure):
    """A figure outside pyplot (which keeps every figure alive) that a notebook shows by itself."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def _styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws with the style above and leaves the user's settings alone."""

    @functools.wraps(plot)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return plot(*args, **kwargs)

    return styled


def _figure(width: float, height: float) -> Figure:
    return ShownFigure(figsize=(width, height), layout="constrained")


@_styled
def history(rows: Sequence[Mapping[str, Any]], phases: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """Accuracy and loss by epoch, the unfreezing marked; below, a solved head by its penalty.

    Args:
        rows: of ``history.csv`` in order: ``phase``, and of ``train_loss``, ``train_accuracy``,
            ``validation_loss``, ``validation_calibrated_loss`` and ``validation_accuracy`` what is
            there; an empty cell is left out.
        phases: of ``metrics.json``, which have the path of a head that was solved.
    """
    solved = next((phase["details"] for phase in phases if phase["details"].get("path")), None)
    parts = (["accuracy", "loss"] if rows else []) + (["head"] if solved else [])
    figure = _figure(WIDTH, 0.4 + 1.7 * len(parts))
    drawn = figure.subplots(max(1, len(parts)), 1, squeeze=False)[:, 0]
    panels = dict(zip(parts, drawn, strict=False))
    if solved:
        _penalties(panels["head"], solved)
    if rows:
        _epochs(panels["accuracy"], panels["loss"], rows)
    return figure


def _penalties(axes: Axes, solved: Mapping[str, Any]) -> None:
    """The validation loss of the head for each penalty that was tried, the chosen one ringed."""
    penalties, losses = np.array([step[:2] for step in solved["path"]], float).T
    axes.plot(penalties, losses, color=FIRST, marker=".", lw=1.6)
    axes.scatter(solved["penalty"], solved["validation_nll"], s=70, fc="none", ec=INK, zorder=3)
    axes.set(xscale="log", xlabel="Penalty of the head (ring: kept)", ylabel="Validation loss")
    # A power's exponent would be too small to read.
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("e-0", "e-"))
    axes.invert_xaxis()  # in the order in which they were tried


def _epochs(above: Axes, below: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy and loss over all epochs that were trained by gradient."""
    epochs = np.arange(1, len(rows) + 1)
    below.sharex(above)
    for axes, measure in ((above, "accuracy"), (below, "loss")):
        axes.set_ylabel(measure.capitalize())
        for key, look in _SERIES.items():
            values = _numbers(row.get(f"{key}_{measure}") for row in rows)
            known = np.isfinite(values)
            if known.any():
                # One phase may record a single point: a line alone would not show it.
                look = {**look, "marker": ".", "lw": 1.6, "label": key.replace("_", ", ")}
                axes.plot(epochs[known], values[known], **look)
    phases = [str(row["phase"]) for row in rows]
    for i in range(1, len(phases)):
        if phases[i] != phases[i - 1]:
            above.annotate("Unfrozen", (i + 0.5, 1.02), xycoords=("data", "axes fraction"))
            for axes in (above, below):
                axes.axvline(i + 0.5, color=MUTED, lw=1, ls=":")
    _percent(above.yaxis)
    below.set_xlabel("Epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend(frameon=False)


@_styled
def reliability(after: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Figure:
    """How often the model was right, by how sure it said it was.

    Args:
        after: ``Evaluation.to_json()["reliability"]`` of the shipped probabilities.
        before: the same before the temperature was applied.
    """
    figure = _figure(WIDTH, 3.9)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":", label="perfect")
    shown = [(after, FIRST, "-", "as shipped" if before else "model")]
    if before is not None:
        shown.insert(0, (before, SECOND, "--", "before temperature"))
    for diagram, colour, style, label in shown:
        counts = np.asarray(diagram["counts"], float)
        filled = counts > 0
        x, y = (_numbers(diagram[key])[filled] for key in ("confidence", "accuracy"))
        size = 8 + 60 * counts[filled] / counts.max()
        axes.plot(x, y, style, color=colour, lw=1.4, label=f"{label}: ECE {diagram['ece']:.1%}")
        axes.scatter(x, y, s=size, color=colour)
    axes.set(xlabel="Probability given", ylabel="Share right", xlim=(0, 1.02), ylim=(0, 1.04))
    _percent(axes.xaxis, axes.yaxis)
    figure.legend(frameon=False, loc="outside upper left")
    return figure


@_styled
def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Which class is taken for which: rows are the truth, shaded by share of the row.

    Args:
        matrix: int, shape ``[classes, classes]``, true class by predicted class.
        class_names: the classes. Names are drawn up to ``MAX_LABELS`` of them.
    """
    matrix, count = np.asarray(matrix), len(class_names)
    side = min(9.0, 3.0 + 0.28 * count) if count <= MAX_LABELS else 6.0
    figure = _figure(side, side)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="Predicted", ylabel="True")
    if count <= MAX_LABELS:
        names = [name[:24] for name in class_names]
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[i, j] > 0.5 else "#1b1f24"
            axes.text(j, i, str(matrix[i, j]), ha="center", va="center", color=colour, size=7)
    return figure


@_styled
def learning_curve(curve: Mapping[str, Any]) -> Figure:
    """Accuracy against training images, and what twice as many are expected to bring.

    Args:
        curve: ``LearningCurve.to_json()``.
    """
    figure = _figure(WIDTH, 2.9)
    axes = figure.subplots()
    sizes, accuracy = np.array(curve["sizes"]), np.array(curve["accuracy"])
    low, high = np.array(curve["intervals"]).T
    axes.fill_between(sizes, low, high, color=FIRST, alpha=0.18, lw=0)
    axes.plot(sizes, accuracy, color=FIRST, marker="o", ms=4, label="measured")
    below, above = np.subtract(curve["gain_interval"], curve["gain"]) * (-1, 1)
    look: dict[str, Any] = {"color": SECOND, "fmt": "D", "ms": 5, "capsize": 3}
    ends = [[max(0.0, below)], [max(0.0, above)]]
    expected = "expected with twice the data"
    axes.errorbar([2 * sizes[-1]], [curve["twice"]], yerr=ends, label=expected, **look)
    axes.set_xscale("log", base=2)
    ticks = [*sizes, 2 * sizes[-1]]
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.set(xlabel="Training examples", ylabel="Test accuracy")
    _percent(axes.yaxis)
    axes.legend(frameon=False, loc="lower right")
    return figure


@_styled
@reads_arguments
def gallery(
    pixels: np.ndarray, titles: Sequence[str] | None = None, *, columns: int = 8, side: float = 1.1
) -> Figure:
    """Images in rows, each with a line above it.

    Args:
        pixels: uint8 or float in 0..1, shape ``[images, height, width, 3]``, or a list of such
            images of any sizes.
        titles: one short line an image; none by default.
        columns: images in a row.
        side: width and height of a picture in inches.

    Returns:
        The figure, which a notebook shows by itself.

    >>> figure = gallery(np.zeros((3, 8, 8, 3), np.uint8), ["a", "b", "c"], columns=3)
    >>> len(figure.axes)
    3
    """
    rows = max(1, -(-len(pixels) // columns))
    room = 0.22 * (1 + max((title.count("\n") for title in titles), default=0)) if titles else 0
    figure = _figure(columns * side, rows * (side + room))
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in panels:
        axes.axis("off")
    for i, image in enumerate(pixels):
        panels[i].imshow(image, interpolation="nearest")
        if titles is not None:
            panels[i].set_title(titles[i], size=8, pad=2)
    return figure


def _numbers(values: Iterable[Any]) -> np.ndarray:
    """Cells of a table as floats, NaN where one is empty."""
    return np.array([np.nan if value in (None, "") else float(value) for value in values])


def _percent(*axes: Axis) -> None:
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1.0))
