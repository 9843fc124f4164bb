"""A run trained again with next week's examples."""

import html
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits

import keras_transfer as kt
from keras_transfer import cli, datasets, updating
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.frozen import engine
from keras_transfer.runs import folder as runs
from keras_transfer.runs import report, summary


def write(folder, label, images):
    (folder / label).mkdir(parents=True, exist_ok=True)
    for number, levels in images:
        pixels = (levels / 16 * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / label / f"{number:03d}.png")


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Twelve more pictures of two digits, and eleven of a digit that is new: over 200 in all, from
    which on Keras would run the frozen part as a graph, by whose rounding rows have another key."""
    digits, folder = load_digits(), tmp_path_factory.mktemp("more") / "more"
    for digit, some in ((0, slice(36, 48)), (1, slice(36, 48)), (7, slice(11))):
        rows = np.flatnonzero(digits.target == digit)[some]
        write(folder, f"digit-{digit}", enumerate(digits.images[rows]))
    return folder


@pytest.fixture(scope="module")
def copy(digits_run, digits_folder, tmp_path_factory):
    """The digits' run and its data, where they may be changed."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(digits_folder, folder / "digits")
    shutil.copytree(digits_run, folder / "run")
    config = json.loads((folder / "run" / "config.json").read_text())
    config |= {"data": str(folder / "digits"), "data_path": str(folder / "digits")}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    return folder


def bytes_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def updated(copy, more):
    """The update, and whether anything of the old run was touched."""
    before, pages, write = bytes_of(copy / "run"), [], report.write_report
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(report, "write_report", lambda run: pages.append(run) or write(run))
        found = kt.update(copy / "run", more, output=copy / "updated")
    assert len(pages) == 1  # with the comparison
    return found, before == bytes_of(copy / "run")


def test_old_examples_stay_in_their_splits_and_new_ones_are_split(updated, copy, more):
    found, untouched = updated
    assert untouched
    old = datasets.read_splits(copy / "run" / "splits.csv")
    new = datasets.read_splits(found.run.path / "splits.csv")
    assert {path: new[path] for path in old} == old
    fresh = {path: row for path, row in new.items() if path not in old}
    files = {f"+1/{path.relative_to(more).as_posix()}" for path in more.rglob("*.png")}
    assert fresh.keys() <= files
    assert found.added == len(fresh) == len(files) - found.left_out > 15
    for label in ("digit-0", "digit-1", "digit-7"):
        own = [split for name, split in fresh.values() if name == label]
        assert {"train", "val", "test"} == set(own)
        assert own.count("train") >= len(own) / 2


def test_new_examples_may_come_from_several_places(copy, more, tmp_path):
    for place, labels in (("a", ("digit-0", "digit-1")), ("b", ("digit-7",))):
        for label in labels:
            shutil.copytree(more / label, tmp_path / place / label)
    both = f"{tmp_path / 'a'} + {tmp_path / 'b'}"
    run = runs.open_run(copy / "run")
    dataset, fresh, left_out = updating._merged(run, both)
    whole, as_fresh, as_left_out = updating._merged(run, str(more))
    assert left_out == as_left_out
    assert {dataset.digests[i] for i in fresh} == {whole.digests[i] for i in as_fresh}
    assert {dataset.paths[i].split("/")[0] for i in fresh} == {"+1", "+2"}
    begun = {"update_of": str(run.path), "data": f"{run.data} + {both}"}
    assert f"update {run.path} '{both}' --output" in runs._command(tmp_path / "new", begun)


