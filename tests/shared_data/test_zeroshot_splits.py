"""The published splits: complete, disjoint, and with the one known hole."""

from __future__ import annotations

import pytest

from shared_data.errors import UsageError
from shared_data.zeroshot_splits import UNSEEN, VALIDATION_UNSEEN, published, split_of

SEEN = {(60, 5): (55, 50), (60, 12): (48, 36), (120, 10): (110, 100), (120, 24): (96, 72)}  # in the test, in validation
DIGEST = {(60, 5): (122, 141), (60, 12): (397, 326), (120, 10): (599, 586), (120, 24): (1384, 1456)}  # sums of the unseen


@pytest.mark.parametrize("task", UNSEEN)
def test_partition(task: tuple[int, int]) -> None:
    test, val = published(*task), published(*task, "val", truncated=False)
    assert (len(test.seen), len(val.seen)) == SEEN[task] and len(test.unseen) == len(val.unseen) == task[1]
    assert sorted(test.seen + test.unseen) == list(range(task[0]))
    assert sorted(val.seen + val.unseen) == list(test.seen)  # validation never meets the unseen classes of the test
    for split in (test, val):
        assert list(split.seen) == sorted(split.seen) and list(split.unseen) == sorted(split.unseen)


@pytest.mark.parametrize("task", UNSEEN)
def test_lists_are_those_of_the_table(task: tuple[int, int]) -> None:
    assert (sum(UNSEEN[task]), sum(VALIDATION_UNSEEN[task])) == DIGEST[task]


def test_the_official_list_that_stops_at_class_99() -> None:
    official, whole = published(120, 10, "val"), published(120, 10, "val", truncated=False)
    assert (len(official.seen), len(whole.seen)) == (81, 100) and official.unseen == whole.unseen
    assert set(whole.seen) - set(official.seen) == set(whole.seen) & set(range(100, 120))
    assert published(120, 10, "test") == published(120, 10, "test", truncated=False)


def test_unseen_classes_in_any_order_are_sorted() -> None:
    assert split_of(5, (3, 1), without=(0,)).unseen == (1, 3)
    assert split_of(5, (3, 1), without=(0,)).seen == (2, 4)


@pytest.mark.parametrize(
    ("classes", "unseen", "without"),
    [(5, (5,), ()), (5, (-1,), ()), (5, (1, 1), ()), (5, (1,), (1,)), (5, (), ()), (2, (0, 1), ())],
)
def test_refused(classes: int, unseen: tuple[int, ...], without: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        split_of(classes, unseen, without=without)


def test_unpublished_task() -> None:
    with pytest.raises(UsageError, match=r"60 classes with 7") as caught:
        published(60, 7)
    assert "120/24" in str(caught.value)
