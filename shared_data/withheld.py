"""What a backbone for zero-shot recognition is not shown: the classes that are unseen, and clips kept to learn the gate from.

`leave_out` of a run names the classes, as numbers from 0 with commas (``1,4,7``) or as a published task (``60/5``). The backbone
of the validation phase is not shown the test's unseen classes either: ``1,4,7+2,3,5`` (first the test's, then the validation's)
or ``60/5-val``. Seen classes are all others: the official list of 120/10 in validation lacks 19 of them, by accident and
only where features are read, so that a backbone is trained with these too.

`hold_out` of a run keeps the first clips of each class, by their names, out of training. In validation these stand for seen
clips that are met later: a backbone that was trained on them would be surer of them than it can be of any other clip, and the
gate would learn to let no clip of less certainty pass as seen. Source: the specification, sections 2.2 and 8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared_data import zeroshot_splits as splits
from shared_data.clips import Clips
from shared_data.datasets import DataSet
from shared_data.errors import DataError, UsageError
from shared_data.protocols import nearly, recognise
from shared_data.zeroshot_splits import UNSEEN, VALIDATION_UNSEEN, Phase, Split

EXPECTED = "numbers from 0 with commas (1,4,7; for validation 1,4,7+2,3,5), or 60/5, 60/12, 120/10, 120/24 (60/5-val ...)"
SEEN_TO_UNSEEN = 1.5  # clips in validation, about as officially: a gate that learns from few unseen ones lets few pass
NUMBERS = r"\d{1,6}(?:,\d{1,6})*"


@dataclass(frozen=True)
class LeftOut:
    """Classes by what they are left out for.

    test      unseen in the test
    val       unseen in validation besides; none: this is of the test phase
    task      the published task that was named: classes of its data set and how many are unseen in the test
    """

    test: tuple[int, ...]
    val: tuple[int, ...] = ()
    task: tuple[int, int] | None = None

    @property
    def classes(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.test, *self.val)

    @property
    def phase(self) -> Phase:
        """That of the features which a run without these classes makes."""
        return "val" if self.val else "test"

    def split(self, classes: int, *, truncated: bool = True) -> Split:
        """The split of that phase in a data set of so many `classes`; `truncated` as in `splits.published`.

        Raises `UsageError` for a class that does not exist or stands twice, for a published task of another data set, and if no
        class is left.
        """
        if self.task is not None:
            if self.task[0] != classes:
                raise UsageError(
                    f"{written(self.task, self.phase)} is a task of {self.task[0]} classes, the data has {classes}",
                    where="leave_out", expected="a task of this data set, or the class numbers themselves",
                )  # fmt: skip
            return splits.published(*self.task, self.phase, truncated=truncated)
        return splits.split_of(classes, self.val or self.test, without=self.test if self.val else ())


def read(text: str) -> LeftOut:
    """What `text` says; nothing for "". Raises `UsageError` for what is no such text."""
    words = "".join(text.split())
    if not words:
        return LeftOut(())
    if published := re.fullmatch(r"(\d{1,6})/(\d{1,6})(-val)?", words):
        task = int(published[1]), int(published[2])
        if task in UNSEEN:
            return LeftOut(tuple(sorted(UNSEEN[task])), tuple(sorted(VALIDATION_UNSEEN[task])) if published[3] else (), task)
    elif re.fullmatch(rf"{NUMBERS}(\+{NUMBERS})?", words):
        test, _, val = words.partition("+")
        return LeftOut(_numbers(test), _numbers(val))
    raise UsageError(f"{text!r} names no classes to leave out", where="leave_out", expected=EXPECTED)


def written(task: tuple[int, int], phase: Phase) -> str:
    """The text for a published task."""
    return f"{task[0]}/{task[1]}" + ("-val" if phase == "val" else "")


def text_of(test: Split, val: Split, phase: Phase) -> str:
    """The text that leaves out what a phase with these splits does not see; the name of the task where it is a published one."""
    said = ",".join(map(str, test.unseen)) + ("+" + ",".join(map(str, val.unseen)) if phase == "val" else "")
    plain = replace(read(said), task=None)
    for task in UNSEEN:
        if task[0] == test.classes and replace(read(written(task, phase)), task=None) == plain:
            return written(task, phase)
    return said


def without_classes(data: DataSet, left: LeftOut) -> DataSet:
    """`data` without the clips of these classes, in both parts; its classes keep their numbers, and there are as many.

    Raises `UsageError` as `LeftOut.split`, and `DataError` if no clip is left in a part.
    """
    if not left.classes:
        return data
    left.split(data.num_classes)
    train, test = (part.subset(~np.isin(part.labels, left.classes)) for part in (data.train, data.test))
    for name, part in (("training", train), ("test", test)):
        if not len(part):
            raise DataError(
                f"no {name} clip is left without the classes {', '.join(map(str, left.classes))}", where=str(data.path),
                expected="clips of seen classes in both parts", next_step="leave out other classes",
            )  # fmt: skip
    return replace(data, train=train, test=test)


def without_held_out(data: DataSet, count: int) -> DataSet:
    """`data` without the training clips that `held_out` names. Raises `DataError` if a class would have no other clip."""
    if not count:
        return data
    classes = np.unique(data.train.labels)
    least = min(int((data.train.labels == k).sum()) for k in classes)
    if count >= least:
        raise DataError(
            f"cannot hold {count} training clips of each class out", where=str(data.path),
            expected=f"a number below {least}, the clips of the rarest class",
        )  # fmt: skip
    return replace(data, train=data.train.subset(~held_out(data.train, count)))


def held_out(clips: Clips, count: int) -> NDArray[np.bool_]:
    """(N,) whether a clip is one of the first `count` of its class, by name."""
    order = np.lexsort((clips.ids, clips.labels))
    labels = clips.labels[order]
    _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(first, sizes)
    found = np.zeros(len(clips), bool)
    found[order[place < count]] = True
    return found


def suitable_count(data: DataSet, left: LeftOut) -> int:
    """How many clips of each class to hold out for the validation phase of `left`; `data` is whole.

    As published for a published task on NTU RGB+D: 40, or 100 with 24 unseen classes. Else so many that there are about
    `SEEN_TO_UNSEEN` of them for each clip of an unseen class, but at most half of the rarest class.
    Raises `UsageError` as `LeftOut.split`, and `DataError` where a seen class has too few clips.
    """
    split = left.split(data.num_classes, truncated=False)
    size = (data.num_classes, len(data.train), len(data.test))
    task = (data.num_classes, len(left.test))
    if (recognise(*size) or nearly(*size)) and task in UNSEEN and split == splits.published(*task, "val", truncated=False):
        return 100 if task[1] == 24 else 40
    unseen = int(np.isin(data.test.labels, split.unseen).sum())
    least = min(_count(data.train, split.seen).values())
    if least < 2:
        raise DataError("a seen class has not two training clips, one to learn from and one to hold out", where=str(data.path))
    return min(math.ceil(SEEN_TO_UNSEEN * unseen / len(split.seen)) or 1, least // 2)


def _count(clips: Clips, classes: Collection[int]) -> dict[int, int]:
    return {k: int((clips.labels == k).sum()) for k in classes}


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(sorted(int(word) for word in words.split(","))) if words else ()
