"""SkateFormer's reader for NTU-style clips (``specs/skateformer.md`` 5.1): uniform frames, augmentation, joints by body part."""

from __future__ import annotations

import numpy as np
import torch

from shared_data.batches.augment import motion, transform
from shared_data.batches.frames import Frames
from shared_data.batches.gather import Present, channels, lay_out
from shared_data.batches.memory import scratch
from shared_data.clips import Clips
from shared_data.errors import UsageError
from shared_data.pipelines import contract
from shared_data.pipelines.skateformer_augment import blur, gaussian_noise, transfer_bone_lengths
from shared_data.pipelines.skateformer_plan import (
    IDENTITY,
    Partners,
    SkateformerNtuDraws,
    SkateformerNtuOptions,
    draw,
    fixed_frames,
    unaugmented,
)
from shared_data.pipelines.skateformer_sampling import frame_positions, reversed_frames
from shared_data.skeletons import NTU25

MODEL = "skateformer"  # its bone table and joint order
ROOT = 1  # of that table


class SkateformerNtu:
    """Pipeline `skateformer_ntu`; see `contract.Pipeline` and `contract.Positioned`."""

    name = "skateformer_ntu"

    def __init__(self, options: SkateformerNtuOptions) -> None:
        self.options = options
        self._partners = Partners()
        order = np.array(NTU25.order(MODEL) if options.partition else range(NTU25.joints))
        parent = np.array([parent for _, parent in sorted(NTU25.bone_table(MODEL))])
        mirror = np.array(NTU25.mirror)
        # Where output joint k and its parent lie before left and right are exchanged, (2, K): in a plain clip, in a mirrored one.
        self._joint = torch.from_numpy(np.stack([order, mirror[order]]))
        self._parent = torch.from_numpy(np.stack([parent[order], mirror[parent[order]]]))
        # A matrix may come first or last, since drops, blur and streams keep the axes apart. In the gather it costs least,
        # and noise wants it before; but differences lose less if it comes after them.
        self._matrix_first = options.stream == "j" or "6" in options.aug_method

    def item(self, clips: Clips) -> tuple[int, ...]:
        """(3, W, 24 or 25, M)."""
        return 3, self.options.window, self._joint.shape[1], clips.max_people

    def accept(self, clips: Clips) -> None:
        """Joint order, mirror and bones are those of Kinect v2; people are exchanged in pairs."""
        contract.check_joints(clips, self.name, NTU25)
        if clips.max_people > 2:
            raise UsageError(
                f"the clips have up to {clips.max_people} people",
                where=f"pipeline {self.name}",
                expected="clips of one or two people",
                next_step="use the pipeline ctrgcn_ntu, which takes any number",
            )

    def draw(
        self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0
    ) -> SkateformerNtuDraws:
        """Frames, operations and partners; see `skateformer_plan`."""
        return draw(self.options, clips, index, seed=seed, epoch=epoch, repeat_number=repeat_number, partners=self._partners)

    def test_draws(self, clips: Clips, index: np.ndarray) -> SkateformerNtuDraws:
        """The fixed choices of the test."""
        return unaugmented(fixed_frames(self.options, clips.valid[index], self.options.test_p_interval[0]))

    def positions(self, clips: Clips, index: np.ndarray, draws: SkateformerNtuDraws | None) -> np.ndarray:
        """index_t, (B, W) float32: -1 for the first frame of a clip to 1 for the frame after its last."""
        draws = self.test_draws(clips, index) if draws is None else draws
        positions = frame_positions(draws.frames, clips.valid[index])
        positions[draws.reverse] *= -1
        return positions

    def train(self, clips: Clips, index: np.ndarray, draws: SkateformerNtuDraws, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, *item) as `draws` say."""
        frames, shown = draws.frames, _places(clips, index, draws)
        if draws.reverse.any():
            frames = reversed_frames(frames, draws.reverse)
        matrices = draws.matrix if (draws.matrix != IDENTITY).any() else None
        parts = self._gathered(clips, index, draws, frames, shown, matrices=matrices if self._matrix_first else None)
        _add_noise(parts, draws, shown, clips.max_people)
        _blur(parts, draws, shown)
        _drop_joints(parts, draws, shown)
        streamed = self._stream(parts, draws.mirror[shown.who])
        if matrices is not None and not self._matrix_first:
            streamed = transform(streamed, torch.from_numpy(matrices[shown.who]).to(streamed.device))
        return lay_out(streamed, shown, contract.room((len(index), *self.item(clips)), clips, out))

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, *item) of a fixed window of each clip."""
        return self.train(clips, index, self.test_draws(clips, index), out)

    def _gathered(
        self,
        clips: Clips,
        index: np.ndarray,
        draws: SkateformerNtuDraws,
        frames: Frames,
        shown: Present,
        *,
        matrices: np.ndarray | None,
    ) -> torch.Tensor:
        """Channels (P, 3, W, V) of the places `shown`, with the partners' bone lengths where a clip has a partner."""
        mixed = np.flatnonzero(draws.partner >= 0)
        if len(mixed) == 0:
            return channels(clips, shown, frames, matrices)
        # The partners are gathered with the clips, as further clips of the batch; each of their people beside its counterpart.
        partner = draws.partner[mixed]
        number_of = np.full(len(index), -1)
        number_of[mixed] = np.arange(len(mixed))
        rows = np.flatnonzero(draws.partner[shown.who] >= 0)
        which, person = number_of[shown.who[rows]], shown.person[rows]
        there = np.where(person < clips.people[partner[which]], clips.extent[partner[which]], 0)
        everyone = Present(
            np.concatenate([shown.who, len(index) + which]),
            np.concatenate([shown.person, person]),
            np.concatenate([shown.base, clips.person_start(partner[which], person)]),
            np.concatenate([shown.extent, there.astype(np.int64)]),
        )
        if matrices is not None:
            matrices = np.concatenate([matrices, np.broadcast_to(IDENTITY, (len(mixed), 3, 3))])
        parts = channels(clips, everyone, _followed_by(frames, draws.partner_frames[mixed]), matrices)
        parts, reference = parts[: len(shown.who)], parts[len(shown.who) :]
        place = torch.from_numpy(rows).to(parts.device)
        moved = transfer_bone_lengths(parts.index_select(0, place), reference, NTU25.bone_table(MODEL), ROOT)
        return parts.index_copy_(0, place, moved)

    def _stream(self, parts: torch.Tensor, mirror: np.ndarray) -> torch.Tensor:
        """The stream of the joints asked for: (P, 3, W, V) -> (P, 3, W, K), left and right exchanged where `mirror` (P,)."""
        which = torch.from_numpy(mirror.astype(np.int64))
        shape = (*parts.shape[:3], self._joint.shape[1])

        def at(table: torch.Tensor, purpose: str) -> torch.Tensor:
            picked = table[which].to(parts.device)[:, None, None].expand(shape)
            return torch.gather(parts, -1, picked, out=scratch(purpose, shape, parts.device))

        streamed = at(self._joint, "skateformer_joints")
        if self.options.stream.startswith("b"):
            streamed.sub_(at(self._parent, "skateformer_parents"))
        return motion(streamed) if self.options.stream.endswith("m") else streamed


