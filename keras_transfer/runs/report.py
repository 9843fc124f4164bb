"""Builds ``report.html``."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from keras_transfer import evaluation
from keras_transfer.base import files
from keras_transfer.base.types import Dataset
from keras_transfer.evaluation import plots
from keras_transfer.evaluation.metrics import METRICS
from keras_transfer.learn import calibration
from keras_transfer.runs import figures, summary
from keras_transfer.runs.pieces import Answers, Gatherer, Reportable

if TYPE_CHECKING:
    import keras

MISTAKES, DOUBTS, SUSPECTS = 12, 8, 12
"""How many pictures of each the page shows."""

_HERE = Path(__file__).parent

_NAMES = {
    "accuracy": "Accuracy",
    "top5": "Top-5 accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
}

_DIGESTED = ("model.keras", "splits.csv", "predictions.csv")


def write_report(
    run: Reportable, *, dataset: Dataset | None = None, model: keras.Model | None = None
) -> Path:
    """Writes a run's page, and its figures under ``plots/``.

    The page is one HTML file without scripts from elsewhere, fonts or requests. What cannot be
    read, such as data that has moved, is left out and named on the page.

    Args:
        run: a finished run.
        dataset: its data with pixels, where at hand; otherwise the run opens it.
        model: its classifier, where at hand; otherwise the run loads it.

    Returns:
        The path of ``report.html``.
    """
    gatherer = Gatherer(run, dataset, model)
    answers = gatherer.answers()
    test = dict(run.metrics.get("test") or {})
    if not test.get("per_class") and answers is not None:
        judged = evaluation.evaluate(answers.probabilities, answers.labels, run.class_names)
        test = json.loads(json.dumps(files.plain(judged.to_json())))
    metrics = {**run.metrics, "test": test}
    values: dict[str, Any] = {
        **_opening(run, metrics),
        **_training(run, gatherer, metrics),
        **_confusion(run, test),
        **_calibration(run, metrics, answers),
        **_galleries(run, gatherer, metrics, answers),
        **_record(run, gatherer, metrics),
    }
    values["missing"] = gatherer.missing
    values["contents"] = _contents(values)
    target = run.path / "report.html"
    files.write_text(target, _render(values))
    return target


def _render(values: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    script = (_HERE / "script.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return environment.get_template("page.html.j2").render(
        **values,
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(digest).decode("ascii"),
        percent=summary.percent,
        interval=summary.interval,
        bins=calibration.BINS,
    )


def _opening(run: Reportable, metrics: Mapping[str, Any]) -> dict[str, Any]:
    test = metrics["test"]
    sentence, kind = summary.verdict(metrics)
    numbers = []
    for name in ("accuracy", "balanced_accuracy", "ece"):
        if test.get(name) is not None:
            ends = (test.get("intervals") or {}).get(name)
            note = f"95 %: {summary.interval(ends)}" if ends else "no interval"
            if name == "ece" and test.get("ece_floor") is not None:
                note += f"; {summary.percent(test['ece_floor'])} would be chance"
            label = "Calibration error" if name == "ece" else _NAMES[name]
            numbers.append({"name": label, "value": summary.percent(test[name]), "note": note})
    return {
        "title": f"{run.config.get('backbone', 'Model')} on {run.config.get('data', 'data')}",
        "verdict": sentence,
        "kind": kind,
        "numbers": numbers,
        "advice": summary.advice(metrics),
        "test": {"note": "", "confusion": [], "per_class": [], "images": 0, **test},
        "baselines": metrics.get("baselines") or [],
        "class_count": len(run.class_names),
    }


def _draw(run: Reportable, name: str, figure: Any, alt: str) -> Markup:
    """Writes a figure under ``plots/`` and returns it as a part of the page."""
    text = figures.svg(figure)
    files.write_text(run.path / "plots" / f"{name}.svg", text)
    return figures.inline_svg(text, alt)


def _training(run: Reportable, gatherer: Gatherer, metrics: Mapping[str, Any]) -> dict[str, Any]:
    rows, curve = gatherer.history(), metrics.get("curve")
    result: dict[str, Any] = {"history_svg": "", "history_caption": "", "curve_svg": ""}
    result["curve"] = curve
    if rows:
        phases = list(dict.fromkeys(str(row["phase"]) for row in rows))
        caption = "Accuracy and loss by epoch; a solved head shows one point a penalty tried." + (
            " The dotted line marks the unfreezing." if len(phases) > 1 else ""
        )
        kept = metrics.get("kept")
        result["history_caption"] = caption + (f" Kept: {kept}." if kept else "")
        alt = f"Accuracy and loss over {len(rows)} steps of {' and '.join(phases)}"
        result["history_svg"] = _draw(run, "history", plots.history(rows), alt)
    if curve:
        result["curve_svg"] = _draw(
            run, "learning_curve", plots.learning_curve(curve), str(curve["verdict"])
        )
    return result


def _confusion(run: Reportable, test: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the classes confused most, the picture of all, and the commonest pairs."""
    class_names = run.class_names
    index, count = {name: i for i, name in enumerate(class_names)}, len(class_names)
    matrix = np.zeros((count, count), np.int64)
    for cell in test.get("confusion") or []:
        matrix[index[cell["label"]], index[cell["predicted"]]] = cell["count"]
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diagonal(matrix)
    everything = count <= plots.MAX_LABELS
    if matrix.any():
        figure = figures.svg(plots.confusion(matrix, class_names))
        files.write_text(run.path / "plots" / "confusion.svg", figure)
    shown = np.sort(np.argsort(-wrong, kind="stable")[: plots.MAX_LABELS])
    others = np.setdiff1d(np.arange(count), shown)
    rows = []
    for i in shown:
        total = max(1, int(matrix[i].sum()))
        counts = [int(matrix[i, j]) for j in shown]
        cells: list[dict[str, Any]] = [
            {"count": value, "share": round(value / total, 2), "hit": j == i}
            for value, j in zip(counts, shown, strict=True)
        ]
        if not everything:
            rest = int(matrix[i, others].sum())
            cells.append({"count": rest, "share": round(rest / total, 2), "hit": False})
        rows.append({"name": class_names[i], "cells": cells})
    return {
        "confusion": {"names": [class_names[i] for i in shown], "rows": rows, "all": everything},
        "matrix_image": "" if everything else figures.data_url(figures.matrix_image(matrix)),
        "pairs": summary.confusions(test),
    }


