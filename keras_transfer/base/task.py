"""What an example's labels are: one class, or any number of them. All that follows stands here.

A task is told by its labels: int64 ``[n]`` are one class each; 0 and 1 in uint8 ``[n, classes]``
are several. Activation, loss, the fit of a temperature, what an answer is and whether it is right
are asked of :func:`task_of`, and nobody else asks which of the two it is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from scipy import special

from keras_transfer.base.types import PROBABILITIES

MARK = "|"
"""Between the classes of a cell that lists several; alone it stands for none of them."""

MIDDLE = 0.5
"""From which probability on a class is answered where validation says nothing better."""

LEAST = 10
"""Examples with a class, and without it, that a threshold of its own takes."""

Scaled = Callable[[float], float]
Choice = tuple[np.ndarray, np.ndarray, tuple[int, ...]]


class OneLabel:
    """An example is of one class: softmax and cross-entropy; the most probable is the answer.

    Its methods say what is asked of a task, and what the answer is here. Logits and probabilities
    are float ``[n, classes]``, labels and answers as the module says, weights as :meth:`weights`
    makes them.

    Attributes:
        setting: what the setting ``multi_label`` is called for it.
        exclusive: whether a class excludes the others.
        counted: what is counted of examples where answers are; "" for the examples.
    """

    setting: Literal["on", "off"] = "off"
    exclusive, counted = True, ""

    def canonical(self, cell: str) -> str:
        """A cell of a table in the one way that is compared and written. Here: the cell: it is a
        name."""
        return cell

    def names(self, cell: str) -> list[str]:
        """The classes that a cell names. Here: the one that it is."""
        return [cell]

    def said(self, cell: str) -> str:
        """A cell in words. Here: as it is."""
        return cell

    def encode(self, cells: Iterable[str], class_names: Sequence[str]) -> np.ndarray:
        """Labels of cells; ``KeyError`` for a class that is not among the names. Here: the place of
        each name."""
        index = {name: i for i, name in enumerate(class_names)}
        return np.array([index[cell] for cell in cells], np.int64)

    def decode(self, labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
        """The cells of labels or answers. Here: the name at each place."""
        return [class_names[int(label)] for label in labels]

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """The class by which each example is spread over splits, int64 ``[n]``: of several the
        rarest; one beyond the last for an example without any. Here: the class."""
        return labels

    def kinds(self, labels: np.ndarray) -> np.ndarray:
        """The same number for the same labels, int64 ``[n]``. Here: the class."""
        return labels

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """How many examples have each class, int64 ``[classes]``. Here: of each class."""
        return np.bincount(labels, minlength=classes)

    def left(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The classes that occur, ascending, and the labels among these alone. Here: numbered
        anew."""
        present, among = np.unique(labels, return_inverse=True)
        return present, among.astype(np.int64)

    def renumbered(self, labels: np.ndarray, places: np.ndarray, classes: int) -> np.ndarray:
        """The labels with other numbers for their classes, ``places``, of which -1 is none. Here:
        -1 for an example of a class that has none."""
        return places[labels]

    def asked(
        self, labels: np.ndarray, known: Sequence[int]
    ) -> tuple[np.ndarray, Sequence[int] | slice, np.ndarray]:
        """What can be asked where labels say something of some classes alone: of which examples,
        by which columns of their probabilities, and their labels then. Here: of the examples of
        these classes, and any class may be answered."""
        rows = np.isin(labels, known)
        return rows, slice(None), labels[rows]

    def choices(self, probabilities: np.ndarray, labels: np.ndarray) -> Iterator[Choice]:
        """What is to be decided of each example, one thing after the other: the probability of each
        way ``[n, ways]``, which is taken, int64 ``[n]``, and its place in a label. Here: the
        class."""
        yield probabilities, labels, ()

    def layer(self) -> Any:
        """The last layer of a classifier, from logits to probabilities. Here: softmax."""
        import keras

        return keras.layers.Softmax(name=PROBABILITIES, dtype="float32")

    def loss(self, targets: Any, logits: Any, shares: Any) -> Any:
        """The loss of a batch as a scalar of Keras; ``shares`` are weights that add up to 1. Here:
        categorical cross-entropy."""
        from keras import ops

        losses = ops.categorical_crossentropy(targets, logits, from_logits=True)
        return ops.sum(losses * shares)

    def compiled_loss(self) -> Any:
        """Keras's own loss of labels and logits. Here: of numbers of classes."""
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def targets(self, labels: np.ndarray, classes: int, smoothing: float = 0.0) -> np.ndarray:
        """What the loss is taken to, float32 ``[n, classes]``. Here: distributions, a share spread
        over all classes."""
        targets = np.full((len(labels), classes), smoothing / classes, np.float32)
        targets[np.arange(len(labels)), labels] += 1 - smoothing
        return targets

    def weights(self, labels: np.ndarray, classes: int, balanced: bool = False) -> np.ndarray:
        """Weights of the examples in a loss, float32 ``[n]``, or of their decisions ``[n, 1 or
        classes]``: 1, or 1 on average with each class, and its absence, weighing the same. Here: of
        examples, by the inverse size of their class."""
        if not balanced:
            return np.ones(len(labels), np.float32)
        counts = np.bincount(labels, minlength=classes)
        return (len(labels) / (classes * counts[labels])).astype(np.float32)

    def descent(
        self, logits: np.ndarray, targets: np.ndarray, shares: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The loss that a head is solved by, and its slope by the logits; shares ``[n, ...]``.
        Here: of multinomial logistic regression."""
        log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
        loss = -float((shares * targets * log_p).sum())
        return loss, shares * (np.exp(log_p) - targets)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Float64, of the same shape. Here: softmax: rows that sum to 1."""
        return np.exp(special.log_softmax(np.asarray(logits, np.float64), axis=-1))

    def log_odds(self, probabilities: np.ndarray) -> np.ndarray:
        """Logits that give these probabilities, float64. Here: logarithms."""
        return np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-38))

    def losses(
        self, logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
    ) -> np.ndarray:
        """Negative log-likelihood of each example in nats, float64 ``[n]``. Here: of the true
        class."""
        scores = special.log_softmax(np.asarray(logits, np.float64) / temperature, axis=-1)
        return -scores[np.arange(len(labels)), np.asarray(labels, np.int64)]

    def scaled_nll(
        self, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
    ) -> Scaled:
        """The mean negative log-likelihood as a function of the inverse temperature. Here: by what
        lies below the largest logit, so that nothing overflows."""
        below_top = logits - logits.max(axis=1, keepdims=True)
        of_truth = below_top[np.arange(len(logits)), np.asarray(labels, dtype=np.int64)]
        truth = np.average(of_truth, weights=weights)

        def mean(inverse: float) -> float:
            normaliser = np.log(np.exp(inverse * below_top).sum(axis=1))
            return np.average(normaliser, weights=weights) - inverse * truth

        return mean

    def thresholds(self, probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
        """From which probability on each class is answered; empty where the largest decides. Here:
        none: the largest probability decides."""
        return ()

    def answers(self, scores: np.ndarray, thresholds: Sequence[float] = ()) -> np.ndarray:
        """The answers to probabilities, as labels. Here: the most probable class, the first of
        equals."""
        return scores.argmax(axis=-1)

    def sureness(self, probabilities: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """The probability that the model gives to its answers, float64 ``[n]``. Here: the largest
        probability."""
        return probabilities.max(axis=1)

    def decisions(
        self, probabilities: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities to be taken at their word, and whether what they are of is so. Here: of
        each example its answer."""
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels

    def hits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether the answers to logits are right, bool ``[n]``, without fitted thresholds. Here:
        whether the largest is of the true class."""
        return logits.argmax(axis=1) == labels

    def same(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether answers are those labels, bool ``[n]``. Here: whether it is the class."""
        return answers == labels

    def told_by(self, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The class that tells most of how an example is answered, int64 ``[n]``. Here: the
        answer."""
        return probabilities.argmax(axis=1)

    def contrast(self, logits: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Weights of the logits in what speaks for a class, 1 in the column of which is ``own``.
        Here: its odds: its own logit against those of the others by their shares."""
        return own - self.probabilities(np.where(own, -np.inf, logits))


class SeveralLabels:
    """Any number of classes hold for an example: sigmoid and binary cross-entropy of each.

    A class is answered where its probability reaches its threshold, and an answer is right where
    all of its classes are. Losses are means over the classes.
    """

    setting: Literal["on", "off"] = "on"
    exclusive, counted = False, "labels of "

    def canonical(self, cell: str) -> str:
        """Its classes once each, in order of their names, with ``MARK`` between."""
        return MARK.join(sorted(set(self.names(cell)))) or MARK

    def names(self, cell: str) -> list[str]:
        """What stands between marks."""
        return [name.strip() for name in cell.split(MARK) if name.strip()]

    def said(self, cell: str) -> str:
        """Its classes, or that there are none."""
        return " + ".join(self.names(cell)) or "none"

    def encode(self, cells: Iterable[str], class_names: Sequence[str]) -> np.ndarray:
        """1 in the column of each class that is named."""
        index = {name: i for i, name in enumerate(class_names)}
        named = [self.names(cell) for cell in cells]
        labels = np.zeros((len(named), len(index)), np.uint8)
        for row, names in zip(labels, named, strict=True):
            row[[index[name] for name in names]] = 1
        return labels

    def decode(self, labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
        """The names of each row's ones, in the order of the classes."""
        return [
            MARK.join(class_names[i] for i in np.flatnonzero(row).tolist()) or MARK
            for row in labels
        ]

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """The rarest class of each example."""
        if not labels.size:
            return np.zeros(len(labels), np.int64)
        sizes = np.where(labels > 0, labels.sum(axis=0), np.inf)
        return np.where(labels.any(axis=1), sizes.argmin(axis=1), labels.shape[1]).astype(np.int64)

    def kinds(self, labels: np.ndarray) -> np.ndarray:
        """One for each set of classes."""
        return np.unique(labels, axis=0, return_inverse=True)[1].reshape(len(labels))

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Of each column."""
        return labels.sum(axis=0, dtype=np.int64)

    def left(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The columns that hold a 1."""
        present = np.flatnonzero(labels.any(axis=0))
        return present, labels[:, present]

    def renumbered(self, labels: np.ndarray, places: np.ndarray, classes: int) -> np.ndarray:
        """Without classes that have no number; classes of one number are one."""
        found = np.zeros((len(labels), classes), np.uint8)
        for column, place in zip(labels.T, places.tolist(), strict=True):
            if place >= 0:
                found[:, place] |= column
        return found

    def asked(
        self, labels: np.ndarray, known: Sequence[int]
    ) -> tuple[np.ndarray, Sequence[int] | slice, np.ndarray]:
        """Of all examples, by the columns of these classes."""
        return np.ones(len(labels), bool), known, labels[:, known]

    def choices(self, probabilities: np.ndarray, labels: np.ndarray) -> Iterator[Choice]:
        """For each class whether it holds."""
        for one, (score, truth) in enumerate(zip(probabilities.T, labels.T, strict=True)):
            yield np.stack([1.0 - score, score], axis=1), truth.astype(np.int64), (one,)

    def layer(self) -> Any:
        """Sigmoid."""
        import keras

        return keras.layers.Activation("sigmoid", name=PROBABILITIES, dtype="float32")

    def loss(self, targets: Any, logits: Any, shares: Any) -> Any:
        """Binary cross-entropy, of shares ``[batch, 1 or classes]``."""
        from keras import ops

        losses = ops.binary_crossentropy(targets, logits, from_logits=True)
        return ops.sum(ops.mean(losses * shares, axis=-1))

    def compiled_loss(self) -> Any:
        """Of 0 and 1."""
        import keras

        return keras.losses.BinaryCrossentropy(from_logits=True)

    def targets(self, labels: np.ndarray, classes: int, smoothing: float = 0.0) -> np.ndarray:
        """0 and 1, a share of each spread evenly over the two, as Keras has it."""
        return (labels * (1.0 - smoothing) + smoothing / 2).astype(np.float32)

    def weights(self, labels: np.ndarray, classes: int, balanced: bool = False) -> np.ndarray:
        """Of decisions; balanced as scikit-learn balances one class against the rest."""
        if not balanced:
            return np.ones((len(labels), 1), np.float32)
        count = self.counts(labels, classes)
        size = np.where(labels > 0, count, len(labels) - count)
        sides = 1 + (count < len(labels)) * (count > 0)  # a class of all, or of none, has one
        return (len(labels) / (sides * size)).astype(np.float32)

    def descent(
        self, logits: np.ndarray, targets: np.ndarray, shares: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Of a logistic regression of each class: their sum, so that each has its own penalty."""
        loss = float((shares * (np.logaddexp(0.0, logits) - targets * logits)).sum())
        return loss, shares * (special.expit(logits) - targets)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Sigmoid, of each logit."""
        return special.expit(np.asarray(logits, np.float64))

    def log_odds(self, probabilities: np.ndarray) -> np.ndarray:
        """Log-odds, bounded where a probability is 0 or 1."""
        return special.logit(np.clip(np.asarray(probabilities, np.float64), 1e-12, 1 - 1e-12))

    def losses(
        self, logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
    ) -> np.ndarray:
        """The mean over an example's decisions."""
        scaled = np.asarray(logits, np.float64) / temperature
        return (np.logaddexp(0.0, scaled) - labels * scaled).mean(axis=1)

    def scaled_nll(
        self, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
    ) -> Scaled:
        """The mean over all decisions, with one temperature for all classes."""
        shares = np.broadcast_to(1.0 if weights is None else weights, logits.shape)
        shares = shares / shares.sum(dtype=np.float64)

        def mean(inverse: float) -> float:
            scaled = inverse * logits
            return float((shares * (np.logaddexp(0.0, scaled) - labels * scaled)).sum())

        return mean

    def thresholds(self, probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
        """Those with the best F1 of each class, halfway between two probabilities.

        Of equals the one nearest to ``MIDDLE``, which is also taken where fewer than ``LEAST``
        examples have the class or have it not: the best of few is so by chance.
        """
        columns = zip(np.asarray(probabilities, np.float64).T, labels.T, strict=True)
        return tuple(_best_f1(scores, truth > 0) for scores, truth in columns)

    def answers(self, scores: np.ndarray, thresholds: Sequence[float] = ()) -> np.ndarray:
        """1 where a class reaches its threshold, or ``MIDDLE``."""
        least = np.asarray(thresholds if len(thresholds) else MIDDLE)
        return (np.asarray(scores) >= least).astype(np.uint8)

    def sureness(self, probabilities: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Of all decisions together, as if they were independent."""
        chances = np.where(answers > 0, probabilities, 1.0 - np.asarray(probabilities, np.float64))
        return chances.prod(axis=1)

    def decisions(
        self, probabilities: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of each example each class."""
        return probabilities.ravel(), labels.ravel() > 0

    def hits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether the logits above 0 are those of the true classes."""
        return ((logits > 0) == labels).all(axis=1)

    def same(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether all classes are the same."""
        return (answers == labels).all(axis=1)

    def told_by(self, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """That whose probability is furthest from the truth."""
        return np.abs(probabilities - labels.astype(np.float64)).argmax(axis=1)

    def contrast(self, logits: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Its own logit, which is its odds."""
        return own


def _best_f1(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of a class."""
    if min(truth.sum(), (~truth).sum()) < LEAST:
        return MIDDLE
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(truth[order])
    ends = np.flatnonzero(ranked[:-1] > ranked[1:])  # equals are answered together
    f1 = 2.0 * found[ends] / (ends + 1 + truth.sum())
    between = (ranked[ends] + ranked[ends + 1]) / 2
    at_middle = scores >= MIDDLE
    usual = 2.0 * (at_middle & truth).sum() / (at_middle.sum() + truth.sum())
    if not len(ends) or f1.max() <= usual:
        return MIDDLE
    best = between[f1 == f1.max()]
    return float(np.round(best[np.abs(best - MIDDLE).argmin()], 4)) or 1e-4


Task = OneLabel | SeveralLabels


ONE, SEVERAL = OneLabel(), SeveralLabels()
TASKS: dict[str, Task] = {task.setting: task for task in (ONE, SEVERAL)}
"""By what the setting ``multi_label`` is called."""


def task_of(labels: np.ndarray) -> Task:
    """The task that labels are of."""
    return SEVERAL if np.ndim(labels) == 2 else ONE


def task_of_model(model: Any) -> Task:
    """The task that a classifier was built for."""
    last = model.layers[-1]
    sigmoid = getattr(getattr(last, "activation", None), "__name__", "") == "sigmoid"
    return SEVERAL if sigmoid else ONE
