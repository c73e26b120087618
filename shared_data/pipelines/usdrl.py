"""USDRL's readers (``specs/usdrl_segmentation.md`` 3 to 5): four views of a clip, whole clips, and clips for action detection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shared_data.batches.frames import NOTHING, Frames, crop_resize
from shared_data.batches.gather import channels, lay_out, present_people
from shared_data.batches.randomness import AUGMENTATION, sample_keys, uniforms
from shared_data.clips import Clips
from shared_data.errors import UsageError
from shared_data.pipelines import contract, isc
from shared_data.pipelines.downstream import Downstream, DownstreamOptions
from shared_data.pipelines.views import ViewOptions, ViewPipeline

LEAST_BACKGROUND, MOST_BACKGROUND, MOST_FRONT = 0.5, 0.6, 0.5  # shares of a detection clip
SPARE = 10  # frames that a segment must have beyond the action part to be cut out


def usdrl_pretrain(options: ViewOptions) -> ViewPipeline:
    """Pipeline `usdrl_pretrain`: four views, changed as Skeleton-Contrastive's are."""
    return isc.pretrain("usdrl_pretrain", options, views=4)


def usdrl_downstream(options: DownstreamOptions) -> Downstream:
    """Pipeline `usdrl_downstream`: whole clips."""
    return Downstream("usdrl_downstream", options, ratio=(1.0,), test_ratio=(1.0,), random_from=0.1)


@dataclass(frozen=True)
class DetectionDraws:
    """What chance decided for B detection clips, all (B,) int64.

    front, back    frames of background before and after the action part
    start, length  what is resized to the action part
    """

    front: np.ndarray
    back: np.ndarray
    start: np.ndarray
    length: np.ndarray


def draw_detection(
    clips: Clips,
    index: np.ndarray,
    segments: np.ndarray,
    *,
    seed: int,
    epoch: int,
    repeat_number: np.ndarray | int = 0,
    window: int = 64,
) -> DetectionDraws:
    """Draws for clips around `segments` (B, 3) of class, first frame and frame after the last, in the sequences at `index`."""
    u = uniforms(seed, epoch, sample_keys(index, repeat_number), AUGMENTATION, 4)
    share = LEAST_BACKGROUND + u[:, 0] * (MOST_BACKGROUND - LEAST_BACKGROUND)
    front, back = background(share, u[:, 1] * MOST_FRONT, window)
    action = window - front - back
    first, end = segments[:, 1].astype(np.int64), segments[:, 2].astype(np.int64)
    centre, half = (first + end) // 2, action // 2
    # Bounds on both sides of the middle `action` frames; ranges that hold nothing belong to segments too short to be cut.
    left = first + (u[:, 2] * (centre - half - first)).astype(np.int64)
    right = centre + half + 1 + (u[:, 3] * (end - centre - half - 1)).astype(np.int64)
    return detection_draws(clips, index, segments, (front, back), (left, right), window=window)


def background(share: np.ndarray, front_share: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of background in front and behind, int64, of those `window` x `share`."""
    frames, front = (window * share).astype(np.int64), (window * front_share).astype(np.int64)
    return front, frames - front


def detection_draws(
    clips: Clips,
    index: np.ndarray,
    segments: np.ndarray,
    around: tuple[np.ndarray, np.ndarray],
    bounds: tuple[np.ndarray, np.ndarray],
    *,
    window: int = 64,
) -> DetectionDraws:
    """The draws with these frames `around` the action part and these `bounds` inside long segments.

    The place of a short segment, of at most `SPARE` frames more than the action part, takes the whole sequence, padding included.
    That looks like a mistake of the official reader, but published figures come from it.
    """
    (front, back), (left, right) = around, bounds
    long = segments[:, 2] - segments[:, 1] > window - front - back + SPARE
    whole = clips.extent[index] if clips.frames is None else clips.frames
    return DetectionDraws(front, back, np.where(long, left, 0), np.where(long, right - left, whole).astype(np.int64))


def detection_clips(
    clips: Clips, index: np.ndarray, segments: np.ndarray, frame_labels: np.ndarray, draws: DetectionDraws, *, window: int = 64
) -> tuple[torch.Tensor, np.ndarray]:
    """Clips (B, 3, W, V, M) and a label per frame (B, W) int64: background, action, background.

    frame_labels  (B, T) int64 of the sequences' own frames, for the background around the segment: other actions may lie there.
                  Before the first and after the last frame of a sequence that frame is repeated, with its label
    Raises `UsageError` for sequences with more frames than labels.
    """
    if len(index) and int(clips.extent[index].max()) > frame_labels.shape[1]:
        raise UsageError(
            f"{frame_labels.shape[1]} labels for sequences of up to {clips.extent[index].max()} frames",
            where="detection clips",
            expected="a label for every frame",
        )
    frames, shown = _detection_frames(segments, clips.extent[index].astype(np.int64), draws, window)
    labels = np.where(shown == NOTHING, segments[:, :1], np.take_along_axis(frame_labels, np.maximum(shown, 0), axis=1))
    present = present_people(clips, index)
    batch = contract.room((len(index), 3, window, clips.joints, clips.max_people), clips, None)
    return lay_out(channels(clips, present, frames), present, batch), labels.astype(np.int64)


def _detection_frames(segments: np.ndarray, extent: np.ndarray, draws: DetectionDraws, window: int) -> tuple[Frames, np.ndarray]:
    """The frames shown, and for each the frame (B, W) that gives the label: `NOTHING` in the action part."""
    place = np.arange(window)
    after = place - (window - draws.back)[:, None]  # frames behind the action part
    before = place - draws.front[:, None]  # frames into the action part, negative before it
    shown = np.where(after >= 0, segments[:, 2:] + after, segments[:, 1:2] + before)
    shown = np.clip(shown, 0, np.maximum(extent - 1, 0)[:, None])
    number = np.stack([shown, shown], axis=-1)
    weight = np.zeros((len(shown), window, 2), np.float32)
    weight[..., 1] = 1
    inside = (before >= 0) & (after < 0)
    action = inside.sum(1)
    for frames in np.unique(action):  # there are but a few sizes
        rows = np.flatnonzero(action == frames)
        part = crop_resize(draws.start[rows], draws.length[rows], int(frames))
        where = np.nonzero(inside[rows])
        number[rows[where[0]], where[1]] = part.number.reshape(-1, 2)
        weight[rows[where[0]], where[1]] = part.weight.reshape(-1, 2)  # type: ignore[union-attr]
    shown[inside] = NOTHING
    return Frames(number, weight), shown
