"""The standard output: a log stays plain, and a reader that goes away costs neither a traceback nor a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.report import report
from orchestrator.status import watched
from orchestrator.terminal import console_of_stdout, piped
from tests.orchestrator.test_report import verdict


def test_the_standard_output_of_a_log_stays_plain_though_colour_is_forced(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    where = console_of_stdout()
    with watched(["ctrgcn"], where) as told:
        told("ctrgcn", "failed")
    report([verdict("ctrgcn", False)], where)
    out = capsys.readouterr().out
    assert "FAILED" in out and "\x1b" not in out


def test_what_a_command_returns_or_raises_goes_on(capsys):
    assert piped(lambda: 3) == 3
    with pytest.raises(FileNotFoundError):
        piped(lambda: len(Path("/nowhere").read_text()))
