"""Figures of a study. Each function returns a new matplotlib figure in the report's style."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from keras_transfer.evaluation.plots import FIRST, INK, MUTED, SECOND, _figure, _styled
from tuning import results
from tuning.importance import Importance, natural
from tuning.results import COMPLETED, Record

AXES = {"nll": "Validation NLL", "accuracy": "Validation accuracy", "f1": "Validation macro F1"}
_COLUMNS = 3


@_styled
def progress(records: Sequence[Record], objective: str) -> Figure:
    """Every trial by the time at which it ended, and the best so far.

    Args:
        records: at least one that has completed.
        objective: a key of ``results.OBJECTIVES``.
    """
    done = sorted(
        (record for record in records if record.status == COMPLETED),
        key=lambda record: (record.finished, record.trial),
    )
    ends = [datetime.datetime.fromisoformat(record.finished) for record in done]
    begun = min(
        end - datetime.timedelta(seconds=record.seconds)
        for end, record in zip(ends, done, strict=True)
    )
    minutes = np.array([(end - begun).total_seconds() / 60 for end in ends])
    values = np.array([value_of(record, objective) for record in done])
    best = np.minimum if results.OBJECTIVES[objective][1] else np.maximum
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    axes.step(minutes, best.accumulate(values), where="post", color=FIRST, label="best so far")
    axes.scatter(minutes, values, s=18, color=MUTED, label="trials", zorder=3)
    first = next((i for i, record in enumerate(done) if record.trial == 0), None)
    if first is not None:
        axes.scatter(minutes[first], values[first], s=46, marker="D", color=SECOND, zorder=4,
                     label="default")  # fmt: skip
    axes.set(xlabel="Minutes of trials, by the clock", ylabel=AXES[objective])
    figure.legend(frameon=False, loc="outside upper left", ncols=3)
    return figure


@_styled
def slices(records: Sequence[Record], names: Sequence[str], objective: str) -> Figure:
    """The score against each setting, one panel a setting.

    Args:
        records: of a study.
        names: the settings to show, at least one.
        objective: a key of ``results.OBJECTIVES``.
    """
    done = [record for record in records if record.status == COMPLETED]
    best, rows = results.best_of(done, objective), -(-len(names) // _COLUMNS)
    figure = _figure(8.4, 0.4 + 2.1 * rows)
    panels = figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        here = [record for record in done if record.values.get(name) is not None]
        given = [record.values[name] for record in here]
        scores = [value_of(record, objective) for record in here]
        if all(isinstance(value, (int, float)) for value in given):
            places = np.array(given, float)
            if places.min() > 0 and places.max() / places.min() >= 10:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            elif all(isinstance(value, int) for value in given):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        else:
            words = sorted({str(value) for value in given}, key=natural)
            places = np.array([words.index(str(value)) for value in given], float)
            axes.set_xticks(range(len(words)), words)
            axes.set_xlim(-0.5, len(words) - 0.5)
        axes.scatter(places, scores, s=16, color=FIRST, alpha=0.75, lw=0)
        for record, place, score in zip(here, places, scores, strict=True):
            if record.trial == 0:
                axes.scatter(place, score, s=42, marker="D", color=SECOND, zorder=4)
            if record is best:
                axes.scatter(place, score, s=70, facecolors="none", edgecolors=INK, zorder=5)
        axes.set_xlabel(title(name))
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes in panels[::_COLUMNS]:
        axes.set_ylabel(AXES[objective].removeprefix("Validation "))
    return figure


@_styled
def importance(found: Sequence[Importance]) -> Figure:
    """The importance of each setting with its uncertainty, the greatest on top.

    Args:
        found: from ``importance.importances``, at least one.
    """
    figure = _figure(5.6, 0.8 + 0.3 * len(found))
    axes = figure.subplots()
    places = np.arange(len(found))[::-1]
    medians = np.array([one.median for one in found])
    axes.hlines(places, [one.low for one in found], [one.high for one in found], color=MUTED)
    axes.scatter(medians, places, s=24, color=FIRST, zorder=3)
    axes.axvline(0, color=MUTED, lw=1, ls=":")
    axes.set_yticks(places, [title(one.name) for one in found])
    axes.set_xlabel("Share of the variance of ranks that is lost")
    return figure


@_styled
def costs(records: Sequence[Record]) -> Figure:
    """Seconds of every trial: work that others share, its own, and the rest.

    Args:
        records: of a study, at least one.
    """
    trials = [record.trial for record in records]
    shared = np.array([record.extract_seconds + record.head_seconds for record in records])
    own = np.array([record.fine_tune_seconds for record in records])
    rest = np.maximum(0.0, np.array([record.seconds for record in records]) - shared - own)
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    axes.bar(trials, shared, color=SECOND, label="shared: frozen layers and head")
    axes.bar(trials, own, bottom=shared, color=FIRST, label="own: fine-tuning")
    axes.bar(trials, rest, bottom=shared + own, color=MUTED, label="rest")
    axes.set(xlabel="Trial", ylabel="Seconds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(frameon=False, loc="outside upper left", ncols=1)
    return figure


def value_of(record: Record, objective: str) -> float:
    """A trial's own figure of the objective."""
    return float(getattr(record, results.OBJECTIVES[objective][0]))


def title(name: str) -> str:
    """A setting's name as words."""
    return name.replace("tuner/", "").replace("_", " ")
