"""What is shown while the smoke tests run: a table that counts, drawn over in a terminal; a line for each verdict in a log."""

from __future__ import annotations

import re

from orchestrator.status import Status, watched
from tests.orchestrator.test_report import console


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(status: Status) -> list[str]:
    where = console(80)
    where.print(status)
    return where.file.getvalue().splitlines()


def row(status: Status, model: str) -> list[str]:
    [line] = [line for line in drawn(status) if line.startswith(model)]
    return line.split()


def test_the_seconds_of_a_stage_count_until_the_next():
    clock = Clock()
    status = Status(["ctrgcn", "hypergcn"], clock)
    clock.now = 103.0
    assert row(status, "ctrgcn") == ["ctrgcn", "waiting"]
    status.told("ctrgcn", "running")
    assert row(status, "ctrgcn") == ["ctrgcn", "running", "0"]
    clock.now = 110.4
    assert row(status, "ctrgcn") == ["ctrgcn", "running", "7"]
    status.told("ctrgcn", "removing")
    assert row(status, "ctrgcn") == ["ctrgcn", "removing", "0"]
    assert drawn(status)[-1].strip() == "0 of 2 done"


def test_a_verdict_is_shown_at_once_and_stops_the_clock():
    clock = Clock()
    status = Status(["ctrgcn", "hypergcn"], clock)
    for now, stage in ((101.0, "starting"), (102.0, "running"), (116.2, "removing"), (116.5, "passed")):
        clock.now = now
        status.told("ctrgcn", stage)
    status.told("hypergcn", "failed")
    clock.now = 500.0
    assert row(status, "ctrgcn") == ["ctrgcn", "done", "14", "passed"]
    assert row(status, "hypergcn") == ["hypergcn", "done", "0", "FAILED"]
    assert drawn(status)[-1].strip() == "2 of 2 done, 1 failed"
    assert status.line("ctrgcn") == "ctrgcn    passed  14.2 s"
    assert status.line("hypergcn") == "hypergcn  FAILED  0.0 s"


def test_a_log_has_a_line_for_each_verdict_and_no_control_characters():
    where = console()
    with watched(["ctrgcn"], where) as told:
        for stage in ("starting", "running", "removing", "passed"):
            told("ctrgcn", stage)
    assert re.fullmatch(r"ctrgcn  passed  \d+\.\d s\n", where.file.getvalue())  # no stages


def test_a_terminal_has_a_table_that_is_drawn_over():
    where = console(80, force_terminal=True)
    with watched(["ctrgcn", "hypergcn"], where) as told:
        told("ctrgcn", "running")
    out = where.file.getvalue()
    assert "running" in out and "waiting" in out and "0 of 2 done" in out
    assert "\x1b[2K" in out.rpartition("0 of 2 done")[2]  # erased again: the tables come in its place
