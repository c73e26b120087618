"""Which frames of a clip a network sees: decided here, for a whole batch at once, as numbers; `gather` fetches them.

The weights are those of torch's linear interpolation, to the last bit (``loader.md`` section 3, "Exactness").
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

MOST_JOINTS = 32  # that the compiled kernel of views has room for; more take the torch path
MINIMUM_CROP = 64  # fixed in the official readers, whatever the window
_TABLE_LENGTHS = 512  # lengths kept in a table: NTU has 300; a longer clip is computed when it comes
NOTHING = -1  # the number of a frame that is zero


@dataclass(frozen=True)
class Frames:
    """What B windows of W frames are made of.

    number  (B, W) int64: frame shown; or (B, W, 2): two frames to blend, the *second* neighbour first (see `resize_plan`).
            `NOTHING`, and any number from the stored extent on, is a zero frame
    weight  (B, W, 2) float32 of the two frames, or None where there is one
    """

    number: np.ndarray
    weight: np.ndarray | None = None

    def __getitem__(self, rows: np.ndarray) -> Frames:
        """The windows at `rows` (integers)."""
        weight = None if self.weight is None else np.take(self.weight, rows, axis=0)
        return Frames(np.take(self.number, rows, axis=0), weight)


def blended(frames: Frames) -> Frames:
    """The same frames in the form of two neighbours; a single frame has weight 1 and keeps its bits."""
    if frames.weight is not None:
        return frames
    weight = np.zeros((*frames.number.shape, 2), np.float32)
    weight[..., 1] = 1
    return Frames(np.stack([frames.number, frames.number], axis=-1), weight)


def crop_resize(start: np.ndarray, length: np.ndarray, window: int) -> Frames:
    """Frames [start, start + length) of each clip, (B,) each, resized to `window` frames; a length of 0 is all zero."""
    length = np.asarray(length, dtype=np.int64)
    if length.size and int(length.max()) <= _TABLE_LENGTHS:
        steps, weights = _resize_table(window)
        number, weight = np.take(steps, length, axis=0), np.take(weights, length, axis=0)
    else:
        number, weight = resize_plan(length, window)
    number += np.asarray(start, dtype=np.int64)[:, None, None]
    number[length == 0] = NOTHING
    return Frames(number, weight)


def resize_plan(length: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (L, window, 2) int64 and weights (L, window, 2) float32 that resize clips of `length` (L,).

    Half-pixel centres: source = (j + 0.5) length / window - 0.5, clamped at 0. The *second* neighbour comes first: its
    product is rounded to float32 before the first neighbour's is added in one fused operation.
    """
    length = np.maximum(np.asarray(length, dtype=np.int64), 1)[:, None]
    scale = length.astype(np.float32) / np.float32(window)
    # A float64 product of two float32 is exact: the sum rounds once, as a fused multiply-add does.
    exact = (np.arange(window) + 0.5) * scale.astype(np.float64) - 0.5
    source = np.maximum(exact.astype(np.float32), np.float32(0))
    first = np.minimum(source.astype(np.int64), length - 1)
    second = np.minimum(first + 1, length - 1)
    weight = np.clip(source - first.astype(np.float32), np.float32(0), np.float32(1))
    return np.stack([second, first], axis=-1), np.stack([weight, np.float32(1) - weight], axis=-1)


@functools.lru_cache(maxsize=16)
def _resize_table(window: int) -> tuple[np.ndarray, np.ndarray]:
    return resize_plan(np.arange(_TABLE_LENGTHS + 1), window)


