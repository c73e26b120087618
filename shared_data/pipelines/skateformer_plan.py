"""What SkateFormer's NTU reader decides by chance: its options, and the draws that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shared_data.batches.frames import Frames, centre_crop, crop_resize, random_crop, random_subset, spread_frames
from shared_data.batches.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.clips import Clips
from shared_data.pipelines import contract
from shared_data.pipelines.ntu import NtuOptions
from shared_data.pipelines.skateformer_augment import combined
from shared_data.pipelines.skateformer_sampling import (
    even_frames,
    fixed_span,
    frame_positions,
    numbers_for,
    same_places,
    thirds,
    window_frames,
)
from shared_data.skeletons import NTU25

LETTERS = "ab123456789"
IDENTITY = np.eye(3, dtype=np.float32)
_FIXED = 32  # uniform numbers of a clip whatever its joints and window
_DROPPED_JOINTS = (5, 15)  # how many, ends included
_DROPPED_FRAMES = (16, 32)


@dataclass(frozen=True)
class SkateformerNtuOptions:
    """Options of `skateformer_ntu`; the defaults are the official recipe, with its names.

    stream           j, b, jm or bm
    window           frames of a batch
    p_interval       share of the valid frames that training keeps: (low, high), or (p,) for the fixed window of a test
    test_p_interval  the same at test time, where nothing is random: (p,)
    thres            fewest frames a crop keeps, if the clip has as many
    uniform          pick single frames where the crop reaches the window; False: resize every crop
    partition        24 joints ordered by body part; False: the 25 joints as they are
    aug_method       operations of the intra chain, each with probability 1/2: a swap people, b clear one of two people,
                     1 shear, 2 rotate, 3 scale, 4 exchange left and right, 5 reverse time, 6 noise, 7 blur, 8 drop an axis,
                     9 drop joints
    intra_p          probability of the intra chain
    inter_p          probability of bone lengths taken from another clip of the class instead
    """

    stream: str = "j"
    window: int = 64
    p_interval: tuple[float, ...] = (0.5, 1.0)
    test_p_interval: tuple[float, ...] = (0.95,)
    thres: int = 64
    uniform: bool = True
    partition: bool = True
    aug_method: str = "a123489"
    intra_p: float = 0.5
    inter_p: float = 0.2

    def __post_init__(self) -> None:
        # Stream, window and intervals mean what they mean to CTR-GCN's reader.
        crop = NtuOptions(self.stream, self.window, self.p_interval, self.test_p_interval)
        object.__setattr__(self, "p_interval", crop.p_interval)
        object.__setattr__(self, "test_p_interval", crop.test_p_interval)
        whole = isinstance(self.thres, int) and not isinstance(self.thres, bool)
        contract.check(whole and self.thres >= 1, "thres", self.thres, "a whole number of frames, 1 or more")
        for name in ("uniform", "partition"):
            contract.check(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        text = str(self.aug_method)  # YAML reads 123489 as a number
        known = not isinstance(self.aug_method, bool) and set(text) <= set(LETTERS)
        contract.check(known, "aug_method", self.aug_method, f"some of the letters {LETTERS}, such as a123489")
        object.__setattr__(self, "aug_method", text)
        for name in ("intra_p", "inter_p"):
            p = getattr(self, name)
            contract.check(contract.is_number(p) and 0 <= p <= 1, name, p, "a probability, 0 to 1")


@dataclass(frozen=True)
class SkateformerNtuDraws:
    """What chance decided for B clips.

    number, weight   (B, W, 2)          frames shown, int64 and float32, see `frames.Frames`
    swap             (B,) bool          the two people exchanged
    clear            (B,) bool          the first of two people, after `swap`, set to zero
    matrix           (B, 3, 3) float32  shear, rotation, scale and dropped axis in one: x' = matrix x
    mirror           (B,) bool          left and right joints exchanged, coordinates as they are
    reverse          (B,) bool          frames in reverse order; their positions get the other sign, but stay in order
    noise            (B,) int64         key of the noise added, -1 for none; only where the options have the letter 6
    sigma            (B,) float64       of the blur, in frames; 0 for none
    dropped_joints   (B, V) bool        these joints, after `mirror`, are zero in ...
    dropped_frames   (B, W) bool        ... these frames of the window; none where nothing is dropped
    partner          (B,) int64         position of the clip whose bone lengths are used, -1 for none
    partner_frames   (B, W) int64       its frames that are used; of no meaning without a partner
    """

    number: np.ndarray
    weight: np.ndarray
    swap: np.ndarray
    clear: np.ndarray
    matrix: np.ndarray
    mirror: np.ndarray
    reverse: np.ndarray
    noise: np.ndarray
    sigma: np.ndarray
    dropped_joints: np.ndarray
    dropped_frames: np.ndarray
    partner: np.ndarray
    partner_frames: np.ndarray

    @property
    def frames(self) -> Frames:
        """Which frames are shown, before any is `reverse`d."""
        return Frames(self.number, self.weight)


def unaugmented(frames: Frames) -> SkateformerNtuDraws:
    """Draws that only choose frames."""
    count, window = frames.number.shape[:2]
    no, none, still = np.zeros(count, dtype=bool), np.full(count, -1), np.zeros(count)
    assert frames.weight is not None
    return SkateformerNtuDraws(
        number=frames.number,
        weight=frames.weight,
        swap=no,
        clear=no,
        matrix=np.broadcast_to(IDENTITY, (count, 3, 3)),
        mirror=no,
        reverse=no,
        noise=none,
        sigma=still,
        dropped_joints=np.zeros((count, NTU25.joints), dtype=bool),
        dropped_frames=np.zeros((count, window), dtype=bool),
        partner=none,
        partner_frames=np.zeros((count, window), dtype=np.int64),
    )


def fixed_frames(options: SkateformerNtuOptions, valid: np.ndarray, p: float) -> Frames:
    """The fixed window of a test that keeps the share `p` of the `valid` (B,) frames."""
    if not options.uniform:
        return crop_resize(*centre_crop(valid, p), options.window)
    start, length = fixed_span(valid, p, options.thres)
    return window_frames(start, length, even_frames(length, options.window))


class Partners:
    """For each clip a random one of its class, possibly itself. Remembers the order of the labels asked for last."""

    def __init__(self) -> None:
        self._sorted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def of(self, labels: np.ndarray, index: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Positions (R,) int64 for the clips at `index` (R,) of a split with these `labels`, from uniform numbers `u` (R,)."""
        known = self._sorted
        if known is None or known[0] is not labels:
            order = np.argsort(labels, kind="stable")
            self._sorted = known = labels, order, labels[order]
        _, order, in_order = known
        first, after = (np.searchsorted(in_order, labels[index], side) for side in ("left", "right"))
        chosen: np.ndarray = order[first + (u * (after - first)).astype(np.int64)]
        return chosen


