"""Coordinates of whole sequences as the encoders saw them while they learned without labels.

An encoder that was pretrained on normalised skeletons makes little of the camera's coordinates: both must go the same way.
Source: ``specs/usdrl_segmentation.md`` 7.1; the steps are those of `batches.prenormalise` without its repetition of short clips.
"""

from __future__ import annotations

import numpy as np

from shared_data.batches.prenormalise import CENTRE, view_matrices
from shared_data.errors import DataError
from shared_data.skeletons import NTU25, Skeleton


def normalised(frames: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """(T, M, V, 3) of one sequence -> (3 M, V, T) float32, person after person; absent people and joints (all zero) stay 0.

    25 joints: the middle of person 1's spine is the origin of every frame, for all people, and the sequence is turned as a whole
    so that in the first frame that shows person 1 the spine points along z and the shoulders along x. In a frame without
    person 1 the origin stays where it was last (before the first: where it is then); in a sequence without person 1 the next
    person takes this place. The files of AGCN leave such frames in camera coordinates.
    Other layouts: as recorded. NW-UCLA's clips are pretrained on without being moved, since nobody has published more.
    Raises `DataError` for another shape, or joints that are not the layout's.
    """
    if frames.ndim != 4 or 0 in frames.shape or frames.shape[2:] != (skeleton.joints, 3) or frames.dtype.kind != "f":
        raise DataError(
            f"a sequence of shape {frames.shape} and type {frames.dtype}", where="features",
            expected=f"(T, M, {skeleton.joints}, 3) for the skeleton {skeleton.name}",
        )  # fmt: skip
    points = frames.astype(np.float32)
    if skeleton.name == NTU25.name:
        points = _centred_and_turned(points)
    length, people, joints, _ = points.shape
    return np.ascontiguousarray(points.transpose(1, 3, 2, 0)).reshape(3 * people, joints, length)


def _centred_and_turned(points: np.ndarray) -> np.ndarray:
    there: np.ndarray = np.any(points, axis=-1, keepdims=True)  # (T, M, V, 1)
    seen = np.any(there, axis=(2, 3))  # (T, M)
    if not seen.any():
        return points
    leader = int(seen.any(0).argmax())
    with_leader = np.flatnonzero(seen[:, leader])
    latest = np.searchsorted(with_leader, np.arange(len(points)), side="right") - 1
    origin = points[with_leader[np.maximum(latest, 0)], leader, CENTRE]  # (T, 3)
    moved = (points - origin[:, None, None]) * there
    matrix = view_matrices(points[with_leader[:1], leader])[0]
    turned: np.ndarray = moved @ matrix.T
    return turned
