"""Views: one clip shown K times, each time cropped and changed in its own way, for learning without labels.

What may happen to a view is the same for all readers; which of it happens, and how often, is each reader's own (`isc`, `scdnet`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared_data.batches.augment import stream_of
from shared_data.batches.frames import MOST_JOINTS, crop_resize, random_crop
from shared_data.batches.gather import channels, lay_out, present_people
from shared_data.batches.kernel import VIEWS, Kernel, fused
from shared_data.batches.memory import scratch
from shared_data.batches.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.clips import Clips
from shared_data.pipelines import contract
from shared_data.pipelines.selfsupervised import REPRESENTATIONS, check_representation, ratio_of
from shared_data.skeletons import Skeleton, skeleton

CROP_NUMBERS = 2  # the first uniform numbers of every view
VIEWS_AT_ONCE = 128


@dataclass(frozen=True)
class Views:
    """What chance decided for K views of B clips, in the order in which it is done.

    start, length  (B, K) int64       the crop, resized to W frames; then bones or motion, if asked for
    swapped        (B, K) bool        left and right joints exchange names; coordinates are not mirrored
    matrix         (B, K, 3, 3)       x' = matrix x
    other          (B, K, 3, 3)       the matrix of the `chosen` joints instead; all zero sets them to 0
    chosen         (B, K, V) bool     joints, in all frames and of both people
    hidden         (B, K, W) bool     frames set to 0
    """

    start: np.ndarray
    length: np.ndarray
    swapped: np.ndarray
    matrix: np.ndarray
    other: np.ndarray
    chosen: np.ndarray
    hidden: np.ndarray


@dataclass(frozen=True)
class ViewOptions:
    """Options of the readers of views; the defaults are the official ones.

    views           K; None stands for the reader's own number
    ratio           (low, high) share of a clip's stored frames that a view keeps; at least 64 frames, or all there are
    window          frames of a view
    representation  joint, motion or bone; only SCD-Net's reader knows others than joint
    skeleton        layout of the clips
    """

    views: int | None = None
    ratio: tuple[float, ...] = (0.1, 1.0)
    window: int = 64
    representation: str = "joint"
    skeleton: str = "ntu25"

    def __post_init__(self) -> None:
        ok = self.views is None or (isinstance(self.views, int) and not isinstance(self.views, bool) and self.views >= 1)
        contract.check(ok, "views", self.views, "a whole number from 1 on")
        object.__setattr__(self, "ratio", ratio_of("ratio", self.ratio, (2,)))
        contract.check_window(self.window, 100_000)
        check_representation(self.representation)
        skeleton(self.skeleton)


Change = Callable[[Views, np.ndarray, Skeleton], Views]


def only_cropped(start: np.ndarray, length: np.ndarray, joints: int, window: int) -> Views:
    """Views with these crops (B, K) to which nothing else happens."""
    shape = start.shape
    still = np.broadcast_to(np.eye(3), (*shape, 3, 3))
    swapped, chosen, hidden = (np.zeros((*shape, *more), dtype=bool) for more in ((), (joints,), (window,)))
    return Views(start, length, swapped, still.copy(), still.copy(), chosen, hidden)


def make_views(
    clips: Clips, index: np.ndarray, views: Views, representation: str, layout: Skeleton, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, K, 3, W, V, M) as `views` say, in `out` if given."""
    batch, count = views.start.shape
    result = contract.room((batch, count, 3, views.hidden.shape[-1], clips.joints, clips.max_people), clips, out)
    fit = clips.joints == layout.joints == views.chosen.shape[-1] <= MOST_JOINTS
    kernel = fused(clips.rows, VIEWS) if fit and representation == "joint" and clips.table is None else None
    if kernel is not None:
        _make_at_once(kernel, clips, index, views, result, layout=layout)
        return result
    # All that a large batch of views passes through would not fit into a core's cache, and take twice the time.
    step = max(1, VIEWS_AT_ONCE // count) if clips.table is None else batch
    for begin in range(0, batch, step):
        rows = slice(begin, begin + step)
        _make_some(clips, index[rows], contract.rows_of(views, rows), result[rows], representation=representation, layout=layout)
    return result


def _make_at_once(kernel: Kernel, clips: Clips, index: np.ndarray, views: Views, out: torch.Tensor, *, layout: Skeleton) -> None:
    """What `_make_some` does for joints, by the compiled kernel."""
    count, window = views.start.shape[1], views.hidden.shape[-1]
    shown, person = np.repeat(index, count), np.arange(clips.max_people)
    base = np.where(person < clips.people[shown, None], clips.person_start(shown[:, None], person), -1)
    frames = crop_resize(views.start.reshape(-1), views.length.reshape(-1), window)
    kernel(
        clips.rows.reshape(len(clips.rows), -1), clips.zero, clips.frame_step, base, clips.extent[shown].astype(np.int64),
        frames.number, frames.weight,
        np.ascontiguousarray(views.swapped.reshape(-1)), np.array(layout.mirror), joint_matrices(views),
        np.ascontiguousarray(views.hidden.reshape(-1, window)),
        out.view(len(shown), 3, window, clips.joints * clips.max_people).numpy(),
    )  # fmt: skip


def _make_some(
    clips: Clips, index: np.ndarray, views: Views, out: torch.Tensor, *, representation: str, layout: Skeleton
) -> None:
    present = present_people(clips, np.repeat(index, views.start.shape[1]))
    frames = crop_resize(views.start.reshape(-1), views.length.reshape(-1), views.hidden.shape[-1])
    parts = stream_of(channels(clips, present, frames), REPRESENTATIONS[representation], layout.bones)
    device, who = parts.device, present.who
    if views.swapped.any():
        rows = torch.from_numpy(np.flatnonzero(views.swapped.reshape(-1)[who])).to(device)
        parts = swap_sides(parts, rows, torch.tensor(layout.mirror, device=device))
    parts = transform_joints(parts, torch.from_numpy(joint_matrices(views)[who]).to(device))
    if views.hidden.any():
        person, frame = np.nonzero(views.hidden.reshape(len(frames.number), -1)[who])
        lines = (3 * person[:, None] + np.arange(3)) * parts.shape[2] + frame[:, None]
        parts.view(-1, parts.shape[-1]).index_fill_(0, torch.from_numpy(lines.reshape(-1)).to(device), 0)
    lay_out(parts, present, out.flatten(0, 1))


def joint_matrices(views: Views) -> np.ndarray:
    """The matrix of each joint of each view, (B K, 3, 3, V) float32."""
    matrix, other = (m.reshape(-1, 3, 3, 1).astype(np.float32) for m in (views.matrix, views.other))
    chosen = views.chosen.reshape(len(matrix), 1, 1, -1)
    result: np.ndarray = np.where(chosen, other, matrix)
    return result


def transform_joints(parts: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """x' = matrix x with a matrix for each joint: (P, 3, W, V) and (P, 3, 3, V) -> (P, 3, W, V), in memory used again.

    For whatever is done to joints: shear, rotation, corruption, masking. Each product and each sum is rounded: torch's fused
    addcmul_ saves a twentieth of the time, but rounds once or twice depending on the processor.
    """
    people, _, window, joints = parts.shape
    together = math.gcd(window, 4)  # frames: longer runs of numbers for the vector unit
    shape = (people, 3, window // together, together * joints)
    result = scratch("transformed joints", tuple(parts.shape), parts.device)
    term = scratch("term of transformed joints", shape, parts.device)
    source, target, factors = parts.view(shape), result.view(shape), matrices.repeat(1, 1, 1, together)[:, :, :, None]
    torch.mul(factors[:, :, 0], source[:, 0:1], out=target)
    for axis in (1, 2):
        torch.mul(factors[:, :, axis], source[:, axis : axis + 1], out=term)
        target.add_(term)
    return result


def swap_sides(parts: torch.Tensor, rows: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """`parts` (P, 3, W, V), changed in place: the joints of the people `rows` in another `order` (V,)."""
    some = parts.index_select(0, rows)
    return parts.index_copy_(0, rows, some.gather(-1, order.expand(some.shape)))


class ViewPipeline:
    """A pipeline (see `contract.Pipeline`) whose training items are K views, (K, 3, W, V, M).

    numbers  uniform numbers per view after those of the crop: the same count whatever the options
    change   (views that are only cropped, numbers (B, K, numbers), layout) -> views to which something happens
    """

    def __init__(self, name: str, options: ViewOptions, views: int, numbers: int, change: Change) -> None:
        self.name, self.options = name, options
        self.views = views if options.views is None else options.views
        self.layout = skeleton(options.skeleton)
        self._numbers, self._change = CROP_NUMBERS + numbers, change

    def item(self, clips: Clips) -> tuple[int, ...]:
        """(K, 3, W, V, M)."""
        return self.views, 3, self.options.window, clips.joints, clips.max_people

    def accept(self, clips: Clips) -> None:
        """The joints must be those of the layout."""
        contract.check_joints(clips, self.name, self.layout)

    def draw(self, clips: Clips, index: np.ndarray, seed: int, epoch: int, repeat_number: np.ndarray | int = 0) -> Views:
        """Each view has its own numbers. Frames are counted as stored: an empty frame inside a clip counts."""
        u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, self.views * self._numbers)
        extent = np.repeat(clips.extent[index], self.views)
        low, high = self.options.ratio
        crop = random_crop(extent, low, high, u.reshape(len(extent), -1)[:, :CROP_NUMBERS])
        start, length = (part.reshape(len(index), self.views) for part in crop)
        numbers = u.reshape(len(index), self.views, self._numbers)[..., CROP_NUMBERS:]
        return self._change(only_cropped(start, length, clips.joints, self.options.window), numbers, self.layout)

    def train(self, clips: Clips, index: np.ndarray, draws: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, K, 3, W, V, M) as `draws`, which are `Views`, say."""
        return make_views(clips, index, draws, self.options.representation, self.layout, out=out)

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        """(B, K, 3, W, V, M): the whole clip, K times. Officially test clips are read by the downstream readers only."""
        length = np.repeat(clips.extent[index].astype(np.int64), self.views).reshape(len(index), -1)
        views = only_cropped(np.zeros_like(length), length, clips.joints, self.options.window)
        return make_views(clips, index, views, self.options.representation, self.layout, out=out)
