"""The recipe as an estimator of scikit-learn, for its pipelines and its cross-validation."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from keras_transfer import backbones, datasets, preparation, training
from keras_transfer.base.errors import DataError, ExampleError
from keras_transfer.base.task import ONE, SEVERAL, one_label_alone
from keras_transfer.datasets.items import named_items
from keras_transfer.datasets.sources import read_file
from keras_transfer.frozen.engine import predict_probabilities
from keras_transfer.modalities import modality
from keras_transfer.recipe import SETTINGS, check_names, resolve, spelled_out


class TransferClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of images, texts or sounds with the interface of scikit-learn.

    It takes no tables of numbers: ``X`` is a list of paths, texts, pictures or arrays, or one array
    ``[images, height, width, channels]``. All of it is trained on but for a share on which the
    recipe chooses (``split``); the test is left to whoever cross-validates.

    Args:
        image_fit: the setting ``fit``, whose name is that of a method here.
        settings: any other field of ``Recipe`` by name, as for ``train``.

    Attributes:
        classes_: the classes in the order of the columns of ``predict_proba``.
        model_: the deployable ``keras.Model``.
        modality_: what its examples are.

    Raises:
        UsageError: there is no such setting.
    """

    classes_: np.ndarray
    model_: Any
    modality_: str

    @functools.partial(spelled_out, without={"fit"})
    def __init__(self, *, image_fit: str | None = None, **settings: Any) -> None:
        check_names(settings, "TransferClassifier")
        self.image_fit = image_fit
        for name in SETTINGS.keys() - {"fit"}:
            setattr(self, name, settings.get(name))

    def fit(self, X: Any, y: Any) -> TransferClassifier:
        """Trains on examples ``X`` and their labels ``y``.

        Raises:
            DataError: they are no examples, or do not fit each other.
        """
        several = np.ndim(y) == 2 and np.shape(y)[1] > 1
        one_label_alone(SEVERAL if several or self._several() else ONE, "TransferClassifier")
        check_classification_targets(y)
        classes, numbers = np.unique(np.asarray(y), return_inverse=True)
        names = [str(one) for one in classes]
        source = datasets.open_source((X, numbers), class_names=names, multi_label="off")
        form = modality(source.modality)
        asked = self._settings() | {"multi_label": "off"}
        recipe = resolve(asked, efforts=form.EFFORTS)
        size = preparation.size_of(recipe, source, backbones.spec(recipe.backbone))
        data = preparation.load(source, dataclasses.replace(recipe, **{form.SIZE: size}))
        splits = np.where(data.splits == "test", "train", data.splits)
        data = dataclasses.replace(data, splits=splits)
        model = training.train(data, judge=False, **asked).model
        kept = classes[[names.index(name) for name in data.class_names]]
        # As scikit-learn has it: what ends with _ is there once it is fitted.
        self.__dict__.update(model_=model, modality_=source.modality, classes_=kept)
        return self

    def _several(self) -> bool:
        return self._settings().get("multi_label") == "on"

    def _settings(self) -> dict[str, Any]:
        """What was given, by the names of settings."""
        given = self.get_params()
        given["fit"] = given.pop("image_fit")
        return {name: value for name, value in given.items() if value is not None}

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities float32 ``[examples, classes]``.

        Raises:
            DataError: one of the examples cannot be read.
        """
        check_is_fitted(self)
        form = modality(self.modality_)
        found: Any = form.spec_of(self.model_.input_shape[1:], self.model_.input.dtype)
        spec = found.fitted(self.image_fit)
        examples = []
        for name, data in named_items(form, spec, X):
            try:
                with warnings.catch_warnings(action="ignore"):
                    encoded = read_file(name) if data is None else data
                    examples.append(form.decode(encoded, spec))
            except ExampleError as error:
                problem = f"{name} cannot be read: {error.message}."
                raise DataError(problem, remedy="Leave it out.") from None
        return predict_probabilities(self.model_, np.stack(examples))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each example."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # no tables of numbers
        return tags
