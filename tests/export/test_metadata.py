from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers.number_types as numbers
import keras
import numpy as np
import pytest
from flatbuffers.table import Table
from PIL import Image

from keras_transfer.export import ExportResult, images, metadata, proof
from keras_transfer.export.flatbuffer import LiteModel
from keras_transfer.modalities import image
from keras_transfer.runs import folder as runs

INFO = metadata.ModelInfo(
    name="pets",
    description="Tells two pets apart",
    class_names=("cat", "dög"),
    signature=images.ImageSignature(image.spec((64, 80))),
    licence="Apache-2.0",
    author="Ada",
    threshold=0.625,
)


class Reader:
    """A FlatBuffers table read by field numbers, which are those of metadata_schema.fbs."""

    def __init__(self, table: Table) -> None:
        self.table = table

    @classmethod
    def root(cls, data: bytes) -> Reader:
        return cls(Table(data, int.from_bytes(data[:4], "little")))

    def _at(self, field: int) -> int:
        offset = self.table.Offset(4 + 2 * field)
        assert offset, f"field {field} is not set"
        return self.table.Pos + offset

    def text(self, field: int) -> str:
        return self.table.String(self._at(field)).decode()

    def sub(self, field: int) -> Reader:
        return Reader(Table(self.table.Bytes, self.table.Indirect(self._at(field))))

    def items(self, field: int) -> list[Reader]:
        start = self.table.Vector(self._at(field) - self.table.Pos)
        count = self.table.VectorLen(self._at(field) - self.table.Pos)
        return [
            Reader(Table(self.table.Bytes, self.table.Indirect(start + 4 * i)))
            for i in range(count)
        ]

    def number(self, field: int, kind: type) -> float:
        return self.table.Get(kind, self._at(field))

    def array(self, field: int, kind: type) -> np.ndarray:
        return self.table.GetVectorAsNumpy(kind, self._at(field) - self.table.Pos)


@pytest.fixture(scope="module")
def described(exported: ExportResult) -> bytes:
    return metadata.add_metadata((exported.path / "model.tflite").read_bytes(), INFO)


def test_the_fields_are_where_the_schema_has_them(described: bytes) -> None:
    model = LiteModel(described)
    entry = model.tree.metadata[-1]
    assert entry.name == b"TFLITE_METADATA"
    data = np.asarray(model.tree.buffers[entry.buffer].data, np.uint8).tobytes()
    assert data[4:8] == b"M001"
    root = Reader.root(data)
    assert [root.text(field) for field in (0, 1, 4, 5)] == [
        "pets",
        "Tells two pets apart",
        "Ada",
        "Apache-2.0",
    ]
    (graph,) = root.items(3)
    (entry_tensor,), (exit_tensor,) = graph.items(2), graph.items(3)
    assert (entry_tensor.text(0), exit_tensor.text(0)) == ("image", "scores")
    content = entry_tensor.sub(3)
    assert content.number(0, numbers.Uint8Flags) == 2  # ImageProperties
    assert content.sub(1).number(0, numbers.Int8Flags) == 1  # RGB
    size = content.sub(1).sub(1)
    assert size.number(0, numbers.Uint32Flags) == 80
    assert size.number(1, numbers.Uint32Flags) == 64
    (unit,) = entry_tensor.items(4)
    assert unit.number(0, numbers.Uint8Flags) == 1  # NormalizationOptions
    assert unit.sub(1).array(0, numbers.Float32Flags).tolist() == [0.0]
    assert unit.sub(1).array(1, numbers.Float32Flags).tolist() == [1.0]
    (labels,) = exit_tensor.items(6)
    assert labels.text(0) == "labels.txt"
    assert labels.number(2, numbers.Int8Flags) == 2  # TENSOR_AXIS_LABELS
    (custom,) = graph.items(9)
    assert custom.text(0) == metadata.THRESHOLD
    assert float(custom.array(1, numbers.Uint8Flags).tobytes()) == 0.625


