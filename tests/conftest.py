"""What several tests share: a cache of their own, a folder of real images, one finished run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from keras_transfer.runs.result import TransferResult

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


LONG = ("learn", "export", "tests", "tuning", "integration", "backbones", "runs", "evaluation")
"""Folders whose files take minutes, the longest first."""


def pytest_configure(config: pytest.Config) -> None:
    """Lets the order below stand: xdist would begin with the files of the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with what takes long, so that no process is left with it when the others are done."""
    place = {folder: number for number, folder in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither use nor fill the user's cache."""
    os.environ["KERAS_TRANSFER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    """What one test registers no other one finds."""
    from keras_transfer.backbones import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_registered", dict(registry._registered))
        yield


@pytest.fixture
def bfloat16() -> None:
    """Skips where the processor has none, or ``ONEDNN_MAX_CPU_ISA`` forbids it: TensorFlow rounds
    otherwise there, or ends the process.
    """
    from keras_transfer.frozen import engine

    if not engine.computes_bfloat16():
        pytest.skip("products in bfloat16 are none of this processor's")


@pytest.fixture(scope="session")
def emoji_noto() -> Path:
    """1,892 emoji in nine class folders; skips where the images are not beside the repository."""
    folder = SHARED / "emoji-noto"
    if not folder.is_dir():
        pytest.skip("../shared/data/emoji-noto is absent")
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scikit-learn's scanned digits 0 to 4, 36 PNG files of each, in class folders."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder = tmp_path_factory.mktemp("data") / "digits"
    for digit in range(5):
        (folder / f"digit-{digit}").mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(digits.target == digit)[:36]):
            levels = (digits.images[row] / 16 * 255).astype(np.uint8)
            Image.fromarray(levels).save(folder / f"digit-{digit}" / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def digits_result(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TransferResult:
    """EfficientNet-Lite0 with its real weights, trained briefly at 64 px.

    Of the seeds one with a wrong answer in validation and in test, and none that is nearly a tie.
    """
    from keras_transfer import training

    return training.train(
        str(digits_folder), image_size=64, effort="quick", seed=6, split=(0.6, 0.2, 0.2),
        refit="off", output=tmp_path_factory.mktemp("runs") / "digits",
    )  # fmt: skip


@pytest.fixture(scope="session")
def digits_run(digits_result: TransferResult) -> Path:
    """The folder of that run."""
    assert digits_result.path is not None
    return digits_result.path


@pytest.fixture(scope="session")
def texts_settings() -> tuple[str, ...]:
    """The options of ``texts_run``."""
    return (
        "--max-length", "24", "--unfreeze", "1", "--fine-tune-epochs", "1", "--quiet",
        "--group", "page", "--seed", "0", "--split", "0.4,0.2,0.4",
    )  # fmt: skip


@pytest.fixture(scope="session")
def texts_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of SciPy's documentation about three of its parts, a row each, three a page."""
    from keras_transfer.datasets import load_dataset

    data = load_dataset("builtin:scipy")
    chosen = [i for label in range(3) for i in np.flatnonzero(data.labels == label)[:24]]
    rows = [
        {
            "text": data.read(i).decode(),
            "label": data.class_names[data.labels[i]],
            "page": f"page {number // 3}",
        }
        for number, i in enumerate(sorted(map(int, chosen)))
    ]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="session")
def texts_run(
    texts_table: Path, texts_settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run folder: MiniLM-L6 with its real weights, its topmost block trained for an epoch."""
    from keras_transfer import cli

    folder = tmp_path_factory.mktemp("runs") / "texts"
    assert cli.main(["train", str(texts_table), "--output", str(folder), *texts_settings]) == 0
    return folder
