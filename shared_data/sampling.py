"""Which frames of a clip a network sees, decided and gathered for a whole batch at once.

The arithmetic is that of torch's linear interpolation, to the last bit (``loader.md`` section 3, "Exactness"): a table
of neighbours and weights per clip length, one fused multiply-add per value.
"""

from __future__ import annotations

import functools
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from shared_data.clips import Clips

MINIMUM_CROP = 64  # fixed in the official readers, whatever the window
_TABLE_LENGTHS = 512  # lengths kept in a table: NTU has 300; a longer clip is computed when it comes


@dataclass(frozen=True)
class Present:
    """The P people that exist in a batch: first person 0 of every clip, then the others, person by person.

    who     (P,) int64  position of the clip in the batch
    person  (P,) int64  0 for the first B entries
    base    (P,) int64  row of the person's frame 0
    extent  (P,) int64  frames stored
    """

    who: np.ndarray
    person: np.ndarray
    base: np.ndarray
    extent: np.ndarray


def present_people(clips: Clips, index: np.ndarray) -> Present:
    """Who is there in the clips at `index` (B,). A clip without people counts as one person without frames."""
    people = clips.people[index]
    extent = np.where(people > 0, clips.extent[index], 0).astype(np.int64)
    offset = clips.offset[index]
    who, person = [np.arange(len(index))], [np.zeros(len(index), dtype=np.int64)]
    for m in range(1, clips.max_people):
        more = np.flatnonzero(people > m)
        who.append(more)
        person.append(np.full(len(more), m, dtype=np.int64))
    who_all, person_all = np.concatenate(who), np.concatenate(person)
    extent = extent[who_all]
    return Present(who_all, person_all, offset[who_all] + person_all * extent, extent)


