"""Windows of fixed length that untrimmed sequences are cut into, and how what was said about them is put together again."""

from __future__ import annotations

import numpy as np
import torch

from shared_data.batches.randomness import WINDOW_CHOICE, WINDOW_PHASE, sample_keys, uniforms
from shared_data.errors import UsageError


def test_windows(length: int, window: int, stride: int | None = None) -> np.ndarray:
    """(n,) int64 first frames of windows that together show all of `length` frames, `stride` (default: `window`) apart.

    The last one ends with the sequence, so it overlaps the one before where the length is no multiple. A sequence that is
    shorter than a window is shown by one, from frame 0. Raises `UsageError` for numbers below 1, or a stride that leaves gaps.
    """
    stride = window if stride is None else stride
    if length < 1 or window < 1 or not 1 <= stride <= window:
        raise UsageError(
            f"windows of {window} frames, {stride} apart, over {length} frames", where="windows",
            expected="whole numbers from 1 on, and a stride of at most the window",
        )  # fmt: skip
    last = max(length - window, 0)
    return np.append(np.arange(0, last, stride, dtype=np.int64), last)


def stitch(scores: torch.Tensor, starts: np.ndarray, length: int) -> torch.Tensor:
    """(n, K, W) scores of windows that begin at `starts` (n,) -> (K, length) of the sequence, the mean where windows overlap.

    What lies beyond the end of the sequence was padding and is left out. The windows are added one after the other, so the
    result has the same bits every time, on any device. Raises `UsageError` if some frame is in no window.
    """
    ends = np.minimum(starts + scores.shape[-1], length)
    count = np.zeros(length + 1, np.int64)
    np.add.at(count, starts, 1)
    np.add.at(count, ends, -1)
    count = np.cumsum(count)[:length]
    if len(starts) != len(scores) or not count.all():
        bare = int((count == 0).argmax()) if not count.all() else 0
        raise UsageError(
            f"{len(scores)} windows at {len(starts)} places, frame {bare} of {length}", where="windows",
            expected="a place for every window, and every frame in a window",
        )  # fmt: skip
    total = scores.new_zeros((scores.shape[1], length))
    for window, start, end in zip(scores, starts.tolist(), ends.tolist(), strict=True):
        total[:, start:end] += window[:, : end - start]
    return total / torch.from_numpy(count).to(total)


def windows_of(lengths: np.ndarray, window: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) positions of the sequences and (n,) first frames, int64, of the training windows of `epoch`, in order.

    A sequence of T frames gives max(1, T // window) windows, one after the other, from a random phase on: drawn from (seed,
    epoch, position), so that all its frames get their turn and no two windows overlap.
    """
    lengths = np.asarray(lengths, np.int64)
    count = np.maximum(lengths // window, 1)
    spare = np.maximum(lengths - count * window, 0)
    phase = uniforms(seed, epoch, sample_keys(np.arange(len(lengths))), WINDOW_PHASE, 1)[:, 0]
    first = (phase * (spare + 1)).astype(np.int64)
    index = np.repeat(np.arange(len(lengths)), count)
    place = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
    return index, first[index] + place * window


def balanced(background: np.ndarray, share: float, seed: int, epoch: int) -> np.ndarray:
    """(n,) int64 numbers of as many windows as there are, some more than once, some not at all, in rising order.

    They are chosen so that `share` of their frames are background, about, where a window has `background` (n,) of its own. How
    often a window is taken is linear in that, rounded up or down at random: a share that this cannot reach is approached.
    """
    front = 1 - background
    b, f, bb, bf = (float(x.sum()) for x in (background, front, background**2, background * front))
    most, least = bb / b if b else 0.0, bf / f if f else 1.0
    if b == 0 or f == 0 or most - least < 1e-9:
        return np.arange(len(background))
    aim = min(max(share, least), most)
    for_background = (aim - least) / (most - least)  # of the frames' own weight, how much is shared out to background
    weight = len(background) * (for_background * background / b + (1 - for_background) * front / f)
    u = uniforms(seed, epoch, sample_keys(np.zeros(1, np.int64)), WINDOW_CHOICE, 1)[0, 0]
    reached = np.floor(np.cumsum(weight) + u).astype(np.int64)
    reached[-1] = len(background)
    result: np.ndarray = np.repeat(np.arange(len(background)), np.diff(reached, prepend=0))
    return result
