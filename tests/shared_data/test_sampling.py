"""Crop rules, resizing with torch's bits, gathering from ragged rows, frame choices."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_data.clips import Clips
from shared_data.formats.ragged import RaggedBuilder, in_memory
from shared_data.sampling import (
    blend_exact,
    centre_crop,
    crop_length,
    evenly_spaced,
    frames_from_copies,
    fused_kernel_is_exact,
    lay_out,
    present_people,
    random_crop,
    resample,
    resize_plan,
)

WINDOWS = (52, 64, 100, 120)


def ragged(padded: np.ndarray) -> Clips:
    """`padded` (N, T, M, V, 3) as clips."""
    _, frames, people, joints, _ = padded.shape
    dtype = padded.dtype
    builder = RaggedBuilder(in_memory("train", joints, dtype), joints=joints, max_people=people, dtype=dtype)
    builder.add(padded)
    ids = np.array([f"train_{i}" for i in range(len(padded))])
    return builder.finish(np.arange(len(padded)) % 3, ids, frames=frames)


def made_clips(lengths: list[int], people: list[int], *, frames: int = 300, joints: int = 25, seed: int = 0) -> np.ndarray:
    """Padded (N, frames, 2, joints, 3) float32 of any value, no two alike."""
    padded = np.zeros((len(lengths), frames, 2, joints, 3), dtype=np.float32)
    rng = np.random.default_rng(seed)
    for n, (length, count) in enumerate(zip(lengths, people, strict=True)):
        padded[n, :length, :count] = rng.standard_normal((length, count, joints, 3))
    return padded


def torch_resize(clip: np.ndarray, window: int) -> np.ndarray:
    """(L, ...) -> (window, ...) the way the official reader does it: a bilinear resize whose first axis does not change."""
    columns = torch.from_numpy(np.ascontiguousarray(clip.reshape(len(clip), -1).T))[None, None]
    resized = torch.nn.functional.interpolate(columns, size=(columns.shape[2], window), mode="bilinear", align_corners=False)
    return resized[0, 0].numpy().T.reshape(window, *clip.shape[1:])


def whole(clips: Clips, window: int) -> np.ndarray:
    """Every clip's valid frames at `window` frames: (N, window, M, V, 3)."""
    index = np.arange(len(clips))
    present = present_people(clips, index)
    parts = resample(clips, present, np.zeros(len(clips), np.int64), clips.valid[index].astype(np.int64), window)
    out = np.empty((len(clips), 3, window, clips.joints, clips.max_people), dtype=np.float32)
    lay_out(np.ascontiguousarray(parts.transpose(0, 3, 1, 2)), present, out)
    return out.transpose(0, 2, 4, 3, 1)


@pytest.mark.parametrize("window", WINDOWS)
def test_every_length_has_the_bits_of_torchs_interpolation(window: int) -> None:
    """Bit for bit where the processor has fused multiply-adds (torch's own last bit differs elsewhere), 1e-6 always."""
    lengths = list(range(1, 301))
    padded = made_clips(lengths, [1] * 300, joints=6)
    ours = whole(ragged(padded), window)
    official = np.stack([torch_resize(clip[:length], window) for clip, length in zip(padded, lengths, strict=True)])
    assert np.abs(ours - official).max() <= 1e-6
    if fused_kernel_is_exact(6 * 3):
        np.testing.assert_array_equal(ours, official)


def test_the_slow_and_the_fast_blend_have_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((200, 75)).astype(np.float32)
    frames, weights = resize_plan(np.arange(1, 150), 64)
    pairs, scale = frames.reshape(-1, 2), weights.reshape(-1, 2)
    exact = blend_exact(rows, pairs, scale)
    plain = rows[pairs[:, 0]].astype(np.float64) * scale[:, :1] + rows[pairs[:, 1]].astype(np.float64) * scale[:, 1:]
    assert 0 < np.abs(exact - plain).max() <= 1e-6
    clips = ragged(made_clips([90, 300], [2, 1]))
    doubled = dataclasses.replace(clips, rows=clips.rows.astype(np.float64))  # float64 rows take the slow way
    np.testing.assert_allclose(whole(doubled, 64), whole(clips, 64), rtol=0, atol=1e-6)
    if fused_kernel_is_exact(75):
        np.testing.assert_array_equal(whole(doubled, 64), whole(clips, 64))


def test_a_clip_of_window_length_is_unchanged_and_weights_add_up() -> None:
    padded = made_clips([64], [2])
    np.testing.assert_array_equal(whole(ragged(padded), 64), padded[:, :64])
    _, weights = resize_plan(np.arange(1, 1000), 64)
    np.testing.assert_array_equal(weights.sum(-1), np.ones((999, 64), np.float32))


def test_lengths_beyond_the_table() -> None:
    padded = made_clips([2000, 700, 30], [1, 2, 1], frames=2000, joints=4)
    official = np.stack([torch_resize(clip[:n], 64) for clip, n in zip(padded, (2000, 700, 30), strict=True)])
    assert np.abs(whole(ragged(padded), 64) - official).max() <= 1e-6