def centre_crop(valid: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    """(start, length), int64: int((1 - p) n / 2) frames dropped at both ends of the `valid` (B,) frames."""
    valid = np.asarray(valid, dtype=np.int64)
    start = ((1 - p) * valid / 2).astype(np.int64)  # this order of operations: .05 * 300 / 2 may differ from .025 * 300
    return start, valid - 2 * start


def random_crop(valid: np.ndarray, low: float, high: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(start, length), int64, from the uniform numbers `u` (B, 2).

    p = low + u0 (high - low); length = min(max(floor(n p), 64), n); start uniform over the n - length + 1 positions.
    """
    valid = np.asarray(valid, dtype=np.int64)
    length = crop_length(valid, u[:, 0] * (high - low) + low)
    return (u[:, 1] * (valid - length + 1)).astype(np.int64), length


def crop_length(valid: np.ndarray, p: np.ndarray) -> np.ndarray:
    """min(max(floor(n p), 64), n) int64 for `valid` n and crop ratio `p`, both (B,)."""
    kept = np.floor(valid * p).astype(np.int64)
    result: np.ndarray = np.minimum(np.maximum(kept, MINIMUM_CROP), valid)
    return result


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


def blend_exact(rows: np.ndarray, frames: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows (R, C), used as float32, frames (n, 2), weights (n, 2) float32 -> (n, C) float32.

    fma(first, w0, round32(second * w1)): the last step in float64, rounded once.
    """
    second = (rows[frames[:, 0]].astype(np.float32) * weights[:, :1]).astype(np.float64)
    second += rows[frames[:, 1]].astype(np.float32).astype(np.float64) * weights[:, 1:]
    result: np.ndarray = second.astype(np.float32)
    return result


def _pair_ends(pairs: int) -> torch.Tensor:
    """0, 2, 4, ... 2 * pairs."""
    room = 1 << pairs.bit_length()
    return _all_pair_ends(room)[: pairs + 1]


@functools.lru_cache(maxsize=4)
def _all_pair_ends(pairs: int) -> torch.Tensor:
    return torch.arange(0, 2 * pairs + 1, 2)


def _blend_fused(table: torch.Tensor, frames: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same in one pass of torch's compiled kernel for weighted sums of table rows."""
    flat, scale = torch.from_numpy(frames.reshape(-1)), torch.from_numpy(weights.reshape(-1))
    result: np.ndarray = torch.embedding_bag(table, flat, _pair_ends(len(frames)), False, 0, False, scale, True)[0].numpy()
    return result


@functools.lru_cache(maxsize=16)
def fused_kernel_is_exact(columns: int) -> bool:
    """Whether torch's weighted sums round as the recipe does here, tried on rows of `columns` numbers.

    They do where the kernel uses fused multiply-adds (x86 since 2013). Elsewhere `blend_exact` is used, slower.
    """
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((64, columns)).astype(np.float32)
    frames = rng.integers(0, 64, (512, 2))
    weight = rng.random((512, 1)).astype(np.float32)
    weights = np.concatenate([weight, np.float32(1) - weight], axis=1)
    fused = _blend_fused(torch.from_numpy(rows), frames, weights)
    return np.array_equal(fused, blend_exact(rows, frames, weights))


@functools.lru_cache(maxsize=1)
def _silence_read_only_warning() -> None:
    """torch warns, once per process, of tensors over read-only memory; a read-only memory map is what we want here."""
    probe = np.zeros(1, dtype=np.float32)
    probe.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(probe)


def blend(rows: np.ndarray, frames: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`blend_exact` by the fastest means that gives its bits for these rows."""
    plain = rows.dtype == np.float32 and rows.flags.c_contiguous and rows.flags.aligned
    if not plain or not fused_kernel_is_exact(rows.shape[1]):
        return blend_exact(rows, frames, weights)
    if not rows.flags.writeable:
        _silence_read_only_warning()
    return _blend_fused(torch.from_numpy(rows), frames, weights)


def resample(clips: Clips, present: Present, start: np.ndarray, length: np.ndarray, window: int) -> np.ndarray:
    """Frames [start, start + length) of each clip, resized to `window` frames: (P, window, V, 3) float32.

    `start`, `length` (B,) are per clip. Frames that are not stored are zero, and so is a clip of length 0.
    """
    start, length = start[present.who], length[present.who]
    if length.size and int(length.max()) <= _TABLE_LENGTHS:
        steps, weights = _resize_table(window)
        frames, scale = np.take(steps, length, axis=0), np.take(weights, length, axis=0)
    else:
        frames, scale = resize_plan(length, window)
    end = start + length
    missing = bool(np.any((end > present.extent) | (length == 0)))
    if missing:
        stored = frames + start[:, None, None] < np.minimum(end, present.extent)[:, None, None]
    frames += (start + present.base)[:, None, None]
    if missing:
        frames *= stored  # row 0 is the zero row
    table = np.asarray(clips.rows).reshape(len(clips.rows), -1)
    values = blend(table, frames.reshape(-1, 2), scale.reshape(-1, 2))
    return values.reshape(len(present.who), window, clips.joints, 3)


def lay_out(parts: np.ndarray, present: Present, out: np.ndarray) -> np.ndarray:
    """The people that exist, `parts` (P, 3, W, V) float32, and zeros, into all of `out` (B, 3, W, V, M) float32."""
    batch, people = len(out), out.shape[-1]
    if people == 2 and sys.byteorder == "little" and parts.flags.c_contiguous:
        # Widening person 0 to 64-bit integers writes it and the zeros of person 1 in one contiguous pass.
        np.copyto(out.view(np.uint64)[..., 0], parts[:batch].view(np.uint32))
    else:
        out[..., 1:] = 0
        out[..., 0] = parts[:batch]
    for m in range(1, people):
        rows = np.flatnonzero(present.person == m)
        out[present.who[rows], ..., m] = parts[rows]
    return out


def evenly_spaced(length: np.ndarray, count: int) -> np.ndarray:
    """floor(linspace(0, L - 1, count)) for each `length` L (B,), with NumPy's rounding: (B, count) int64."""
    last = np.maximum(np.asarray(length, dtype=np.int64), 1)[:, None] - 1.0
    places = np.arange(count) * (last / max(count - 1, 1))
    if count > 1:
        places[:, -1:] = last
    return places.astype(np.int64)


def frames_from_copies(length: np.ndarray, u: np.ndarray, copies: int = 100) -> np.ndarray:
    """Sorted frames drawn without replacement from `copies` copies of the frames of each clip.

    `length` (B,) >= 1 and uniform numbers `u` (B, n) with n <= copies -> (B, n) int64. Floyd's algorithm, each step for
    the whole batch: step i draws from the first N - n + i + 1 positions, and takes the last of them where the drawn one
    is taken already.
    """
    batch, count = u.shape
    length = np.asarray(length, dtype=np.int64)
    chosen = np.empty((batch, count), dtype=np.int64)
    for i in range(count):
        last = length * copies - count + i
        position = (u[:, i] * (last + 1)).astype(np.int64)
        taken = (chosen[:, :i] == position[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last, position)
    return np.sort(chosen % length[:, None], axis=1)
