"""Crop rules and frame choices."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shared_data.batches.frames import centre_crop, crop_length, evenly_spaced, frames_from_copies, random_crop


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
