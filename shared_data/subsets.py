"""Which training clips a run may see with their labels: a share of them, or a few of each class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared_data.batches.randomness import permutation
from shared_data.errors import UsageError


def semi_supervised(count: int, ratio: float, seed: int) -> np.ndarray:
    """Rows (int(count ratio),) int64 of `count`, as MAMP draws them: from NumPy's old generator, without regard to classes.

    The official reader uses the global generator when it opens the file; `seed` is what that was seeded with last. In a run
    on several GPUs each rank seeds with its own number, and so learns from other clips.
    Raises `UsageError` for a share that is not above 0 and at most 1, or that leaves no clip.
    """
    _check(ratio)
    kept = int(count * ratio)
    if kept == 0:
        raise UsageError(f"{ratio} of {count} clips is no clip at all", where="ratio", next_step="use a larger ratio")
    return np.random.RandomState(seed).permutation(count)[:kept].astype(np.int64)


def per_class(labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Rising rows int64 with about `ratio` of the clips of each class, at least one: no class is left without a clip.

    Raises `UsageError` for a share that is not above 0 and at most 1.
    """
    _check(ratio)
    return _first_of_each(labels, seed, lambda sizes: np.maximum(np.rint(sizes * ratio), 1))


def per_class_by_name(ids: np.ndarray, labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """`per_class` of clips that are known by their `ids` (N,): the same clips whatever the order of the file.

    Rows come in the order of the ids. A larger ratio of the same seed has all clips of a smaller one.
    """
    order = np.argsort(ids, kind="stable")
    return np.asarray(order[per_class(labels[order], ratio, seed)])


def few_per_class(ids: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows int64 of `count` clips of each class, in the order of the ids: the same clips whatever the order of the file.

    A larger count of the same seed has all clips of a smaller one. Raises `UsageError` where a class has fewer clips.
    """
    least = int(np.unique(labels, return_counts=True)[1].min(initial=len(labels)))
    if not 1 <= count <= least:
        raise UsageError(f"{count} clips of each class", where="shots", expected=f"1 .. {least}, the clips of the rarest class")
    order = np.argsort(ids, kind="stable")
    return np.asarray(order[_first_of_each(labels[order], seed, lambda sizes: np.full(len(sizes), count))])


def _first_of_each(labels: np.ndarray, seed: int, kept: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Rising rows int64: of each class, shuffled, the first so many as `kept` says of the classes' sizes."""
    labels = np.asarray(labels)
    shuffled = permutation(seed, 0, len(labels))
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, sizes = np.unique(labels[grouped], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(first, sizes)  # within its class
    return np.sort(grouped[place < np.repeat(kept(sizes), sizes)])


def _check(ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise UsageError(f"ratio is {ratio!r}", where="ratio", expected="a share above 0 and at most 1, such as 0.1")
