"""Writes a study's page: one HTML file that asks nothing of the network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_transfer.base import files
from keras_transfer.runs import page
from keras_transfer.runs.page import inline_svg, svg
from tuning import results
from tuning import study_figures as figures
from tuning.importance import LEAST, METHOD, importances, varied
from tuning.results import COMPLETED, FAILED, Record

PAGE = "report.html"


def write_page(study: Path) -> Path:
    """Writes ``report.html`` of a study, finished or not.

    Raises:
        UsageError: the folder is no study.
    """
    about, records = results.read_study(study), results.read_records(study)
    values = {
        "title": f"Search on {about['data']}",
        **_opening(study, about, records),
        **_figures(records, about["objective"]),
        **_trials(records, about["objective"]),
        **_ending(study, about),
    }
    text = page.render(Path(__file__).with_name("page.html.j2"), values)
    files.write_text(study / PAGE, text)
    return study / PAGE


def _opening(study: Path, about: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    objective = about["objective"]
    best = results.best_of(records, objective)
    numbers = []
    if best is not None:
        first = next((r for r in records if r.trial == 0 and r.status == COMPLETED), None)
        for name, field in (("NLL", "nll"), ("accuracy", "accuracy")):
            note = "" if first is None else f"the default: {_shown(first, field)}"
            numbers.append(
                {"name": f"Validation {name}", "value": _shown(best, field), "note": note}
            )
        seconds = sum(record.seconds for record in records)
        failed = sum(record.status == FAILED for record in records)
        note = f"{seconds / 60:.1f} minutes in all; {failed or 'none'} failed"
        numbers.append({"name": "Trials", "value": str(len(records)), "note": note})
    return {"verdict": results.verdict(study, records, objective), "numbers": numbers}


def _shown(record: Record, field: str) -> str:
    value = getattr(record, field)
    return f"{value:.1%}" if field == "accuracy" else f"{value:.4f}"


def _figures(records: Sequence[Record], objective: str) -> dict[str, Any]:
    done = [record for record in records if record.status == COMPLETED]
    names = varied(done)
    drawn: dict[str, Any] = dict.fromkeys(("progress", "slices", "importance", "costs"), "")
    if done:
        figure = svg(figures.progress(done, objective))
        drawn["progress"] = inline_svg(figure, f"The best of {len(done)} trials over time")
        drawn["costs"] = inline_svg(svg(figures.costs(records)), "Seconds of every trial by kind")
    if len(done) > 1 and names:
        figure = svg(figures.slices(done, names, objective))
        drawn["slices"] = inline_svg(figure, f"Score against {', '.join(names)}")
    found = importances(done, objective)
    if found:
        drawn["importance"] = inline_svg(
            svg(figures.importance(found)), "; ".join(f"{i.name} {i.median:.2f}" for i in found)
        )
    total = sum(record.seconds for record in records)
    shared = sum(record.extract_seconds + record.head_seconds for record in records)
    own = sum(record.fine_tune_seconds for record in records)
    return {
        **drawn,
        "method": METHOD,
        "least": LEAST,
        "cost": {
            "shared": round(shared, 1),
            "own": round(own, 1),
            "rest": round(max(0.0, total - shared - own), 1),
            "compilations": sum(record.compilations for record in records),
        },
    }


def _trials(records: Sequence[Record], objective: str) -> dict[str, Any]:
    names = varied(records)
    ranked = sorted(records, key=lambda record: (results.score(record, objective), record.trial))
    fields = ("nll", "accuracy", "macro_f1", "seconds")
    rows = [
        {
            "trial": record.trial,
            "figures": [getattr(record, field) for field in fields],
            "kept": record.kept or record.status,
            "values": [_cell(record.values.get(name)) for name in names],
        }
        for record in ranked
    ]
    numeric = [all(isinstance(r.values.get(n, 0), (int, float)) for r in records) for n in names]
    return {
        "names": list(zip(map(figures.title, names), numeric, strict=True)),
        "rows": rows,
        "failures": [record for record in records if record.status == FAILED],
    }


def _cell(value: Any) -> dict[str, Any]:
    short = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return {"value": "" if value is None else value, "text": short}


def _ending(study: Path, about: dict[str, Any]) -> dict[str, Any]:
    try:
        metrics = json.loads((study / results.WINNER / "metrics.json").read_text(encoding="utf-8"))
        test: dict[str, Any] | None = metrics["test"]
    except (OSError, ValueError, KeyError):
        test = None
    there = (study / results.WINNER / "report.html").exists()
    words = ["keras-transfer", "train", str(about["data"]), "--config", str(study / results.BEST)]
    best = study / results.BEST
    return {
        "test": test,
        "winner": f"{results.WINNER}/report.html" if there else "",
        "command": shlex.join(words),
        "best": best.read_text(encoding="utf-8") if best.exists() else "",
        "about": json.dumps(about, indent=2, ensure_ascii=False),
    }