def centre_crop(valid: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    """(start, length), int64: int((1 - p) n / 2) frames dropped at both ends of the `valid` (B,) frames."""
    valid = np.asarray(valid, dtype=np.int64)
    start = ((1 - p) * valid / 2).astype(np.int64)  # this order of operations: .05 * 300 / 2 may differ from .025 * 300
    return start, valid - 2 * start


def random_crop(
    valid: np.ndarray, low: float, high: float, u: np.ndarray, least: int = MINIMUM_CROP
) -> tuple[np.ndarray, np.ndarray]:
    """(start, length), int64, from the uniform numbers `u` (B, 2).

    p = low + u0 (high - low); length = min(max(floor(n p), least), n); start uniform over the n - length + 1 positions.
    """
    valid = np.asarray(valid, dtype=np.int64)
    length = crop_length(valid, u[:, 0] * (high - low) + low, least)
    return (u[:, 1] * (valid - length + 1)).astype(np.int64), length


def crop_length(valid: np.ndarray, p: np.ndarray | float, least: int = MINIMUM_CROP) -> np.ndarray:
    """min(max(floor(n p), least), n) int64 for `valid` n and crop ratio `p`, both (B,)."""
    kept = np.floor(valid * p).astype(np.int64)
    result: np.ndarray = np.minimum(np.maximum(kept, least), valid)
    return result


def evenly_spaced(length: np.ndarray, count: int) -> np.ndarray:
    """floor(linspace(0, L - 1, count)) for each `length` L (B,), with NumPy's rounding: (B, count) int64."""
    last = np.maximum(np.asarray(length, dtype=np.int64), 1)[:, None] - 1.0
    places = np.arange(count) * (last / max(count - 1, 1))
    if count > 1:
        places[:, -1:] = last
    return places.astype(np.int64)


def spread_frames(length: np.ndarray, window: int, u: np.ndarray | None) -> np.ndarray:
    """`window` rising frames over clips of `length` (B,) >= 1 frames, without blending: (B, window) int64.

    From `window` frames on (Hyper-GCN, SkateFormer): one frame of each of `window` bins [floor(i L / W), floor((i + 1) L / W)),
    where the bins have two frames or more each; else i plus the number of L - W gaps, chosen among W + 1 places, up to i.
    Shorter clips wrap around from a random frame. `u` (B, window + 1) uniform numbers; None: from frame 0, the middles of bins.
    """
    length = np.maximum(np.asarray(length, dtype=np.int64), 1)
    steps = np.arange(window)
    number: np.ndarray
    if u is None:
        middles = (2 * steps + 1) * length[:, None] // (2 * window)
        number = np.where(length[:, None] < window, steps % length[:, None], middles)
        return number
    begin = steps * length[:, None] // window
    size = (steps + 1) * length[:, None] // window - begin
    number = begin + (u[:, :window] * size).astype(np.int64)
    short, gapped = length < window, np.flatnonzero((length >= window) & (length < 2 * window))
    number[short] = ((u[short, :1] * length[short, None]).astype(np.int64) + steps) % length[short, None]
    number[gapped] = frames_after_gaps(random_subset(u[gapped, : window + 1], length[gapped] - window))
    return number


def random_subset(u: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(B, n) bool, `count` (B,) <= n of them true in each row: those with the smallest uniform numbers `u` (B, n)."""
    last = np.take_along_axis(np.sort(u, axis=1), np.maximum(count, 1)[:, None] - 1, axis=1)
    result: np.ndarray = (u <= last) & (count > 0)[:, None]
    return result


def frames_after_gaps(gaps: np.ndarray) -> np.ndarray:
    """Places where a frame is skipped (B, W + 1) bool -> frames (B, W) int64: i plus the number of gaps up to place i."""
    result: np.ndarray = np.arange(gaps.shape[1] - 1) + np.cumsum(gaps[:, :-1], axis=1)
    return result


def frames_from_copies(length: np.ndarray, u: np.ndarray, copies: int = 100) -> np.ndarray:
    """Sorted frames drawn without replacement from `copies` copies of the frames of each clip.

    `length` (B,) >= 1 and uniform numbers `u` (B, n) with n <= copies -> (B, n) int64.
    """
    length = np.asarray(length, dtype=np.int64)
    return np.sort(draw_without_replacement(length * copies, u) % length[:, None], axis=1)


def draw_without_replacement(size: np.ndarray, u: np.ndarray) -> np.ndarray:
    """n different numbers of 0 .. size - 1 for each clip, in no particular order, every set equally likely.

    `size` (B,) >= n and uniform numbers `u` (B, n) -> (B, n) int64. Floyd's algorithm, each step for the whole batch: step i
    draws from the first size - n + i + 1 numbers, and takes the last of them where the drawn one is taken already.
    """
    batch, count = u.shape
    size = np.asarray(size, dtype=np.int64)
    chosen = np.empty((batch, count), dtype=np.int64)
    for i in range(count):
        last = size - count + i
        position = (u[:, i] * (last + 1)).astype(np.int64)
        taken = (chosen[:, :i] == position[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last, position)
    return chosen
