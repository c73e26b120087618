"""From ragged rows to the coordinates of a batch: one gather of the people that exist, with linear blending of frames.

Channels are (P, 3, W, V) float32 tensors with P people that exist: nobody computes the zeros of absent people; `lay_out` writes
them at the end. The arithmetic of the blending is that of torch's interpolation, to the last bit (``loader.md`` section 3).
"""

from __future__ import annotations

import functools
import platform
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from shared_data.batches.augment import transform
from shared_data.batches.frames import Frames, blended
from shared_data.batches.kernel import fused
from shared_data.batches.memory import scratch
from shared_data.clips import Clips


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
    who, person = [np.arange(len(index))], [np.zeros(len(index), dtype=np.int64)]
    for m in range(1, clips.max_people):
        more = np.flatnonzero(people > m)
        who.append(more)
        person.append(np.full(len(more), m, dtype=np.int64))
    who_all, person_all = np.concatenate(who), np.concatenate(person)
    return Present(who_all, person_all, clips.person_start(index[who_all], person_all), extent[who_all])


def channels(clips: Clips, present: Present, frames: Frames, matrices: np.ndarray | None = None) -> torch.Tensor:
    """The people's coordinates (P, 3, W, V) float32 at `frames` of their clips, on the device of `clips`.

    matrices  (B, 3, 3) float32, one for each clip: x' = matrix x, as `augment.transform` does it
    The result is memory of this thread that the next call overwrites: use it up, or copy it.
    """
    if matrices is not None:
        matrices = matrices[present.who]
    kernel = fused(clips.rows) if clips.table is None else None
    if kernel is not None:
        number, weight = _rows_to_blend(clips, present, blended(frames))
        result = scratch("channels", (len(number), 3, number.shape[1], clips.joints), torch.device("cpu"))
        rows = clips.rows.reshape(len(clips.rows), -1)
        kernel(rows, number, weight, np.zeros((0, 3, 3), np.float32) if matrices is None else matrices, result.numpy())
        return result
    points = gather(clips, present, frames).flatten(1, 2)  # (P, W * V, 3)
    result = scratch("channels", (len(points), 3, points.shape[1]), points.device)
    result.copy_(points.transpose(1, 2))
    result = result.view(len(points), 3, -1, clips.joints)
    return result if matrices is None else transform(result, torch.from_numpy(matrices).to(result.device))


def gather(clips: Clips, present: Present, frames: Frames) -> torch.Tensor:
    """The people's rows (P, W, V, 3) float32 at `frames` of their clips."""
    number, weight = _rows_to_blend(clips, present, frames)
    rows, number = _table(clips, number)
    if weight is None:
        values = torch.index_select(rows, 0, torch.from_numpy(number.reshape(-1)).to(rows.device)).to(torch.float32)
    else:
        values = blend(rows, number.reshape(-1, 2), weight.reshape(-1, 2))
    return values.view(len(present.who), -1, clips.joints, 3)


def _rows_to_blend(clips: Clips, present: Present, frames: Frames) -> tuple[np.ndarray, np.ndarray | None]:
    """Row numbers in place of the frame numbers of each person, and their weights."""
    own = frames[present.who]
    number = own.number
    shape = (len(present.who),) + (1,) * (number.ndim - 1)
    extent = present.extent.reshape(shape)
    missing = (number >= extent) | (number < 0)
    if clips.frame_step != 1:
        number *= clips.frame_step
    number += present.base.reshape(shape)
    if missing.any():
        number[missing] = clips.zero
    return number, own.weight


