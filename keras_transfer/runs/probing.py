"""What a finished run's frozen features tell about its data: baselines, learning curve, labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_transfer import backbones, datasets, evaluation
from keras_transfer.base import files
from keras_transfer.base.progress import Progress
from keras_transfer.base.types import POOL, Dataset, Finding
from keras_transfer.datasets.checks import RANKED
from keras_transfer.evaluation.scratch import train_from_scratch
from keras_transfer.frozen.engine import build_engine, predict_probabilities
from keras_transfer.frozen.features import FrozenPart, Views
from keras_transfer.frozen.store import ActivationStore
from keras_transfer.learn.model import build_classifier
from keras_transfer.modalities import modality
from keras_transfer.runs import folder as runs
from keras_transfer.runs import report


def pretrained_features(
    run: runs.Run, dataset: Dataset, progress: Progress | None = None
) -> np.ndarray:
    """Pooled features of the backbone as it was before the run, of every image, from the store.

    Features of the fine-tuned backbone would not do: they have seen the training labels.

    Returns:
        float32 ``[images, features]``.
    """
    return _features(dataset, run.backbone, run.size, run.config["weights"], progress)


def _features(
    dataset: Dataset, backbone: str, size: Any, weights: str, progress: Progress | None
) -> np.ndarray:
    built = backbones.build(backbone, image_size=size, weights=weights)
    model = build_classifier(built, 2)
    assert dataset.examples is not None
    frozen = FrozenPart(model, built, (), examples_count=len(dataset), sample=dataset.examples[:32])
    with ActivationStore(files.cache_folder() / "activations") as store:
        rows = np.arange(len(dataset))
        told = progress or Progress()
        return frozen.inputs(Views(dataset), rows, 0, store=store, progress=told)[0][:]


def curve(run: runs.Run, progress: Progress | None = None) -> evaluation.LearningCurve:
    """Accuracy of a linear head on growing subsets, and what twice the data would bring.

    Written to the run's ``metrics.json`` under ``curve``, and to its page.
    """
    data = run.dataset
    found = evaluation.learning_curve(data, pretrained_features(run, data, progress))
    report.write_report(runs.add_to_metrics(run, {"curve": found.to_json()}))
    return found


def compare_with_baselines(
    run: runs.Run, progress: Progress | None = None, *, scratch_seconds: float | None = None
) -> list[dict[str, Any]]:
    """Nearest neighbour, logistic regression and training from scratch on the run's own splits.

    Written to ``metrics.json`` under ``baselines``, with images whose labels look wrong under
    ``suspects``, and to the page.

    Args:
        run: a finished run.
        progress: where to report.
        scratch_seconds: time for training from scratch; what the run itself took by default.

    Returns:
        One row a baseline, with the paired test against the run.
    """
    data = run.dataset
    features = pretrained_features(run, data, progress)
    budget = scratch_seconds or float(run.metrics["seconds"]["total"])
    (progress or Progress()).note(f"Training from scratch for {budget:.0f} s.")
    methods = [
        *evaluation.baselines(data, features),
        train_from_scratch(data, run.backbone, seconds=budget),
    ]
    by_path, test = {row["path"]: row["predicted"] for row in run.predictions}, data.indices("test")
    predicted = run.task.encode((by_path[data.paths[i]] for i in test), run.class_names)
    rows = [method.to_json(data.labels[test], predicted) for method in methods]
    doubted = evaluation.suspected_label_errors(data, features)
    suspects = [dataclasses.asdict(one) for one in doubted]
    report.write_report(runs.add_to_metrics(run, {"baselines": rows, "suspects": suspects}))
    return rows


def inspect_labels(
    source: datasets.Source, backbone: str, size: Any, progress: Progress
) -> datasets.Inspection:
    """An inspection that also finds labels which look wrong.

    Args:
        source: what is inspected.
        backbone: of whose frozen features the doubts are.
        size: at which it sees examples.
        progress: where to report.
    """
    found = datasets.inspect(source, image_size=size, multi_label=source.task.setting)
    if found.problem:
        return found
    data, what = found.dataset, modality(source.modality).NOUN
    progress.note(f"Wrong labels: frozen features of {len(data):,} {what}s by {backbone}.")
    features = _features(data, backbone, size, backbones.spec(backbone).weights[0], progress)
    whole = dataclasses.replace(data, splits=np.full(len(data), "train"))
    doubts = tuple(
        Finding(one.path, RANKED, one.reason, "kept")
        for one in evaluation.suspected_label_errors(whole, features)
    )
    with_doubts = dataclasses.replace(data, findings=data.findings + doubts)
    return dataclasses.replace(found, dataset=with_doubts)


def evaluate_run(run: runs.Run) -> evaluation.Evaluation:
    """Evaluates a run's saved model on its test split again, from the image files.

    Raises:
        DataError: the data is gone or has changed.
    """
    data = run.dataset
    test = data.indices("test")
    probabilities = predict_probabilities(run.model, _examples(data)[test])
    return evaluation.evaluate(
        probabilities, data.labels[test], run.class_names, thresholds=run.thresholds
    )


def evaluate_elsewhere(run: runs.Run, data: Any) -> evaluation.Shift:
    """Evaluates a run on other data, and against its own test split.

    Args:
        run: a finished run.
        data: as for :func:`train`; all its images are used, whatever their split. Classes are
            matched by name.

    Raises:
        DataError: no class in common.
    """
    home, model = run.dataset, run.model
    other = datasets.load_dataset(data, for_training=False, **run.how)
    train, test, examples = home.indices("train"), home.indices("test"), _examples(home)
    # One engine for all three sets, so that their features are of one kind.
    engine = build_engine(keras.Model(model.input, model.get_layer(POOL).output), "keras")
    features = [engine.predict(x)[0] for x in (examples[train], examples[test], _examples(other))]
    return evaluation.measure_shift(
        home,
        predict_probabilities(model, examples[test]),
        other,
        predict_probabilities(model, _examples(other)),
        thresholds=run.thresholds,
        unlike=evaluation.unlikeness(*features),
    )


def _examples(dataset: Dataset) -> np.ndarray:
    assert dataset.examples is not None
    return dataset.examples
