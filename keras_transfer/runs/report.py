"""Builds ``report.html`` from a run's numbers; ``page.html.j2`` has the words around them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from markupsafe import Markup

from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError
from keras_transfer.base.types import Dataset
from keras_transfer.evaluation import plots
from keras_transfer.evaluation.metrics import ranked
from keras_transfer.learn import calibration
from keras_transfer.modalities import Modality
from keras_transfer.runs import commands, page, summary
from keras_transfer.runs.finished import Finished, Folder
from keras_transfer.runs.folder import HISTORY, MODEL, PAGE, PREDICTIONS, SPLITS, Run, on_disk

if TYPE_CHECKING:
    import keras

MISTAKES, DOUBTS, SUSPECTS = 12, 8, 12
"""How many examples of each the page shows."""

EXAMPLES = Path("plots") / "examples"
"""Where what the page shows of an example is kept, so that it can be made again without data."""

_TEMPLATE = Path(__file__).with_name("page.html.j2")

_TOOLS = {
    "bins": calibration.BINS,
    "percent": summary.percent,
    "interval": summary.interval,
    "inline_svg": page.inline_svg,
    "pretty": functools.partial(json.dumps, indent=2, ensure_ascii=False),
}

_Value = TypeVar("_Value")


def write_report(run: Finished | Folder) -> Path:
    """Writes a run's page, and its figures under ``plots/``.

    The page is one HTML file without scripts from elsewhere, fonts or requests. What cannot be
    read, such as data that has moved, is left out and named on the page.

    Args:
        run: what ``train`` or ``open_run`` returned, or a run's folder.

    Returns:
        The path of ``report.html``; in a temporary folder of a run that has none.
    """
    run = on_disk(run)
    attempt = _Attempts()
    answers = attempt(PREDICTIONS, lambda: _answers(run))
    history = attempt(HISTORY, lambda: run.history) or []
    metrics, test = run.metrics, run.metrics["test"]
    matrix = _matrix(test["confusion"], run.class_names)
    before = _before_temperature(run, answers)
    galleries, form = _galleries(run, metrics, answers), run.modality
    dataset = None
    if metrics.get("findings") or any(galleries.values()):
        dataset = attempt(f"The {form.NOUN}s", lambda: run.dataset)
    if dataset is not None:
        _keep(run, form, galleries, dataset, attempt)
    values = {
        "verdict": summary.verdict(metrics, form.NOUN),
        "advice": summary.advice(metrics, form.NOUN, str(run.path), run.config.get("in_memory")),
        "undecided": summary.undecided(test),
        "no_threshold": summary.no_threshold(metrics, form.NOUN),
        "calibration": summary.calibration(test),
        "missing": attempt.missing,
        "config": run.config,
        "metrics": metrics,
        "shown_metrics": [name for name in summary.NAMES if name in test],
        "metric_names": summary.NAMES,
        "words": summary.words(test),
        "history": history,
        "figures": _figures(run, metrics, history, matrix, before),
        "confusion": _confused_most(matrix, run.class_names),
        "matrix_image": page.data_url(page.matrix_image(matrix)),
        "pairs": summary.confusions(test),
        "before": before,
        "galleries": galleries,
        "kind": form.NOUN,
        "shown": lambda name: _kept(run.path / EXAMPLES / f"{name}.html"),
        "findings": dataset.findings if dataset is not None and metrics.get("findings") else (),
        "command": _command(run),
    }
    target = run.path / PAGE
    files.write_text(target, page.render(_TEMPLATE, values | _TOOLS))
    return target


class _Attempts:
    """Reads what may not be there.

    Attributes:
        missing: what could not be read, a sentence each.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []

    def __call__(self, name: str, read: Callable[[], _Value]) -> _Value | None:
        """The value that ``read`` returns, or None with the reason noted under ``name``."""
        try:
            return read()
        except KerasTransferError as error:
            self.missing.append(f"{name}: {error.message}")
        return None


class Answers(NamedTuple):
    """The model's answers to the test examples, as shipped: ``[examples, classes]``."""

    probabilities: np.ndarray
    labels: np.ndarray
    paths: tuple[str, ...]


def _answers(run: Run) -> Answers:
    paths = tuple(row["path"] for row in run.predictions)
    return Answers(run.test_probabilities, run.test_labels, paths)


