"""Figures of a study. Each function returns a new matplotlib figure in the report's style."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from keras_transfer.evaluation.plots import FIRST, INK, MUTED, SECOND, WIDTH, _figure, _styled
from tuning import results
from tuning.importance import Importance, natural
from tuning.results import Record

AXES = {"nll": "Validation NLL", "accuracy": "Validation accuracy", "f1": "Validation macro F1"}
# Least distance of two ticks, as a share of the axis.
_ROOM = 0.22


@_styled
def progress(records: Sequence[Record], objective: str) -> Figure:
    """Every trial by the time at which it ended, and the best so far.

    Args:
        records: at least one that has completed.
        objective: a key of ``results.OBJECTIVES``.
    """
    done = sorted(results.completed(records), key=lambda record: (record.finished, record.trial))
    ends = [datetime.datetime.fromisoformat(record.finished).timestamp() for record in done]
    begun = min(end - record.seconds for end, record in zip(ends, done, strict=True))
    minutes, values = (np.array(ends) - begun) / 60, _values(done, objective)
    best = np.minimum if results.OBJECTIVES[objective][1] else np.maximum
    figure = _figure(WIDTH, 2.8)
    axes = figure.subplots()
    axes.step(minutes, best.accumulate(values), where="post", color=FIRST, label="best so far")
    axes.scatter(minutes, values, s=18, color=MUTED, label="trials", zorder=3)
    first = [record.trial == 0 for record in done]
    if any(first):
        axes.scatter(minutes[first], values[first], s=46, marker="D", color=SECOND, zorder=4,
                     label="default")  # fmt: skip
    axes.set(xlabel="Minutes of trials, by the clock", ylabel=AXES[objective])
    figure.legend(frameon=False, loc="outside upper left", ncols=3)
    return figure


@_styled
def score_against(records: Sequence[Record], objective: str, name: str) -> Figure:
    """The score of trials against one setting; the default's is a line even where it lacks it.

    Args:
        records: of a study, at least one that has completed.
        objective: a key of ``results.OBJECTIVES``.
        name: a setting that varies.
    """
    done = results.completed(records)
    here = [record for record in done if record.values.get(name) is not None]
    here.sort(key=lambda record: natural(str(record.values[name])))
    figure = _figure(3.4, 2.5)
    axes, scores = figure.subplots(), _values(here, objective)
    first, best = np.array([r.trial == 0 for r in here]), results.best_of(done, objective)
    ringed = np.array([record is best for record in here])
    places = _places(axes, [r.values[name] for r in here], np.flatnonzero(first))
    for default in (record for record in done if record.trial == 0):
        axes.axhline(_values([default], objective)[0], color=SECOND, lw=1, ls=":")
    axes.scatter(places, scores, s=16, color=FIRST, alpha=0.75, lw=0)
    axes.scatter(places[first], scores[first], s=42, marker="D", color=SECOND, zorder=4)
    axes.scatter(places[ringed], scores[ringed], s=70, fc="none", ec=INK, zorder=5)
    # All settings of a study by one scale.
    axes.update_datalim([(places[0], score) for score in _values(done, objective)])
    axes.autoscale_view(scalex=False)
    axes.set(xlabel=results.words(name), ylabel=AXES[objective])
    return figure


def _places(axes: Axes, given: Sequence[float | str], first: np.ndarray) -> np.ndarray:
    """Where values stand on the axis: numbers by their size, words side by side.

    Ticks stand at values that were tried: at the default (``first``), the ends, and what has room.
    """
    if not all(isinstance(value, (int, float)) for value in given):
        words = list(dict.fromkeys(map(str, given)))
        axes.set_xticks(range(len(words)), words)
        axes.set_xlim(-0.5, len(words) - 0.5)
        return np.array([words.index(str(value)) for value in given], float)
    places = np.array(given, float)
    wide = places.min() > 0 and places.max() / places.min() >= 10
    axes.set_xscale("log" if wide else "linear")
    scaled = np.log(places) if wide else places
    ticks = list[int]()
    for i in (*first, 0, len(places) - 1, *range(len(places))):
        if all(abs(scaled[i] - scaled[j]) > _ROOM * np.ptp(scaled) for j in ticks):
            ticks.append(i)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(places[ticks], [f"{places[i]:.2g}" for i in ticks])
    axes.minorticks_off()
    return places


@_styled
def importance(found: Sequence[Importance]) -> Figure:
    """The importance of each setting with its uncertainty, the greatest on top.

    Args:
        found: from ``importance.importances``, at least one.
    """
    figure = _figure(WIDTH, 0.8 + 0.3 * len(found))
    axes = figure.subplots()
    places = np.arange(len(found))[::-1]
    axes.hlines(places, [one.low for one in found], [one.high for one in found], color=MUTED)
    axes.scatter([one.median for one in found], places, s=24, color=FIRST, zorder=3)
    axes.axvline(0, color=MUTED, lw=1, ls=":")
    axes.set_yticks(places, [results.words(one.name) for one in found])
    axes.set_xlabel("Share of the variance of ranks that is lost")
    return figure


@_styled
def costs(records: Sequence[Record]) -> Figure:
    """Seconds of every trial: work that others share, its own, and the rest.

    Args:
        records: of a study, at least one.
    """
    figure = _figure(WIDTH, 2.8)
    axes, below = figure.subplots(), np.zeros(len(records))
    for seconds, colour, label in (
        ([r.shared_seconds for r in records], SECOND, "shared: frozen layers and head"),
        ([r.fine_tune_seconds for r in records], FIRST, "own: fine-tuning"),
        ([r.other_seconds for r in records], MUTED, "rest"),
    ):
        axes.bar([r.trial for r in records], seconds, bottom=below, color=colour, label=label)
        below = below + seconds
    axes.set(xlabel="Trial", ylabel="Seconds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(frameon=False, loc="outside upper left", ncols=1)
    return figure


def _values(records: Sequence[Record], objective: str) -> np.ndarray:
    """The trials' own figures of the objective."""
    return np.array([getattr(r, results.OBJECTIVES[objective][0]) for r in records], float)