def test_labels_are_read_back(described: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(described)
    assert metadata.carried(path, "labels.txt") == "cat\ndög\n"
    assert metadata.carried(path, "fit.txt") == "squash"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    path.write_bytes(b"no archive at all")
    assert metadata.carried(path, "labels.txt") == ""


def test_the_same_model_gives_the_same_bytes(exported: ExportResult, described: bytes) -> None:
    again = metadata.add_metadata((exported.path / "model.tflite").read_bytes(), INFO)
    assert again == described


MEDIAPIPE = """
import json, sys
import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from PIL import Image
options = vision.ImageClassifierOptions(
    base_options=BaseOptions(model_asset_path=sys.argv[1]), max_results=-1)
def scores(image):
    data = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.asarray(image))
    found = classifier.classify(data).classifications[0].categories
    return [[category.category_name, category.score] for category in found]
with vision.ImageClassifier.create_from_options(options) as classifier:
    images = [Image.open(path).convert("RGB") for path in sys.argv[3:]]
    side = int(sys.argv[2])
    small = [image.resize((side, side), Image.Resampling.BILINEAR) for image in images]
    print(json.dumps([[scores(image) for image in each] for each in (small, images)]))
"""


def classify_by_mediapipe(model: Path, side: int, files: list[Path]) -> list[list[list[Any]]]:
    """MediaPipe's (name, score) pairs, best first: of images resized by Pillow, and by itself."""
    python = os.environ.get("MEDIAPIPE_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("mediapipe") is None:
        pytest.skip("mediapipe is not installed (MEDIAPIPE_PYTHON may name a Python that has it)")
    done = subprocess.run(
        [python, "-c", MEDIAPIPE, model, str(side), *files],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: list[list[list[Any]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_mobile_resizing_is_that_of_mediapipe(tmp_path: Path) -> None:
    """Through a model that gives its input back as scores."""
    import tensorflow as tf

    side = 12
    entry = keras.Input((side, side, 3), dtype="uint8", name="image")
    scores = keras.layers.Flatten(name="scores")(keras.layers.Rescaling(1 / 255)(entry))
    model = tmp_path / "mirror.tflite"
    names = [str(number) for number in range(side * side * 3)]
    content = bytes(tf.lite.TFLiteConverter.from_keras_model(keras.Model(entry, scores)).convert())
    model.write_bytes(
        metadata.add_metadata(
            content, metadata.ModelInfo("m", "d", names, images.ImageSignature(image.spec(side)))
        )
    )
    random, pictures = np.random.default_rng(0), {}
    for shape in ((12, 12), (36, 30), (8, 8), (20, 17), (50, 70), (123, 99)):
        path = tmp_path / f"{shape}.png"
        pictures[path] = random.integers(0, 256, (*shape, 3), np.uint8)
        Image.fromarray(pictures[path]).save(path)
    _, resized = classify_by_mediapipe(model, side, list(pictures))
    for pixels, pairs in zip(pictures.values(), resized, strict=True):
        received = np.zeros(len(names))
        for name, score in pairs:
            received[int(name)] = 255 * score
        expected = images.mobile_resize(pixels, (side, side))
        np.testing.assert_allclose(received.reshape(expected.shape), expected, atol=0.01)


@pytest.mark.parametrize("name", ["", "-float16", "-dynamic", "-int8"])
def test_mediapipe_opens_every_file_unaided(
    exported: ExportResult, run: runs.Run, name: str
) -> None:
    """An independent reader: with images of the model's size, and with its own resizing."""
    model = exported.path / f"model{name}.tflite"
    proven = json.loads((exported.path / "verify" / "expected.json").read_text())
    files = [exported.path / "verify" / "images" / row["file"] for row in proven["images"]]
    small, resized = (
        [pairs[0][0] for pairs in each] for each in classify_by_mediapipe(model, 64, files)
    )
    expected = [
        proven["class_names"][int(np.argmax(row["probabilities"]))] for row in proven["images"]
    ]
    assert np.mean([a == b for a, b in zip(small, expected, strict=True)]) >= 0.97
    predict = proof.open_tflite(model, 1)
    moved = [images.mobile_resize(image.decode(path.read_bytes()), (64, 64)) for path in files]
    sampled = [run.class_names[int(predict(image[None]).argmax())] for image in moved]
    assert resized == sampled
