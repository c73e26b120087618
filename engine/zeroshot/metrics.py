"""What is counted about zero-shot predictions; fractions of clips, whatever their class (micro accuracies)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared_data.errors import DataError
from shared_data.zeroshot_splits import Split


@dataclass(frozen=True)
class Generalised:
    """Accuracy on clips of seen classes and of unseen ones, each among all classes."""

    seen: float
    unseen: float

    @property
    def harmonic(self) -> float:
        """Their harmonic mean, 0 where either is 0."""
        total = self.seen + self.unseen
        return 2 * self.seen * self.unseen / total if total else 0.0


def zero_shot(probabilities: NDArray[np.float32], labels: NDArray[np.int64], unseen: Sequence[int]) -> float:
    """Accuracy of `probabilities` (N, U) over the `unseen` classes, for clips of these classes alone."""
    _require_classes(labels, unseen)
    return float((np.asarray(unseen)[probabilities.argmax(1)] == labels).mean())


def generalised(predicted: NDArray[np.int64], labels: NDArray[np.int64], split: Split) -> Generalised:
    """Of class numbers `predicted` (N,) for clips of any class of the split. Raises `DataError` unless there are both kinds."""
    _require_classes(labels, (*split.seen, *split.unseen))
    of_unseen, right = np.isin(labels, split.unseen), predicted == labels
    if of_unseen.all() or not of_unseen.any():
        raise DataError("the clips are all of seen classes, or all of unseen ones", expected="clips of both")
    return Generalised(float(right[~of_unseen].mean()), float(right[of_unseen].mean()))


def confusion(predicted: NDArray[np.int64], labels: NDArray[np.int64], unseen: Sequence[int]) -> list[list[int]]:
    """Counts (U, U + 1) of clips of `unseen` classes, which are the rows: taken for each of these, or last for a seen class.

    `predicted` and `labels` (N,) are class numbers; clips of other classes are not counted.
    """
    place = {k: at for at, k in enumerate(unseen)}
    counts = np.zeros((len(place), len(place) + 1), np.int64)
    kept = np.isin(labels, unseen)
    rows, columns = ([place.get(int(k), len(place)) for k in values[kept]] for values in (labels, predicted))
    np.add.at(counts, (rows, columns), 1)
    return [[int(count) for count in row] for row in counts]


def _require_classes(labels: NDArray[np.int64], allowed: Sequence[int]) -> None:
    if not len(labels) or len(wrong := np.setdiff1d(labels, allowed)):
        raise DataError(
            f"clips of class {', '.join(map(str, wrong.tolist()))}" if len(labels) else "no clips",
            expected=f"clips of the classes {', '.join(map(str, allowed))}",
        )
