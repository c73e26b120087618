"""The rotations that turn a body part parallel to an axis of the room (MS-G3D's view normalisation, Hyper-GCN's `align`).

They follow from the first frame that is shown of person 1 and are planned like everything else: with NumPy, for a batch at once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shared_data.batches.frames import Frames
from shared_data.batches.gather import Present, gather
from shared_data.clips import Clips

_LEAST = 1e-6  # of the turning axis (sum of absolute values) and of the angle: below, nothing is turned


def first_frames(clips: Clips, present: Present, frames: Frames) -> np.ndarray:
    """(B, V, 3) float64: person 1 of each clip in the first of `frames`, which has B rows."""
    count = len(frames.number)
    leading = Present(*(getattr(present, name)[:count] for name in ("who", "person", "base", "extent")))
    weight = None if frames.weight is None else frames.weight[:, :1]
    points = gather(replace(clips, table=None), leading, Frames(frames.number[:, :1], weight))
    result: np.ndarray = points[:, 0].numpy().astype(np.float64)
    return result


def turning(vectors: np.ndarray, axis: int) -> np.ndarray:
    """(B, 3, 3) float64 rotations that make `vectors` (B, 3) point along coordinate axis number `axis`: x' = matrix x.

    The turn is about the normal of both. A vector of length 0, or one exactly along the axis or against it, has no normal and is
    left alone, as in the published readers.
    """
    vectors = np.asarray(vectors, np.float64)
    normal = np.cross(vectors, np.eye(3)[axis])
    reach = np.linalg.norm(normal, axis=1)  # |vector| sin(angle)
    along = vectors[:, axis]  # |vector| cos(angle)
    turned = (np.abs(normal).sum(1) >= _LEAST) & (np.arctan2(reach, along) >= _LEAST)
    length = np.where(turned, np.linalg.norm(vectors, axis=1), 1)
    sine, cosine = reach / length, along / length
    x, y, z = (normal / np.where(turned, reach, 1)[:, None]).T
    cross = np.zeros((len(vectors), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross -= cross.transpose(0, 2, 1).copy()
    matrices = np.eye(3) + sine[:, None, None] * cross + (1 - cosine)[:, None, None] * (cross @ cross)
    result: np.ndarray = np.where(turned[:, None, None], matrices, np.eye(3))
    return result
