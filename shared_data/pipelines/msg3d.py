"""The MS-G3D reader (``specs/msg3d.md`` 5): whole clips of 300 frames; ST-GCN's augmentations, all switched off by default.

Its files hold clips normalised offline (`batches.prenormalise`); the option `prenorm` does that on the fly to clips that are
not. Joints and bones only: MS-G3D has no motion streams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shared_data.batches.augment import stream_of
from shared_data.batches.frames import NOTHING, Frames
from shared_data.batches.gather import channels, lay_out, present_people
from shared_data.batches.prenormalise import FRAMES, normalised
from shared_data.batches.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.clips import Clips
from shared_data.pipelines import contract
from shared_data.skeletons import NTU25, skeleton

_DEGREES = (-10.0, -5.0, 0.0, 5.0, 10.0)
_SCALES = (0.9, 1.0, 1.1)
_SHIFTS = (-0.2, -0.1, 0.0, 0.1, 0.2)  # metres
_STILL = (0.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Msg3dOptions:
    """Options of `msg3d_ntu`; the defaults are the official recipe, the whole clip as it is.

    stream         j or b
    frames         length T to which clips are filled up, with zeros or, with prenorm, by repetition; longer ones are cut
    window         -1, or up to T: all T frames; more: T frames and zeros after them (the official ``window_size``)
    random_shift   move the frames of a training clip that are not empty to a random place among the T
    random_choose  show `window` frames in a row from a random place, or all T at a random place in a longer window; a test clip
                   shows the middle
    random_move    turn, scale and shift a training clip in the picture plane, changing linearly in time
    prenorm        apply the offline normalisation: for clips that were not prepared for MS-G3D
    skeleton       layout whose bone table the stream b uses
    """

    stream: str = "j"
    frames: int = FRAMES
    window: int = -1
    random_shift: bool = False
    random_choose: bool = False
    random_move: bool = False
    prenorm: bool = False
    skeleton: str = "ntu25"

    def __post_init__(self) -> None:
        contract.check(self.stream in ("j", "b"), "stream", self.stream, "j (joints) or b (bones): MS-G3D has no motion streams")
        contract.check(_whole(self.frames, 1), "frames", self.frames, "a whole number of frames, 1 to 100000")
        ok = self.window == -1 or _whole(self.window, 1)
        contract.check(ok, "window", self.window, "a whole number of frames, or -1 for all")
        for name in ("random_shift", "random_choose", "random_move", "prenorm"):
            contract.check(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        ok = not (self.random_choose and self.window == -1)
        contract.check(ok, "window", self.window, "a number of frames for random_choose to choose")
        layout = skeleton(self.skeleton)
        ok = not self.prenorm or layout.joints == NTU25.joints
        contract.check(ok, "prenorm", self.prenorm, f"false: the normalisation is about the joints of {NTU25.title}")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= 100_000


@dataclass(frozen=True)
class Msg3dDraws:
    """What chance decided for B clips.

    moved_to  (B,) int64         place of the first frame that is not empty, -1: where it is
    start     (B,) int64         first frame shown of the T; if the window is longer, place of frame 0 in the window
    move      (B, 2, 4) float64  angle in degrees, scale, shift in x and in y at the first and at the last frame
    """

    moved_to: np.ndarray
    start: np.ndarray
    move: np.ndarray


class Msg3dNtu:
    """Pipeline `msg3d_ntu`; see `contract.Pipeline`."""

    name = "msg3d_ntu"

    def __init__(self, options: Msg3dOptions) -> None:
        self.options = options
        self.skeleton = skeleton(options.skeleton)
        self._window = options.window if options.random_choose else max(options.window, options.frames)

    def item(self, clips: Clips) -> tuple[int, ...]:
        """(3, W, V, M): W is T, or `window` if that is larger or chosen."""
        return 3, self._window, clips.joints, clips.max_people

    def accept(self, clips: Clips) -> None:
        """A batch of another layout would be a mistake even where no joint has a meaning."""
        contract.check_joints(clips, self.name, self.skeleton)

    def draw(self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0) -> Msg3dDraws:
        """Two places, then angle, scale and shifts at both ends; the same ten numbers whatever the options."""
        u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, 10)
        options, batch = self.options, len(index)
        moved_to, start, move = np.full(batch, -1), np.zeros(batch, np.int64), np.empty((batch, 2, 4))
        if options.random_shift and not options.prenorm:  # repeated clips fill all T frames: there is no room to move
            begin, end = self._stretch(clips, index)
            moved_to = (u[:, 0] * (options.frames - (end - begin) + 1)).astype(np.int64)
        if options.random_choose:
            start = (u[:, 1] * (abs(options.frames - self._window) + 1)).astype(np.int64)
        if options.random_move:
            for column, choices in enumerate((_DEGREES, _SCALES, _SHIFTS, _SHIFTS)):
                picked = (u[:, 2 + 2 * column : 4 + 2 * column] * len(choices)).astype(np.int64)
                move[:, :, column] = np.array(choices)[picked]
        else:
            move[:] = _STILL
        return Msg3dDraws(moved_to, start, move)

    def train(self, clips: Clips, index: np.ndarray, draws: Msg3dDraws, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, W, V, M) as `draws` say."""
        number = self._places(draws.start)
        if (draws.moved_to >= 0).any():
            number = self._moved(clips, index, number, draws.moved_to)
        batch = self._batch(clips, index, number, out)
        return _move(batch, draws.move) if (draws.move != _STILL).any() else batch

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, W, V, M) from frame 0; with `random_choose` the middle of what is stored, or all in the middle."""
        start = np.zeros(len(index), np.int64)
        if self.options.random_choose:
            room = self.options.frames - self._window
            start = np.clip((clips.extent[index] - self._window) // 2, 0, room) if room > 0 else start - room // 2
        return self._batch(clips, index, self._places(start), out)

    def _places(self, start: np.ndarray) -> np.ndarray:
        """(B, W) places among the T frames, for `start` (B,) as in `Msg3dDraws`."""
        sign = -1 if self._window > self.options.frames else 1
        places: np.ndarray = np.arange(self._window) + sign * start[:, None]
        return places

    def _stretch(self, clips: Clips, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 of the frames whose coordinates do not add up to 0, (B,) int64; both 0 where there are none."""
        present = present_people(clips, index)
        stored = np.minimum(present.extent, self.options.frames)
        owner = np.repeat(np.arange(len(stored)), stored)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(stored) - stored, stored)
        sums = clips.take_rows(present.base[owner] + number * clips.frame_step).sum(axis=(1, 2), dtype=np.float64)
        longest = int(stored.max(initial=0)) + 1
        place = present.who[owner] * longest + number
        total = np.bincount(place, sums, minlength=len(index) * longest).reshape(len(index), longest)
        seen = total != 0
        begin = seen.argmax(axis=1)
        end = np.where(seen.any(axis=1), total.shape[1] - seen[:, ::-1].argmax(axis=1), 0)
        return begin, end

    def _moved(self, clips: Clips, index: np.ndarray, number: np.ndarray, moved_to: np.ndarray) -> np.ndarray:
        """Which frame of the clip lies at places `number` (B, W) of the T once its frames were moved."""
        begin, end = (edge[:, None] for edge in self._stretch(clips, index))
        back = number - moved_to[:, None] + begin
        inside = (back >= begin) & (back < end) & (number < self.options.frames)
        return np.where(moved_to[:, None] >= 0, np.where(inside, back, NOTHING), number)

    def _batch(self, clips: Clips, index: np.ndarray, number: np.ndarray, out: torch.Tensor | None) -> torch.Tensor:
        """The frames `number` (B, W) of the T, laid out."""
        frames = self.options.frames
        if self.options.prenorm:
            present, parts = normalised(clips, index, number, frames)
        else:
            present = present_people(clips, index)
            parts = channels(clips, present, Frames(np.where(number < frames, number, NOTHING)))
        streamed = stream_of(parts, self.options.stream, self.skeleton.bones)
        return lay_out(streamed, present, contract.room((len(index), *self.item(clips)), clips, out))


def _move(batch: torch.Tensor, move: np.ndarray) -> torch.Tensor:
    """Turn, scale and shift x and y of `batch` (B, 3, W, V, M), in place, by `move` (B, 2, 4) at the first and last frame.

    Empty frames and absent people are shifted like the others, as the official reader does; in float64, as there.
    """
    steps = batch.shape[2]
    share = np.arange(steps) / max(steps - 1, 1)
    between = move[:, :1] + (move[:, 1:] - move[:, :1]) * share[:, None]  # (B, W, 4)
    between[:, -1] = move[:, 1] if steps > 1 else move[:, 0]
    angle, scale = np.radians(between[..., 0]), between[..., 1]
    table = np.stack([np.cos(angle) * scale, np.sin(angle) * scale, between[..., 2], between[..., 3]])[..., None, None]
    cos, sin, right, up = torch.from_numpy(table).to(batch.device)  # (B, W, 1, 1) each
    x, y = batch[:, 0].to(torch.float64), batch[:, 1].to(torch.float64)
    batch[:, 0] = x * cos - y * sin + right
    batch[:, 1] = x * sin + y * cos + up
    return batch
