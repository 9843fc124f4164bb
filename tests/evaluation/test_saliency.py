import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from keras_transfer import backbones
from keras_transfer.base import errors
from keras_transfer.evaluation import saliency as explain
from keras_transfer.learn import model


@pytest.fixture(scope="module")
def photos():
    """scikit-learn's two photos, 96 px, and one of them mirrored."""
    images = [image[40:400, 100:460][::2, ::2][:160, :160] for image in load_sample_images().images]
    resized = keras.ops.convert_to_numpy(keras.ops.image.resize(np.stack(images), (96, 96)))
    pixels = np.clip(resized, 0, 255).astype(np.uint8)
    return np.concatenate([pixels, pixels[:1, :, ::-1]])


@pytest.fixture(scope="module")
def lite():
    """The offline backbone with its ImageNet weights."""
    return backbones.build("EfficientNetLite0", image_size=96, weights="offline")


def classifier(backbone, levels=0.0):
    keras.utils.set_random_seed(0)
    return model.build_classifier(backbone, 7, levels)


def deep_classifier(backbone):
    """A classifier of somebody's own, whose head is not linear."""
    keras.utils.set_random_seed(0)
    pooled = keras.layers.GlobalAveragePooling2D(name="avg_pool")(backbone.model.output)
    hidden = keras.layers.Dense(32, activation="relu", name="hidden")(pooled)
    return keras.Model(backbone.model.input, keras.layers.Dense(7, name="logits")(hidden))


def scaled(maps):
    maps = np.maximum(maps, 0.0)
    return maps / maps.max(axis=(1, 2), keepdims=True)


def test_with_a_linear_head_it_is_the_class_activation_map(photos, lite):
    built = classifier(lite)
    below = keras.Model(built.input, built.get_layer("avg_pool").input)
    features = keras.ops.convert_to_numpy(below(photos, training=False))
    kernel = keras.ops.convert_to_numpy(built.get_layer("logits").kernel)
    classes = (features.mean(axis=(1, 2)) @ kernel).argmax(axis=1)
    expected = scaled(np.einsum("nhwd,dn->nhw", features, kernel[:, classes]))
    maps = explain.grad_cam(built, photos, classes, batch_size=2)
    assert maps.shape == (3, 3, 3)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=2e-3)


def test_with_any_other_head_it_agrees_with_backpropagation(photos, lite):
    import tensorflow as tf

    built = deep_classifier(lite)
    below = keras.Model(built.input, built.get_layer("avg_pool").input)
    above = keras.Model(built.get_layer("avg_pool").input, built.get_layer("logits").output)
    features = tf.Variable(below(photos, training=False))
    with tf.GradientTape() as tape:
        score = tf.reduce_sum(tf.reduce_max(above(features, training=False), axis=1))
    weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2))
    expected = tf.einsum("nhwd,nd->nhw", features, weights).numpy()
    maps = explain.grad_cam(built, photos)
    assert (expected.max(axis=(1, 2)) > 0).all()
    np.testing.assert_allclose(maps, scaled(expected), atol=0.03)


@pytest.mark.parametrize("layer", ["block7a_project_bn", "block5c_add", None])
def test_with_levels_it_agrees_with_backpropagation(photos, layer, lite):
    import tensorflow as tf

    built = classifier(lite, 1.0)
    model.standardise(built, np.random.default_rng(0).normal(size=(9, 2024)))
    logits = built.get_layer("logits")
    # Through a variable added to the map: what lies beside the map keeps its values.
    name = layer or "avg_pool_top"
    place = built.get_layer(name).output if layer else built.get_layer(name).input
    maps = keras.Model(built.input, place)(photos, training=False)
    change = tf.Variable(tf.zeros_like(maps))

    class Added(keras.layers.Layer):
        def call(self, inputs):
            return inputs + change

    maker = place._keras_history.operation
    shifted = keras.models.clone_model(
        keras.Model(built.input, logits.output),
        call_function=lambda one, *args, **kwargs: (
            Added()(one(*args, **kwargs)) if one.name == maker.name else one(*args, **kwargs)
        ),
        clone_function=lambda one: one,
    )
    with tf.GradientTape() as tape:
        score = tf.reduce_sum(tf.reduce_max(shifted(photos, training=False), axis=1))
    weights = tf.reduce_mean(tape.gradient(score, change), axis=(1, 2))
    expected = tf.einsum("nhwd,nd->nhw", maps, weights).numpy()
    found = explain.grad_cam(built, photos, layer=layer)
    # Above lower maps the finite steps bend a little.
    np.testing.assert_allclose(found, scaled(expected), atol=0.03 if layer is None else 0.1)


