"""One line of a parity report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

NORM_FLOOR = 1e-3  # of the largest norm: a bias in front of a BatchNorm has no true gradient, only rounding noise


@dataclass(frozen=True)
class Line:
    """One compared quantity: its error, the largest error allowed, and why that is more than usual ("" where it is not)."""

    quantity: str
    error: float
    limit: float
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is within the limit; a NaN is not."""
        return self.error <= self.limit


def as_float64(value: torch.Tensor | ArrayLike) -> NDArray[np.float64]:
    """A tensor of any device, or an array, in float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, np.float64)


def relative_error(value: torch.Tensor | ArrayLike, reference: ArrayLike, *, noise: float = 0.0) -> float:
    """max |a - b| / max |b|; infinite where the shapes differ, NaN where a value is NaN, 0 where there is none.

    Where max |b| is below `noise`, that takes its place: the reference itself is rounding then.
    """
    a, b = as_float64(value), as_float64(reference)
    if a.shape != b.shape:
        return float("inf")
    return float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), noise, 1e-30)) if a.size else 0.0


def norm_error(values: ArrayLike, references: ArrayLike) -> float:
    """Largest |a - b| / (b + 0.001 max b) over a list of norms. A NaN means "none": it must be NaN on both sides."""
    a, b = as_float64(values), as_float64(references)
    if a.shape != b.shape or np.any(np.isnan(a) != np.isnan(b)):
        return float("inf")
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not len(b):
        return 0.0
    return float(np.max(np.abs(a - b) / np.maximum(b + NORM_FLOOR * b.max(), 1e-300)))


def value_error(values: ArrayLike, references: ArrayLike) -> float:
    """Largest |a - b| / |b| over a series, entry by entry; where the reference is 0 the value must be 0."""
    a, b = as_float64(values), as_float64(references)
    if a.shape != b.shape:
        return float("inf")
    difference = np.abs(a - b)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / np.abs(b))
    return float(np.max(relative))
