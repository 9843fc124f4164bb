"""Writes a study's page: one HTML file that asks nothing of the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_transfer.base import files
from keras_transfer.runs import page
from tuning import importance, results
from tuning import study_figures as figures
from tuning.results import FAILED, PAGE, WINNER

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def write_page(study: Path) -> Path:
    """Writes ``report.html`` of a study, finished or not.

    Raises:
        UsageError: the folder is no study.
    """
    about, records = results.read_study(study), results.read_records(study)
    objective = about["objective"]
    done, names = results.completed(records), results.varied(records)
    found = importance.importances(done, objective)
    drawn = {
        "progress": figures.progress(done, objective) if done else None,
        "importance": figures.importance(found) if found else None,
        "costs": figures.costs(records) if done else None,
    }
    best = results.best_of(records, objective)
    values: dict[str, Any] = {
        "about": about,
        "records": records,
        "ranked": results.ranked(records, objective),
        "failed": [record for record in records if record.status == FAILED],
        "first": next((record for record in done if record.trial == 0), None),
        "verdict": results.verdict(study, records, objective),
        "slices": {
            name: page.svg(figures.score_against(done, objective, name))
            for name in results.varied(done)
        },
        "figures": {name: page.svg(one) if one else "" for name, one in drawn.items()},
        "importances": found,
        "method": importance.METHOD,
        "least": importance.LEAST,
        # Settings in columns, and whether a column sorts by number.
        "names": {
            name: all(isinstance(r.values.get(name, 0), (int, float)) for r in records)
            for name in names
        },
        "test": results.winners_test(study),
        "winner": f"{WINNER}/report.html" if (study / WINNER / "report.html").exists() else "",
        "command": results.command(study, about),
        "best": results.best_toml(best) if best else "",
        "pretty": json.dumps(about, indent=2, ensure_ascii=False),
        "inline_svg": page.inline_svg,
        "words": results.words,
        "short": results.short,
    }
    files.write_text(study / PAGE, page.render(_TEMPLATE, values))
    return study / PAGE