def test_the_predicted_class_is_explained_unless_another_is_named(photos, lite):
    built = classifier(lite)
    predicted = np.asarray(built.predict_on_batch(photos)).argmax(axis=1)
    by_default = explain.grad_cam(built, photos)
    np.testing.assert_array_equal(by_default, explain.grad_cam(built, photos, predicted))
    assert np.abs(by_default - explain.grad_cam(built, photos, (predicted + 1) % 7)).max() > 0.1


def test_a_lower_map_can_be_asked_for_by_name(photos, lite):
    maps = explain.grad_cam(classifier(lite), photos[:1], layer="block5c_add")
    assert maps.shape == (1, 6, 6)
    assert maps.max() == 1.0


def test_features_without_a_place_are_refused(photos, lite):
    with pytest.raises(errors.UsageError, match="without height and width"):
        explain.grad_cam(classifier(lite), photos, layer="avg_pool")


def test_no_images_give_no_maps(photos, lite):
    assert explain.grad_cam(classifier(lite), photos[:0]).shape == (0, 3, 3)


def check_every_backbone(name, photos):
    spec = backbones.spec(name)
    size = max(spec.min_size, 64)
    built = classifier(backbones.build(name, image_size=size, weights="none"))
    pixels = np.stack([np.resize(photo, (size, size, 3)) for photo in photos[:2]])
    maps = explain.grad_cam(built, pixels, [1, 1])
    assert maps.ndim == 3
    assert np.isfinite(maps).all()
    assert maps.min() >= 0.0
    assert set(maps.max(axis=(1, 2)).tolist()) <= {0.0, 1.0}
    keras.backend.clear_session()


@pytest.mark.parametrize("name", ["ConvNeXtTiny", "ResNet50"])
def test_grad_cam_runs_on_families_of_the_registry(name, photos):
    check_every_backbone(name, photos)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [row["name"] for row in backbones.listing() if row["modality"] == "image"]
)
def test_grad_cam_runs_on_every_backbone_of_the_registry(name, photos):
    check_every_backbone(name, photos)


TOKENS = 9


def reader(masked="", dropout=0.0):
    """A classifier of token ids, 0 being padding, whose head is not linear."""
    keras.utils.set_random_seed(3)
    ids = keras.Input((TOKENS,), dtype="int32", name="ids")
    embedding = keras.layers.Embedding(
        40, 6, keras.initializers.RandomNormal(stddev=1.0), mask_zero=masked == "by Keras",
        name="words",
    )  # fmt: skip
    states = keras.layers.Dense(6, activation="tanh")(embedding(ids))
    states = keras.layers.Dropout(dropout)(states)
    given = keras.ops.not_equal(ids, 0) if masked == "in the graph" else None
    pooled = keras.layers.GlobalAveragePooling1D(name="avg_pool")(states, mask=given)
    hidden = keras.layers.Dense(8, activation="tanh")(pooled)
    logits = keras.layers.Dense(4, name="logits")(hidden)
    scaled = keras.layers.Rescaling(1.0, name="temperature")(logits)
    return keras.Model(ids, keras.layers.Softmax(name="probabilities")(scaled))


def by_differences(built, ids, chosen, step=1e-2):
    """How the logit changes as the one row of the table that a place reads is scaled."""
    logits = keras.Model(built.input, built.get_layer("logits").output)
    layer = built.get_layer("words")
    (table,) = layer.get_weights()
    slopes = np.zeros(len(ids))
    for place, token in enumerate(ids):
        ends = []
        for factor in (1 + step, 1 - step):
            scaled = table.copy()
            scaled[token] *= factor
            layer.set_weights([scaled])
            ends.append(float(logits(ids[None], training=False)[0, chosen]))
        slopes[place] = (ends[0] - ends[1]) / (2 * step)
    layer.set_weights([table])
    return slopes


@pytest.mark.parametrize(
    ("masked", "dropout"), [("", 0.0), ("by Keras", 0.0), ("in the graph", 0.0), ("", 0.5)]
)
def test_of_tokens_it_is_the_slope_along_their_embeddings(masked, dropout):
    built = reader(masked, dropout)
    # No id twice in a text, but for the padding: a row of the table is a place.
    ids = np.array([[5, 9, 31, 2, 17, 8, 11, 12, 13], [3, 1, 4, 15, 39, 26, 35, 8, 7]], np.int32)
    ids[0, 6:] *= not masked
    seen = []
    for chosen in range(4):
        found = explain.explain(built, ids, [chosen, chosen])
        assert (found.shape, found.dtype) == ((2, TOKENS), np.float32)
        slopes = np.stack([by_differences(built, text, chosen) for text in ids])
        largest = np.maximum(slopes.max(axis=1, keepdims=True), 0.0)
        expected = np.maximum(slopes, 0.0) / np.where(largest, largest, 1.0)
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert set(found.max(axis=1)) <= {np.float32(0), np.float32(1)}
        seen += [*found]
    assert len({row.argmax() for row in seen}) > 2


