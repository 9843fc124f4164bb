from __future__ import annotations

import pytest

from keras_transfer.base.errors import UsageError
from keras_transfer.export import FORMATS, parse_formats, proof


def test_names_in_one_string_or_a_list() -> None:
    assert [row.name for row in parse_formats("tflite, keras,tflite")] == ["tflite", "keras"]
    assert [row.name for row in parse_formats(["onnx"])] == ["onnx"]


def test_an_unknown_name_is_told_its_nearest() -> None:
    with pytest.raises(UsageError, match=r"'tflite-int4'.*Did you mean tflite-int8"):
        parse_formats("tflite-int4")
    with pytest.raises(UsageError, match="no export format"):
        parse_formats(" , ")


def test_every_format_has_a_runtime_and_a_file_of_its_own() -> None:
    assert {row.runtime for row in FORMATS.values()} == set(proof.OPENERS) == set(proof.PACKAGES)
    assert len({row.file for row in FORMATS.values()}) == len(FORMATS)
