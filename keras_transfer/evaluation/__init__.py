"""Evaluation that can be believed: metrics, comparisons, probes of the features, and shift."""

from keras_transfer.evaluation.comparison import Comparison, Pair, compare, compare_predictions
from keras_transfer.evaluation.metrics import (
    ClassResult,
    Evaluation,
    confident_mistakes,
    doubtful_hits,
    evaluate,
    wilson_interval,
)
from keras_transfer.evaluation.probes import (
    Baseline,
    LearningCurve,
    Suspect,
    baselines,
    learning_curve,
    suspected_label_errors,
)
from keras_transfer.evaluation.shift import Shift, measure_shift, shared_classes, unlikeness

__all__ = [
    "Baseline",
    "ClassResult",
    "Comparison",
    "Evaluation",
    "LearningCurve",
    "Pair",
    "Shift",
    "Suspect",
    "baselines",
    "compare",
    "compare_predictions",
    "confident_mistakes",
    "doubtful_hits",
    "evaluate",
    "learning_curve",
    "measure_shift",
    "shared_classes",
    "suspected_label_errors",
    "unlikeness",
    "wilson_interval",
]
