"""Windows of untrimmed sequences: which frames they show, how scores are put together again, batches of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_data import windows
from shared_data.errors import LabError, UsageError
from shared_data.formats.ragged import in_memory
from shared_data.sequence_loader import PADDING, SequenceBatch
from shared_data.sequences import SequenceBuilder, Sequences
from shared_data.window_loader import WindowLoader
from shared_data.windows import balanced, stitch, windows_of

LENGTHS = [5, 64, 30, 17, 100, 16]


def made(lengths: list[int], labels: list[np.ndarray] | None = None) -> Sequences:
    """Sequences of two joints whose first coordinate is 1000 x video + frame + 1."""
    builder = SequenceBuilder(in_memory("train", 2, np.dtype(np.float32)), joints=2, max_people=1)
    for n, length in enumerate(lengths):
        frames = np.ones((length, 1, 2, 3), np.float32)
        frames[..., 0] = (1000 * n + 1 + np.arange(length))[:, None, None]
        builder.add(f"v{n}", frames, np.arange(length) // 7 % 3 if labels is None else labels[n])
    return builder.finish()


def plain(frames: np.ndarray) -> np.ndarray:
    """(T, M, V, 3) -> (3 M, V, T), nothing changed."""
    return frames.transpose(1, 3, 2, 0).reshape(-1, frames.shape[2], len(frames))


def shown(batch: SequenceBatch) -> list[list[int]]:
    """The frames that the rows of a batch of `made` sequences show, as their first coordinate says."""
    return [row[0, 0][mask[0]].long().tolist() for row, mask in zip(batch.features, batch.mask, strict=True)]


@pytest.mark.parametrize(
    ("numbers", "starts"),
    [
        ((1, 64, None), [0]),
        ((64, 64, None), [0]),
        ((65, 64, None), [0, 1]),
        ((128, 64, None), [0, 64]),
        ((150, 64, None), [0, 64, 86]),
        ((10, 4, 2), [0, 2, 4, 6]),
        ((11, 4, 3), [0, 3, 6, 7]),
        ((5, 1, 1), [0, 1, 2, 3, 4]),
    ],
)
def test_test_windows_by_hand(numbers, starts):
    assert windows.test_windows(*numbers).tolist() == starts


@pytest.mark.parametrize("numbers", [(0, 4, 4), (5, 0, 1), (5, 4, 5), (5, 4, 0)])
def test_windows_that_cannot_show_all_are_refused(numbers):
    with pytest.raises(UsageError, match="windows of"):
        windows.test_windows(*numbers)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 20), st.data())
def test_scores_stitched_are_the_mean_of_the_windows_that_show_a_frame(length, window, data):
    stride = data.draw(st.integers(1, window))
    starts = windows.test_windows(length, window, stride)
    scores = torch.from_numpy(np.random.default_rng(length).standard_normal((len(starts), 3, window)))
    whole = stitch(scores, starts, length).numpy()
    for frame in range(length):
        those = [scores[n, :, frame - s].numpy() for n, s in enumerate(starts.tolist()) if s <= frame < s + window]
        assert np.abs(whole[:, frame] - np.mean(those, 0)).max() < 1e-12


def test_scores_of_windows_that_do_not_overlap_are_the_same_bits():
    scores = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    whole = stitch(scores, windows.test_windows(12, 4), 12)
    assert torch.equal(whole, scores.transpose(0, 1).reshape(2, 12))
    assert torch.equal(stitch(scores[:1], np.array([0]), 3), scores[0, :, :3]), "padding is left out"


@pytest.mark.parametrize("starts", [[0, 5], [1, 4], [0], [0, 2, 4]])
def test_frames_in_no_window_are_refused(starts):
    with pytest.raises(UsageError, match="every frame in a window"):
        stitch(torch.zeros(2, 1, 4), np.array(starts), 8)


def test_training_windows_lie_one_after_the_other_from_a_phase_on():
    phases: dict[int, set[int]] = {n: set() for n in range(len(LENGTHS))}
    for epoch in range(60):
        index, start = windows_of(np.array(LENGTHS), 16, 3, epoch)
        assert np.bincount(index).tolist() == [1, 4, 1, 1, 6, 1]
        for n, length in enumerate(LENGTHS):
            own = start[index == n]
            assert (np.diff(own) == 16).all() and own[0] >= 0 and own[-1] <= max(length - 16, 0)
            phases[n].add(int(own[0]))
    assert phases == {0: {0}, 1: {0}, 2: set(range(15)), 3: {0, 1}, 4: set(range(5)), 5: {0}}, "every phase occurs, no other"


def loader(sequences: Sequences, *, train: bool = True, batch_size: int = 3, **more) -> WindowLoader:
    return WindowLoader(sequences, batch_size=batch_size, train=train, window=16, seed=5, features=plain, **more)


def test_batches_hold_the_frames_labels_and_boundaries_of_their_windows():
    sequences = made(LENGTHS)
    running = loader(sequences)
    assert len(running) == 14 // 3
    for number, batch in enumerate(running.epoch(2)):
        assert batch.features.shape == (3, 3, 2, 16) and batch.boundary.shape == batch.mask.shape == (3, 1, 16)
        assert batch.ids.tolist() == [f"v{n}" for n in batch.index] == running.ids(2, number).tolist()
        for row, (n, first) in enumerate(zip(batch.index.tolist(), batch.start.tolist(), strict=True)):
            length = min(16, LENGTHS[n])
            assert shown(batch)[row] == list(range(1000 * n + 1 + first, 1000 * n + 1 + first + length))
            np.testing.assert_array_equal(batch.labels[row, :length], sequences.labels(n)[first : first + length])
            np.testing.assert_array_equal(batch.boundary[row, 0, :length], sequences.boundaries(n)[first : first + length])
            assert batch.mask[row].sum() == length and bool((batch.labels[row, length:] == PADDING).all())
            assert not batch.features[row, ..., length:].any() and not batch.boundary[row, 0, length:].any()


def test_features_are_made_of_the_whole_sequence():
    def centred(frames: np.ndarray) -> np.ndarray:
        return plain(frames - frames[:1])

    sequences = made([40])
    (batch,) = WindowLoader(sequences, batch_size=9, train=False, window=16, features=centred).epoch(0)
    assert batch.features[:, 0, 0, 0].tolist() == batch.start.tolist() == [0, 16, 24]


def test_the_order_of_windows_follows_from_seed_and_epoch_and_an_epoch_can_be_resumed():
    sequences = made(LENGTHS)
    whole = list(loader(sequences, background_share=0.5).epoch(4))
    resumed = list(loader(sequences, background_share=0.5, workers=2).epoch(4, start=2))
    for a, b in zip(whole[2:], resumed, strict=True):
        for part in ("features", "labels", "boundary", "mask"):
            assert torch.equal(getattr(a, part), getattr(b, part))
        assert a.ids.tolist() == b.ids.tolist() and a.start.tolist() == b.start.tolist()
    orders = {tuple(map(tuple, loader(sequences).order(epoch).tolist())) for epoch in range(4)}
    assert len(orders) == 4 and len({len(order) for order in orders}) == 1


def test_every_window_is_shown_once_unless_background_is_weighed():
    sequences = made(LENGTHS)
    seen = [row for batch in loader(sequences, batch_size=2).epoch(0) for row in shown(batch)]
    flat = sorted(frame for row in seen for frame in row)
    assert len(seen) == 14 and len(flat) == len(set(flat)) == 13 * 16 + 5


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_about_the_asked_share_of_the_chosen_frames_is_background(share):
    rng = np.random.default_rng(1)
    labels = [np.repeat(rng.random(40) < 0.12, 25).astype(int) for _ in range(30)]  # 88 % background, in runs of 25 frames
    running = WindowLoader(
        made([1000] * 30, labels), batch_size=31, train=True, window=16, features=plain, background_share=share
    )
    natural = np.mean([np.mean(each == 0) for each in labels])
    counted = [float((torch.cat([b.labels for b in running.epoch(epoch)]) == 0).float().mean()) for epoch in range(3)]
    assert natural > 0.85 and np.abs(np.array(counted) - share).max() < 0.03
    assert len(running) == 30 * 62 // 31


def test_a_share_that_cannot_be_reached_is_approached():
    mixed = np.array([0.25, 0.75, 0.5, 0.5])
    assert len(balanced(mixed, 1.0, 0, 0)) == 4
    assert mixed[balanced(mixed, 1.0, 0, 0)].mean() >= 0.5 >= mixed[balanced(mixed, 0.0, 0, 0)].mean()
    for same in (np.ones(5), np.zeros(5), np.full(5, 0.4)):
        assert balanced(same, 0.5, 0, 0).tolist() == [0, 1, 2, 3, 4], "there is nothing to choose between"
    only = np.array([0.0] * 99 + [1.0])
    for epoch in range(5):
        picked = balanced(only, 0.5, 0, epoch)
        assert len(picked) == 100 and abs((picked == 99).sum() - 50) <= 1


def test_test_windows_come_in_order_and_their_frames_are_all_there():
    sequences = made(LENGTHS)
    running = loader(sequences, train=False, batch_size=4, stride=8)
    rows = [(n, s) for batch in running.epoch(7) for n, s in zip(batch.index.tolist(), batch.start.tolist(), strict=True)]
    assert rows == [(n, s) for n, t in enumerate(LENGTHS) for s in windows.test_windows(t, 16, 8).tolist()]
    for n, length in enumerate(LENGTHS):
        parts = [(b.features[:, :1, 0], b.start) for b in running.epoch(0)]
        of = np.concatenate([b.index for b in running.epoch(0)]) == n
        values, starts = torch.cat([v for v, _ in parts])[of], np.concatenate([s for _, s in parts])[of]
        assert stitch(values, starts, length)[0].tolist() == [1000 * n + 1 + t for t in range(length)]
    assert len(running._kept) <= len(LENGTHS)


def test_processes_share_every_batch_of_windows():
    sequences = made(LENGTHS)
    whole = list(loader(sequences, batch_size=5).epoch(1))
    for rank in range(2):
        part = list(loader(sequences, batch_size=5, share=(rank, 2)).epoch(1))
        assert len(part) == len(whole)
        for a, b in zip(whole, part, strict=True):
            assert torch.equal(a.features[rank::2], b.features) and a.ids[rank::2].tolist() == b.ids.tolist()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"window": 0}, "window is 0"),
        ({"batch_size": 99}, "make no batch"),
        ({"background_share": 1.5}, "background_share is 1.5"),
        ({"background_share": 0.5, "train": False}, "background_share"),
        ({"stride": 8}, "stride is 8 in training"),
        ({"stride": 17, "train": False}, "stride is 17"),
        ({"share": (2, 2)}, "number of this process is 2"),
        ({"batch_size": 3, "share": (0, 4)}, "batch_size 3 for 4 processes"),
    ],
)
def test_settings_that_make_no_batch_of_windows_are_refused(wrong, match):
    settings = {"batch_size": 3, "train": True, "window": 16, **wrong}
    with pytest.raises(LabError, match=match):
        WindowLoader(made(LENGTHS), **settings)
    with pytest.raises(LabError, match="no sequences"):
        WindowLoader(made(LENGTHS).subset(np.zeros(0, int)), batch_size=1, train=True)
