"""What is done to the coordinates of a whole batch: rotation, bones, motion.

Channels are (P, 3, W, V) float32 tensors of the P people that exist, on any device: absent people are zero before and after all
of these, so nobody computes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from shared_data.batches.memory import scratch

_LANES = 64  # more than the widest vector registers hold


def _cos_sin(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """torch's float32 cosine and sine, which the official reader uses, of `angles` (B, 3).

    Padded to whole vectors: the left-over elements of an array may take another path in torch, with another last bit, and
    an angle must not depend on where in the batch its clip sits.
    """
    padded = torch.zeros(-(-angles.size // _LANES) * _LANES)
    padded[: angles.size] = torch.from_numpy(angles.astype(np.float32).reshape(-1))
    cos, sin = (f(padded)[: angles.size].numpy().reshape(angles.shape) for f in (torch.cos, torch.sin))
    return cos, sin


def rotation_matrices(angles: np.ndarray) -> np.ndarray:
    """(B, 3, 3) float32 matrices (Rz Ry) Rx from `angles` (B, 3) in radian about x, y and z (CTR-GCN's random rotation).

    Rx has rows (1,0,0), (0,c,s), (0,-s,c); Ry (c,0,-s), (0,1,0), (s,0,c); Rz (c,s,0), (-s,c,0), (0,0,1). Written out
    element by element in float32: each is the value that two float32 matrix products in that order round to.
    """
    cos, sin = _cos_sin(angles)
    cx, cy, cz = cos.T
    sx, sy, sz = sin.T
    matrices = np.empty((len(angles), 3, 3), dtype=np.float32)
    matrices[:, 0, 0], matrices[:, 1, 0], matrices[:, 2, 0] = cz * cy, -sz * cy, sy
    left = np.stack([sz, cz, np.zeros_like(sz)], axis=1)  # second and third column of Rz Ry
    right = np.stack([-cz * sy, sz * sy, cy], axis=1)
    matrices[:, :, 1] = left * cx[:, None] - right * sx[:, None]
    matrices[:, :, 2] = left * sx[:, None] + right * cx[:, None]
    return matrices


def transform(channels: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """x' = matrix x: (P, 3, W, V) and (P, 3, 3) float32 -> (P, 3, W, V), in memory that the next call overwrites.

    Three products and two sums, each rounded: the official product does that too. A BLAS call is faster and rounds once less,
    which shows where a stream takes differences of nearly equal values.
    """
    result = scratch("transformed", channels.shape, channels.device)
    term = scratch("transform_term", channels.shape, channels.device)
    matrix = matrices[..., None, None]
    torch.mul(matrix[:, :, 0], channels[:, 0:1], out=result)
    for axis in (1, 2):
        torch.mul(matrix[:, :, axis], channels[:, axis : axis + 1], out=term)
        result.add_(term)
    return result


def bones(coordinates: torch.Tensor, table: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Each joint relative to its parent in the bone `table` of (child, parent): (..., T, V) -> new (..., T, V)."""
    parents = np.empty(len(table), dtype=np.int64)
    for child, parent in table:
        parents[child] = parent
    picked = torch.from_numpy(parents).to(coordinates.device).expand(coordinates.shape)
    return coordinates - torch.gather(coordinates, -1, picked)


def motion(coordinates: torch.Tensor) -> torch.Tensor:
    """Next frame minus this one, last frame 0: (..., T, V) -> new (..., T, V)."""
    result = torch.empty_like(coordinates)
    torch.sub(coordinates[..., 1:, :], coordinates[..., :-1, :], out=result[..., :-1, :])
    result[..., -1, :] = 0
    return result


STREAMS = ("j", "b", "jm", "bm")


def stream_of(coordinates: torch.Tensor, stream: str, table: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Joints `j`, bones `b`, motion of joints `jm` or of bones `bm` (bone first, then motion): (..., T, V) -> same."""
    if stream.startswith("b"):
        coordinates = bones(coordinates, table)
    return motion(coordinates) if stream.endswith("m") else coordinates
