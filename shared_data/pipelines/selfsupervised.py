"""What the options of the readers for learning without labels have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared_data.errors import UsageError, nearest
from shared_data.pipelines import contract

REPRESENTATIONS = {"joint": "j", "motion": "jm", "bone": "b"}
"""These readers' names of the streams."""


def check_representation(name: object) -> None:
    """Raises `UsageError` unless `name` is one of the three."""
    if name not in REPRESENTATIONS:
        raise UsageError(
            f"option representation is {name!r}{nearest(str(name), REPRESENTATIONS)}",
            where="pipeline option representation",
            expected=", ".join(REPRESENTATIONS),
        )


def ratio_of(option: str, given: Any, numbers: Sequence[int]) -> tuple[float, ...]:
    """`given` as floats; raises `UsageError` unless it is as many rising numbers above 0 and at most 1 as allowed."""
    ok = isinstance(given, Sequence) and not isinstance(given, str) and len(given) in numbers
    ok = ok and all(contract.is_number(p) and 0 < p <= 1 for p in given) and list(given) == sorted(given)
    shape = "two rising numbers" if tuple(numbers) == (2,) else "one or two rising numbers"
    contract.check(ok, option, given, f"{shape} above 0 and at most 1, such as [0.5, 1]")
    return tuple(float(p) for p in given)
