"""What is written is there whole or not at all."""

import os
from pathlib import Path

import pytest

from keras_transfer.base import files


@pytest.mark.parametrize(
    ("make", "call"), [(files.atomic_path, "touch"), (files.atomic_folder, "mkdir")]
)
def test_an_interruption_heard_where_the_name_is_made_leaves_nothing(
    make, call, tmp_path, monkeypatch
):
    made = getattr(Path, call)

    def interrupted(self, *arguments, **options):
        made(self, *arguments, **options)
        if self.name.startswith("."):
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, call, interrupted)
    with pytest.raises(KeyboardInterrupt), make(tmp_path / "head.npz"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [files.atomic_path, files.atomic_folder])
def test_what_raises_leaves_what_was_there(make, tmp_path):
    target = tmp_path / "kept"
    target.mkdir() if make is files.atomic_folder else target.touch()
    options = {"replace": True} if make is files.atomic_folder else {}
    with pytest.raises(OSError, match="full"), make(target, **options):
        raise OSError("full")
    assert os.listdir(tmp_path) == ["kept"]
