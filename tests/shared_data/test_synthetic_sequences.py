"""Made-up untrimmed sequences: seeded, without jumps, told apart by motion and by order; and their trimmed clips."""

from __future__ import annotations

import numpy as np
import pytest

from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.formats.untrimmed import open_sequences
from shared_data.pipelines.normalised import normalised
from shared_data.sequence_store import write_sequences
from shared_data.sequences import SequenceSource
from shared_data.skeletons import NTU25
from shared_data.synthetic_sequences import synthetic_sequences, write_synthetic_clips


@pytest.fixture(scope="module")
def made() -> SequenceSource:
    return synthetic_sequences(classes=10, train=12, test=4, actions=5, seed=3)


def test_sizes_and_lengths_are_as_asked(made):
    train, test = made.splits["train"], made.splits["test"]
    assert (len(train), len(test)) == (12, 4) and len(made.class_names) == 11 and made.class_names[0] == "background"
    assert not set(train.ids) & set(test.ids) and set(train.classes.tolist()) == set(range(11))
    for n in range(len(train)):
        labels = train.labels(n)
        ends = np.flatnonzero(np.diff(labels, append=-1)) + 1
        runs, classes = np.diff(ends, prepend=0), labels[ends - 1]
        assert (classes[::2] == 0).all() and (classes[1::2] > 0).all() and len(classes) == 11
        assert runs[::2].min() >= 10 and runs[::2].max() <= 40 and runs[1::2].min() >= 40 and runs[1::2].max() <= 90


def test_the_same_arguments_give_the_same_values_and_another_seed_does_not(made):
    again, other = (synthetic_sequences(classes=10, train=12, test=4, actions=5, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.splits["test"].clips.rows, made.splits["test"].clips.rows)
    np.testing.assert_array_equal(again.splits["train"].classes, made.splits["train"].classes)
    assert not np.array_equal(other.splits["train"].lengths, made.splits["train"].lengths)


def test_people_move_without_a_jump_and_their_bones_keep_their_length(made):
    train = made.splits["train"]
    for n in range(len(train)):
        body = train.frames(n)[:, 0]
        changes, labels = np.abs(np.diff(body, axis=0)).max((1, 2)), train.labels(n)
        assert changes.max() < 0.5, "15 m/s: no limb moves faster"
        at_boundaries = changes[np.flatnonzero(np.diff(labels))]
        assert at_boundaries.mean() < 2 * changes.mean(), "a boundary cannot be read off from one jump"
        for a, b in ((0, 1), (4, 5), (13, 14)):
            assert np.linalg.norm(body[:, a] - body[:, b], axis=-1).std() < 0.005


def test_two_classes_hold_the_same_motions_in_another_order():
    source = synthetic_sequences(classes=3, train=60, test=1, actions=4, lengths=(60, 60), seed=0)
    assert source.class_names[2:] == ("raise both arms, then bow", "bow, then raise both arms")
    heights: dict[int, list[np.ndarray]] = {2: [], 3: []}
    train = source.splits["train"]
    for n in range(len(train)):
        labels, frames = train.labels(n), train.frames(n)[:, 0]
        for start in np.flatnonzero(np.diff(labels, prepend=0) > 0):
            if labels[start] in heights:
                hand, head = frames[start : start + 60, 7, 1], frames[start : start + 60, 3, 1]
                heights[int(labels[start])].append(np.stack([hand - frames[start, 7, 1], head - frames[start, 3, 1]]))
    first, second = (np.mean(heights[k], 0) for k in (2, 3))  # (2, 60): how far hand and head are above their start
    assert first[0, :30].max() > first[0, 35:].max() + 0.2, "arms go up in the first half"
    assert second[0, 30:].max() > second[0, :25].max() + 0.2, "arms go up in the second half"
    assert first[1, 30:].min() < first[1, :25].min() - 0.1, "the head goes down in the second half"
    assert second[1, :30].min() < second[1, 35:].min() - 0.1, "the head goes down in the first half"


def test_the_sequences_can_be_stored(made, tmp_path):
    back = open_sequences(write_sequences(made, tmp_path / "s.h5"))
    assert back.about.startswith("synthetic") and back.class_names == made.class_names
    np.testing.assert_array_equal(back.splits["test"].frames(1), made.splits["test"].frames(1))


def test_the_trimmed_clips_are_the_actions_in_the_coordinates_of_segmentation(made, tmp_path):
    data = open_data(write_synthetic_clips(tmp_path / "synthetic_clips.npz", made))
    assert data.class_names == made.class_names[1:] and not [f for f in data.findings if f.severity != "info"]
    train = made.splits["train"]
    assert len(data.train) == 12 * 5 and len(data.test) == 4 * 5
    labels = train.labels(0)
    start = int(np.flatnonzero(labels)[0])
    end = start + int(np.flatnonzero(labels[start:] == 0)[0])
    assert data.train.labels[0] == labels[start] - 1
    whole = normalised(train.frames(0), NTU25).reshape(2, 3, 25, -1).transpose(3, 0, 2, 1)
    clip = data.train.clip(0)
    assert len(clip) == end - start
    np.testing.assert_array_equal(clip, whole[start:end, : clip.shape[1]])
    with pytest.raises(LabError, match="must say so"):
        write_synthetic_clips(tmp_path / "clips.npz", made)


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": 1},
        {"classes": 11},
        {"train": 0},
        {"actions": 0},
        {"lengths": (50, 40)},
        {"lengths": (2, 9)},
        {"pauses": (0, 3)},
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(LabError, match="2 to 10 classes"):
        synthetic_sequences(**wrong)
