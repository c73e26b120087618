"""What is done to the coordinates of a whole batch: rotation, bones, motion.

Parts of clips are (P, ..., T, V) with P people that exist: absent people are zero before and after all of these, so
nobody computes them.
"""

from __future__ import annotations

import numpy as np
import torch

from shared_data.memory import scratch
from shared_data.skeletons import Skeleton

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


def rotate(channels: np.ndarray, matrices: np.ndarray, out: np.ndarray) -> np.ndarray:
    """x' = matrix x, into `out`: `channels` and `out` (P, 3, n) float32, `matrices` (P, 3, 3) float32.

    Three products and two sums, each rounded: the official product does that too. A BLAS call is faster and rounds once less,
    which shows where a stream takes differences of nearly equal values.
    """
    source, matrix, result = torch.from_numpy(channels), torch.from_numpy(matrices), torch.from_numpy(out)
    term = torch.from_numpy(scratch("rotation_term", out.shape))
    torch.mul(matrix[:, :, 0:1], source[:, 0:1], out=result)
    for axis in (1, 2):
        torch.mul(matrix[:, :, axis : axis + 1], source[:, axis : axis + 1], out=term)
        result.add_(term)
    return out


def bones(coordinates: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Each joint relative to its parent in the bone table: (..., T, V) -> new (..., T, V)."""
    parents = np.empty(skeleton.joints, dtype=np.int64)
    for child, parent in skeleton.bones:
        parents[child] = parent
    result: np.ndarray = coordinates - np.take(coordinates, parents, axis=-1)
    return result


def motion(coordinates: np.ndarray) -> np.ndarray:
    """Next frame minus this one, last frame 0: (..., T, V) -> new (..., T, V)."""
    result = np.empty_like(coordinates)
    np.subtract(coordinates[..., 1:, :], coordinates[..., :-1, :], out=result[..., :-1, :])
    result[..., -1, :] = 0
    return result


STREAMS = ("j", "b", "jm", "bm")


def stream_of(coordinates: np.ndarray, stream: str, skeleton: Skeleton) -> np.ndarray:
    """Joints `j`, bones `b`, motion of joints `jm` or of bones `bm` (bone first, then motion): (..., T, V) -> same."""
    if stream.startswith("b"):
        coordinates = bones(coordinates, skeleton)
    return motion(coordinates) if stream.endswith("m") else coordinates