def test_both_models_are_compared_on_the_old_test_split(updated, copy):
    found, _ = updated
    old, new = (runs.open_run(copy / name) for name in ("run", "updated"))
    right = {}
    for run in (old, new):
        rows = {row["path"]: row["predicted"] == row["label"] for row in run.predictions}
        right[run.path.name] = np.array([rows[row["path"]] for row in old.predictions])
    pair = found.old_test
    assert pair.images == len(old.predictions)
    assert pair.difference == pytest.approx(right["updated"].mean() - right["run"].mean())
    assert pair.only_first == (right["run"] & ~right["updated"]).sum()
    ((name, tested, recall, ends),) = [tuple(row.values()) for row in found.new_classes]
    rows = [row for row in new.predictions if row["label"] == "digit-7"]
    assert (name, tested) == ("digit-7", len(rows))
    assert recall == np.mean([row["predicted"] == "digit-7" for row in rows])
    right = stats.binomtest(round(recall * tested), tested)
    assert ends == pytest.approx(right.proportion_ci(method="wilson"), abs=1e-9)
    said = found.render().splitlines()
    cache = new.metrics["cache"]
    assert f"{cache['hits']} of {cache['hits'] + cache['misses']} rows came from" in said[0]
    assert said[1] == summary.verdict(new.metrics, "image")[0]
    ends = " to ".join(f"{100 * end:.0f}" for end in ends)
    told = f"{round(recall * tested)} of {tested} test examples found (95 %: {ends} %)."
    assert f"New class digit-7: {told}" in said
    assert said[-1] == f"Report: {new.path / 'report.html'}"
    page = (new.path / "report.html").read_text()
    before = html.unescape(page[page.index('<h2 id="update">') : page.index('<h2 id="training">')])
    assert '<a href="#update">' in page
    for piece in (pair.verdict, found.new_test.verdict, str(old.path), f" found (95 %: {ends} %)."):
        assert piece in before
    assert found.new_test.images + tested + pair.images == len(new.predictions)
    assert new.metrics["update"]["of"] == str(old.path)
    again = kt.compare([old, new]).pairs[0]
    assert (again.images, again.only_first) == (pair.images, pair.only_first)
    assert again.verdict == pair.verdict.replace("the old model", "run").replace(
        "the new model", "updated"
    )
    assert new.config["fine_tune_lr"] == old.config["fine_tune_lr"]


