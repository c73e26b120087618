"""Rows are kept with their source, the user's own go first, and a damaged file is told with its line."""

import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # benchmarks are not installed with the packages

from benchmarks.step_table import OFFICIAL
from planner.card import calibration
from planner.card.calibration import append, as_csv, header, known, pessimistic, read, row_for, shipped, user_file
from shared_data.atomic import WriteError
from shared_data.errors import DataError

ROW = replace(
    pessimistic(), gpu="NVIDIA GeForce RTX 3070", gib=8.0, torch="2.13.0", cuda="12.1", workspace_mib=60, launch_us=9.5, cells=12,
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


def test_the_row_for_the_unknown_takes_more_than_any_eager_step_that_was_measured() -> None:
    steps = [figures for (_, _, mode, _), figures in OFFICIAL.items() if mode == "eager"]
    lost = [reserved / allocated for _, allocated, reserved in steps]
    assert max(lost) <= pessimistic().fragmentation_high <= max(lost) + 0.02
    assert statistics.median(lost) == pytest.approx(pessimistic().fragmentation, abs=0.02)


def test_a_row_comes_back_as_it_was_written(own: Path) -> None:
    assert append(ROW) == own
    assert read(own) == [ROW]
    assert own.read_text().splitlines() == [header(), as_csv(ROW)]


def test_a_row_is_found_by_the_name_that_drivers_and_people_use() -> None:
    append(ROW)
    for name in ("NVIDIA GeForce RTX 3070", "RTX 3070", "rtx3070", "GeForce RTX 3070"):
        assert row_for(name, 7.8) == ROW
    for name in ("RTX 3070 Ti", "RTX 3080", "unknown", None):
        assert row_for(name, 7.8) == pessimistic()


def test_a_row_is_for_one_size_of_a_card() -> None:
    append(ROW)
    append(replace(ROW, gib=16.0, workspace_mib=70))  # sold in two sizes: neither row takes the other's place
    assert [row_for(ROW.gpu, gib).workspace_mib for gib in (8, 15.7)] == [60, 70]
    assert row_for(ROW.gpu, 12) == pessimistic()
    append(replace(ROW, gib=7.9, workspace_mib=80))  # the same GPU, its size by another figure
    assert [row.workspace_mib for row in read(user_file())] == [70, 80]


def test_the_newest_row_of_the_user_goes_first_and_one_of_the_same_software_is_replaced() -> None:
    append(ROW)
    append(replace(ROW, torch="2.3.1"))
    assert row_for(ROW.gpu, 8).torch == "2.3.1"
    append(replace(ROW, workspace_mib=70))
    assert row_for(ROW.gpu, 8).workspace_mib == 70
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
        (f"{header()}\n{as_csv(ROW).replace(',8.0,', ',,')}\n", "line 2"),
    ],
)
def test_a_damaged_file_is_told_with_its_line(own: Path, text: str, words: str) -> None:
    own.parent.mkdir()
    own.write_text(text)
    with pytest.raises(DataError, match=words) as told:
        row_for("RTX 3070", 8)
    assert told.value.exit_code == 65


def test_a_file_that_is_something_else_is_not_replaced(own: Path) -> None:
    own.parent.mkdir()
    own.write_text("my notes\n")
    with pytest.raises((WriteError, DataError)):
        append(ROW)
    assert own.read_text() == "my notes\n"


def test_notes_stay_and_a_strange_name_stays_on_its_line(own: Path) -> None:
    append(ROW)
    own.write_text(f"# my machine\n{own.read_text()}\n# end\n")
    append(replace(ROW, gpu="#1 GPU\nwith\u2028breaks, and a comma", gib=12))
    text = own.read_text()
    assert text.startswith("# my machine\n") and "# end\n" in text
    assert [row.gpu for row in read(own)] == [ROW.gpu, "1 GPU with breaks, and a comma"]


def test_rows_of_several_processes_are_all_kept_or_refused(own: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> bool:
        try:
            append(replace(ROW, torch=f"2.{number}"))
        except WriteError:  # another one is writing
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        written = [number for number, done in enumerate(pool.map(one, range(12))) if done]
    assert written
    assert {row.torch for row in read(own)} == {f"2.{number}" for number in written}
