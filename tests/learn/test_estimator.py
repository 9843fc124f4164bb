"""``TransferClassifier`` is scikit-learn's kind of estimator, as far as one of no tables can be."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

import keras_transfer as kt
from keras_transfer.base.errors import DataError, UsageError

HOW = {
    "backbone": "MobileNetV3Small", "weights": "none", "image_size": 32, "unfreeze": "none",
    "views": 1, "seed": 3,
}  # fmt: skip

TABLE = "it fits a table of numbers, and these are rows of numbers and no images"
WITHOUT_TABLES = {
    "check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types",
    "check_estimator_repr", "check_no_attributes_set_in_init", "check_complex_data",
    "check_classifiers_regression_target", "check_supervised_y_no_nan", "check_requires_y_none",
    "check_decision_proba_consistency",
    "check_estimators_unfitted", "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order", "check_parameters_default_constructible", "check_get_params_invariance",
    "check_set_params", "check_estimator_sparse_tag",
}  # fmt: skip
"""The checks of ``check_estimator`` that need no table; all others are expected to fail."""


class OnTables(kt.TransferClassifier):
    """Says that it takes tables, without which scikit-learn would check nothing."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


def test_the_checks_of_scikit_learn_pass_where_no_table_is_needed():
    estimator = OnTables(**HOW)
    names = {
        getattr(check, "func", check).__name__
        for check in estimator_checks._yield_all_checks(estimator, legacy=True)
    }
    expected = dict.fromkeys(names - WITHOUT_TABLES, TABLE)
    found = estimator_checks.check_estimator(
        estimator, expected_failed_checks=expected, on_skip=None, on_fail=None
    )
    failed = {row["check_name"]: row["exception"] for row in found if row["status"] == "failed"}
    assert failed == {}
    passed = {row["check_name"] for row in found if row["status"] == "passed"}
    assert passed >= WITHOUT_TABLES


def test_parameters_are_the_settings():
    made = kt.TransferClassifier(unfreeze="12%", time_budget="10m")
    assert made.get_params()["unfreeze"] == "12%"
    again = clone(made.set_params(seed=4))
    assert again.get_params() == made.get_params()
    assert is_classifier(made)
    with pytest.raises(UsageError, match="Did you mean unfreeze"):
        kt.TransferClassifier(unfreez="12%")


def test_it_fits_paths_and_arrays_and_says_the_same_of_both(digits_folder: Path):
    from PIL import Image

    paths = [str(path) for path in sorted(digits_folder.glob("digit-[013]/0[01]*.png"))]
    labels = np.array([int(Path(path).parent.name[-1]) for path in paths])
    fitted = kt.TransferClassifier(**HOW).fit(paths, labels)
    assert fitted.classes_.tolist() == [0, 1, 3]
    found = fitted.predict_proba(paths)
    assert found.shape == (len(paths), 3)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (fitted.predict(paths) == fitted.classes_[found.argmax(axis=1)]).all()
    assert fitted.score(paths, labels) == np.mean(fitted.predict(paths) == labels)
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_allclose(fitted.predict_proba(list(images)), found, atol=1e-6)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict_proba(paths[:3]), found[:3], atol=1e-6)
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        fitted.predict([*paths, "gone.png"])


def test_a_matrix_of_0_and_1_is_several_labels():
    from sklearn.datasets import load_digits
    from sklearn.metrics import accuracy_score

    held = load_digits(n_class=3)
    pairs = np.random.default_rng(0).integers(len(held.images), size=(80, 2))
    images = (held.images[pairs].transpose(0, 2, 1, 3).reshape(80, 8, 16) * (255 / 16))[..., None]
    labels = (held.target[pairs][..., None] == np.arange(3)).any(axis=1).astype(int)
    estimator = kt.TransferClassifier(**HOW)
    assert estimator.__sklearn_tags__().classifier_tags.multi_label
    fitted = estimator.fit(list(images.astype(np.uint8)), labels)
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert len(fitted.thresholds_) == 3
    fitted.thresholds_ = (0.3, 0.6, 0.45)
    scores, answers = (way(images) for way in (fitted.predict_proba, fitted.predict))
    assert (answers == (scores >= fitted.thresholds_)).all()
    assert (answers != (scores >= 0.5)).any()
    assert scores.sum(axis=1).max() > 1.1  # they do not exclude each other
    assert fitted.score(images, labels) == accuracy_score(labels, answers)
    with pytest.raises(DataError, match="Column 1 of y has no 1"):
        fitted.fit(list(images), labels * [1, 0, 1])
    with pytest.raises(UsageError, match="multi_label is 'off', and y says 'on'"):
        kt.TransferClassifier(**HOW, multi_label="off").fit(list(images), labels)


@pytest.mark.slow
def test_cross_validation_of_a_pipeline(digits_folder: Path):
    paths = np.array(sorted(map(str, digits_folder.glob("digit-[01]/0[01]*.png"))))
    labels = np.array([Path(path).parent.name for path in paths])
    seen = []
    steps = make_pipeline(
        FunctionTransformer(lambda X: seen.append(len(X)) or list(X)),
        kt.TransferClassifier(**HOW),
    )
    scores = cross_val_score(steps, paths, labels, cv=2, error_score="raise")
    assert len(scores) == 2
    assert seen == [20, 20, 20, 20]


def test_a_model_of_ones_own_is_a_backbone_and_the_estimator_one_line(digits_folder: Path):
    import keras

    pixels = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(8, 3, strides=2, name="block1_conv")(x)
    network = keras.Model(pixels, x, name="a_network_of_somebody_who_likes_long_names")
    made = kt.TransferClassifier(backbone=network, effort="quick", unfreeze="none", image_size=32)
    shown = repr(made)
    assert shown.startswith("TransferClassifier(backbone=<Functional name=a_network_of_somebody")
    assert shown.endswith("effort='quick', image_size=32, unfreeze='none')")
    paths = sorted(map(str, digits_folder.glob("digit-[013]/0[01]*.png")))
    names = [Path(path).parent.name for path in paths]
    fitted = clone(made).fit(paths, names)
    assert fitted.model_.input_shape == (None, 32, 32, 3)
    given = fitted.model_.get_layer("block1_conv").get_weights()
    for mine, was in zip(given, network.layers[-1].get_weights(), strict=True):
        np.testing.assert_array_equal(mine, was)
    assert fitted.score(paths, names) > 0.5
    built = kt.build(network, image_size=32)
    again = kt.TransferClassifier(**{**made.get_params(), "backbone": built}).fit(paths, names)
    np.testing.assert_allclose(again.predict_proba(paths), fitted.predict_proba(paths), atol=1e-5)
