"""What to label next, and what was labelled wrongly."""

import csv
import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import keras_transfer as kt
from keras_transfer import cli, datasets
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.labelling import ranking
from keras_transfer.runs import folder as runs
from keras_transfer.updating import _merged


def by_outer_products(probabilities, features, count, seed):
    """BADGE with its gradients written out, by the loop of its paper."""
    guessed = np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    gradients = np.einsum("nc,nd->ncd", probabilities - guessed, features).reshape(
        len(features), -1
    )
    random = np.random.default_rng(seed)
    chosen, weight = [], np.square(gradients).sum(axis=1)
    first = int(weight.argmax())
    for number in range(count):
        draw = int(random.choice(len(weight), p=weight / weight.sum()))
        chosen.append(draw if number else first)
        apart = np.square(gradients[:, None] - gradients[None, chosen]).sum(axis=2)
        weight = apart.min(axis=1)
        weight[chosen] = 0
    return chosen


def test_the_ranking_is_that_of_gradients_written_out():
    random = np.random.default_rng(0)
    scores, features = random.dirichlet(np.ones(4), 40), random.normal(size=(40, 7))
    for seed in range(4):
        expected = by_outer_products(scores, features, 12, seed)
        assert ranking(scores, features, 12, seed).tolist() == expected


def test_what_is_unsure_comes_before_what_is_sure_and_copies_come_last():
    sure, unsure = [0.998, 0.001, 0.001], [0.4, 0.35, 0.25]
    features = np.random.default_rng(0).normal(size=(60, 9))
    scores = np.array([unsure] * 20 + [sure] * 40)
    assert np.mean(ranking(scores, features, 15) < 20) > 0.9
    features[1:10] = features[0]
    order = ranking(scores[:20], features[:20], 20).tolist()
    assert sorted(order) == list(range(20))
    assert len(set(order[:11]) & set(range(10))) == 1


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """Thirty digits without labels, one of them broken; the name of each says what it is."""
    digits, folder = load_digits(), tmp_path_factory.mktemp("unlabelled") / "new"
    (folder / "deeper").mkdir(parents=True)
    for number, row in enumerate(range(1000, 1030)):
        pixels = (digits.images[row] / 16 * 255).astype(np.uint8)
        place = folder / ("deeper" if number % 2 else "")
        Image.fromarray(pixels).save(place / f"{number:02d}-{digits.target[row]}.png")
    (folder / "broken.png").write_bytes(b"no image at all")
    (folder / "notes.txt").write_text("not to be labelled")
    return folder


