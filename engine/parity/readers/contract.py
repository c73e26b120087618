"""How the recorded outputs of one official data reader are replayed by a pipeline of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.parity.lines import Line
from shared_data.clips import Clips

Group = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Limits:
    """Largest errors allowed: of values (also of `full`), of weighted sums, of sums of squares (relative), of sums."""

    value: float = 1e-6
    wsum: float = 1e-5
    sumsq: float = 1e-6
    sum: float = 1e-3


@dataclass(frozen=True)
class Case:
    """One group of outputs to reproduce.

    name    as in the fixture (``train/j``)
    group   its metadata: ``options``, ``shape``, ``draws`` ... (the fixtures' README)
    clips   the split it is about; output row i is of clip ``index[i]``
    splits  all splits by name ("train", "test"), for readers that mix clips
    meta, arrays  the whole fixture
    """

    name: str
    group: Group
    clips: Clips
    index: np.ndarray
    splits: Mapping[str, Clips]
    meta: Group
    arrays: Arrays

    @property
    def options(self) -> Group:
        """The reader's settings; empty if it had none."""
        return self.group.get("options") or {}

    @property
    def draws(self) -> Sequence[Group] | None:
        """The recorded random numbers, one entry per row, or None."""
        return self.group.get("draws")


def _by_name(name: str, group: Group) -> str:
    return "train" if name.startswith("train") else "test"


def _usual(case: Case) -> Limits:
    return Limits()


def _none(case: Case) -> list[Line]:
    return []


def _nothing(meta: Group, arrays: Arrays) -> list[Line]:
    return []


@dataclass(frozen=True)
class Reader:
    """One official reader.

    clips   file of clips beside the fixture, or None if the fixture holds its own inputs (then only `whole` is asked)
    replay  our output for a case, (n, *shape) of any float type
    split   (group name, group) -> which split the clip numbers of the group mean
    limits  what is allowed for a case
    checks  further lines of a case (valid counts, frame positions, masks ...)
    whole   lines about what the fixture holds outside its groups
    """

    clips: str | None
    replay: Callable[[Case], np.ndarray]
    split: Callable[[str, Group], str] = _by_name
    limits: Callable[[Case], Limits] = _usual
    checks: Callable[[Case], list[Line]] = _none
    whole: Callable[[Group, Arrays], list[Line]] = _nothing


def differing(ours: np.ndarray, official: np.ndarray) -> float:
    """How many entries differ; infinite if the shapes do."""
    return float(np.sum(ours != official)) if ours.shape == official.shape else float("inf")


def largest(ours: np.ndarray, official: np.ndarray) -> float:
    """The largest absolute difference; NaN if there is one, infinite if the shapes differ."""
    if ours.shape != official.shape:
        return float("inf")
    return float(np.abs(ours - official).max()) if ours.size else 0.0
