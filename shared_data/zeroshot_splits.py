"""Which classes of NTU RGB+D are seen and unseen in the published zero-shot tasks; class numbers count from 0.

Each task has a test split and a validation split: the latter takes further classes away from the seen ones, so that what is
tuned is tuned without the unseen classes of the test. Source: the label lists of SynSE, MSF-GZSSAR and FS-VAE (specification,
section 2.3).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from shared_data.errors import UsageError

Phase = Literal["test", "val"]
PHASES: tuple[Phase, ...] = get_args(Phase)

UNSEEN: dict[tuple[int, int], tuple[int, ...]] = {
    (60, 5): (10, 11, 19, 26, 56),
    (60, 12): (3, 5, 9, 12, 15, 40, 42, 47, 51, 56, 58, 59),
    (120, 10): (4, 13, 37, 43, 49, 65, 88, 95, 99, 106),
    (120, 24): (
        5, 9, 11, 16, 18, 20, 22, 29, 35, 39, 45, 49, 59, 68, 70, 81, 84, 87, 93, 94, 104, 113, 114, 119,
    ),
}  # fmt: skip
VALIDATION_UNSEEN: dict[tuple[int, int], tuple[int, ...]] = {
    (60, 5): (16, 21, 25, 31, 48),
    (60, 12): (4, 8, 10, 13, 17, 22, 30, 33, 39, 46, 50, 54),
    (120, 10): (5, 10, 32, 61, 72, 74, 76, 77, 83, 96),
    (120, 24): (
        1, 3, 4, 10, 17, 19, 27, 47, 48, 53, 58, 63, 66, 79, 83, 86, 89, 92, 97, 98, 100, 103, 105, 108,
    ),
}  # fmt: skip
TRUNCATED, FIRST_LOST = (120, 10), 100  # the official list of this validation split's seen classes stops at class 99


@dataclass(frozen=True)
class Split:
    """Classes of one task: `classes` in all; `seen` and `unseen` in ascending order, disjoint.

    Position j of a classifier of unseen classes means ``unseen[j]``. Together they are all classes, or fewer: the validation
    splits leave the unseen classes of the test out.
    """

    classes: int
    seen: tuple[int, ...]
    unseen: tuple[int, ...]


def split_of(classes: int, unseen: Collection[int], *, without: Collection[int] = ()) -> Split:
    """The split with these `unseen` classes; every other class is seen, except those `without`.

    Raises `UsageError` for a class that does not exist or stands twice or in both lists, and if nothing is left on one side.
    """
    named = [*unseen, *without]
    if wrong := sorted({k for k in named if not 0 <= k < classes} | {k for k in named if named.count(k) > 1}):
        raise UsageError(
            f"class {', '.join(map(str, wrong))} cannot be left out",
            where=f"a zero-shot split of {classes} classes",
            expected=f"different class numbers in 0 .. {classes - 1}",
        )
    seen = tuple(k for k in range(classes) if k not in named)
    if not unseen or not seen:
        raise UsageError(
            f"the split has {len(seen)} seen and {len(unseen)} unseen classes",
            where=f"a zero-shot split of {classes} classes",
            expected="at least one of each",
        )
    return Split(classes, seen, tuple(sorted(unseen)))


def published(classes: int, unseen: int, phase: Phase = "test", *, truncated: bool = True) -> Split:
    """The published split of `classes` (60, 120) with `unseen` (5 or 12; 10 or 24) of them unseen.

    phase      "test", or "val": the split to tune on, among the classes that are seen in the test
    truncated  120/10 in validation has 100 seen classes, but the official list lacks the 19 of them from class 100 on; False
               puts them back

    Raises `UsageError` for a task that is not published.
    """
    task = (classes, unseen)
    if task not in UNSEEN:
        raise UsageError(
            f"there is no published zero-shot split of {classes} classes with {unseen} unseen",
            expected=", ".join(f"{a}/{b}" for a, b in UNSEEN),
            next_step="give the unseen classes themselves",
        )
    if phase == "test":
        return split_of(classes, UNSEEN[task])
    split = split_of(classes, VALIDATION_UNSEEN[task], without=UNSEEN[task])
    if truncated and task == TRUNCATED:
        return Split(classes, tuple(k for k in split.seen if k < FIRST_LOST), split.unseen)
    return split