def test_an_updated_run_is_a_run_like_any_other(updated, more, tmp_path, capsys):
    found, _ = updated
    assert len(found.run.dataset) == sum(found.run.metrics["images"].values())
    assert cli.main(["evaluate", str(found.run.path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["accuracy"] == pytest.approx(found.run.metrics["test"]["accuracy"])
    count = len(list(more.rglob("*.png")))
    with pytest.raises(DataError, match=f": {count} of {count} are copies of what") as raised:
        kt.update(found.run, more, output=tmp_path / "again")
    assert "inspect" not in raised.value.remedy  # nothing is wrong with them


def test_frozen_work_on_old_examples_is_not_done_again(updated, copy):
    found, _ = updated
    assert_reused(found, runs.open_run(copy / "run"))


def test_updates_of_updates_reuse_it_too(updated, copy, few, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "worth_converting", lambda images, each: images >= 200)
    digits = load_digits()
    for digit in (3, 4):
        rows = np.flatnonzero(digits.target == digit)[36:42]
        write(few, f"digit-{digit}", enumerate(digits.images[rows]))
    found, old = kt.update(updated[0].run, few, output=tmp_path / "new"), updated[0].run
    assert found.run.config["of_first_run"] == len(runs.open_run(copy / "run").dataset)
    had, cache = old.metrics["images"], found.run.metrics["cache"]
    assert cache["hits"] == had["train"] + had["val"]


def assert_reused(found, old):
    """All rows of examples to learn from and to choose by that an old run had come from the store,
    though another engine would be chosen for so many."""
    cache, images = found.run.metrics["cache"], found.run.metrics["images"]
    had = old.metrics["images"]
    assert sum(had.values()) < 200 <= sum(images.values())
    assert cache["hits"] == had["train"] + had["val"]
    assert cache["hits"] + cache["misses"] == images["train"] + images["val"]


def test_new_classes_are_named_and_slips_are_asked_about(copy, few, capsys, monkeypatch):
    digits = load_digits()
    names = {"zebra": slice(6), "zerba": slice(6, 7), "digit-8": slice(7, 10), "Digit 2": slice(8)}
    for number, (label, some) in enumerate(names.items(), start=5):
        write(few, label, enumerate(digits.images[np.flatnonzero(digits.target == number)[some]]))
    with open(few.with_suffix(".csv"), "w") as stream:
        stream.write("path,label\n")
        stream.writelines(f"{p},{p.parent.name}\n" for p in sorted(few.rglob("*.png")))
        stream.writelines(f"{few}/{i}.png,\n" for i in range(4))
    monkeypatch.setattr(updating, "train", interrupt)
    words = ["update", str(copy / "run"), str(few.with_suffix(".csv"))]
    assert cli.main([*words, "--output", str(few.with_name("new"))]) == 130
    said = capsys.readouterr().err
    assert "New classes: Digit 2 (8), digit-8 (3), zebra (6), zerba (1)." in said
    assert "Digit 2: Did you mean digit-2?" in said
    assert "zerba: Did you mean zebra?" in said
    assert said.count("Did you mean") == 2
    data = datasets.load_dataset(few.with_suffix(".csv"), for_training=False)
    assert "; 4 rows without a label." in datasets.notes(data)[0]
    assert "inspect" not in datasets.notes(data)[0]


@pytest.fixture
def few(tmp_path):
    """A folder to fill with pictures."""
    return tmp_path / "few"


def test_a_near_copy_of_an_old_test_example_is_kept_out(copy, few):
    from keras_transfer.updating import _merged

    run = runs.open_run(copy / "run")
    tested = next(row for row in run.predictions)
    picture = Image.open(copy / "digits" / tested["path"])
    levels = np.asarray(picture).astype(int)
    near = np.clip(levels + (levels < 250), 0, 255).astype(np.uint8)
    digits = load_digits()
    for label in ("digit-8", "digit-9"):
        rows = np.flatnonzero(digits.target == int(label[-1]))[:6]
        write(few, label, enumerate(digits.images[rows]))
    Image.fromarray(near).save(few / "digit-8" / "leak.png")
    dataset, fresh, left_out = _merged(run, str(few))
    assert left_out == 1
    assert "+1/digit-8/leak.png" not in dataset.paths
    (finding,) = [one for one in dataset.findings if one.kind == "leak"]
    assert finding.path == "+1/digit-8/leak.png"
    assert finding.other == tested["path"]
    assert len(fresh) == 12


def test_what_cannot_be_merged_is_refused_before_any_work(copy, few, tmp_path):
    run = copy / "run"
    shutil.copytree(copy / "digits" / "digit-0", few / "digit-0")
    for label, said in (("digit-0", "holds nothing new"), ("digit-1", "labelled")):
        (few / "digit-0").rename(few / "moving")
        (few / "moving").rename(few / label)
        with pytest.raises(DataError, match=said):
            kt.update(run, few, output=tmp_path / "new")
        (few / label).rename(few / "digit-0")
    (tmp_path / "texts.csv").write_text("text,label\nsome words,a\nother words,b\n")
    with pytest.raises(DataError, match=r"holds images, and .* texts"):
        kt.update(run, tmp_path / "texts.csv", output=tmp_path / "new")
    with pytest.raises(UsageError, match="is the run itself"):
        kt.update(run, few, output=run, overwrite=True)
    assert not (tmp_path / "new").exists()


def test_a_run_whose_data_has_changed_or_gone_is_refused(copy, more, tmp_path):
    shutil.copytree(copy / "run", tmp_path / "run")
    shutil.copytree(copy / "digits", tmp_path / "digits")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config |= {"data": str(tmp_path / "digits"), "data_path": str(tmp_path / "digits")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    path = tmp_path / "digits" / "digit-0" / "000.png"
    Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    with pytest.raises(DataError, match="has changed since"):
        kt.update(tmp_path / "run", more, output=tmp_path / "new")
    shutil.rmtree(tmp_path / "digits" / "digit-0")
    with pytest.raises(DataError, match=r"36 examples .* cannot be used"):
        kt.update(tmp_path / "run", more, output=tmp_path / "new")
    shutil.rmtree(tmp_path / "digits")
    assert cli.main(["update", str(tmp_path / "run"), str(more)]) == 2
    assert not (tmp_path / "run-updated").exists()


def test_data_is_joined_by_name_in_every_command(copy, more):
    found = datasets.inspect(f"{copy / 'digits'} + {more}")
    assert len(found.dataset.class_names) == 6
    assert found.source.locate is None
    row = found.dataset.paths.index("+1/digit-7/003.png")
    assert found.dataset.read(row) == (more / "digit-7" / "003.png").read_bytes()


@pytest.mark.slow
def test_texts_are_updated_as_pictures_are(texts_run, texts_table, tmp_path):
    rows = [json.loads(line) for line in texts_table.read_text().splitlines()]
    known = {row["text"] for row in rows}
    data = datasets.load_dataset("builtin:scipy")
    texts = [(data.read(i).decode(), data.class_names[data.labels[i]]) for i in range(len(data))]
    others = [(text, label) for text, label in texts if text not in known]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    new = next(label for _, label in others if label not in labels)
    chosen = [one for one in others if one[1] == labels[0]][:6]
    chosen += [one for one in others if one[1] == new][:12]
    # A new text of a page that was there goes where the page went.
    lines = [{"text": t, "label": own, "page": f"new {i}"} for i, (t, own) in enumerate(chosen)]
    lines[0]["page"] = rows[0]["page"]
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(map(json.dumps, lines)))
    found = kt.update(texts_run, more, output=tmp_path / "updated")
    placed = datasets.read_splits(found.run.path / "splits.csv")
    old = datasets.read_splits(texts_run / "splits.csv")
    assert {path: placed[path] for path in old} == old
    assert placed["+1/row-000001"][1] == old["row-000001"][1]
    assert (found.added, [row["name"] for row in found.new_classes]) == (18, [new])
    assert found.old_test.images == len(runs.open_run(texts_run).predictions)


@pytest.mark.slow
def test_sounds_are_updated_as_pictures_are(tmp_path):
    import soundfile

    kt.train("builtin:spoken", output=tmp_path / "spoken", effort="quick", unfreeze="none", views=1)
    random = np.random.default_rng(0)
    (tmp_path / "more" / "noise").mkdir(parents=True)
    for i in range(12):
        samples = random.normal(0, 0.1 + 0.01 * i, 8000 + 300 * i)
        soundfile.write(tmp_path / "more" / "noise" / f"{i}.wav", samples, 16_000)
    found = kt.update(tmp_path / "spoken", tmp_path / "more", output=tmp_path / "new")
    assert (found.added, found.new_classes[0]["name"]) == (12, "noise")
    assert found.new_classes[0]["recall"] == 1
    assert found.run.config["data"] == f"builtin:spoken + {tmp_path / 'more'}"
    assert len(found.run.dataset) == 312


def interrupt(*anything, **more):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["learn.second_phase.choose", "updating._judged"])
def test_an_update_that_was_killed_goes_on_to_the_same_digits(
    updated, copy, more, tmp_path, monkeypatch, capsys, where
):
    command = ["update", str(copy / "run"), str(more), "--output", str(tmp_path / "new")]
    with monkeypatch.context() as patched:
        patched.setattr(f"keras_transfer.{where}", interrupt)
        assert cli.main(command) == 130
    *_, said = capsys.readouterr().err.splitlines()
    assert said.split() == ["keras-transfer", *command, "--resume"]
    train = ["train", str(copy / "digits"), "--output", str(tmp_path / "new"), "--resume"]
    assert cli.main(train) == 2
    of = str((copy / "run").resolve())
    assert " ".join(["keras-transfer update", of, *command[2:]]) in capsys.readouterr().err
    assert cli.main([*command, "--resume", "--quiet"]) == 0
    whole, gone_on = (
        kt.open_run(path).metrics["update"] for path in (updated[0].run.path, tmp_path / "new")
    )
    assert gone_on | {"run": ""} == whole | {"run": ""}
    new = kt.open_run(tmp_path / "new")
    assert (new.test_probabilities == updated[0].run.test_probabilities).all()


def test_a_folder_that_is_taken_is_refused_before_keras_is_loaded(updated, copy, more):
    output = str(updated[0].run.path)
    words = ["update", str(copy / "run"), str(more), "--output", output]
    asked = (
        "import sys; from keras_transfer import cli; code = cli.main({}); print({}); sys.exit(code)"
    )
    script = asked.format(words, "'keras' in sys.modules, 'tensorflow' in sys.modules")
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "False False\n")
    assert "already holds a run" in done.stderr
    assert "--overwrite" in done.stderr
    assert "--resume" not in done.stderr  # it has finished
    with pytest.raises(UsageError, match="nothing to resume"):
        kt.update(copy / "run", more, output=output, resume=True)
