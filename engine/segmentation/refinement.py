"""Predicted boundaries smooth predicted classes: one class between each two of them.

Source: the USDRL segmentation specification, section 6.4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_data.errors import DataError

THRESHOLD = 0.5


def peaks(boundary: NDArray[np.floating[Any]], threshold: float = THRESHOLD) -> NDArray[np.int64]:
    """Frames at which segments begin, in order: frame 0, and where the probability `boundary` (T,) is a strict local maximum.

    Such a frame has at least `threshold` and more than either neighbour; a plateau holds none, and the last frame is none.
    Raises `DataError` for numbers that are not finite.
    """
    _require_finite("boundary probabilities", boundary)
    inner = boundary[1:-1]
    higher = (inner > boundary[:-2]) & (inner > boundary[2:]) & (inner >= threshold)
    return np.concatenate((np.zeros(min(len(boundary), 1), np.int64), np.flatnonzero(higher) + 1))


def refined(
    scores: NDArray[np.floating[Any]],
    boundary: NDArray[np.floating[Any]],
    *,
    labels: NDArray[np.int64] | None = None,
    threshold: float = THRESHOLD,
) -> NDArray[np.int64]:
    """Labels (T,) that are the same from each peak of `boundary` (T,) to the next: those of most frames there.

    scores  (K, T) of the classes, any scale; of classes of equally many frames that of the greater sum is taken, then the first
    labels  (T,) class ids of the frames; those of the highest scores by default
    Raises `DataError` for lengths that differ or numbers that are not finite.
    """
    classes, frames = scores.shape
    labels = scores.argmax(0) if labels is None else labels
    if not frames == len(boundary) == len(labels):
        raise DataError(
            f"scores of {frames} frames, boundary probabilities of {len(boundary)}, labels of {len(labels)}",
            where="boundary refinement",
            expected="as many of each",
        )
    _require_finite("class scores", scores)
    start = peaks(boundary, threshold)
    lengths = np.diff(np.append(start, frames))
    segment = np.repeat(np.arange(len(start)), lengths)
    votes = np.bincount(segment * classes + labels, minlength=len(start) * classes).reshape(len(start), classes)
    sums = np.add.reduceat(scores, start, axis=1, dtype=np.float64).T if frames else votes
    winner = np.where(votes == votes.max(1, keepdims=True), sums, -np.inf).argmax(1)
    return np.repeat(winner, lengths)


def _require_finite(what: str, values: NDArray[np.floating[Any]]) -> None:
    if not np.isfinite(values).all():
        raise DataError(f"{what} hold numbers that are not finite", where="boundary refinement", expected="finite numbers")
