"""The recipe as an estimator of scikit-learn, for its pipelines and its cross-validation."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any, Literal

import keras
import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from keras_transfer import backbones, datasets, preparation, training
from keras_transfer.base.errors import DataError, ExampleError, UsageError
from keras_transfer.base.task import TASKS, task_of_model
from keras_transfer.datasets.items import Items, column, named_items
from keras_transfer.datasets.sources import read_file
from keras_transfer.frozen.engine import predict_probabilities
from keras_transfer.modalities import modality
from keras_transfer.recipe import SETTINGS, check_names, resolve, spelled_out


class TransferClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of images, texts or sounds with the interface of scikit-learn.

    It takes no tables of numbers: ``X`` is a list of paths, texts, pictures or arrays, or one array
    ``[images, height, width, channels]``. All of it is trained on but for a share on which the
    recipe chooses (``split``); the test is left to whoever cross-validates. Where ``y`` is a matrix
    of 0 and 1 ``[examples, classes]``, an example may have several classes, and ``predict`` gives
    such a matrix.

    Args:
        image_fit: the setting ``fit``, whose name is that of a method here.
        settings: any other field of ``Recipe`` by name, as for ``train``; ``backbone`` may be a
            model, too.

    Attributes:
        classes_: the classes in the order of the columns of ``predict_proba``; of a matrix the
            numbers of its columns.
        thresholds_: of a matrix ``y`` the probability from which on each class is answered.
        model_: the deployable ``keras.Model``.
        modality_: what its examples are.

    Raises:
        UsageError: there is no such setting.
    """

    classes_: np.ndarray
    thresholds_: tuple[float, ...]
    model_: keras.Model
    modality_: str

    @functools.partial(spelled_out, without={"fit"})
    def __init__(self, *, image_fit: Literal["squash", "crop", "pad"] | None = None,
                 **settings: Any) -> None:  # fmt: skip
        check_names(settings, "TransferClassifier")
        self.image_fit = image_fit
        for name in SETTINGS.keys() - {"fit"}:
            setattr(self, name, settings.get(name))

    def fit(self, X: Items, y: Any) -> TransferClassifier:
        """Trains on examples ``X`` and their labels ``y``.

        Raises:
            DataError: they are no examples, or do not fit each other.
            UsageError: ``multi_label`` says otherwise than ``y``.
        """
        check_classification_targets(y)
        several = type_of_target(y) == "multilabel-indicator"
        task, given = TASKS["on" if several else "off"], y.toarray() if issparse(y) else y
        classes, labels = np.unique(np.asarray(given), return_inverse=True)
        if several:
            labels = np.asarray(given, np.uint8)
            classes, there = np.arange(labels.shape[1]), labels.any(axis=0)
            if not there.all():
                problem = f"Column {there.argmin()} of y has no 1."
                raise DataError(problem, remedy="Leave it out.")
        asked = self._settings()
        if asked.setdefault("multi_label", "auto") not in ("auto", task.setting):
            problem = f"multi_label is {asked['multi_label']!r}, and y says {task.setting!r}."
            raise UsageError(problem, remedy="Leave it out: a matrix of 0 and 1 has several.")
        asked["multi_label"] = task.setting
        names = [str(one) for one in classes]
        given = column(X), labels
        source = datasets.open_source(given, class_names=names, multi_label=task.setting)
        form = modality(source.modality)
        built = preparation.given_backbone(asked.get("backbone"), asked)
        named = {"backbone": built.spec.name, "weights": built.weights} if built else {}
        recipe = resolve(asked | named, efforts=form.EFFORTS)
        spec = built.spec if built else backbones.spec(recipe.backbone)
        size = preparation.size_of(recipe, source, spec, built)
        data = preparation.load(source, dataclasses.replace(recipe, **{form.SIZE: size}))
        splits = np.where(data.splits == "test", "train", data.splits)
        data = dataclasses.replace(data, splits=splits)
        done = training.train(data, judge=False, **asked | ({"backbone": built} if built else {}))
        kept = classes[[names.index(name) for name in data.class_names]]
        # As scikit-learn has it: what ends with _ is there once it is fitted.
        self.__dict__.update(
            model_=done.model, modality_=source.modality, classes_=kept, thresholds_=done.thresholds
        )
        return self

    def _settings(self) -> dict[str, Any]:
        """What was given, by the names of settings."""
        given = self.get_params()
        given["fit"] = given.pop("image_fit")
        return {name: value for name, value in given.items() if value is not None}

    def predict_proba(self, X: Items) -> np.ndarray:
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

    def predict(self, X: Items) -> np.ndarray:
        """The most probable class of each example; or 0 and 1 in int64 ``[examples, classes]``."""
        scores, task = self.predict_proba(X), task_of_model(self.model_)
        answers = task.answers(scores, self.thresholds_)
        return self.classes_[answers] if task.exclusive else answers.astype(np.int64)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return " ".join(super().__repr__(N_CHAR_MAX).split())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # no tables of numbers
        tags.classifier_tags.multi_label = True
        return tags
