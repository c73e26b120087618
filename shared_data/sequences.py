"""Untrimmed sequences with a class per frame: what temporal segmentation trains on (`sequence_loader` makes batches of them).

The frames are held ragged like those of clips (`Clips`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from shared_data.clips import Clips
from shared_data.errors import DataError
from shared_data.findings import Finding
from shared_data.formats.ragged import RaggedBuilder, RowSink
from shared_data.skeletons import Skeleton

PADDING = 255  # label of frames of no known class, and of those that only fill a batch; losses and metrics ignore it


@dataclass(frozen=True)
class Sequences:
    """N untrimmed sequences.

    clips     their frames; every frame of the source is data, also all-zero ones. `clips.labels` means nothing here (-1)
    classes   (F,) int64 class ids of the frames of all sequences one after the other, 0 is background
    boundary  (F,) bool   frames where one action ends and the next begins, see `boundaries`
    first     (N,) int64  where each sequence begins in `classes` and `boundary`
    """

    clips: Clips
    classes: np.ndarray
    boundary: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    @property
    def ids(self) -> np.ndarray:
        """(N,) names of the videos."""
        return self.clips.ids

    @property
    def lengths(self) -> np.ndarray:
        """(N,) frames of each sequence."""
        return self.clips.extent

    def frames(self, n: int) -> np.ndarray:
        """Sequence `n` as (T, max_people, V, 3), a copy; absent people are zero."""
        clip = self.clips.clip(n)
        whole = np.zeros((len(clip), self.clips.max_people, *clip.shape[2:]), clip.dtype)
        whole[:, : clip.shape[1]] = clip
        return whole

    def labels(self, n: int) -> np.ndarray:
        """(T,) class ids of sequence `n`."""
        return self.classes[self._span(n)]

    def boundaries(self, n: int) -> np.ndarray:
        """(T,) bool of sequence `n`."""
        return self.boundary[self._span(n)]

    def _span(self, n: int) -> slice:
        return slice(int(self.first[n]), int(self.first[n]) + int(self.lengths[n]))

    def subset(self, index: np.ndarray) -> Sequences:
        """The sequences at `index` (integers or a boolean mask), in that order; frames are shared, not copied."""
        return replace(self, clips=self.clips.subset(index), first=self.first[index])


@dataclass(frozen=True)
class SequenceSource:
    """What a reader of untrimmed data returns.

    class_names  by class id, the first is background
    splits       "train" and "test", and "val" or "rest" (in none of the lists) where the source has them
    Raises `DataError` for a class id that has no name.
    """

    layout: str
    reason: str
    skeleton: Skeleton
    class_names: tuple[str, ...]
    splits: dict[str, Sequences]
    findings: list[Finding] = field(default_factory=list)
    about: str = ""

    def __post_init__(self) -> None:
        for split, sequences in self.splits.items():
            for wrong in np.flatnonzero((sequences.classes < 0) | (sequences.classes >= len(self.class_names)))[:1]:
                raise DataError(
                    f"class id {sequences.classes[wrong]} in the split {split}", where=self.layout,
                    expected=f"0 to {len(self.class_names) - 1}, the classes that have a name",
                )  # fmt: skip


def boundaries(labels: np.ndarray) -> np.ndarray:
    """(T,) class ids -> (T,) bool: the first frame and, at each change of class, that frame and the next if there is one.

    Source: the boundary arrays that the authors of DeST package with PKU-MMD.
    """
    marked = np.zeros(len(labels), bool)
    marked[:1] = True
    change = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    marked[change] = True
    marked[np.minimum(change + 1, len(labels) - 1)] = True
    return marked


def hold_out(sequences: Sequences, every: int = 10) -> tuple[Sequences, Sequences]:
    """(the others, every tenth sequence) to choose an epoch on; DeST's validation list by subject is a tenth as well."""
    held = np.arange(len(sequences)) % every == every - 1
    return sequences.subset(~held), sequences.subset(held)


class SequenceBuilder:
    """Collects the sequences of one split; frames go to `sink`."""

    def __init__(self, sink: RowSink, *, joints: int, max_people: int) -> None:
        self._rows = RaggedBuilder(sink, joints=joints, max_people=max_people, padded=False)
        self._classes: list[np.ndarray] = []
        self._boundary: list[np.ndarray] = []
        self._ids: list[str] = []

    def add(self, name: str, frames: np.ndarray, labels: np.ndarray, boundary: np.ndarray | None = None) -> None:
        """Take frames (T, M, V, 3) with class ids (T,); `boundary` (T,) if the source has its own.

        Raises `DataError` for another number of labels than of frames, for NaN and infinity, and if nobody is ever seen.
        """
        counts = [len(frames), len(labels), len(labels if boundary is None else boundary)]
        if len(set(counts)) > 1:
            raise DataError(f"frames, labels and boundaries are {counts}", where=name, expected="the same number of each")
        if not np.isfinite(frames).all() or not frames.any():
            what = "nobody is ever seen" if np.isfinite(frames).all() else "NaN or infinite values"
            raise DataError(what, where=name, expected="coordinates of at least one person")
        self._rows.add(frames[None])
        self._classes.append(np.asarray(labels, np.int64))
        self._boundary.append(boundaries(labels) if boundary is None else boundary.astype(bool))
        self._ids.append(name)

    def finish(self) -> Sequences:
        clips = self._rows.finish(np.full(len(self._ids), -1), np.array(self._ids, dtype="U"), frames=None)
        lengths = np.array([len(labels) for labels in self._classes], np.int64)
        return Sequences(
            clips=clips,
            classes=np.concatenate([*self._classes, np.zeros(0, np.int64)]),
            boundary=np.concatenate([*self._boundary, np.zeros(0, bool)]),
            first=np.cumsum(lengths) - lengths,
        )
