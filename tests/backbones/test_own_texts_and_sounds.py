"""Functional models of texts and of sounds train as the listed ones do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import sounding
from keras import layers, ops

import keras_transfer as kt
from keras_transfer.base.errors import UsageError
from keras_transfer.evaluation.saliency import explain
from keras_transfer.modalities import text
from keras_transfer.modalities.text.tokens import VOCABULARY, WORDS

TEXTS = (b"The inverse of a matrix.", b"Rotates an image around its centre, by an angle.")


def encoder(tokens: int | None = None, words: int = WORDS, kind: str = "int32") -> keras.Model:
    """A small transformer of random weights, fed as KerasHub's are."""
    keras.utils.set_random_seed(1)
    ids = keras.Input((tokens,), dtype=kind, name="token_ids")
    mask = keras.Input((tokens,), dtype="int32", name="padding_mask")
    segments = keras.Input((tokens,), dtype="int32", name="segment_ids")
    x = layers.Embedding(words, 16)(ids) + layers.Embedding(2, 16)(segments)
    for _ in range(2):
        y = layers.MultiHeadAttention(2, 8)(x, x, attention_mask=ops.expand_dims(mask, 1))
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(16)(y)]))
    inputs = {"token_ids": ids, "padding_mask": mask, "segment_ids": segments}
    pooled = layers.Dense(16, activation="tanh")(x[:, 0])
    return keras.Model(inputs, {"pooled_output": pooled, "sequence_output": x}, name="encoder")


def read(count: int) -> np.ndarray:
    return np.stack([text.decode(one, text.spec(count)) for one in TEXTS])


def check_parts(built: Any, examples: np.ndarray) -> np.ndarray:
    """What it gives, the same in one piece and cut above each block."""
    whole = np.asarray(built.model(examples))
    for block in built.blocks[:-1]:
        below, above = kt.split(built.model, block.cut)
        np.testing.assert_allclose(above(below(examples)), whole, atol=1e-6)
    return whole


def test_an_encoder_is_fed_by_the_names_of_its_inputs_and_cut_beside_the_mask() -> None:
    network, ids = encoder(), read(24)
    built = kt.build(network, image_size=24)
    assert built.spec.modality == "text"
    assert [len(block.cut) for block in built.blocks] == [2, 2, 1]
    assert built.blocks[0].macs == 0  # the embeddings by themselves, which 95 % leaves as they are
    mask = (ids > 0).astype("int32")
    given = {"token_ids": ids, "padding_mask": mask, "segment_ids": 0 * ids}
    expected = np.asarray(network(given)["sequence_output"]) * mask[..., None]
    np.testing.assert_allclose(check_parts(built, ids), expected, atol=1e-6)
    assert kt.build(encoder(), image_size=24).blocks == built.blocks  # names of the process or not


def test_ids_alone_do_and_padding_is_not_averaged() -> None:
    ids = keras.Input((None,), dtype="int64")
    x = layers.Conv1D(8, 3, padding="same")(layers.Embedding(WORDS, 8)(ids))
    built = kt.build(keras.Model(ids, x), preprocessing=str(VOCABULARY))
    assert built.size == "256 ids"
    check_parts(built, read(256))
    model = kt.build_classifier(built, 2)
    short, long = (np.pad(read(24), ((0, 0), (0, 232))), read(256))
    np.testing.assert_allclose(model(short), model(long), atol=1e-6)
    found = explain(model, long, [0, 1])
    assert found.shape == (2, 256)
    assert not found[:, 24:].any()
    pooled = layers.GlobalAveragePooling1D()(x)
    vector = kt.build(keras.Model(ids, pooled), image_size=24)
    assert vector.model.output_shape == (None, 8)


