"""A study's page: its words, its figures, and what a browser makes of it."""

import dataclasses
import datetime
import math
import re
import shutil

import numpy as np
import pytest
from runs import browser
from runs.test_browser import CONTRAST, LETTERS, SIZES

from keras_transfer.base import files
from tuning import importance, results, space
from tuning import study_figures as figures
from tuning import study_page as page
from tuning.results import Record

ABOUT = {
    "keras_transfer": "0", "data": "photos/<b>été</b>", "data_digest": "0", "own_splits": False,
    "setup": {}, "tuner": "random", "objective": "nll", "space": {"space": [], "values": {}},
}  # fmt: skip
LABELS = np.random.default_rng(0).integers(0, 5, 150)


def record_of(number, end, draw):
    """A made-up trial: the rate decides, the depth a little, the rest nothing."""
    values = dict(space.default_space().defaults())
    if number:
        values |= {
            "unfreeze": str(draw.choice(["12%", "35%", "70%"])),
            "fine_tune_lr": float(10 ** draw.uniform(-4, -2.7)),
            "batch_size": int(draw.choice([16, 32, 64])),
            "penalty": "l2-sp",
            "penalty_strength": float(10 ** draw.uniform(-4, -1)),
        }
    nll = 0.2 + 0.3 * (math.log10(values["fine_tune_lr"]) + 3.1) ** 2
    nll += 0.02 * (values["unfreeze"] == "12%") + 0.002 * draw.normal()
    return Record(
        number, "completed", values, {}, nll=nll, accuracy=0.9, macro_f1=0.9, temperature=1.0,
        kept="average", epochs_done=8, seconds=20.0, finished=end.isoformat(),
        extract_seconds=9.0 if number == 0 else 0.1, fine_tune_seconds=10.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("study"), np.random.default_rng(1)
    files.write_json(folder / results.STUDY, ABOUT)
    np.save(folder / results.LABELS, LABELS)
    begun = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    for number in range(20):
        end = begun + datetime.timedelta(seconds=25 * (number + 1))
        record = record_of(number, end, draw)
        if number == 7:
            record = Record(7, "failed", record.values, {}, seconds=1.0, reason="Out of <memory>.")
        results.write_record(folder, record)
        noise = draw.normal(size=(len(LABELS), 5)) * (record.nll or 1.0)
        logits = 3 * np.eye(5)[LABELS] + noise
        np.save(results.trial_folder(folder, number) / results.LOGITS, logits.astype(np.float32))
    files.write_text(folder / results.BEST, 'backbone = "EfficientNetLite0"\n')
    files.write_json(
        folder / "winner" / "metrics.json",
        {"test": {"accuracy": 0.91, "nll": 0.3, "images": 140}},
    )
    files.write_text(folder / "winner" / "report.html", "<p>the winner</p>")
    page.write_page(folder)
    return folder


def test_the_page_says_what_was_found(study):
    text = (study / page.PAGE).read_text()
    records = results.read_records(study)
    assert results.verdict(study, records, "nll") in text
    assert "<b>été" not in text
    assert "Out of &lt;memory&gt;." in text
    assert 'href="winner/report.html"' in text
    assert text.count('<svg role="img"') == 3 + len(results.varied(results.completed(records)))
    shared, own = (f"{value:.1f}" for value in (9.0 + 18 * 0.1, 190.0))
    assert re.search(rf"Shared.*?<td>{shared}</td>.*?own.*?<td>{own}</td>", text, re.DOTALL)
    # Nothing is fetched: the only addresses are within the page and of the winner's own.
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(a.startswith(("#", "data:", "winner/")) for a in addresses)


@pytest.mark.parametrize(("wide", "width"), [(False, 100), (True, 400)])
def test_the_table_fits_the_terminal(study, wide, width):
    import rich.console

    console = rich.console.Console(width=width)
    with console.capture() as captured:
        console.print(results.render(study, wide))
    text = captured.get()
    names = results.varied(results.read_records(study))
    assert "…" not in text
    for number, name in enumerate(names):
        assert (results.words(name) in text) == (wide or number < results.NARROW)
    first = re.search(r"^ +(\d+) +(\d\.\d{3}) +90.0% +", text, re.MULTILINE)
    best = results.ranked(results.read_records(study), "nll")[0]
    assert (int(first[1]), first[2]) == (best.trial, f"{best.nll:.3f}")
    assert ("more settings: --wide" in text) != wide
    assert re.search(r" 20 ", text)  # whole seconds


@pytest.mark.parametrize(("images", "few"), [(2, True), (10, False)])
def test_a_winner_tested_on_few_examples_shows_little(study, tmp_path, images, few):
    import rich.console

    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    test = {"images": images, "accuracy": 1.0, "nll": 0.001}
    files.write_json(copy / "winner" / "metrics.json", {"test": test})
    console = rich.console.Console(width=200)
    with console.capture() as captured:
        console.print(results.render(copy))
    text = captured.get()
    assert "The winner on the test split: 100.0% right, NLL 0.001" in text
    assert (f"Only {images} test examples: too few to tell." in text) == few


@pytest.mark.slow
def test_importance_finds_the_setting_that_decides(study):
    found = importance.importances(results.read_records(study), "nll")
    assert found[0].name == "fine_tune_lr"
    assert found[0].low > 0.1
    assert {"batch_size", "unfreeze", "penalty"} <= {one.name for one in found}
    rest = [one for one in found if one.name not in ("fine_tune_lr", "unfreeze")]
    assert all(one.low < 0.05 for one in rest)
    few = results.read_records(study)[: importance.LEAST - 1]
    assert importance.importances(few, "nll") == []


def test_the_best_so_far_never_gets_worse(study):
    records = results.read_records(study)
    line = figures.progress(records, "nll").axes[0].lines[0].get_ydata()
    nlls = [record.nll for record in records if record.nll is not None]
    np.testing.assert_allclose(line, np.minimum.accumulate(nlls))
    rising = figures.progress(records, "accuracy").axes[0].lines[0].get_ydata()
    assert (np.diff(rising) >= 0).all()


def test_ticks_stand_at_values_that_were_tried_and_the_default_is_always_marked(study):
    records = results.completed(results.read_records(study))
    default = next(record for record in records if record.trial == 0)
    worst = max(records, key=lambda record: record.nll)
    records.remove(worst)
    lacking = {name: v for name, v in worst.values.items() if name != "fine_tune_lr"}
    records.append(dataclasses.replace(worst, values=lacking))
    names = results.varied(records)
    assert default.values.get("penalty_strength") is None  # where it lacks the setting, a line
    for name in names:
        axes = figures.score_against(records, "nll", name).axes[0]
        tried = [record.values[name] for record in records if record.values.get(name) is not None]
        if all(isinstance(value, (int, float)) for value in tried):
            assert set(axes.get_xticks()) <= set(map(float, tried))
            assert float(default.values.get(name, min(tried))) in axes.get_xticks()
        assert axes.lines[0].get_ydata()[0] == default.nll
        low, high = axes.get_ylim()  # one scale for all
        assert low < min(r.nll for r in records) < max(r.nll for r in records) < high
        if name in default.values:
            (place,) = axes.collections[1].get_offsets()
            assert place[1] == default.nll


def test_a_study_without_a_completed_trial_has_a_page(tmp_path):
    files.write_json(tmp_path / results.STUDY, ABOUT)
    assert "No trial has completed." in page.write_page(tmp_path).read_text()


def test_tensorboard_reads_the_trials(study, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import metadata

    from tuning import hparams

    place = hparams.write_events(study, tmp_path / "events")
    assert sorted(path.name for path in place.iterdir() if path.is_dir()) == [
        f"{number:04d}" for number in range(20)
    ]
    for record in results.read_records(study):
        (file,) = (place / f"{record.trial:04d}").glob("events*")
        found = {}
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found[value.tag] = value
        start = found[metadata.SESSION_START_INFO_TAG].metadata.plugin_data.content
        given = metadata.parse_session_start_info_plugin_data(start).hparams
        assert given["fine_tune_lr"].number_value == record.values["fine_tune_lr"]
        if record.nll is not None:
            assert found["nll"].tensor.float_val[0] == pytest.approx(record.nll, rel=1e-6)


@pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(study):
    with browser.browser() as opened:
        for width, dark in SIZES:
            opened.requests.clear()
            opened.open(study / page.PAGE, width=width, dark=dark)
            assert opened.run(CONTRAST) == []
            letters = opened.run(LETTERS)
            assert len(letters) > 5
            assert min(letters) >= 11
            assert opened.run("document.documentElement.scrollWidth") <= width
            assert opened.requests == [(study / page.PAGE).resolve().as_uri()]
            assert opened.errors == []
        column = (
            "[...document.querySelector('.sortable').tBodies[0].rows]"
            ".map(row => +row.cells[0].dataset.value)"
        )
        assert opened.run(column)[0] != 0
        opened.run("document.querySelector('.sortable button').click()")
        assert opened.run(column) == list(range(20))
