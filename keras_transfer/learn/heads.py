"""Solving a linear head to convergence on frozen features."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import threadpoolctl

from keras_transfer.base import rows as tables
from keras_transfer.base.rows import Spooled, Table
from keras_transfer.base.task import task_of
from keras_transfer.base.threads import cores
from keras_transfer.learn import calibration

# From nearly no fit to nearly separable data, in factors of about 3 (lambda, see recipe.py).
PENALTIES: tuple[float, ...] = tuple(float(x) for x in 10.0 ** np.arange(0.0, -6.1, -0.5))
# Relative decrease of the loss at which L-BFGS stops: loose to tell penalties apart, tight for the
# solution that is kept.
_LOOSE, _TIGHT = 1e-5, 1e-7

FEW = 16
"""Up to so many examples a class, on average, labels are few."""
# Examples that the variances of few are worth, see steadied: from 5 to 50 all do as well.
_PRIOR = 20
# Parts in cross-validation, at most as many as there are groups, and examples of a class.
_PARTS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A solved logistic regression on raw (not standardised) features.

    Attributes:
        kernel: float32 ``[features, classes]``, ready for a Dense layer.
        bias: float32 ``[classes]``.
        penalty: the lambda that was chosen.
        validation_nll: mean NLL in nats on the validation features, at temperature 1.
        path: ``(lambda, validation NLL, iterations)`` of every penalty tried.
        ignored: how many of the first features it does without.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    validation_nll: float
    path: tuple[tuple[float, float, int], ...]
    ignored: int = 0

    @property
    def iterations(self) -> int:
        """Of the whole path."""
        return sum(step[2] for step in self.path)

    def rows(self) -> list[dict[str, float | str]]:
        """The path as rows of a history."""
        return [
            {"phase": "head", "epoch": number, "validation_loss": loss, "penalty": penalty}
            for number, (penalty, loss, _) in enumerate(self.path, 1)
        ]

    def details(self) -> dict[str, object]:
        """What ``metrics.json`` says of it."""
        path = [list(step) for step in self.path]
        ignored = {"ignored": self.ignored} if self.ignored else {}
        loss = self.validation_nll
        return {"penalty": self.penalty, "validation_nll": loss, "path": path, **ignored}

    def seeing(self, ignored: int) -> "Head":
        """One that was solved without so many first features, as one that is given them."""
        kernel = np.pad(self.kernel, ((ignored, 0), (0, 0)))
        return dataclasses.replace(self, kernel=kernel, ignored=ignored)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits ``[n, classes]`` of raw features ``[n, features]``."""
        return features @ self.kernel + self.bias


