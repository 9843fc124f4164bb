# Written by `python docs/settings.py`: the public names, and what they take.

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, overload

import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from keras_transfer._version import __version__ as __version__
from keras_transfer.backbones import block_map as block_map
from keras_transfer.backbones import build as build
from keras_transfer.backbones import register as register
from keras_transfer.backbones import split as split
from keras_transfer.backbones import unfreeze as unfreeze
from keras_transfer.base.errors import KerasTransferError as KerasTransferError
from keras_transfer.base.types import Dataset as Dataset
from keras_transfer.datasets import inspect as inspect
from keras_transfer.datasets import load_dataset as load_dataset
from keras_transfer.evaluation import compare as compare
from keras_transfer.evaluation.plots import gallery as gallery
from keras_transfer.evaluation.saliency import grad_cam as grad_cam
from keras_transfer.export import ExportResult as ExportResult
from keras_transfer.export import export_run as export_run
from keras_transfer.export import verify as verify
from keras_transfer.export.prediction import predict as predict
from keras_transfer.frozen.store import ActivationStore as ActivationStore
from keras_transfer.labelling import inspect_labels as inspect_labels
from keras_transfer.labelling import label as label
from keras_transfer.learn.model import build_classifier as build_classifier
from keras_transfer.modalities.image import overlay as overlay
from keras_transfer.recipe import Recipe as Recipe
from keras_transfer.runs.folder import Run as Run
from keras_transfer.runs.folder import open_run as open_run
from keras_transfer.runs.report import write_report as write_report
from keras_transfer.runs.result import TransferResult as TransferResult
from keras_transfer.updating import update as update
from keras_transfer.base.progress import Progress
from keras_transfer.base.types import Backbone
from keras_transfer.datasets.items import Items
from keras_transfer.datasets.sources import Data
from keras_transfer.runs.result import Fitted
from keras_transfer.training import Shared

@overload
def train(
    data: Data,
    *,
    output: str | PathLike[str] | None = ...,
    resume: bool = ...,
    overwrite: bool = ...,
    tensorboard: bool = ...,
    config: str | PathLike[str] | None = ...,
    recipe: Recipe | None = ...,
    backbone: str | Backbone | keras.Model | None = ...,
    shared: Shared | None = ...,
    judge: Literal[True] = ...,
    progress: Progress | bool | None = ...,
    began: float | None = ...,
    callbacks: Sequence[keras.callbacks.Callback] = ...,
    effort: Literal["quick", "default", "high"] | None = ...,
    time_budget: float | str | None = ...,
    split: tuple[float, float, float] | str | None = ...,
    splits: str | PathLike[str] | None = ...,
    group: str | None = ...,
    columns: str | None = ...,
    fold: tuple[int, int] | str | None = ...,
    per_class: int | None = ...,
    seed: int | None = ...,
    split_seed: int | None = ...,
    fit: Literal["squash", "crop", "pad"] | None = ...,
    multi_label: Literal["auto", "on", "off"] | None = ...,
    class_weights: Literal["none", "balanced"] | None = ...,
    weights: str | None = ...,
    image_size: int | None = ...,
    max_length: int | None = ...,
    clip_length: float | None = ...,
    levels: float | None = ...,
    head_epochs: int | None = ...,
    head_lr: float | None = ...,
    refit: Literal["on", "off"] | None = ...,
    unfreeze: int | str | None = ...,
    fine_tune_lr: float | None = ...,
    fine_tune_epochs: int | None = ...,
    rate_decay: float | None = ...,
    weight_decay: float | None = ...,
    penalty: Literal["none", "l2", "l2-sp"] | None = ...,
    penalty_strength: float | None = ...,
    label_smoothing: float | None = ...,
    warmup: float | None = ...,
    decay: Literal["cosine", "constant"] | None = ...,
    decay_from: float | None = ...,
    clip_norm: float | None = ...,
    ema: float | None = ...,
    batch_norm: Literal["auto", "frozen", "train"] | None = ...,
    views: int | None = ...,
    strength: float | None = ...,
    flip: Literal["auto", "on", "off"] | None = ...,
    view_seed: int | None = ...,
    batch_size: int | None = ...,
    target_precision: float | None = ...,
    calibration: Literal["temperature", "none"] | None = ...,
    engine: Literal["auto", "keras", "openvino", "openvino-bfloat16"] | None = ...,
    jit: Literal["auto", "on", "off"] | None = ...,
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] | None = ...,
    devices: int | str | None = ...,
    hosts: Literal["off", "on"] | None = ...,
    cache: str | PathLike[str] | None = ...,
    cache_limit: int | str | None = ...,
    machines: str | None = ...,
) -> TransferResult: ...
@overload
def train(
    data: Data,
    *,
    output: str | PathLike[str] | None = ...,
    resume: bool = ...,
    overwrite: bool = ...,
    tensorboard: bool = ...,
    config: str | PathLike[str] | None = ...,
    recipe: Recipe | None = ...,
    backbone: str | Backbone | keras.Model | None = ...,
    shared: Shared | None = ...,
    judge: Literal[False],
    progress: Progress | bool | None = ...,
    began: float | None = ...,
    callbacks: Sequence[keras.callbacks.Callback] = ...,
    effort: Literal["quick", "default", "high"] | None = ...,
    time_budget: float | str | None = ...,
    split: tuple[float, float, float] | str | None = ...,
    splits: str | PathLike[str] | None = ...,
    group: str | None = ...,
    columns: str | None = ...,
    fold: tuple[int, int] | str | None = ...,
    per_class: int | None = ...,
    seed: int | None = ...,
    split_seed: int | None = ...,
    fit: Literal["squash", "crop", "pad"] | None = ...,
    multi_label: Literal["auto", "on", "off"] | None = ...,
    class_weights: Literal["none", "balanced"] | None = ...,
    weights: str | None = ...,
    image_size: int | None = ...,
    max_length: int | None = ...,
    clip_length: float | None = ...,
    levels: float | None = ...,
    head_epochs: int | None = ...,
    head_lr: float | None = ...,
    refit: Literal["on", "off"] | None = ...,
    unfreeze: int | str | None = ...,
    fine_tune_lr: float | None = ...,
    fine_tune_epochs: int | None = ...,
    rate_decay: float | None = ...,
    weight_decay: float | None = ...,
    penalty: Literal["none", "l2", "l2-sp"] | None = ...,
    penalty_strength: float | None = ...,
    label_smoothing: float | None = ...,
    warmup: float | None = ...,
    decay: Literal["cosine", "constant"] | None = ...,
    decay_from: float | None = ...,
    clip_norm: float | None = ...,
    ema: float | None = ...,
    batch_norm: Literal["auto", "frozen", "train"] | None = ...,
    views: int | None = ...,
    strength: float | None = ...,
    flip: Literal["auto", "on", "off"] | None = ...,
    view_seed: int | None = ...,
    batch_size: int | None = ...,
    target_precision: float | None = ...,
    calibration: Literal["temperature", "none"] | None = ...,
    engine: Literal["auto", "keras", "openvino", "openvino-bfloat16"] | None = ...,
    jit: Literal["auto", "on", "off"] | None = ...,
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] | None = ...,
    devices: int | str | None = ...,
    hosts: Literal["off", "on"] | None = ...,
    cache: str | PathLike[str] | None = ...,
    cache_limit: int | str | None = ...,
    machines: str | None = ...,
) -> Fitted: ...

