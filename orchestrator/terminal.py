"""The standard output: a terminal in colour or a plain log, and a reader that may go away."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console

from orchestrator.figures import FAILED, PASSED

LOG_WIDTH = 160
"""Columns of a log, which has no width of its own."""
STYLES = {PASSED: "green", FAILED: "red", "comfortable": "green", "fits": "cyan", "tight": "yellow", "no": "red",
          "done": "green", "failed": "red", "retry": "yellow", "running": "cyan"}  # fmt: skip
"""Words that have a colour."""


class _PipedConsole(Console):
    """Goes on without a reader, so that the exit code is still that of all tests; rich itself would leave with 1."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _silence()


def console_of_stdout() -> Console:
    """The console of the standard output. A log gets no control characters, also where FORCE_COLOR is set."""
    return _PipedConsole() if sys.stdout.isatty() else _PipedConsole(width=LOG_WIDTH, force_terminal=False)


def piped(work: Callable[[], int]) -> int:
    """Run a command that prints; returns its exit code, also where its reader has gone before it was done (`--help | head`)."""
    try:
        return work()
    finally:  # also where --help leaves by SystemExit
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _silence()


def _silence() -> None:
    """Nothing is printed any more: what still waits would fail once more when the interpreter ends, with its own exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
