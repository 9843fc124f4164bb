import copy
import dataclasses
import re
import shlex
import time

import numpy as np
import pytest

from keras_transfer import evaluation
from keras_transfer.base.task import ONE
from keras_transfer.evaluation import plots
from keras_transfer.learn import calibration
from keras_transfer.runs import page, report, summary
from keras_transfer.runs.report import write_report

from . import saved

NAMES = [f"digit {i}" for i in range(10)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = saved.save(tmp_path_factory.mktemp("page") / "run", NAMES)
    run.metrics["curve"] = {
        "sizes": [50, 100, 200],
        "accuracy": [0.5, 0.6, 0.65],
        "intervals": [[0.4, 0.6], [0.5, 0.7], [0.55, 0.75]],
        "twice": 0.7,
        "gain": 0.05,
        "gain_interval": [0.01, 0.08],
        "verdict": "Twice the training data (400) would bring about +5.0 points.",
    }
    run.metrics["threshold"] = {
        "target": 0.95, "threshold": 0.8, "precision": 0.94, "coverage": 0.6, "answered": 120,
    }  # fmt: skip
    run.metrics["suspects"] = [
        {"path": "3/13.png", "label": "digit 3", "suggested": "digit 8", "confidence": 0.97}
    ]
    run.metrics["baselines"] = [
        {
            "name": "nearest neighbour", "accuracy": 0.9, "interval": [0.8, 0.95], "nll": 0.4,
            "ece": 0.03, "seconds": 0.2, "verdict": "Nearest neighbour is better.", "better": True,
        }
    ]  # fmt: skip
    return run


@pytest.fixture(scope="module")
def text(run):
    return write_report(run).read_text()


def test_the_page_opens_with_the_verdict_and_three_numbers(run, text):
    test = run.metrics["test"]
    head = text[: text.index("<main")]
    assert f"right on {100 * test['accuracy']:.1f} % of images" in head
    assert ">Ship it if it may say “unsure”: of the 60 % that it is surest of, 94.0 % are" in head
    assert head.count("<li>Accuracy<b>") == 1
    for value in (test["balanced_accuracy"], test["ece"]):
        assert f"<b>{100 * value:.1f} %</b>" in head
    assert f"keras-transfer export {shlex.quote(str(run.path))} --formats saved_model" in head
    assert "What to do next" in head
    assert "Parts of this page are missing" not in text


def test_every_part_is_there_and_reachable(text):
    anchors = re.findall(r'href="#([\w-]+)"', text)
    for anchor in anchors:
        assert f'id="{anchor}"' in text
    for part in ("training", "confusion", "classes", "metrics", "baselines", "mistakes",
                 "suspects", "findings", "cost", "repeat"):  # fmt: skip
        assert part in anchors
    assert "Kept: average." in text
    assert "keras-transfer train digits --splits" in text
    assert "--seed 3" in text


def test_the_page_is_self_contained_and_small(run, text):
    assert len(text.encode()) < 3_000_000
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_the_same_run_gives_the_same_page(run, text):
    assert write_report(run).read_text() == text


def test_figures_are_left_under_plots(run, text):
    for name in ("history", "reliability", "confusion", "learning_curve"):
        assert (run.path / "plots" / f"{name}.svg").read_text().startswith("<?xml")


def test_mistakes_are_the_most_confident_ones_with_maps(run, text):
    probabilities = np.load(run.path / "test_probabilities.npy")
    labels = np.arange(200) % 10
    wrong = probabilities.argmax(1) != labels
    worst = int(np.flatnonzero(wrong)[probabilities[wrong].max(1).argmax()])
    gallery = text[text.index("Most confident mistakes") : text.index("Least confident hits")]
    assert f"{labels[worst]}/{worst}.png" in gallery[: gallery.index("</li>")]
    assert gallery.count("data:image/webp") == 2 * report.MISTAKES
    assert gallery.count('where the model looked"') == 2 * report.MISTAKES


def test_names_are_data_and_not_markup(tmp_path):
    count = 60
    names = [f"<img src=x onerror='window.hacked = 2'>{i}.png" for i in range(count)]
    run = saved.save(tmp_path / "odd", saved.ODD_NAMES, count, names=names)
    run.config["data"] = "</title><script>window.hacked = 3</script>"
    text = write_report(run).read_text()
    assert text.count("<script>") == 1
    assert "<img src=x" not in text
    assert "<b>bad</b>" not in text
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in text
    assert "قطط" in text
    assert "猫とねずみ" in text


def test_what_is_missing_is_named_and_the_rest_is_there(run, tmp_path):
    bare = saved.save(tmp_path / "bare", NAMES)
    bare = dataclasses.replace(bare, pictures=None, classifier=None)
    for name in ("history.csv", "predictions.csv"):
        (bare.path / name).unlink()
    text = write_report(bare).read_text()
    missing = text[text.index("Parts of this page are missing") : text.index("<main")]
    for piece in ("history.csv", "predictions.csv", "The images"):
        assert piece in missing
    assert 'id="per-class"' in text
    assert "Most confident mistakes" not in text


def test_pictures_survive_the_loss_of_data_and_model(run, text):
    later = copy.copy(run)
    later = dataclasses.replace(later, pictures=None, classifier=None)
    again = write_report(later).read_text()
    assert "The folder digits is gone" in again
    assert again.count("data:image/webp") == text.count("data:image/webp")
    write_report(run)


def test_the_temperature_is_undone_exactly(tmp_path):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(50, 6)) * 3, random.integers(6, size=50)
    shipped = ONE.probabilities(logits / 1.7).astype(np.float32)
    run = saved.Saved(tmp_path, {"temperature": 1.7}, {}, None, None)
    before = report._before_temperature(run, report.Answers(shipped, labels, ("x",) * 50))
    assert before["nll"] == pytest.approx(calibration.nll(logits, labels), rel=1e-5)
    plain = calibration.reliability(ONE.probabilities(logits), labels)
    assert before["ece"] == pytest.approx(plain.ece, abs=1e-5)