def _calibration(
    run: Reportable, metrics: Mapping[str, Any], answers: Answers | None
) -> dict[str, Any]:
    test = metrics["test"]
    result: dict[str, Any] = {
        "metric_rows": [
            {
                "name": _NAMES[name],
                "value": test[name],
                "interval": (test.get("intervals") or {}).get(name),
                "majority": (test.get("majority") or {}).get(name),
                "chance": (test.get("chance") or {}).get(name),
            }
            for name in METRICS
            if name in test
        ],
        "reliability_svg": "",
        "reliability_caption": "",
        "threshold": _threshold(metrics.get("threshold")),
    }
    after = test.get("reliability")
    if not after:
        return result
    temperature = run.config.get("temperature") or metrics.get("temperature")
    before = None
    caption = f"ECE {summary.percent(test['ece'])}, NLL {test['nll']:.3f}."
    if answers is not None and temperature and abs(temperature - 1.0) > 1e-6:
        probabilities = answers.before(float(temperature))
        plain = calibration.reliability(probabilities, answers.labels)
        before = vars(plain)
        with np.errstate(divide="ignore"):
            losses = -np.log(probabilities[np.arange(len(answers.labels)), answers.labels])
        caption = (
            f"Dividing the logits by {temperature:.2f}, fitted on validation, takes the ECE from "
            f"{summary.percent(plain.ece)} to {summary.percent(test['ece'])} and the NLL from "
            f"{losses.mean():.3f} to {test['nll']:.3f}."
        )
    result["reliability_caption"] = caption
    alt = f"Share right against probability given. {caption}"
    result["reliability_svg"] = _draw(run, "reliability", plots.reliability(after, before), alt)
    return result


def _threshold(chosen: Mapping[str, Any] | None) -> str:
    if not chosen:
        return ""
    target = summary.percent(chosen["target"], 0)
    if not chosen.get("answered"):
        return f"No confidence reaches a precision of {target} on validation."
    return (
        f"For a precision of {target}, answer at a probability of {chosen['threshold']:.3f} or "
        f"more: on the test images {summary.percent(chosen['coverage'])} are answered and "
        f"{summary.percent(chosen['precision'])} of the answers are right."
    )


