"""From tensors to a card and back, on rows written down by hand."""

from dataclasses import replace

import pytest

from planner.card.budget import COMFORTABLE, FITS, Budget, Interval, of_device
from planner.card.calibration import pessimistic
from shared_data.errors import UsageError

ROW = replace(
    pessimistic(), gpu="planted", driver_mib=100, context_mib=400, workspace_mib=50, workspace_high_mib=200, fragmentation=1.1,
    fragmentation_high=1.25,
)  # fmt: skip


def test_what_is_usable_is_the_card_less_driver_context_and_other_programs() -> None:
    assert Budget(8, ROW).usable == 8192 - 500
    assert Budget(8, ROW, taken_gib=0.5).usable == 8192 - 512 - 500


def test_workspaces_are_allocated_and_fragmentation_is_on_top_of_them() -> None:
    budget = Budget(8, ROW)
    assert budget.allocated(1000) == Interval(1000, 1050, 1200)
    assert budget.reserved(1000) == Interval(1000, pytest.approx(1155), 1500)
    assert budget.share(1000) == 1500 / budget.usable


@pytest.mark.parametrize("share", [COMFORTABLE, FITS, 1.0])
def test_room_is_the_inverse_of_share(share: float) -> None:
    budget = Budget(6, ROW, taken_gib=0.7)
    assert budget.share(budget.room(share)) == pytest.approx(share)


@pytest.mark.parametrize("tensors", [1.0, 500.0, 20_000.0])
def test_the_card_that_is_named_is_the_smallest_that_fits(tensors: float) -> None:
    gib = Budget(1000, ROW, taken_gib=0.5).card_for(tensors)
    assert Budget(gib, ROW, 0.5).share(tensors) == pytest.approx(FITS)


def test_the_interval_contains_its_point_for_every_row_that_is_shipped() -> None:
    for tensors in (0.0, 100.0, 6000.0):
        for interval in (Budget(8).allocated(tensors), Budget(8).reserved(tensors)):
            assert interval.low <= interval.point <= interval.high


def test_a_card_that_the_calibration_eats_is_refused_with_the_size_that_would_do() -> None:
    with pytest.raises(UsageError, match="leaves nothing") as refused:
        Budget(1)
    least = float(refused.value.expected.removeprefix("more than ").removesuffix(" GiB"))
    assert Budget(least + 0.01).room(1.0) > 0


def test_programs_cannot_take_less_than_nothing() -> None:
    with pytest.raises(UsageError, match="taken"):
        Budget(8, ROW, taken_gib=-1)


def test_of_a_device_that_is_there_the_driver_has_had_its_part() -> None:
    row = pessimistic()
    assert of_device("no such GPU", 8 * 2**30).usable == 8192 - row.context_mib
