"""What a system learns from and is tried on, held to be sound before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared_data.errors import DataError
from shared_data.zeroshot_splits import Split


@dataclass(frozen=True)
class Rows:
    """Skeleton features (N, D) float32 of clips and their classes, labels (N,) int64.

    name  what a message calls them, the file for example
    """

    name: str
    features: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """One split with its data.

    text   (K, Dt) float32, one row of unit length per class, of all classes of the data set
    train  clips of seen classes
    test   clips of unseen classes
    """

    split: Split
    text: NDArray[np.float32]
    train: Rows
    test: Rows


def require_sound(task: Task) -> None:
    """Raises `DataError` that names the rows and the reason: shapes, numbers that are none, and classes where they may not be."""
    classes = task.split.classes
    if task.text.ndim != 2 or len(task.text) != classes:
        raise DataError("the text has not one row per class", where=f"shape {task.text.shape}", expected=f"({classes}, width)")
    if not np.isfinite(task.text).all():
        raise DataError("the text features hold numbers that are none", where=f"row {_first_bad(task.text)}")
    require_rows(task.train, task.split.seen, "seen")
    require_rows(task.test, task.split.unseen, "unseen")
    if task.train.features.shape[1] != task.test.features.shape[1]:
        raise DataError(
            "features of different widths",
            where=f"{task.train.name}: {task.train.features.shape[1]}, {task.test.name}: {task.test.features.shape[1]}",
        )


def require_rows(
    rows: Rows, allowed: Sequence[int], kind: str, *, next_step: str = "check that the features are of this split"
) -> None:
    """The same for some rows, whose classes are all `allowed`; `kind` is the word for these classes."""
    if rows.features.ndim != 2 or rows.labels.shape != rows.features.shape[:1] or not len(rows.labels):
        raise DataError(
            "features and labels do not belong together",
            where=f"{rows.name}: {rows.features.shape} and {rows.labels.shape}",
            expected="(N, D) and (N,), at least one clip",
        )
    if not np.isfinite(rows.features).all():
        raise DataError("the features hold numbers that are none", where=f"{rows.name}: row {_first_bad(rows.features)}")
    if len(wrong := np.setdiff1d(rows.labels, allowed)):
        raise DataError(
            f"clips of class {', '.join(map(str, wrong.tolist()))} where only {kind} classes may be",
            where=f"{rows.name}: row {int(np.flatnonzero(np.isin(rows.labels, wrong))[0])}",
            expected=f"labels among {', '.join(map(str, allowed))}",
            next_step=next_step,
        )


def joined_text(kinds: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Text features (K, Dt) from those of several descriptions of each class: side by side, then each row to unit length.

    Officially the single descriptions are not normalised before. Raises `DataError` for a row of zeros.
    """
    whole = np.concatenate(kinds, axis=1)
    length = np.linalg.norm(whole.astype(np.float64), axis=1, keepdims=True)
    if not (length > 0).all():
        raise DataError("text features of length 0 or without a number", where=f"row {int(np.flatnonzero(~(length > 0))[0])}")
    return np.asarray(whole / length, np.float32)


def _first_bad(values: NDArray[np.float32]) -> int:
    return int(np.flatnonzero(~np.isfinite(values).all(1))[0])
