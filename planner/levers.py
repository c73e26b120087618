"""What a run can give up for memory, the cheapest first, and the first set of it that is enough.

Levers that keep every number come before one that only rounds differently, and that before micro-batches, where BatchNorm sees
other statistics. A network without BatchNorm is cut into pieces before it is rounded. A shorter window is another experiment:
never chosen, only suggested.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

from engine.step import Precision
from layers.recompute import Level
from planner.steps.tracing import Phase, TooFewValues
from planner.steps.work import StepWork

Key = Literal["test_batch_size", "recompute", "precision", "forward_batch_size"]
LEVELS = get_args(Level)
"""From what keeps most to what keeps least."""


@dataclass(frozen=True)
class Settings:
    """Of a run's settings those that memory depends on; the fields named in `Key` are those that a lever may change.

    forward_batch_size   clips per forward pass, None for the whole batch
    """

    batch_size: int
    test_batch_size: int
    forward_batch_size: int | None = None
    recompute: Level = "cheap"
    precision: Precision = "fp32"

    @property
    def piece(self) -> int:
        """Clips per forward pass."""
        return min(self.forward_batch_size or self.batch_size, self.batch_size)


@dataclass(frozen=True)
class Lever:
    """One way to need less memory.

    setting   (key, value), value None where there is one for each case
    changes   whether numbers of the run change
    says      what a user reads; {value} is the value chosen
    """

    setting: tuple[Key, str | None]
    changes: bool
    says: str


LEVERS = (
    Lever(("test_batch_size", None), False, "evaluation {value} clips at a time: no number changes"),
    Lever(("recompute", "cheap"), False, "cheap values are computed again in the backward pass: no number changes"),
    Lever(("recompute", "blocks"), False, "blocks are computed again in the backward pass: no number changes, it takes longer"),
    Lever(("precision", "bf16"), True, "autocast to bf16: the numbers change by rounding; --precision fp32 forbids it"),
    Lever(("forward_batch_size", None), True, "the same optimizer step, but BatchNorm sees {value} clips at a time"),
)
WITHOUT_BATCH_NORM = "the same optimizer step in pieces of {value} clips; the network has no BatchNorm that would notice"
WINDOW = "a shorter --train-window-size needs less too, but is another experiment: never chosen for you"


class Costs(Protocol):
    """What a recipe's network needs, in MiB of tensors, and what it computes; `planner.costs.RunCosts` traces it."""

    @property
    def batch_norm(self) -> bool:
        """Whether the network normalises by statistics of the batch."""

    def train(self, settings: Settings) -> float:
        """Peak of a training step. Raises `TooFewValues` for pieces too small for BatchNorm."""

    def evaluation(self, settings: Settings) -> float:
        """Peak of an evaluation pass inside a training run."""

    def largest(self, settings: Settings, phase: Phase, room: float) -> int:
        """The most clips within `room` MiB, of a training step or of an evaluation pass; 0 if not even one fits."""

    def work(self, settings: Settings, phase: Phase) -> StepWork:
        """Of one training step, or of one batch of an evaluation pass."""


def pulled(asked: Settings, settings: Settings) -> list[tuple[Lever, str]]:
    """The levers between `asked` and `settings`, in their order, with the value each one got."""
    found = []
    for lever in LEVERS:
        key, fixed_value = lever.setting
        value = getattr(settings, key)
        if value != getattr(asked, key) and fixed_value in (None, value):
            found.append((lever, str(value)))
    return found


def flags(asked: Settings, settings: Settings) -> str:
    """The same as flags of a command."""
    return " ".join(f"--{lever.setting[0].replace('_', '-')} {value}" for lever, value in pulled(asked, settings))


@dataclass(frozen=True)
class Choice:
    """Settings, their peaks and those of the settings asked for; MiB.

    fits   whether both peaks are within the room; if not, `settings` are those that come nearest
    """

    asked: Settings
    settings: Settings
    train_before: float
    eval_before: float
    train: float
    eval: float
    fits: bool
    batch_norm: bool = True

    @property
    def levers(self) -> list[tuple[Lever, str]]:
        """The levers that were pulled, in their order, with the value each one got."""
        return pulled(self.asked, self.settings)

    @property
    def flags(self) -> str:
        """The levers as flags."""
        return flags(self.asked, self.settings)

    @property
    def sentences(self) -> list[str]:
        """What each lever means."""
        return [self._says(lever).format(value=value) for lever, value in self.levers]

    def as_list(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {"setting": lever.setting[0], "value": value, "changes_numbers": lever.changes, "says": sentence}
            for (lever, value), sentence in zip(self.levers, self.sentences, strict=True)
        ]

    def _says(self, lever: Lever) -> str:
        pieces = lever.setting[0] == "forward_batch_size"
        return WITHOUT_BATCH_NORM if pieces and not self.batch_norm else lever.says


