"""Untrimmed sequences: LaSA's features bit for bit, masks, order, boundaries."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_data.errors import DataError, LabError
from shared_data.formats.ragged import in_memory
from shared_data.pipelines.lasa import every_second, lara, mcfs, motion_and_shape
from shared_data.sequence_loader import PADDING, SequenceLoader
from shared_data.sequences import SequenceBuilder, Sequences, boundaries, hold_out


def build(videos: dict[str, tuple[np.ndarray, np.ndarray]], joints: int = 25) -> Sequences:
    """Sequences from name -> (frames (T, 2, V, 3), labels (T,))."""
    builder = SequenceBuilder(in_memory("train", joints, np.dtype(np.float32)), joints=joints, max_people=2)
    for name, (frames, labels) in videos.items():
        builder.add(name, frames, labels)
    return builder.finish()


@pytest.fixture(scope="module")
def fixture() -> dict[str, np.ndarray]:
    file = Path(__file__).resolve().parents[1] / "parity" / "pipelines" / "lasa_features.npz"
    with np.load(file, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


@pytest.fixture(scope="module")
def pku(fixture) -> Sequences:
    return build({f"video {i}": (fixture[f"pku/{i}/input"].astype(np.float32), fixture[f"pku/{i}/label"]) for i in range(5)})


def test_pku_features_equal_the_official_reader_bit_for_bit(fixture, pku):
    told = json.loads(str(fixture["meta"]))["sequences"]
    assert pku.lengths.tolist() == [sequence["frames"] for sequence in told] == [60, 45, 50, 40, 1]
    for i in range(5):
        np.testing.assert_array_equal(motion_and_shape(pku.frames(i)), fixture[f"pku/{i}/feature"])
        np.testing.assert_array_equal(pku.labels(i), fixture[f"pku/{i}/label"])
        np.testing.assert_array_equal(boundaries(pku.labels(i)), fixture[f"pku/{i}/boundary"])


def test_the_padded_batch_equals_the_official_one(fixture, pku):
    (batch,) = SequenceLoader(pku, batch_size=5, train=False).epoch(0)
    np.testing.assert_array_equal(batch.labels.numpy(), fixture["pku/batch_label"])
    np.testing.assert_array_equal(batch.mask.numpy(), fixture["pku/batch_mask"])
    np.testing.assert_array_equal(batch.boundary.numpy(), fixture["pku/batch_boundary"])
    features = batch.features.numpy()
    assert features.shape == (5, 12, 25, 60) and features.dtype == np.float32
    weights = np.arange(12 * 25 * 60) * 0.6180339887498949 % 1 - 0.5
    for row in range(5):
        flat = features[row].astype(np.float64).ravel()
        assert abs(weights @ flat - fixture["pku/batch_feature/wsum"][row]) <= 1e-8
        assert flat @ flat == pytest.approx(fixture["pku/batch_feature/sumsq"][row], rel=1e-12)
        assert zlib.crc32((features[row] + np.float32(0)).tobytes()) == fixture["pku/batch_feature/crc32"][row]


@pytest.mark.parametrize("i", [0, 2])
def test_half_rate_equals_the_official_reader(fixture, pku, i):
    (batch,) = SequenceLoader(pku.subset(np.array([i])), batch_size=1, train=False, half_rate=True).epoch(0)
    np.testing.assert_array_equal(batch.labels[0].numpy(), fixture[f"pku_half_rate/{i}/label"])
    np.testing.assert_array_equal(batch.boundary[0, 0].numpy(), fixture[f"pku_half_rate/{i}/boundary"])
    assert batch.features.numpy().sum(dtype=np.float64) == pytest.approx(
        float(fixture[f"pku_half_rate/{i}/feature_sum"]), abs=1e-9
    )
    assert batch.mask.all()


def test_lara_and_mcfs_features_equal_the_official_reader_bit_for_bit(fixture):
    np.testing.assert_array_equal(lara(fixture["lara/input"].astype(np.float32)), fixture["lara/feature"])
    np.testing.assert_array_equal(mcfs(fixture["mcfs/input"]), fixture["mcfs/feature"])


def test_features_of_a_sequence_worked_out_by_hand():
    frames = np.zeros((5, 1, 2, 1), np.float32)  # one person, two joints, one coordinate; frames 0 and 4 are empty
    frames[1:4, 0, :, 0] = [[1, 4], [0, 0], [3, 9]]
    np.testing.assert_array_equal(motion_and_shape(frames)[0], [[0, -1, 3, 0, 0], [0, -4, 9, 0, 0]])
    np.testing.assert_array_equal(motion_and_shape(frames)[1], [[0] * 5, [0, 3, 0, 6, 0]])
    assert not motion_and_shape(frames * 0).any(), "a sequence of nothing has no motion"


@pytest.mark.parametrize("bad", [np.zeros((3, 2, 25)), np.zeros((0, 2, 25, 3)), np.zeros((3, 2, 25, 3), int)])
def test_features_refuse_what_is_no_sequence(bad):
    with pytest.raises(DataError, match="shape"):
        motion_and_shape(bad)


@pytest.mark.parametrize(
    ("labels", "marked"),
    [
        ([0], [0]),
        ([3, 3, 3], [0]),
        ([0, 0, 1, 1, 1, 0, 0], [0, 2, 3, 5, 6]),
        ([0, 0, 0, 2], [0, 3]),  # a change in the last frame: there is no next one
        ([1, 2, 3], [0, 1, 2]),
        ([], []),
    ],
)
def test_boundaries_by_hand(labels, marked):
    assert np.flatnonzero(boundaries(np.array(labels, np.int64))).tolist() == marked


def test_half_rate_of_an_odd_number_of_frames():
    feature = np.arange(5.0).reshape(1, 1, 5)
    kept = every_second(feature, np.array([0, 0, 1, 1, 2]), np.array([True, False, False, True, True]))
    assert [part.ravel().tolist() for part in kept] == [[0, 2, 4], [0, 1, 2], [True, True, True]]
    assert every_second(feature[..., :1], np.array([7]), np.array([False]))[2].tolist() == [False]


def made(lengths: list[int], people: int = 1) -> Sequences:
    """Sequences of two joints whose values say which video and frame they are."""
    videos = {}
    for n, length in enumerate(lengths):
        frames = np.zeros((length, 2, 2, 3), np.float32)
        frames[:, :people] = (1000 * n + 1 + np.arange(length))[:, None, None, None]
        videos[f"v{n}"] = frames, np.arange(length) % 3
    return build(videos, joints=2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 4), st.integers(0, 5), st.booleans())
def test_masks_count_the_frames_and_the_rest_is_filled(lengths, batch_size, epoch, half_rate):
    sequences = made(lengths)
    loader = SequenceLoader(sequences, batch_size=batch_size, train=True, seed=4, half_rate=half_rate)
    batches = list(loader.epoch(epoch))
    assert len(batches) == len(loader)
    assert sorted(int(n) for batch in batches for n in batch.index) == list(range(len(lengths)))
    for batch in batches:
        kept = [-(-lengths[n] // 2) if half_rate else lengths[n] for n in batch.index]
        assert batch.mask.sum((1, 2)).tolist() == kept and batch.labels.shape[1] == max(kept)
        assert [f"v{n}" for n in batch.index] == batch.ids.tolist()
        outside = ~batch.mask[:, 0]
        assert bool((batch.labels[outside] == PADDING).all()) and bool((batch.labels[~outside] < 3).all())
        assert not batch.features.permute(0, 3, 1, 2)[outside].any() and not batch.boundary[:, 0][outside].any()
        assert bool(batch.boundary[:, 0, 0].all()), "every sequence begins with a boundary"
        assert not torch.logical_xor(batch.mask.cummin(2).values, batch.mask).any(), "a mask is a prefix"


def test_order_depends_on_seed_and_epoch_alone_and_an_epoch_can_be_resumed():
    sequences = made([5, 9, 2, 7, 3, 8, 6])
    loader = SequenceLoader(sequences, batch_size=2, train=True, seed=1)
    whole, resumed = list(loader.epoch(3)), list(SequenceLoader(sequences, batch_size=2, train=True, seed=1).epoch(3, start=2))
    assert len(whole) == 4 and len(resumed) == 2
    for a, b in zip(whole[2:], resumed, strict=True):
        for part in ("features", "labels", "boundary", "mask"):
            assert torch.equal(getattr(a, part), getattr(b, part))
        assert a.ids.tolist() == b.ids.tolist()
    orders = {tuple(SequenceLoader(sequences, batch_size=2, train=True, seed=s).order(e)) for s in (1, 2) for e in (3, 4)}
    assert len(orders) == 4
    test = SequenceLoader(sequences, batch_size=3, train=False)
    assert [n for batch in test.epoch(9) for n in batch.ids] == [f"v{n}" for n in range(7)]


def test_frames_come_back_with_absent_people_as_zero_and_empty_frames_kept():
    frames = np.zeros((6, 2, 2, 3), np.float32)
    frames[2:4, 0] = 1.5
    sequences = build({"a": (frames, np.zeros(6, int)), "b": (frames[:, ::-1], np.ones(6, int))}, joints=2)
    np.testing.assert_array_equal(sequences.frames(0), frames)
    np.testing.assert_array_equal(sequences.frames(1), frames[:, ::-1])
    assert len(sequences.clips.rows) == 1 + 6 + 12, "the absent second person of the first video takes no room"
    turned = sequences.subset(np.array([1, 0]))
    assert turned.ids.tolist() == ["b", "a"] and turned.labels(0).tolist() == [1] * 6
    np.testing.assert_array_equal(turned.frames(1), frames)


def test_every_tenth_sequence_is_held_out():
    train, val = hold_out(made([1] * 21))
    assert val.ids.tolist() == ["v9", "v19"] and len(train) == 19 and not set(train.ids) & set(val.ids)


def test_settings_that_make_no_batch_are_refused():
    sequences = made([3, 4])
    with pytest.raises(LabError, match="batch_size"):
        SequenceLoader(sequences, batch_size=0, train=True)
    with pytest.raises(LabError, match="no sequences"):
        SequenceLoader(sequences.subset(np.zeros(0, int)), batch_size=1, train=True)
    for wrong in (1.5, "4", None):
        with pytest.raises(LabError, match=f"batch_size is '{wrong}'"):
            SequenceLoader(sequences, batch_size=wrong, train=True)
    for wrong in (-1, 2**32, None):
        for train in (True, False):
            made_loader = SequenceLoader(sequences, batch_size=1, train=train)
            for ask in (made_loader.epoch, made_loader.order):
                with pytest.raises(LabError, match="epoch is"):
                    ask(wrong)
    with pytest.raises(LabError, match="first batch is -1"):
        SequenceLoader(sequences, batch_size=1, train=True).epoch(0, start=-1)


def test_processes_share_every_batch_and_each_has_something():
    sequences = made([5, 9, 2, 7, 3, 8, 6])

    def epoch(train: bool, **more) -> list:
        return list(SequenceLoader(sequences, batch_size=3, train=train, seed=1, **more).epoch(2))

    whole, longest = epoch(True), max(sequences.lengths)
    assert [len(batch.ids) for batch in whole] == [3, 3, 1]
    for rank in range(2):
        part = epoch(True, share=(rank, 2))
        assert [batch.ids.tolist() for batch in part] == [batch.ids[rank::2].tolist() for batch in whole[:2]]
        assert all(batch.labels.shape[1] <= longest for batch in part), "the seventh has nothing for the second process"
    assert [len(batch.ids) for batch in epoch(False, share=(0, 2))] == [2, 2, 1], "a test leaves nothing out"
    assert [len(batch.ids) for batch in epoch(False, share=(1, 2))] == [1, 1]
    with pytest.raises(LabError, match="batch_size 3 for 4 processes"):
        epoch(True, share=(0, 4))
    with pytest.raises(LabError, match="number of this process is 2"):
        epoch(True, share=(2, 2))
    with pytest.raises(LabError, match="make no batch"):
        SequenceLoader(sequences.subset(np.arange(1)), batch_size=2, train=True, share=(0, 2))


def test_workers_change_no_bit_and_their_errors_come_out():
    sequences = made([5, 9, 2, 7, 3, 8, 6])
    alone, ahead = (list(SequenceLoader(sequences, batch_size=2, train=True, workers=w).epoch(1)) for w in (0, 2))
    for a, b in zip(alone, ahead, strict=True):
        assert torch.equal(a.features, b.features) and torch.equal(a.labels, b.labels) and a.ids.tolist() == b.ids.tolist()

    def fails(frames: np.ndarray) -> np.ndarray:
        raise DataError("no such frames")

    with pytest.raises(DataError, match="no such frames"):
        next(SequenceLoader(sequences, batch_size=2, train=True, workers=1, features=fails).epoch(0))


def test_the_ids_of_a_batch_can_be_asked_for():
    running = SequenceLoader(made([5, 9, 2, 7, 3]), batch_size=2, train=True, seed=1)
    assert [running.ids(3, n).tolist() for n in range(3)] == [batch.ids.tolist() for batch in running.epoch(3)]
