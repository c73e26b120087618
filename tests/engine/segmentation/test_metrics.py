"""Segmentation metrics: worked by hand, and against plain Python written from the definitions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from engine.segmentation.metrics import _pairs, excluded, segmentation_metrics
from shared_data.errors import DataError, UsageError
from tests.engine.segmentation import naive


def labels(*spans: tuple[int, int]) -> np.ndarray:
    """Of (class, frames)."""
    return np.concatenate([np.full(frames, k, np.int64) for k, frames in spans])


def one(truth: np.ndarray, predicted: np.ndarray, boundaries: list[int], **how: Any) -> dict[str, float | None]:
    how = {"exclude": (0,), **how}
    return segmentation_metrics([truth], [predicted], boundaries=[np.array(boundaries, np.int64)], **how).as_dict()


def random_labels(rng: np.random.Generator, frames: int, classes: int) -> np.ndarray:
    lengths = rng.integers(1, 9, frames)
    return np.repeat(rng.integers(0, classes, frames), lengths)[:frames]


def test_split_segment() -> None:
    truth, predicted = labels((1, 10), (2, 10)), labels((1, 4), (2, 2), (1, 4), (2, 10))
    found = one(truth, predicted, [0, 4, 6, 10])
    # overlaps of the predicted segments: .4, none (its best is the other end's), .4 of one that is taken, 1
    assert found == pytest.approx(
        {
            "accuracy": 90,
            "edit": 50,  # two of four segments are to be removed
            "f1_10": 100 * 4 / 6,  # 2 right, 2 wrong, none missed
            "f1_25": 100 * 4 / 6,
            "f1_50": 100 * 2 / 6,  # 1 right, 3 wrong, 1 missed
            "boundary_f1": 50,  # frame 10 is right, 4 is too far, 6 is near the same change
        }
    )


def test_merged_segments() -> None:
    truth, predicted = labels((1, 5), (2, 5), (1, 10)), labels((1, 20))
    found = one(truth, predicted, [0], thresholds=(0.1, 0.5, 0.75))
    assert found == pytest.approx(
        {"accuracy": 75, "edit": 100 / 3, "f1_10": 50, "f1_50": 50, "f1_75": 0, "boundary_f1": 0}  # .5 with the second of class 1
    )


def test_missing_segment() -> None:
    truth, predicted = labels((0, 5), (1, 5), (0, 5), (2, 5)), labels((0, 15), (2, 5))
    found = one(truth, predicted, [13])
    assert found == pytest.approx(
        {"accuracy": 75, "edit": 50, "f1_10": 200 / 3, "f1_25": 200 / 3, "f1_50": 200 / 3, "boundary_f1": 50}
    )


def test_the_best_segment_counts_even_when_taken() -> None:
    """Of two true segments that a predicted one overlaps enough, the better is taken: it may not fall back on the other."""
    truth, predicted = labels((1, 10), (2, 1), (1, 4)), labels((1, 4), (2, 1), (1, 10))
    # first: .4 with the first true one. Second, frames 5 to 15: 5/15 of the first, 4/10 of the second
    assert one(truth, predicted, [], thresholds=(0.3,))["f1_30"] == pytest.approx(
        200 / 3
    )  # the frame of class 2 is wrong and missed
    truth, predicted = labels((1, 10), (2, 1), (1, 4)), labels((1, 4), (2, 1), (1, 9), (2, 1))
    # second, frames 5 to 14: 5/14 of the first, taken; 3/10 of the other would do, and is not asked
    assert one(truth, predicted, [], thresholds=(0.3,))["f1_30"] == pytest.approx(100 * 2 / (2 + 3 + 2))


def test_of_two_segments_overlapped_alike_the_earlier_is_taken() -> None:
    truth, predicted = labels((1, 4), (2, 2), (1, 4)), labels((2, 2), (1, 6), (2, 1), (1, 1))
    # a quarter of both for the first predicted segment of class 1, a quarter of the later one for the second: both are right
    assert one(truth, predicted, [], thresholds=(0.25,))["f1_25"] == pytest.approx(100 * 4 / (4 + 2 + 1))


def test_counts_are_summed_over_sequences_and_edit_scores_averaged() -> None:
    truths = [labels((1, 10)), labels((1, 5), (2, 5), (3, 5))]
    predictions = [labels((2, 10)), labels((1, 5), (2, 5), (3, 5))]
    found = segmentation_metrics(truths, predictions, exclude=())
    assert found.f1 == (75, 75, 75)  # 3 right, 1 wrong, 1 missed; the mean of 0 and 100 would be 50
    assert found.edit == 50
    assert found.accuracy == 60
    assert found.boundary_f1 is None
    assert found.as_dict()["boundary_f1"] is None


@pytest.mark.parametrize("official_ends", [False, True])
def test_perfect_is_100_everywhere(official_ends: bool) -> None:
    rng = np.random.default_rng(2)
    truths = [np.append(random_labels(rng, frames, 5), [1, 1]) for frames in (3, 50, 400)]
    changes = [np.flatnonzero(np.diff(each)) + 1 for each in truths]
    found = segmentation_metrics(
        truths, truths, exclude=(0,), boundaries=changes, thresholds=(0.1, 0.9, 1.0), tolerance=0, official_ends=official_ends
    )
    assert set(found.as_dict().values()) == {100}


def test_nothing_to_find_and_nothing_found_is_100() -> None:
    nothing = labels((0, 6))
    assert set(one(nothing, nothing, [0]).values()) == {100}
    found = one(nothing, labels((0, 3), (1, 3)), [3])
    assert (found["accuracy"], found["edit"], found["f1_10"], found["boundary_f1"]) == (50, 0, 0, 0)


def test_official_ends_change_the_last_run_alone() -> None:
    truth, predicted = labels((1, 10)), labels((2, 6), (1, 4))  # 4/10, or 3/9 with ends one frame early
    for official_ends, expected in ((False, 200 / 3), (True, 0)):
        assert one(truth, predicted, [], thresholds=(0.35,), official_ends=official_ends)["f1_35"] == pytest.approx(expected)
    tail = labels((3, 7))
    truth, predicted = np.append(truth, tail), np.append(predicted, tail)
    for threshold, expected in ((0.4, 80), (0.41, 40)):
        both = [one(truth, predicted, [], thresholds=(threshold,), official_ends=each) for each in (False, True)]
        assert both[0] == both[1]
        assert list(both[0].values())[2] == pytest.approx(expected)


def test_official_ends_make_a_last_run_of_one_frame_nothing() -> None:
    each = labels((1, 4), (2, 1))
    assert one(each, each, [], official_ends=False)["f1_50"] == 100
    assert one(each, each, [], official_ends=True)["f1_50"] == 50


def test_background_is_what_is_called_so() -> None:
    assert excluded(("background", "drink", "Background", "the background")) == (0,)
    assert excluded(("no action", "drink")) == ()
    truth, predicted = labels((0, 5), (1, 5)), labels((1, 10))
    assert one(truth, predicted, [])["edit"] == 100
    assert one(truth, predicted, [], exclude=())["edit"] == 50


def test_unknown_frames_are_taken_out() -> None:
    truth, predicted = labels((255, 2), (1, 4), (255, 3), (1, 4), (2, 4), (255, 9)), labels((2, 7), (1, 6), (2, 4), (3, 9))
    # what is left: 1 x 8, 2 x 4, where 2 x 4, 1 x 4, 2 x 4 was predicted
    found = one(truth, predicted, [6, 8, 13, 20], tolerance=0)
    assert found["accuracy"] == pytest.approx(100 * 8 / 12)
    assert found["edit"] == pytest.approx(100 * 2 / 3)
    assert found["f1_50"] == pytest.approx(100 * 4 / 5)
    assert found["boundary_f1"] == 100  # 6 is the first frame that is left out, as is 8; 20 is padding


def test_sequences_of_unknown_frames_count_for_nothing() -> None:
    truth, unknown = labels((1, 4), (2, 4)), labels((255, 5))
    alone = segmentation_metrics([truth], [truth[::-1]], exclude=())
    assert segmentation_metrics([unknown, truth], [labels((1, 5)), truth[::-1]], exclude=()) == alone
    with pytest.raises(DataError, match="no frame has a known class"):
        segmentation_metrics([unknown], [unknown], exclude=())


@pytest.mark.parametrize("official_ends", [False, True])
@pytest.mark.parametrize("unknown", [0.0, 0.2])
def test_random_sequences_against_plain_python(official_ends: bool, unknown: float) -> None:
    rng = np.random.default_rng([3, official_ends, int(10 * unknown)])
    partly = 0
    for _ in range(60):
        truths, predictions, boundaries = [], [], []
        for _ in range(int(rng.integers(1, 4))):
            frames = int(rng.integers(1, 70))
            truth = random_labels(rng, frames, 4)
            predicted = np.where(rng.random(frames) < 0.8, np.roll(truth, rng.integers(-3, 4)), random_labels(rng, frames, 4))
            truth[rng.random(frames) < unknown] = 255
            truths.append(truth)
            predictions.append(predicted)
            boundaries.append(rng.integers(0, frames, rng.integers(0, 12)))
        if all((truth == 255).all() for truth in truths):
            continue
        how = {"exclude": (0,), "thresholds": (0.1, 0.25, 0.5, 0.75), "official_ends": official_ends}
        how["tolerance"] = int(rng.integers(0, 6))
        found = segmentation_metrics(truths, predictions, boundaries=boundaries, **how).as_dict()
        expected = naive.measured(
            [each.tolist() for each in truths],
            [each.tolist() for each in predictions],
            boundaries=[each.tolist() for each in boundaries],
            **how,
        )
        assert found == pytest.approx(expected)
        partly += 0 < expected["f1_50"] < 100 and 0 < expected["boundary_f1"] < 100
    assert partly > 30, "most cases must be neither all right nor all wrong"


def test_boundaries_are_paired_as_often_as_can_be() -> None:
    assert _pairs(np.array([4, 10]), np.array([0, 5]), 5) == 2  # 4 is nearer to 5, which 10 needs
    assert _pairs(np.array([5]), np.array([4, 5, 6]), 5) == 1
    rng = np.random.default_rng(4)
    for _ in range(300):
        found, there = (np.unique(rng.integers(0, 60, rng.integers(0, 15))) for _ in range(2))
        tolerance = int(rng.integers(0, 9))
        assert _pairs(found, there, tolerance) == naive.most_pairs(found.tolist(), there.tolist(), tolerance)


def test_wrong_input_is_refused() -> None:
    truth = labels((1, 4), (2, 4))
    with pytest.raises(DataError, match="no sequences"):
        segmentation_metrics([], [], exclude=())
    with pytest.raises(DataError, match=r"shape \(8,\).*shape \(7,\)"):
        segmentation_metrics([truth], [truth[1:]], exclude=())
    with pytest.raises(DataError, match="2 sequences"):
        segmentation_metrics([truth, truth], [truth], exclude=())
    with pytest.raises(DataError, match="1 sequences"):
        segmentation_metrics([truth], [truth], exclude=(), boundaries=[])
    for outside in (-1, 8):
        with pytest.raises(DataError, match=f"at frame {outside}"):
            one(truth, truth, [3, outside])
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="thresholds"):
            one(truth, truth, [], thresholds=(threshold,))
    with pytest.raises(UsageError, match="tolerance"):
        one(truth, truth, [], tolerance=-1)


def test_measuring_does_not_wait_for_torch() -> None:
    modules = "engine.segmentation.metrics, engine.segmentation.refinement"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit('torch' in sys.modules)"], check=True)
