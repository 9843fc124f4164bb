from __future__ import annotations

import pytest
import zoo
from promises import check_modality

from keras_transfer.base.errors import UsageError
from keras_transfer.modalities import MODALITIES, image, modality


def test_images_keep_the_promises_of_a_modality():
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
    items = [zoo.encode(zoo.photo(seed=i, side=64), kind) for i, kind in enumerate(kinds)]
    damaged = [data for data, outcome in zoo.bad_files().values() if "image" not in outcome]
    check_modality(image, items, size=(32, 48), damaged=damaged)


def test_a_modality_is_found_by_its_name():
    assert all(name == modality(name).NAME for name in MODALITIES)
    with pytest.raises(UsageError, match="Did you mean image"):
        modality("images")
