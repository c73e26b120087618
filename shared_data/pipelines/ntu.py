"""The CTR-GCN reader for NTU-style clips (``specs/ctrgcn.md`` 5.2): crop, resize, rotate, bone, motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from shared_data.batches.augment import rotation_matrices, stream_of
from shared_data.batches.frames import Frames, centre_crop, crop_length, crop_resize, random_crop
from shared_data.batches.gather import channels, lay_out, present_people
from shared_data.batches.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.batches.upstream import Stream
from shared_data.clips import Clips
from shared_data.pipelines import contract
from shared_data.skeletons import skeleton


@dataclass(frozen=True)
class NtuOptions:
    """Options of `ctrgcn_ntu`; the defaults are the official recipe.

    stream           j, b, jm or bm
    window           frames of a batch
    p_interval       share of the valid frames that training keeps: (low, high), or (p,) for the centre crop
    test_p_interval  the same at test time, where nothing is random: (p,)
    random_rot       rotate each training clip
    theta            largest rotation angle about each axis, radian
    skeleton         layout whose bone table the streams b and bm use
    """

    stream: str = "j"
    window: int = 64
    p_interval: tuple[float, ...] = (0.5, 1.0)
    test_p_interval: tuple[float, ...] = (0.95,)
    random_rot: bool = True
    theta: float = 0.3
    skeleton: str = "ntu25"

    def __post_init__(self) -> None:
        contract.check_stream(self.stream)
        contract.check_window(self.window, 100_000)
        skeleton(self.skeleton)
        for name, most in (("p_interval", 2), ("test_p_interval", 1)):
            given = getattr(self, name)
            ok = isinstance(given, Sequence) and not isinstance(given, str) and 1 <= len(given) <= most
            ok = ok and all(contract.is_number(p) and 0 < p <= 1 for p in given) and list(given) == sorted(given)
            shape = "one or two rising numbers" if most == 2 else "one number"
            contract.check(ok, name, given, f"{shape} above 0 and at most 1, such as {[0.5, 1] if most == 2 else [0.95]}")
            object.__setattr__(self, name, tuple(float(p) for p in given))
        contract.check(isinstance(self.random_rot, bool), "random_rot", self.random_rot, "true or false")
        ok = contract.is_number(self.theta) and self.theta >= 0
        contract.check(ok, "theta", self.theta, "an angle in radian, 0 or more")


@dataclass(frozen=True)
class NtuDraws:
    """What chance decided for B clips.

    start, length  (B,) int64      first frame and number of frames of the crop
    matrices       (B, 3, 3) float32  rotations, see `rotation_matrices`
    """

    start: np.ndarray
    length: np.ndarray
    matrices: np.ndarray


@dataclass(frozen=True)
class MampOptions(NtuOptions):
    """Options of `mamp_ntu`: the same reader with a longer window. The shortest crop stays 64 frames."""

    window: int = 120


class CtrgcnNtu:
    """Pipeline `ctrgcn_ntu`, by this or another `name`; see `contract.Pipeline`."""

    def __init__(self, options: NtuOptions, name: str = "ctrgcn_ntu") -> None:
        self.options, self.name = options, name
        self.skeleton = skeleton(options.skeleton)

    def item(self, clips: Clips) -> tuple[int, ...]:
        """(3, W, V, M)."""
        return 3, self.options.window, clips.joints, clips.max_people

    def accept(self, clips: Clips) -> None:
        """Joint motion and joints need no bone table, but a batch of another layout would still be a mistake."""
        contract.check_joints(clips, self.name, self.skeleton)

    def draw(self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0) -> NtuDraws:
        """Two numbers for the crop, three for the rotation; the same five whatever the options."""
        u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, 5)
        valid, interval = clips.valid[index], self.options.p_interval
        if len(interval) == 1:
            start, length = centre_crop(valid, interval[0])
        else:
            start, length = random_crop(valid, interval[0], interval[1], u[:, :2])
        theta = self.options.theta if self.options.random_rot else 0.0
        return NtuDraws(start, length, rotation_matrices((2 * u[:, 2:] - 1) * theta))

    def draw_upstream(self, clips: Clips, index: np.ndarray, source: Stream) -> NtuDraws:
        """As the official reader draws, clip by clip (see `upstream`)."""
        theta, interval = self.options.theta if self.options.random_rot else 0.0, self.options.p_interval
        start, length = centre_crop(clips.valid[index], interval[0])
        angles = np.zeros((len(index), 3))
        for row, valid in enumerate(clips.valid[index].tolist()):
            if len(interval) == 2:
                p = source.numpy.rand(1) * (interval[1] - interval[0]) + interval[0]
                length[row] = crop_length(np.array([valid]), p)[0]
                start[row] = source.numpy.randint(0, valid - length[row] + 1)
            if theta:
                angles[row] = torch.zeros(3).uniform_(-theta, theta, generator=source.torch).numpy()
        return NtuDraws(start, length, rotation_matrices(angles))

    def train(self, clips: Clips, index: np.ndarray, draws: NtuDraws, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, window, V, M) as `draws` say."""
        matrices = draws.matrices if self.options.random_rot else None
        return self._batch(clips, index, crop_resize(draws.start, draws.length, self.options.window), matrices, out)

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, window, V, M) from the centre of each clip."""
        start, length = centre_crop(clips.valid[index], self.options.test_p_interval[0])
        return self._batch(clips, index, crop_resize(start, length, self.options.window), None, out)

    def _batch(
        self, clips: Clips, index: np.ndarray, frames: Frames, matrices: np.ndarray | None, out: torch.Tensor | None
    ) -> torch.Tensor:
        present = present_people(clips, index)
        parts = channels(clips, present, frames, matrices)
        streamed = stream_of(parts, self.options.stream, self.skeleton.bones)
        return lay_out(streamed, present, contract.room((len(index), *self.item(clips)), clips, out))
