"""One figure of an encoder: by which protocol, over which draws, by which rule of selection."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.downstream.selection import RULES, Rule
from shared_data.errors import DataError


@dataclass(frozen=True)
class Result:
    """Top-1 of one protocol.

    evaluation  what was done: "linear", "k-NN", "few-shot" ...; with `setting` its name in tables and beside published figures
    setting     "isc", "k = 1", "K = 5, 60 classes" ...
    rule        how the epoch was chosen
    top1        fractions, one for each of `seeds`; a single one where nothing is random
    top5        the same, () where it is not told
    seeds       of start weights and shuffles, or of draws of clips
    note        what a reader must know to read the figure right
    """

    evaluation: str
    setting: str
    rule: Rule
    top1: tuple[float, ...]
    top5: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not self.top1 or len(self.seeds) not in (0, len(self.top1)) or len(self.top5) not in (0, len(self.top1)):
            raise ValueError(f"{len(self.top1)} figures, {len(self.top5)} of top-5, {len(self.seeds)} seeds")

    @property
    def mean(self) -> float:
        return statistics.fmean(self.top1)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (of a sample); None for a single figure."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "mean": self.mean, "spread": self.spread}


@dataclass(frozen=True)
class Published:
    """A figure from elsewhere, beside which a `Result` of the same `evaluation` and `setting` stands; `top1` a fraction.

    rule    as far as its source says; None where it does not
    source  where it was read
    """

    evaluation: str
    setting: str
    top1: float
    source: str
    rule: Rule | None = None


def result_of(row: Mapping[str, Any]) -> Result:
    """From `Result.as_dict`, or what JSON makes of it. Raises `DataError` for anything else."""
    try:
        found = Result(
            str(row["evaluation"]), str(row["setting"]), row["rule"], _shares(row["top1"]), _shares(row["top5"]),
            tuple(int(seed) for seed in row["seeds"]), str(row["note"]),
        )  # fmt: skip
        if found.rule not in RULES:
            raise ValueError(f"a rule {found.rule!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"no result of an evaluation: {error}", where=str(dict(row))[:200]) from error
    return found


def published_of(row: Mapping[str, Any]) -> Published:
    """From the fields of a `Published`. Raises `DataError` for anything else."""
    try:
        return Published(**row)
    except TypeError as error:
        raise DataError(f"no published figure: {error}", where=str(dict(row))[:200]) from error


def _shares(values: Any) -> tuple[float, ...]:
    shares = tuple(float(value) for value in values)
    if any(not 0 <= share <= 1 for share in shares):
        raise ValueError(f"{shares} are no fractions")
    return shares
