"""Segments: the maximal runs of equal labels in a sequence."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Runs(NamedTuple):
    """R runs in the order of time, one array (R,) for each of their facts.

    label  class ids
    start  int64, the first frame
    end    int64, the frame after the last one
    """

    label: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


def runs(labels: NDArray[np.int64], ignore: Collection[int] = ()) -> Runs:
    """The maximal runs of `labels` (T,), without those of the classes to `ignore`.

    Runs of one class with an ignored run between them stay two.
    """
    changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    edges = np.concatenate(([0], changes, [len(labels)])) if len(labels) else np.zeros(1, np.int64)
    start, end = edges[:-1], edges[1:]
    kept = ~np.isin(labels[start], list(ignore))
    return Runs(labels[start][kept], start[kept], end[kept])
