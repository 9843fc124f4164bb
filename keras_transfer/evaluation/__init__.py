"""Evaluation that can be believed: metrics, comparisons, probes of the features, and shift."""

# ruff: noqa: F401

from keras_transfer.base.intervals import wilson_interval
from keras_transfer.evaluation.comparison import Comparison, compare, compare_predictions
from keras_transfer.evaluation.metrics import Evaluation, evaluate
from keras_transfer.evaluation.probes import (
    LearningCurve,
    baselines,
    learning_curve,
    suspected_label_errors,
)
from keras_transfer.evaluation.shift import Shift, measure_shift, shared_classes, unlikeness
