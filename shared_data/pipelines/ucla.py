"""The CTR-GCN reader for NW-UCLA (``specs/ctrgcn.md`` 5.3): centre, rotate, scale, min-max, 52 frames, bone, motion.

FreqMixFormer reads the same. Hyper-GCN and SkateFormer take 64 frames, drop an axis and some joints of a training clip after
the choice of frames (``specs/skateformer.md`` 5.3), and SkateFormer then orders the joints by body part.
Done in float64 and cast at the end, as the official readers' output is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from shared_data.batches.augment import stream_of
from shared_data.batches.frames import evenly_spaced, frames_from_copies, random_subset
from shared_data.batches.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.clips import Clips
from shared_data.errors import UsageError
from shared_data.pipelines import contract
from shared_data.skeletons import skeleton

_COPIES = 100  # of the frame list, from which training frames are drawn
_ORIGIN_JOINT = 1  # of the first frame
_DROPPED_JOINTS = (4, 12)  # how many joints and frames a drop takes, ends included
_DROPPED_FRAMES = (16, 32)
_DROP_NUMBERS = 5  # uniform numbers of the two drops, besides one per joint and one per frame


@dataclass(frozen=True)
class UclaOptions:
    """Options of `ctrgcn_ucla`; the defaults are the official recipe.

    stream       j, b, jm or bm
    window       frames of a batch; training draws them from 100 copies of a clip's frames, so at most 100 per frame it has
    random_rot   rotate each training clip by whole degrees about x and y
    max_degrees  largest rotation angle
    drop_axis    how probably one coordinate axis of a training clip is set to 0
    drop_joints  how probably 4 to 12 of its joints are set to 0 in 16 to 32 of its frames
    skeleton     layout whose bone table the streams b and bm use
    """

    stream: str = "j"
    window: int = 52
    random_rot: bool = True
    max_degrees: int = 60
    drop_axis: float = 0.0
    drop_joints: float = 0.0
    skeleton: str = "ucla20"

    def __post_init__(self) -> None:
        contract.check_stream(self.stream)
        contract.check_window(self.window, 10_000)
        skeleton(self.skeleton)
        contract.check(isinstance(self.random_rot, bool), "random_rot", self.random_rot, "true or false")
        whole = isinstance(self.max_degrees, int) and not isinstance(self.max_degrees, bool)
        ok = whole and 0 <= self.max_degrees <= 180
        contract.check(ok, "max_degrees", self.max_degrees, "a whole number of degrees, 0 to 180")
        for name in ("drop_axis", "drop_joints"):
            given = getattr(self, name)
            contract.check(contract.is_number(given) and 0 <= given <= 1, name, given, "a probability, 0 to 1")


@dataclass(frozen=True)
class DroppingUclaOptions(UclaOptions):
    """Options of `hypergcn_ucla` and `skateformer_ucla`: those of `ctrgcn_ucla` with other defaults."""

    window: int = 64
    drop_axis: float = 0.5
    drop_joints: float = 0.5


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


@dataclass(frozen=True)
class DroppingUclaDraws(UclaDraws):
    """The same, and what is set to 0 after the choice of frames.

    axis    (B,) int64        coordinate axis, -1 for none
    joints  (B, V) bool       these joints ...
    during  (B, window) bool  ... in these frames of the window; none where nothing is dropped
    """

    axis: np.ndarray
    joints: np.ndarray
    during: np.ndarray


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
    """Pipeline `ctrgcn_ucla`, and under another `name` those built on it; see `contract.Pipeline`.

    order  joints that a batch shows, in this order; None: all as they are
    """

    def __init__(self, options: UclaOptions, name: str = "ctrgcn_ucla", order: Sequence[int] | None = None) -> None:
        self.options, self.name, self.order = options, name, order
        self.skeleton = skeleton(options.skeleton)

    def item(self, clips: Clips) -> tuple[int, ...]:
        """(3, W, V, 1)."""
        return 3, self.options.window, clips.joints if self.order is None else len(self.order), 1

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
        if clips.table is not None:
            raise UsageError(
                f"pipeline {self.name} works on the CPU only (in float64, as the official reader does)",
                where=f"pipeline {self.name}",
                next_step="use --augment-on cpu; NW-UCLA is small",
            )
        shortest = max(int(clips.extent.min(initial=self.options.window)), 1)
        if self.options.window > shortest * _COPIES:
            raise UsageError(
                f"{self.options.window} different frames cannot be drawn from {_COPIES} copies of a clip of {shortest} frames",
                where=f"pipeline {self.name}, option window",
                expected=f"at most {shortest * _COPIES} for these clips",
            )

    def draw(self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0) -> UclaDraws:
        """Two angles, a scale and the frames, then what the drops need; the same numbers whatever the options."""
        chosen = 3 + self.options.window
        dropping = self.options.drop_axis > 0 or self.options.drop_joints > 0
        count = chosen + (_DROP_NUMBERS + clips.joints + self.options.window if dropping else 0)
        u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, count)
        most = self.options.max_degrees
        degrees = np.floor(u[:, :2] * (2 * most + 1)).astype(np.int64) - most
        if not self.options.random_rot:
            degrees[:] = 0
        length = np.maximum(clips.extent[index], 1)
        frames = frames_from_copies(length, u[:, 3:chosen], _COPIES)
        plain = (degrees[:, 0], degrees[:, 1], u[:, 2] + 0.5, frames)
        if not dropping:
            return UclaDraws(*plain)
        (if_axis, which, if_joints, joints, during), keys = (
            u[:, chosen : chosen + _DROP_NUMBERS].T,
            u[:, chosen + _DROP_NUMBERS :],
        )
        axis = np.where(if_axis < self.options.drop_axis, (which * 3).astype(np.int64), -1)
        wanted = if_joints < self.options.drop_joints
        return DroppingUclaDraws(
            *plain,
            axis,
            _subset(wanted, joints, keys[:, : clips.joints], _DROPPED_JOINTS),
            _subset(wanted, during, keys[:, clips.joints :], _DROPPED_FRAMES),
        )

    def train(self, clips: Clips, index: np.ndarray, draws: UclaDraws, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, window, V, 1) float32 as `draws` say."""
        chosen = self._chosen(clips, index, draws.frames, _matrices(draws))
        if isinstance(draws, DroppingUclaDraws):
            chosen *= (draws.axis[:, None] != np.arange(3))[:, :, None, None]
            np.copyto(chosen, 0, where=(draws.during[:, :, None] & draws.joints[:, None])[:, None])
        return self._finished(chosen, out)

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, window, V, 1) float32, not rotated, frames evenly spaced."""
        return self._finished(self._chosen(clips, index, evenly_spaced(clips.extent[index], self.options.window), None), out)

    def _chosen(self, clips: Clips, index: np.ndarray, frames: np.ndarray, matrices: np.ndarray | None) -> np.ndarray:
        """Frames (B, window) of the clips, rotated and scaled to [-1, 1]: (B, 3, window, V) float64."""
        # All frames of all clips one after the other; a clip without any contributes the zero row.
        extent = np.where(clips.people[index] > 0, clips.extent[index], 0).astype(np.int64)
        base, length = np.where(extent > 0, clips.offset[index], clips.zero), np.maximum(extent, 1)
        first = np.concatenate([[0], np.cumsum(length)[:-1]])
        owner = np.repeat(np.arange(len(index)), length)
        rows = np.arange(len(owner)) - first[owner] + base[owner]
        points = clips.take_rows(rows).astype(np.float64)
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
        return np.ascontiguousarray(chosen.transpose(1, 0, 2, 3))

    def _finished(self, chosen: np.ndarray, out: torch.Tensor | None) -> torch.Tensor:
        """The stream of (B, 3, window, V) float64, ordered, cast to float32, in `out` if there is one."""
        batch = stream_of(torch.from_numpy(chosen), self.options.stream, self.skeleton.bones)[..., None]
        if self.order is not None:
            batch = batch[:, :, :, list(self.order)]
        return batch.to(torch.float32) if out is None else out.copy_(batch)


def _subset(wanted: np.ndarray, u: np.ndarray, keys: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    """(B, n) bool: `ends[0]` to `ends[1]` of n things, a number and a set drawn evenly by `u` (B,) and `keys` (B, n).

    None where not `wanted` (B,); all of them where there are fewer than drawn.
    """
    low, high = ends
    count = np.where(wanted, low + (u * (high - low + 1)).astype(np.int64), 0)
    return random_subset(keys, np.minimum(count, keys.shape[1]))
