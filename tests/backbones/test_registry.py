"""The registry: rows that are whole, names that are found, and no Keras to read it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from keras_transfer import backbones
from keras_transfer.base.errors import UsageError
from keras_transfer.modalities.audio.filterbank import MODES as BANKS
from keras_transfer.modalities.image.entrance import MODES


def test_rows_are_whole() -> None:
    rows = backbones.listing()
    assert len(rows) >= 41
    assert json.loads(json.dumps(rows))
    for row in rows:
        assert (
            row["preprocessing"]
            in {"image": MODES, "text": {"ids"}, "audio": BANKS}[row["modality"]]
        )
        assert row["min_size"] <= row["size"]
        assert row["parameters"] > 400_000
        if row["modality"] == "image":
            assert 65 < row["top1"] < 90
            assert row["top1_source"].startswith("https://")
        assert row["licence"] in {"Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "MIT"}
        assert row["advice"].endswith(".")
        assert set(row["weights"]) <= {"imagenet", "offline", "PATH"}


def test_names_are_found_whatever_their_capitals() -> None:
    assert backbones.spec("resnet50").name == "ResNet50"
    with pytest.raises(UsageError, match=r"'ResNet-50' is unknown\. Did you mean .*ResNet50"):
        backbones.spec("ResNet-50")


def test_listing_needs_no_keras() -> None:
    code = (
        "import sys; from keras_transfer import backbones; backbones.listing();"
        "backbones.render_listing();"
        "sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