def test_to_explain_leaves_a_classifier_as_it_was():
    built = reader("in the graph", 0.5)
    built.get_layer("words").trainable = False
    ids = np.arange(1, 1 + 2 * TOKENS, dtype=np.int32).reshape(2, TOKENS)
    before, answers = built.get_weights(), np.asarray(built(ids, training=False))
    explain.explain(built, ids, [0, 3])
    assert all(map(np.array_equal, before, built.get_weights()))
    assert [layer.name for layer in built.layers if not layer.trainable] == ["words"]
    np.testing.assert_array_equal(built(ids, training=False), answers)


def test_images_are_explained_on_a_finer_map_by_contrast(photos, lite):
    import tensorflow as tf

    built = classifier(lite, 1.0)
    model.standardise(built, np.random.default_rng(0).normal(size=(9, 2024)))
    maps = explain.explain(built, photos, [1, 2, 3])
    assert maps.shape == (3, 6, 6)  # where Grad-CAM has 3 by 3
    assert maps.max(axis=(1, 2)).tolist() == [1.0] * 3
    below, above = explain._finer(built)
    features, *held = below(photos, training=False)
    features = tf.Variable(features)
    with tf.GradientTape() as tape:
        logits = above([features, *held])
        own = tf.one_hot([1, 2, 3], 7)
        others = tf.reduce_logsumexp(logits - 1e9 * own, axis=1)
        score = tf.reduce_sum(tf.reduce_sum(own * logits, axis=1) - others)
    product = features * tape.gradient(score, features)
    expected = tf.reduce_sum(tf.nn.relu(product), -1).numpy()
    np.testing.assert_allclose(maps, scaled(expected), atol=2e-3)


@pytest.mark.slow
def test_it_points_at_the_object_more_often_than_the_centre_is_on_it(monkeypatch):
    """The pointing game on digits that lie anywhere, each explained as its own class."""
    from keras_transfer import training

    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    pointing = importlib.import_module("pointing")
    data = pointing.digits(64, 24, np.random.default_rng(0))
    few = pointing.Composed(*(part[:420] for part in data[:3]), data.side)
    run = training.train(
        (few.pictures, few.labels), image_size=64, effort="quick", seed=0, split=(0.6, 0.2, 0.2)
    )
    found = {one.tobytes(): i for i, one in enumerate(few.pictures)}
    test = [found[one.tobytes()] for one in run.dataset.examples[run.dataset.indices("test")]]
    right = np.array(test)[run.test_probabilities.argmax(1) == few.labels[test]]
    game = pointing.Composed(*(part[right] for part in few[:3]), few.side)
    maps = explain.explain(run.model, game.pictures, game.labels)
    assert len(right) > 30
    assert pointing.hit(maps, game).mean() > pointing.centre(game).mean() + 0.2
    topmost = explain.grad_cam(run.model, game.pictures, game.labels)
    assert pointing.hit(maps, game).mean() > pointing.hit(topmost, game).mean()


def test_a_map_made_of_samples_is_explained_by_grad_cam():
    keras.utils.set_random_seed(0)
    samples = keras.Input((64,), name="samples")
    frames = keras.layers.Reshape((8, 8, 1))(keras.layers.Reshape((64, 1))(samples))
    maps = keras.layers.Conv2D(3, 3, activation="relu")(frames)
    pooled = keras.layers.GlobalAveragePooling2D(name="avg_pool")(maps)
    built = keras.Model(samples, keras.layers.Dense(2, name="logits")(pooled))
    given = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    assert explain.explain(built, given, [0, 1]).shape == (2, 6, 6)


def test_what_has_no_places_is_refused():
    features = keras.Input((5,), name="features")
    pooled = keras.layers.Activation("linear", name="avg_pool")(features)
    built = keras.Model(features, keras.layers.Dense(2, name="logits")(pooled))
    with pytest.raises(errors.UsageError, match="without height and width"):
        explain.explain(built, np.zeros((1, 5), np.float32), [0])
