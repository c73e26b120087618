"""The law of a step from two timelines, against sums done by hand."""

from __future__ import annotations

import itertools

import pytest

from planner.steps.affine import LARGEST_BATCH, MIB, Envelope, envelope
from planner.steps.lifetimes import Timeline, rounded

BATCH, WEIGHTS, HIDDEN, SUMS = 0, 1, 2, 3
EVENTS = (BATCH, WEIGHTS, HIDDEN, -1 - HIDDEN, SUMS, -1 - SUMS)


def timeline(clips: int, events: tuple[int, ...] = EVENTS, hidden: int = 1000) -> Timeline:
    """A batch of 100 bytes a clip, 700 bytes of weights; then 1000 bytes a clip, and after them 100 000 bytes and 10 a clip."""
    return Timeline((100 * clips, 700, hidden * clips, 100_000 + 10 * clips), events)


def law() -> Envelope:
    found = envelope(timeline(2), 2, timeline(32), 32, batch=1)
    assert found is not None
    return found


@pytest.mark.parametrize("clips", [1, 3, 100, 101, 102, 4096])
def test_the_peak_is_that_of_the_higher_moment_to_the_byte(clips: int) -> None:
    first, second = rounded(1000 * clips), rounded(100_000 + 10 * clips)
    assert law().at(clips) == rounded(100 * clips) + 1024 + max(first, second)
    assert (first > second) == (clips > 101)  # both moments were asked about


def test_clips_that_wait_cost_their_own_bytes() -> None:
    assert law().at(3, 50) - law().at(3, 3) == rounded(5000) - 512


def test_the_largest_batch_is_the_last_that_fits() -> None:
    room = 300_000
    largest = law().largest(room)
    assert law().at(largest) <= room < law().at(largest + 1)
    assert law().largest(1000) == 0
    assert law().largest(1e15) == LARGEST_BATCH


def test_more_clips_never_need_less() -> None:
    asked = [*range(1, 300), 1000, LARGEST_BATCH - 1, LARGEST_BATCH, 10**9, 10**17, 10**30]
    peaks = [law().at(clips) for clips in asked]
    assert peaks[0] > 0 and all(few <= many for few, many in itertools.pairwise(peaks))
    assert law().at(10**30) >= 1100 * 10**30


def test_the_line_is_that_of_large_batches() -> None:
    line = law().line
    assert line.slope * MIB == 1100 and line.intercept * MIB == 1024
    assert line.at(512) * MIB == law().at(512)
    assert all(line.at(clips) * MIB <= law().at(clips) for clips in (1, 50, 101, 200, 5000))


def test_what_treats_clips_unlike_has_no_law() -> None:
    other_order = (BATCH, WEIGHTS, HIDDEN, SUMS, -1 - HIDDEN, -1 - SUMS)
    assert envelope(timeline(2), 2, timeline(32, other_order), 32, batch=1) is None
    assert envelope(timeline(2, hidden=2), 2, timeline(32, hidden=33), 32, batch=1) is None  # 4 and 1056 bytes: not whole
    assert envelope(timeline(2, hidden=900), 2, timeline(32, hidden=5), 32, batch=1) is None  # falls


def test_an_envelope_survives_json() -> None:
    assert Envelope.from_dict(law().as_dict()) == law()
    for damage in ({"moments": []}, {"slope": [1]}, {"fixed": [1.5, 2, 3]}, {"batch": None}):
        with pytest.raises((ValueError, TypeError)):
            Envelope.from_dict({**law().as_dict(), **damage})
