"""A run whose files were edited, cut or forged: refused with file and field, or the same answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from keras_transfer import datasets
from keras_transfer.base import files
from keras_transfer.base.errors import KerasTransferError, UsageError
from keras_transfer.runs import folder as runs

from . import edits
from .edits import DAMAGE, FOLDER, drop, flip, lines, put, swap
from .table import assert_refused, say

REVERSED = lambda names: names[::-1]  # noqa: E731
CONFIG = {
    "its data is a number": (put("data", 5), "$.data"),
    "its data holds a NUL": (put("data", "digits\0"), "$.data"),
    "its data is gone": (drop("data"), "`data`"),
    "its classes are a word": (put("class_names", "digits"), "$.class_names"),
    "its classes are numbers": (put("class_names", [1, 2]), "$.class_names[0]"),
    "its classes stand in another order": (put("class_names", REVERSED), "class_names"),
    "a class is renamed": (put("class_names", 0, "zero"), "class_names"),
    "a class is gone": (drop("class_names", 4), "class_names"),
    "a class is there twice": (put("class_names", 1, "digit-0"), "class_names"),
    "it has no classes": (put("class_names", []), "class_names"),
    "its backbone is null": (put("backbone", None), "$.backbone"),
    "its backbone is a list": (put("backbone", []), "backbone"),
    "its backbone is gone": (drop("backbone"), "`backbone`"),
    "its image size is a word": (put("image_size", "big"), "image_size"),
    "its image size is a fraction": (put("image_size", 64.5), "image_size"),
    "its image size is negative": (put("image_size", -64), "image_size"),
    "its image size is absurd": (put("image_size", 10**30), "image_size"),
    "its image size is null": (put("image_size", None), "$.image_size"),
    "its image size is true": (put("image_size", True), "image_size"),
    "its weights are null": (put("weights", None), "$.weights"),
    "its temperature is a word": (put("temperature", "warm"), "$.temperature"),
    "its temperature is null": (put("temperature", None), "$.temperature"),
    "its temperature is negative": (put("temperature", -1.0), "$.temperature"),
    "its temperature is another": (put("temperature", 2.0), "temperature"),
    "its temperature is gone": (drop("temperature"), "`temperature`"),
    "its seed is negative": (put("seed", -1), "seed"),
    "its seed is a fraction": (put("seed", 0.5), "seed"),
    "its seed is true": (put("seed", True), "seed"),
    "its seed has 401 digits": (put("seed", 10**400), "seed must be"),
    "its views are absurd": (put("views", 10**9), "views"),
    "its split adds up to 3": (put("split", [1, 1, 1]), "split"),
    "its split is a number": (put("split", 1), "split"),
    "its fold is beyond its parts": (put("fold", [3, 2]), "fold"),
    "its effort is unknown": (put("effort", "most"), "effort"),
    "its depth is a list": (put("unfreeze", []), "unfreeze"),
    "its rate is zero": (put("fine_tune_lr", 0), "fine_tune_lr"),
    "its precision wanted is 2": (put("target_precision", 2), "target_precision"),
    "what was asked is a word": (put("asked", "seed"), "$.asked"),
    "what was asked is unknown": (put("asked", ["sead"]), "'sead'"),
    "what was asked is no setting": (put("asked", ["data"]), "'data'"),
    "its author is a number": (put("author", 7), "$.author"),
}
METRICS = {
    "it has no test": (drop("test"), "`test`"),
    "its test is null": (put("test", None), "$.test"),
    "its test is a list": (put("test", []), "$.test"),
    "its accuracy is gone": (drop("test", "accuracy"), "`accuracy`"),
    "its accuracy is a word": (put("test", "accuracy", "high"), "$.test.accuracy"),
    "its accuracy is above 1": (put("test", "accuracy", 1.5), "$.test.accuracy"),
    "its accuracy is negative": (put("test", "accuracy", -0.5), "$.test.accuracy"),
    "its accuracy is null": (put("test", "accuracy", None), "$.test.accuracy"),
    "its accuracy is a better one": (put("test", "accuracy", 0.99), "changed"),
    "its images are negative": (put("test", "images", -1), "$.test.images"),
    "its images are a fraction": (put("test", "images", 3.5), "$.test.images"),
    "its images are one more": (put("test", "images", 36), "changed"),
    "its NLL is absurd": (put("test", "nll", 1e300), "$.test.nll"),
    "its NLL is a lower one": (put("test", "nll", 1e-3), "changed"),
    "an interval has three ends": (put("test", "intervals", "accuracy", [0, 0, 1]), "intervals"),
    "an interval is a word": (put("test", "intervals", "nll", "wide"), "intervals"),
    "a class's recall is a word": (
        put("test", "per_class", 1, "recall", "x"), "$.test.per_class[1].recall",
    ),
    "a class's images are gone": (drop("test", "per_class", 2, "support"), "per_class[2]"),
    "a class is renamed": (put("test", "per_class", 0, "name", "zero"), "changed"),
    "the classes are a table": (put("test", "per_class", {}), "$.test.per_class"),
    "a confusion is counted by halves": (put("test", "confusion", 0, "count", 0.5), "[0].count"),
    "a confusion is counted otherwise": (put("test", "confusion", 0, "count", 99), "changed"),
    "its seconds are negative": (put("seconds", "total", -5), "$.seconds"),
    "its seconds are a list": (put("seconds", []), "$.seconds"),
    "its cache has many hits": (put("cache", "hits", "many"), "$.cache"),
    "its phases are a table": (put("phases", {}), "$.phases"),
    "a phase has no name": (drop("phases", 0, "name"), "$.phases[0]"),
    "its threshold is null": (put("threshold", None), "$.threshold"),
    "its threshold is a word": (put("threshold", "threshold", "high"), "$.threshold"),
    "its temperature is another": (put("temperature", 2.0), "changed"),
    "its environment is gone": (drop("environment"), "`environment`"),
    "its digests are numbers": (put("files", "splits.csv", 5), "$.files"),
    "its own digest is another": (put("sha256", "0" * 64), "changed"),
    "its own digest is a number": (put("sha256", 0), "changed"),
    "another field was added": (put("promoted", True), "changed"),
}  # fmt: skip
TABLE = {
    "lacks its last row": lines(lambda rows: rows[:-1]),
    "holds a row twice": lines(lambda rows: [*rows, rows[-1]]),
    "holds its rows in another order": lines(lambda rows: [rows[0], *rows[:0:-1]]),
    "gives another answer": swap("digit-0,digit-0,", "digit-0,digit-1,"),
    "has another bit": flip(0.5),
    "is empty": b"",
    "is cut in the middle": lambda data: data[: len(data) // 2],
    "holds a NUL": lambda data: data + b"\0",
    "is not UTF-8": lambda data: data + b"\xff,,,,\n",
    "has another header": swap("path", "place"),
    "is saved by a spreadsheet": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"),
}


def sure(new: str) -> edits.Edit:
    """Puts something else in place of the first probability, whose digits are the processor's."""
    return lambda data: re.sub(rb"[01]\.\d{6}", new.encode(), data, count=1)


