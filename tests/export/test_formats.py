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
    assert {row.runtime for row in FORMATS.values()} == set(proof.RUNTIMES)
    assert len({row.file for row in FORMATS.values()}) == len(FORMATS)


def test_every_format_has_a_limit_that_travels() -> None:
    assert set(proof.LIMITS) == set(FORMATS)


def test_names_of_files_are_those_of_every_version() -> None:
    assert {row.name: row.file for row in FORMATS.values()} == {
        "saved_model": "saved_model",
        "keras": "model.keras",
        "tflite": "model.tflite",
        "tflite-float16": "model-float16.tflite",
        "tflite-dynamic": "model-dynamic.tflite",
        "tflite-int8": "model-int8.tflite",
        "onnx": "model.onnx",
    }
