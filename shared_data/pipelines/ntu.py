"""The CTR-GCN reader for NTU-style clips (``specs/ctrgcn.md`` 5.2): crop, resize, rotate, bone, motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared_data.augment import rotate, rotation_matrices, stream_of
from shared_data.clips import Clips
from shared_data.memory import scratch
from shared_data.pipelines import contract
from shared_data.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.sampling import centre_crop, lay_out, present_people, random_crop, resample
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
    angles         (B, 3) float64  rotation about x, y, z in radian; all zero means no rotation
    """

    start: np.ndarray
    length: np.ndarray
    angles: np.ndarray


class CtrgcnNtu:
    """Pipeline `ctrgcn_ntu`; see `contract.Pipeline`."""

    name = "ctrgcn_ntu"

    def __init__(self, options: NtuOptions) -> None:
        self.options = options
        self.skeleton = skeleton(options.skeleton)

    @property
    def window(self) -> int:
        """Frames of a batch."""
        return self.options.window

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
        return NtuDraws(start, length, (2 * u[:, 2:] - 1) * theta)

    def train(self, clips: Clips, index: np.ndarray, draws: NtuDraws, out: np.ndarray | None = None) -> np.ndarray:
        """(B, 3, window, V, M) float32 as `draws` say."""
        angles = draws.angles if draws.angles.any() else None
        return self._batch(clips, index, start=draws.start, length=draws.length, angles=angles, out=out)

    def test(self, clips: Clips, index: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(B, 3, window, V, M) float32 from the centre of each clip."""
        start, length = centre_crop(clips.valid[index], self.options.test_p_interval[0])
        return self._batch(clips, index, start=start, length=length, angles=None, out=out)

    def _batch(
        self,
        clips: Clips,
        index: np.ndarray,
        *,
        start: np.ndarray,
        length: np.ndarray,
        angles: np.ndarray | None,
        out: np.ndarray | None,
    ) -> np.ndarray:
        present = present_people(clips, index)
        parts = resample(clips, present, start, length, self.window)
        points = parts.reshape(len(parts), -1, 3)
        channels = scratch("channels", (len(parts), 3, points.shape[1]))
        np.copyto(channels, points.transpose(0, 2, 1))
        if angles is not None:
            matrices = rotation_matrices(angles)[present.who]
            channels = rotate(channels, matrices, out=scratch("rotated", channels.shape))
        shape = (3, self.window, clips.joints)
        streamed = stream_of(channels.reshape(-1, *shape), self.options.stream, self.skeleton)
        if out is None:
            out = np.empty((len(index), *shape, clips.max_people), dtype=np.float32)
        return lay_out(streamed, present, out)
