"""Solving a linear head to convergence on frozen features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.optimize
import scipy.special

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
    objective = _objective(standard, labels, classes, sample_weights, label_smoothing)

    weights = np.zeros((standard.shape[1] + 1) * classes)
    best: tuple[float, float, np.ndarray] | None = None
    path: list[tuple[float, float, int]] = []
    worse = 0
    for penalty in penalties:
        solution = scipy.optimize.minimize(
            objective,
            weights,
            args=(penalty,),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 300, "maxcor": 10, "ftol": 1e-7, "gtol": 1e-5},
        )
        weights = solution.x
        kernel, bias = _unpack(weights, classes)
        loss = calibration.nll(validation @ kernel + bias, validation_labels)
        path.append((penalty, loss, int(solution.nit)))
        if best is None or loss < best[0]:
            best, worse = (loss, penalty, weights.copy()), 0
        else:
            worse += 1
            if worse == 2:
                break
    assert best is not None
    kernel, bias = _unpack(best[2], classes)
    folded = kernel / deviation[:, None]
    return LinearHead(
        kernel=folded.astype(np.float32),
        bias=(bias - mean @ folded).astype(np.float32),
        penalty=best[1],
        validation_nll=best[0],
        path=tuple(path),
    )


def _unpack(weights: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    matrix = weights.astype(np.float32).reshape(-1, classes)
    return matrix[:-1], matrix[-1]


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

    def loss_and_gradient(weights: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        kernel, bias = _unpack(weights, classes)
        logits = (standard @ kernel + bias).astype(np.float64)
        log_p = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        loss = -float((shares * targets * log_p).sum())
        error = (shares * (np.exp(log_p) - targets)).astype(np.float32)
        slope = np.vstack([standard.T @ error, error.sum(axis=0)]).astype(np.float64)
        free = weights.reshape(-1, classes)
        slope[:-1] += 2.0 * penalty * free[:-1]
        return loss + penalty * float((free[:-1] ** 2).sum()), slope.ravel()

    return loss_and_gradient
