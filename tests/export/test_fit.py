"""Photographs that are no squares: training and everything that serves see the same pixels."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from runs import browser

from keras_transfer import cli, training
from keras_transfer.export import ExportResult, demo, export_run, prediction, proof
from keras_transfer.export.images import ImageSignature
from keras_transfer.frozen import features
from keras_transfer.modalities import image
from keras_transfer.runs import folder as folders


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide and tall pictures, some turned by EXIF: a piece of a photograph in their middle, which
    names them, between two of another."""
    folder = tmp_path_factory.mktemp("photos")
    for name, other in (("flower", "china"), ("china", "flower")):
        (folder / name).mkdir()
        for i in range(14):
            exif = zoo.Image.Exif()
            exif[0x0112] = (1, 6, 3)[i % 3]
            photo = zoo.photo(f"{other}.jpg", seed=i).resize(((160, 70), (60, 150))[i % 2])
            middle = zoo.photo(f"{name}.jpg", seed=i).resize((min(photo.size),) * 2)
            photo.paste(middle, tuple((a - min(photo.size)) // 2 for a in photo.size))
            data = zoo.encode(photo, "JPEG", exif=exif) if i % 4 else zoo.encode(photo, "PNG")
            (folder / name / f"{i:02d}.{'jpg' if i % 4 else 'png'}").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def cut(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> folders.Run:
    output = tmp_path_factory.mktemp("runs") / "cut"
    training.train(
        str(photos), image_size=48, fit="crop", effort="quick", unfreeze="none", views=1,
        split=(0.4, 0.2, 0.4), output=output,
    )  # fmt: skip
    return folders.open_run(output)


@pytest.fixture(scope="module")
def exported(
    cut: folders.Run, quick: None, tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    return export_run(cut, "tflite", tmp_path_factory.mktemp("exports") / "cut")


def expected(run: folders.Run) -> dict[str, dict[str, float]]:
    """Of each test picture the probabilities that the run left."""
    rows = zip(run.predictions, run.test_probabilities, strict=True)
    return {row["path"]: dict(zip(run.class_names, found, strict=True)) for row, found in rows}


def assert_answers(model: Any, run: folders.Run, photos: Path, names: bool = True) -> None:
    known = expected(run)
    rows = prediction.predict(model, [str(photos / path) for path in known])
    for row, wanted in zip(rows, known.values(), strict=True):
        if not names:
            wanted = {str(i): one for i, one in enumerate(wanted.values())}
        for one in row["classes"]:
            assert one["probability"] == pytest.approx(wanted[one["label"]], abs=0.01), model


def test_a_run_says_and_keeps_how_its_pictures_were_fitted(
    cut: folders.Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cut.config["fit"] == "crop"
    assert_answers(cut, cut, photos)
    data = cut.dataset
    for i in range(len(data)):
        wanted = image.decode(data.read(i), image.spec(48).fitted("crop"))
        assert np.array_equal(data.examples[i], wanted)
    squashed = np.stack([image.decode(data.read(i), image.spec(48)) for i in range(len(data))])
    assert not np.array_equal(data.examples, squashed)
    capsys.readouterr()
    assert cli.main(["evaluate", str(cut.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nll"] == pytest.approx(cut.metrics["test"]["nll"])


@pytest.mark.slow
def test_an_export_answers_as_the_run_does(
    exported: ExportResult, cut: folders.Run, photos: Path, tmp_path: Path
) -> None:
    assert exported.passed
    assert proof.expected_of(exported.path)["fit"] == "crop"
    assert_answers(exported.path, cut, photos)
    shutil.copy(exported.path / "model.tflite", tmp_path)  # without what lies beside it
    assert_answers(tmp_path / "model.tflite", cut, photos)


@pytest.mark.slow
def test_every_other_format_answers_so_too(
    cut: folders.Run, photos: Path, quick: None, tmp_path: Path
) -> None:
    whole = export_run(cut, "saved_model,onnx,keras", tmp_path / "export")
    assert whole.passed
    assert proof.verify(whole.path)["passed"]
    assert whole.report["artefacts"]["saved_model"]["encoded"]["agreement"] > 0.9
    for name in ("model.keras", "model.onnx"):
        shutil.copy(whole.path / name, tmp_path)
        assert_answers(tmp_path / name, cut, photos, names=name != "model.onnx")
    (whole.path / "model.keras").rename(tmp_path / "elsewhere.keras")
    assert_answers(whole.path, cut, photos)


def test_the_proof_fails_where_pictures_are_fitted_otherwise(
    exported: ExportResult,
) -> None:
    expected = json.loads((exported.path / "verify" / "expected.json").read_text())
    samples = [exported.path / "verify" / "images" / one["file"] for one in expected["images"]]
    cut, whole = (
        np.stack([proof.read_pixels(path, (48, 48), fit) for path in samples])
        for fit in ("crop", "squash")
    )
    answers = proof.RUNTIMES["tflite"][1](exported.path / "model.tflite", 1)
    wanted = np.array([one["probabilities"] for one in expected["images"]])
    assert np.abs(answers(cut) - wanted).max() < 0.01
    assert np.abs(answers(whole) - wanted).max() > 0.05


def test_the_demo_reads_pictures_as_the_run_did(
    exported: ExportResult, cut: folders.Run, photos: Path
) -> None:
    with demo.Demo(exported.path) as server:
        assert server.facts["fit"] == "crop"
        for path, wanted in list(expected(cut).items())[:4]:
            for one in server.classify((photos / path).read_bytes())["classes"]:
                assert one["probability"] == pytest.approx(wanted[one["label"]], abs=0.01)


def test_the_export_tells_people_what_to_do_before_mediapipe(exported: ExportResult) -> None:
    text = (exported.path / "README.md").read_text()
    assert "cut to its middle" in " ".join(text.split())
    assert text.count('(48, 48), "crop")') == 1
    assert "Math.max(48 / own[0]" in text


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("sides", [(200, 80), (61, 183), (96, 96), (48, 48)])
def test_tensorflow_serves_the_same_pixels(fit: str, sides: tuple[int, int]) -> None:
    spec = image.spec(48).fitted(fit)
    data = zoo.encode(zoo.photo(side=400).resize(sides), "PNG")
    served = np.asarray(ImageSignature(spec).serving_decoder()(data))
    assert served.shape == spec.shape
    difference = np.abs(served.astype(int) - image.decode(data, spec).astype(int))
    assert difference.mean() < 1.5
    padding = (served == 127).all(axis=2)
    assert np.array_equal(padding.all(axis=1), (image.decode(data, spec) == 127).all(axis=(1, 2)))


def test_words_that_fit_nothing_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.csv").write_text("text,label\n" + "one word,a\nother words,b\n" * 4)
    for data, fit, said in ((photos, "stretch", "--fit must be"), ("texts.csv", "pad", "nothing")):
        words = ["train", str(tmp_path / data), "--fit", fit, "--output", str(tmp_path / "run")]
        assert cli.main(words) == 2
        assert said in capsys.readouterr().err.replace("argument --fit: ", "--fit ")
    assert not list(tmp_path.glob("run/*.json"))


def test_a_data_set_that_was_fitted_otherwise_is_refused(photos: Path) -> None:
    data = training.datasets.load_dataset(str(photos), image_size=48, fit="pad")
    assert (data.examples == 127).all(axis=-1).any()
    with pytest.raises(training.UsageError, match=r"fit is 'crop'.*opened with 'pad'"):
        training.train(data, image_size=48, fit="crop")


def test_what_is_stored_of_one_way_is_not_taken_for_another(photos: Path) -> None:
    """The cache of examples, and the rule in the key of every stored activation."""
    rules = set()
    for fit in ("squash", "crop", "squash", "pad"):
        data = training.datasets.load_dataset(str(photos), image_size=48, fit=fit)
        wanted = image.decode(data.read(0), image.spec(48).fitted(fit))
        assert np.array_equal(data.examples[0], wanted)
        rules.add(features.Views(data).rule)
    assert len(rules) == 3


@pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is installed")
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_the_browser_hands_mediapipe_the_same_pixels(fit: str, tmp_path: Path) -> None:
    """By the demo page's own function, in Chromium."""
    page = Path(demo.__file__).with_name("demo.html").read_text()
    (scaled,) = re.findall(r"  async function scaled.*?\n  }\n", page, re.DOTALL)
    facts = json.dumps({"size": [48, 48], "fit": fit})
    script = f"<script>const facts = Promise.resolve({facts});{scaled}</script>"
    (tmp_path / "page.html").write_text(script)
    data = zoo.encode(zoo.photo(side=400).resize((300, 125)), "PNG")
    read = f"""(async () => {{
      const photo = new Image();
      photo.src = "data:image/png;base64,{base64.b64encode(data).decode()}";
      await photo.decode();
      const found = (await scaled(photo)).getContext("2d").getImageData(0, 0, 48, 48);
      return [...found.data]; }})()"""
    with browser.browser() as tab:
        tab.open(tmp_path / "page.html")
        found = np.array(tab.run(read)).reshape(48, 48, 4)[..., :3]
    ways = {way: image.decode(data, image.spec(48).fitted(way)) for way in image.FITS}
    apart = {way: np.abs(found - made.astype(int)).mean() for way, made in ways.items()}
    assert apart[fit] < 7
    assert all(apart[fit] < apart[way] / 4 for way in apart if way != fit)
    expected = ways[fit]
    assert np.array_equal((found == 127).all(axis=(1, 2)), (expected == 127).all(axis=(1, 2)))
