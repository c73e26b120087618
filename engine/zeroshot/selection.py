"""Which cycle of a run counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from shared_data.errors import UsageError

Selection = Literal["last", "val", "oracle"]


def selected(rule: Selection, test: Sequence[float], validation: Sequence[float] | None = None) -> int:
    """The number of the cycle, from the accuracies on unseen classes after each cycle; the first of equals.

    last    the last one: looks at no accuracy
    val     the best of `validation`: those of the run on the validation split, whose unseen classes are others
    oracle  the best on the test clips themselves, as officially: it tells more than a user could know

    Raises `UsageError` for "val" without one validation accuracy per cycle.
    """
    if rule == "last":
        return len(test) - 1
    known = test if rule == "oracle" else validation
    if known is None or len(known) != len(test):
        raise UsageError(
            f"selection {rule!r} needs the accuracies of the validation run",
            where=f"{len(known or ())} of them for {len(test)} cycles",
            expected="one per cycle",
            next_step="train on the validation split with the same settings first, or select the last cycle",
        )
    return max(range(len(known)), key=lambda cycle: known[cycle])
