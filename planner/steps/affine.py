"""The peak of a step at any batch, from two traces of it.

Where a network treats clips alike, two batches have the same births and deaths of storages in the same order, and each storage
has a + b * clips bytes. What is alive at each moment is then a line in the clips, and the peak the upper envelope of these lines:
convex, rising with the batch, and exact to the byte when every storage is rounded up as the allocator does.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from planner.steps.lifetimes import GRAIN, Timeline

LARGEST_BATCH = 1 << 16
"""Clips up to which an envelope holds."""


MIB = 2**20


@dataclass(frozen=True)
class Line:
    """MiB as a function of clips: `intercept` MiB for the model and its states + `slope` MiB per clip."""

    intercept: float
    slope: float

    def at(self, batch: int) -> float:
        """MiB at `batch` clips."""
        return self.intercept + self.slope * batch

    @classmethod
    def through(cls, n1: int, a: float, n2: int, b: float) -> Line:
        """`a` MiB at `n1` clips, `b` at `n2`."""
        slope = (b - a) / (n2 - n1)
        return cls(a - slope * n1, slope)


@dataclass(frozen=True)
class Fit:
    """What two probes and a third say about one kind of step.

    envelope    the law, None where the network has none
    line        the line that holds at large batches, or that through the last two probes where there is no law
    deviation   relative distance of the third probe from the law, or from the line through the first two
    """

    envelope: Envelope | None
    line: Line
    deviation: float


@dataclass(frozen=True)
class Envelope:
    """Peak bytes as a function of clips.

    fixed, slope   bytes of each kind of storage: fixed + slope * clips, before rounding
    moments        for each moment that is the peak of some batch: how many storages of each kind live
    batch          bytes per clip of each tensor of the batch itself, which waits all the time
    """

    fixed: tuple[int, ...]
    slope: tuple[int, ...]
    moments: tuple[tuple[int, ...], ...]
    batch: tuple[int, ...]

    def at(self, clips: int, waiting: int | None = None) -> int:
        """Bytes with `clips` in a forward pass, while `waiting` clips (default: the same) lie in memory."""
        # Python's whole numbers have no end: those of NumPy would wrap around at batches that nobody has.
        sizes = [_rounded(fixed + slope * clips) for fixed, slope in zip(self.fixed, self.slope, strict=True)]
        held: int = sum(_rounded(slope * (clips if waiting is None else waiting)) for slope in self.batch)
        highest: int = max(sum(map(operator.mul, moment, sizes)) for moment in self.moments)
        return highest + held

    def largest(self, room: float) -> int:
        """The most clips, up to `LARGEST_BATCH`, whose peak is at most `room` bytes; 0 if not even one is."""
        low, high = 0, LARGEST_BATCH + 1  # fits; does not, or is not asked for
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.at(middle) <= room else (low, middle)
        return low

    @property
    def line(self) -> Line:
        """That on which the peak lies at large batches, or just below."""
        low, high = 2 * GRAIN, 4 * GRAIN  # multiples, at which what a clip needs is not rounded up
        return Line.through(low, self.at(low) / MIB, high, self.at(high) / MIB)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Envelope:
        """What `as_dict` gave; raises `ValueError`, `TypeError` or `KeyError` for anything else."""
        one = cls(
            _numbers(told["fixed"]), _numbers(told["slope"]), tuple(_numbers(moment) for moment in told["moments"]),
            _numbers(told["batch"]),
        )  # fmt: skip
        kinds = len(one.fixed)
        if not one.moments or len(one.slope) != kinds or any(len(moment) != kinds for moment in one.moments):
            raise ValueError("moments and kinds of storages do not match")
        return one


def envelope(small: Timeline, n1: int, large: Timeline, n2: int, *, batch: int, pieces: int = 1) -> Envelope | None:
    """The envelope through traces of `n1` and `n2` clips, whose first `batch` storages are the batch and never die.

    pieces   forward passes of that many clips that were traced, one after the other: the batch is as often as large
    None where the two traces have other events, or a storage is not so much per clip.
    """
    if small.events != large.events:
        return None
    first, second = np.array(small.sizes, np.int64), np.array(large.sizes, np.int64)
    slope, rest = np.divmod(second - first, n2 - n1)
    fixed = first - slope * n1
    if rest.any() or (slope < 0).any() or (fixed + slope < 0).any() or fixed[:batch].any():
        return None
    kinds, kind = np.unique(np.stack([fixed, slope]), axis=1, return_inverse=True)
    fixed_of, slope_of = kinds
    moments = _moments(np.array(small.events, np.int64), kind.reshape(-1), fixed_of, slope_of, batch)
    return Envelope(_told(fixed_of), _told(slope_of), tuple(map(_told, moments)), _told(slope[:batch] // pieces))


def _moments(events: Any, kind: Any, fixed: Any, slope: Any, batch: int) -> Any:
    """(moments, kinds) counts of living storages, at each moment that may be the peak of some batch."""
    births = events >= 0
    storage = np.where(births, events, -1 - events)
    step = np.where(births, 1, -1) * (storage >= batch)  # the batch is reckoned with apart
    of = kind[storage]
    constant = np.cumsum(step * np.where(slope[of] == 0, _rounded(fixed[of]), fixed[of]))
    per_clip = np.cumsum(step * slope[of])
    slack = np.cumsum(step * (slope[of] > 0)) * (GRAIN - 1)  # the most that rounding up can add
    last = np.flatnonzero(births & ~np.append(births[1:], False))  # memory is highest when no birth follows
    constant, per_clip, slack = constant[last], per_clip[last], slack[last]
    keep = np.zeros(len(last), bool)
    for clips in _corners(constant, per_clip):  # a line stands out of a convex envelope, if anywhere, at one of its corners
        low = constant + per_clip * clips
        keep |= low + slack >= low.max()
    found = []
    counts, begin = np.zeros(len(fixed), np.int64), 0
    for end in last[keep] + 1:
        np.add.at(counts, of[begin:end], step[begin:end])
        found.append(counts.copy())
        begin = end
    return np.unique(np.stack(found), axis=0)


def _corners(constant: Any, per_clip: Any) -> list[int]:
    """Whole numbers of clips on both sides of each corner of the upper envelope of the lines, and its two ends."""
    clips, corners = 1, {1, LARGEST_BATCH}
    while True:
        top = constant + per_clip * clips
        best = np.flatnonzero(top == top.max())
        steepest = best[per_clip[best].argmax()]
        steeper = per_clip > per_clip[steepest]
        if not steeper.any():
            return sorted(corners)
        meets = (constant[steepest] - constant[steeper]) / (per_clip[steeper] - per_clip[steepest])
        clips = max(int(meets.min()) + 1, clips + 1)
        if clips > LARGEST_BATCH:
            return sorted(corners)
        corners |= {clips - 1, clips}


def _rounded(sizes: Any) -> Any:
    return -(-sizes // GRAIN) * GRAIN


def _told(numbers: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)


def _numbers(values: Sequence[Any]) -> tuple[int, ...]:
    if any(type(value) is not int for value in values):
        raise ValueError("not whole numbers")
    return tuple(values)
