"""What an epoch is chosen on: the source's list if it is honest, the videos in no list by view, else a tenth."""

from __future__ import annotations

import numpy as np
import pytest

from shared_data.errors import DataError
from shared_data.formats.ragged import in_memory
from shared_data.sequences import SequenceBuilder, Sequences, SequenceSource
from shared_data.skeletons import NTU25
from shared_data.validation import validation


def part(*names: str) -> Sequences:
    builder = SequenceBuilder(in_memory("train", 25, np.dtype(np.float32)), joints=25, max_people=1)
    for name in names:
        builder.add(name, np.ones((2, 1, 25, 3), np.float32), np.zeros(2, int))
    return builder.finish()


def source(**splits: Sequences) -> SequenceSource:
    return SequenceSource("lasa", "", NTU25, ("background", "wave"), splits)


TRAIN = tuple(f"A{a:02d}N01-{view}" for a in range(1, 13) for view in "MR")
TEST = ("A01N01-L", "A02N01-L")


def ids(sequences: Sequences) -> list[str]:
    return sequences.ids.tolist()


@pytest.mark.parametrize("kind", ["subject", "xsub", "view", "auto"])
def test_an_honest_validation_list_is_taken(kind):
    held = validation(source(train=part(*TRAIN), test=part(*TEST), val=part("A20N01-M", "A20N01-R"), rest=part("A21N01-M")), kind)
    assert (ids(held.train), ids(held.val), held.rule) == (list(TRAIN), ["A20N01-M", "A20N01-R"], "val")
    assert "2 videos of the validation list" in held.told


def test_videos_of_the_validation_list_are_not_trained_on():
    held = validation(source(train=part(*TRAIN), test=part(*TEST), val=part(*TRAIN[:3])), "subject")
    assert ids(held.train) == list(TRAIN[3:]) and ids(held.val) == list(TRAIN[:3])


@pytest.mark.parametrize("shared", [TEST, (TEST[0], "A20N01-M")])
def test_by_view_the_training_views_in_no_list_replace_a_list_that_is_tested_on(shared):
    rest = part("A21N01-M", "A21N01-L", "A22N01-R", "else", TRAIN[0])
    held = validation(source(train=part(*TRAIN), test=part(*TEST), val=part(*shared), rest=rest), "view")
    assert (ids(held.train), ids(held.val), held.rule) == (list(TRAIN), ["A21N01-M", "A22N01-R"], "rest")
    assert not set(ids(held.val)) & {*TEST, *TRAIN}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("subject", {"rest": part("A21N01-M")}),
        ("view", {"rest": part("A21N01-L")}),
        ("view", {}),
        ("auto", {"val": part(*TEST)}),
        ("view3", {}),
    ],
)
def test_else_every_tenth_training_video_is_held_out(kind, more):
    held = validation(source(train=part(*TRAIN), test=part(*TEST), **more), kind)
    assert (ids(held.val), held.rule) == ([TRAIN[9], TRAIN[19]], "tenth")
    assert sorted(ids(held.train) + ids(held.val)) == sorted(TRAIN) and "2 of 24" in held.told


def test_few_videos_still_leave_one_to_choose_on():
    held = validation(source(train=part(*TRAIN[:3]), test=part(*TEST)), "subject")
    assert (ids(held.train), ids(held.val)) == (list(TRAIN[:2]), [TRAIN[2]])
    with pytest.raises(DataError, match="none can be held out"):
        validation(source(train=part(TRAIN[0]), test=part(*TEST)), "subject")