# Products this thin gain nothing from threads, and wait long for them on a busy machine.
@threadpoolctl.threadpool_limits.wrap(limits=1, user_api="blas")
def solve_head(
    features: Table,
    labels: np.ndarray,
    classes: int,
    validation_features: Table,
    validation_labels: np.ndarray,
    *,
    sample_weights: np.ndarray | None = None,
    validation_weights: np.ndarray | None = None,
    penalties: Sequence[float] = PENALTIES,
    few: bool = False,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> Head:
    """Logistic regression over a path of L2 penalties, by L-BFGS with warm starts.

    Multinomial for one label; for several, one of each class, with one lambda for all of them.

    Minimises ``sum_i s_i l_i(w) / sum_i s_i + lambda ||w||^2`` over the weights w of standardised
    features (the bias is not penalised), for each lambda from the strongest to the weakest, each
    solve starting where the one before ended. The lambda with the lowest validation NLL wins; the
    path ends early once two lambdas in a row are worse, and the best is solved more tightly then.
    Standardisation is folded into the returned kernel and bias, exactly.

    Of features that do not fit in memory the path begins on a sample, unless there is a start, and
    goes on from its best with all, block by block, until one lambda is worse.

    Args:
        features: float ``[n, d]`` frozen features of the training images, all views of them.
        labels: of either task, see :mod:`~keras_transfer.base.task`.
        classes: number of classes.
        validation_features: float ``[m, d]``, clean views.
        validation_labels: of the same task.
        sample_weights: weights s_i, see ``Task.weights``, or None for 1.
        validation_weights: of each image in the validation NLL, or None for 1.
        penalties: the lambdas, strongest first.
        few: whether the examples are too few to tell how much a feature varies, see
            :func:`steadied`.
        start: kernel and bias from which the path begins, or None for zero.
    """
    weights = task_of(labels).weights(labels, classes) if sample_weights is None else sample_weights
    problem = _posed(features, labels, classes, validation_features, weights, few)
    if start is not None:
        problem = dataclasses.replace(problem, start=problem.unfold(*start))

    def judge(matrices: Sequence[np.ndarray]) -> float:
        logits = problem.answers(matrices[0])
        return calibration.nll(logits, validation_labels, weights=validation_weights)

    if start is None and not tables.fits(features):
        rows = tables.sample(len(features), tables.width(features))
        on_some = dataclasses.replace(problem, objective=problem.of_some(rows))
        tried, place = _path([on_some], penalties, judge)
        del on_some  # its rows are a copy
        problem = dataclasses.replace(problem, start=tried[place][3][0])
        tried, place = _path([problem], penalties[place:], judge, worse=1)
    else:
        tried, place = _path([problem], penalties, judge)
    return _kept(problem, tried, place, judge)


@threadpoolctl.threadpool_limits.wrap(limits=1, user_api="blas")
def solve_on_all(
    clean: np.ndarray,
    views: Sequence[np.ndarray],
    labels: np.ndarray,
    weights: np.ndarray,
    groups: Sequence[str],
    classes: int,
) -> tuple[Head, np.ndarray]:
    """A head of few labels on all of them, training and validation examples alike.

    The penalty is that with the lowest NLL where each part of the examples is answered by a head
    that was solved without it. Nearest means and shrunken discriminants were tried beside it, and
    won nothing on standardised features that are steadied: ``benchmarks/results/few.md``.

    Args:
        clean: float ``[n, d]``, a row an example.
        views: further rows of the first examples, each float ``[m, d]``.
        labels: of either task, at least two examples of some class.
        weights: of each example in loss and NLL, see ``Task.weights``.
        groups: of each example, at least two; no group is divided.
        classes: number of classes.

    Returns:
        The head, and float64 ``[n, classes]`` logits of the examples by heads that had not seen
        them.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = np.concatenate([clean, *views])
    example = np.concatenate([np.arange(len(one)) for one in (clean, *views)])
    shares = (weights.T / np.bincount(example)).T[example]
    strata = task_of(labels).strata(labels)
    most = min(_PARTS, np.bincount(strata).max(), len(set(groups)))
    parts = StratifiedGroupKFold(most)
    problems, asked = [], list[np.ndarray]()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # rare classes
        for seen, left in parts.split(clean, strata, np.asarray(groups)):
            fit = np.isin(example, seen)
            given = rows[fit], labels[example[fit]], classes, clean[left], shares[fit]
            problems.append(_posed(*given, True))
            asked.append(left)
    logits = np.empty((len(clean), classes))

    def judge(matrices: Sequence[np.ndarray]) -> float:
        for problem, left, matrix in zip(problems, asked, matrices, strict=True):
            logits[left] = problem.answers(matrix)
        return calibration.nll(logits, labels, weights=weights)

    tried, place = _path(problems, PENALTIES, judge)
    loss = judge(tried[place][3])
    head = solve_head(
        rows, labels[example], classes, clean, labels, sample_weights=shares,
        penalties=PENALTIES[place : place + 1], few=True,
    )  # fmt: skip
    return dataclasses.replace(head, validation_nll=loss), logits


def steadied(variance: np.ndarray, examples: int) -> np.ndarray:
    """The variances of features of few examples, drawn towards their median.

    Of ten examples some features hardly vary by chance: divided by their deviation, these would
    outweigh all others. Those that do not vary at all do not count for the median.
    """
    varies = variance > 1e-6 * variance.max()
    usual = np.median(variance[varies]) if varies.any() else 0.0
    return (examples * variance + _PRIOR * usual) / (examples + _PRIOR)


_Fold = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_Unfold = Callable[[np.ndarray, np.ndarray], np.ndarray]
_Objective = Callable[[np.ndarray, float], tuple[float, np.ndarray]]
_Judge = Callable[[Sequence[np.ndarray]], float]


class _Standard:
    """Features as they are solved on, float32: in memory, or in a file where they do not fit.

    Args:
        features: as they come.
        change: standardises them.
    """

    def __init__(self, features: Table, change: Callable[[np.ndarray], np.ndarray]) -> None:
        parts = (change(features[rows]) for rows in tables.blocks(features))
        if tables.fits(features):
            width = tables.width(change(features[:0]))
            held = np.empty((len(features), width), np.float32)
            for rows, part in zip(tables.blocks(features), parts, strict=True):
                held[rows] = part
            self._rows: Table = held
            self._blocks = [slice(None)]
        else:
            self._rows, self._blocks = Spooled(parts), list(tables.blocks(features))

    def each(self, function: Callable[[slice, np.ndarray], Any]) -> Iterator[Any]:
        """What a function makes of each block, given where its rows stand, and these; in order.

        Blocks of a file are read and computed on several cores: BLAS is held to one here.
        """
        if len(self._blocks) == 1:
            yield function(self._blocks[0], self._rows[self._blocks[0]])
            return
        with ThreadPoolExecutor(cores()) as pool:
            yield from pool.map(lambda rows: function(rows, self._rows[rows]), self._blocks)

    def some(self, rows: np.ndarray | slice) -> np.ndarray:
        """Those at some positions."""
        return self._rows[rows]

    def gram(self) -> np.ndarray:
        """Second moments, float64 ``[d, d]``."""
        total = sum(self.each(lambda _, rows: (rows.T @ rows).astype(np.float64)))
        return np.asarray(total) / len(self._rows)


@dataclasses.dataclass(frozen=True, eq=False)
class _Problem:
    """Examples to solve a head on, standardised, and others that it answers.

    Attributes:
        objective: see :func:`_objective`.
        of_some: the objective of those at some positions, standardised as all are: a feature that
            is rare would be far from zero wherever a sample did not have it.
        gram: second moments of the features of all, float64 ``[d, d]``.
        others: what it answers.
        start: weights ``[d + 1, classes]`` of a path's first solve, the bias last.
        fold: what makes of weights kernel and bias for features as they come.
        unfold: what makes weights of kernel and bias.
    """

    objective: _Objective
    of_some: Callable[[np.ndarray | slice], _Objective]
    gram: np.ndarray
    others: _Standard
    start: np.ndarray
    fold: _Fold
    unfold: _Unfold

    def solve(self, start: np.ndarray, penalty: float, tolerance: float) -> tuple[np.ndarray, int]:
        """Minimises from ``start``; the weights ``[d + 1, classes]``, and the iterations.

        The loss curves by about p (1 - p) times the features' second moments, and the penalty by
        2 lambda. In coordinates in which that is the identity, which the Cholesky factor of the sum
        gives, the problem is nearly round, and L-BFGS solves it in tens of iterations instead of
        hundreds.
        """
        curvature = 0.05 * self.gram
        ridge = 2.0 * penalty + 1e-7 * curvature.max(initial=1e-9)
        curvature[np.diag_indices_from(curvature)] += ridge
        factor = scipy.linalg.cholesky(curvature, overwrite_a=True, check_finite=False)
        level = 0.05**-0.5

        def weights_of(flat: np.ndarray) -> np.ndarray:
            matrix = flat.reshape(start.shape)
            kernel = scipy.linalg.solve_triangular(factor, matrix[:-1], check_finite=False)
            return np.vstack([kernel, level * matrix[-1:]])

        def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
            loss, slope = self.objective(weights_of(flat), penalty)
            kernel = scipy.linalg.solve_triangular(factor, slope[:-1], trans=1, check_finite=False)
            slope[:-1], slope[-1] = kernel, level * slope[-1]
            return loss, slope.ravel()

        begin = np.vstack([factor @ start[:-1], start[-1:] / level]).ravel()
        options = {"maxiter": 300, "maxcor": 12, "ftol": tolerance, "gtol": 1e-5}
        found = scipy.optimize.minimize(
            evaluate, begin, jac=True, method="L-BFGS-B", options=options
        )
        return weights_of(found.x), int(found.nit)

    def answers(self, matrix: np.ndarray) -> np.ndarray:
        """The logits of the others."""
        kernel = matrix[:-1].astype(np.float32)  # or NumPy makes float64 of all rows
        return np.concatenate(list(self.others.each(lambda _, rows: rows @ kernel + matrix[-1])))


def _posed(
    features: Table, labels: np.ndarray, classes: int, others: Table, weights: np.ndarray, few: bool
) -> _Problem:
    """The problem of some features, in memory or, where they do not fit, in a file."""
    change, fold, unfold = _standardised(features, few)
    standard = _Standard(features, change)
    gram = standard.gram()

    def of_some(rows: np.ndarray | slice) -> _Objective:
        held = standard.some(rows)

        def each(function: Callable[[slice, np.ndarray], Any]) -> Iterator[Any]:
            yield function(slice(None), held)

        return _objective(each, labels[rows], weights[rows], classes)

    return _Problem(
        _objective(standard.each, labels, weights, classes), of_some, gram,
        _Standard(others, change), np.zeros((len(gram) + 1, classes)), fold, unfold,
    )  # fmt: skip


_Tried = tuple[float, float, int, list[np.ndarray]]  # penalty, loss, iterations, weights


def _path(
    problems: Sequence[_Problem], penalties: Sequence[float], judge: _Judge, worse: int = 2
) -> tuple[list[_Tried], int]:
    """Solves problems along the penalties until some in a row are worse; and which was best."""
    matrices, tried, losses = [one.start for one in problems], list[_Tried](), list[float]()
    for penalty in penalties:
        pairs = zip(problems, matrices, strict=True)
        solved = [problem.solve(matrix, penalty, _LOOSE) for problem, matrix in pairs]
        matrices = [matrix for matrix, _ in solved]
        losses.append(judge(matrices))
        tried.append((penalty, losses[-1], sum(count for _, count in solved), matrices))
        if len(tried) - losses.index(min(losses)) > worse:
            break
    return tried, losses.index(min(losses))


def _kept(problem: _Problem, tried: list[_Tried], place: int, judge: _Judge) -> Head:
    """The best of a path, solved more tightly."""
    penalty, _, iterations, (matrix,) = tried[place]
    matrix, more = problem.solve(matrix, penalty, _TIGHT)
    tried[place] = penalty, judge([matrix]), iterations + more, [matrix]
    kernel, bias = problem.fold(matrix)
    path = tuple((penalty, loss, iterations) for penalty, loss, iterations, _ in tried)
    return Head(kernel, bias, penalty, tried[place][1], path)


def _standardised(
    features: Table, few: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], _Fold, _Unfold]:
    """What standardises rows by their moments, what folds this into solved weights, exactly,
    and what takes it out of folded ones.
    """
    mean, variance = tables.moments(features)
    mean, deviation = mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
    if few:
        deviation = np.sqrt(steadied(deviation**2, len(features)))
    # A feature that never varies carries nothing; dividing by its deviation would be 0/0.
    deviation[deviation < 1e-6 * max(float(deviation.max()), 1e-30)] = np.inf

    def standard(rows: np.ndarray) -> np.ndarray:
        return (rows.astype(np.float32) - mean) / deviation

    # The solution has no part where the features do not vary: fewer images than features span as
    # many dimensions as there are images, and L2 does not change under rotation.
    spanned = tables.fits(features) and len(features) < len(mean)
    basis = np.linalg.qr(standard(features[:]).T)[0] if spanned else None

    def change(rows: np.ndarray) -> np.ndarray:
        return standard(rows) if basis is None else standard(rows) @ basis

    def fold(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = matrix[:-1] if basis is None else basis @ matrix[:-1]
        folded = weights / deviation[:, None]
        return folded.astype(np.float32), (matrix[-1] - mean @ folded).astype(np.float32)

    def unfold(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        weights = kernel * np.where(np.isfinite(deviation), deviation, 0.0)[:, None]
        return np.vstack([weights if basis is None else basis.T @ weights, bias + mean @ kernel])

    return change, fold, unfold


def _objective(
    each_block: Callable[[Callable[[slice, np.ndarray], Any]], Iterator[Any]],
    labels: np.ndarray,
    weights: np.ndarray,
    classes: int,
) -> _Objective:
    """The loss and its gradient; products in float32, sums and the optimiser in float64."""
    task = task_of(labels)
    shares = np.asarray(weights, float).reshape(len(labels), -1)
    shares = shares / (shares.sum() / shares.shape[1])

    def loss_and_gradient(matrix: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        kernel, bias = matrix[:-1].astype(np.float32), matrix[-1]
        loss, slope = penalty * float((matrix[:-1] ** 2).sum()), np.zeros_like(matrix)
        slope[:-1] = 2.0 * penalty * matrix[:-1]

        def of_block(rows: slice, seen: np.ndarray) -> tuple[float, np.ndarray]:
            # This way round a product with so few columns takes half the time.
            logits = (kernel.T @ seen.T).T.astype(np.float64) + bias
            targets = task.targets(labels[rows], classes)
            part, error = task.descent(logits, targets, shares[rows])
            error = error.astype(np.float32)
            return part, np.vstack([(error.T @ seen).T, error.sum(axis=0)])

        for part, direction in each_block(of_block):
            loss += part
            slope += direction
        return loss, slope

    return loss_and_gradient
