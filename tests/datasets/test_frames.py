"""DataFrames of pandas itself, as data and in scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.base.errors import DataError

pd = pytest.importorskip("pandas")

HOW: dict[str, Any] = {
    "image_size": 32, "backbone": "MobileNetV3Small", "weights": "none", "unfreeze": "none",
    "effort": "quick", "levels": 1.0,
}  # fmt: skip
"""Solved on features of random weights: quick, and far better than chance on digits."""
OF_TEXTS: dict[str, Any] = {"unfreeze": "none", "effort": "quick", "max_length": 16}


@pytest.fixture
def images(digits_folder: Path) -> Any:
    """A row a file, the index of another table."""
    paths = sorted(digits_folder.glob("digit-[013]/*.png"))
    columns = {"path": map(str, paths), "label": [path.parent.name for path in paths]}
    return pd.DataFrame(columns, index=np.arange(1000, 1000 + len(paths)))


@pytest.fixture
def texts(texts_table: Path) -> Any:
    return pd.DataFrame(map(json.loads, texts_table.read_text().splitlines()))


def categorical(table: Any) -> Any:
    return table.assign(label=table["label"].astype("category"))


def whole(table: Any) -> Any:
    return table.assign(label=[int(name[-1]) for name in table["label"]])


def typed(table: Any) -> Any:
    return table.astype({"path": "string", "label": "string"})


def of_paths(table: Any) -> Any:
    return table.assign(path=[Path(path) for path in table["path"]])


@pytest.mark.parametrize("other", [categorical, whole, typed, of_paths], ids=lambda f: f.__name__)
def test_columns_of_every_type_are_read_alike(images, other) -> None:
    plain, found = kt.load_dataset(images), kt.load_dataset(other(images))
    assert len(plain) > 100
    assert found.digests == plain.digests
    assert (found.labels == plain.labels).all()
    assert [name[-1] for name in found.class_names] == ["0", "1", "3"]
    assert found.splits.tolist() == plain.splits.tolist()


def test_splits_and_groups_stand_in_columns(images) -> None:
    given = ["train", "val", "test"] * (len(images) // 3)
    assert kt.load_dataset(images.assign(split=given)).splits.tolist() == given
    grouped = images.assign(group=np.arange(len(images)) // 4)
    found = kt.load_dataset(grouped)
    for rows in np.arange(len(images)).reshape(-1, 4):
        assert len(set(found.splits[rows])) == 1


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_row_without_a_label_is_left_out(images, missing) -> None:
    labels = images["label"].astype(object)
    labels.iloc[2] = missing
    found = kt.load_dataset(images.assign(label=labels))
    assert len(found) == len(images) - 1
    assert [one.reason for one in found.findings if one.kind == "unlabelled"] == ["row 2: no label"]
    with pytest.raises(DataError, match="has no column 'label'"):
        kt.load_dataset(images[["path"]])


def test_it_is_trained_on(images, texts) -> None:
    result = kt.train(images, **HOW)
    assert result.evaluation.accuracy > 0.6
    assert {row["path"] for row in result.predictions} < set(images["path"])
    rows = kt.predict(result, images["path"].iloc[:3])
    assert [row["image"] for row in rows] == list(images["path"])[:3]
    assert kt.predict(result, images[["path"]].iloc[:3]) == rows
    with pytest.raises(DataError, match="A table of 2 columns was given as examples"):
        kt.predict(result, images)
    words = kt.train(texts.rename(columns={"page": "group"}), **OF_TEXTS)
    assert words.dataset.modality == "text"
    assert words.evaluation.accuracy > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["category", "string", object])
def test_an_estimator_takes_columns(images, kind) -> None:
    names = images["label"].astype(kind)
    fitted = kt.TransferClassifier(**HOW).fit(images["path"], names)
    assert fitted.classes_.tolist() == ["digit-0", "digit-1", "digit-3"]
    found = fitted.predict_proba(images["path"])
    assert fitted.score(images["path"], names) > 0.6
    if kind is object:  # a table of one column, as a ColumnTransformer hands on
        table = images[["path"]]
        again = kt.TransferClassifier(**HOW).fit(table, names).predict_proba(table)
        np.testing.assert_allclose(again, found, atol=1e-6)
        with pytest.raises(DataError, match="A table of 2 columns was given") as caught:
            kt.TransferClassifier(**HOW).fit(images, names)
        assert "table['path']" in caught.value.remedy


def test_an_estimator_takes_columns_of_0_and_1(images) -> None:
    matrix = pd.get_dummies(images["label"]).astype(int)
    fitted = kt.TransferClassifier(**HOW).fit(images["path"], matrix)
    answers = fitted.predict(images["path"])
    assert answers.shape == matrix.shape
    assert (answers == matrix.to_numpy()).mean() > 0.7


def test_texts_are_validated_in_scikit_learn(texts) -> None:
    from sklearn.model_selection import cross_val_score

    scores = cross_val_score(
        kt.TransferClassifier(**OF_TEXTS), texts["text"], texts["label"], cv=2, error_score="raise"
    )
    assert scores.mean() > 0.6
    gone = pd.concat([texts["text"].iloc[1:], pd.Series([None])])
    with pytest.raises(DataError, match=r"text 71 is (None|nan), a"):
        kt.TransferClassifier(**OF_TEXTS).fit(gone, texts["label"])
