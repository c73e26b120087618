"""SCD-Net's reader (``specs/scdnet.md`` 6): rotation, swapped sides, shear, masked joints, masked frames, each half the time."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from shared_data.batches.combinations import random_set
from shared_data.pipelines import contract
from shared_data.pipelines.downstream import Downstream, DownstreamOptions
from shared_data.pipelines.views import ViewOptions, ViewPipeline, Views
from shared_data.skeletons import Skeleton

PROBABILITY = 0.5  # of each of the five
MAIN_DEGREES, OTHER_DEGREES = 30.0, 1.0  # largest angle about the main axis, about the other two
SEED_JOINTS, MASKED_JOINTS = 5, 8
BLOCKS, MASKED_BLOCKS = 16, 6
NUMBERS = 21  # five decisions, main axis, 3 angles, 6 entries of the shear, 5 seed joints, which blocks
_OFF_DIAGONAL = ~np.eye(3, dtype=bool)


def five_changes(views: Views, u: np.ndarray, layout: Skeleton) -> Views:
    """Each of the five with probability 1/2, from uniform numbers `u` (B, K, 21)."""
    rotated, swapped, sheared, masked, blocked = np.moveaxis(u[..., :5] < PROBABILITY, -1, 0)
    main = (u[..., 5:6] * 3).astype(np.int64) == np.arange(3)
    degrees = u[..., 6:9] * np.where(main, MAIN_DEGREES, OTHER_DEGREES) * rotated[..., None]
    shear = np.broadcast_to(np.eye(3), (*u.shape[:2], 3, 3)).copy()
    shear[..., _OFF_DIAGONAL] = (2 * u[..., 9:15] - 1) * sheared[..., None]
    seeds = (u[..., 15:20] * layout.joints).astype(np.int64)
    blocks = random_set(u[..., 20], BLOCKS, MASKED_BLOCKS) & blocked[..., None]
    return dataclasses.replace(
        views,
        swapped=swapped,
        matrix=shear @ rotations(degrees),
        other=np.zeros_like(views.other),
        chosen=spatial_mask(joint_totals(seeds, layout)) & masked[..., None],
        hidden=np.repeat(blocks, views.hidden.shape[-1] // BLOCKS, axis=-1),
    )


def rotations(degrees: np.ndarray) -> np.ndarray:
    """Angles about x, y, z (..., 3) -> (Rz Ry) Rx (..., 3, 3) for column vectors: first about x.

    Rx has rows (1,0,0), (0,c,s), (0,-s,c); Ry (c,0,-s), (0,1,0), (s,0,c); Rz (c,s,0), (-s,c,0), (0,0,1).
    """
    (cx, cy, cz), (sx, sy, sz) = (np.moveaxis(f(np.deg2rad(degrees)), -1, 0) for f in (np.cos, np.sin))
    rows = [
        [cz * cy, cz * sy * sx + sz * cx, sz * sx - cz * sy * cx],
        [-sz * cy, cz * cx - sz * sy * sx, sz * sy * cx + cz * sx],
        [sy, -cy * sx, cy * cx],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def joint_totals(seeds: np.ndarray, layout: Skeleton) -> np.ndarray:
    """How many walks of two steps lead from the `seeds` (..., 5) to each joint, staying allowed: (..., V) int64."""
    result: np.ndarray = _walks(layout)[seeds].sum(axis=-2)
    return result


@functools.lru_cache(maxsize=8)
def _walks(layout: Skeleton) -> np.ndarray:
    """The square of the adjacency with self links, (V, V) int64."""
    linked = np.eye(layout.joints, dtype=np.int64)
    for child, parent in layout.edges:
        linked[child, parent] = linked[parent, child] = 1
    return linked @ linked


def spatial_mask(totals: np.ndarray) -> np.ndarray:
    """The 8 joints with the largest `totals` (..., V), of equal ones the later: (..., V) bool.

    That is the end of a stable sort. The official sort is not stable: which of equal joints it takes depends on the processor.
    """
    joints = totals.shape[-1]
    ranked = totals * joints + np.arange(joints)
    least = np.partition(ranked, joints - MASKED_JOINTS, axis=-1)[..., joints - MASKED_JOINTS, None]
    result: np.ndarray = ranked >= least
    return result


def scdnet_pretrain(options: ViewOptions) -> ViewPipeline:
    """Pipeline `scdnet_pretrain`: two views; bones or motion are taken before the five changes."""
    contract.check(options.window % BLOCKS == 0, "window", options.window, f"a multiple of {BLOCKS}, the number of blocks")
    return ViewPipeline("scdnet_pretrain", options, 2, NUMBERS, five_changes)


def scdnet_downstream(options: DownstreamOptions) -> Downstream:
    """Pipeline `scdnet_downstream`: the centre 95 % of every clip."""
    return Downstream("scdnet_downstream", options, ratio=(0.95,), test_ratio=(0.95,), random_from=0.5)
