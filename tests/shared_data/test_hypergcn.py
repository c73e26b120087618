"""Hyper-GCN's NTU reader: the official outputs and draws, what its streams show, how its frames are spread."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.parity.pipelines import examine
from shared_data.batches.frames import frames_after_gaps, spread_frames
from shared_data.batches.upstream import UpstreamDraws, stream
from shared_data.clips import Clips
from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.pipelines import pipeline, rows_of


@pytest.fixture(scope="module")
def clips(parity_clips: Path) -> Clips:
    return open_data(parity_clips / "clips_ntu.npz").test


def test_the_official_outputs_are_reproduced(parity_clips: Path) -> None:
    found = examine(parity_clips / "hypergcn_ntu.npz")
    assert not [line for line in found.lines if not line.ok]
    names = {line.quantity for line in found.lines}
    assert {"test/align_bm sample", "train/clips_align_j sample", "test_random/clips_align_j wsum"} <= names
    exact = [note for note in found.notes if "align" not in note]
    assert len(exact) == 6
    assert all("24 of 24 clips have the official bits" in note for note in exact if note.startswith("test/"))


def test_joint_streams_keep_the_trajectory_of_joint_21(clips: Clips) -> None:
    index = np.arange(len(clips))
    plain = pipeline("ctrgcn_ntu").test(clips, index)
    joints = pipeline("hypergcn_ntu").test(clips, index)
    others = [v for v in range(25) if v != 20]
    assert torch.equal(joints[..., 20, :], plain[..., 20, :])
    assert torch.equal(joints[..., others, :], plain[..., others, :] - plain[..., 20:21, :])
    bones, usual = pipeline("hypergcn_ntu", stream="b").test(clips, index), pipeline("ctrgcn_ntu", stream="b").test(clips, index)
    assert torch.equal(bones[..., 20, :], plain[..., 20, :])
    for tip, hand in ((21, 7), (22, 7), (23, 11), (24, 11)):
        assert torch.equal(bones[..., tip, :], plain[..., tip, :] - plain[..., hand, :])
    assert torch.equal(bones[..., :20, :], usual[..., :20, :])
    assert torch.equal(
        pipeline("hypergcn_ntu", stream="jm").test(clips, index), pipeline("ctrgcn_ntu", stream="jm").test(clips, index)
    )
    moving = pipeline("hypergcn_ntu", stream="bm").test(clips, index)
    assert torch.equal(moving[:, :, :-1], bones[:, :, 1:] - bones[:, :, :-1])
    assert not moving[:, :, -1].any()


def test_alignment_turns_the_shoulders_along_x_and_keeps_lengths(clips: Clips) -> None:
    index = np.arange(len(clips))
    aligned = pipeline("hypergcn_ntu", align=True).test(clips, index).numpy()
    free = pipeline("hypergcn_ntu").test(clips, index).numpy()
    across = aligned[:, :, 0, 8, 0] - aligned[:, :, 0, 4, 0]
    assert np.abs(across[:, 1:]).max() < 1e-6
    seen = free[:, :, 0, 8, 0].any(axis=1)
    assert np.flatnonzero(~seen).tolist() == [15]  # its first frames are empty: nothing to align
    assert (across[seen, 0] > 0.1).all()
    np.testing.assert_allclose(np.linalg.norm(aligned, axis=1), np.linalg.norm(free, axis=1), atol=1e-5)


def test_spread_frames_are_the_middles_or_wrap_around() -> None:
    spread = spread_frames(np.array([1, 3, 4, 6, 8, 16]), 4, None)
    assert spread.tolist() == [[0, 0, 0, 0], [0, 1, 2, 0], [0, 1, 2, 3], [0, 2, 3, 5], [1, 3, 5, 7], [2, 6, 10, 14]]
    assert frames_after_gaps(np.array([[True, False, True, False, True]])).tolist() == [[1, 2, 4, 5]]


def test_drawn_frames_are_spread_as_published() -> None:
    window, many = 8, 40_000
    u = np.random.default_rng(0).random((many, window + 1))
    for length in (1, 5, 8, 11, 15, 16, 21, 40):
        frames = spread_frames(np.full(many, length), window, u)
        assert frames.min() >= 0
        assert frames.max() < length
        if length < window:
            assert ((np.diff(frames, axis=1) % length) == 1 % length).all()
            assert _evenly(np.bincount(frames[:, 0], minlength=length))
        elif length < 2 * window:
            assert (np.diff(frames, axis=1) >= 1).all()
            # Each of the W + 1 places is a gap equally often: frame i of the window lies (i + 1) gaps' share behind i.
            shift = (frames - np.arange(window)).mean(axis=0)
            expected = (length - window) / (window + 1) * np.arange(1, window + 1)
            assert np.abs(shift - expected).max() < 0.03
        else:
            edges = np.arange(window + 1) * length // window
            assert (frames >= edges[:-1]).all()
            assert (frames < edges[1:]).all()
            for bin_, (low, high) in enumerate(itertools.pairwise(edges)):
                assert _evenly(np.bincount(frames[:, bin_] - low, minlength=high - low))


def _evenly(counts: np.ndarray) -> bool:
    """Chi-square at about five standard deviations."""
    freedom = len(counts) - 1
    return bool(((counts - counts.mean()) ** 2 / counts.mean()).sum() <= freedom + 5 * np.sqrt(2 * max(freedom, 1)))


@pytest.mark.parametrize("options", [{}, {"frame_sample": "clips", "align": True, "stream": "bm"}])
def test_a_clip_has_the_same_bits_in_any_batch(clips: Clips, options: dict[str, Any]) -> None:
    ours = pipeline("hypergcn_ntu", **options)
    index = np.arange(len(clips))
    draws = ours.draw(clips, index, 5, 6)
    batch = ours.train(clips, index, draws)
    some = np.array([17, 3, 0, 11])
    again = ours.draw(clips, some, 5, 6)
    cut = rows_of(draws, some)
    assert all(np.array_equal(getattr(cut, name), getattr(again, name)) for name in vars(cut))
    assert torch.equal(ours.train(clips, some, again), batch[some])
    absent = clips.people < 2
    assert absent.any()
    assert not batch[torch.from_numpy(absent)][..., 1].any()
    assert not torch.equal(ours.train(clips, index, ours.draw(clips, index, 5, 7)), batch)


def test_rows_on_a_device_give_the_same_bits(clips: Clips) -> None:
    there = clips.on_device(torch.device("cpu"))
    assert there.table is not None
    index = np.array([2, 20, 15, 0, 18])
    for stream_name in ("j", "bm"):
        for sampling in ("resize", "clips"):
            ours = pipeline("hypergcn_ntu", stream=stream_name, frame_sample=sampling, align=True)
            draws = ours.draw(clips, index, 0, 0)
            assert torch.equal(ours.train(there, index, draws), ours.train(clips, index, draws))


def test_the_crop_and_rotation_are_those_of_ctrgcn(clips: Clips) -> None:
    index = np.arange(len(clips))
    mine, usual = (pipeline(name, stream="jm") for name in ("hypergcn_ntu", "ctrgcn_ntu"))
    assert torch.equal(
        mine.train(clips, index, mine.draw(clips, index, 1, 2)), usual.train(clips, index, usual.draw(clips, index, 1, 2))
    )


def test_test_frames_are_random_only_on_request(clips: Clips) -> None:
    index = np.arange(len(clips))
    still = pipeline("hypergcn_ntu", frame_sample="clips")
    assert torch.equal(still.test(clips, index), still.test(clips, index))
    drawn = [
        pipeline("hypergcn_ntu", frame_sample="clips", random_test=True, test_seed=seed).test(clips, index) for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], still.test(clips, index))
    only = np.array([5])  # 64 frames fill the window exactly
    assert clips.valid[5] == 64
    assert torch.equal(still.test(clips, only), pipeline("hypergcn_ntu", test_p_interval=[1]).test(clips, only))


def test_empty_and_one_frame_clips(clips: Clips) -> None:
    one = clips.subset(np.array([0, 1]))
    assert one.valid[0] == 1
    people = one.people.copy()
    people[1] = 0
    none = np.array([1, 0], np.int32)
    empty = Clips(**{**vars(one), "people": people, "extent": none, "valid": none})
    for options in (
        {},
        {"frame_sample": "clips"},
        {"align": True},
        {"frame_sample": "clips", "align": True, "random_test": True},
    ):
        ours = pipeline("hypergcn_ntu", **options)
        for batch in (ours.test(empty, np.arange(2)), ours.train(empty, np.arange(2), ours.draw(empty, np.arange(2), 0, 0))):
            assert batch[0].any()
            assert torch.isfinite(batch).all()
            assert not batch[1].any()


def test_official_draws_come_from_the_recorded_seeds(parity_clips: Path) -> None:
    """The recorded reader was seeded before each clip: our imitation of its calls must draw the recorded numbers."""
    train = open_data(parity_clips / "clips_ntu.npz").train
    meta = json.loads(str(np.load(parity_clips / "hypergcn_ntu.npz")["meta"]))
    ours = pipeline("hypergcn_ntu", frame_sample="clips")
    assert isinstance(ours, UpstreamDraws)
    group = meta["groups"]["train/clips_align_j"]
    for clip, seed, recorded in zip(group["clips"], group["seeds"], group["draws"], strict=True):
        frames = ours.draw_upstream(train, np.array([clip]), stream(seed)).frames[0]
        if "start" in recorded:
            expected = (recorded["start"] + np.arange(64)) % recorded["valid"]
        elif "gaps" in recorded:
            expected = np.delete(np.arange(recorded["valid"]), _skipped(recorded["gaps"]))
        else:
            expected = np.arange(64) * recorded["valid"] // 64 + np.array(recorded["offsets"])
        np.testing.assert_array_equal(frames, expected)
    group = meta["groups"]["train/j"]
    resizing = pipeline("hypergcn_ntu")
    assert isinstance(resizing, UpstreamDraws)
    crop = resizing.draw_upstream(train, np.array(group["clips"][9:10]), stream(group["seeds"][9]))
    assert (crop.start[0], crop.length[0]) == (group["draws"][9]["start"], group["draws"][9]["length"])


def _skipped(gaps: list[int]) -> list[int]:
    """The frames left out: the gap before place g, with j smaller gaps, is frame g + j."""
    return [place + before for before, place in enumerate(sorted(gaps))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_sample": "clip"}, "did you mean clips"),
        ({"align": 1}, "option align"),
        ({"random_test": "no"}, "option random_test"),
        ({"test_seed": 1.5}, "option test_seed"),
        ({"skeleton": "ucla20"}, "option skeleton"),
        ({"window": 0}, "option window"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        pipeline("hypergcn_ntu", **options)
