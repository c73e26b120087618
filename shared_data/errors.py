"""The one family of errors that a user may see, with the exit code each one ends a command with.

Every message answers four questions: what is wrong, where (file, key, row), what was expected, what to do next.
`docs/exit-codes.md` lists the codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class LabError(Exception):
    """An error that the user can act on; commands print it without a traceback and leave with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", next_step: str = "") -> None:
        self.what, self.where, self.expected, self.next_step = what, where, expected, next_step
        parts = [what]
        if where:
            parts.append(f"  where:    {where}")
        if expected:
            parts.append(f"  expected: {expected}")
        if next_step:
            parts.append(f"  next:     {next_step}")
        super().__init__("\n".join(parts))


def nearest(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest of the `known` words, or an empty string."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.55)
    return f"; did you mean {close[0]}?" if close else ""


class UsageError(LabError):
    """A wrong flag, option, key or value."""

    exit_code = 2


def require(holds: bool, argument: str, value: object, expected: str) -> None:
    """Refuse the `value` of a model's `argument` unless `holds`, with a `UsageError` that names what was `expected`."""
    if not holds:
        raise UsageError(f"model argument {argument} is {value!r}", where="model_args", expected=expected)


def require_known(argument: str, value: object, known: Collection[str]) -> None:
    """Refuse a `value` that is none of the `known` words, with a `UsageError` that names the nearest."""
    if value not in tuple(known):
        raise UsageError(
            f"model argument {argument} is {value!r}{nearest(str(value), known)}", where="model_args", expected=", ".join(known)
        )


class DataError(LabError):
    """A data file that exists but cannot be used as it is."""

    exit_code = 65


class MissingInputError(LabError):
    """A file or folder that the user named does not exist or cannot be read."""

    exit_code = 66