def test_a_sheet_is_ranked_shown_and_read_back(
    digits_run, digits_folder, unlabelled, tmp_path, capsys, monkeypatch
):
    words = ["label", str(digits_run), str(unlabelled), "--count", "12"]
    output = tmp_path / "sheet"
    assert cli.main([*words, "--output", str(output), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [*said["left_out"]] == [str(unlabelled / "broken.png")]
    with open(output / "sheet.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == said["rows"]
    assert len(rows) == len({row["path"] for row in rows}) == 12
    assert {row["label"] for row in rows} == {""}
    answers = kt.predict(digits_run, [output / row["path"] for row in rows])
    for row, found in zip(rows, answers, strict=True):
        best = found["classes"][0]
        assert row["guess"] == best["label"]
        assert float(row["confidence"]) == pytest.approx(best["probability"], abs=2e-3)
    monkeypatch.chdir(unlabelled)
    heading, *shown = (
        kt.labelling.Sheet(output / "sheet.csv", rows, {}, 0, digits_run).render().splitlines()
    )
    assert heading.split() == ["file", "guess", "confidence"]
    for line, row in zip(shown[:10], rows, strict=False):
        name, guess, _ = line.split()
        assert (name, guess) == (
            str((output / row["path"]).resolve().relative_to(unlabelled)),
            row["guess"],
        )
    assert "for variety" in shown[11]
    page = (output / "sheet.html").read_text()
    for number, row in enumerate(rows, start=2):
        assert f"Row {number}: {row['path']}<" in page
    assert page.count("<li>") == page.count("data:image/webp") == 12
    assert "http" not in page

    assert cli.main([*words, "--output", str(output)]) == 2
    assert "may hold labels" in capsys.readouterr().err
    for row in rows[:8]:
        row["label"] = f"digit-{row['path'][-5]}"
    with open(output / "sheet.csv", "w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    dataset, fresh, left_out = _merged(runs.open_run(digits_run), str(output / "sheet.csv"))
    assert (len(fresh), left_out) == (8, 0)
    labels = {dataset.class_names[dataset.labels[i]] for i in fresh}
    assert labels == {row["label"] for row in rows[:8]}
    alone = datasets.inspect(str(output / "sheet.csv"))
    assert [one.kind for one in alone.findings].count("unlabelled") == 4


def test_what_is_labelled_already_is_not_asked_again(
    digits_run, digits_folder, unlabelled, tmp_path
):
    folder = shutil.copytree(unlabelled, tmp_path / "new")
    for number, file in enumerate(sorted(digits_folder.rglob("*.png"))[:5]):
        shutil.copy(file, folder / f"again-{number}.png")
    found = kt.label(digits_run, folder, output=tmp_path / "sheet")
    assert found.known == 5
    assert len(found.rows) == 30
    assert not any("again" in row["path"] for row in found.rows)
    assert "Labelled already, in the run's own data: 5." in found.render()
    with pytest.raises(DataError, match="nothing new: 36 of 36 are in the run's data"):
        kt.label(digits_run, digits_folder / "digit-0", output=tmp_path / "other")
    run = kt.open_run(digits_run)
    gone = dataclasses.replace(run, config={**run.config, "data": "gone", "data_path": "gone"})
    found = kt.label(gone, folder, output=tmp_path / "gone", count=3)
    assert found.known is None
    assert "own data cannot be read" in found.render()


def test_what_cannot_be_ranked_is_refused(digits_run, unlabelled, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images that can be read"):
        kt.label(digits_run, tmp_path / "empty", output=tmp_path / "sheet")
    (tmp_path / "bad").mkdir()
    shutil.copy(unlabelled / "broken.png", tmp_path / "bad")
    with pytest.raises(DataError, match=r"broken\.png: no image format"):
        kt.label(digits_run, tmp_path / "bad", output=tmp_path / "sheet")
    with pytest.raises(DataError, match="neither a folder nor"):
        kt.label(digits_run, tmp_path / "gone", output=tmp_path / "sheet")
    with pytest.raises(UsageError, match="lies inside"):
        kt.label(digits_run, unlabelled, output=unlabelled / "sheet")
    assert not (tmp_path / "sheet").exists()


@pytest.mark.parametrize("form", ["list", "words", "frame"])
def test_lists_and_frames_are_ranked_as_folders_are(
    digits_result, unlabelled, tmp_path, monkeypatch, form
):
    monkeypatch.chdir(unlabelled.parent)
    files = sorted(unlabelled.relative_to(unlabelled.parent).rglob("*.png"))
    data = files if form == "list" else list(map(str, files))
    if form == "frame":
        data = pytest.importorskip("pandas").DataFrame({"image": data, "seen": 1})
    found = kt.label(digits_result, data, count=8, output=tmp_path / "sheet")
    whole = kt.label(digits_result.path, unlabelled, count=8, output=tmp_path / "other")
    rows = [
        {(folder / row.pop("path")).resolve(): row for row in sheet.rows}
        for sheet, folder in ((found, tmp_path / "sheet"), (whole, tmp_path / "other"))
    ]
    assert [*rows[0]] == [*rows[1]]
    assert list(map(Path, found.left_out)) == [Path("new/broken.png")]
    dataset, *_ = _merged(runs.open_run(digits_result.path), filled(found.path))
    assert len(dataset) == 180 + 8


def filled(sheet):
    """A sheet with labels in it."""
    with open(sheet, newline="") as stream:
        rows = [row | {"label": row["guess"]} for row in csv.DictReader(stream)]
    with open(sheet, "w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return str(sheet)


@pytest.mark.parametrize("data", [5, None, [1, 2], ["a text"], np.zeros((2, 8, 8))], ids=repr)
def test_what_is_no_name_is_not_ranked(digits_run, tmp_path, data):
    with pytest.raises(DataError, match="are no names of image files") as caught:
        kt.label(digits_run, data, output=tmp_path / "sheet")
    assert "files" in caught.value.remedy
    assert not (tmp_path / "sheet").exists()


@pytest.mark.slow
def test_texts_of_a_table_are_ranked(texts_run, tmp_path):
    data = datasets.load_dataset("builtin:scipy")
    texts = sorted({" ".join(data.read(i).decode().split()) for i in range(40)})
    with open(tmp_path / "texts.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["text"], *[[text] for text in texts]])
    found = kt.label(texts_run, tmp_path / "texts.csv", count=5, output=tmp_path / "sheet")
    assert {row["text"] for row in found.rows} <= set(texts)
    assert len(found.rows) == 5
    assert kt.label(texts_run, texts, count=5, output=tmp_path / "other").rows == found.rows
    with pytest.raises(DataError, match="no labelled texts"):
        datasets.open_source(str(found.path))


def test_labels_that_are_wrong_are_found_by_inspect(digits_folder, tmp_path, capsys):
    shutil.copytree(digits_folder, tmp_path / "data")
    wrong = set()
    for i in range(6):
        here, there = f"digit-{i % 5}", f"digit-{(i + 2) % 5}"
        name = f"wrong-{i}.png"
        path = tmp_path / "data" / here / f"{10 + i:03d}.png"
        path.rename(tmp_path / "data" / there / name)
        wrong.add(f"{there}/{name}")
    assert cli.main(["inspect", str(tmp_path / "data"), "--json"]) == 0
    assert "suspect_label" not in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "data"), "--labels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    suspects = [one for one in found if one["kind"] == "suspect_label"]
    assert len(wrong & {one["path"] for one in suspects}) >= 4
    assert len(suspects) <= 25  # of 180
    margins = [[int(x) for x in re.findall(r"(\d+)%", one["reason"])] for one in suspects]
    gaps = [sure - given for sure, given in margins]
    assert all(first >= second - 1 for first, second in itertools.pairwise(gaps))  # rounded
    assert all("looks like" in one["reason"] for one in suspects)


def suspects_of(data, page, capsys):
    """The examples whose labels ``inspect --labels`` doubts, by name, once its page is written."""
    assert cli.main(["inspect", str(data), "--labels", "--page", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    return [one["path"] for one in found if one["kind"] == "suspect_label"]


@pytest.mark.slow
def test_wrong_labels_of_texts_are_found_by_inspect(texts_table, tmp_path, capsys):
    rows = [json.loads(line) for line in texts_table.read_text().splitlines()]
    names, wrong = sorted({row["label"] for row in rows}), set()
    for number in (5, 29, 53, 66):
        row = rows[number]
        row["label"] = names[(names.index(row["label"]) + 1) % 3]
        wrong.add(f"row-{number + 1:06d}")
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = suspects_of(tmp_path / "texts.jsonl", tmp_path / "page.html", capsys)
    assert len(wrong & set(found)) >= 3
    assert len(found) <= 12  # of 72
    page = (tmp_path / "page.html").read_text()
    assert all(name in page for name in found)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Class folders of three spoken digits, 20 recordings of each; and the others of these."""
    pytest.importorskip("soundfile")
    data, folder = datasets.load_dataset("builtin:spoken"), tmp_path_factory.mktemp("spoken")
    for label in range(3):
        for number, i in enumerate(np.flatnonzero(data.labels == label)):
            place = folder / (f"data/digit-{label}" if number < 20 else "new")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{label}-{number:02d}.flac").write_bytes(data.read(int(i)))
    return folder


def test_wrong_labels_of_sounds_are_found_by_inspect(spoken, tmp_path, capsys):
    shutil.copytree(spoken / "data", tmp_path / "data")
    wrong = set()
    for label in range(3):
        there = f"digit-{(label + 1) % 3}"
        for number in (3, 17):
            path = tmp_path / "data" / f"digit-{label}" / f"{label}-{number:02d}.flac"
            path.rename(tmp_path / "data" / there / path.name)
            wrong.add(f"{there}/{path.name}")
    found = suspects_of(tmp_path / "data", tmp_path / "page.html", capsys)
    assert len(wrong & set(found)) >= 5
    assert len(found) <= 12  # of 60
    assert "<audio" in (tmp_path / "page.html").read_text()


def test_sounds_are_ranked_heard_and_read_back(spoken, tmp_path):
    run = tmp_path / "run"
    kt.train(str(spoken / "data"), output=run, effort="quick")
    found = kt.label(run, spoken / "new", count=6, output=tmp_path / "sheet")
    assert len(found.rows) == 6
    assert {row["guess"] for row in found.rows} <= {"digit-0", "digit-1", "digit-2"}
    assert (tmp_path / "sheet" / "sheet.html").read_text().count("<audio") == 6
    rows = [row | {"label": f"digit-{row['path'].split('/')[-1][0]}"} for row in found.rows]
    with open(found.path, "w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    dataset, fresh, _ = _merged(runs.open_run(run), str(found.path))
    assert [dataset.class_names[dataset.labels[i]] for i in fresh] == [
        f"digit-{dataset.paths[i].split('/')[-1][0]}" for i in fresh
    ]
    assert len(fresh) > 0


def test_what_is_asked_of_labels_from_python_is_told_where_that_is_wanted(digits_folder, capsys):
    kt.inspect_labels(str(digits_folder))
    assert "Wrong labels" not in capsys.readouterr().err
    kt.inspect_labels(str(digits_folder), progress=True)
    assert "Wrong labels: frozen features of" in capsys.readouterr().err
