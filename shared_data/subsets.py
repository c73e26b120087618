"""Which training clips a semi-supervised run may see with their labels."""

from __future__ import annotations

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
    labels = np.asarray(labels)
    shuffled = permutation(seed, 0, len(labels))
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, sizes = np.unique(labels[grouped], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(first, sizes)  # within its class
    kept = np.maximum(np.rint(sizes * ratio), 1)
    return np.sort(grouped[place < np.repeat(kept, sizes)])


def _check(ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise UsageError(f"ratio is {ratio!r}", where="ratio", expected="a share above 0 and at most 1, such as 0.1")