def test_a_large_test_set_takes_under_ten_seconds(tmp_path):
    run = saved.save(tmp_path / "large", [f"class {i}" for i in range(50)], 2000)
    run.classifier()
    start = time.process_time()
    text = write_report(run).read_text()
    assert time.process_time() - start < 10
    assert len(text.encode()) < 3_000_000


def test_a_hundred_classes_are_readable(tmp_path):
    run = saved.save(tmp_path / "hundred", [f"class {i}" for i in range(100)], 600)
    text = write_report(run).read_text()
    matrix = text[text.index('<table class="confusion"') :]
    matrix = matrix[: matrix.index("</table>")]
    assert matrix.count('<th scope="row"') == 25
    assert "The 25 classes that are confused most, of 100" in text
    assert "All 100 classes, true class by row" in text
    shown = sum(int(cell) for cell in re.findall(r"<td[^>]*>(\d+)</td>", matrix))
    assert shown == 25 * 6


def test_a_thousand_classes_stay_small(tmp_path):
    run = saved.save(tmp_path / "thousand", [f"class {i}" for i in range(1000)], 1500)
    assert write_report(run).stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("count", "skill", "kind", "words"),
    [
        (7, 9.0, "open", "Do not ship it yet: 7 test images cannot show"),
        (24, 1.0, "open", "Do not ship it yet: 24 test images cannot show"),
        (300, 0.0, "bad", "Do not ship it: right on"),
        (300, 2.0, "open", "Ship it only where somebody checks"),
        (300, 400.0, "good", "Ship it: right on"),
    ],
)
def test_the_verdict_does_not_flatter(tmp_path, count, skill, kind, words):
    run = saved.save(tmp_path / "run", NAMES, count, skill=skill)
    sentence, found = summary.verdict(run.metrics, "image")
    assert found == kind
    assert sentence.startswith(words)


def test_advice_names_the_weak_class_and_the_better_method(run):
    metrics = copy.deepcopy(run.metrics)
    for row in metrics["test"]["per_class"]:
        if row["name"] == "digit 4":
            row.update(recall=0.05, recall_interval=[0.0, 0.2], confused_with="digit 9")
    sentences = [sentence for sentence, _ in summary.advice(metrics, "image", "runs/my photos")]
    assert any("mistakes of “digit 4” and add" in s and "“digit 9”" in s for s in sentences)
    assert any("Nearest neighbour is better. Prefer it" in s for s in sentences)
    commands = [command for _, command in summary.advice(metrics, "image", "runs/my photos")]
    assert "keras-transfer export 'runs/my photos' --formats saved_model,tflite" in commands


def test_what_so_few_images_cannot_say_is_not_said(tmp_path):
    run = saved.save(tmp_path / "run", NAMES, 8, skill=9.0)
    text = write_report(run).read_text()
    head = text[: text.index("<main")]
    low, high = run.metrics["test"]["intervals"]["accuracy"]
    assert f"<b>{100 * low:.0f} to {100 * high:.0f} %</b>" in head
    assert "Calibration error" not in head
    assert "Label more images" in head
    assert "keras-transfer" not in head  # neither to export nor to extrapolate
    assert "Too few were tested to say" in text
    assert "Share right against" not in text


