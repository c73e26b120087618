"""From tensors to a card and back, on rows written down by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from planner.card.budget import COMFORTABLE, FITS, Budget, Interval, for_card, of_device
from planner.card.calibration import USER_FILE, append, pessimistic
from planner.card.cards import find
from shared_data.errors import UsageError

ROW = replace(
    pessimistic(), gpu="planted", gib=8.0, driver_mib=100, context_mib=400, workspace_mib=50, workspace_high_mib=200,
    fragmentation=1.1, fragmentation_high=1.25,
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


def test_a_card_that_the_calibration_eats_has_no_room_and_still_shares_that_are_numbers() -> None:
    for gib in (0.6, 0.1):  # workspaces are more than is left; driver and context alone are more than there is
        budget = Budget(gib, ROW)
        assert budget.room(1.0) < 0 and 1 < budget.share(0.0) < float("inf")
        assert budget.card_for(100) == Budget(8, ROW).card_for(100)
    assert Budget(8, ROW, taken_gib=100).room() < 0


def test_programs_cannot_take_less_than_nothing() -> None:
    with pytest.raises(UsageError, match="taken"):
        Budget(8, ROW, taken_gib=-1)


def test_of_a_device_that_is_there_the_driver_has_had_its_part() -> None:
    row = pessimistic()
    assert of_device("no such GPU", 8 * 2**30).usable == 8192 - row.context_mib
    assert of_device("no such GPU", 8 * 2**30, 0.5).usable == 8192 - 512 - row.context_mib


def test_of_a_device_what_others_hold_is_off_without_this_process_own_context() -> None:
    row, total = pessimistic(), 8 * 2**30
    context = int(row.context_mib * 2**20)
    assert of_device("no such GPU", total, others_bytes=context // 2).taken_gib == 0
    budget = of_device("no such GPU", total, 0.5, others_bytes=context + 2 * 2**30)
    assert budget.taken_gib == 2.5 and budget.usable == 8192 - 2560 - row.context_mib


def test_a_row_is_taken_for_its_own_card_and_size_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER_FILE, str(tmp_path / "rows.csv"))
    row = replace(ROW, gpu="NVIDIA GeForce RTX 3080", gib=10.0)
    append(row)
    ten, twelve = find("3080 10GB"), find("3080 12GB")
    assert for_card(ten, 10) == Budget(10, row) and for_card(row.gpu, 9.8, 1) == Budget(9.8, row, 1)
    assert of_device(row.gpu, int(9.78 * 2**30)).calibration == row
    for budget in (for_card(twelve, 12), for_card(ten, 8), for_card(None, 10), for_card("another", 10),
                   of_device(row.gpu, int(11.76 * 2**30))):  # fmt: skip
        assert budget.calibration == pessimistic()
