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
    output: str | PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    config: str | PathLike[str] | None = None,
    recipe: Recipe | None = None,
    backbone: str | Backbone | keras.Model | None = None,
    shared: Shared | None = None,
    judge: Literal[True] = True,
    progress: Progress | bool | None = None,
    began: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    effort: Literal["quick", "default", "high"] | None = None,
    time_budget: float | str | None = None,
    split: tuple[float, float, float] | str | None = None,
    splits: str | PathLike[str] | None = None,
    group: str | None = None,
    columns: str | None = None,
    fold: tuple[int, int] | str | None = None,
    per_class: int | None = None,
    seed: int | None = None,
    split_seed: int | None = None,
    fit: Literal["squash", "crop", "pad"] | None = None,
    multi_label: Literal["auto", "on", "off"] | None = None,
    class_weights: Literal["none", "balanced"] | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    clip_length: float | None = None,
    levels: float | None = None,
    head_epochs: int | None = None,
    head_lr: float | None = None,
    refit: Literal["on", "off"] | None = None,
    unfreeze: int | str | None = None,
    fine_tune_lr: float | None = None,
    fine_tune_epochs: int | None = None,
    rate_decay: float | None = None,
    weight_decay: float | None = None,
    penalty: Literal["none", "l2", "l2-sp"] | None = None,
    penalty_strength: float | None = None,
    label_smoothing: float | None = None,
    warmup: float | None = None,
    decay: Literal["cosine", "constant"] | None = None,
    decay_from: float | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
    batch_norm: Literal["auto", "frozen", "train"] | None = None,
    views: int | None = None,
    strength: float | None = None,
    flip: Literal["auto", "on", "off"] | None = None,
    view_seed: int | None = None,
    batch_size: int | None = None,
    target_precision: float | None = None,
    calibration: Literal["temperature", "none"] | None = None,
    engine: Literal["auto", "keras", "openvino", "openvino-bfloat16"] | None = None,
    jit: Literal["auto", "on", "off"] | None = None,
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] | None = None,
    devices: int | str | None = None,
    hosts: Literal["off", "on"] | None = None,
    cache: str | PathLike[str] | None = None,
    cache_limit: int | str | None = None,
    machines: str | None = None,
) -> TransferResult: ...
@overload
def train(
    data: Data,
    *,
    output: str | PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    config: str | PathLike[str] | None = None,
    recipe: Recipe | None = None,
    backbone: str | Backbone | keras.Model | None = None,
    shared: Shared | None = None,
    judge: Literal[False],
    progress: Progress | bool | None = None,
    began: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    effort: Literal["quick", "default", "high"] | None = None,
    time_budget: float | str | None = None,
    split: tuple[float, float, float] | str | None = None,
    splits: str | PathLike[str] | None = None,
    group: str | None = None,
    columns: str | None = None,
    fold: tuple[int, int] | str | None = None,
    per_class: int | None = None,
    seed: int | None = None,
    split_seed: int | None = None,
    fit: Literal["squash", "crop", "pad"] | None = None,
    multi_label: Literal["auto", "on", "off"] | None = None,
    class_weights: Literal["none", "balanced"] | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    clip_length: float | None = None,
    levels: float | None = None,
    head_epochs: int | None = None,
    head_lr: float | None = None,
    refit: Literal["on", "off"] | None = None,
    unfreeze: int | str | None = None,
    fine_tune_lr: float | None = None,
    fine_tune_epochs: int | None = None,
    rate_decay: float | None = None,
    weight_decay: float | None = None,
    penalty: Literal["none", "l2", "l2-sp"] | None = None,
    penalty_strength: float | None = None,
    label_smoothing: float | None = None,
    warmup: float | None = None,
    decay: Literal["cosine", "constant"] | None = None,
    decay_from: float | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
    batch_norm: Literal["auto", "frozen", "train"] | None = None,
    views: int | None = None,
    strength: float | None = None,
    flip: Literal["auto", "on", "off"] | None = None,
    view_seed: int | None = None,
    batch_size: int | None = None,
    target_precision: float | None = None,
    calibration: Literal["temperature", "none"] | None = None,
    engine: Literal["auto", "keras", "openvino", "openvino-bfloat16"] | None = None,
    jit: Literal["auto", "on", "off"] | None = None,
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] | None = None,
    devices: int | str | None = None,
    hosts: Literal["off", "on"] | None = None,
    cache: str | PathLike[str] | None = None,
    cache_limit: int | str | None = None,
    machines: str | None = None,
) -> Fitted: ...

class TransferClassifier(ClassifierMixin, BaseEstimator):
    classes_: np.ndarray
    thresholds_: tuple[float, ...]
    model_: keras.Model
    modality_: str
    def __init__(
        self,
        *,
        image_fit: Literal["squash", "crop", "pad"] | None = None,
        effort: Literal["quick", "default", "high"] | None = None,
        time_budget: float | str | None = None,
        split: tuple[float, float, float] | str | None = None,
        splits: str | PathLike[str] | None = None,
        group: str | None = None,
        columns: str | None = None,
        fold: tuple[int, int] | str | None = None,
        per_class: int | None = None,
        seed: int | None = None,
        split_seed: int | None = None,
        multi_label: Literal["auto", "on", "off"] | None = None,
        class_weights: Literal["none", "balanced"] | None = None,
        backbone: str | Backbone | keras.Model | None = None,
        weights: str | None = None,
        image_size: int | None = None,
        max_length: int | None = None,
        clip_length: float | None = None,
        levels: float | None = None,
        head_epochs: int | None = None,
        head_lr: float | None = None,
        refit: Literal["on", "off"] | None = None,
        unfreeze: int | str | None = None,
        fine_tune_lr: float | None = None,
        fine_tune_epochs: int | None = None,
        rate_decay: float | None = None,
        weight_decay: float | None = None,
        penalty: Literal["none", "l2", "l2-sp"] | None = None,
        penalty_strength: float | None = None,
        label_smoothing: float | None = None,
        warmup: float | None = None,
        decay: Literal["cosine", "constant"] | None = None,
        decay_from: float | None = None,
        clip_norm: float | None = None,
        ema: float | None = None,
        batch_norm: Literal["auto", "frozen", "train"] | None = None,
        views: int | None = None,
        strength: float | None = None,
        flip: Literal["auto", "on", "off"] | None = None,
        view_seed: int | None = None,
        batch_size: int | None = None,
        target_precision: float | None = None,
        calibration: Literal["temperature", "none"] | None = None,
        engine: Literal["auto", "keras", "openvino", "openvino-bfloat16"] | None = None,
        jit: Literal["auto", "on", "off"] | None = None,
        precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] | None = None,
        devices: int | str | None = None,
        hosts: Literal["off", "on"] | None = None,
        cache: str | PathLike[str] | None = None,
        cache_limit: int | str | None = None,
        machines: str | None = None,
    ) -> None: ...
    def fit(self, X: Items, y: Any) -> TransferClassifier: ...
    def predict(self, X: Items) -> np.ndarray: ...
    def predict_proba(self, X: Items) -> np.ndarray: ...