UNSEALED = {
    "a probability is a word": (sure("sure"), "line 2", "$.probability"),
    "a probability is above 1": (sure("1.5"), "line 2", "$.probability"),
    "a probability is no number": (sure("nan"), "line 2", "$.probability"),
    "a probability is infinite": (sure("inf"), "line 2", "$.probability"),
    "a probability is missing": (sure(""), "line 2", "`probability`"),
    "a label is missing": (swap(",digit-0,digit-0", ",,digit-0"), "line 2", "`label`"),
    "a path holds a NUL": (swap("digit-0/", "digit-0\0/"), "line 2", "$.path"),
    "a row is short": (swap(",digit-0,digit-0", ",digit-0"), "predictions.csv"),
    "a row is long": (sure("1,000000"), "predictions.csv"),
    "a column is missing": (swap("probability", "sureness"), "column probability"),
    "a column is there twice": (swap("label", "path"), "predictions.csv", "label"),
    "it is empty": (b"", "predictions.csv", "column"),
    "it is not UTF-8": (lambda data: data + b"\xff\n", "predictions.csv"),
    "a quote is not closed": (lambda data: data + b'"', "predictions.csv"),
    "a cell has 200,000 letters": (lambda data: data + b"x" * 200_000, "predictions.csv"),
}
SAME = {
    "nothing": ("report.html", lambda data: data),
    "metrics.json is written otherwise": ("metrics.json", edits.pretty),
    "config.json is written otherwise": ("config.json", edits.pretty),
    "config.json has another seed": ("config.json", put("seed", 7)),
    "config.json says where the data is now": ("config.json", put("data_path", "/elsewhere")),
    "config.json has a field of a later version": ("config.json", put("later", {"a": [1]})),
    "config.json lacks a setting": ("config.json", drop("clip_norm")),
    "config.json sets what is on by default": ("config.json", put("batch_size", "auto")),
    "metrics.json is of a version without digests": (
        "metrics.json", lambda data: drop("files")(drop("sha256")(data)),
    ),
    "report.html is damaged": ("report.html", b"\0"),
    "history.csv is damaged": ("history.csv", b"\0"),
}  # fmt: skip


