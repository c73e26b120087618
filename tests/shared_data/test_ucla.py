"""What the NW-UCLA readers have beyond CTR-GCN's: 64 frames, a dropped axis, dropped joints, an order of joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.parity.pipelines import examine
from shared_data.clips import Clips
from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.pipelines import pipeline, rows_of
from shared_data.pipelines.ucla import CtrgcnUcla, DroppingUclaDraws, UclaDraws, UclaOptions


@pytest.fixture(scope="module")
def clips(parity_clips: Path) -> Clips:
    return open_data(parity_clips / "clips_ucla.zip").train


@pytest.mark.parametrize("name", ["hypergcn_ucla", "freqmixformer_ucla"])
def test_the_official_outputs_are_reproduced(parity_clips: Path, name: str) -> None:
    found = examine(parity_clips / f"{name}.npz")
    assert not [line for line in found.lines if not line.ok]
    names = {line.quantity for line in found.lines}
    assert {"test/jm labels", "train/bm sample", "train/j frames"} <= names
    assert ("train/j drop_axis" in names) == (name == "hypergcn_ucla")


def test_drops_come_after_the_numbers_there_were(clips: Clips) -> None:
    """Runs of the readers without drops stay repeatable, and a drop leaves the rest of a clip as it was."""
    index = np.arange(len(clips))
    plain = pipeline("ctrgcn_ucla", window=64).draw(clips, index, 3, 4)
    drops = pipeline("hypergcn_ucla").draw(clips, index, 3, 4)
    assert type(plain) is UclaDraws
    for name in vars(plain):
        np.testing.assert_array_equal(getattr(plain, name), getattr(drops, name))


def test_what_is_dropped_is_zero_and_nothing_else_changes(clips: Clips) -> None:
    index = np.arange(len(clips)).repeat(8)
    ours = pipeline("hypergcn_ucla")
    draws = ours.draw(clips, index, 0, 0, np.arange(len(index)))
    assert isinstance(draws, DroppingUclaDraws)
    batch = ours.train(clips, index, draws)[..., 0].numpy()
    whole = ours.train(clips, index, UclaDraws(draws.angle_x, draws.angle_y, draws.scale, draws.frames))[..., 0].numpy()
    gone = np.zeros(batch.shape, bool)
    for n in range(len(index)):
        if draws.axis[n] >= 0:
            gone[n, draws.axis[n]] = True
        for frame in np.flatnonzero(draws.during[n]):
            gone[n, :, frame, draws.joints[n]] = True
    assert gone.any()
    assert not batch[gone].any()
    np.testing.assert_array_equal(batch[~gone], whole[~gone])


def test_bones_and_motion_are_taken_after_the_drops(clips: Clips) -> None:
    index = np.arange(len(clips))
    draws = pipeline("hypergcn_ucla").draw(clips, index, 0, 0)
    joints = pipeline("hypergcn_ucla").train(clips, index, draws)
    moving = pipeline("hypergcn_ucla", stream="jm").train(clips, index, draws)
    np.testing.assert_allclose(moving[:, :, :-1], joints[:, :, 1:] - joints[:, :, :-1], atol=3e-7)


def test_drops_are_drawn_as_published(clips: Clips) -> None:
    many = 40_000
    draws = pipeline("hypergcn_ucla").draw(clips, np.zeros(many, np.int64), 0, 0, np.arange(many))
    axes = np.bincount(draws.axis + 1, minlength=4) / many
    assert np.abs(axes - np.array([1 / 2, 1 / 6, 1 / 6, 1 / 6])).max() < 0.01
    for mask, low, high in ((draws.joints, 4, 12), (draws.during, 16, 32)):
        size = mask.sum(axis=1)
        dropped = size > 0
        assert abs(dropped.mean() - 0.5) < 0.01
        counts = np.bincount(size[dropped])
        assert (np.flatnonzero(counts)[[0, -1]] == [low, high]).all()
        counts = counts[low:]
        freedom = high - low
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < freedom + 5 * np.sqrt(2 * freedom)
        share = mask[dropped].mean(axis=0)
        assert np.abs(share - (low + high) / 2 / mask.shape[1]).max() < 0.015
    assert ((draws.joints.sum(1) > 0) == (draws.during.sum(1) > 0)).all()
    assert abs(np.corrcoef(draws.axis >= 0, draws.joints.any(1))[0, 1]) < 0.03


def test_a_clip_has_the_same_draws_and_bits_in_any_batch(clips: Clips) -> None:
    ours = pipeline("hypergcn_ucla", stream="bm")
    index = np.arange(len(clips))
    draws = ours.draw(clips, index, 1, 2)
    some = np.array([3, 0])
    cut = rows_of(draws, some)
    again = ours.draw(clips, some, 1, 2)
    assert all(np.array_equal(getattr(cut, name), getattr(again, name)) for name in vars(cut))
    assert torch.equal(ours.train(clips, some, cut), ours.train(clips, index, draws)[some])


def test_joints_in_another_order_after_the_stream(clips: Clips) -> None:
    index = np.arange(len(clips))
    order = (4, 2, 19)
    ours = CtrgcnUcla(UclaOptions(stream="b"), name="ordered", order=order)
    assert ours.item(clips) == (3, 52, 3, 1)
    whole = pipeline("ctrgcn_ucla", stream="b").test(clips, index)
    out = torch.full((len(clips), *ours.item(clips)), torch.nan)
    assert ours.test(clips, index, out) is out
    assert torch.equal(out, whole[:, :, :, list(order)])
    with pytest.raises(LabError, match="pipeline ordered"):
        CtrgcnUcla(UclaOptions(skeleton="ntu25"), name="ordered").accept(clips)


def test_the_window_is_limited_by_the_shortest_clip(clips: Clips) -> None:
    longer = clips.subset(np.flatnonzero(clips.extent > 1))
    wide = pipeline("ctrgcn_ucla", window=128)
    assert clips.extent.min() == 1
    with pytest.raises(LabError, match="128 different frames cannot be drawn from 100 copies of a clip of 1 frames"):
        wide.accept(clips)
    wide.accept(longer)
    index = np.arange(len(longer))
    draws = wide.draw(longer, index, 0, 0)
    assert wide.train(longer, index, draws).shape == (len(longer), 3, 128, 20, 1)
    assert (np.diff(draws.frames, axis=1) >= 0).all()
    assert (draws.frames.max(axis=1) < longer.extent).all()
    pipeline("ctrgcn_ucla", window=100).accept(clips)


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "half", float("nan")])
@pytest.mark.parametrize("name", ["drop_axis", "drop_joints"])
def test_wrong_probabilities_are_refused(name: str, value: object) -> None:
    with pytest.raises(LabError, match=f"option {name}"):
        pipeline("hypergcn_ucla", **{name: value})
