"""What may be typed, and where what is printed may go: one message and the right status, always.

The lines of settings come from ``recipe.SETTINGS``, so that one that is added is tried as well;
what each may be is written here once more, by hand.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import keras_transfer
from hostile.table import assert_refused, say
from keras_transfer import cli
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import PlainProgress
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.recipe import SETTINGS, Recipe, read
from tuning import results
from tuning.search import _check_folder

NOWHERE = "no-such-folder"
LABELS = ("née", "雪 ☃", "plain")

# The lowest and the highest value of each number, and one beyond each.
WHOLE = {
    "per_class": (1, None), "seed": (0, 4294967294), "split_seed": (0, 4294967294),
    "image_size": (1, 10_000),
    "max_length": (1, 10_000),
    "head_epochs": (0, 100_000), "fine_tune_epochs": (0, 100_000), "views": (1, 1000),
    "view_seed": (0, 4294967294), "batch_size": (1, 1_000_000), "devices": (1, None),
}  # fmt: skip
REAL = {
    "clip_length": (0.8, 30),
    "levels": (0, 10), "head_lr": (1e-12, 100), "fine_tune_lr": (1e-12, 100),
    "rate_decay": (1e-3, 1), "weight_decay": (0, 10), "penalty_strength": (0, 1_000_000),
    "label_smoothing": (0, 0.99), "warmup": (0, 1), "decay_from": (0, 1),
    "clip_norm": (0, 1_000_000_000), "ema": (0, 0.99999), "strength": (0, 3),
    "target_precision": (1e-9, 1),
}  # fmt: skip
NAMES = ("splits", "group", "backbone", "weights", "cache")
CHOICES = {
    "effort": "quick default high", "class_weights": "none balanced", "fit": "squash crop pad",
    "penalty": "none l2 l2-sp", "decay": "cosine constant", "batch_norm": "auto frozen train",
    "flip": "auto on off", "multi_label": "auto on off", "calibration": "temperature none",
    "engine": "auto keras openvino openvino-bfloat16", "jit": "auto on off",
    "precision": "auto float32 mixed_bfloat16 mixed_float16", "refit": "on off",
    "hosts": "off on",
}  # fmt: skip
OTHERS = {"columns", "time_budget", "split", "fold", "unfreeze", "cache_limit", "machines"}

NO_NUMBERS = {
    "nothing": "", "a space": " ", "not a number": "nan", "infinity": "inf",
    "minus infinity": "-inf", "more than a double holds": "1e999", "hexadecimal": "0x10",
    "four hundred digits": "9" * 400, "ten thousand letters": "x" * 10_000, "a fraction": "1/2",
    "two numbers": "1 2", "two underscores": "1__0", "a sign alone": "-", "a half": "½",
    "a superscript": "²", "a zero byte": "1\0", "percent": "5%", "a comma": "1,5",
}  # fmt: skip
SPELT = {"underscores": "1_0", "Arabic digits": "١٠", "an exponent": "1e1", "a sign": "+10",
         "spaces around": " 10 "}  # fmt: skip


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def shown(word: str) -> str:
    return repr(word)[:30]


def test_every_setting_is_in_one_of_the_tables() -> None:
    listed = [*WHOLE, *REAL, *NAMES, *CHOICES, *OTHERS]
    assert sorted(listed) == sorted(SETTINGS)


def lines_of_numbers() -> Any:
    for name in (*WHOLE, *REAL):
        for id, word in NO_NUMBERS.items():
            yield pytest.param(name, word, id=f"{name} is {id}")
    for name, (low, high) in WHOLE.items():
        yield pytest.param(name, str(low - 1), id=f"{name} is one less than it may be")
        yield pytest.param(name, f"{low}.5", id=f"{name} is no whole number")
        if high is not None:
            yield pytest.param(name, str(high + 1), id=f"{name} is one more than it may be")
    for name, (low, high) in REAL.items():
        below, above = math.nextafter(low, -1), math.nextafter(high, math.inf)
        yield pytest.param(name, repr(below), id=f"{name} is a hair less than it may be")
        yield pytest.param(name, repr(above), id=f"{name} is a hair more than it may be")


def bounds(name: str) -> str:
    """What a message says that a number may be, without exponents for what is large."""
    low, high = (WHOLE | REAL)[name]
    if high is None:
        return f"of at least {low}"
    return f"between {low:g} and {high}"


@pytest.mark.parametrize(("name", "word"), lines_of_numbers())
def test_a_number_that_cannot_be(name: str, word: str) -> None:
    said = say("train", NOWHERE, f"{option(name)}={word}")
    assert_refused(said, f"argument {option(name)}: ", bounds(name), f"Received: {word!r}.")
    assert "--help" in said.err
    with pytest.raises(UsageError) as caught:
        Recipe(**{name: word})
    # The same words from Python and from a file, where a batch size is never left to the machine.
    typed = said.err.split(": ", 2)[2].split("\n  ")[0].replace("auto or ", "")
    assert caught.value.message == f"{name} {typed}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name} is {value}, the {which}")
        for name, ends in (WHOLE | REAL).items()
        for value, which in zip(ends, ("least", "most"), strict=True)
        if value is not None
    ],
)
def test_the_ends_of_what_a_number_may_be(name: str, value: float) -> None:
    assert_refused(say("train", NOWHERE, option(name), value), f"{NOWHERE}: no such file")
    assert read(name, str(value)) == value


@pytest.mark.parametrize(
    ("name", "word"),
    [
        pytest.param(name, word, id=f"{name} is ten with {id}")
        for name in (*WHOLE, "levels", "clip_norm")
        for id, word in SPELT.items()
    ],
)
def test_a_number_in_an_unusual_spelling(name: str, word: str) -> None:
    assert_refused(say("train", NOWHERE, f"{option(name)}={word}"), f"{NOWHERE}: no such file")
    assert read(name, word) == 10


@pytest.mark.parametrize(
    ("name", "word"),
    [
        pytest.param(name, word, id=f"{name} is {shown(word)}")
        for name, known in CHOICES.items()
        for word in ("", known.split()[0].upper(), known.split()[-1] + " ", "nan", "x" * 10_000)
    ],
)
def test_a_word_that_is_none_of_the_choices(name: str, word: str) -> None:
    known = ", ".join(CHOICES[name].split())
    said = say("train", NOWHERE, f"{option(name)}={word}")
    assert_refused(said, f"{option(name)}: must be one of {known}. Received: {word!r}.")


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("time_budget", ["", "nan", "inf", "-1s", "0s", "1e999", "10 weeks", "1h30m", "9" * 400,
                         "0x10", "1_000s"], "a duration such as 90s, 10m or 1.5h"),
        ("split", ["", "1", "0.5,0.5", "1,0,0", "nan,nan,nan", "0.7,0.15,0.15,", "0.8,0.1,0.2",
                   "-0.5,0.75,0.75", "inf,0,0", "1e999,1,1", "a,b,c"], "three shares"),
        ("fold", ["", "1", "0/5", "6/5", "1/0", "-1/5", "1/2/3", "1//2", "1.5/5", "nan/5",
                  "1/inf", "1/1e999"], "a fold such as 1/5"),
        ("unfreeze", ["", " ", "a b", "1/2", "±5", "\0", "²"], "a number of blocks"),
        ("cache_limit", ["", "-1", "nan", "inf", "1e999", "9" * 400, "20X", "1 2", "0x10"],
         "a size such as 500M or 20G"),
        ("machines", ["", "here", "host", "host:", ":1", "host:0", "host:x", "http://host:1",
                      "ray://", "ray://host", "a b:1", "host:123456"], "ray://HOST:PORT"),
    ],
)  # fmt: skip
def test_a_spelling_that_means_nothing(name: str, words: list[str], expected: str) -> None:
    for word in words:
        said = say("train", NOWHERE, f"{option(name)}={word}")
        assert_refused(said, f"{option(name)}: must be {expected}", f"Received: {word!r}.")


PLACES = [
    "inspect DATA=", "inspect x --fix=", "inspect x --page=", "train DATA=", "train x --config=",
    "train x --output=", "evaluate RUN=", "evaluate x DATA=", "compare RUN=", "predict RUN|MODEL=",
    "predict x IMAGE=", "export RUN=", "export x --formats=", "export x --output=",
    "export x --sign=", "verify EXPORT=", "verify x --key=", "demo EXPORT=", "demo x --wasm=",
    "curve RUN=", "report RUN=", "cache --cache=", "backbones NAME=", "search DATA=",
    "search x --space=", "search x --output=", "study STUDY=", "study x --tensorboard=",
    *(f"train x {option(name)}=" for name in NAMES),
]  # fmt: skip


@pytest.mark.parametrize("line", PLACES)
@pytest.mark.parametrize("word", [pytest.param("", id="empty"), pytest.param("a\0b", id="zero")])
def test_a_name_that_no_file_can_have(line: str, word: str) -> None:
    *before, last = line.split()
    place = last.removesuffix("=")
    said = say(*before, last + word if place.startswith("--") else word)
    assert_refused(said, f"argument {place}: must be ", "Received: " + repr(word))


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        ("predict x y --top=0", "--top: must be a whole number of at least 1"),
        ("predict x y --top=-1", "--top"),
        ("predict x y --top=1.5", "Received: '1.5'"),
        ("predict x y --top=inf", "Received: 'inf'"),
        ("predict x y --top=nan", "Received: 'nan'"),
        ("predict x", "the following arguments are required: IMAGE"),
        ("backbones x --image-size=0", "between 1 and 10000"),
        ("backbones x --image-size=10001", "between 1 and 10000"),
        ("backbones x --image-size=1e999", "between 1 and 10000"),
        ("backbones EfficientNetLit0", "Did you mean EfficientNetLite0"),
        ("cache prune --cache-limit=-1", "--cache-limit: must be a size"),
        ("cache prune --cache-limit=1e999", "--cache-limit: must be a size"),
        ("cache burn", "invalid choice: 'burn'"),
        ("search x --trials=0", "--trials: must be a whole number of at least 1"),
        ("search x --trials=1e999", "--trials"),
        ("search x --max-time=-5m", "--max-time: must be a duration"),
        ("search x --max-time=nan", "--max-time: must be a duration"),
        ("search x --tuner=grid", "invalid choice: 'grid'"),
        ("search x --objective=loss", "invalid choice: 'loss'"),
        ("search x --fold=1/5", "unrecognized arguments: --fold=1/5"),
        ("search", "the following arguments are required: DATA"),
        ("study", "the following arguments are required: STUDY"),
        ("train x --epochs=5", "unrecognized arguments: --epochs=5"),
        ("train x y", "unrecognized arguments: y"),
        ("train x --seed", "--seed: expected one argument"),
        ("train x --se=1e9", "x: no such file"),
        ("train x --resume=yes", "--resume: ignored explicit argument 'yes'"),
        ("evaluate", "the following arguments are required: RUN"),
        ("evaluate x --josn", "unrecognized arguments: --josn"),
        ("trian x", "invalid choice: 'trian'"),
        ("", "the following arguments are required: COMMAND"),
        ("--verbose", "COMMAND"),
        ("demo x", "Cannot read x/verify/expected.json"),
        ("verify x", "x is no export"),
        ("report x", "x is not a run folder"),
        ("export x", "x is not a run folder"),
        ("compare x y", "x is not a run folder"),
        ("curve x", "x is not a run folder"),
        ("update x y", "x is not a run folder"),
        ("update x", "the following arguments are required: DATA"),
        ("label x y", "x is not a run folder"),
        ("label x y --count=0", "--count"),
    ],
)
def test_a_line_that_is_wrong(line: str, needle: str) -> None:
    assert_refused(say(*line.split()), needle)


# Where what is printed goes ---------------------------------------------------------------------

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
PRINTING = ["--help", "--version", "train --help", "backbones", "backbones --json",
            "inspect DATA --quiet", "inspect DATA --json", "cache --cache=HERE",
            "predict MODEL PICTURE", "predict MODEL PICTURE --json", "search --help"]  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose classes and files have names that not every encoding has."""
    folder = tmp_path_factory.mktemp("named")
    noise = np.random.default_rng(0)
    for number, name in enumerate(LABELS):
        (folder / name).mkdir()
        for i in range(3):
            levels = noise.integers(0, 256, (24, 24, 3), np.uint8)
            Image.fromarray(levels).save(folder / name / f"{number}𝄞{i}.png")
    (folder / "plain" / "damaged ☃.png").write_bytes(b"no image")
    os.mkdir(os.fsencode(folder) + b"/\xff")
    shutil.copy(folder / "née" / "0𝄞0.png", os.fsencode(folder) + b"/\xff/\xfe.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of those classes."""
    cli.load_keras()
    import keras

    pixels = keras.Input((24, 24, 3), dtype="uint8")
    scores = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(pixels))
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.Model(pixels, scores).save(path)
    path.with_name("labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def words(named: Path, model: Path, tmp_path: Path) -> Any:
    """The words of a line, with real things for what it names in capitals."""
    picture = named / "née" / "0𝄞0.png"
    real = {"DATA": named, "MODEL": model, "PICTURE": picture, "HERE": tmp_path / "cache"}

    def put(line: str) -> list[str]:
        return [
            re.sub("DATA|MODEL|PICTURE|HERE", lambda name: str(real[name[0]]), w)
            for w in line.split()
        ]

    return put


def status(words: list[str], out: Any, err: Any) -> int:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            return cli.main(words)
        except SystemExit as stop:
            return int(stop.code or 0)


@needs_full
@pytest.mark.parametrize("line", PRINTING)
@pytest.mark.parametrize("buffered", [True, False], ids=["at once", "line by line"])
def test_what_cannot_be_printed_is_no_success(line: str, buffered: bool, words: Any) -> None:
    err = io.StringIO()
    with open(FULL, "wb", buffering=-1 if buffered else 0) as full:
        out = io.TextIOWrapper(full, encoding="utf-8", write_through=not buffered)
        assert status(words(line), out, err) == 1
        out.detach()
    assert "cannot read or write: No space left on device" in err.getvalue()
    assert len(err.getvalue().splitlines()) == 2


@pytest.mark.parametrize("line", PRINTING)
def test_a_reader_that_has_seen_enough(line: str, words: Any) -> None:
    err, (reader, writer) = io.StringIO(), os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8", errors="strict") as out:
        assert status(words(line), out, err) == 0
    assert err.getvalue() == ""


@needs_full
@pytest.mark.parametrize(
    ("line", "code"),
    [("inspect nowhere", 2), ("train x --seed=-1", 2), ("trian", 2), ("--version", 0),
     ("export nowhere", 2), ("predict MODEL nowhere.png", 2), ("backbones", 0)],
)  # fmt: skip
def test_where_no_message_can_be_printed_the_status_says_it(
    line: str, code: int, words: Any
) -> None:
    with open(FULL, "w", encoding="utf-8") as err:
        assert status(words(line), io.StringIO(), err) == code


@needs_full
def test_work_goes_on_where_its_log_is_full() -> None:
    with open(FULL, "w", encoding="utf-8") as log:
        progress = PlainProgress(log, every=0)
        with progress.step("Head", 2) as advance:
            advance()
            advance()
        progress.note("Done.")


CLOSED = {
    "backbones >&-": (2, "standard output is closed"),
    "--version >&-": (2, "standard output is closed"),
    "backbones >&- 2>&-": (2, ""),
    "train x --seed=-1 2>&-": (2, ""),
    "train x --seed=-1 <&- 2>&-": (2, ""),
    "--version 2>&-": (0, "keras-transfer "),
    "--version <&-": (0, "keras-transfer "),
    "train --help <&- 2>&-": (0, "usage: "),
}


def test_closed_streams(tmp_path: Path) -> None:
    run = f"{sys.executable} -m keras_transfer"
    script = "\n".join(f"({run} {line}); echo status=$?" for line in CLOSED)
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *said, rest = re.split(r"status=\d+\n", done.stdout)
    codes = [int(code) for code in re.findall(r"status=(\d+)", done.stdout)]
    assert rest == ""
    assert "Traceback" not in done.stdout
    for line, text, code in zip(CLOSED, said, codes, strict=True):
        expected, needle = CLOSED[line]
        assert code == expected, (line, text)
        assert needle in text if needle else text == "", (line, text)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("json_wanted", [True, False], ids=["as JSON", "for people"])
@pytest.mark.parametrize("line", ["inspect DATA", "predict MODEL PICTURE STRANGE"])
def test_a_terminal_that_lacks_letters(
    encoding: str, json_wanted: bool, line: str, named: Path, words: Any
) -> None:
    strange = os.fsdecode(os.fsencode(named) + b"/\xff/\xfe.png")
    given = [strange if word == "STRANGE" else word for word in words(line)]
    given += ["--json"] * json_wanted
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert status(given, out, io.StringIO()) == 0
    text = out.detach().getvalue().decode(encoding)
    if json_wanted:
        assert json.loads(text) == json.loads(say(*given).out)
    else:
        assert all(one in text or one.encode("ascii", "backslashreplace").decode() in text
                   for one in ("née", "☃", "𝄞"))  # fmt: skip


@pytest.mark.parametrize("labels", ["", "one\n", "one\ntwo\n", "1\n2\n3\n4\n"], ids=repr)
def test_labels_that_are_not_as_many_as_the_classes(
    labels: str, model: Path, named: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(model, tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text(labels)
    said = say("predict", copy, named / "née" / "0𝄞0.png", "--json")
    if labels:
        assert_refused(said, str(copy), f"3 classes apart and has {labels.count(chr(10))} labels")
    else:
        assert {row["label"] for row in json.loads(said.out)[0]["classes"]} == {"0", "1", "2"}


def test_a_label_with_other_ends_of_lines(model: Path, named: Path, tmp_path: Path) -> None:
    copy, labels = shutil.copy(model, tmp_path / "model.keras"), ["a\u2028b", "c\x0bd", "e\x85f"]
    (tmp_path / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    said = say("predict", copy, named / "née" / "0𝄞0.png", "--json")
    assert sorted(row["label"] for row in json.loads(said.out)[0]["classes"]) == sorted(labels)


# What a kill leaves.

MARK = "0123456789ab"


@pytest.mark.parametrize(
    "strays",
    [
        pytest.param([], id="an empty folder"),
        pytest.param(["lock"], id="a lock"),
        pytest.param(["lock", f".study-{MARK}.json"], id="half of what it is about"),
    ],
)
def test_a_study_killed_as_it_began_is_begun_again(strays: list[str], tmp_path: Path) -> None:
    for name in strays:
        (tmp_path / name).write_bytes(b"half")
    _check_folder(tmp_path, resume=False)


@pytest.mark.parametrize(
    "theirs", ["notes.txt", ".splits-mine.csv", "splits.csv.bak", ".hidden", "trials", "study.jso"]
)
def test_a_study_is_not_begun_among_what_is_not_ours(theirs: str, tmp_path: Path) -> None:
    (tmp_path / theirs).write_text("mine")
    said = say("search", "builtin:digits", "--output", tmp_path)
    assert_refused(said, str(tmp_path), "holds files that are not a study of ours")
    assert [path.name for path in tmp_path.iterdir()] == [theirs]


def test_half_written_files_are_read_by_nobody(digits_run: Path, tmp_path: Path) -> None:
    run, study = shutil.copytree(digits_run, tmp_path / "run"), tmp_path / "study"
    record = results.Record(0, results.FAILED, {}, {}, reason="It failed.")
    results.write_record(study, record)
    for place in ("run/model.keras", "run/metrics.json", "run/plots/x.svg", "study/study.json",
                  "study/trials/0000/record.json"):  # fmt: skip
        files.temporary(tmp_path / place, MARK).write_bytes(b"half")
    assert keras_transfer.open_run(run).metrics == keras_transfer.open_run(digits_run).metrics
    assert results.read_records(study) == [record]
    with files.cache_at(tmp_path / "cache"), ActivationStore(tmp_path / "cache") as store:
        (tmp_path / "cache" / "key").mkdir(parents=True)
        (tmp_path / "cache" / "key" / f".key-{MARK}.json").write_bytes(b"half")
        assert store.entries() == []