def _table(clips: Clips, number: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """The rows (R, V * 3) where they are, and `number` in them; a copy of those needed where torch may not read them."""
    if clips.table is not None:
        return clips.table, number
    rows = clips.rows
    if not rows.flags.aligned and platform.machine() not in ("x86_64", "AMD64"):
        return torch.from_numpy(clips.take_rows(number.reshape(-1))).flatten(1), np.arange(number.size).reshape(number.shape)
    if not rows.flags.writeable:
        _silence_read_only_warning()
    return torch.from_numpy(rows).view(len(rows), -1), number


def blend(rows: torch.Tensor, number: np.ndarray, weight: np.ndarray) -> torch.Tensor:
    """`blend_exact` by the fastest means that has its bits: rows (R, C), number and weight (n, 2) -> (n, C) float32."""
    here = rows.device.type == "cpu"
    fused = rows.dtype == torch.float32 and (not here or fused_kernel_is_exact(rows.shape[1], rows.data_ptr() % 64))
    return _blend_fused(rows, number, weight) if fused else torch.from_numpy(blend_exact(rows.numpy(), number, weight))


def blend_exact(rows: np.ndarray, number: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rows (R, C), used as float32, number (n, 2), weight (n, 2) float32 -> (n, C) float32.

    fma(first, w0, round32(second * w1)): the last step in float64, rounded once.
    """
    second = (rows[number[:, 0]].astype(np.float32) * weight[:, :1]).astype(np.float64)
    second += rows[number[:, 1]].astype(np.float32).astype(np.float64) * weight[:, 1:]
    result: np.ndarray = second.astype(np.float32)
    return result


def _blend_fused(rows: torch.Tensor, number: np.ndarray, weight: np.ndarray) -> torch.Tensor:
    """The same in one pass of torch's compiled kernel for weighted sums of table rows."""
    flat, scale = (torch.from_numpy(array.reshape(-1)).to(rows.device) for array in (number, weight))
    return torch.embedding_bag(rows, flat, _pair_ends(len(number), rows.device), False, 0, False, scale, True)[0]


def _pair_ends(pairs: int, device: torch.device) -> torch.Tensor:
    """0, 2, 4, ... 2 * pairs."""
    return _all_pair_ends(1 << pairs.bit_length(), device)[: pairs + 1]


@functools.lru_cache(maxsize=4)
def _all_pair_ends(pairs: int, device: torch.device) -> torch.Tensor:
    return torch.arange(0, 2 * pairs + 1, 2, device=device)


@functools.lru_cache(maxsize=16)
def fused_kernel_is_exact(columns: int, misaligned: int = 0) -> bool:
    """Whether torch's weighted sums round as the recipe does here, tried on rows of `columns` numbers.

    They do where the kernel uses fused multiply-adds (x86 since 2013). Elsewhere `blend_exact` is used, slower.
    misaligned  bytes by which the rows miss a multiple of 64: rows inside a zip lie anywhere
    """
    rng = np.random.default_rng(0)
    memory = np.zeros(64 * columns * 4 + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + misaligned
    rows = memory[begin : begin + 64 * columns * 4].view(np.float32).reshape(64, columns)
    rows[:] = rng.standard_normal((64, columns))
    number = rng.integers(0, 64, (512, 2))
    weight = rng.random((512, 1)).astype(np.float32)
    weights = np.concatenate([weight, np.float32(1) - weight], axis=1)
    fused = _blend_fused(torch.from_numpy(rows), number, weights)
    return np.array_equal(fused.numpy(), blend_exact(rows, number, weights))


@functools.lru_cache(maxsize=1)
def _silence_read_only_warning() -> None:
    """torch warns, once per process, of tensors over read-only memory; a read-only memory map is what we want here."""
    probe = np.zeros(1, dtype=np.float32)
    probe.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(probe)


def lay_out(parts: torch.Tensor, present: Present, out: torch.Tensor) -> torch.Tensor:
    """The people that exist, `parts` (P, 3, W, V) float32, and zeros, into all of `out` (B, 3, W, V, M) float32, C-contiguous."""
    batch, people = len(out), out.shape[-1]
    if people == 2:
        # A real number written as a complex one is person 0 and the zero of person 1, in one contiguous pass.
        torch.view_as_complex(out).copy_(parts[:batch])
    else:
        out[..., 1:] = 0
        out[..., 0] = parts[:batch]
    for m in range(1, people):
        begin, end = np.searchsorted(present.person, [m, m + 1])
        if end > begin:
            out[..., m].index_copy_(0, torch.from_numpy(present.who[begin:end]).to(out.device), parts[begin:end])
    return out
