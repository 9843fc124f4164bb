from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import zoo


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TRANSFER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Sixty different crops of two real photos, 32 px, as JPEG."""
    names = ("china.jpg", "flower.jpg")
    return [
        zoo.encode(zoo.photo(names[seed % 2], side=32, seed=seed), "JPEG") for seed in range(60)
    ]
