"""Logistic regression of two classes, to the minimum: the problem is small and convex, so Newton's method needs a few steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_STEPS = 100
PRECISION = 1e-9  # of the gradient, relative to the number of rows


def fit(x: NDArray[np.float64], positive: NDArray[np.bool_], *, inverse_penalty: float) -> tuple[NDArray[np.float64], float]:
    """Weights (F,) and bias for rows `x` (N, F) that are `positive` (N,) or not; there must be some of both.

    The minimum of ``inverse_penalty * sum(log-losses) + |weights|^2 / 2``, in which the bias is free: scikit-learn's
    LogisticRegression with C = inverse_penalty, at any precision of its solver.
    """
    rows = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = np.append(np.ones(x.shape[1]), 0.0)
    sign = np.where(positive, 1.0, -1.0)
    at = np.zeros(rows.shape[1])

    def objective(point: NDArray[np.float64]) -> float:
        return float(inverse_penalty * np.logaddexp(0.0, -sign * (rows @ point)).sum() + 0.5 * (penalty * point**2).sum())

    value = objective(at)
    for _ in range(MOST_STEPS):
        p = probability(rows @ at)
        gradient = inverse_penalty * (rows.T @ (p - positive)) + penalty * at
        if np.abs(gradient).max() <= PRECISION * len(x) * inverse_penalty:
            break
        curvature = inverse_penalty * (rows.T * (p * (1 - p))) @ rows + np.diag(penalty)
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        size = 1.0
        while (reached := objective(at - size * step)) > value and size > 1e-9:
            size /= 2  # a full step can overshoot where the data are nearly separable
        at, value = at - size * step, reached
    return at[:-1], float(at[-1])


def probability(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-margin)), for margins of any size."""
    small = np.exp(-np.abs(margin))
    return np.where(margin >= 0, 1.0, small) / (1.0 + small)
