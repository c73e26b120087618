"""Words of a command line: a parser that names the nearest right flag, and kinds of values that say what they expect.

A kind raises `argparse.ArgumentTypeError`, which argparse tells behind the name of the flag.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
from collections.abc import Callable
from typing import Any, TypeVar

from orchestrator.cage import memory_bytes
from orchestrator.errors import EXIT_USAGE, OrchestratorError

T = TypeVar("T")
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


def _number(text: str, kind: Callable[[str], T], holds: Callable[[T], bool], expected: str) -> T:
    with contextlib.suppress(ValueError):
        value = kind(text)
        if holds(value):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no {expected}")


def positive(text: str) -> float:
    """A number above 0."""
    return _number(text, float, lambda value: value > 0, "number above 0")


def count(text: str) -> int:
    """A whole number, 1 or more."""
    return _number(text, int, lambda value: value >= 1, "whole number of 1 or more")


def gib(text: str) -> float:
    """The size of a GPU's memory in GiB."""
    expected = f"size of a GPU's memory in GiB, above 0 and at most {LARGEST_GIB}"
    return _number(text, float, lambda value: 0 < value <= LARGEST_GIB, expected)


def amount(text: str) -> str:
    """An amount of memory above 0 in Docker's notation, without blanks around it."""
    try:
        given = memory_bytes(text)
    except OrchestratorError:
        given = 0
    if not given:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory above 0, such as 512m or 4g")
    return text.strip()
