"""Rows are kept with their source, the user's own go first, and a damaged file is told with its line."""

from dataclasses import replace
from pathlib import Path

import pytest

from planner.card import calibration
from planner.card.calibration import append, as_csv, header, known, pessimistic, read, row_for, shipped, user_file
from shared_data.atomic import WriteError
from shared_data.errors import DataError

ROW = replace(
    pessimistic(), gpu="NVIDIA GeForce RTX 3070", torch="2.13.0", cuda="12.1", workspace_mib=60, launch_us=9.5, cells=12,
    source='sal calibrate, "twice"',
)  # fmt: skip


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "settings" / "calibration.csv"
    monkeypatch.setenv(calibration.USER_FILE, str(file))
    return file


def test_every_shipped_row_says_where_it_is_from() -> None:
    assert [row.gpu for row in shipped()].count(calibration.UNKNOWN) == 1
    for row in shipped():
        assert row.date and len(row.source) > 40
        assert not row.measured or row.cells > 0


def test_the_row_for_the_unknown_takes_more_than_any_that_was_measured() -> None:
    for row in shipped():
        assert row.workspace_high_mib <= pessimistic().workspace_high_mib
        assert row.fragmentation_high <= pessimistic().fragmentation_high


def test_a_row_comes_back_as_it_was_written(own: Path) -> None:
    assert append(ROW) == own
    assert read(own) == [ROW]
    assert own.read_text().splitlines() == [header(), as_csv(ROW)]


def test_a_row_is_found_by_the_name_that_drivers_and_people_use() -> None:
    append(ROW)
    for name in ("NVIDIA GeForce RTX 3070", "RTX 3070", "rtx3070", "GeForce RTX 3070"):
        assert row_for(name) == ROW
    for name in ("RTX 3070 Ti", "RTX 3080", None):
        assert row_for(name) == pessimistic()


def test_the_newest_row_of_the_user_goes_first_and_one_of_the_same_software_is_replaced() -> None:
    append(ROW)
    append(replace(ROW, torch="2.3.1"))
    assert row_for(ROW.gpu).torch == "2.3.1"
    append(replace(ROW, workspace_mib=70))
    assert row_for(ROW.gpu).workspace_mib == 70
    assert len(read(user_file())) == 2
    assert known()[-1] in shipped()


def test_notes_and_empty_lines_are_passed_over(own: Path) -> None:
    own.parent.mkdir()
    own.write_text(f"# mine\n\n{header()}\n# a note\n{as_csv(ROW)}\n")
    assert read(own) == [ROW]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no calibration file"),
        ("a,b\n1,2\n", "no calibration file"),
        (f"{header()}\n{as_csv(ROW)},1\n", "line 2"),
        (f"{header()}\n\n{as_csv(ROW).replace('60', 'sixty')}\n", "line 3"),
        (f"{header()}\n{as_csv(replace(ROW, context_mib=1e308)).replace('1e+308', 'inf')}\n", "line 2"),
        (f"{header()}\n{as_csv(ROW).replace(',60,', ',-60,')}\n", "line 2"),
        (f"{header()}\n{as_csv(ROW).replace(',1.09,', ',0.9,')}\n", "line 2"),
    ],
)
def test_a_damaged_file_is_told_with_its_line(own: Path, text: str, words: str) -> None:
    own.parent.mkdir()
    own.write_text(text)
    with pytest.raises(DataError, match=words) as told:
        row_for("RTX 3070")
    assert told.value.exit_code == 65


def test_a_file_that_is_something_else_is_not_replaced(own: Path) -> None:
    own.parent.mkdir()
    own.write_text("my notes\n")
    with pytest.raises((WriteError, DataError)):
        append(ROW)
    assert own.read_text() == "my notes\n"