def _matrix(cells: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> np.ndarray:
    """The confusion matrix, true class by row, of its cells that are not zero."""
    index = {name: i for i, name in enumerate(class_names)}
    matrix = np.zeros((len(index), len(index)), np.int64)
    for cell in cells:
        matrix[index[cell["label"]], index[cell["predicted"]]] = cell["count"]
    return matrix


def _confused_most(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """The rows and columns of the classes confused most, in the last column all others."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diagonal(matrix)
    shown = np.sort(np.argsort(-wrong, kind="stable")[: plots.MAX_LABELS])
    totals, counts = matrix[shown].sum(axis=1), matrix[np.ix_(shown, shown)]
    everything = len(shown) == len(matrix)
    if not everything:
        counts = np.column_stack([counts, totals - counts.sum(axis=1)])
    names = [class_names[i] for i in shown]
    rows = zip(names, counts.tolist(), np.maximum(1, totals).tolist(), strict=True)
    return {"names": names, "rows": list(rows), "all": everything}


def _before_temperature(run: Run, answers: Answers | None) -> dict[str, Any] | None:
    """What calibration did: temperature, NLL and reliability diagram of the answers without it."""
    temperature = run.temperature
    if answers is None or abs(temperature - 1.0) <= 1e-6:
        return None
    logits = temperature * run.task.log_odds(answers.probabilities)
    diagram = calibration.reliability(run.task.probabilities(logits), answers.labels)
    loss = calibration.nll(logits, answers.labels)
    return {"temperature": temperature, "nll": loss, **vars(diagram)}


def _figures(
    run: Run,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    matrix: np.ndarray,
    before: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Draws what there is, and leaves each figure under ``plots/``."""
    curve, phases, test = metrics.get("curve"), metrics["phases"], metrics["test"]
    solved = any(phase["details"].get("path") for phase in phases)
    drawn = {
        "history": plots.history(history, phases) if history or solved else None,
        "learning_curve": plots.learning_curve(curve) if curve else None,
        "confusion": plots.confusion(matrix, run.class_names) if matrix.any() else None,
        "reliability": None
        if summary.undecided(test)
        else plots.reliability(test["reliability"], before),
    }
    texts = {name: page.svg(figure) if figure else "" for name, figure in drawn.items()}
    for name, text in texts.items():
        if text:
            files.write_text(run.path / "plots" / f"{name}.svg", text)
    return texts


def _galleries(
    run: Run, metrics: Mapping[str, Any], answers: Answers | None
) -> dict[str, list[dict[str, Any]]]:
    """The examples to look at: of each its path, its label, another class and how sure that is."""
    found: dict[str, list[dict[str, Any]]] = {"mistakes": [], "doubts": [], "suspects": []}
    if answers is not None:
        scores, labels, task = answers.probabilities, answers.labels, run.task
        given = task.answers(scores, run.thresholds)
        names = [[*map(task.said, task.decode(one, run.class_names))] for one in (labels, given)]
        sure, seen = task.sureness(scores, given), task.told_by(scores, labels)
        for kind, right, count in (("mistakes", False, MISTAKES), ("doubts", True, DOUBTS)):
            for row in ranked(scores, labels, right=right, thresholds=run.thresholds)[:count]:
                found[kind].append({
                    "path": answers.paths[row], "label": names[0][row], "suggested": names[1][row],
                    "confidence": float(sure[row]), "seen": run.class_names[seen[row]],
                })  # fmt: skip
    for one in (metrics.get("suspects") or [])[:SUSPECTS]:
        shown = {name: run.task.said(one[name]) for name in ("label", "suggested")}
        found["suspects"].append({**one, **shown})
    return found


def _keep(
    run: Run,
    form: Modality,
    galleries: Mapping[str, Sequence[Mapping[str, Any]]],
    dataset: Dataset,
    attempt: _Attempts,
) -> None:
    """Leaves what the page shows of each item, of mistakes also where the model looked."""
    place = {path: i for i, path in enumerate(dataset.paths)}
    held = dataset.examples
    spec = None if held is None else form.spec_of(held.shape[1:], held.dtype.name)
    spec = spec and spec.fitted(dataset.fit)
    known = {
        f"{kind}-{i:02d}": item
        for kind, items in galleries.items()
        for i, item in enumerate(items)
        if item["path"] in place
    }
    wrong = {name: item for name, item in known.items() if name.startswith("mistakes")}
    rows = [place[item["path"]] for item in wrong.values()]
    classes = [run.class_names.index(item["seen"]) for item in wrong.values()]
    model = attempt(MODEL, lambda: run.model) if wrong else None
    maps = _maps(model, dataset, rows, classes, attempt) if model is not None else None
    looks = {} if maps is None else dict(zip(wrong, maps, strict=True))

    def keep(name: str, item: Mapping[str, Any]) -> None:
        example = form.decode(dataset.read(place[item["path"]]), form.preview(spec))
        caption = f"{form.NOUN.capitalize()} of the class {item['label']}"
        piece = form.show(example, caption, looks.get(name))
        files.write_text(run.path / EXAMPLES / f"{name}.html", piece)

    for name, item in known.items():
        attempt(f"The {form.NOUN}s", functools.partial(keep, name, item))


def _maps(
    model: keras.Model,
    dataset: Dataset,
    rows: Sequence[int],
    classes: Sequence[int],
    attempt: _Attempts,
) -> np.ndarray | None:
    """Where the model saw these classes in these examples."""
    from keras_transfer.evaluation import saliency

    if dataset.examples is None:
        return None
    taken = dataset.examples[rows]
    return attempt("Where it looked", lambda: saliency.explain(model, taken, classes))


def _kept(piece: Path) -> Markup:
    with files.reading(piece):
        return Markup(piece.read_text(encoding="utf-8") if piece.exists() else "")


def _command(run: Run) -> str:
    """What repeats the run on the very same examples."""
    # What the file of splits stands for is no word of the command.
    without, again = ("split", "fold", "per_class"), f"{run.path}-again"
    config = {**run.config, "backbone": run.backbone}
    return commands.training(config, run.data, without, splits=str(run.path / SPLITS), output=again)
