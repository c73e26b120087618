"""The yardstick of `benchmarks/loader.py`: a reader that takes one clip at a time from the padded array, as the field's do.

Our own, written from the published description of CTR-GCN's reader (count the valid frames of all 300, crop, resize, build a
rotation per frame, turn, collate). It measures the machine: the same run times both, so a slow processor flatters neither.
"""

from __future__ import annotations

import numpy as np
import torch

from shared_data.clips import Clips


def padded(clips: Clips, count: int, frames: int = 300) -> np.ndarray:
    """The first `count` clips as the Kaggle file holds them: (count, frames, M * V * 3) float32."""
    result = np.zeros((count, frames, clips.max_people, clips.joints, 3), np.float32)
    for n in range(count):
        clip = clips.clip(n)
        result[n, : len(clip), : clip.shape[1]] = clip
    return result.reshape(count, frames, -1)


def batch(x: np.ndarray, index: np.ndarray, rng: np.random.Generator, shape: tuple[int, int, int]) -> torch.Tensor:
    """A training batch (B, 3, window, V, M): random crop of at least half, resize, random rotation; `shape` is (window, V, M)."""
    return torch.stack([torch.from_numpy(_clip(np.array(x[n]), rng, *shape)) for n in index])


def _clip(row: np.ndarray, rng: np.random.Generator, window: int, joints: int, people: int) -> np.ndarray:
    clip = row.reshape(len(row), people, joints, 3).transpose(3, 0, 2, 1)  # (3, T, V, M)
    valid = int((clip.sum(0).sum(-1).sum(-1) != 0).sum())
    length = min(max(int(valid * rng.uniform(0.5, 1.0)), 64), valid)
    start = int(rng.integers(0, valid - length + 1))
    crop = torch.from_numpy(np.ascontiguousarray(clip[:, start : start + length]))
    crop = crop.permute(0, 2, 3, 1).contiguous().view(3 * joints * people, length)[None, None]
    crop = torch.nn.functional.interpolate(crop, size=(crop.shape[2], window), mode="bilinear", align_corners=False)
    crop = crop.view(3, joints, people, window).permute(0, 3, 1, 2).contiguous()
    turned = torch.einsum("tij,jtvm->itvm", _rotations(rng, window), crop)
    return turned.contiguous().numpy()


def _rotations(rng: np.random.Generator, window: int) -> torch.Tensor:
    """(window, 3, 3): the same rotation for every frame, built for every frame."""
    angles = torch.from_numpy(rng.uniform(-0.3, 0.3, 3)).float().repeat(window, 1)
    cos, sin = angles.cos(), angles.sin()
    zero, one = torch.zeros(window, 1), torch.ones(window, 1)
    (cx, cy, cz), (sx, sy, sz) = cos.split(1, 1), sin.split(1, 1)
    rx = torch.stack([torch.cat(r, -1) for r in ((one, zero, zero), (zero, cx, sx), (zero, -sx, cx))], 1)
    ry = torch.stack([torch.cat(r, -1) for r in ((cy, zero, -sy), (zero, one, zero), (sy, zero, cy))], 1)
    rz = torch.stack([torch.cat(r, -1) for r in ((cz, sz, zero), (-sz, cz, zero), (zero, zero, one))], 1)
    return rz.matmul(ry).matmul(rx)
