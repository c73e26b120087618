"""Frame-wise features of whole sequences as DeST and LaSA take them, for temporal segmentation.

Every function takes one sequence and works on all its frames at once; nothing here knows about batches or files.
Source: the published reader of LaSA, replayed from its recorded outputs (`lasa_features.npz`), all bits equal.
"""

from __future__ import annotations

import numpy as np

from shared_data.errors import DataError

IMAGE = (1280, 720)  # pixels of MCFS's pictures, width and height
MCFS_CENTRE = 8  # the joint that MCFS's coordinates are relative to, 0-based


def motion_and_shape(frames: np.ndarray) -> np.ndarray:
    """(T, M, V, C) -> (2 C M, V, T) float32: per person C displacements, then C coordinates relative to joint 0.

    The displacement of frame t is x[t + 1] - x[t] from the first to the last frame that is not all zero (all people
    together), and 0 at that last frame and outside. All-zero frames in between count as positions, as they do officially.
    PKU-MMD: (T, 2, 25, 3) in metres -> (12, 25, T).
    """
    _check(frames, 4, "(T, M, V, C)")
    displacement = np.zeros_like(frames)
    present = np.flatnonzero(frames.reshape(len(frames), -1).any(1))
    if len(present):
        first, last = present[0], present[-1]
        np.subtract(frames[first + 1 : last + 1], frames[first:last], out=displacement[first:last])
    both = np.concatenate([displacement, frames - frames[:, :, :1]], axis=-1)  # (T, M, V, 2 C)
    people, joints, channels = both.shape[1:]
    return np.ascontiguousarray(both.transpose(1, 3, 2, 0), np.float32).reshape(people * channels, joints, len(frames))


def lara(values: np.ndarray) -> np.ndarray:
    """LARA's (6, T, 19, 1), six channels and one person -> (12, 19, T) float32: six displacements, six relative values."""
    _check(values, 4, "(C, T, V, 1)")
    return motion_and_shape(values.transpose(1, 3, 2, 0))


def mcfs(pixels: np.ndarray) -> np.ndarray:
    """MCFS's (T, V, 2 or more), pixels x and y first -> (2, V, T) float32: x / 1280 - 0.5 and y / 720 - 0.5 around joint 9.

    Computed in float32 throughout, as the official reader does.
    """
    _check(pixels, 3, "(T, V, 2 or more)")
    scaled = pixels[..., :2].astype(np.float32) / np.array(IMAGE, np.float32) - np.float32(0.5)
    return np.ascontiguousarray((scaled - scaled[:, MCFS_CENTRE : MCFS_CENTRE + 1]).transpose(2, 1, 0))


def every_second(feature: np.ndarray, labels: np.ndarray, boundary: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half the frame rate: features (C, V, T) and labels (T,) of frames 0, 2, 4 ...; a boundary is kept if either frame has it.

    The features are thinned after they are made, so a displacement still is that of one frame at the full rate.
    """
    pairs = np.zeros((len(boundary) + 1) // 2 * 2, boundary.dtype)
    pairs[: len(boundary)] = boundary
    return feature[..., ::2], labels[::2], pairs.reshape(-1, 2).max(1)


def _check(values: np.ndarray, axes: int, expected: str) -> None:
    if values.ndim != axes or 0 in values.shape or values.dtype.kind != "f":
        raise DataError(f"a sequence of shape {values.shape} and type {values.dtype}", where="features", expected=expected)