@pytest.mark.parametrize(
    ("sharpness", "words"),
    [(1.0, "at their word"), (3.0, "points too high"), (0.2, "points too low")],
)
def test_percentages_are_called_what_they_are(sharpness, words):
    random = np.random.default_rng(0)
    truth = ONE.probabilities(random.normal(size=(3000, 4)) * 2)
    labels = np.array([random.choice(4, p=row) for row in truth])
    given = ONE.probabilities(np.log(truth) * sharpness)
    test = evaluation.evaluate(given, labels, list("abcd")).to_json()
    assert words in summary.calibration(test)
    if words != "at their word":
        gap = abs(given.max(1).mean() - (given.argmax(1) == labels).mean())
        assert f"about {100 * gap:.1f} points" in summary.calibration(test)


def test_a_mean_far_from_the_accuracy_is_said_though_the_calibration_error_may_be_chance():
    random = np.random.default_rng(0)
    right = np.arange(220) < 156
    given = random.uniform(0.62, 0.98, 220)
    given = np.stack([given, 1 - given], axis=1)
    test = evaluation.evaluate(given, np.where(right, 0, 1), ["fresh", "rotten"]).to_json()
    test["intervals"]["ece"], test["ece_floor"] = (0.05, 0.15), 0.06
    said = summary.calibration(test)
    assert "points too high" in said
    assert f"{100 * given.max(axis=1).mean():.1f} % sure, and 70.9 % are right" in said


@pytest.mark.parametrize(
    ("target", "images", "words"),
    [
        (0.95, 30, "at least 59 validation images, all answered right"),
        (0.95, 58, "there are 58"),
        (0.95, 59, "at no confidence do the 59 validation images show that 95 %"),
        (0.99, 200, "at least 299 validation images"),
        (1.0, 500, "nothing shows that every answer is right"),
    ],
)
def test_why_there_is_no_threshold_is_said(target, images, words):
    sure = {"target": target, "validation_images": 0}
    metrics = {"threshold": sure, "validation": {"images": images}}
    assert words in summary.no_threshold(metrics, "image")
    sure["validation_images"] = 9
    assert summary.no_threshold(metrics, "image") == ""
    # As many as it says reach the target if all are right, and one less does not.
    if target < 1 and "at least" in words:
        least = int(words.split()[2])
        for count in (least - 1, least):
            perfect = np.tile([[0.9, 0.1]], (count, 1))
            found = calibration.precision_threshold(perfect, np.zeros(count, int), target)
            assert bool(found.answered) == (count == least)


def test_the_path_of_a_solved_head_stands_by_its_penalties():
    path = [[1e-1, 0.8, 9], [1e-2, 0.5, 9], [1e-3, 0.4, 9]]
    details = {"penalty": 1e-3, "validation_nll": 0.4, "path": path}
    phases = [{"name": "head", "details": details}]
    rows = [
        {
            "phase": "fine_tune",
            "train_loss": 0.3,
            "validation_loss": 0.4,
            "validation_accuracy": 0.9,
        }
    ] * 5
    accuracy, loss, head = plots.history(rows, phases).axes
    assert accuracy.get_xlim() == loss.get_xlim()
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]  # epochs alone
    assert head.lines[0].get_xdata().tolist() == [1e-1, 1e-2, 1e-3]
    assert head.get_xscale() == "log"
    assert head.collections[0].get_offsets()[0].tolist() == [1e-3, 0.4]
    assert len(plots.history([], phases).axes) == 1


def test_confusions_come_commonest_first(run):
    pairs = summary.confusions(run.metrics["test"])
    counts = [pair["count"] for pair in pairs]
    assert counts == sorted(counts, reverse=True)
    assert all(pair["label"] != pair["predicted"] for pair in pairs)
    assert pairs[0]["share"] == pairs[0]["count"] / 20


def test_a_matrix_image_keeps_every_cell():
    from io import BytesIO

    from PIL import Image

    matrix = np.eye(40, dtype=int) * 5
    matrix[3, 8] = 5
    picture = np.asarray(Image.open(BytesIO(page.matrix_image(matrix))).convert("L"), int)
    assert picture.shape == (40, 40)
    assert picture[3, 8] == picture[3, 3] > picture[0, 1] + 50


def test_evaluation_without_confusion_says_that_none_was(tmp_path):
    run = saved.save(tmp_path / "run", ["a", "b"], 40)
    perfect = evaluation.evaluate(np.eye(2)[np.arange(40) % 2], np.arange(40) % 2, ["a", "b"])
    run.metrics["test"] = perfect.to_json()
    assert "No test image was confused." in write_report(run).read_text()