class TransferClassifier(ClassifierMixin, BaseEstimator):
    classes_: np.ndarray
    thresholds_: tuple[float, ...]
    model_: keras.Model
    modality_: str
    def __init__(
        self,
        *,
        effort: Literal["quick", "default", "high"] | None = ...,
        time_budget: float | str | None = ...,
        split: tuple[float, float, float] | str | None = ...,
        splits: str | PathLike[str] | None = ...,
        group: str | None = ...,
        columns: str | None = ...,
        fold: tuple[int, int] | str | None = ...,
        per_class: int | None = ...,
        seed: int | None = ...,
        split_seed: int | None = ...,
        fit: Literal["squash", "crop", "pad"] | None = ...,
        multi_label: Literal["auto", "on", "off"] | None = ...,
        class_weights: Literal["none", "balanced"] | None = ...,
        backbone: str | Backbone | keras.Model | None = ...,
        weights: str | None = ...,
        image_size: int | None = ...,
        max_length: int | None = ...,
        clip_length: float | None = ...,
        levels: float | None = ...,
        head_epochs: int | None = ...,
        head_lr: float | None = ...,
        refit: Literal["on", "off"] | None = ...,
        unfreeze: int | str | None = ...,
        fine_tune_lr: float | None = ...,
        fine_tune_epochs: int | None = ...,
        rate_decay: float | None = ...,
        weight_decay: float | None = ...,
        penalty: Literal["none", "l2", "l2-sp"] | None = ...,
        penalty_strength: float | None = ...,
        label_smoothing: float | None = ...,
        warmup: float | None = ...,
        decay: Literal["cosine", "constant"] | None = ...,
        decay_from: float | None = ...,
        clip_norm: float | None = ...,
        ema: float | None = ...,
        batch_norm: Literal["auto", "frozen", "train"] | None = ...,
        views: int | None = ...,
        strength: float | None = ...,
        flip: Literal["auto", "on", "off"] | None = ...,
        view_seed: int | None = ...,
        batch_size: int | None = ...,
        target_precision: float | None = ...,
        calibration: Literal["temperature", "none"] | None = ...,
        engine: Literal["auto", "keras", "openvino", "openvino-bfloat16"] | None = ...,
        jit: Literal["auto", "on", "off"] | None = ...,
        precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] | None = ...,
        devices: int | str | None = ...,
        hosts: Literal["off", "on"] | None = ...,
        cache: str | PathLike[str] | None = ...,
        cache_limit: int | str | None = ...,
        machines: str | None = ...,
    ) -> None: ...
    def fit(self, X: Items, y: Any) -> TransferClassifier: ...
    def predict(self, X: Items) -> np.ndarray: ...
    def predict_proba(self, X: Items) -> np.ndarray: ...