def waves(samples: int | None, *axes: int, kind: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((samples, *axes), dtype=kind)
    x = ops.cast(inputs, "float32") / 32768 if kind == "int16" else inputs
    x = x if axes else ops.expand_dims(x, -1)
    for filters in (8, 16, 32):
        x = layers.BatchNormalization()(layers.Conv1D(filters, 9, strides=8)(x))
        x = layers.ReLU()(x)
    return keras.Model(inputs, x, name="waves")


@pytest.mark.parametrize("shape", [(16_000,), (16_000, 1), (None,)])
@pytest.mark.parametrize("kind", ["float32", "float16", "int16"])
def test_samples_come_in_the_shape_and_the_levels_of_the_input(shape: Any, kind: str) -> None:
    network = waves(*shape, kind=kind)
    built = kt.build(network, image_size=None if shape[0] else 1.0)
    assert (built.spec.modality, built.size) == ("audio", "16000 samples")
    assert [block.name for block in built.blocks] == ["block1", "block2", "block3"]
    sound = np.stack([sounding.melody(i, 1.0) for i in range(2)]).astype("float32")
    levels = (sound * 32768).astype("int16") if kind == "int16" else sound.astype(kind)
    expected = network(levels.reshape(2, *(side or 16_000 for side in shape)))
    np.testing.assert_allclose(check_parts(built, sound), expected, atol=1e-2)
    loud = kt.build(network, preprocessing="int16", image_size=None if shape[0] else 1.0)
    factor = 1 if kind == "int16" else 32768
    np.testing.assert_allclose(loud.model(sound / factor), built.model(sound), rtol=1e-4, atol=1e-5)


class Normed(layers.Layer):
    """A BatchNormalization out of the package's sight."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.norm = layers.BatchNormalization()

    def call(self, x: Any) -> Any:
        return self.norm(x)


def on_ids(put: Callable[[Any], Any]) -> keras.Model:
    ids = keras.Input((24,), dtype="int32")
    return keras.Model(ids, put(ids), name="odd")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: encoder(words=50_265), r"encoder knows 50,265 words \(embedding.*: 30,522"),
        (lambda: encoder(tokens=600), "length of texts must be 3 to 512"),
        (lambda: encoder(kind="float32"), "has inputs and outputs of shapes"),
        (lambda: on_ids(layers.Embedding(WORDS, 4, mask_zero=True)), "hands on a mask from embed"),
        (lambda: on_ids(lambda x: Normed()(layers.Embedding(WORDS, 4)(x))),
         "has a BatchNormalization within normed"),
        (lambda: on_ids(lambda x: [layers.Embedding(WORDS, 4)(x)[:, i] for i in (0, 1)]),
         r"odd gives \[\(None, 4\), \(None, 4\)\]"),
        (lambda: waves(8_000), "length of clips must be 0.8 to 30 s"),
        (lambda: waves(16_000, 2), "has inputs and outputs of shapes"),
    ],
)  # fmt: skip
def test_what_cannot_be_fed_is_refused(make: Callable[[], keras.Model], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        kt.build(make())
    assert caught.value.remedy


def test_another_vocabulary_and_other_levels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\nwords\nof\nlaw")
    with pytest.raises(UsageError, match=r"vocab.txt is not that vocabulary"):
        kt.build(encoder(), preprocessing=str(tmp_path / "vocab.txt"))
    with pytest.raises(UsageError, match=r"Unknown preprocessing 'int61'\. Did you mean int16"):
        kt.build(waves(None), preprocessing="int61")


@pytest.mark.slow
def test_a_run_of_texts_is_complete(texts_table: Path, tmp_path: Path) -> None:
    network = encoder()
    how: dict[str, Any] = {"fine_tune_epochs": 1, "group": "page", "seed": 3}
    result = kt.train(texts_table, backbone=network, output=tmp_path / "run", **how)
    assert result.config["backbone"] == "own-encoder"
    length = result.config["max_length"]
    assert 16 <= length < 256  # by the texts
    assert result.evaluation.accuracy > 0.4
    assert result.model.input_shape == (None, length)
    kept = str(tmp_path / "run" / "backbone.keras")
    again = kt.train(texts_table, backbone=kept, **how)
    np.testing.assert_allclose(again.test_probabilities, result.test_probabilities, atol=1e-5)
    cut = kt.train(texts_table, backbone=network, max_length=16, unfreeze="none", **how)
    assert cut.model.input_shape == (None, 16)
    with pytest.raises(UsageError, match=r"own-encoder takes texts, and .* holds images"):
        kt.train("builtin:digits", backbone=network)

    (answer,) = kt.predict(tmp_path / "run", "The inverse of a matrix.")
    assert answer["classes"][0]["label"] in result.class_names
    rows = [json.loads(line) for line in texts_table.read_text().splitlines()[::4]]
    more = [{**row, "text": f"{number}: {row['text']}"} for number, row in enumerate(rows)]
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, more)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kt.backbones, "spec", lambda name: pytest.fail("it is in no list"))
        done = kt.update(tmp_path / "run", tmp_path / "more.jsonl", output=tmp_path / "updated")
    assert done.added
    assert done.run.config["weights_digest"] == result.config["weights_digest"]


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """Three kinds of sounds by how they swell, twelve of each."""
    for kind in range(3):
        (folder := tmp_path / "tones" / f"kind-{kind}").mkdir(parents=True)
        for number in range(12):
            sound = sounding.melody(100 * kind + number, 0.9)
            swelling = np.sin(np.arange(len(sound)) * 1e-3 * (5 * kind + 1))
            (folder / f"{number}.wav").write_bytes(sounding.written(sound * swelling))
    return tmp_path / "tones"


def test_a_run_of_sounds_is_proven_when_it_is_exported(tones: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"fine_tune_epochs": 1, "unfreeze": 1, "split": "0.5,0.25,0.25"}
    run = kt.train(tones, backbone=waves(None, 1), output=tmp_path / "run", **how)
    assert (run.config["backbone"], run.config["clip_length"]) == ("own-waves", 1.5)
    assert kt.export_run(run, "tflite", tmp_path / "export").passed
    assert kt.verify(tmp_path / "export").passed
    assert kt.predict(tmp_path / "export", tones / "kind-1" / "3.wav")[0]["classes"]


def test_a_network_of_keras_hub(texts_table: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("keras_hub")
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
    ids = read(24)
    given = {"token_ids": ids, "padding_mask": (ids > 0).astype("int32"), "segment_ids": 0 * ids}
    for kind in (hub.models.DistilBertBackbone, hub.models.BertBackbone):
        network = kind(WORDS, max_sequence_length=32, **sizes)
        built = kt.build(network, image_size=24)
        outputs = network({one.name: given[one.name] for one in network.inputs})
        outputs = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
        expected = np.asarray(outputs) * given["padding_mask"][..., None]
        np.testing.assert_allclose(check_parts(built, ids), expected, atol=1e-6)
        assert [block.macs for block in built.blocks] == [0, 233472, 233472]
    run = kt.train(texts_table, backbone=network, output=tmp_path / "run", fine_tune_epochs=1)
    assert run.config["max_length"] == 32  # and no more than it has positions
    assert kt.open_run(tmp_path / "run").model.input_shape == (None, 32)
    assert kt.export_run(run, "tflite", tmp_path / "export").passed
    with pytest.raises(UsageError, match=r"is a keras_hub\.\S+, which only your own code can load"):
        kt.export_run(run, "keras", tmp_path / "another")
