"""The snippets of an export's README do what its text says, on pictures as people have them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from clients import blocks, logged, of_keras, printed, same, served
from PIL import Image

from keras_transfer.export import ExportResult, card, export_run
from keras_transfer.export.prediction import predict
from keras_transfer.export.proof import read_pixels
from keras_transfer.runs import folder as runs


@pytest.fixture(scope="module")
def folder(exported: ExportResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the export, as its README asks for."""
    return Path(shutil.copytree(exported.path, tmp_path_factory.mktemp("copy") / "digits"))


@pytest.fixture(scope="module")
def pictures(digits_folder: Path, folder: Path) -> list[Path]:
    """A scanned digit, wide and large, stored in eight ways in which it looks the same."""
    scan = Image.open(sorted(digits_folder.glob("digit-2/*.png"))[6]).convert("L")
    grey = scan.resize((300, 200), Image.Resampling.BICUBIC)
    levels = np.asarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    clear = np.zeros((200, 300, 4), np.uint8)
    clear[..., 3] = 255 - levels  # black where it is not transparent, on white the same
    palette = grey.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    white = max(range(64), key=lambda at: sum(palette.getpalette()[3 * at : 3 * at + 3]))
    saved = {
        "grey.png": (grey, {}),
        "turned.jpg": (grey.transpose(Image.Transpose.ROTATE_90), {"exif": exif, "quality": 95}),
        "clear.png": (Image.fromarray(clear), {}),
        "palette.png": (palette, {"transparency": white}),
        "cmyk.jpg": (grey.convert("RGB").convert("CMYK"), {"quality": 95}),
        "deep.png": (Image.fromarray(levels.astype(np.uint16) * 257), {}),
        "bit.png": (grey.convert("1"), {}),
        "moving.gif": (grey, {"save_all": True, "append_images": [Image.new("L", grey.size)]}),
    }
    for name, (picture, how) in saved.items():
        picture.save(folder / name, **how)
    return [folder / name for name in saved]


@pytest.fixture(scope="module")
def said(exported: ExportResult, pictures: list[Path]) -> list[tuple[str, float]]:
    """What ``predict`` says of each: its first class and how probable that is."""
    rows = [row["classes"][0] for row in predict(exported.path / "model.tflite", pictures)]
    return [(row["label"], row["probability"]) for row in rows]


def test_the_pictures_are_one_digit_in_eight_disguises(
    exported: ExportResult, pictures: list[Path], said: list[tuple[str, float]]
) -> None:
    """But for the one of two levels, what a reader makes of them is the same; and whoever does not
    turn it, or lays it on black, reads another digit."""
    assert {label for label, _ in said} == {"digit-2"}
    assert np.ptp([score for _, score in said[:6]]) < 0.02
    lying, clear = (np.asarray(Image.open(path).convert("RGB")) for path in pictures[1:3])
    for row in predict(exported.path / "model.tflite", [lying, clear]):
        assert row["classes"][0]["label"] != "digit-2"


def test_python_on_litert(
    folder: Path, pictures: list[Path], said: list[tuple[str, float]]
) -> None:
    found = printed(folder, "Python, LiteRT", [path.name for path in pictures])
    assert same(found, said, 1e-5)


def test_python_on_keras(
    folder: Path, run: runs.Run, pictures: list[Path], said: list[tuple[str, float]]
) -> None:
    size = (run.config["image_size"],) * 2
    assert same(of_keras(folder, np.stack([read_pixels(p, size) for p in pictures])), said, 1e-4)


@pytest.mark.slow
def test_python_on_onnx_runtime(
    run: runs.Run, quick: None, pictures: list[Path], said: list[tuple[str, float]],
    tmp_path: Path,
) -> None:  # fmt: skip
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    made = export_run(run, "onnx", tmp_path / "onnx").path
    found = printed(made, "ONNX Runtime", list(map(str, pictures)))
    assert same(found, said, 1e-4)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_shell_to_tensorflow_serving(
    folder: Path, pictures: list[Path], said: list[tuple[str, float]]
) -> None:
    found = []
    for picture in pictures[1:3]:
        shutil.copy(picture, folder / "photo.jpg")
        found.append(served(folder))
    assert same(found, said[1:3], 1e-4)


def test_javascript_in_a_browser(
    folder: Path, pictures: list[Path], said: list[tuple[str, float]]
) -> None:
    """It resizes as the browser does, so that probabilities differ a little."""
    found = logged(folder, "vision", [{"photo.jpg": path.name} for path in pictures])
    assert same(found, said, 0.05)


def test_what_cannot_run_here_is_at_least_made_for_this_model(folder: Path, run: runs.Run) -> None:
    """Kotlin and Swift: sizes and file are filled in, and the picture is laid on white."""
    (kotlin,) = blocks(folder, "Android, Kotlin", "kotlin")
    (swift,) = blocks(folder, "iOS, Swift", "swift")
    side = run.config["image_size"]
    assert f"val (width, height) = {side} to {side}\n" in kotlin
    assert "createScaledBitmap(photo, width, height, true)" in kotlin
    assert "Color.WHITE" in kotlin
    assert "ImageDecoder" in kotlin
    assert f"CGSize(width: {side}, height: {side})" in swift
    assert "UIColor.white" in swift
    assert (str(card.threshold(run)) in kotlin) == bool(card.threshold(run))
