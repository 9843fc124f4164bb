"""One small real run, exported once, for all tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 400 of scikit-learn's digits, 40 of each, as PNG and JPEG files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    root = tmp_path_factory.mktemp("data") / "digits"
    seen: dict[int, int] = {}
    for levels, label in zip(data.images, data.target, strict=True):
        count = seen.setdefault(int(label), 0)
        if count == 40:
            continue
        seen[int(label)] += 1
        image = Image.fromarray((levels * 15.9).astype("uint8")).resize((48, 48))
        path = root / f"digit {label}" / f"{count:03d}{'.jpg' if count % 4 == 0 else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(path, quality=95)
    return root


@pytest.fixture(scope="session")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory):
    """A finished run: a linear head on EfficientNet-Lite0."""
    from keras_transfer import api, runs

    output = tmp_path_factory.mktemp("runs") / "digits"
    api.train(
        str(digits),
        image_size=96,
        unfreeze="none",
        effort="quick",
        split=(0.6, 0.15, 0.25),
        cache=False,
        output=output,
    )
    return runs.open_run(output)


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory: pytest.TempPathFactory):
    """Every format that needs no extra package."""
    from keras_transfer.export import export

    formats = "saved_model,keras,tflite,tflite-float16,tflite-dynamic,tflite-int8"
    return export(run, formats, tmp_path_factory.mktemp("exports") / "digits")