def test_absent_people_gaps_and_empty_clips_are_zero() -> None:
    padded = made_clips([80, 90, 0, 100, 50], [2, 1, 1, 2, 2])
    padded[0, 40] = 0  # a gap: 79 valid frames, so the last one is lost
    padded[3, :60, 1] = 0  # the second person arrives late
    padded[4, 10:, 0] = 0  # the first person leaves
    clips = ragged(padded)
    assert clips.valid.tolist() == [79, 90, 0, 100, 50]
    ours = whole(clips, 64)
    for n, length in ((0, 79), (1, 90), (3, 100), (4, 50)):
        assert np.abs(ours[n] - torch_resize(padded[n, :length], 64)).max() <= 1e-6
    assert not ours[2].any()
    assert not ours[1, :, 1].any()
    assert ours[3, 50:, 1].any()


def test_frames_that_are_not_stored_are_zero() -> None:
    padded = made_clips([70, 70], [1, 2])
    clips = ragged(padded)
    present = present_people(clips, np.array([0, 1]))
    parts = resample(clips, present, np.array([60, 60]), np.array([20, 20]), 20)  # ten frames beyond the last
    np.testing.assert_array_equal(parts[0, :10], padded[0, 60:70, 0])
    np.testing.assert_array_equal(parts[2, :10], padded[1, 60:70, 1])
    assert not parts[:, 10:].any()


def test_more_than_two_people() -> None:
    padded = np.random.default_rng(2).standard_normal((3, 20, 3, 5, 3)).astype(np.float32)
    padded[1, :, 1:] = 0
    padded[2, :, 2:] = 0
    np.testing.assert_array_equal(whole(ragged(padded), 20), padded)


def test_rows_read_through_a_read_only_map(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    clips = ragged(made_clips([30, 80], [1, 2]))
    np.save(tmp_path / "rows.npy", clips.rows)
    mapped = dataclasses.replace(clips, rows=np.load(tmp_path / "rows.npy", mmap_mode="r"))
    np.testing.assert_array_equal(whole(mapped, 64), whole(clips, 64))
    assert not [str(warning.message) for warning in recwarn]


def test_crops_follow_pythons_integers() -> None:
    valid = np.arange(1, 2001)
    for p in (0.95, 0.9, 0.5, 1.0):
        start, length = centre_crop(valid, p)
        expected = [int((1 - p) * n / 2) for n in valid.tolist()]
        assert start.tolist() == expected
        assert length.tolist() == [n - 2 * drop for n, drop in zip(valid.tolist(), expected, strict=True)]
    ratios = np.random.default_rng(0).random(2000) / 2 + 0.5
    expected = [min(max(math.floor(n * p), 64), n) for n, p in zip(valid.tolist(), ratios.tolist(), strict=True)]
    assert crop_length(valid, ratios).tolist() == expected


@pytest.mark.parametrize("valid", [1, 40, 63, 64, 65, 300])
def test_random_crops_are_distributed_like_the_official_ones(valid: int) -> None:
    """Against a clip-by-clip imitation of the official draws: lengths and, given the length, first frames."""
    count = 20_000
    rng = np.random.default_rng(valid)
    start, length = random_crop(np.full(count, valid), 0.5, 1.0, rng.random((count, 2)))
    official = np.random.RandomState(valid)
    lengths, starts = [], []
    for _ in range(count):
        p = official.rand(1)[0] * 0.5 + 0.5
        kept = min(max(math.floor(valid * p), 64), valid)
        lengths.append(kept)
        starts.append(official.randint(0, valid - kept + 1))
    assert length.max() <= valid
    assert start.min() >= 0
    assert (start + length).max() <= valid
    limit = 1.63 * math.sqrt(2 / count)  # two-sample Kolmogorov-Smirnov, 1 % level
    for ours, theirs in ((length, lengths), (start, starts)):
        edges = np.arange(valid + 1)
        ours_below = np.searchsorted(np.sort(ours), edges, side="right") / count
        theirs_below = np.searchsorted(np.sort(theirs), edges, side="right") / count
        assert np.abs(ours_below - theirs_below).max() < limit
    room = valid - length
    ends = room > 20  # every start possible, the last one too
    if ends.any():
        assert start[ends].min() == 0
        assert (start == room)[ends].any()


@pytest.mark.parametrize("count", [1, 2, 52, 64])
def test_evenly_spaced_frames_are_numpys(count: int) -> None:
    lengths = np.arange(1, 400)
    expected = np.stack([np.floor(np.linspace(0, n - 1, count)).astype(int) for n in lengths.tolist()])
    np.testing.assert_array_equal(evenly_spaced(lengths, count), expected)


def test_frames_from_copies_are_sorted_never_too_many_and_fair() -> None:
    rng = np.random.default_rng(0)
    length = np.array([1, 2, 7, 52, 201] * 400)
    frames = frames_from_copies(length, rng.random((2000, 52)))
    assert (np.diff(frames, axis=1) >= 0).all()
    assert frames.min() == 0
    assert (frames < length[:, None]).all()
    sevens = frames[length == 7].reshape(-1)
    counts = np.bincount(sevens, minlength=7)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 16.8  # chi square, 6 degrees of freedom, 1 %
    # Without replacement: with 3 copies of 2 frames, 6 draws take every copy once.
    np.testing.assert_array_equal(frames_from_copies(np.array([2]), rng.random((1, 6)), copies=3), [[0, 0, 0, 1, 1, 1]])


def test_floyds_algorithm_draws_every_subset_equally_often() -> None:
    """Two of four positions: six subsets."""
    frames = frames_from_copies(np.full(6000, 4), np.random.default_rng(3).random((6000, 2)), copies=1)
    counts = np.unique(frames[:, 0] * 4 + frames[:, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 15.1  # 5 degrees of freedom, 1 %
