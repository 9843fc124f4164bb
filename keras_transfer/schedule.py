"""The two phases as plain data: what trains, for how long, at which rate.

Notation, used in the docstrings below and in the code that runs a phase:

    w        the weights that a phase trains         w0    their pretrained values
    l_i(w)   cross-entropy of example i              N     number of training examples
    R(w)     the penalty                             lambda  its strength

    minimise   1/N * sum_i l_i(w)  +  lambda * R(w)

with R(w) = ||w||^2 (``l2``) or R(w) = ||w - w0||^2 (``l2-sp``: Li, Grandvalet and Davoine, 2018,
"Explicit inductive bias for transfer learning with convolutional networks").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from keras_transfer.base.errors import UsageError, closest

Effort = Literal["quick", "default", "high"]
EFFORTS: tuple[Effort, ...] = ("quick", "default", "high")

_CHOICES: dict[str, tuple[str, ...]] = {
    "solver": ("lbfgs", "adamw", "sgd"),
    "decay": ("cosine", "constant"),
    "penalty": ("none", "l2", "l2-sp"),
    "batch_norm": ("auto", "frozen", "adapt", "train"),
    "dropout": ("auto", "on", "off"),
}


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a schedule.

    Attributes:
        name: ``head`` or ``fine_tune``; the name under which it is reported.
        solver: ``lbfgs`` solves a linear head to convergence over a path of penalties; ``adamw``
            (Loshchilov and Hutter, 2019) and ``sgd`` (Nesterov momentum 0.9) train by gradient.
        unfreeze: how much of the backbone trains besides the head: a number of blocks from the
            top, the name of the lowest block that trains, ``all``, ``none``, or a share of the
            backbone's multiply-adds such as ``"25%"``: the fewest top blocks that reach it.
        epochs: passes over the training images; one pass sees one view of each image.
        batch_size: images in a step.
        learning_rate: peak rate.
        warmup: share of the steps over which the rate rises linearly from 0.
        decay: how the rate falls afterwards: ``cosine`` to 0, or ``constant``.
        decay_from: share of the steps until which the rate stays at its peak before it falls.
        rate_decay: factor on the rate for every block below the topmost one; 1 is one rate for all.
        weight_decay: decoupled weight decay, as in AdamW, of kernels (not of biases).
        penalty: R(w) in the loss (see the module's docstring).
        penalty_strength: lambda.
        clip_norm: bound on the global norm of the gradient; 0 for none.
        ema: bound of the momentum of the moving average of the weights; 0 for none. At step t the
            momentum is (t - 1) / (t + 2) where that is lower: an average over about the last third
            of the steps so far, which the first weights do not weigh down where steps are few
            (polynomial decay, Shamir and Zhang, 2013, "Stochastic gradient descent for non-smooth
            optimization").
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
        mixup: alpha of the Beta distribution of MixUp (Zhang et al., 2018); 0 for none. It mixes
            the activations at the cut, since those are the phase's inputs.
        cutmix: alpha of CutMix (Yun et al., 2019); 0 for none. It needs a cut with height and
            width. Where both are set, each batch draws one of the two.
        patience: epochs without a better calibrated validation NLL after which the phase stops;
            0 runs all epochs.
        batch_norm: ``frozen`` keeps BatchNorm's statistics, scale and offset as they are;
            ``adapt`` trains scale and offset of unfrozen blocks, with statistics still frozen;
            ``train`` puts unfrozen blocks into training mode, statistics included. ``auto`` is
            ``frozen`` for pretrained weights and ``train`` for random ones, whose statistics mean
            nothing, see :func:`settle`.
        dropout: whether Dropout and stochastic depth act in unfrozen blocks while they train; in
            frozen ones they never do. ``auto`` is ``off`` for pretrained weights, where few epochs
            leave little to regularise (see :func:`recipe`), and ``on`` where BatchNorm trains or
            the head has Dropout of its own.

    >>> phase = Phase("fine_tune", learning_rate=0.001, warmup=0.5)
    >>> [round(phase.rate(step, 4), 6) for step in range(4)]
    [0.0005, 0.001, 0.001, 0.0005]
    """

    name: str
    solver: str = "adamw"
    unfreeze: int | str = "none"
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 7e-4
    warmup: float = 0.1
    decay: str = "cosine"
    decay_from: float = 0.0
    rate_decay: float = 1.0
    weight_decay: float = 1e-4
    penalty: str = "none"
    penalty_strength: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.98
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    patience: int = 0
    batch_norm: str = "auto"
    dropout: str = "auto"

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                raise UsageError(
                    f"Phase {self.name!r}: {field} must be one of {', '.join(allowed)}. "
                    f"Received: {field}={value!r}.{closest(str(value), list(allowed))}",
                    remedy=f"Choose one of the allowed words for {field}.",
                )
        bounds = {
            "epochs": (0, 100_000),
            "batch_size": (1, 1_000_000),
            "learning_rate": (0.0, 100.0),
            "warmup": (0.0, 1.0),
            "decay_from": (0.0, 1.0),
            "rate_decay": (0.0, 1.0),
            "weight_decay": (0.0, 10.0),
            "penalty_strength": (0.0, 1e6),
            "clip_norm": (0.0, 1e9),
            "ema": (0.0, 0.99999),
            "label_smoothing": (0.0, 0.99),
            "mixup": (0.0, 100.0),
            "cutmix": (0.0, 100.0),
            "patience": (0, 100_000),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not low <= value <= high
            ):
                raise UsageError(
                    f"Phase {self.name!r}: {field} must lie between {low} and {high}. "
                    f"Received: {field}={value!r}.",
                    remedy=f"Give {field} a number in that range.",
                )
        if self.batch_norm == "train" and self.dropout == "off":
            raise UsageError(
                f"Phase {self.name!r}: without Dropout the blocks run in inference mode, in which "
                "BatchNorm cannot train. Received: batch_norm='train', dropout='off'.",
                remedy="Set dropout to on, or batch_norm to adapt.",
            )

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of ``step`` (from 0) in a phase of ``steps`` steps."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.decay == "constant":
            return self.learning_rate
        level = max(rising, round(self.decay_from * steps))
        progress = max(0, step - level) / max(1, steps - level)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """The classification head on top of the pooled features.

    Attributes:
        kind: ``linear``; ``hidden`` (one ReLU layer before the logits); or ``cosine``, logits being
            scaled cosines between features and class vectors, for very few images a class.
        hidden: units of the hidden layer.
        dropout: rate of Dropout before the logits, in training by gradient only.
        scale: factor on the cosines.
        levels: how many means of lower maps the head may see for each feature of the topmost one,
            in [0, 10]; see :func:`~keras_transfer.model.build_classifier`.

    >>> HeadSpec("cosine").scale
    16.0
    """

    kind: str = "linear"
    hidden: int = 256
    dropout: float = 0.0
    scale: float = 16.0
    levels: float = 0.0

    def __post_init__(self) -> None:
        kinds = ("linear", "hidden", "cosine")
        if self.kind not in kinds:
            raise UsageError(
                f"The head must be one of {', '.join(kinds)}. Received: {self.kind!r}."
                f"{closest(str(self.kind), list(kinds))}",
                remedy="Choose one of these heads.",
            )
        if not 0.0 <= self.levels <= 10.0:
            raise UsageError(
                f"Levels must lie between 0 and 10. Received: {self.levels!r}.",
                remedy="Give a number in that range, 0 for the topmost features alone.",
            )
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(
                f"Dropout must be at least 0 and below 1. Received: {self.dropout!r}.",
                remedy="Give a rate in that range, 0 for none.",
            )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Everything that decides how a model is trained, as plain data.

    Attributes:
        head: the first phase; the backbone is frozen.
        fine_tune: the second phase, or None for the head alone.
        head_spec: the classification head.
        views: number of views of each training image that are drawn and cached. View 0 is the
            clean image, the others are augmented.
        strength: strength of the augmentation; 1 is the default recipe's, 0 is none.
        flip: whether augmentation mirrors images: ``on``, ``off``, or ``auto``, which mirrors
            unless the data shows that left and right are part of the classes.
        view_seed: seed of the augmentation; one for all runs by default, whatever their seed, so
            that they share cached views.
        class_weights: ``none``, or ``balanced`` to weigh each class by the inverse of its size.

    >>> import dataclasses
    >>> dataclasses.replace(recipe(), views=2).to_dict()["views"]
    2
    """

    head: Phase
    fine_tune: Phase | None
    head_spec: HeadSpec = HeadSpec()
    views: int = 4
    strength: float = 1.0
    flip: str = "auto"
    view_seed: int = 0
    class_weights: str = "none"

    def __post_init__(self) -> None:
        for field, allowed in (
            ("flip", ("auto", "on", "off")),
            ("class_weights", ("none", "balanced")),
        ):
            value = getattr(self, field)
            if value not in allowed:
                raise UsageError(
                    f"{field} must be one of {', '.join(allowed)}. Received: {value!r}.",
                    remedy="Choose one of these words.",
                )
        if self.views < 1:
            raise UsageError(
                f"At least one view of each image is needed. Received: views={self.views}.",
                remedy="Give 1 for the clean images alone, or more.",
            )
        if self.head.solver == "lbfgs" and self.head_spec.kind != "linear":
            raise UsageError(
                f"L-BFGS solves linear heads only. Received: head {self.head_spec.kind!r}.",
                remedy="Set the head phase's solver to adamw or sgd, or use the linear head.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The schedule as nested plain values, fit for JSON and TOML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schedule:
        """Builds a schedule from what :meth:`to_dict` gave.

        Raises:
            UsageError: a key is unknown or a value is out of range.
        """
        given = dict(values)
        head = _build(Phase, given.pop("head"), "head")
        tuned = given.pop("fine_tune", None)
        fine_tune = None if tuned is None else _build(Phase, tuned, "fine_tune")
        spec = _build(HeadSpec, given.pop("head_spec", {}), "head_spec")
        rest = {"head": head, "fine_tune": fine_tune, "head_spec": spec, **given}
        return _build(cls, rest, "schedule")


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise UsageError(
                f"Unknown setting {key!r} in {where}.{closest(key, known)}",
                remedy=f"Known settings: {', '.join(known)}.",
            )
    return kind(**values)


def recipe(effort: Effort = "default", *, pretrained: bool = True) -> Schedule:
    """The recipe at one of three efforts, which differ in numbers only.

    Args:
        effort: ``quick`` (the head and a short second phase near the top), ``default``, or
            ``high`` (deeper, more views, more epochs).
        pretrained: False for a backbone of random weights: everything trains, at 1e-3, since
            random layers are not worth keeping; and each epoch sees another view.

    Where the default comes from: over two sets of emoji, one of them with 20 and with 5 images a
    class too, and digits, three seeds each, it gains 0.9 ± 0.3 points of test accuracy over its own
    head alone, and 4.1 ± 0.4 over a head without levels, which is logistic regression on the
    topmost features. Two views gain 0.6 ± 0.2 over one, and four 0.0 ± 0.2 over two; eight epochs
    0.3 ± 0.3 over five. Deeper is better and dearer: 70 % gains 0.6 ± 0.3 and 0.015 ± 0.008 nats
    for 1.5 times the time, ``high`` 0.8 ± 0.4 and 0.037 ± 0.008 for 3.3 times; ``quick`` loses
    0.7 ± 0.4 (paired differences with standard errors; ``python benchmarks/recipe.py``, November
    2026, ``benchmarks/results/recipe.md``).

    Returns:
        A schedule that can be printed, changed with ``dataclasses.replace`` and passed in.

    Raises:
        UsageError: the effort is none of the three.

    >>> recipe("quick").fine_tune.unfreeze, recipe("quick").views
    ('12%', 1)
    """
    numbers: dict[str, tuple[str, int, float, float]] = {
        "quick": ("12%", 2, 7e-4, 1.0),
        "default": ("35%", 5, 7e-4, 1.0),
        "high": ("all", 8, 4e-4, 1.5),
    }
    if effort not in numbers:
        raise UsageError(
            f"Unknown effort {effort!r}.{closest(str(effort), list(EFFORTS))}",
            remedy=f"Choose one of {', '.join(EFFORTS)}.",
        )
    unfreeze, epochs, rate, levels = numbers[effort]
    tuned = Phase("fine_tune", unfreeze=unfreeze, epochs=epochs, learning_rate=rate)
    if not pretrained:
        tuned, levels = dataclasses.replace(tuned, unfreeze="all", learning_rate=1e-3), 0.0
    views = views_for(epochs if pretrained else 2 * epochs)
    return Schedule(Phase("head", solver="lbfgs"), tuned, HeadSpec(levels=levels), views=views)


def views_for(epochs: int) -> int:
    """The recipe's views for so many epochs of the second phase: half as many, one to eight.

    >>> [views_for(epochs) for epochs in (1, 5, 8, 30)]
    [1, 2, 4, 8]
    """
    return max(1, min(8, epochs // 2))


def settle(schedule: Schedule, *, pretrained: bool) -> Schedule:
    """Decides what depends on whether the backbone's weights are pretrained or random.

    Random weights have no statistics to keep and no values to be pulled to, and their lower
    blocks, which know nothing, must learn as fast as the upper ones: BatchNorm trains, ``l2-sp``
    becomes ``l2``, and every block has one rate.

    Raises:
        UsageError: the weights are random and ``dropout`` is ``off``.
    """
    phase = schedule.fine_tune
    if phase is None:
        return schedule
    settled: dict[str, Any] = {}
    if phase.batch_norm == "auto":
        settled["batch_norm"] = "frozen" if pretrained else "train"
    if phase.dropout == "auto":
        trains = settled.get("batch_norm", phase.batch_norm) == "train"
        settled["dropout"] = "on" if trains or schedule.head_spec.dropout else "off"
    if not pretrained:
        settled["rate_decay"] = 1.0
        settled["penalty"] = "l2" if phase.penalty == "l2-sp" else phase.penalty
    return dataclasses.replace(schedule, fine_tune=dataclasses.replace(phase, **settled))
