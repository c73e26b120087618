"""The offline normalisation of AGCN-style data (MS-G3D, skeleton-contrast, SCD-Net, USDRL), for whole batches of ragged clips.

In order: (1) each person's empty tail is filled by repeating the person's frames up to T frames; a person whose first frame is
empty is first moved to the front without any empty frame, other gaps stay empty; (2) in each frame, joint 2 of person 1 is
subtracted from every joint that is not zero; (3) all is rotated so that, in frame 0 of person 1, joint 1 -> joint 2 points along
z; (4) then so that joint 5 -> joint 9 points along x. Source: ``specs/msg3d.md`` section 5, ``formats.md`` section 7.

Only people that exist are computed, in one gather and one 3x3 product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from shared_data.batches.alignment import first_frames, turning
from shared_data.batches.augment import transform
from shared_data.batches.frames import NOTHING, Frames
from shared_data.batches.gather import Present, channels, lay_out, present_people
from shared_data.clips import Clips
from shared_data.errors import UsageError

FRAMES = 300  # of the published files
CENTRE = 1  # joint 2, the middle of the spine
_UP = (0, 1)  # joint 1 -> joint 2, which is turned upright (z)
_ACROSS = (4, 8)  # left shoulder -> right shoulder, which is turned along x


def normalised(
    clips: Clips, index: np.ndarray, columns: np.ndarray | None = None, frames: int = FRAMES
) -> tuple[Present, torch.Tensor]:
    """The people of the clips at `index` (B,) and their normalised coordinates (P, 3, W, V) float32.

    frames   length T to which people are repeated
    columns  (B, W) int64: which of these T frames each clip shows, anything outside 0..T-1 a zero frame; None: all
    The coordinates are in memory that the next call overwrites.
    """
    present = present_people(clips, index)
    tiled = tiled_frames(clips, present, frames)
    each = replace(present, who=np.arange(len(tiled)))  # the plan has a row per person, not per clip
    matrices = view_matrices(first_frames(clips, each, Frames(tiled[: len(index)])))
    if columns is not None:
        columns = columns[present.who]
        outside = (columns < 0) | (columns >= frames)
        tiled = np.take_along_axis(tiled, np.where(outside, 0, columns), axis=1)
        tiled[outside] = NOTHING
    parts = channels(clips, each, Frames(tiled))
    who = torch.from_numpy(present.who).to(parts.device)
    centre = parts[: len(index), :, :, CENTRE : CENTRE + 1].clone()  # the first entries are person 1 of every clip
    there = (parts != 0).any(dim=1, keepdim=True)
    parts -= centre[who]
    parts *= there
    # Turning in the same pass as the gathering would be faster, but it would round differences of large numbers.
    return present, transform(parts, torch.from_numpy(matrices).to(parts.device)[who])


def view_matrices(first: np.ndarray) -> np.ndarray:
    """(B, 3, 3) float32 rotations of steps 3 and 4, from person 1's first frames `first` (B, V, 3), centred or not."""
    upright = turning(first[:, _UP[1]] - first[:, _UP[0]], axis=2)
    across = upright @ (first[:, _ACROSS[1]] - first[:, _ACROSS[0]])[:, :, None]
    result: np.ndarray = (turning(across[:, :, 0], axis=0) @ upright).astype(np.float32)
    return result


def tiled_frames(clips: Clips, present: Present, frames: int = FRAMES) -> np.ndarray:
    """(P, frames) int64: which frame of the clip each person shows at each of `frames` frames (step 1)."""
    stored = np.minimum(present.extent, frames)
    begin = np.cumsum(stored) - stored
    owner = np.repeat(np.arange(len(stored)), stored)
    number = np.arange(len(owner)) - begin[owner]
    seen = clips.take_rows(present.base[owner] + number * clips.frame_step).reshape(len(owner), clips.joints * 3).any(axis=1)
    moved = np.zeros(len(stored), dtype=bool)  # people whose first frame is empty
    moved[owner[(number == 0) & ~seen]] = True
    end = np.zeros(len(stored), dtype=np.int64)
    end[owner[seen]] = number[seen] + 1  # the last assignment stands
    kept = np.flatnonzero(seen | (~moved[owner] & (number < end[owner])))
    count = np.bincount(owner[kept], minlength=len(stored))
    at = (np.cumsum(count) - count)[:, None] + np.arange(frames) % np.maximum(count, 1)[:, None]
    tiled = np.append(number[kept], NOTHING)[np.minimum(at, len(kept))]
    tiled[count == 0] = NOTHING
    result: np.ndarray = tiled
    return result


def prenormalised(clips: Clips, frames: int = FRAMES, block: int = 256) -> Iterator[np.ndarray]:
    """All clips, normalised, in order: (up to `block`, 3, frames, V, M) float32 each, as the published files hold them.

    A block costs 180 kB per clip of 300 frames. `frame_counts` are the lengths before the repetition.
    """
    for start in range(0, len(clips), block):
        index = np.arange(start, min(start + block, len(clips)))
        present, parts = normalised(clips, index, frames=frames)
        out = torch.empty((len(index), 3, frames, clips.joints, clips.max_people), device=parts.device)
        yield lay_out(parts, present, out).cpu().numpy()


def frame_counts(clips: Clips, frames: int = FRAMES) -> np.ndarray:
    """(N,) int64: frames of each clip before the repetition, empty ones included; what the files call ``num_frame``."""
    counts: np.ndarray = np.where(clips.people > 0, np.minimum(clips.extent, frames), 0).astype(np.int64)
    return counts


def prenormalise(padded: np.ndarray) -> np.ndarray:
    """The same for padded clips (B, T, M, V, 3) of any float type: (B, T, M, V, 3) float32. Raises `UsageError` for others."""
    if padded.ndim != 5 or padded.shape[-1] != 3 or padded.dtype.kind != "f":
        raise UsageError(f"clips of shape {padded.shape} and type {padded.dtype}", expected="floats (B, T, M, V, 3)")
    batch, frames, people, joints, _ = padded.shape
    if padded.size == 0:
        return np.zeros(padded.shape, np.float32)
    rows = np.zeros((batch * frames * people + 1, joints, 3), np.float32)
    rows[:-1] = padded.reshape(-1, joints, 3)
    full = np.full(batch, frames, np.int32)
    clips = Clips(
        rows=rows,
        offset=np.arange(batch) * frames * people,
        extent=full,
        valid=full,
        people=np.full(batch, people, np.int32),
        labels=np.zeros(batch, np.int64),
        ids=np.arange(batch).astype(str),
        max_people=people,
        frames=frames,
        frame_step=people,
        zero=len(rows) - 1,
    )
    present, parts = normalised(clips, np.arange(batch), frames=frames)
    return np.ascontiguousarray(
        lay_out(parts, present, torch.empty((batch, 3, frames, joints, people))).numpy().transpose(0, 2, 4, 3, 1)
    )
