"""The CTR-GCN reader for NW-UCLA (``specs/ctrgcn.md`` 5.3): centre, rotate, scale, min-max, 52 frames, bone, motion.

Done in float64 and cast at the end, as the official reader's output is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared_data.augment import stream_of
from shared_data.clips import Clips
from shared_data.errors import UsageError
from shared_data.pipelines import contract
from shared_data.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.sampling import evenly_spaced, frames_from_copies
from shared_data.skeletons import skeleton

_COPIES = 100  # of the frame list, from which training frames are drawn
_ORIGIN_JOINT = 1  # of the first frame


@dataclass(frozen=True)
class UclaOptions:
    """Options of `ctrgcn_ucla`; the defaults are the official recipe.

    stream       j, b, jm or bm
    window       frames of a batch; at most 100, or a clip of one frame could not fill it without replacement
    random_rot   rotate each training clip by whole degrees about x and y
    max_degrees  largest rotation angle
    skeleton     layout whose bone table the streams b and bm use
    """

    stream: str = "j"
    window: int = 52
    random_rot: bool = True
    max_degrees: int = 60
    skeleton: str = "ucla20"

    def __post_init__(self) -> None:
        contract.check_stream(self.stream)
        contract.check_window(self.window, _COPIES)
        skeleton(self.skeleton)
        contract.check(isinstance(self.random_rot, bool), "random_rot", self.random_rot, "true or false")
        whole = isinstance(self.max_degrees, int) and not isinstance(self.max_degrees, bool)
        ok = whole and 0 <= self.max_degrees <= 180
        contract.check(ok, "max_degrees", self.max_degrees, "a whole number of degrees, 0 to 180")


@dataclass(frozen=True)
class UclaDraws:
    """What chance decided for B clips.

    angle_x, angle_y  (B,) int64    degrees
    scale             (B,) float64  size factor; the min-max scaling removes it again
    frames            (B, window) int64, rising
    """

    angle_x: np.ndarray
    angle_y: np.ndarray
    scale: np.ndarray
    frames: np.ndarray


def _matrices(draws: UclaDraws) -> np.ndarray:
    """(B, 3, 3) float64: Ry (Rx (s I)), applied to row vectors from the right."""
    x, y = np.radians(draws.angle_x.astype(np.float64)), np.radians(draws.angle_y.astype(np.float64))
    rx, ry = np.zeros((2, len(x), 3, 3))
    rx[:, 0, 0] = ry[:, 1, 1] = 1
    rx[:, 1, 1] = rx[:, 2, 2] = np.cos(x)
    rx[:, 1, 2], rx[:, 2, 1] = np.sin(x), -np.sin(x)
    ry[:, 0, 0] = ry[:, 2, 2] = np.cos(y)
    ry[:, 0, 2], ry[:, 2, 0] = -np.sin(y), np.sin(y)
    scale = draws.scale[:, None, None] * np.eye(3)
    result: np.ndarray = ry @ (rx @ scale)
    return result


class CtrgcnUcla:
    """Pipeline `ctrgcn_ucla`; see `contract.Pipeline`."""

    name = "ctrgcn_ucla"

    def __init__(self, options: UclaOptions) -> None:
        self.options = options
        self.skeleton = skeleton(options.skeleton)

    @property
    def window(self) -> int:
        """Frames of a batch."""
        return self.options.window

    def accept(self, clips: Clips) -> None:
        """The reader scales a clip by the range of its one person; with two people that would mean something else."""
        contract.check_joints(clips, self.name, self.skeleton)
        if clips.max_people != 1:
            raise UsageError(
                f"the clips have up to {clips.max_people} people",
                where=f"pipeline {self.name}",
                expected="clips of one person",
                next_step="use the pipeline ctrgcn_ntu, which keeps people apart",
            )

    def draw(self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0) -> UclaDraws:
        """Two angles, a scale and the frames; the same numbers whatever the options."""
        u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, 3 + self.window)
        most = self.options.max_degrees
        degrees = np.floor(u[:, :2] * (2 * most + 1)).astype(np.int64) - most
        if not self.options.random_rot:
            degrees[:] = 0
        length = np.maximum(clips.extent[index], 1)
        return UclaDraws(degrees[:, 0], degrees[:, 1], u[:, 2] + 0.5, frames_from_copies(length, u[:, 3:], _COPIES))

    def train(self, clips: Clips, index: np.ndarray, draws: UclaDraws, out: np.ndarray | None = None) -> np.ndarray:
        """(B, 3, window, V, 1) float32 as `draws` say."""
        return _into(self._batch(clips, index, draws.frames, _matrices(draws)), out)

    def test(self, clips: Clips, index: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(B, 3, window, V, 1) float32, not rotated, frames evenly spaced."""
        return _into(self._batch(clips, index, evenly_spaced(clips.extent[index], self.window), None), out)

    def _batch(self, clips: Clips, index: np.ndarray, frames: np.ndarray, matrices: np.ndarray | None) -> np.ndarray:
        # All frames of all clips one after the other; a clip without any contributes the zero row.
        extent = np.where(clips.people[index] > 0, clips.extent[index], 0).astype(np.int64)
        base, length = np.where(extent > 0, clips.offset[index], 0), np.maximum(extent, 1)
        first = np.concatenate([[0], np.cumsum(length)[:-1]])
        owner = np.repeat(np.arange(len(index)), length)
        rows = np.arange(len(owner)) - first[owner] + base[owner]
        points = clips.rows[rows].astype(np.float64)
        points -= points[first, _ORIGIN_JOINT][owner][:, None]
        if matrices is not None:
            points = points @ matrices[owner]
        axes = np.ascontiguousarray(points.transpose(2, 0, 1))  # (3, all frames, V): each axis of a clip is one run of numbers
        runs, starts = axes.reshape(3, -1), first * clips.joints
        low = np.minimum.reduceat(runs, starts, axis=1)[:, :, None, None]  # (3, B, 1, 1)
        span = np.maximum.reduceat(runs, starts, axis=1)[:, :, None, None] - low
        chosen = axes[:, first[:, None] + frames]  # (3, B, window, V)
        chosen -= low
        # The official reader divides 0 by 0 on an axis that never changes; here such an axis is 0 throughout.
        chosen /= np.where(span == 0, 1.0, span)
        chosen *= 2
        chosen -= span != 0
        channels = np.ascontiguousarray(chosen.transpose(1, 0, 2, 3))
        return stream_of(channels, self.options.stream, self.skeleton)[..., None]


def _into(batch: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The float64 batch cast to float32, in `out` if there is one."""
    if out is None:
        out = np.empty(batch.shape, dtype=np.float32)
    np.copyto(out, batch, casting="same_kind")
    return out
