"""Words of a command line: a parser that names the nearest right flag, and kinds of values that say what they expect.

A kind raises `argparse.ArgumentTypeError`, which argparse tells behind the name of the flag.
"""

from __future__ import annotations

import argparse
import difflib
from typing import Any

from orchestrator.cage import memory_bytes
from orchestrator.errors import EXIT_USAGE, OrchestratorError

LARGEST_GIB = 4096
"""GiB: no GPU that is asked about has more."""


class Parser(argparse.ArgumentParser):
    """Names the nearest right flag, and leaves by `OrchestratorError`."""

    def error(self, message: str) -> Any:
        wrong = message.rpartition(": ")[2].split()[0] if message.startswith("unrecognized") else ""
        flags = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(wrong, flags, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise OrchestratorError(message + hint, f"see `{self.prog} --help`", exit_code=EXIT_USAGE)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def count(text: str) -> int:
    """A whole number, 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return value


def gib(text: str) -> float:
    """The size of a GPU's memory in GiB."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LARGEST_GIB:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a GPU's memory in GiB, above 0 and at most {LARGEST_GIB}")
    return value


def amount(text: str) -> str:
    """An amount of memory above 0 in Docker's notation, without blanks around it."""
    try:
        given = memory_bytes(text)
    except OrchestratorError:
        given = 0
    if not given:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory above 0, such as 512m or 4g")
    return text.strip()
