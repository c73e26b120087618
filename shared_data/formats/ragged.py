"""From padded blocks of clips to the ragged form of `Clips`, a block at a time, so that a file is never held whole.

`RaggedBuilder` scans each block once: which frames and people exist, which clips hold NaN or inf, how many frames the
official readers would count. The rows go to a `RowSink`: memory, a file on disk, or nowhere (a check needs no rows).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

import numpy as np

from shared_data.clips import Clips

_GROW = 16 << 20  # bytes by which the row buffer grows at least


class RowSink(Protocol):
    """Where rows go."""

    def append(self, rows: np.ndarray) -> None:
        """Take (n, V, 3) rows; the array may be reused by the caller afterwards."""

    def finish(self) -> np.ndarray:
        """All rows as one (R, V, 3) array; empty where they were not kept."""


class MemoryRows:
    """Rows in one growing array. Growing moves pages instead of copying them, so the peak is not twice the size."""

    def __init__(self, joints: int, dtype: np.dtype[Any]) -> None:
        self._joints = joints
        self._flat = np.empty(0, dtype)
        self._used = 0

    def append(self, rows: np.ndarray) -> None:
        needed = self._used + rows.size
        if needed > self._flat.size:
            spare = max(_GROW // self._flat.itemsize, self._flat.size // 8)
            self._flat.resize(max(needed, self._flat.size + spare), refcheck=False)
        self._flat[self._used : needed] = rows.reshape(-1)
        self._used = needed

    def finish(self) -> np.ndarray:
        self._flat.resize(self._used, refcheck=False)
        return self._flat.reshape(-1, self._joints, 3)


class FileRows:
    """Rows as raw bytes in an open binary file, in native byte order."""

    def __init__(self, file: IO[bytes], joints: int, dtype: np.dtype[Any]) -> None:
        self._file, self._joints, self._dtype = file, joints, dtype

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)

    def finish(self) -> np.ndarray:
        self._file.flush()
        return np.empty((0, self._joints, 3), self._dtype)


class NoRows:
    """Rows are counted and forgotten."""

    def __init__(self, joints: int, dtype: np.dtype[Any]) -> None:
        self._empty = np.empty((0, joints, 3), dtype)

    def append(self, rows: np.ndarray) -> None:
        pass

    def finish(self) -> np.ndarray:
        return self._empty


class SinkMaker(Protocol):
    """Makes the sink of one split once its joints and element type are known."""

    def __call__(self, split: str, joints: int, dtype: np.dtype[Any]) -> RowSink: ...


def in_memory(split: str, joints: int, dtype: np.dtype[Any]) -> RowSink:
    """`SinkMaker` that keeps the rows in memory."""
    return MemoryRows(joints, dtype)


def nowhere(split: str, joints: int, dtype: np.dtype[Any]) -> RowSink:
    """`SinkMaker` that keeps no rows."""
    return NoRows(joints, dtype)


@dataclass
class Scan:
    """What is unusual about a split: clip numbers (0-based, source order) of each kind.

    nan, inf      values that are not numbers, infinite values
    empty         not one non-zero value
    gaps          all-zero frames before the last non-zero one; `leading`: the first frame is one of them
    cancelled     frames whose values add up to exactly 0, which the official readers do not count
    first_absent  person 1 never present although person 2 is
    copied        person 2 equals person 1 (the NTU-120 scripts write that)
    sizes         median |coordinate| of each block, to tell millimetres from metres
    digests       64-bit BLAKE2b of each clip's rows, to find clips that occur twice
    """

    nan: list[int] = field(default_factory=list)
    inf: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    leading: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    first_absent: list[int] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)

    @property
    def unusable(self) -> list[int]:
        """Clips that no pipeline can take: NaN, inf, or no frame at all."""
        return sorted({*self.nan, *self.inf, *self.empty})

    @property
    def median_size(self) -> float:
        return float(np.nanmedian(self.sizes)) if np.isfinite(self.sizes).any() else 0.0


class RaggedBuilder:
    """Collects the clips of one split.

    padded  True: frames after the last non-zero one are padding. False: every given frame is data.
    """

    def __init__(self, sink: RowSink, *, joints: int, max_people: int, dtype: Any = np.float32, padded: bool = True) -> None:
        self._sink = sink
        self._joints, self._max_people, self._padded = joints, max_people, padded
        self._dtype = np.dtype(dtype)
        self._next_row = 1
        self._columns: list[tuple[np.ndarray, ...]] = []
        self._count = 0
        self.scan = Scan()
        sink.append(np.zeros((1, joints, 3), self._dtype))

    def add(self, block: np.ndarray) -> None:
        """Take a block (B, T, M, V, 3) of any numeric type; values are converted to the builder's type once."""
        with np.errstate(over="ignore", invalid="ignore"):
            block = np.ascontiguousarray(block, self._dtype)
        clips, frames, people, joints, _ = block.shape
        present = _any(block.reshape(clips, frames, people, joints * 3), -1)  # (B, T, M); NaN counts as present
        frame_present = _any(present, -1)
        person_present = _any(present, 1)
        empty = ~_any(person_present, -1)
        if self._padded:
            extent = np.where(empty, 0, frames - frame_present[:, ::-1].argmax(-1))
        else:
            extent = np.where(empty, 0, frames)
        stored = np.where(empty, 0, people - person_present[:, ::-1].argmax(-1))
        keep = (np.arange(people)[:, None] < stored[:, None, None]) & (np.arange(frames) < extent[:, None, None])
        rows = block.transpose(0, 2, 1, 3, 4)[keep]  # clip, then person, then frame
        per_clip = stored * extent
        valid = _valid(block, keep)
        self._columns.append((self._next_row + np.cumsum(per_clip) - per_clip, extent, valid, stored))
        self._sink.append(rows)

        self._note_digests(rows, per_clip)
        self._note_broken(rows, per_clip)
        counted = frame_present.sum(-1)
        self._note("empty", empty)
        self._note("leading", ~empty & ~frame_present[:, :1].all(-1))
        self._note("gaps", ~empty & (counted < extent))
        self._note("cancelled", valid < counted)
        if people > 1:
            self._note("first_absent", ~person_present[:, 0] & person_present[:, 1])
            both = person_present[:, 0] & person_present[:, 1]
            copied = [bool(both[c]) and np.array_equal(block[c, :, 0], block[c, :, 1]) for c in range(clips)]
            self._note("copied", np.array(copied, bool))
        if len(rows):
            with np.errstate(invalid="ignore"):
                self.scan.sizes.append(float(np.median(np.abs(rows[:: max(1, len(rows) // 64)]))))
        self._next_row += len(rows)
        self._count += clips

    def _note(self, kind: str, clips: np.ndarray) -> None:
        """Record the clips of the current block for which the mask is true."""
        getattr(self.scan, kind).extend((self._count + np.flatnonzero(clips)).tolist())

    def _note_digests(self, rows: np.ndarray, per_clip: np.ndarray) -> None:
        """Record the digest of each clip of the current block."""
        raw = rows.reshape(-1).view(np.uint8).data
        ends = (np.cumsum(per_clip) * (rows.itemsize * 3 * self._joints)).tolist()
        for begin, end in zip([0, *ends], ends, strict=False):
            digest = hashlib.blake2b(raw[begin:end], digest_size=8).digest()
            self.scan.digests.append(int.from_bytes(digest, "little"))

    def _note_broken(self, rows: np.ndarray, per_clip: np.ndarray) -> None:
        """Record the clips of the current block that hold NaN or inf."""
        finite = np.isfinite(rows)
        if finite.all():
            return
        owner = np.repeat(np.arange(len(per_clip)), per_clip)
        bad = np.unique(owner[~finite.reshape(len(rows), -1).all(-1)])
        has_nan = np.array([np.isnan(rows[owner == clip]).any() for clip in bad], bool)
        self.scan.nan.extend((self._count + bad[has_nan]).tolist())
        self.scan.inf.extend((self._count + bad[~has_nan]).tolist())

    def finish(self, labels: np.ndarray, ids: np.ndarray, *, frames: int | None) -> Clips:
        """The split as `Clips`, rows read-only; `labels` (N,) and `ids` (N,) are in the order of `add`."""
        rows = self._sink.finish()
        rows.flags.writeable = False
        columns = [np.concatenate(parts) if parts else np.zeros(0) for parts in zip(*self._columns, strict=True)]
        offset, extent, valid, people = columns or [np.zeros(0)] * 4
        return Clips(
            rows=rows,
            offset=offset.astype(np.int64),
            extent=extent.astype(np.int32),
            valid=valid.astype(np.int32),
            people=people.astype(np.int32),
            labels=np.asarray(labels, np.int64),
            ids=ids,
            max_people=self._max_people,
            frames=frames,
        )


def _valid(block: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The official count of valid frames of each clip, (B,).

    A frame counts if its float32 sum over coordinates, then people, then joints is not 0. NaN counts, a frame whose
    values cancel does not. Source: ``specs/ctrgcn.md`` section 5.2. Frames outside `keep` (B, M, T) are zero.
    """
    frame = keep.any(1)  # (B, T)
    rows = block[frame]  # (F, M, V, 3)
    with np.errstate(over="ignore", invalid="ignore"):
        joint_sums = rows[..., 0] + rows[..., 1]
        joint_sums += rows[..., 2]
        total = joint_sums[:, 0].copy()
        for person in range(1, joint_sums.shape[1]):
            total += joint_sums[:, person]
        counts = total.sum(-1) != 0
    owner = np.nonzero(frame)[0]
    return np.bincount(owner[counts], minlength=len(block))


def _any(values: np.ndarray, axis: int) -> np.ndarray:
    """Where anything along `axis` is not zero."""
    with np.errstate(invalid="ignore"):  # some NaN raise a signal
        return np.asarray(np.logical_or.reduce(values, axis=axis))
