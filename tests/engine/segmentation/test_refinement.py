import numpy as np
import pytest

from engine.segmentation.refinement import peaks, refined
from shared_data.errors import DataError
from tests.engine.segmentation import naive


def test_peaks_are_strict_maxima_of_at_least_a_half() -> None:
    #                           forced          peak             plateau            too low          last frame
    boundary = np.array([0.1, 0.2, 0.1, 0.5, 0.4, 0.8, 0.8, 0.3, 0.49, 0.2, 0.9])
    assert peaks(boundary).tolist() == [0, 3]
    assert peaks(boundary, threshold=0.2).tolist() == [0, 1, 3, 8]
    assert peaks(np.array([0.9])).tolist() == [0]
    assert peaks(np.zeros(0)).tolist() == []


def test_frame_0_takes_no_part_of_its_neighbours() -> None:
    assert peaks(np.array([0.9, 0.8, 0.1])).tolist() == [0]
    assert peaks(np.array([0.5, 0.8, 0.1])).tolist() == [0, 1]


def test_without_peaks_there_is_one_segment() -> None:
    scores = np.eye(3)[[1, 1, 2, 1, 0]].T
    assert refined(scores, np.full(5, 0.7)).tolist() == [1] * 5


def test_each_segment_takes_its_majority() -> None:
    scores = np.eye(3)[[0, 0, 1, 1, 2, 2, 1]].T
    assert refined(scores, np.array([0, 0.1, 0, 0, 0.9, 0, 0])).tolist() == [0, 0, 0, 0, 2, 2, 2]


def test_ties_go_to_the_greater_sum_of_scores_of_the_tied() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    scores = np.array([[1.0, 1, 0, 0, 0], [0, 0, 2, 2, 0], [9, 9, 9, 9, 9]])  # class 2 has the most, but only one frame
    flat = np.zeros(5)
    assert refined(scores, flat, labels=labels).tolist() == [1] * 5
    assert refined(-scores, flat, labels=labels).tolist() == [0] * 5
    assert refined(np.zeros((3, 5)), flat, labels=labels[::-1]).tolist() == [0] * 5, "the first of classes alike in both"


def test_random_sequences_against_plain_python() -> None:
    rng = np.random.default_rng(5)
    segments = ties = 0
    for _ in range(200):
        frames = int(rng.integers(1, 40))
        scores, boundary = rng.integers(-3, 4, (4, frames)).astype(np.float32), rng.integers(0, 10, frames) / 9
        labels = rng.integers(0, 4, frames) if rng.random() < 0.5 else scores.argmax(0)
        expected = naive.refined(scores.tolist(), boundary.tolist(), labels.tolist())
        assert refined(scores, boundary, labels=labels).tolist() == expected
        assert peaks(boundary).tolist() == naive.peaks(boundary.tolist())
        segments += len(peaks(boundary))
        ties += refined(scores, boundary, labels=labels).tolist() != refined(-scores, boundary, labels=labels).tolist()
    assert segments > 600
    assert ties > 20


def test_of_no_frames_nothing() -> None:
    assert refined(np.zeros((3, 0)), np.zeros(0)).shape == (0,)


def test_wrong_input_is_refused() -> None:
    scores = np.zeros((2, 5))
    with pytest.raises(DataError, match="probabilities of 4"):
        refined(scores, np.zeros(4))
    with pytest.raises(DataError, match="labels of 6"):
        refined(scores, np.zeros(5), labels=np.zeros(6, np.int64))
    with pytest.raises(DataError, match="boundary probabilities hold"):
        refined(scores, np.array([0, np.nan, 0, 0, 0]))
    with pytest.raises(DataError, match="class scores hold"):
        refined(scores - np.inf, np.zeros(5))