def draw(
    options: SkateformerNtuOptions,
    clips: Clips,
    index: np.ndarray,
    *,
    seed: int,
    epoch: int,
    repeat_number: np.ndarray | int,
    partners: Partners,
) -> SkateformerNtuDraws:
    """One list of uniform numbers per clip, of the same length and meaning whatever the options but the window."""
    window, joints = options.window, NTU25.joints
    parts = np.cumsum([_FIXED, numbers_for(joints), numbers_for(window), numbers_for(window + 1)])
    u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, int(parts[-1]))
    fixed, of_joints, of_frames, of_picked = np.split(u, parts[:-1], axis=1)
    frames = _frames(options, clips.valid[index], fixed[:, :2], of_picked)
    plain = unaugmented(frames)

    chain, mix = options.intra_p, options.intra_p + options.inter_p
    intra, inter = fixed[:, 2] < chain, (fixed[:, 2] >= chain) & (fixed[:, 2] < mix)

    def applied(letter: str, number: int) -> np.ndarray:
        return intra & (fixed[:, number] < 0.5) if letter in options.aug_method else np.zeros(len(index), dtype=bool)

    partner, dropped_joints, dropped_frames = plain.partner, plain.dropped_joints, plain.dropped_frames
    mixed = np.flatnonzero(inter)
    partner[mixed] = partners.of(clips.labels, index[mixed], fixed[mixed, 3])
    there = clips.valid[partner[mixed]]
    plain.partner_frames[mixed] = same_places(frame_positions(frames[mixed], clips.valid[index[mixed]]), there)
    rows = np.flatnonzero(applied("9", 28))
    count = np.minimum(_between(_DROPPED_JOINTS, fixed[rows, 29]), joints)
    dropped_joints[rows] = random_subset(thirds(of_joints[rows], joints), count)
    count = np.minimum(_between(_DROPPED_FRAMES, fixed[rows, 30]), window)
    dropped_frames[rows] = random_subset(thirds(of_frames[rows], window), count)
    return replace(
        plain,
        swap=applied("a", 4) & (clips.max_people == 2),
        clear=applied("b", 5) & (clips.people[index] == 2),
        matrix=combined(
            shear=(fixed[:, 7:13] - 0.5) * applied("1", 6)[:, None],
            axis=_between((0, 2), fixed[:, 14]),
            degrees=(fixed[:, 15] * 60 - 30) * applied("2", 13),
            factors=1 + (0.4 * fixed[:, 17:20] - 0.2) * applied("3", 16)[:, None],
            dropped_axis=np.where(applied("8", 26), _between((0, 2), fixed[:, 27]), -1),
        ),
        mirror=applied("4", 20),
        reverse=applied("5", 21),
        noise=np.where(applied("6", 22), (fixed[:, 31] * 2.0**53).astype(np.int64), -1),
        sigma=np.where(applied("7", 23), 0.1 + 1.9 * fixed[:, 24], 0),
    )


def _frames(options: SkateformerNtuOptions, valid: np.ndarray, u: np.ndarray, of_picked: np.ndarray) -> Frames:
    """The frames of training clips, from two uniform numbers each for the crop and some for the frames in it."""
    interval, window = options.p_interval, options.window
    if len(interval) == 1:
        return fixed_frames(options, valid, interval[0])
    start, length = random_crop(valid, interval[0], interval[1], u, options.thres)
    if not options.uniform:
        return crop_resize(start, length, window)
    return window_frames(start, length, spread_frames(length, window, thirds(of_picked, window + 1)))


def _between(ends: tuple[int, int], u: np.ndarray) -> np.ndarray:
    """A whole number between two, ends included, for each uniform number."""
    low, high = ends
    number: np.ndarray = low + (u * (high - low + 1)).astype(np.int64)
    return number
