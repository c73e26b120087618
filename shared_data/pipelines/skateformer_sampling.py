"""SkateFormer's choice of frames (``specs/skateformer.md`` 5.1), and the small random choices that its reader makes.

A crop shorter than the window is stretched to it; of a longer one single frames are shown (`frames.spread_frames`).
"""

from __future__ import annotations

import numpy as np

from shared_data.batches.frames import Frames, crop_length, crop_resize

_BITS = 17  # a third of the 53 random bits of a uniform number
_SHIFTS = (36, 19, 2)


def thirds(u: np.ndarray, count: int) -> np.ndarray:
    """(B, count) uniform numbers of 17 random bits each, no two alike in a row, from `u` (B, at least count / 3).

    Choosing among a few dozen frames or joints needs no 53 bits, and making random numbers is the dearest part of a plan.
    """
    bits = (u * 2.0**53).astype(np.int64)[:, :, None] >> np.array(_SHIFTS)
    pieces = (bits & ((1 << _BITS) - 1)).reshape(len(u), len(_SHIFTS) * u.shape[1])[:, :count]
    result: np.ndarray = (pieces * count + np.arange(count)) / (count << _BITS)
    return result


def numbers_for(count: int) -> int:
    """How many uniform numbers `thirds` needs for `count`."""
    return -(-count // len(_SHIFTS))


def fixed_span(valid: np.ndarray, p: float, least: int) -> tuple[np.ndarray, np.ndarray]:
    """(start, length) int64 of the test window of `valid` (B,) frames.

    The length is raised to min(least, valid) but the start is not lowered again: for 40 <= valid <= `least` = 64 the window
    ends one frame after the last valid one, which is a zero frame unless the clip goes on. The official reader does that.
    """
    valid = np.asarray(valid, dtype=np.int64)
    return ((1 - p) * valid / 2).astype(np.int64), crop_length(valid, p, least)


def even_frames(length: np.ndarray, window: int) -> np.ndarray:
    """floor(i L / W), (B, W) int64: the frames shown at test time, counted from the start of the crop."""
    result: np.ndarray = np.arange(window) * np.asarray(length, dtype=np.int64)[:, None] // window
    return result


def window_frames(start: np.ndarray, length: np.ndarray, picked: np.ndarray) -> Frames:
    """The frames of B windows: single frames `picked` (B, W), counted from `start`, where `length` reaches the window.

    Shorter crops are stretched.
    """
    window = picked.shape[1]
    frames = crop_resize(start, length, window)
    assert frames.weight is not None
    single = np.flatnonzero(length >= window)
    frames.number[single] = (start[single, None] + picked[single])[:, :, None]
    frames.weight[single] = (0, 1)
    return frames


def reversed_frames(frames: Frames, rows: np.ndarray) -> Frames:
    """The frames, with the windows at `rows` (B,) bool in reverse order."""
    assert frames.weight is not None
    number, weight = frames.number.copy(), frames.weight.copy()
    number[rows], weight[rows] = number[rows, ::-1], weight[rows, ::-1]
    return Frames(number, weight)


def frame_positions(frames: Frames, valid: np.ndarray) -> np.ndarray:
    """2 t / valid - 1, (B, W) float32: where each frame shown lies in its clip; a blend of frames lies between them.

    Stepwise in float32, as the official reader does; a clip without valid frames is at -1 throughout.
    """
    assert frames.weight is not None
    second, first = np.moveaxis(frames.number, -1, 0)
    weight = np.moveaxis(frames.weight, -1, 0)
    # The second product is rounded, the first is not: see `gather`.
    exact = (second.astype(np.float32) * weight[0]).astype(np.float64) + first * weight[1].astype(np.float64)
    length = np.maximum(valid, 1).astype(np.float32)[:, None]
    position: np.ndarray = np.float32(2) * exact.astype(np.float32) / length - np.float32(1)
    position[np.asarray(valid) == 0] = -1
    return position


def same_places(positions: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(B, W) int64: the frames at these `positions` (B, W) of other clips, of `valid` (B,) frames. In float32, too.

    The number can equal `valid`: that frame is zero, unless the other clip goes on beyond its valid count.
    """
    length = np.asarray(valid).astype(np.float32)[:, None]
    number: np.ndarray = np.rint((positions + np.float32(1)) * length / np.float32(2)).astype(np.int64)
    return number