def _galleries(
    run: Reportable, gatherer: Gatherer, metrics: Mapping[str, Any], answers: Answers | None
) -> dict[str, Any]:
    result: dict[str, Any] = {"mistakes": [], "doubts": []}
    if answers is not None:
        scores, labels = answers.probabilities, answers.labels
        wrong = evaluation.confident_mistakes(scores, labels, MISTAKES)
        doubtful = evaluation.doubtful_hits(scores, labels, DOUBTS)
        for kind, rows in (("mistakes", wrong), ("doubts", doubtful)):
            items = []
            for row in rows:
                truth = run.class_names[labels[row]]
                best = run.class_names[int(scores[row].argmax())]
                sure = summary.percent(float(scores[row].max()), 0)
                said = f", answered {best} ({sure})" if best != truth else f" ({sure})"
                items.append(_item(answers.paths[row], truth, truth + said, best))
            explained = scores[rows].argmax(axis=1).tolist() if kind == "mistakes" else None
            result[kind] = gatherer.pictured(items, kind, explained)
    suspects = []
    for row in (metrics.get("suspects") or [])[:SUSPECTS]:
        sure = summary.percent(row["confidence"], 0)
        title = f"{row['label']}, or {row['suggested']} ({sure})?"
        suspects.append(_item(row["path"], row["label"], title, row["suggested"]))
    return {**result, "suspects": gatherer.pictured(suspects, "suspects")}


def _item(path: str, label: str, title: str, predicted: str) -> dict[str, str]:
    alt = f"An image of the class {label}"
    return {"path": path, "title": title, "predicted": predicted, "alt": alt}


def _record(run: Reportable, gatherer: Gatherer, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Findings, cost, and what it takes to repeat the run."""
    findings: Sequence[Any] = ()
    if metrics.get("findings"):
        dataset = gatherer.dataset()
        findings = dataset.findings if dataset else ()
    config = dict(run.config)
    return {
        "findings": findings,
        "stages": _stages(metrics),
        "command": _command(run),
        "config": json.dumps(config, indent=2, ensure_ascii=False),
        "environment": json.dumps(metrics.get("environment"), indent=2, ensure_ascii=False)
        if metrics.get("environment")
        else "",
        "digests": [
            (name, files.file_sha256(run.path / name))
            for name in _DIGESTED
            if (run.path / name).exists()
        ],
    }


def _command(run: Reportable) -> str:
    """What repeats the run on the very same images; settings that were all defaults stay out."""
    config = run.config
    if "data" not in config:
        return ""
    words = ["keras-transfer", "train", str(config["data"])]
    words += ["--splits", str(run.path / "splits.csv")]
    # What the file of splits stands for is no word of the command.
    for name in ("seed", *config.get("asked", ())):
        option = "--" + name.replace("_", "-")
        if name not in ("split", "fold", "per_class") and option not in words:
            words += [option, str(config[name])]
    return shlex.join(words)


def _stages(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    actual, plan = metrics.get("seconds") or {}, metrics.get("plan") or {}
    planned = plan.get("seconds") or {}
    rows = [
        {
            "name": name.replace("_", " "),
            "planned": f"{planned[name]:.1f} s" if name in planned else "–",
            "actual": f"{seconds:.1f} s",
        }
        for name, seconds in actual.items()
    ]
    cache = metrics.get("cache") or {}
    if cache:
        written = {"planned": _mebibytes(plan.get("bytes")), "actual": _mebibytes(cache["bytes"])}
        rows.append({"name": "written to the cache", **written})
        for key, name in (("hits", "rows found in the cache"), ("misses", "rows computed")):
            rows.append({"name": name, "planned": "–", "actual": f"{cache[key]:,}"})
    return rows


def _mebibytes(count: float | None) -> str:
    return "–" if count is None else f"{count / 2**20:.1f} MiB"


def _contents(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = (
        ("training", "Training", values["history_svg"] or values["curve_svg"]),
        ("confusion", "Confusion", values["test"]["confusion"]),
        ("classes", "Classes", values["test"]["per_class"]),
        ("metrics", "Metrics", values["metric_rows"]),
        ("baselines", "Other methods", values["baselines"]),
        ("mistakes", "Mistakes", values["mistakes"] or values["doubts"]),
        ("suspects", "Labels", values["suspects"]),
        ("findings", "Findings", values["findings"]),
        ("cost", "Time and bytes", values["stages"]),
        ("repeat", "How to repeat it", True),
    )
    return [(anchor, name) for anchor, name, present in shown if present]
