import numpy as np
import pytest

from engine.segmentation.intervals import runs
from tests.engine.segmentation import naive


def test_hand_worked() -> None:
    label, start, end = runs(np.array([3, 3, 0, 0, 0, 3, 1]))
    assert label.tolist() == [3, 0, 3, 1]
    assert start.tolist() == [0, 2, 5, 6]
    assert end.tolist() == [2, 5, 6, 7]


def test_ignored_class_leaves_its_neighbours_apart() -> None:
    found = runs(np.array([3, 3, 0, 3, 1]), ignore=(0, 1))
    assert found.label.tolist() == [3, 3]
    assert found.start.tolist() == [0, 3]
    assert found.end.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("labels", "spans"), [([], []), ([4], [(4, 0, 1)]), ([4, 4], [(4, 0, 2)]), ([4, 5], [(4, 0, 1), (5, 1, 2)])]
)
def test_shortest_sequences(labels: list[int], spans: list[tuple[int, int, int]]) -> None:
    found = runs(np.array(labels, np.int64))
    assert list(zip(*(each.tolist() for each in found), strict=True)) == spans


def test_random_sequences_frame_by_frame() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        labels = rng.integers(0, 3, rng.integers(1, 40))
        found = runs(labels, ignore=(2,))
        assert list(zip(*(each.tolist() for each in found), strict=True)) == naive.segments(labels.tolist(), exclude=(2,))