def _followed_by(frames: Frames, number: np.ndarray) -> Frames:
    """The frames, and after them windows of single frames `number` (R, W)."""
    assert frames.weight is not None
    single = np.broadcast_to(np.array([0, 1], np.float32), (*number.shape, 2))
    return Frames(
        np.concatenate([frames.number, np.stack([number, number], axis=-1)]), np.concatenate([frames.weight, single])
    )  # fmt: skip


def _places(clips: Clips, index: np.ndarray, draws: SkateformerNtuDraws) -> Present:
    """Who is shown where: `person` is the place in the batch, `base` and `extent` are those of the person shown there.

    The second place of a clip is left out, and stays zero, if nothing comes there: it has one person, people are not swapped,
    the partner has no second person, and there is no noise.
    """
    people = clips.people[index]
    first, second = np.arange(len(index)), np.zeros(0, dtype=np.int64)
    if clips.max_people > 1:
        partner = np.where(draws.partner >= 0, clips.people[draws.partner], 0)
        second = np.flatnonzero((people > 1) | draws.swap | (partner > 1) | (draws.noise >= 0))
    who = np.concatenate([first, second])
    place = np.repeat([0, 1], [len(first), len(second)])
    person = place ^ draws.swap[who]
    there = (person < people[who]) & ~(draws.clear[who] & (place == 0))
    extent = np.where(there, clips.extent[index[who]], 0).astype(np.int64)
    return Present(who, place, clips.person_start(index[who], person), extent)


def _add_noise(parts: torch.Tensor, draws: SkateformerNtuDraws, shown: Present, people: int) -> None:
    """Adds noise in place; an axis that is dropped has none."""
    rows = np.flatnonzero(draws.noise[shown.who] >= 0)
    if len(rows) == 0:
        return
    clip = np.unique(shown.who[rows])
    noise = gaussian_noise(draws.noise[clip], (people, *parts.shape[1:]))
    noise *= draws.matrix[clip].any(axis=2)[:, None, :, None, None]
    noise = noise[np.searchsorted(clip, shown.who[rows]), shown.person[rows]]
    parts.index_add_(0, torch.from_numpy(rows).to(parts.device), torch.from_numpy(noise).to(parts.device))


def _blur(parts: torch.Tensor, draws: SkateformerNtuDraws, shown: Present) -> None:
    """Blurs in place."""
    rows = np.flatnonzero(draws.sigma[shown.who] > 0)
    if len(rows):
        place = torch.from_numpy(rows).to(parts.device)
        parts.index_copy_(0, place, blur(parts.index_select(0, place), draws.sigma[shown.who[rows]]))


def _drop_joints(parts: torch.Tensor, draws: SkateformerNtuDraws, shown: Present) -> None:
    """Sets the dropped joints to zero in the dropped frames, in place; `parts` are not mirrored yet."""
    rows = np.flatnonzero(np.any(draws.dropped_joints[shown.who], axis=1))
    if len(rows) == 0:
        return
    clip = shown.who[rows]
    joints = draws.dropped_joints[clip]
    joints = np.where(draws.mirror[clip, None], joints[:, list(NTU25.mirror)], joints)
    kept = ~(draws.dropped_frames[clip][:, None, :, None] & joints[:, None, None, :])
    place = torch.from_numpy(rows).to(parts.device)
    mask = torch.from_numpy(kept.astype(np.float32)).to(parts.device)
    parts.index_copy_(0, place, parts.index_select(0, place).mul_(mask))
