"""Solving a linear head to convergence on frozen features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
import threadpoolctl

from keras_transfer import calibration

# From nearly no fit to nearly separable data, in factors of about 3 (lambda, see schedule.py).
PENALTIES: tuple[float, ...] = tuple(float(x) for x in 10.0 ** np.arange(0.0, -6.1, -0.5))


@dataclasses.dataclass(frozen=True, eq=False)
class LinearHead:
    """A solved multinomial logistic regression on raw (not standardised) features.

    Attributes:
        kernel: float32 ``[features, classes]``, ready for a Dense layer.
        bias: float32 ``[classes]``.
        penalty: the lambda that was chosen.
        validation_nll: mean NLL in nats on the validation features, at temperature 1.
        path: ``(lambda, validation NLL, iterations)`` of every penalty tried.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    validation_nll: float
    path: tuple[tuple[float, float, int], ...]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits ``[n, classes]`` of raw features ``[n, features]``."""
        return features @ self.kernel + self.bias


# Products this thin gain nothing from threads, and wait long for them on a busy machine.
@threadpoolctl.threadpool_limits.wrap(limits=1, user_api="blas")
def solve_linear_head(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    *,
    sample_weights: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    penalties: Sequence[float] = PENALTIES,
) -> LinearHead:
    """Multinomial logistic regression over a path of L2 penalties, by L-BFGS with warm starts.

    Minimises ``sum_i s_i l_i(w) / sum_i s_i + lambda ||w||^2`` over the weights w of standardised
    features (the bias is not penalised), for each lambda from the strongest to the weakest, each
    solve starting where the one before ended. The lambda with the lowest validation NLL wins; the
    path ends early once two lambdas in a row are worse. Standardisation is folded into the returned
    kernel and bias, exactly.

    Args:
        features: float ``[n, d]`` frozen features of the training images, all views of them.
        labels: int ``[n]``.
        classes: number of classes.
        validation_features: float ``[m, d]``, clean views.
        validation_labels: int ``[m]``.
        sample_weights: float ``[n]`` weights s_i, or None for 1.
        label_smoothing: share of each target spread evenly over the classes.
        penalties: the lambdas, strongest first.
    """
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = features.std(axis=0, dtype=np.float64).astype(np.float32)
    # A feature that never varies carries nothing; dividing by its deviation would be 0/0.
    deviation[deviation < 1e-6 * max(float(deviation.max()), 1e-30)] = np.inf
    standard = (features.astype(np.float32) - mean) / deviation
    validation = (validation_features.astype(np.float32) - mean) / deviation
    basis, variances = _principal_axes(standard)
    rotated, rotated_validation = standard @ basis, validation @ basis
    del standard, validation
    objective = _objective(rotated, labels, classes, sample_weights, label_smoothing)

    matrix = np.zeros((rotated.shape[1] + 1, classes))
    best: tuple[float, float, np.ndarray] | None = None
    path: list[tuple[float, float, int]] = []
    worse = 0
    for penalty in penalties:
        matrix, iterations = _solve(objective, matrix, variances, penalty)
        loss = calibration.nll(rotated_validation @ matrix[:-1] + matrix[-1], validation_labels)
        path.append((penalty, loss, iterations))
        if best is None or loss < best[0]:
            best, worse = (loss, penalty, matrix), 0
        else:
            worse += 1
            if worse == 2:
                break
    assert best is not None
    folded = basis @ best[2][:-1] / deviation[:, None]
    return LinearHead(
        kernel=folded.astype(np.float32),
        bias=(best[2][-1] - mean @ folded).astype(np.float32),
        penalty=best[1],
        validation_nll=best[0],
        path=tuple(path),
    )


def _principal_axes(standard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal axes of the features, float32 ``[d, r]``, and the variance along each.

    L2 does not change under rotation, and the solution has no part where the features do not vary,
    so solving along these axes is the same problem, in at most min(n, d) dimensions.
    """
    count, width = standard.shape
    wide = width > count
    gram = (standard @ standard.T if wide else standard.T @ standard).astype(np.float64) / count
    variances, axes = scipy.linalg.eigh(gram, overwrite_a=True, driver="evd")
    kept = variances > 1e-7 * max(float(variances[-1]), 1e-30)
    variances, axes = variances[kept], axes[:, kept].astype(np.float32)
    if wide:
        axes = standard.T @ axes
        axes /= np.linalg.norm(axes, axis=0)
    return axes, variances


def _solve(
    objective: Callable[[np.ndarray, float], tuple[float, np.ndarray]],
    start: np.ndarray,
    variances: np.ndarray,
    penalty: float,
) -> tuple[np.ndarray, int]:
    """Minimises from ``start``; returns the weights ``[r + 1, classes]`` and the iterations.

    Along an axis of variance v the loss curves by about v p (1 - p) and the penalty by 2 lambda.
    Dividing each weight by the root of that leaves a problem that is nearly round, which L-BFGS
    solves in tens of iterations instead of hundreds.
    """
    scale = 1.0 / np.sqrt(np.append(variances, 1.0) * 0.05 + 2.0 * penalty)[:, None]
    scale[-1] = 1.0 / np.sqrt(0.05)

    def scaled(flat: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = objective(flat.reshape(start.shape) * scale, penalty)
        return loss, (slope * scale).ravel()

    solution = scipy.optimize.minimize(
        scaled,
        (start / scale).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 300, "maxcor": 12, "ftol": 1e-6, "gtol": 1e-5},
    )
    return solution.x.reshape(start.shape) * scale, int(solution.nit)


def _objective(
    standard: np.ndarray,
    labels: np.ndarray,
    classes: int,
    sample_weights: np.ndarray | None,
    label_smoothing: float,
) -> Callable[[np.ndarray, float], tuple[float, np.ndarray]]:
    """The loss and its gradient; products in float32, sums and the optimiser in float64."""
    targets = np.full((len(labels), classes), label_smoothing / classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1.0 - label_smoothing
    shares = np.ones(len(labels)) if sample_weights is None else np.asarray(sample_weights, float)
    shares = (shares / shares.sum())[:, None]

    def loss_and_gradient(matrix: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        kernel, bias = matrix[:-1].astype(np.float32), matrix[-1]
        logits = (standard @ kernel).astype(np.float64) + bias
        log_p = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        loss = -float((shares * targets * log_p).sum())
        error = (shares * (np.exp(log_p) - targets)).astype(np.float32)
        slope = np.vstack([(error.T @ standard).T, error.sum(axis=0)]).astype(np.float64)
        slope[:-1] += 2.0 * penalty * matrix[:-1]
        return loss + penalty * float((matrix[:-1] ** 2).sum()), slope

    return loss_and_gradient