def choose(costs: Costs, asked: Settings, room: float, *, fixed: AbstractSet[str] = frozenset(), train: bool = True) -> Choice:
    """The cheapest settings whose peaks are within `room` MiB, training and evaluation each for themselves.

    fixed   names of settings that stay as asked, whatever they cost
    train   False for a run that only evaluates
    """
    train_before, eval_before = costs.train(asked) if train else 0.0, costs.evaluation(asked)
    settings, train_after = asked, train_before
    if train and train_before > room:
        settings, train_after = _trained(costs, asked, room, fixed)
    eval_after = eval_before if settings.precision == asked.precision else costs.evaluation(settings)
    if eval_after > room and "test_batch_size" not in fixed:
        settings, eval_after = _evaluated(costs, settings, room)
    return Choice(
        asked, settings, train_before, eval_before, train_after, eval_after,
        train_after <= room and eval_after <= room, costs.batch_norm,
    )  # fmt: skip


def _trained(costs: Costs, asked: Settings, room: float, fixed: AbstractSet[str]) -> tuple[Settings, float]:
    """The first settings within `room` and their peak, or the ones with the lowest peak of all tried."""
    levels = LEVELS[LEVELS.index(asked.recompute) :] if "recompute" not in fixed else (asked.recompute,)
    lowest: tuple[Settings, float] | None = None
    for settings in _ways(asked, levels, fixed, batch_norm=costs.batch_norm):
        try:
            peak = costs.train(settings)
        except TooFewValues:  # of this piece; a larger one may do
            continue
        if peak <= room:
            at_levels = (replace(settings, recompute=level) for level in levels)  # a piece was tried at the last level alone
            return next((one, peak) for one in at_levels if (peak := costs.train(one)) <= room)
        if lowest is None or peak < lowest[1]:
            lowest = settings, peak
    return lowest or (asked, costs.train(asked))


def _ways(asked: Settings, levels: tuple[Level, ...], fixed: AbstractSet[str], *, batch_norm: bool) -> Iterator[Settings]:
    """Settings to try for training, in order."""
    rounded = asked.precision == "fp32" and "precision" not in fixed
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if rounded else (asked.precision,)

    def whole(precision: Precision) -> Iterator[Settings]:
        yield from (replace(asked, recompute=level, precision=precision) for level in levels)

    def pieces(precision: Precision) -> Iterator[Settings]:
        """The larger ones first, all of one size, at the level that keeps least."""
        for piece in _divisors(asked.batch_size) if "forward_batch_size" not in fixed else ():
            if piece < asked.piece:
                yield replace(asked, recompute=levels[-1], precision=precision, forward_batch_size=piece)

    kinds = (whole, pieces)
    if batch_norm:
        order = [kind(precision) for kind in kinds for precision in precisions]
    else:
        order = [kind(precision) for precision in precisions for kind in kinds]
    yield from itertools.chain.from_iterable(order)


@dataclass(frozen=True)
class Option:
    """Settings that could be taken, and their peaks in MiB of tensors; `asked` are the settings they are compared with."""

    asked: Settings
    settings: Settings
    train: float
    eval: float

    @property
    def flags(self) -> str:
        """What differs, as flags; "" for the settings asked for."""
        return flags(self.asked, self.settings)

    @property
    def changes(self) -> bool:
        """Whether numbers of the run change."""
        return any(lever.changes for lever, _ in pulled(self.asked, self.settings))


def options(costs: Costs, asked: Settings, room: float) -> list[Option]:
    """The ladder from the settings asked for down, the cheapest first: each level and precision for the whole batch, the largest
    pieces that are within `room` MiB (or those that need least), and the same evaluation in smaller batches where that matters.
    """
    levels = LEVELS[LEVELS.index(asked.recompute) :]
    ways = [
        replace(asked, recompute=level, precision=precision)
        for precision in dict.fromkeys((asked.precision, "bf16" if asked.precision == "fp32" else asked.precision))
        for level in levels
    ]
    found = [Option(asked, way, costs.train(way), costs.evaluation(way)) for way in ways]
    cut, peak = _trained(costs, replace(asked, recompute=levels[-1]), room, frozenset({"precision", "recompute"}))
    if cut.piece == asked.piece and asked.batch_size % 2 == 0:  # the whole batch fits: half of it, to show what it brings
        cut = replace(cut, forward_batch_size=asked.piece // 2) if asked.piece > 1 else cut
        try:
            peak = costs.train(cut)
        except TooFewValues:
            cut = asked
    if cut.piece < asked.piece:
        found.append(Option(asked, cut, peak, costs.evaluation(cut)))
    return [*found, *_evaluated_apart(costs, asked, found[0], room)]


def _evaluated_apart(costs: Costs, asked: Settings, first: Option, room: float) -> list[Option]:
    if first.eval <= min(first.train, room) or asked.test_batch_size == 1:
        return []
    settings, peak = _evaluated(costs, asked, room)
    return [Option(asked, settings, first.train, peak)]


def _divisors(number: int) -> list[int]:
    """From the largest down."""
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)}, reverse=True)


def _evaluated(costs: Costs, settings: Settings, room: float) -> tuple[Settings, float]:
    """Evaluation by the largest power of two of clips within `room`, or one clip at a time."""
    size = settings.test_batch_size
    while size > 1:
        size = 1 << ((size - 1).bit_length() - 1)  # the next power of two below
        smaller = replace(settings, test_batch_size=size)
        peak = costs.evaluation(smaller)
        if peak <= room or size == 1:
            return smaller, peak
    return settings, costs.evaluation(settings)
