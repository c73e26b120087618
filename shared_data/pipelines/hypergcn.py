"""The Hyper-GCN reader for NTU-style clips (``specs/hypergcn.md`` 5): choose frames, align, rotate, stream, motion.

It differs from CTR-GCN's in what its streams show: joints and bones relative to others, but joint 21 where it is in the room,
so that one joint tells where the person goes. For NTU-60 X-View it also draws whole frames and turns the shoulders along x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shared_data.batches.alignment import first_frames, turning
from shared_data.batches.augment import bones, motion, rotation_matrices
from shared_data.batches.frames import Frames, centre_crop, crop_resize, frames_after_gaps, spread_frames
from shared_data.batches.gather import channels, lay_out, present_people
from shared_data.batches.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.batches.upstream import Stream
from shared_data.clips import Clips
from shared_data.errors import nearest
from shared_data.pipelines import contract
from shared_data.pipelines.ntu import CtrgcnNtu, NtuOptions
from shared_data.skeletons import NTU25, Pairs

_TRAJECTORY = 20  # joint 21, which the streams j, b and bm show where it is
_SHOULDERS = (4, 8)  # joints 5 and 9, aligned along x
_SAMPLING = ("resize", "clips")
_PLAIN_NUMBERS = 5  # random numbers that `ctrgcn_ntu` takes for a clip


@dataclass(frozen=True)
class HypergcnOptions(NtuOptions):
    """Options of `hypergcn_ntu`: those of `ctrgcn_ntu`, and

    frame_sample   "resize": crop and resize as CTR-GCN; "clips": whole frames spread over the clip (NTU-60 X-View), for which
                   p_interval and test_p_interval do not matter
    align          turn each clip so that, in the first frame shown, person 1's shoulders lie along x
    random_test    with frame_sample "clips", draw the test frames too, as the official reader does: its scores vary from run
                   to run. Otherwise a test clip shows the middle frames of its parts
    test_seed      seed of these draws
    """

    frame_sample: str = "resize"
    align: bool = False
    random_test: bool = False
    test_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.frame_sample in _SAMPLING
        guess = nearest(str(self.frame_sample), _SAMPLING)
        contract.check(ok, "frame_sample", self.frame_sample, f"resize or clips{guess}")
        for name in ("align", "random_test"):
            contract.check(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        ok = isinstance(self.test_seed, int) and not isinstance(self.test_seed, bool)
        contract.check(ok, "test_seed", self.test_seed, "a whole number")
        ok = self.skeleton in (NTU25.name, "pku25")
        contract.check(ok, "skeleton", self.skeleton, "ntu25: this reader is about joint 21 and the shoulders of that layout")


@dataclass(frozen=True)
class HypergcnDraws:
    """What chance decided for B clips.

    start, length  (B,) int64           crop that is resized; not used where whole frames are drawn
    matrices       (B, 3, 3) float32    rotation of each clip: x' = matrix x
    frames         (B, window) int64    whole frames; (B, 0) where a crop is resized
    """

    start: np.ndarray
    length: np.ndarray
    matrices: np.ndarray
    frames: np.ndarray


class HypergcnNtu:
    """Pipeline `hypergcn_ntu`; see `contract.Pipeline`."""

    name = "hypergcn_ntu"

    def __init__(self, options: HypergcnOptions) -> None:
        self.options = options
        self.bones: Pairs = NTU25.bone_table("hypergcn")
        self._cropping = CtrgcnNtu(options)  # whose crop and rotation are drawn the same way

    def item(self, clips: Clips) -> tuple[int, ...]:
        """(3, W, V, M)."""
        return 3, self.options.window, clips.joints, clips.max_people

    def accept(self, clips: Clips) -> None:
        """The joints of Kinect v2 only."""
        contract.check_joints(clips, self.name, NTU25)

    def draw(self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0) -> HypergcnDraws:
        """The five numbers of `ctrgcn_ntu`, then those of the whole frames."""
        plain = self._cropping.draw(clips, index, seed, epoch, repeat_number)
        frames = np.empty((len(index), 0), np.int64)
        if self.options.frame_sample == "clips":
            u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, _PLAIN_NUMBERS + self.options.window + 1)
            frames = spread_frames(clips.valid[index], self.options.window, u[:, _PLAIN_NUMBERS:])
        return HypergcnDraws(plain.start, plain.length, plain.matrices, frames)

    def draw_upstream(self, clips: Clips, index: np.ndarray, source: Stream) -> HypergcnDraws:
        """As the official reader draws, clip by clip (see `upstream`)."""
        if self.options.frame_sample == "resize":
            plain = self._cropping.draw_upstream(clips, index, source)
            return HypergcnDraws(plain.start, plain.length, plain.matrices, np.empty((len(index), 0), np.int64))
        theta = self.options.theta if self.options.random_rot else 0.0
        frames, angles = np.empty((len(index), self.options.window), np.int64), np.zeros((len(index), 3))
        for row, valid in enumerate(clips.valid[index].tolist()):
            frames[row] = _whole_frames(max(valid, 1), self.options.window, source.numpy)
            if theta:
                angles[row] = torch.zeros(3).uniform_(-theta, theta, generator=source.torch).numpy()
        start = np.zeros(len(index), np.int64)
        return HypergcnDraws(start, clips.valid[index].astype(np.int64), rotation_matrices(angles), frames)

    def train(self, clips: Clips, index: np.ndarray, draws: HypergcnDraws, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, window, V, M) as `draws` say."""
        if draws.frames.shape[1]:
            frames = Frames(draws.frames)
        else:
            frames = crop_resize(draws.start, draws.length, self.options.window)
        return self._batch(clips, index, frames, draws.matrices if self.options.random_rot else None, out)

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, window, V, M), not rotated at random; frames from the centre, or spread over the clip."""
        options = self.options
        if options.frame_sample == "resize":
            start, length = centre_crop(clips.valid[index], options.test_p_interval[0])
            frames = crop_resize(start, length, options.window)
        elif options.random_test:
            frames = Frames(self.draw(clips, index, options.test_seed, 0).frames)
        else:
            frames = Frames(spread_frames(clips.valid[index], options.window, None))
        return self._batch(clips, index, frames, None, out)

    def _batch(
        self, clips: Clips, index: np.ndarray, frames: Frames, matrices: np.ndarray | None, out: torch.Tensor | None
    ) -> torch.Tensor:
        present = present_people(clips, index)
        if self.options.align:
            first = first_frames(clips, present, frames)
            aligned = turning(first[:, _SHOULDERS[1]] - first[:, _SHOULDERS[0]], axis=0)
            matrices = (aligned if matrices is None else matrices.astype(np.float64) @ aligned).astype(np.float32)
        parts = channels(clips, present, frames, matrices)
        streamed = _stream_of(parts, self.options.stream, self.bones)
        return lay_out(streamed, present, contract.room((len(index), *self.item(clips)), clips, out))


def _whole_frames(valid: int, window: int, random: np.random.RandomState) -> np.ndarray:
    """What `spread_frames` does to one clip of `valid` frames, with the official reader's calls of `random`."""
    steps = np.arange(window)
    frames: np.ndarray
    if valid < window:
        frames = (random.randint(0, valid) + steps) % valid
    elif valid < 2 * window:
        gaps = np.zeros((1, window + 1), bool)
        gaps[0, random.choice(window + 1, valid - window, replace=False)] = True
        frames = frames_after_gaps(gaps)[0]
    else:
        edges = np.arange(window + 1) * valid // window
        frames = edges[:-1] + random.randint(np.diff(edges))
    return frames


def _stream_of(coordinates: torch.Tensor, stream: str, table: Pairs) -> torch.Tensor:
    """The reader's streams of (P, 3, W, V): joints relative to joint 21, or bones, but joint 21 in place; then motion.

    The motion of joints is that of joints in place. May overwrite `coordinates`.
    """
    if stream == "jm":
        return motion(coordinates)
    trajectory = coordinates[..., _TRAJECTORY].clone()
    shown = coordinates.sub_(trajectory[..., None]) if stream == "j" else bones(coordinates, table)
    shown[..., _TRAJECTORY] = trajectory
    return motion(shown) if stream == "bm" else shown
