"""SkateFormer's augmentations (``specs/skateformer.md`` 5.1): the plans in NumPy, the coordinates as whole-batch tensors."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from shared_data.batches.augment import bones
from shared_data.batches.randomness import AUGMENTATION, uniforms

NOISE = 0.05  # metres, standard deviation
_BLUR_REACH = 7  # frames before and after
_TINY = 1e-5  # added to bone lengths in metres before one is divided by another
_NOISE_KEYS = np.uint64(1 << 63)  # keeps the keys of noise apart from those of samples


def shear_matrices(values: np.ndarray) -> np.ndarray:
    """(B, 3, 3) from `values` (B, 6), s1 and s2: rows (1, s1_0, s2_0), (s1_1, 1, s2_1), (s1_2, s2_2, 1)."""
    result = np.broadcast_to(np.eye(3), (len(values), 3, 3)).copy()
    result[:, (0, 1, 2), (1, 0, 0)] = values[:, :3]
    result[:, (0, 1, 2), (2, 2, 1)] = values[:, 3:]
    return result


def rotation_about(axis: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """(B, 3, 3) rotations about one coordinate axis (B,) each, with the signs of CTR-GCN's Rx, Ry, Rz."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows, (one, two) = np.arange(len(axis)), (np.array([[1, 0, 0], [2, 2, 1]])[:, axis])
    sign = np.where(axis == 1, -1, 1)
    result = np.broadcast_to(np.eye(3), (len(axis), 3, 3)).copy()
    result[rows, one, one] = result[rows, two, two] = cos
    result[rows, one, two], result[rows, two, one] = sign * sin, -sign * sin
    return result


def combined(
    shear: np.ndarray, axis: np.ndarray, degrees: np.ndarray, factors: np.ndarray, dropped_axis: np.ndarray
) -> np.ndarray:
    """One (B, 3, 3) float32 matrix for shear, then rotation, then a scale per axis, then an axis set to 0.

    shear (B, 6), degrees (B,): 0 for none; factors (B, 3): 1 for none; dropped_axis (B,): -1 for none. Made in float64.
    """
    kept = np.arange(3) != np.asarray(dropped_axis)[:, None]
    exact = (factors * kept)[:, :, None] * (rotation_about(axis, degrees) @ shear_matrices(shear))
    matrices: np.ndarray = exact.astype(np.float32)
    return matrices


def transfer_bone_lengths(
    sample: torch.Tensor, reference: torch.Tensor, table: tuple[tuple[int, int], ...], root: int
) -> torch.Tensor:
    """The bones of `sample` with the lengths they have in `reference`, hung on the root joint of `reference`.

    (R, 3, W, V) each -> new (R, 3, W, V). A person that only the reference has collapses onto its root joint.
    """
    steps = bones(sample, table)
    steps *= (_lengths(bones(reference, table)) / _lengths(steps))[:, None]
    # Sums along the way to the root: after round k each joint has the bones of its 2**k nearest ancestors, itself included.
    for ancestor in _ancestors(table):
        steps += torch.gather(steps, -1, ancestor.to(steps.device).expand(steps.shape))
    return steps.add_(reference[..., root : root + 1])


def _lengths(steps: torch.Tensor) -> torch.Tensor:
    """(R, 3, W, V) -> (R, W, V), never 0. Single sums: a library's norm may round otherwise for another number of clips."""
    squares = steps * steps
    return squares[:, 0].add_(squares[:, 1]).add_(squares[:, 2]).sqrt_().add_(_TINY)


@functools.lru_cache(maxsize=4)
def _ancestors(table: tuple[tuple[int, int], ...]) -> list[torch.Tensor]:
    """The ancestors (V,) 1, 2, 4 ... steps up from each joint, as long as one is not the root, whose bone is 0."""
    up = np.empty(len(table), dtype=np.int64)
    for child, parent in table:
        up[child] = parent
    result = []
    while (up != up[0]).any():
        result.append(torch.from_numpy(up))
        up = up[up]
    return result


def gaussian_noise(keys: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(B, *shape) float32 with standard deviation `NOISE`, a function of each clip's key (B,) below 2**53 alone."""
    size = math.prod(shape)
    half = -(-size // 2)
    u = uniforms(0, 0, keys.astype(np.uint64) | _NOISE_KEYS, AUGMENTATION, 2 * half)
    radius, angle = NOISE * np.sqrt(-2 * np.log1p(-u[:, :half])), 2 * np.pi * u[:, half:]
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return values[:, :size].astype(np.float32).reshape(-1, *shape)


def blur(parts: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
    """Sums over 15 frames with weights exp(-d^2 / (2 sigma^2)), which do not add up to 1: (R, 3, W, V), (R,) -> new.

    Frames outside the window count as zero. The official reader does not normalise its weights either.
    """
    window, exact = parts.shape[2], parts.double()  # the sums are several times as large as the coordinates
    result = exact.clone()
    for distance in range(1, min(_BLUR_REACH, window - 1) + 1):
        weight = torch.from_numpy(np.exp(-(distance**2) / (2.0 * sigma**2))).to(parts.device)
        term = exact * weight[:, None, None, None]
        result[:, :, distance:] += term[:, :, :-distance]
        result[:, :, :-distance] += term[:, :, distance:]
    return result.float()