@pytest.fixture
def copy(digits_run: Path, tmp_path: Path) -> Path:
    return edits.twin(digits_run, tmp_path / "copy")


@pytest.mark.parametrize("file", ["config.json", "metrics.json"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_file_that_is_damaged(copy, digits_run, file, how):
    edits.change(copy / file, DAMAGE[how])
    # Without a table that says so, nobody can tell that it is a run of ours.
    other = how in ("is a list", "is a number", "is null") and file == "config.json"
    assert_refused(say("compare", digits_run, copy), str(copy) if other else str(copy / file))


@pytest.mark.parametrize("how", CONFIG)
def test_settings_that_cannot_be(copy, digits_run, how):
    edit, *needles = CONFIG[how]
    edits.change(copy / "config.json", edit)
    assert_refused(say("compare", copy, digits_run), "config.json", *needles)


@pytest.mark.parametrize("how", METRICS)
def test_figures_that_are_not_the_runs(copy, digits_run, how):
    edit, *needles = METRICS[how]
    edits.change(copy / "metrics.json", edit)
    assert_refused(say("compare", copy, digits_run), "metrics.json", *needles)


@pytest.mark.parametrize("how", TABLE)
def test_predictions_that_are_not_the_runs(copy, digits_run, how):
    edits.change(copy / "predictions.csv", TABLE[how])
    assert_refused(say("compare", digits_run, copy), "predictions.csv", "changed")


@pytest.mark.parametrize("how", UNSEALED)
def test_predictions_of_a_version_without_digests(copy, digits_run, how):
    edit, *needles = UNSEALED[how]
    edits.change(copy / "metrics.json", lambda data: drop("files")(drop("sha256")(data)))
    edits.change(copy / "predictions.csv", edit)
    assert_refused(say("compare", copy, digits_run), "predictions.csv", *needles)


@pytest.mark.parametrize("how", SAME)
def test_what_changes_no_answer(copy, digits_run, how):
    file, edit = SAME[how]
    edits.change(copy / file, edit)
    said = say("compare", copy, digits_run, "--json")
    assert said.code == 0, said
    found = json.loads(said.out)
    assert found["accuracy"]["copy"] == found["accuracy"][digits_run.name]
    assert found["pairs"][0]["only_first"] == found["pairs"][0]["only_second"] == 0


COMMANDS = {
    "evaluate": lambda run: ("evaluate", run),
    "report": lambda run: ("report", run),
    "curve": lambda run: ("curve", run),
    "export": lambda run: ("export", run, "--output", run.parent / "export"),
    "predict": lambda run: ("predict", run, "picture.png"),
    "update": lambda run: ("update", run, "more"),
    "label": lambda run: ("label", run, "more"),
    "predict the model": lambda run: ("predict", run / "model.keras", "picture.png"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("file", ["config.json", "metrics.json"])
def test_every_command_refuses(copy, command, file):
    edits.change(copy / file, swap("{", ""))
    before = sorted(copy.parent.rglob("*"))
    assert_refused(say(*COMMANDS[command](copy)), str(copy / file))
    assert sorted(copy.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("evaluate", "splits.csv"), ("evaluate", "model.keras"), ("curve", "splits.csv"),
        ("export", "model.keras"), ("predict", "model.keras"),
        ("predict the model", "model.keras"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["has another bit", "is empty", "is a folder"])
def test_what_the_run_left_is_its_own(copy, command, file, how):
    edits.change(copy / file, {"has another bit": flip(0.5), "is empty": b""}.get(how, FOLDER))
    assert_refused(say(*COMMANDS[command](copy)), file)


@pytest.mark.parametrize("file", ["history.csv", "predictions.csv"])
def test_the_page_says_what_is_missing_of_it(copy, file):
    edits.change(copy / file, flip(0.5))
    for picture in (copy / "plots").rglob("*.*"):
        picture.unlink()
    edits.change(copy / "report.html", b"")
    assert say("report", copy).code == 0
    text = (copy / "report.html").read_text()
    assert f"{copy / file}: it was changed after" in text


# What others take of a run ----------------------------------------------------------------------

CONFIGS = {
    "a word for a number": ("a.toml", b'seed = "many"', "seed must be"),
    "a number for a word": ("a.toml", b"effort = 3", "effort must be"),
    "no number": ("a.toml", b"ema = nan", "ema must be"),
    "infinitely many images": ("a.toml", b"per_class = inf", "per_class must be"),
    "a number of 401 digits": ("a.toml", b"seed = 1" + b"0" * 400, "seed must be"),
    "a date": ("a.toml", b"seed = 2026-11-29", "seed must be"),
    "a list": ("a.toml", b"fine_tune_lr = [1e-3]", "fine_tune_lr must be"),
    "a table": ("a.toml", b"[seed]\nlow = 1", "seed must be"),
    "true": ("a.toml", b"views = true", "views must be"),
    "a depth with a blank": ("a.toml", b'unfreeze = "35 %"', "unfreeze must be"),
    "a path with a NUL": ("a.toml", b'splits = "a\\u0000b"', "splits must be"),
    "a cache of a million digits": (
        "a.toml", b'cache_limit = "' + b"9" * 999 + b'"', "cache_limit must be",
    ),
    "an unknown setting": ("a.toml", b"sead = 3", "'sead'", "seed"),
    "a setting twice": ("a.toml", b"seed = 1\nseed = 2", "a.toml"),
    "no TOML": ("a.toml", b"seed: 1", "a.toml"),
    "no UTF-8": ("a.toml", b'effort = "\xff"', "a.toml"),
    "a NUL": ("a.toml", b"seed = 1\0", "a.toml"),
    "nested beyond reason": ("a.toml", b"a = " + b"[" * 100_000, "a.toml"),
    "a folder": ("a.toml", FOLDER, "a.toml", "Is a directory"),
    "JSON cut short": ("a.json", b'{"seed": 1', "a.json"),
    "a JSON list": ("a.json", b"[1]", "a.json"),
    "JSON that says it twice": ("a.json", b'{"seed": 1, "seed": 2}', "a.json", "'seed'"),
    "JSON with NaN": ("a.json", b'{"ema": NaN}', "a.json"),
    "JSON nested beyond reason": ("a.json", b'{"seed": ' + b"[" * 100_000, "a.json"),
    "a run's, whose word is wrong": ("a.json", b'{"keras_transfer": "0", "asked": 1}', "$.asked"),
}  # fmt: skip


@pytest.mark.parametrize("how", CONFIGS)
def test_settings_of_a_file(digits_folder, tmp_path, how):
    name, content, *needles = CONFIGS[how]
    edits.change(tmp_path / name, content)
    said = say("train", digits_folder, "--config", tmp_path / name, "--output", tmp_path / "run")
    assert_refused(said, name, *needles)
    assert [path.name for path in tmp_path.iterdir()] == [name]


SPLITS = {
    "a split is unknown": (swap("train", "dev"), "row 2", "'dev'"),
    "a split is missing": (swap("train", ""), "row 2", "''"),
    "an image stands in two splits": (
        lines(lambda rows: [*rows, rows[1].replace(b"train", b"test")]), "000.png", "before",
    ),
    "an image is not in the data": (swap("digit-0/000.png", "digit-0/900.png"), "900.png"),
    "a label is another": (swap("000.png,digit-0", "000.png,digit-1"), "digit-1"),
    "a label is missing": (swap("000.png,digit-0", "000.png,"), "''"),
    "a row is short": (swap(",digit-0,train", ",digit-0"), "splits.csv"),
    "a row is long": (swap(",digit-0,train", ",digit-0,train,test"), "row 2"),
    "a column is missing": (swap("split", "part"), "column 'split'"),
    "it is empty": (b"", "column"),
    "it is not UTF-8": (lambda data: data + b"\xff", "splits.csv"),
    "a path holds a NUL": (swap("digit-0/", "digit-0\0/"), "lacks"),
    "it is a folder": (FOLDER, "Is a directory"),
}  # fmt: skip


@pytest.mark.parametrize("how", SPLITS)
def test_splits_of_a_file(digits_run, digits_folder, tmp_path, how):
    edit, *needles = SPLITS[how]
    file = tmp_path / "splits.csv"
    file.write_bytes((digits_run / "splits.csv").read_bytes())
    edits.change(file, edit)
    with pytest.raises(UsageError) as refused:
        datasets.load_dataset(str(digits_folder), splits=file)
    for needle in ("splits.csv", *needles):
        assert needle in refused.value.message


@pytest.mark.parametrize(
    ("edit", "needle"),
    [
        (put("backbone", "MobileNetV2"), "MobileNetV2"),
        (b"", "config.json"),
        (b"[]", "config.json"),
        (edits.again, "config.json"),
        (FOLDER, "config.json"),
    ],
    ids=["another backbone", "empty", "a list", "a name twice", "a folder"],
)
def test_weights_of_a_run(copy, edit, needle):
    from keras_transfer import backbones
    from keras_transfer.backbones import weights

    edits.change(copy / "config.json", edit)
    with pytest.raises(UsageError) as refused:
        weights.resolve(backbones.spec("EfficientNetLite0"), str(copy))
    assert needle in refused.value.message


RESUMED = {
    "it is cut": (lambda data: data[:20], "config.json"),
    "it is empty": (b"", "config.json"),
    "it is a list": (b"[]", "config.json"),
    "its seed is another": (put("seed", 7), "seed=7"),
    "its seed is gone": (drop("seed"), "seed=None"),
    "its seed is a word": (put("seed", "x"), "seed must be"),
    "a name is there twice": (edits.again, "twice"),
    "it is nested beyond reason": (DAMAGE["is nested beyond reason"], "config.json"),
    "it is a folder": (FOLDER, "config.json"),
}


@pytest.mark.parametrize("how", RESUMED)
def test_a_run_to_go_on_with(tmp_path, how):
    edit, *needles = RESUMED[how]
    config = {"keras_transfer": "0", "data": "digits", "seed": 1, "views": 2}
    with runs.begin(tmp_path / "run", config):
        pass
    edits.change(tmp_path / "run" / runs.NEW / "config.json", edit)
    with (
        pytest.raises(KerasTransferError) as refused,
        runs.begin(tmp_path / "run", config, resume=True),
    ):
        pass
    assert refused.value.exit_code == 2
    for needle in needles:
        assert needle in refused.value.message


@pytest.mark.parametrize("name", ["decision.json", "head.npz", "fine-tune.npz"])
@pytest.mark.parametrize("how", ["is empty", "is cut", "is not what it says", "is a folder"])
def test_a_checkpoint_to_go_on_with(tmp_path, name, how):
    from keras_transfer import training
    from keras_transfer.learn import finetune, head_phase

    read = {
        "decision.json": lambda: training._read_decision(tmp_path),
        "head.npz": lambda: head_phase.read_head(tmp_path / name, None),
        "fine-tune.npz": lambda: finetune._restore(tmp_path / name, None, None),
    }
    if name.endswith("npz"):
        np.savez(tmp_path / name, report=np.zeros(500))
    else:
        files.write_json(tmp_path / name, files.sealed({"recipe": {"seed": 1}, "about": {}}))
    edit = {"is empty": b"", "is cut": lambda data: data[:-30], "is a folder": FOLDER}
    edits.change(tmp_path / name, edit.get(how, b"[]"))
    with pytest.raises(UsageError) as refused:
        read[name]()
    assert name in refused.value.message


def test_a_decision_that_was_edited(tmp_path):
    from keras_transfer import training

    files.write_json(tmp_path / "decision.json", files.sealed({"recipe": {"seed": 1}}))
    assert training._read_decision(tmp_path)["recipe"] == {"seed": 1}
    edits.change(tmp_path / "decision.json", put("recipe", "seed", 2))
    with pytest.raises(UsageError, match=r"decision\.json: it was changed"):
        training._read_decision(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Classifiers that plain Keras made, of three classes."""
    import keras

    def save(name, shape, dtype="uint8", inputs=1):
        taken = [keras.Input(shape, dtype=dtype) for _ in range(inputs)]
        flat = [keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(one)) for one in taken]
        joined = keras.layers.Concatenate()(flat) if inputs > 1 else flat[0]
        given = keras.layers.Dense(3, activation="softmax")(joined)
        keras.Model(taken if inputs > 1 else taken[0], given).save(folder / name)

    folder = tmp_path_factory.mktemp("small")
    save("sound.keras", (8, 8, 3))
    save("floats.keras", (8, 8, 3), "float32")
    save("grey.keras", (8, 8, 1))
    save("flat.keras", (12,))
    save("two.keras", (8, 8, 3), inputs=2)
    return folder


MODELS = {
    "takes floats": ("floats.keras", None, "float32"),
    "takes grey images": ("grey.keras", None, "[None, 8, 8, 1]"),
    "takes no images": ("flat.keras", None, "not images"),
    "takes two images": ("two.keras", None, "two.keras"),
    "has one label too few": ("sound.keras", b"a\nb\n", "2 labels"),
    "has one label too many": ("sound.keras", b"a\nb\nc\nd\n", "4 labels"),
    "has labels that are not UTF-8": ("sound.keras", b"a\nb\n\xff\n", "labels.txt"),
    "has a folder of labels": ("sound.keras", FOLDER, "labels.txt"),
}


@pytest.mark.parametrize("how", MODELS)
def test_a_model_that_is_odd(small, digits_folder, tmp_path, how):
    name, labels, *needles = MODELS[how]
    edits.change(tmp_path / name, (small / name).read_bytes())
    if labels is not None:
        edits.change(tmp_path / "labels.txt", labels)
    picture = digits_folder / "digit-0" / "000.png"
    assert_refused(say("predict", tmp_path / name, picture), str(tmp_path), *needles)


def test_a_sound_model_of_somebody_else_is_taken(small, digits_folder, tmp_path):
    edits.change(tmp_path / "sound.keras", (small / "sound.keras").read_bytes())
    edits.change(tmp_path / "labels.txt", "a\nb\x85\nc\n".encode())
    said = say("predict", tmp_path / "sound.keras", digits_folder / "digit-0" / "000.png", "--json")
    assert said.code == 0, said
    assert {one["label"] for one in json.loads(said.out)[0]["classes"]} == {"a", "b\x85", "c"}
